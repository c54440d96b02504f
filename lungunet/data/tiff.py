"""The values of a TIFF file, as they are stored to the bit, or a refusal.

OpenCV returns zeros for compressions that it does not know and half a picture where a strip is
damaged, both without a word; libtiff does not look at the checksum of deflate. So the file is taken
apart here: its directory by ``struct``, its strips by zlib, by Pillow's libtiff where they are LZW.
What shows other values than it stores is refused. Knows no CT and no labels.
"""

import io
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from lungunet.errors import DataError
from lungunet.process_wide import across_threads

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of a TIFF, and of a BigTIFF."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_SIZES = 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES = 284, 317, 322, 323, 324, 325
_FORMAT = 339
_WANTED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIPS, _ORIENTATION}
_WANTED |= {_SAMPLES, _ROWS, _STRIP_SIZES, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES}
_WANTED |= {_TILE_SIZES, _FORMAT}
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # TIFF's BYTE, SHORT, LONG, LONG8

_NONE, _LZW, _PACK_BITS, _DEFLATE = 1, 5, 32773, (8, 32946)
_READ = (_NONE, _LZW, _PACK_BITS, *_DEFLATE)
_NAMES = {2: "CCITT", 3: "CCITT fax 3", 4: "CCITT fax 4", 6: "JPEG", 7: "JPEG", 34712: "JPEG 2000"}
_NAMES |= {33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34892: "lossy JPEG"}
_NAMES |= {34887: "LERC", 34925: "LZMA", 34933: "PNG", 50000: "Zstandard", 50001: "WebP"}
_NAMES |= {34934: "JPEG XR", 22610: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL"}

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3
_DTYPES = {(1, 1): "u1", (8, 1): "u1", (8, 2): "i1", (16, 1): "u2", (16, 2): "i2", (16, 3): "f2"}
_DTYPES |= {(32, 1): "u4", (32, 2): "i4", (32, 3): "f4", (64, 1): "u8", (64, 2): "i8"}
_DTYPES[64, 3] = "f8"
_MOST_PIXELS = 2**28  # of a picture of 16384 x 16384
_MOST_PAGES = 10_000
_HEADER_BYTES = 8  # of a TIFF; of a BigTIFF 16
_AGAIN = "Export it again."


@dataclass(frozen=True)
class _Layout:
    """Where the pixels of a TIFF lie, and how they are packed: in blocks, strips or tiles."""

    height: int
    width: int
    samples: int
    bits: int
    dtype: np.dtype[np.generic]
    compression: int
    predictor: int
    planes: int
    orientation: int
    block_height: int
    block_width: int
    tiled: bool
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def interleaved(self) -> int:
        """Samples that lie side by side."""
        return self.samples // self.planes

    @property
    def row_bytes(self) -> int:
        """Of a row of a block."""
        return -(-self.block_width * self.interleaved * self.bits // 8)

    @property
    def blocks_down(self) -> int:
        return -(-self.height // self.block_height)

    @property
    def blocks_across(self) -> int:
        return -(-self.width // self.block_width)

    def rows_of(self, block: int) -> int:
        """Count the rows of a block of a plane; the last strip has what is left."""
        if self.tiled:
            return self.block_height
        return min(self.block_height, self.height - block * self.block_height)

    def bytes_of(self, block: int) -> int:
        """Count the bytes of a block of a plane when it is unpacked."""
        return self.rows_of(block) * self.row_bytes


def tiff_header(content: bytes | mmap.mmap, path: Path) -> tuple[int, int, str]:
    """Return height, width and dtype as :func:`decode_tiff` would give them, without decoding."""
    layout = _read_layout(content, path)
    size = (layout.height, layout.width)
    height, width = reversed(size) if layout.orientation >= 5 else size
    return height, width, layout.dtype.newbyteorder("=").name


def decode_tiff(content: bytes, path: Path) -> np.ndarray:
    """Return the pixels of a TIFF of one page.

    Parameters
    ----------
    content : of the file
    path : what a message calls it

    Returns
    -------
    (H, W) or (H, W, C), dtype of the file
        Turned as its orientation says; 1 bit comes as 0 and 255.

    Raises
    ------
    DataError
        When the file is damaged, or packed in a way that is not read to the bit.
    """
    layout = _read_layout(content, path)
    per_plane = len(layout.starts) // layout.planes
    planes = []
    for plane in range(layout.planes):
        part = slice(plane * per_plane, (plane + 1) * per_plane)
        places = list(zip(layout.starts[part], layout.sizes[part], strict=True))
        planes.append(_decode_plane(content, places, layout, path))
    pixels = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
    pixels = turn(pixels[..., 0] if pixels.shape[2] == 1 else pixels, layout.orientation)
    # Its own memory and byte order: what came from the bytes of the file cannot be written to.
    return np.array(pixels, layout.dtype.newbyteorder("="), order="C")


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W) or (H, W, C) upright, as an orientation of TIFF or Exif, 1 to 8, asks for."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


@across_threads
@contextmanager
def opencv_log_silenced() -> Iterator[None]:
    """Keep OpenCV's own log off stderr: our errors say it better."""
    # Moved in OpenCV 5; level 0 is silent in both places.
    home: Any = getattr(cv2.utils, "logging", cv2)
    before = home.getLogLevel()
    home.setLogLevel(0)
    try:
        yield
    finally:
        home.setLogLevel(before)


def ends_early(content: bytes) -> bool:
    """Tell whether a TIFF ends before its directory or its pixels do."""
    try:
        tags, _ = _read_tags(content)
    except (struct.error, OverflowError):
        return True
    except ValueError:
        return False
    starts, sizes = (tags.get(_TILES, ()), tags.get(_TILE_SIZES, ()))
    starts, sizes = (starts or tags.get(_STRIPS, ()), sizes or tags.get(_STRIP_SIZES, ()))
    return any(s + n > len(content) for s, n in zip(starts, sizes, strict=False))


def _read_tags(content: bytes | mmap.mmap) -> tuple[dict[int, tuple[int, ...]], int]:
    """Return the tags that matter, and how many pages there are.

    Raises struct.error where something lies behind the end, ValueError where nothing makes sense.
    """
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    count_as, entry_as, place_as = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    entry_size, value_at = (20, 12) if big else (12, 8)
    (at,) = struct.unpack_from(order + place_as, content, 8 if big else 4)
    tags: dict[int, tuple[int, ...]] = {}
    (entries,) = struct.unpack_from(order + count_as, content, at)
    first = at + struct.calcsize(order + count_as)
    end = first + entries * entry_size
    if end > len(content):
        raise struct.error
    entry = struct.Struct(order + entry_as)
    for place in range(first, end, entry_size):
        tag, kind, count = entry.unpack_from(content, place)
        if tag not in _WANTED:
            continue
        if kind not in _TYPES or tag in tags:
            raise ValueError
        shape = f"{order}{count}{_TYPES[kind]}"
        value = place + value_at
        if struct.calcsize(shape) > entry_size - value_at:
            (value,) = struct.unpack_from(order + place_as, content, value)
        tags[tag] = struct.unpack_from(shape, content, value)
    pages, seen = 1, {at}
    (at,) = struct.unpack_from(order + place_as, content, end)
    while at:
        if at in seen or len(seen) > _MOST_PAGES:
            raise ValueError
        seen.add(at)
        pages += 1
        (entries,) = struct.unpack_from(order + count_as, content, at)
        at += struct.calcsize(order + count_as) + entries * entry_size
        (at,) = struct.unpack_from(order + place_as, content, at)
    return tags, pages


def _read_layout(content: bytes | mmap.mmap, path: Path) -> _Layout:
    try:
        tags, pages = _read_tags(content)
    except (struct.error, OverflowError) as err:
        raise _cut_off(path) from err
    except ValueError as err:
        raise _damaged(path) from err
    if pages > 1:
        raise DataError(f"{pages} pages. Save each slice in a file of its own.", where=path)

    def one(tag: int, default: int | None = None) -> int:
        values = set(tags.get(tag, () if default is None else (default,)))
        if len(values) != 1:
            raise _damaged(path)
        return values.pop()

    samples = one(_SAMPLES, 1)
    width, height = one(_WIDTH), one(_HEIGHT)
    tiled = _TILES in tags
    block = (one(_TILE_WIDTH), one(_TILE_HEIGHT)) if tiled else (width, one(_ROWS, 2**32 - 1))
    if not (0 < width * height <= _MOST_PIXELS and 0 < samples <= 4 and min(block) > 0):
        raise _damaged(path)
    if tiled and block[0] * block[1] > _MOST_PIXELS:
        raise _damaged(path)
    bits, kind = one(_BITS, 1), one(_FORMAT, 1)
    if (bits, kind) not in _DTYPES:
        names = {1: "unsigned", 2: "signed", 3: "floating point"}
        text = f"{names.get(kind, 'unknown')} numbers of {bits} bits"
        raise DataError(f"a TIFF of {text}. Save it as 8 or 16 bits.", where=path)
    order = "<" if content[:2] == b"II" else ">"
    layout = _Layout(
        height=height,
        width=width,
        samples=samples,
        bits=bits,
        dtype=np.dtype(order + _DTYPES[bits, kind]),
        compression=one(_COMPRESSION, 1),
        predictor=one(_PREDICTOR, 1),
        planes=samples if one(_PLANAR, 1) == 2 else 1,
        orientation=one(_ORIENTATION, 1),
        block_height=block[1] if tiled else min(block[1], height),
        block_width=block[0],
        tiled=tiled,
        starts=tags.get(_TILES if tiled else _STRIPS, ()),
        sizes=tags.get(_TILE_SIZES if tiled else _STRIP_SIZES, ()),
    )
    _refuse_unread(layout, one(_PHOTOMETRIC), one(_FILL_ORDER, 1), path)
    blocks = layout.planes * layout.blocks_down * layout.blocks_across
    if not len(layout.starts) == len(layout.sizes) == blocks:
        raise _damaged(path)
    if min(layout.starts) < _HEADER_BYTES or min(layout.sizes) < 1:  # no pixels lie there
        raise _damaged(path)
    return layout


def _refuse_unread(layout: _Layout, photometric: int, fill_order: int, path: Path) -> None:
    """Refuse what is not read to the bit, or shows other values than it stores."""
    if layout.compression not in _READ:
        name = _NAMES.get(layout.compression, f"a method of number {layout.compression}")
        raise DataError(
            f"compressed by {name}, which is not read. Save it anew, uncompressed or with LZW or "
            "deflate.",
            where=path,
        )
    if photometric == _PALETTE:
        raise DataError(
            "a TIFF of palette colours. Save the indices as plain grey, e.g. with Pillow: "
            "Image.fromarray(np.array(Image.open(file))).",
            where=path,
        )
    if photometric == _WHITE_IS_ZERO and layout.bits <= 8:
        raise DataError(
            "its smallest value is to be shown white (PhotometricInterpretation 0): some programs "
            "invert it, others do not. Save it as uint8 with smallest black; a mask of bool first "
            "becomes mask.astype('uint8') * 255.",
            where=path,
        )
    plain = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) or (
        photometric == _RGB and layout.samples >= 3
    )
    if not plain or fill_order != 1:
        raise DataError("a TIFF of unusual colours. Save it as one grey channel.", where=path)
    kinds = {2: "iu", 3: "f"}.get(layout.predictor, "")
    if layout.bits == 1 and layout.samples > 1:
        raise DataError("a TIFF of 1-bit colours. Save it as one grey channel.", where=path)
    packed = layout.compression == _LZW or layout.compression in _DEFLATE
    fits = packed and layout.bits >= 8 and layout.dtype.kind in kinds
    if layout.predictor != 1 and not (fits and (layout.predictor == 2 or layout.samples == 1)):
        raise DataError(
            f"compressed with predictor {layout.predictor}, which does not fit its values. Save it "
            "anew, uncompressed.",
            where=path,
        )


def _decode_plane(
    content: bytes, places: Sequence[tuple[int, int]], layout: _Layout, path: Path
) -> np.ndarray:
    """Return what lies side by side in the file, (H, W, samples)."""
    if any(start + size > len(content) for start, size in places):
        raise _cut_off(path)
    try:
        raw = _UNPACK[layout.compression](content, places, layout)
    except (ValueError, OSError, SyntaxError, zlib.error, cv2.error) as err:
        raise _damaged(path) from err
    rows = np.frombuffer(raw, np.uint8).reshape(-1, layout.row_bytes)
    values = _undo_predictor(rows, layout)[:, : layout.block_width * layout.interleaved]
    values = values.reshape(len(rows), layout.block_width, layout.interleaved)
    if not layout.tiled:
        return values
    down, across, height = layout.blocks_down, layout.blocks_across, layout.block_height
    tiles = values.reshape(down, across, height, layout.block_width, -1).swapaxes(1, 2)
    whole = tiles.reshape(down * height, across * layout.block_width, -1)
    return whole[: layout.height, : layout.width]


def _undo_predictor(rows: np.ndarray, layout: _Layout) -> np.ndarray:
    """Turn rows of bytes into rows of values."""
    if layout.bits == 1:
        return np.unpackbits(rows, axis=1) * np.uint8(255)
    if layout.predictor == 3:  # differences of the bytes, the highest of all values first
        size = layout.dtype.itemsize
        planes = np.cumsum(rows, axis=1, dtype=np.uint8).reshape(len(rows), size, -1)
        return np.ascontiguousarray(planes.swapaxes(1, 2)).view(layout.dtype.newbyteorder(">"))[
            ..., 0
        ]
    values = rows.view(layout.dtype)
    if layout.predictor == 1:
        return values
    native = values.astype(layout.dtype.newbyteorder("="), copy=False)
    steps = native.reshape(len(rows), -1, layout.interleaved)
    return np.cumsum(steps, axis=1, dtype=native.dtype).reshape(len(rows), -1)


def _join(content: bytes, places: Sequence[tuple[int, int]], layout: _Layout) -> bytes:
    blocks = []
    for number, (start, size) in enumerate(places):
        wanted = layout.bytes_of(number)
        if size < wanted:
            raise ValueError
        blocks.append(content[start : start + wanted])
    return b"".join(blocks)


def _inflate(content: bytes, places: Sequence[tuple[int, int]], layout: _Layout) -> bytes:
    """Undo deflate; unlike libtiff, to the end of each stream, where its checksum is."""
    most = layout.block_height * layout.row_bytes
    blocks = []
    for number, (start, size) in enumerate(places):
        stream, wanted = zlib.decompressobj(), layout.bytes_of(number)
        raw = stream.decompress(content[start : start + size], most + 1)
        if not stream.eof or not wanted <= len(raw) <= most:
            raise ValueError
        blocks.append(raw[:wanted])
    return b"".join(blocks)


def _unpack_bits(content: bytes, places: Sequence[tuple[int, int]], layout: _Layout) -> bytes:
    return b"".join(
        _unpack_runs(content[start : start + size], layout.bytes_of(number))
        for number, (start, size) in enumerate(places)
    )


def _unpack_runs(block: bytes, size: int) -> bytes:
    """Undo PackBits: runs of one byte, and bytes as they are."""
    raw, at = bytearray(), 0
    while len(raw) < size and at < len(block):
        lead = block[at]
        if lead < 128:
            raw += block[at + 1 : at + 2 + lead]
            at += 2 + lead
        else:
            raw += block[at + 1 : at + 2] * (257 - lead if lead > 128 else 0)
            at += 2 if lead > 128 else 1
    if len(raw) != size or at != len(block):
        raise ValueError
    return bytes(raw)


def _undo_lzw(content: bytes, places: Sequence[tuple[int, int]], layout: _Layout) -> bytes:
    """Undo LZW, through libtiff: it is told that the blocks are the strips of a grey picture.

    OpenCV's is the faster one, and as strict as Pillow's where pixels have 16 bits.
    """
    starts, sizes = zip(*places, strict=True)
    even = layout.row_bytes % 2 == 0
    tags = {
        _WIDTH: (layout.row_bytes // 2 if even else layout.row_bytes,),
        _HEIGHT: (sum(layout.rows_of(number) for number in range(len(places))),),
        _BITS: (16 if even else 8,),
        _COMPRESSION: (_LZW,),
        _PHOTOMETRIC: (_BLACK_IS_ZERO,),
        _STRIPS: starts,
        _SAMPLES: (1,),
        _ROWS: (layout.block_height,),
        _STRIP_SIZES: sizes,
    }
    at = len(content)
    behind = at + 2 + 12 * len(tags) + 4
    entries, lists = b"", b""
    for tag, values in tags.items():
        packed = struct.pack(f"<{len(values)}I", *values)
        value = packed if len(values) == 1 else struct.pack("<I", behind + len(lists))
        entries += struct.pack("<HHI", tag, 4, len(values)) + value
        lists += packed if len(values) > 1 else b""
    directory = struct.pack("<H", len(tags)) + entries + bytes(4) + lists
    file = b"".join([struct.pack("<4sI", b"II*\0", at), memoryview(content)[8:], directory])
    if even:
        with opencv_log_silenced():
            pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise ValueError
        return pixels.tobytes()
    with Image.open(io.BytesIO(file), formats=["TIFF"]) as image:
        return image.tobytes()


_UNPACK: dict[int, Callable[[bytes, Sequence[tuple[int, int]], _Layout], bytes]] = {
    _NONE: _join,
    _LZW: _undo_lzw,
    _PACK_BITS: _unpack_bits,
    **dict.fromkeys(_DEFLATE, _inflate),
}


def _damaged(path: Path) -> DataError:
    return DataError(f"a damaged TIFF. {_AGAIN}", where=path)


def _cut_off(path: Path) -> DataError:
    return DataError(
        "truncated: a TIFF that ends before its pixels do. Copy or export it again.", where=path
    )
