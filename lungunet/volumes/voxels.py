"""Voxels as a file stores them: unpacked, counted, rescaled; as int16 where that loses nothing.

Knows no format, only bytes; a file that holds fewer than its header says is refused, one that holds
more is told of. Checksums of packed voxels are looked at.
"""

import bz2
import io
import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np

from lungunet.errors import DataError, LungUNetWarning, counted

_PIECE_BYTES = 1 << 22
_MOST_PACKED = 1032  # of deflate: no byte can hold more
_EITHER, _GZIP = zlib.MAX_WBITS | 32, b"\x1f\x8b"  # gzip or zlib, by the first bytes
_MORE_BYTES = 3  # a line end behind the voxels is nothing to tell of
_INT16, _FLOAT32 = np.iinfo(np.int16), np.finfo(np.float32)

Packing = Literal["none", "deflate", "bzip2", "text"]


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """Return as many bytes as there are, up to ``size``."""
        ...


@dataclass(frozen=True)
class Stored:
    """Where the voxels of a scan lie in a file, and what its numbers mean.

    Parameters
    ----------
    path : the file, which may be another than the header's
    size : voxels along each file axis, the fastest first
    dtype : with the byte order; of text what its numbers stand for
    start : byte of the file where voxels, or what they are packed in, begin
    offset : bytes before the voxels once they are unpacked
    packing : deflate is gzip or zlib
    slope, intercept : value = slope * stored + intercept
    """

    path: Path
    size: tuple[int, ...]
    dtype: np.dtype[np.generic]
    start: int = 0
    offset: int = 0
    packing: Packing = "none"
    slope: float = 1.0
    intercept: float = 0.0


def read_stored(stored: Stored) -> np.ndarray:
    """Read voxels as (k, j, i), the slowest axis first: int16 where that is exact, else float32.

    Raises
    ------
    DataError
        When voxels are missing, damaged, NaN or infinite, or more than memory holds.
    """
    try:
        with stored.path.open("rb") as file:
            _check_length(stored, os.fstat(file.fileno()).st_size)
            file.seek(stored.start)
            values = _collect(_pieces(_unpacked(file, stored), stored), stored)
    except FileNotFoundError as err:
        raise DataError("no such file, and voxels should be in it.", where=stored.path) from err
    except (EOFError, OSError, zlib.error) as err:
        raise DataError(f"damaged or truncated ({err}). Copy it again.", where=stored.path) from err
    except MemoryError as err:
        sides = "x".join(map(str, stored.size))
        raise DataError(f"{sides} voxels do not fit into memory.", where=stored.path) from err
    return values.reshape(stored.size[::-1])


class _Inflated:
    """What gzip or zlib packed, several of them in a row too, to be read in order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._packed, self._ended = file, b"", False
        self._inflate = zlib.decompressobj(_EITHER)

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0 and not self._ended:
            # At its end it would take what follows once more.
            part = b"" if self._inflate.eof else self._inflate.decompress(self._packed, size)
            self._packed = self._inflate.unconsumed_tail
            if part:
                parts.append(part)
                size -= len(part)
            else:
                self._go_on()
        return b"".join(parts)

    def _go_on(self) -> None:
        more = self._file.read(_PIECE_BYTES)
        if self._inflate.eof:
            more = self._inflate.unused_data + more
            self._ended = not more.startswith(_GZIP)
            self._inflate = zlib.decompressobj(_EITHER)
        elif not more:
            raise EOFError("it ends within packed voxels")
        self._packed = more


def read_head(path: Path, size: int) -> tuple[bytes, Packing]:
    """Return the first bytes of a file, unpacked where it is packed as a whole, and how it is."""
    try:
        with path.open("rb") as file:
            start = file.read(max(size, 3))
            file.seek(0)
            if start.startswith(_GZIP):
                return _Inflated(file).read(size), "deflate"
            if start.startswith(b"BZh"):
                return bz2.BZ2File(file).read(size), "bzip2"
            return start[:size], "none"
    except FileNotFoundError as err:
        raise DataError("no such file. Check the path.", where=path) from err
    except (EOFError, OSError, zlib.error) as err:
        raise DataError(f"damaged or truncated ({err}). Copy it again.", where=path) from err


def _check_length(stored: Stored, size: int) -> None:
    """Refuse early what claims more than a file of this size can hold."""
    if stored.packing in ("none", "deflate"):
        most = max(0, size - stored.start) * (_MOST_PACKED if stored.packing == "deflate" else 1)
        needed = stored.offset + prod(stored.size) * stored.dtype.itemsize
        if needed > most:
            _refuse_truncated(stored, -(-(needed - most) // stored.dtype.itemsize))


def _refuse_truncated(stored: Stored, missing: int) -> None:
    raise DataError(
        f"truncated, {counted(missing, 'voxel')} missing. Copy it again.", where=stored.path
    )


def _unpacked(file: BinaryIO, stored: Stored) -> _Readable:
    if stored.packing == "deflate":
        return _Inflated(file)
    if stored.packing == "bzip2":
        return bz2.BZ2File(file)
    if stored.packing == "text":
        try:
            numbers = np.array(file.read().split(), np.float64)
        except ValueError as err:
            raise OSError(f"not a number: {err}") from err
        return io.BytesIO(numbers.tobytes())
    return file


def _pieces(file: _Readable, stored: Stored) -> Iterator[np.ndarray]:
    """Yield flat pieces of values as they are stored; then look whether that was all."""
    dtype = np.dtype(np.float64) if stored.packing == "text" else stored.dtype
    _skip(file, stored.offset)
    missing = prod(stored.size)
    while missing:
        content = file.read(min(_PIECE_BYTES, missing * dtype.itemsize))
        piece = np.frombuffer(content, dtype, len(content) // dtype.itemsize)
        if not len(piece):
            _refuse_truncated(stored, missing)
        missing -= len(piece)
        yield piece
    more = _skip(file, 1 << 30)  # up to the checksum
    if more > _MORE_BYTES:
        warnings.warn(
            f"{stored.path}: holds {counted(more, 'byte')} more than its header tells of. "
            "Look whether it is shown as it should be.",
            LungUNetWarning,
            stacklevel=2,
        )


def _skip(file: _Readable, size: int) -> int:
    """Read past bytes; return how many there were."""
    skipped = 0
    while skipped < size and (piece := file.read(min(_PIECE_BYTES, size - skipped))):
        skipped += len(piece)
    return skipped


def _collect(pieces: Iterator[np.ndarray], stored: Stored) -> np.ndarray:
    values = np.empty(prod(stored.size), np.int16)
    at = not_finite = 0
    for stored_piece in pieces:
        piece = stored_piece
        if (stored.slope, stored.intercept) != (1, 0):
            piece = stored_piece * np.float64(stored.slope) + stored.intercept
        if piece.dtype.kind == "f":
            not_finite += int(np.count_nonzero(~(np.abs(piece) <= _FLOAT32.max)))
        if values.dtype == np.int16 and not _fits_int16(piece):
            values = np.concatenate([values[:at], np.empty(len(values) - at, np.float32)])
        if not not_finite:
            values[at : at + len(piece)] = piece
        at += len(piece)
    if not_finite:
        raise DataError(
            f"{counted(not_finite, 'voxel')} NaN or infinite. Replace them by HU of air.",
            where=stored.path,
        )
    return values


def _fits_int16(piece: np.ndarray) -> bool:
    if piece.dtype == np.int16:
        return True
    low, high = piece.min(), piece.max()
    inside = bool(_INT16.min <= low and high <= _INT16.max)
    return inside and (piece.dtype.kind != "f" or bool((piece == np.rint(piece)).all()))
