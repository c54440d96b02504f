"""What SimpleITK passes over in the pixels of a DICOM file: too many of them, or no way to HU.

It takes the first ones where there are more than the header says, and stored values for HU where
the intercept is no number, the slope none or 0, or a tag about how pixels are stored is missing.
"""

import math
import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lungunet.errors import DataError
from lungunet.volumes.nesting import DEFLATED, inflated

_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI..([\d.]+)", re.DOTALL)
_META_BYTES = 2048
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"
_PLAIN = {b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", _BIG_ENDIAN, DEFLATED}
_TAGS = {"little": re.compile(rb"\xe0\x7f\x10\x00"), "big": re.compile(rb"\x7f\xe0\x00\x10")}
_NAMED = (b"OW", b"OB", b"UN")

_PADDING_BYTES, _PADDING_SHARE = 512, 50  # seen in real files: less than a row of a CT slice

_BITS = "0028|0100"
_RESCALE = {"0028|1052": "RescaleIntercept", "0028|1053": "RescaleSlope"}
_SAMPLES, _PHOTOMETRIC, _STORED, _SIGNED = "0028|0002", "0028|0004", "0028|0101", "0028|0103"
TAGS = (_BITS, *_RESCALE, _SAMPLES, _PHOTOMETRIC, _STORED, _SIGNED)
"""What :func:`check_pixels` looks at."""


def check_pixels(path: Path, tags: Mapping[str, str], count: int) -> None:
    """Refuse a file whose values SimpleITK may have read otherwise than they are meant.

    Parameters
    ----------
    tags : those of ``TAGS`` that the file has
    count : values that were read
    """
    said = {tag: value.strip(" \0") for tag, value in tags.items()}
    for tag, name in _RESCALE.items():
        if not _rescales(said.get(tag, "1"), name):
            raise DataError(
                f"its {name} is '{said[tag][:20]}', so its values are no HU. Export it again.",
                where=path,
            )
    bits = int(said[_BITS]) if said.get(_BITS, "").isdigit() else 0
    if (
        said.get(_SAMPLES) != "1"
        or said.get(_PHOTOMETRIC) not in ("MONOCHROME1", "MONOCHROME2")
        or said.get(_SIGNED) not in ("0", "1")
        or not said.get(_STORED, "").isdigit()
        or not 1 <= int(said[_STORED]) <= bits
    ):
        raise DataError(
            "does not say as it must how its pixels are stored. Export it again.", where=path
        )
    _check_length(path, -(-count * bits // 8))


def _rescales(text: str, name: str) -> bool:
    """Whether something can be rescaled by it; to have none is another thing."""
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and not (number == 0 and name == "RescaleSlope")


def _check_length(path: Path, expected: int) -> None:
    """Refuse a file of plain pixels that holds others than ``expected`` bytes of them."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        syntax = _SYNTAX.search(content[:_META_BYTES])
        if syntax is None or syntax[1] not in _PLAIN:
            return  # packed: who unpacks them counts them
        if syntax[1] == DEFLATED:
            whole = _holds(b"".join(inflated(path)), expected, "little")
        else:
            whole = _holds(content, expected, "big" if syntax[1] == _BIG_ENDIAN else "little")
    if not whole:
        raise DataError(
            "holds other pixels than its header says, more or fewer. Copy or export it again.",
            where=path,
        )


def _holds(content: "bytes | mmap.mmap", expected: int, order: Literal["little", "big"]) -> bool:
    most = expected + max(1, min(_PADDING_BYTES, expected // _PADDING_SHARE))
    for tag in _TAGS[order].finditer(content):  # an icon may come before; mostly it is the first
        at = tag.end() + 4 * (content[tag.end() : tag.end() + 2] in _NAMED)
        length = int.from_bytes(content[at : at + 4], order)
        if expected <= length <= most and at + 4 + expected <= len(content):
            return True
    return False
