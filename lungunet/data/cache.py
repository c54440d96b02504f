"""Fitted slices and their masks on disk, one file per pair, mapped into memory to be read.

Workers and runs share them through the operating system's page cache. Knows how an entry is named,
trusted, written and thrown away, not how a sample is made.
"""

import hashlib
import json
import mmap
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import get_worker_info

from lungunet._version import __version__
from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.files import write_bytes, write_text
from lungunet.data.manifest import Pair
from lungunet.errors import DataError, LungUNetWarning

Sample = tuple[np.ndarray, np.ndarray]
"""Grey and classes, (size, size) uint8 each."""

LIMIT_BYTES = 20 * 2**30
"""What a folder may hold: 40,000 slices of 512x512, and about what a server keeps in memory."""

_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# CT slices as a model of lungunet sees them, kept because they are read faster so.\n"
    "# No backup needs them, and they can be deleted at any time.\n"
)
_ENTRY = re.compile(r"[0-9a-f]{32}\.slice|\.[0-9a-f]{32}\.slice\.[0-9a-f]{8}\.tmp")
_SETTLED_S = 2  # the coarsest clock of a file system in use, that of FAT
_WRITERS = 32  # processes that may fill a folder at the same time without passing its limit


class SliceCache:
    """A folder of samples, each made once per content of its two files.

    An entry counts only while both files have the size, inode and times of change that they had
    when it was made. Entries appear whole, under their final name, so readers and writers need no
    lock; two writers of one entry write the same bytes.

    Parameters
    ----------
    folder : made where it is missing; other files in it are left alone
    contract, codec : what samples are made with; others get entries of their own
    limit_bytes : entries that were used longest ago go first where more would be held; those used
        since this object was made stay. Half of what is free on the disk without the folder stays
        free, whatever the limit.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        contract: InputContract,
        codec: LabelCodec,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.limit_bytes = limit_bytes
        self._size = contract.size
        # Another release may fit otherwise, another OpenCV may round otherwise.
        versions = [__version__, cv2.__version__]
        self._recipe = json.dumps([versions, contract.to_dict(), codec.to_dict()])
        self._began = time.time()
        self._room = 0  # bytes to write before the folder is looked at again
        self._writes = True
        write_text(self.folder / "CACHEDIR.TAG", _TAG)  # now, not in the middle of an epoch

    def fetch(self, pair: Pair, make: Callable[[], Sample]) -> Sample:
        """Return the sample of ``pair``: the stored one, else what ``make`` makes of its files.

        Parameters
        ----------
        make : reads the files; is called, and its errors come, whenever no entry can be trusted

        Returns
        -------
        grey, classes : (size, size) uint8
            May be backed by a private mapping of the entry, which lasts as long as they do.
        """
        before, now = _identity(pair), time.time()
        if before is None:  # a file is gone: say so, do not serve its ghost
            return make()
        entry = self._entry(pair)
        stamp = hashlib.blake2b(repr((entry.name, before)).encode()).digest()
        stored = self._load(entry, stamp)
        if stored is not None:
            return stored
        sample = make()
        # A file written twice within one tick of its clock bears one time of change: it is kept
        # only when the tick in which it was last written is over.
        if self._writes and _settled(before, now) and _identity(pair) == before:
            self._store(entry, stamp + sample[0].tobytes() + sample[1].tobytes())
        return sample

    def _entry(self, pair: Pair) -> Path:
        # Bytes, for a name need not be UTF-8.
        files = [os.fsencode(os.path.realpath(path)) for path in _files(pair)]
        name = hashlib.blake2b(b"\n".join([self._recipe.encode(), *files]), digest_size=16)
        return self.folder / f"{name.hexdigest()}.slice"

    def _load(self, entry: Path, stamp: bytes) -> Sample | None:
        try:
            with entry.open("rb", buffering=0) as file:
                # Private: what a transform writes into its input stays in this process.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                used = os.fstat(file.fileno()).st_mtime
        except (OSError, ValueError):  # missing, not ours to read, or empty
            return None
        if len(mapped) != len(stamp) + 2 * self._size**2 or mapped[: len(stamp)] != stamp:
            return None
        if used < self._began:
            with suppress(OSError):  # of another user: only its order of going suffers
                os.utime(entry)
        pixels = np.frombuffer(mapped, np.uint8, offset=len(stamp))
        grey, classes = pixels.reshape(2, self._size, self._size)
        return grey, classes

    def _store(self, entry: Path, content: bytes) -> None:
        try:
            if self._room < len(content):
                self._room = self._make_room(len(content))
            if self._room < len(content):
                self._stop(f"{self.folder}: the cache is full, and all of it is in use.")
                return
            write_bytes(entry, content)
            self._room -= len(content)
        except DataError as err:
            self._stop(str(err))
        except OSError as err:
            self._stop(f"{self.folder}: cannot be used ({err.strerror}).")

    def _make_room(self, needed: int) -> int:
        """Return how many bytes to write before looking again, throwing out what must go."""
        self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it meanwhile
        entries = [
            (status.st_mtime, status.st_size, path)
            for path in self.folder.iterdir()
            if _ENTRY.fullmatch(path.name) and (status := _stat(path))
        ]
        held = sum(size for _, size, _ in entries)
        limit = min(self.limit_bytes, (held + shutil.disk_usage(self.folder).free) // 2)
        if held + needed > limit:
            for used, size, path in sorted(entries):
                if used >= self._began or held + needed <= limit - limit // 10:
                    break
                with suppress(OSError):  # thrown out by another process, or open on Windows
                    path.unlink()
                    held -= size
        room = limit - held
        return max(room // _WRITERS, min(room, needed))

    def _stop(self, reason: str) -> None:
        self._writes = False
        worker = get_worker_info()
        if worker is None or worker.id == 0:  # the others meet the same end: one of them tells
            warnings.warn(
                f"{reason} Slices that the cache does not hold are read from their files from now "
                "on, which is slower and changes no result.",
                LungUNetWarning,
                stacklevel=2,
            )


def _files(pair: Pair) -> list[Path]:
    return [path for path in (pair.image, pair.mask) if path is not None]


def _identity(pair: Pair) -> list[tuple[int, ...]] | None:
    """Return what changes whenever the content of a file does, or None where one is missing.

    The time of modification can be set back (``cp -p``, ``rsync -t``), that of change cannot. The
    inode tells a file that was moved into place where a move is no change.
    """
    states = [_stat(path) for path in _files(pair)]
    if None in states:
        return None
    return [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in states if s]


def _settled(identity: list[tuple[int, ...]], now: float) -> bool:
    times = [time_ns for _, modified, changed, _ in identity for time_ns in (modified, changed)]
    return all(abs(now - time_ns / 1e9) > _SETTLED_S for time_ns in times)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
