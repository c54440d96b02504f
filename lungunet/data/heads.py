"""What a PNG or JPEG says beside its pixels: its size, and how it is to be turned.

Pillow knows this too, and warns of odd files: silencing it changes filters that all threads share.
Knows no files.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress

PNG, JPEG = b"\x89PNG", b"\xff\xd8"
"""The first bytes."""

_EXIF = b"Exif\0\0"
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_LONE = {0x00, 0x01, *range(0xD0, 0xD9), 0xFF}  # markers without a length; stuffing
_ORIENTATION = 274
_MOST_PIXELS = 2**28  # of a picture of 16384 x 16384
_TYPES = {1: "B", 3: "H", 4: "I"}


def read_head(content: bytes) -> tuple[int, int, str] | None:
    """Return height, width as stored and dtype of one grey or indexed channel; None of others."""
    if content.startswith(PNG) and content[12:16] == b"IHDR" and len(content) > 26:
        width, height, bits, colour = struct.unpack_from(">IIBB", content, 16)
        one = colour in (0, 3) and not scaled_bits(content)  # grey; indexed
    else:
        frame = next((data for kind, data in _segments(content) if kind in _FRAMES), b"")
        if len(frame) < 6:
            return None
        bits, height, width, channels = struct.unpack_from(">BHHB", frame)
        one = channels == 1 and bits == 8
    one = one and 0 < height * width <= _MOST_PIXELS
    return (height, width, f"uint{max(8, bits)}") if one else None


def scaled_bits(content: bytes) -> int:
    """Return the bits of a pixel of grey that decoders stretch to 8, of a PNG 2 or 4; 0 of others.

    1 bit is none of them: it is 0 and 255 to all programs.
    """
    stretched = content.startswith(PNG) and content[24:26] in (b"\2\0", b"\4\0")
    return content[24] if stretched else 0


def read_orientation(content: bytes) -> int:
    """Return how Exif says that a PNG or JPEG is to be turned, 1 to 8; 1 is as it is."""
    if content.startswith(PNG):
        exif = next((data for kind, data in _chunks(content) if kind == b"eXIf"), b"")
    else:
        parts = (data for kind, data in _segments(content) if kind == _APP1)
        exif = next((data for data in parts if data.startswith(_EXIF)), b"")
    exif = exif.removeprefix(_EXIF)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    with suppress(struct.error):
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, at)
        for place in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, _ = struct.unpack_from(f"{order}HHI", exif, place)
            if tag == _ORIENTATION and kind in _TYPES:
                return int(struct.unpack_from(order + _TYPES[kind], exif, place + 8)[0])
    return 1


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the segments of a JPEG before its pixels."""
    at = 2 if content.startswith(JPEG) else len(content)
    while 0 <= (at := content.find(b"\xff", at)) < len(content) - 3:
        kind = content[at + 1]
        if kind in (_SCAN, _END):
            return
        if kind in _LONE:
            at += 1
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        yield kind, content[at + 4 : at + 2 + length]
        at += 2 + length


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG but its pixels."""
    at = 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind != b"IDAT":
            yield kind, content[at + 8 : at + 8 + length]
        at += 12 + length
