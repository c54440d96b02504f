"""Refuses a DICOM file that would end the process: nested so deep that no stack is left.

GDCM, through which SimpleITK reads DICOM, goes down a level of the stack for each sequence within a
sequence and knows no end: some 17,000 are a segmentation fault where a thread has 8 MB of stack,
some 1,000 where it has 512 kB (macOS). No ``except`` helps against that.
"""

import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lungunet.errors import DataError

_MOST_ITEMS = 200
_ITEMS = ((0xFFFE, 0xE000), (0xFEFF, 0x00E0))  # the tag (FFFE,E000) in either byte order
_PIECE_BYTES = 1 << 18
_META_BYTES = 1024  # in which a file says how it is coded
DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntaxes: compressed as a whole,
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"  # and with the greater byte first
_MOST_INFLATED = 1 << 30

TOO_DEEP = (
    "its header is nested so deep that reading it would end the program; no scanner writes such "
    "files. Leave it out, or export it again."
)

# With a small stack, so that what passes here passes in any thread of any machine.
_TRY = """
import sys, threading, SimpleITK

def read():
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(sys.argv[1])
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        pass

threading.stack_size(1 << 18)
thread = threading.Thread(target=read)
thread.start()
thread.join()
print("alive")
"""


def refuse_deep(path: Path) -> None:
    """Refuse a file that SimpleITK would not survive.

    Each level is an item, and each item begins with a mark of four bytes: a file is at most as deep
    as it has marks, whatever a hostile one says of its lengths. To count them takes a fifth of a
    millisecond for a slice of 512x512, a twentieth of reading it. What holds more than 200 of them
    (enhanced CT, contours, never a slice of a series) is opened by another process first, which may
    end of it; that takes a fifth of a second. To read everything in another process would take more
    than this, for the voxels must come back.
    """
    if not _may_be_deep(path):
        return
    done = subprocess.run(
        [sys.executable, "-c", _TRY, path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    if b"alive" not in done.stdout:
        raise DataError(TOO_DEEP, where=path)


def _may_be_deep(path: Path) -> bool:
    marks, tail = 0, b""
    kinds: tuple[tuple[int, int], ...] = _ITEMS
    for number, piece in enumerate(_pieces(path)):
        if number == 0 and piece[128:132] == b"DICM" and _BIG_ENDIAN not in piece[:_META_BYTES]:
            kinds = _ITEMS[:1]
        marks += _marks(tail + piece, kinds)
        if marks > _MOST_ITEMS:
            return True
        tail = piece[-3:]  # a mark may lie across
    return False


def _marks(piece: bytes, kinds: tuple[tuple[int, int], ...]) -> int:
    """Count what begins an item, at even and odd places: hostile files know no alignment."""
    marks = 0
    for odd in (0, 1) if len(piece) > 4 else ():
        pairs = np.frombuffer(piece, "<u2", (len(piece) - odd) // 2, odd)
        for first, second in kinds:
            # Half of a mark is rare in pixels; to look for it is five times as fast as for all.
            marks += int(np.count_nonzero(pairs[np.flatnonzero(pairs[1:] == second)] == first))
    return marks


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces; what is compressed as a whole also as it is when unpacked."""
    with path.open("rb", buffering=0) as file:
        size = min(_PIECE_BYTES, os.fstat(file.fileno()).st_size)
        piece = first = file.read(size)
        while piece:
            yield piece
            piece = file.read(size)
    if DEFLATED in first[:_META_BYTES]:
        yield from inflated(path)


def inflated(path: Path) -> Iterator[bytes]:
    """Yield what a file of the transfer syntax ``DEFLATED`` holds behind the group that says so."""
    unpack, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        length = file.read(144)[140:]
        file.seek(144 + int.from_bytes(length, "little"))
        while not unpack.eof:
            packed = unpack.unconsumed_tail or file.read(_PIECE_BYTES)
            try:
                piece = unpack.decompress(packed, _PIECE_BYTES)
            except zlib.error as err:
                raise DataError("damaged (deflate). Copy or export it again.", where=path) from err
            yield piece
            total += len(piece)
            if total > _MOST_INFLATED:
                raise DataError("unpacks to more than 1 GiB. No slice is so large.", where=path)
            if not packed and not piece:
                raise DataError("truncated (deflate). Copy or export it again.", where=path)
