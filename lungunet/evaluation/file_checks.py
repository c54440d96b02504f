"""What is wrong with one file, seen from its bytes and its values alone.

Owns the verdicts (:class:`Finding`) and the checks of a single image or mask. Knows no other file
of the set, and not where lungs are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lungunet.data import tiff
from lungunet.data.codec import (
    IGNORE,
    LabelCodec,
    find_sides,
    is_lung,
    is_smeared,
    lie_swapped,
    suggest_codec,
    suggest_exchanged,
)
from lungunet.data.ct import SLICE_DTYPES, read_header, read_image, read_mask
from lungunet.data.hu import judge_hu
from lungunet.data.manifest import Pair
from lungunet.errors import DataError, LabelError, listed

Severity = Literal["error", "warning", "note"]
"""error: training or a score on it goes wrong; warning: have a look; note: good to know."""

Kind = Literal[
    "unreadable",  # missing, no image, or of channels that differ
    "truncated",  # the file ends before its pixels do
    "dtype",  # pixels of a type that is not read, or not that of the other slices
    "size",  # image and mask differ
    "mask-coding",  # raw values that the codec does not know: {0, 1} for {0, 255}
    "mask-smeared",  # many values near the known ones: JPEG, anti-aliasing
    "mask-inverted",
    "mask-sides",  # classes named left and right lie on the other side
    "mask-colour",
    "mask-palette",
    "mask-empty",
    "mask-full",
    "hu-8bit",  # grey values, HU are lost
    "hu-offset",  # HU + 1024, stored without the rescale
    "hu-wrap",  # negative HU stored as unsigned
    "hu-scaled",  # standardised, or scaled to -1 to 1
    "hu-range",  # values that no chest has
    "duplicate",  # the same pixels twice
    "near-duplicate",
    "twin",  # neighbours of one patient in two lists
    "mask-duplicate",  # one mask for two images
    "label-area",  # far more lung than the others have
    "rule-unheard",  # the threshold rule agrees with hardly any mask, or cannot be asked
]

_INTEGERS = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


@dataclass(frozen=True)
class Finding:
    """One verdict on one file of a pair.

    Parameters
    ----------
    pair : the pair it is about
    list : train, val or test
    message : what is wrong, with the value, and how to fix it
    other : the other pair where two are concerned
    """

    pair: Pair
    list: str
    severity: Severity
    kind: Kind
    message: str
    other: Pair | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.pair.name,
            "list": self.list,
            "severity": self.severity,
            "kind": self.kind,
            "message": self.message,
            "image": self.pair.image.as_posix(),
            "mask": None if self.pair.mask is None else self.pair.mask.as_posix(),
            "other": None if self.other is None else self.other.name,
        }


@dataclass(frozen=True)
class Verdict:
    """A finding before it is known whose it is."""

    severity: Severity
    kind: Kind
    message: str


def check_image(path: Path) -> tuple[np.ndarray | None, list[Verdict]]:
    """Read a slice, (H, W) or None where it cannot be read, and judge its values."""
    try:
        image = read_image(path)
    except DataError as err:
        return None, [Verdict("error", _why_unread(path, SLICE_DTYPES), str(err))]
    fault = judge_hu(image)
    if fault is None:
        return image, []
    return image, [Verdict(fault.severity, fault.kind, f"{path}: {fault.for_training}")]


def check_mask(path: Path, codec: LabelCodec) -> tuple[np.ndarray | None, list[Verdict]]:
    """Read a mask as classes, (H, W) uint8 or None where that cannot be, and judge its coding."""
    try:
        raw = read_mask(path)
    except LabelError as err:
        return None, [_colour_verdict(path, err)]
    except DataError as err:
        return None, [Verdict("error", _why_unread(path, _INTEGERS), str(err))]
    try:
        classes = codec.encode(raw, str(path))
    except LabelError:
        return None, [check_coding(raw, codec, str(path))]
    except DataError as err:
        return None, [Verdict("error", "mask-coding", str(err))]
    verdicts = _check_share(is_lung(classes)[classes != IGNORE], str(path))
    return classes, verdicts + _check_sides(classes, codec, str(path))


def check_coding(raw: np.ndarray, codec: LabelCodec, where: str) -> Verdict:
    """Say how a mask, (H, W), that ``codec`` refuses is coded, and which codec reads it."""
    values = [int(value) for value in np.unique(raw)]
    fix = f"Pass {suggest_codec(raw, codec)}"
    if is_smeared(raw, codec):
        return Verdict(
            "error",
            "mask-smeared",
            f"{where}: {len(values)} values from {values[0]} to {values[-1]}, smeared by JPEG or "
            f"smoothing. {fix}, or export it again without loss.",
        )
    shown = listed([str(value) for value in values], separator=", ")
    expected = listed([str(value) for value in codec.classes], separator=", ")
    return Verdict(
        "error",
        "mask-coding",
        f"{where}: values {shown}, expected {expected}. {fix}, or fix the file.",
    )


def _check_share(lung: np.ndarray, where: str) -> list[Verdict]:
    """Judge the pixels that count."""
    if not lung.any():
        text = f"{where}: no lung. Fine where the slice shows none."
        return [Verdict("note", "mask-empty", text)]
    if lung.all():
        text = f"{where}: every pixel is lung. Draw it again, or drop the pair."
        return [Verdict("error", "mask-full", text)]
    return []


def _check_sides(classes: np.ndarray, codec: LabelCodec, where: str) -> list[Verdict]:
    """Find out whether classes named left and right lie on the other side of the patient."""
    sides = find_sides(codec)
    if sides is None or not lie_swapped(classes, *sides):
        return []
    left, right = (codec.names[side] for side in sides)
    fix = suggest_exchanged(codec, one=sides[0], other=sides[1])
    text = (
        f"{where}: {left} lies on the patient's right and {right} on the left. Exchange them; if "
        f"all are so, split again with {fix}."
    )
    return [Verdict("warning", "mask-sides", text)]


def check_inverted(
    lung: np.ndarray, airy: np.ndarray, codec: LabelCodec, where: str
) -> list[Verdict]:
    """Find out whether a mask has lung and background swapped.

    Parameters
    ----------
    lung : (H, W) bool, what the mask calls lung
    airy : (H, W) bool, where the slice is as dark as lung or air
    """
    ring = np.concatenate([lung[0], lung[-1], lung[:, 0], lung[:, -1]])
    if lung.all() or float(ring.mean()) < 0.9 or float(airy[~lung].mean()) < 0.6:
        return []
    first, second, *_ = (raw for raw, index in codec.classes.items() if index != IGNORE)
    text = (
        f"{where}: lung is drawn as background, and background, up to the margin, as lung. "
        f"Invert it; if all are so, pass codec=LabelCodec.parse('{second},{first}')."
    )
    return [Verdict("error", "mask-inverted", text)]


def _colour_verdict(path: Path, err: LabelError) -> Verdict:
    with path.open("rb") as file:
        start = file.read(26)
    if start.startswith(b"\x89PNG") and start[25] == 3:
        return Verdict(
            "error",
            "mask-palette",
            f"{path}: a palette PNG, read as its colours. Save the indices as plain 8-bit grey, "
            "e.g. with Pillow: Image.fromarray(np.array(Image.open(file))).",
        )
    return Verdict("error", "mask-colour", str(err))


def _why_unread(path: Path, dtypes: tuple[str, ...]) -> Kind:
    try:
        if is_cut_off(path.read_bytes()):
            return "truncated"
        return "unreadable" if read_header(path).dtype in dtypes else "dtype"
    except (OSError, DataError):
        return "unreadable"


def is_cut_off(content: bytes) -> bool:
    """Tell whether an image file ends before its format says it does.

    A format other than PNG, JPEG, BMP and TIFF is never cut off.
    """
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in content[-16:]
    if content.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in content[-16:]
    if content.startswith(b"BM") and len(content) >= 6:
        return int.from_bytes(content[2:6], "little") > len(content)
    return content.startswith(tiff.MAGIC) and tiff.ends_early(content)
