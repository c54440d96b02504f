"""A scan under review: its mask is mended slice by slice.

A changed slice is on disk at once, as a picture of its classes in the hidden folder; the volume is
written behind it, and whoever opens the review after a kill finishes that. Knows no log, no page.
"""

import glob
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, RLock, Thread

import numpy as np

from lungunet.data.codec import LabelCodec
from lungunet.data.ct import read_mask, write_mask
from lungunet.data.files import write_bytes
from lungunet.data.manifest import require_same_size
from lungunet.data.review_log import KEPT, first_version
from lungunet.errors import GeometryError, LungUNetError
from lungunet.reviewing.cases import Change, Plane, digest, recode
from lungunet.volumes.formats import volume_name
from lungunet.volumes.masks import rewrite_mask
from lungunet.volumes.scan import Scan
from lungunet.volumes.volume import Volume, read_volume


class Shelf:
    """Keeps the scan that is looked at in memory, and reads one more while its picture is made."""

    def __init__(self) -> None:
        self.previews = Lock()  # held while a picture is made: never of two scans at a time
        self._name = ""
        self._opened: _Opened | None = None
        self._lock = RLock()

    def open(self, name: str, read: "Callable[[], _Opened]") -> "_Opened":
        """Return the scan, read if it is not the last one."""
        with self._lock:
            if self._opened is None or self._name != name:
                self.close()
                self._opened, self._name = read(), name
            return self._opened

    def opened(self, name: str) -> "_Opened | None":
        """Return the scan where it is the one in memory."""
        opened = self._opened
        return opened if self._name == name else None

    def close(self) -> None:
        """Wait until all that was changed is in the volume's file."""
        with self._lock:
            if self._opened is not None:
                self._opened.finish()
            self._opened = None


@dataclass(frozen=True)
class ScanCase:
    """A scan and its mask.

    Parameters
    ----------
    scan : as :func:`find_volumes` finds it
    source : its mask before the review
    mask : the mask that is mended; ``source`` itself, or a copy
    codec : of the mask
    shelf : holds the one scan that is in memory
    """

    name: str
    scan: Scan
    source: Path
    mask: Path
    codec: LabelCodec
    shelf: Shelf = field(repr=False, compare=False)
    is_scan: bool = field(default=True, init=False)

    @property
    def depth(self) -> int:
        """How many slices it has."""
        return len(self._open().classes)

    @property
    def start(self) -> int:
        """The slice with the most lung; without any the middle one."""
        return _fullest(self._open().classes)

    def plane(self, z: int) -> Plane:
        """Return one slice of it, with its mask."""
        opened = self._open()
        classes = opened.classes[z]
        version, spacing_mm = digest(classes.tobytes()), opened.scan.spacing_mm[1:]
        return Plane(opened.scan.array[z], classes, version, spacing_mm)

    def preview(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the slice with the most lung; the scan that is looked at stays in memory."""
        with self.shelf.previews:
            opened = self.shelf.opened(self.name)
            if opened is not None:
                z = _fullest(opened.classes)
                return opened.scan.array[z], opened.classes[z]
            classes = codec_planes(self.codec, read_volume(self.mask).array, str(self.mask))
            z = _fullest(classes)
            image = read_volume(self.scan).array
            if image.shape != classes.shape:
                raise GeometryError(f"is on another grid than {self.scan.path}.", where=self.mask)
            return image[z].copy(), classes[z].copy()

    def version(self, z: int) -> str:
        """Return the SHA-256 of a slice's classes."""
        return digest(self._open().classes[z].tobytes())

    def first(self, z: int) -> np.ndarray:
        """Return the classes of the mask as it was before its first change."""
        return np.asarray(self._open().before[z])

    def across(self, axis: str, at: int) -> tuple[np.ndarray, np.ndarray, int, float]:
        """Return a coronal or sagittal plane, head up.

        Returns
        -------
        image, classes : (D, W) or (D, H)
        depth : how many such planes there are
        ratio : height of a pixel over its width
        """
        opened = self._open()
        z_mm, y_mm, x_mm = opened.scan.spacing_mm
        arrays = (opened.scan.array, opened.classes)
        if axis == "coronal":
            image, classes = (array[::-1, at] for array in arrays)
            return image, classes, arrays[0].shape[1], z_mm / x_mm
        image, classes = (array[::-1, :, at] for array in arrays)
        return image, classes, arrays[0].shape[2], z_mm / y_mm

    def size(self, axis: str) -> int:
        """How many planes there are along an axis."""
        return int(self._open().classes.shape[("axial", "coronal", "sagittal").index(axis)])

    def change(self, z: int, classes: np.ndarray) -> Change:
        """Make ready to write: raw values of voxels that keep their class stay as they are."""
        opened = self._open()
        before = opened.classes[z]
        require_same_size(before.shape, classes.shape, self.name)
        changed = before != classes
        raw = recode(opened.mask.array[z], classes, changed, self.codec, where=str(self.mask))

        def write() -> None:
            kept = first_version(self.mask)
            if not kept.exists():
                write_bytes(kept, self.mask.read_bytes())
            opened.put(z, raw, classes)

        after = digest(np.ascontiguousarray(classes).tobytes())
        return Change(digest(before.tobytes()), after, int(changed.sum()), write)

    def _open(self) -> "_Opened":
        opened = self.shelf.open(self.name, lambda: _Opened(self))
        opened.refresh()
        return opened


class _Opened:
    """A scan in memory, with the slices of its mask that are not in the volume's file yet.

    Where another program has written that file, it is read again before anything is shown or
    written, and the slices that wait are put into what it holds now.
    """

    def __init__(self, case: ScanCase) -> None:
        self.path, self.codec = case.mask, case.codec
        self.scan: Volume = read_volume(case.scan)
        self._before: np.ndarray | None = None
        self._lock = RLock()
        self._writer: Thread | None = None
        self._waiting: dict[int, int] = {}  # slice to how often it was changed
        self._failed: LungUNetError | None = None
        pictures = sorted(self._folder.glob(f"{glob.escape(case.mask.name)}.z*.png"))
        kept = {int(path.stem.rpartition(".z")[2]): read_mask(path) for path in pictures}
        self._read({z: classes.astype(np.uint8) for z, classes in kept.items()})
        if kept:
            self._waiting = dict.fromkeys(kept, 1)
            self._start()

    def refresh(self) -> None:
        """Read the mask again where another program has written it."""
        with self._lock:
            if _stamp(self.path) != self._stamp:
                self._read({z: self.classes[z] for z in self._waiting})

    def _read(self, waiting: Mapping[int, np.ndarray]) -> None:
        """Read the mask, and put into it the classes of slices that its file does not hold yet."""
        stamp = _stamp(self.path)
        mask = read_volume(self.path)
        if not mask.grid.turned.matches(self.scan.grid.turned):
            raise GeometryError(
                f"is on another grid than {self.scan.path}. Put it on the scan's (put_on_grid).",
                where=self.path,
            )
        mask.array.setflags(write=True)
        classes = codec_planes(self.codec, mask.array, str(self.path))
        for z, mended in waiting.items():
            changed, where = mended != classes[z], str(self._picture(z))
            mask.array[z] = recode(mask.array[z], mended, changed, self.codec, where=where)
            classes[z] = mended
        self.mask, self.classes, self._stamp = mask, classes, stamp

    @property
    def before(self) -> np.ndarray:
        """The classes before the first change, (D, H, W); what was kept is read once."""
        kept = first_version(self.path)
        if self._before is None and kept.exists():
            self._before = codec_planes(self.codec, read_volume(kept).array, str(kept))
        return self.classes if self._before is None else self._before

    @property
    def _folder(self) -> Path:
        return self.path.parent / KEPT

    def _picture(self, z: int) -> Path:
        return self._folder / f"{self.path.name}.z{z:04d}.png"

    def put(self, z: int, raw: np.ndarray, classes: np.ndarray) -> None:
        """Change a slice: on disk at once by itself, in the volume soon."""
        with self._lock:
            if self._failed is not None:  # told now, and tried again
                failed, self._failed = self._failed, None
                self._start()
                raise failed
            write_mask(self._picture(z), np.ascontiguousarray(classes))
            self.mask.array[z], self.classes[z] = raw, classes
            self._waiting[z] = self._waiting.get(z, 0) + 1
            if self._writer is None or not self._writer.is_alive():
                self._start()

    def _start(self) -> None:
        self._writer = Thread(target=self._write_volumes)  # waited for at the end of the program
        self._writer.start()

    def _write_volumes(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._writer = None
                    return
            try:
                self._write_volume()
            except LungUNetError as err:
                self._failed = err
                return

    def _write_volume(self) -> None:
        """Put the slices that wait into the file, unless another program writes it meanwhile."""
        with self._lock:
            taken, stamp, mask = dict(self._waiting), self._stamp, self.mask
            array = mask.array.copy()
        fits = array.min() >= 0 and array.max() <= np.iinfo(np.uint8).max
        ending = self.path.name.removeprefix(volume_name(self.path))
        written = self._folder / f"{secrets.token_hex(8)}{ending}"
        try:
            rewrite_mask(written, array.astype(np.uint8) if fits else array, like=mask)
            with self._lock:
                self.refresh()
                if self._stamp != stamp:
                    return
                write_bytes(self.path, written.read_bytes())
                self._stamp = _stamp(self.path)
                for z, times in taken.items():
                    if self._waiting[z] == times:  # else it was changed meanwhile
                        del self._waiting[z]
                        self._picture(z).unlink(missing_ok=True)
        finally:
            written.unlink(missing_ok=True)

    def finish(self) -> None:
        """Wait until the volume's file holds all changes."""
        writer = self._writer
        if writer is not None:
            writer.join()
        if self._failed is not None:
            raise self._failed


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return what is another one once a file was written again; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _fullest(classes: np.ndarray) -> int:
    """Return the slice with the most lung; without any the middle one."""
    areas = np.count_nonzero(classes, axis=(1, 2))
    return int(areas.argmax()) if areas.any() else len(areas) // 2


def codec_planes(codec: LabelCodec, raw: np.ndarray, where: str) -> np.ndarray:
    """Return the classes of a mask, (D, H, W) uint8, that can be written to."""
    return np.array(codec.encode(raw, where), np.uint8)
