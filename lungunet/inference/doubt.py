"""How doubtful one mask is, judged by its own slice: against a rule, or a model that never saw it.

Serves masks that were drawn and masks that were predicted. Owns the measures of disagreement and
what each weighs. Knows no files and no other pair.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from threading import Lock
from typing import Literal

import cv2
import numpy as np

from lungunet.data.hu import guess_hu, tells_hu
from lungunet.inference.body import (
    LUNG_HU,
    close_cut_lungs,
    dark_level,
    find_airy,
    find_body,
    look_into_body,
    may_be_cut,
    open_air_level,
)
from lungunet.inference.predictor import Predictor
from lungunet.inference.shapes import as_bits

DoubtKind = Literal[
    "unreadable", "inverted", "outside", "one-lung", "missing", "extra", "shifted", "mirrored",
    "ragged", "edge", "border", "none", "not judged",
]  # fmt: skip
"""What is most wrong with a label; none where nothing stands out."""

_LOADING = Lock()

_SIDE = 256  # px of the longer side: a lung's outline to 1.5 mm is enough to doubt a mask
_THIN = 2 / 256  # of the side: disagreement no wider than twice this lies along an edge
_COMPACT = 4 / 256  # airy parts wider than twice this are no bronchi
# As near to open air as this share of the way to lung, or this much; this wide without a vessel. Of
# right masks of 179 real slices, many ill, three held any, none more than 5 %.
_BARE_SHARE, _BARE_HU, _BARE = 0.25, 20.0, 5 / 256
_SMALLEST = 0.05  # of the slice: shares are taken of no less, or the tips of lungs would rank first
_HALF_DOUBT = 0.05  # disagreement, as a share of the lung, that makes a score of 0.5
_WORTH_A_WORD = 0.0002
_SHIFT_GRID = 64
_LESS_THAN = 0.9  # a mask that agrees this well is neither shifted nor mirrored
_BETTER = 0.08  # gain of IoU that makes a shift or a mirror the explanation

# (share of the lung that good masks reach too, what a share beyond it weighs). The allowances are
# about the 95th percentile of 200 real slices and 250 phantoms. The rule is sure about air outside
# the body and about lung that looks like lung; it cannot see consolidated lung, and fills vessels
# at the hilum by habit.
_WEIGHTS = {
    "outside": (0.0, 1.0),
    "missing": (0.0, 1.5),  # compact, and no darker than the lung
    "missing-thin": (0.01, 0.5),
    "missing-gas": (0.01, 0.2),
    "missing-dense": (0.015, 0.15),
    "extra": (0.003, 0.5),
    "extra-dense": (0.015, 0.4),
    "ragged": (0.001, 8.0),  # cracks and pinholes are small; what leaks around them is not
    "edge": (0.06, 0.6),
    "border": (0.02, 0.3),
}
# A model has learnt what the annotators mean, dense lung included; small as it is, it sees neither
# thin parts nor the bronchi.
_MODEL_WEIGHTS = {
    "outside": (0.0, 1.0),
    "missing": (0.0, 1.5),
    "missing-thin": (0.01, 0.2),
    "missing-gas": (0.01, 0.2),
    "missing-dense": (0.015, 0.3),
    "extra": (0.003, 1.0),
    "extra-dense": (0.015, 0.8),
    "edge": (0.08, 0.6),
}


@dataclass(frozen=True)
class Doubt:
    """How much speaks against a label.

    Parameters
    ----------
    score : in [0, 1]; 0.5 stands for 5 % of the lung in dispute
    kind : the gravest reason
    reasons : in words, gravest first
    """

    score: float
    kind: DoubtKind
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Reason:
    name: str
    weight: float
    kind: DoubtKind
    text: str


def load_opinion(word: str) -> Predictor:
    """Return the threshold rule or the built-in model, read once, whatever threads ask."""
    with _LOADING:
        return _load_opinion(word)


@cache
def _load_opinion(word: str) -> Predictor:
    # Of one slice at a time a GPU gains nothing, and an opinion need not be the finest.
    return Predictor.load(word, device="cpu", tta=False)


class LabelView:
    """A slice and the lung drawn on it, small enough to be judged in a blink.

    Where ``has_hu`` is False, eight bits tell no window: black is air or lung, and nobody is to be
    asked.

    Parameters
    ----------
    image : (H, W) of a slice dtype
    lung : (H, W) bool, what the label calls lung
    opinions : word of a model -> (h, w) bool, its lung where the slices around it had a say; who is
        not among them is asked about this slice alone
    by : word of who drew the lung, who is not asked again
    """

    def __init__(
        self,
        image: np.ndarray,
        lung: np.ndarray,
        *,
        opinions: Mapping[str, np.ndarray] | None = None,
        by: str = "",
    ) -> None:
        hu = guess_hu(image).astype(np.float32, copy=False)
        self.has_hu = tells_hu(image)
        self.scale = max(1.0, max(image.shape) / _SIDE)
        self.hu = self._fit(hu)
        self.lung = self.shrink(lung)
        self._opinions = {by: self.lung} | dict(opinions or {})

    def shrink(self, mask: np.ndarray) -> np.ndarray:
        """Bring a (H, W) bool mask of the slice to the size of the view."""
        return np.asarray(self._fit(mask.astype(np.uint8) * np.uint8(255)) > 127)

    def _fit(self, plane: np.ndarray) -> np.ndarray:
        height, width = (max(1, round(n / self.scale)) for n in plane.shape)
        return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA))

    def opinion(self, word: str) -> np.ndarray:
        """Return what the threshold rule or the built-in model calls lung, (h, w) bool."""
        if word not in self._opinions:
            self._opinions[word] = load_opinion(word)(self.hu) > 0
        return self._opinions[word]

    @property
    def baseline(self) -> np.ndarray:
        """(h, w) bool: what the threshold rule calls lung."""
        return self.opinion("threshold")

    @cached_property
    def smooth(self) -> np.ndarray:
        """(h, w) float32, HU without grain."""
        return np.asarray(cv2.GaussianBlur(self.hu, (0, 0), 1))

    @cached_property
    def lung_hu(self) -> float:
        """The usual HU of this patient's lung."""
        for lung in (self.lung & self.baseline, self.baseline) if self.has_hu else ():
            if np.count_nonzero(lung) > 50:
                return float(np.median(self.smooth[lung]))
        return LUNG_HU

    @cached_property
    def gas_hu(self) -> float:
        """Below this a part is an airway or gas."""
        return dark_level(self.smooth, self.outside, lung_hu=self.lung_hu)

    @cached_property
    def airy(self) -> np.ndarray:
        """(h, w) bool: nearer to lung or air than to tissue."""
        return find_airy(self.smooth, lung_hu=self.lung_hu)

    @cached_property
    def outside(self) -> np.ndarray:
        """(h, w) bool: what is connected to the margin around the body; tables count as outside."""
        if self.airy.all():  # without tissue there is no body
            return np.zeros_like(self.airy)
        body = find_body(as_bits(self.airy))
        if may_be_cut(body):
            body |= close_cut_lungs(look_into_body(self.hu, None)).body
        around = 1 - body
        return cv2.erode(around, _disk(1), borderValue=1) > 0

    @cached_property
    def bare_air(self) -> np.ndarray:
        """(h, w) bool: wide and as dark and even as open air: gas, but for bullae no lung."""
        air_hu = open_air_level(self.smooth, self.outside)
        if air_hu is None or not self.has_hu:
            return np.zeros_like(self.airy)
        lung = self.smooth[self.lung]
        above = (float(np.median(lung)) if lung.size > 50 else LUNG_HU) - air_hu
        dark = self.smooth < air_hu + max(_BARE_SHARE * above, _BARE_HU)
        return _thick(dark & ~self.outside, _BARE)

    @cached_property
    def left_out(self) -> np.ndarray:
        """(h, w) bool: compact air within the body, of lung or bowel, that is not labelled."""
        inside = self.airy & ~self.outside & ~self.airy.all()  # without tissue there is no body
        return _thick(inside & ~self.lung & ~self.bare_air, _COMPACT)


def doubt_label(view: LabelView, *, pred: np.ndarray | None = None, by_rule: bool = True) -> Doubt:
    """Judge the lung of a view against the rule and, where given, a model's prediction.

    Parameters
    ----------
    pred : (H, W) bool, lung as a model sees it that never saw this label; at the slice's size
    by_rule : ask the rule; of a view without HU it never is

    Returns
    -------
    Doubt
        Score 0 where nothing is in dispute. A label without lung where the rule sees none is not.
    """
    said_by = {"the rule": view.baseline} if by_rule and view.has_hu else {}
    if pred is not None:
        said_by["the model"] = view.shrink(pred)
    reasons = [reason for by, lung in said_by.items() for reason in _compared(view, lung, by=by)]
    reasons += _of_itself(view, rule=said_by.get("the rule"))
    weight = sum(reason.weight for reason in reasons)
    displaced = _displaced(view, [*said_by.values()][-1]) if said_by else None
    said = sorted((r for r in reasons if r.weight > _WORTH_A_WORD), key=lambda r: -r.weight)
    said = [displaced, *said] if displaced else said
    return Doubt(
        score=1 - 0.5 ** (weight / _HALF_DOUBT),
        kind=said[0].kind if said else "none",
        reasons=tuple(dict.fromkeys(reason.text for reason in said)),
    )


def _compared(view: LabelView, other: np.ndarray, *, by: str) -> list[_Reason]:
    """Sort what the label and another opinion make of the lung by what it looks like."""
    extra, missing = view.lung & ~other, other & ~view.lung
    inside = extra & ~view.outside
    airy = _thick(missing & view.airy)
    compact = _thick(missing & view.airy, _COMPACT)
    gas = _darker_parts(compact, view.smooth, view.gas_hu)
    regions = {
        "outside": _thick(extra & view.outside),
        "missing": compact & ~gas,
        "missing-thin": airy & ~compact,
        "missing-gas": gas,
        "missing-dense": _thick(missing & ~view.airy),
        "extra": _thick(inside & view.airy),
        "extra-dense": _thick(inside & ~view.airy),
    }
    weights = _WEIGHTS if by == "the rule" else _MODEL_WEIGHTS
    whole = _whole(view.lung, other)
    narrow = (extra | missing) & ~np.logical_or.reduce(list(regions.values()))
    # Pixels that an edge runs through fill more of a small slice.
    regions["edge"] = narrow * (max(narrow.shape) / _SIDE)
    reasons = [
        _reason(name, float(region.sum()) / whole, *weights[name], by=by)
        for name, region in regions.items()
    ]
    lost = _lost_side(view, other)
    if not lost:
        return reasons
    text = f"no lung on the {lost} of the picture, where {by} sees one"
    return [
        replace(reason, kind="one-lung", text=text) if reason.name == "missing" else reason
        for reason in reasons
    ]


def _darker_parts(region: np.ndarray, hu: np.ndarray, limit_hu: float) -> np.ndarray:
    count, parts = cv2.connectedComponents(as_bits(region), None, 4)
    dark = [n for n in range(1, count) if np.median(hu[parts == n]) < limit_hu]
    return np.isin(parts, dark)


def _lost_side(view: LabelView, other: np.ndarray) -> str:
    """Say which lung is missing where another opinion has two and the label one; else ''."""
    columns = np.flatnonzero(other.any(axis=0))
    if not columns.size:
        return ""
    middle = (int(columns[0]) + int(columns[-1])) // 2
    halves = {"left": slice(None, middle), "right": slice(middle, None)}
    size = {side: int(other[:, part].sum()) for side, part in halves.items()}
    kept = {
        side: float((view.lung & other)[:, part].sum()) / max(size[side], 1)
        for side, part in halves.items()
    }
    for side, opposite in (("left", "right"), ("right", "left")):
        large = size[side] > 0.15 * sum(size.values())
        if large and kept[side] < 0.3 and kept[opposite] > 0.6:
            return side
    return ""


def _of_itself(view: LabelView, *, rule: np.ndarray | None) -> list[_Reason]:
    margin = (view.lung[0], view.lung[-1], view.lung[1:-1, 0], view.lung[1:-1, -1])
    border = _reason("border", float(np.concatenate(margin).mean()), *_WEIGHTS["border"])
    if rule is None:
        return [border]
    # The rule's own raggedness is the patient's: diseased lungs have no smooth edge.
    cracks = float(_cracks(view.lung).sum()) - float(_cracks(rule).sum())
    cracks *= max(view.lung.shape) / _SIDE  # a pixel wide, so they fill more of a small slice
    return [_reason("ragged", cracks / _whole(view.lung, rule), *_WEIGHTS["ragged"]), border]


def _displaced(view: LabelView, other: np.ndarray) -> _Reason | None:
    """Tell whether moving or mirroring the label would explain the disagreement."""
    size = (_SHIFT_GRID, _SHIFT_GRID)
    lung, truth = (
        cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        for mask in (view.lung, other)
    )
    total = float(lung.sum() + truth.sum())
    now = _iou(float((lung * truth).sum()), total)
    if not lung.any() or not truth.any() or now > _LESS_THAN:
        return None
    for turned, text in (
        (lung[::-1], "upside down"), (lung[:, ::-1], "left to right"),
        (lung[::-1, ::-1], "by half a turn"),
    ):  # fmt: skip
        if _iou(float((turned * truth).sum()), total) > now + 2 * _BETTER:
            return _Reason("mirrored", 1.0, "mirrored", f"fits better when mirrored: {text}")
    overlap, down, right = _best_shift(lung, truth)
    if _iou(overlap, total) < now + _BETTER:
        return None
    down_px, right_px = (
        round(cells / _SHIFT_GRID * extent * view.scale)
        for cells, extent in zip((down, right), view.lung.shape, strict=True)
    )
    text = f"fits better {right_px:+d} px across and {down_px:+d} px down"
    return _Reason("shifted", 1.0, "shifted", text)


def _best_shift(lung: np.ndarray, truth: np.ndarray) -> tuple[float, int, int]:
    """Return the largest overlap of any shift of ``lung``, and that shift: down, right."""
    # All shifts at once; they wrap around, which lungs inside a body do not notice.
    overlaps = np.fft.irfft2(np.conj(np.fft.rfft2(lung)) * np.fft.rfft2(truth), s=lung.shape)
    place = np.unravel_index(int(np.argmax(overlaps)), overlaps.shape)
    half = _SHIFT_GRID // 2
    down, right = ((int(n) + half) % _SHIFT_GRID - half for n in place)
    return float(overlaps.max()), down, right


def _iou(overlap: float, total: float) -> float:
    return overlap / max(total - overlap, 1e-9)


_WORDS: dict[str, tuple[DoubtKind, str]] = {
    "outside": ("outside", "{} of the lung lies outside the body"),
    "missing": ("missing", "{} of the lung is missing where it looks like lung, says {}"),
    "missing-thin": ("missing", "{} of the lung is missing in thin parts, says {}"),
    "missing-gas": ("missing", "{} of the lung is missing, dark as an airway or a bulla, says {}"),
    "missing-dense": ("missing", "{} of the lung is missing, dense as vessels or disease, says {}"),
    "extra": ("extra", "{} of the lung is extra, and air, says {}"),
    "extra-dense": ("extra", "{} of the lung is extra, as dense as tissue, says {}"),
    "ragged": ("ragged", "ragged: {} of the lung is cracks and pinholes"),
    "edge": ("edge", "edges off by {} of the lung, says {}"),
    "border": ("border", "touches {} of the slice's margin"),
}


def _reason(name: str, share: float, allowed: float, weight: float, *, by: str = "") -> _Reason:
    kind, text = _WORDS[name]
    words = text.format(f"{min(share, 1):.1%}", by)  # where masks meet nowhere, both count
    return _Reason(name, weight * max(0.0, share - allowed), kind, words)


def _whole(first: np.ndarray, second: np.ndarray) -> float:
    return float(max(first.sum(), second.sum(), _SMALLEST * first.size))


def _thick(region: np.ndarray, width: float = _THIN) -> np.ndarray:
    radius = max(1, round(width * max(region.shape)))
    return cv2.morphologyEx(as_bits(region), cv2.MORPH_OPEN, _disk(radius)) > 0


def _cracks(mask: np.ndarray) -> np.ndarray:
    """Mark the narrow notches and pinholes of a mask."""
    return cv2.morphologyEx(as_bits(mask), cv2.MORPH_CLOSE, _disk(1)) > as_bits(mask)


def _disk(radius: int) -> np.ndarray:
    side = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
