"""What a review goes over: a slice, or a scan, with the mask that is mended.

Owns how a mask keeps its format and its raw values while pixels change. Knows no log and no page.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from lungunet.data.codec import IGNORE, LabelCodec
from lungunet.data.ct import encode_labels, read_image, read_mask
from lungunet.data.files import write_bytes
from lungunet.data.manifest import require_same_size
from lungunet.data.review_log import first_version
from lungunet.errors import DataError


@dataclass(frozen=True, eq=False)
class Plane:
    """One plane of a case.

    Parameters
    ----------
    image : (H, W), values of the file
    classes : (H, W) uint8
    version : what the mask is known by while it stays as it is; see :class:`Change`
    spacing_mm : (y, x), sides of a pixel; None where they are not known
    """

    image: np.ndarray
    classes: np.ndarray
    version: str
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class Change:
    """A mask that is about to be written.

    Parameters
    ----------
    before, after : SHA-256 of what is on disk, and of what will be
    pixels : how many change their class
    write : puts it on disk, whole or not at all
    """

    before: str
    after: str
    pixels: int
    write: Callable[[], None]


class Case(Protocol):
    """A slice or a scan under review."""

    @property
    def name(self) -> str:
        """What the list calls it."""
        ...

    @property
    def mask(self) -> Path:
        """The file that is mended."""
        ...

    @property
    def is_scan(self) -> bool:
        """Whether it has slices of its own."""
        ...

    @property
    def depth(self) -> int:
        """How many slices it has."""
        ...

    @property
    def start(self) -> int:
        """The slice to be looked at first."""
        ...

    def plane(self, z: int) -> Plane:
        """Read one slice of it, with its mask."""
        ...

    def preview(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image and classes, (H, W) both, for the picture in the list."""
        ...

    def version(self, z: int) -> str:
        """Return what :attr:`Plane.version` would be."""
        ...

    def first(self, z: int) -> np.ndarray:
        """Return the classes, (H, W) uint8, of the mask as it was before the review."""
        ...

    def change(self, z: int, classes: np.ndarray) -> Change:
        """Make ready to write other classes, (H, W) uint8, into one slice of the mask."""
        ...


@dataclass(frozen=True)
class SliceCase:
    """A slice and its mask, each a file.

    Parameters
    ----------
    image : the slice
    source : its mask before the review
    mask : the mask that is mended; ``source`` itself, or a copy
    codec : of the mask
    """

    name: str
    image: Path
    source: Path
    mask: Path
    codec: LabelCodec
    is_scan: bool = field(default=False, init=False)
    depth: int = field(default=1, init=False)
    start: int = field(default=0, init=False)

    def plane(self, z: int) -> Plane:
        """Read the slice and its mask."""
        content, _, classes = self._read()
        image = read_image(self.image)
        require_same_size(image.shape, classes.shape, self.name)
        return Plane(image, classes, digest(content))

    def preview(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the slice and its mask."""
        plane = self.plane(0)
        return plane.image, plane.classes

    def version(self, z: int) -> str:
        """Return the SHA-256 of the mask's file; nothing where it cannot be read."""
        try:
            return digest(self.mask.read_bytes())
        except OSError:
            return ""

    def first(self, z: int) -> np.ndarray:
        """Return the classes that the mask held before its first change."""
        kept = first_version(self.mask)
        path = kept if kept.exists() else self.mask
        return self.codec.encode(read_mask(path), str(path))

    def change(self, z: int, classes: np.ndarray) -> Change:
        """Make ready to write: raw values of pixels that keep their class stay as they are."""
        content, raw, before = self._read()
        require_same_size(before.shape, classes.shape, self.name)
        changed = before != classes
        new = recode(raw, classes, changed, self.codec, where=str(self.mask))
        encoded = encode_labels(self.mask, new) if changed.any() else content

        def write() -> None:
            kept = first_version(self.mask)
            if not kept.exists():
                write_bytes(kept, content)
            write_bytes(self.mask, encoded)

        return Change(digest(content), digest(encoded), int(changed.sum()), write)

    def _read(self) -> tuple[bytes, np.ndarray, np.ndarray]:
        raw = read_mask(self.mask)
        return self.mask.read_bytes(), raw, self.codec.encode(raw, str(self.mask))


def recode(
    raw: np.ndarray, classes: np.ndarray, changed: np.ndarray, codec: LabelCodec, *, where: str
) -> np.ndarray:
    """Return raw values in the dtype of ``raw``, with those of other classes where changed."""
    values = np.zeros(IGNORE + 1, np.int64)
    for value, index in sorted(codec.classes.items(), reverse=True):
        values[index] = value  # the lowest of several
    for index, value in codec.raw_values.items():
        values[index] = value
    if codec.ignores:
        values[IGNORE] = codec.ignored_value
    unknown = classes[(classes >= codec.n_classes) & ((classes != IGNORE) | (not codec.ignores))]
    if unknown.size:
        raise DataError(f"class {unknown[0]} is none of {codec.n_classes}.", where=where)
    limits = np.iinfo(raw.dtype)
    used = values[np.unique(classes[changed])] if changed.any() else values[:0]
    if used.size and (used.min() < limits.min or used.max() > limits.max):
        raise DataError(f"{raw.dtype} does not hold the labels {used.tolist()}.", where=where)
    new = raw.copy()
    new[changed] = values[classes[changed]].astype(raw.dtype)
    return new


def digest(content: bytes) -> str:
    """Return the SHA-256 of a file's bytes, as sha256sum prints it."""
    return hashlib.sha256(content).hexdigest()
