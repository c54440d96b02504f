"""Can these values be Hounsfield units of a chest? Every rule about that, and what it counts with.

One slice is judged by :func:`judge_hu`, a set of them (the slices of a scan, too) by
:class:`HuSurvey`, once. Knows no files and no masks.
"""

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from lungunet.data.grey import tell_window
from lungunet.data.kinds import native_order
from lungunet.data.window import Window
from lungunet.errors import DataError, LungUNetWarning, listed

_WRAPPED = 60000  # HU from -5536 to -1, read as unsigned
_DARKER_THAN_TISSUE_HU = -64
_LUNG_HU = (-1100, -300)
_OFFSET = 1024  # what scanners add to store HU unsigned
_WATER_STORED = (_OFFSET - 200, _OFFSET + 200)
_STORED_TISSUE_FROM = 300  # stored with the offset, lung and air are darker
_CLIPPED = 0.01  # of the pixels; of tissue that no window cut, few have the lowest value of all
# Air that is off the scale is darker. A corner of tissue is of many values.
_DENSE_PADDING_HU, _PADDING_HU, _LEAST_PADDING = -400, -2000, 0.003
_BLACK_ALONE = Window(level=11900, width=25500)  # black is -850 HU, and each step of grey 100 more
_SAMPLED = 4  # every 4th pixel of every 4th row tells the range of a slice
_PLANES = 32  # so many slices tell what a scan or a list holds
_LOBES = 5  # the highest label of lungs, sides and lobes

NO_WINDOW = (
    "8-bit grey of a window that cannot be told, so neither the threshold nor the built-in model "
    "can see lung in it. Export it in HU, or at -600,1500."
)
"""What to say where :func:`tells_hu` is False."""

Severity = Literal["error", "warning", "note"]
HuKind = Literal["hu-8bit", "hu-offset", "hu-wrap", "hu-scaled", "hu-range"]


@dataclass(frozen=True)
class HuFault:
    """Why values cannot be HU of a chest.

    Parameters
    ----------
    severity : error: they cannot be; warning: doubtful; note: good to know
    text : what is wrong, with the value, and how to fix it
    """

    severity: Severity
    kind: HuKind
    text: str

    @property
    def for_training(self) -> str:
        """The text, with the other way out that training has: a window of the stored values."""
        other = " Or train with window='424,1500'."
        return self.text + (other if self.kind == "hu-offset" else "")


def can_hold_hu(dtype: np.dtype[np.generic]) -> bool:
    """Whether values of a dtype can be HU: those that go below 0, in more than 8 bits."""
    return dtype.kind in "if" and dtype.itemsize > 1


def judge_hu(image: np.ndarray) -> HuFault | None:
    """Judge whether a slice, (H, W), can hold HU of a chest; None where nothing speaks against it.

    Examples
    --------
    >>> judge_hu(np.full((8, 8), -1000, np.int16)).text
    'values -1000 to -1000, nothing as dense as tissue. Export it in HU.'
    """
    if image.dtype == np.uint8:
        text = "8-bit grey, so HU are lost. Fine where all slices were exported alike."
        return HuFault("note", "hu-8bit", text)
    seen = native_order(_sampled(image))
    wrapped = (seen > _WRAPPED) & (seen < 2**16) if seen.dtype != np.int16 else np.False_
    if (share := float(wrapped.mean())) > 0.001:
        return HuFault(
            "error",
            "hu-wrap",
            f"{share:.0%} of the values lie near {int(seen[wrapped].max())}: negative HU read as "
            "unsigned. Save it anew as int16 (image.astype('int16')).",
        )
    lowest, highest = float(seen.min()), float(seen.max())
    span = f"values {lowest:g} to {highest:g}"
    if _has_offset(seen):
        # uint16 is refused until a window is named; signed values would be taken for HU.
        return HuFault(
            "warning" if seen.dtype == np.uint16 else "error",
            "hu-offset",
            f"smallest value {lowest:g}, tissue near {_OFFSET}: stored without the rescale "
            f"intercept. Subtract {_OFFSET}.",
        )
    if _is_scaled(seen, lowest, highest):
        text = f"{span}: scaled or standardised values, no HU. Use what they were made from."
        return HuFault("error", "hu-scaled", text)
    if lowest < _DARKER_THAN_TISSUE_HU:
        if lowest > _LUNG_HU[1] and float((seen == lowest).mean()) > _CLIPPED:
            text = f"{span}, the lowest again and again: cut off by a window in which lung and air "
            return HuFault("warning", "hu-range", text + "are one. Export it in HU.")
        if float((seen > -200).mean()) > 0.005:
            return None
        text = f"{span}, nothing as dense as tissue. Export it in HU."
        return HuFault("warning", "hu-range", text)
    return HuFault(
        "warning", "hu-range", f"{span}, nothing as dark as air or lung. Export it in HU."
    )


def find_labels(image: np.ndarray) -> tuple[int, ...]:
    """Return the labels of what is surely a mask, (..., H, W); nothing where it may be CT.

    Examples
    --------
    >>> find_labels(np.array([[0, 255], [255, 0]])), find_labels(np.array([[0, -1000], [40, 0]]))
    ((0, 255), ())
    """
    for part in (image[..., ::8, ::8], image):  # the first is enough to tell nearly every slice
        if part.min(initial=0) < 0 or not ((part == 255) | (part <= _LOBES)).all():
            return ()
    values = np.unique(image)
    labels = tuple(int(value) for value in values)
    whole = len(labels) > 1 and max(labels) <= _LOBES and bool((values == labels).all())
    return labels if whole or labels == (0, 255) else ()


def _sampled(image: np.ndarray) -> np.ndarray:
    step = _SAMPLED if min(image.shape) >= _SAMPLED * _SAMPLED else 1
    return image[::step, ::step]


def _has_offset(seen: np.ndarray) -> bool:
    """Whether tissue lies where an offset puts it, and little where lung and air lie in HU.

    What is of one value there is padding, or air that is cut off.
    """
    low, high = _WATER_STORED
    stored = int(np.count_nonzero((seen >= low) & (seen <= high)))
    # Of bone, which is as dense, more is less dense or denser.
    if stored <= max(0.05 * seen.size, np.count_nonzero(seen > _STORED_TISSUE_FROM) / 2):
        return False
    darkest, lightest = _LUNG_HU
    dark = seen[(seen > darkest) & (seen < lightest)]
    of_one_value = np.unique(dark, return_counts=True)[1].max(initial=0)
    return int(dark.size - of_one_value) < 0.02 * seen.size


def _is_scaled(seen: np.ndarray, lowest: float, highest: float) -> bool:
    """Whether fractions fill a range narrower than the one of any tissue."""
    narrow = lowest < highest and max(-lowest, highest) <= -_DARKER_THAN_TISSUE_HU
    return narrow and seen.dtype.kind == "f" and bool((seen != np.rint(seen)).any())


class HuSurvey:
    """Judges many slices as one set: :meth:`look` at each, then ask for the :attr:`fault`."""

    def __init__(self) -> None:
        self._looked = 0
        self._faults: Counter[tuple[str, str]] = Counter()  # severity and kind
        self._first: dict[tuple[str, str], HuFault] = {}
        self._names: dict[tuple[str, str], list[str]] = {}

    def look(self, image: np.ndarray, name: str = "") -> HuFault | None:
        """Judge one slice, (H, W), and keep that for the set."""
        fault = judge_hu(image)
        self._looked += 1
        if fault is not None and fault.severity != "note":
            key = (fault.severity, fault.kind)
            self._faults[key] += 1
            self._first.setdefault(key, fault)
            self._names.setdefault(key, []).append(name)
        return fault

    def add(self, other: "HuSurvey") -> None:
        """Count what another one has looked at, after what this one has."""
        self._looked += other._looked
        self._faults += other._faults
        for key, fault in other._first.items():
            self._first.setdefault(key, fault)
            self._names.setdefault(key, []).extend(other._names[key])

    @property
    def fault(self) -> HuFault | None:
        """What is wrong with the set; None where nothing is, or little.

        An error where half of it cannot be HU. A warning where some of it cannot be, or none of it
        holds what a chest does: single slices of neck and belly do not.
        """
        errors = {key: count for key, count in self._faults.items() if key[0] == "error"}
        worst = max(errors or self._faults, key=self._faults.__getitem__, default=None)
        if worst is None or (not errors and self._faults.total() < self._looked):
            return None
        fault, count = self._first[worst], self._faults[worst]
        severity: Severity = (
            "error" if errors and 2 * sum(errors.values()) >= self._looked else "warning"
        )
        if count == self._looked:
            return replace(fault, severity=severity)
        kinds = sorted(errors or [worst], key=lambda key: -self._faults[key])
        return replace(fault, severity=severity, text=" ".join(map(self._tell, kinds)))

    def _tell(self, key: tuple[str, str]) -> str:
        names = [name for name in self._names[key] if name]
        shown = f" ({listed(names, separator=', ')})" if names else ""
        return f"{self._faults[key]} of {self._looked} slices{shown}: {self._first[key].text}"


def clear_padding(image: np.ndarray) -> np.ndarray:
    """Make what lies around a scanner's circle, or a turned volume, as dark as padding mostly is.

    Some fill it with 0, which is water. It is what is connected with a corner and of one value.

    Parameters
    ----------
    image : (H, W), HU; unsigned ones hold none

    Returns
    -------
    (H, W)
        The same array where no padding is as dense as that.
    """
    if not can_hold_hu(image.dtype):
        return image
    bottom, right = image.shape[0] - 1, image.shape[1] - 1
    mark = np.zeros((bottom + 3, right + 3), np.uint8)
    for x, y in ((0, 0), (right, 0), (0, bottom), (right, bottom)):
        if image[y, x] > _DENSE_PADDING_HU and not mark[y + 1, x + 1]:
            grey = image.astype(np.float32)  # the type that OpenCV floods
            _, _, mark, _ = cv2.floodFill(grey, mark, (x, y), 0.0, 0, 0, cv2.FLOODFILL_MASK_ONLY)
    padding = mark[1:-1, 1:-1] > 0
    if np.count_nonzero(padding) < _LEAST_PADDING * image.size:
        return image
    return np.where(padding, image.dtype.type(_PADDING_HU), image)


def refuse_no_numbers(hu: np.ndarray, where: object) -> None:
    """Refuse NaN and infinity in a slice or a volume: air to one step, tissue to the next.

    Raises
    ------
    DataError
        Where there is any.
    """
    planes = hu if hu.ndim == 3 else [hu]  # one by one, a volume takes no memory
    if hu.dtype.kind == "f" and not all(np.isfinite(plane).all() for plane in planes):
        raise DataError("holds NaN or infinite values. Replace them by HU of air.", where=where)


def restore_hu(image: np.ndarray) -> np.ndarray:
    """Undo the two usual ways of storing HU wrongly: an unsigned wrap, an offset of 1024.

    Takes and returns (H, W), HU as far as the values tell; eight-bit pictures come back as they
    are.
    """
    if image.dtype == np.uint8:
        return image
    image = native_order(image)
    if image.dtype == np.uint16 and image.max(initial=0) > _WRAPPED:
        return image.view(np.int16)
    if image.min(initial=0) >= _DARKER_THAN_TISSUE_HU or _has_offset(_sampled(image)):
        return image.astype(np.int32) - _OFFSET
    return image


def guess_hu(image: np.ndarray) -> np.ndarray:
    """Return (H, W) HU as far as the values tell; of eight bits by the window they tell.

    Padding is dark, see :func:`clear_padding`. Where :func:`tell_window` finds none, black is lung
    or air, and all else is tissue.
    """
    if image.dtype == np.uint8:
        return (tell_window(image) or _BLACK_ALONE).to_hu(image)
    return clear_padding(restore_hu(image))


def tells_hu(image: np.ndarray) -> bool:
    """Whether :func:`guess_hu` knows more of a slice than what is black."""
    return image.dtype != np.uint8 or tell_window(image) is not None


def refuse_labels(image: np.ndarray, where: object, kind: Literal["slice", "scan"]) -> None:
    """Refuse a mask in the place of a slice or a scan.

    Raises
    ------
    DataError
        Names the labels.
    """
    if labels := find_labels(image):
        shown = listed([str(label) for label in labels], separator=", ")
        raise DataError(
            f"holds {shown} and nothing else: a mask, no CT {kind}. Give the {kind}s in its place; "
            "maybe the two are swapped.",
            where=where,
        )


def require_hu(hu: np.ndarray, where: object) -> None:
    """Refuse a scan, (D, H, W), that cannot hold HU, and warn of one that hardly can.

    Raises
    ------
    DataError
        Without a value below 0 (stored with an offset, or a mask), with an offset and padding, or
        scaled.
    """
    refuse_labels(hu, where, "scan")
    lowest, highest = hu.min(), hu.max()
    if lowest >= 0:
        raise DataError(
            f"values from {lowest:g} to {highest:g} are no HU, air is near -1000. "
            "Export the scan with its rescale intercept; a mask is no scan.",
            where=where,
        )
    survey = HuSurvey()
    for index in np.linspace(0, len(hu) - 1, min(len(hu), _PLANES)).astype(int):
        survey.look(hu[index])
    fault = survey.fault
    if fault is None:
        return
    if fault.severity == "error":
        raise DataError(fault.text, where=where)
    warnings.warn(f"{where}: {fault.text}", LungUNetWarning, stacklevel=3)
