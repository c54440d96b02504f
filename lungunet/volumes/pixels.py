"""What SimpleITK passes over in the pixels of a DICOM file: too many of them, or no way to HU.

It takes the first ones where there are more than the header says, and stored values for HU where
the intercept is no number, or the slope none or 0.
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

BITS, INTERCEPT, SLOPE = "0028|0100", "0028|1052", "0028|1053"


def check_rescale(tags: Mapping[str, str], path: Path) -> None:
    """Refuse a slope or intercept by which nothing can be rescaled; to have none is another thing."""
    for name, tag in (("RescaleIntercept", INTERCEPT), ("RescaleSlope", SLOPE)):
        text = tags.get(tag, "1").strip(" \0")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or (number == 0 and tag == SLOPE):
            raise DataError(
                f"its {name} is '{text[:20]}', so its values are no HU. Export it again.",
                where=path,
            )


def check_length(path: Path, expected: int) -> None:
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
    for tag in _TAGS[order].finditer(content):  # an icon may come before; mostly it is the first
        at = tag.end() + 4 * (content[tag.end() : tag.end() + 2] in _NAMED)
        length = int.from_bytes(content[at : at + 4], order)
        if expected <= length <= expected + 1 and at + 4 + expected <= len(content):
            return True
    return False
