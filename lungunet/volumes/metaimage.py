"""Reads MetaImage: .mha, and .mhd with its voxels in a file beside."""

import re
from math import prod
from pathlib import Path

import numpy as np

from lungunet.errors import DataError, GeometryError
from lungunet.volumes.fields import (
    Fields,
    add_field,
    no_spacing,
    read_lines,
    refuse_other_axes,
    unreadable,
)
from lungunet.volumes.grid import Grid
from lungunet.volumes.voxels import Packing, Stored, read_stored

_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4"},
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_MSB = "BinaryDataByteOrderMSB"
_ALIASES = {
    **dict.fromkeys(("Orientation", "Rotation"), "TransformMatrix"),
    **dict.fromkeys(("Position", "Origin"), "Offset"),
    "ElementByteOrderMSB": _MSB,
}
_YES, _NO = "yes", ""
_FLAGS = {
    **dict.fromkeys(("True", "true", "1"), _YES),
    **dict.fromkeys(("False", "false", "0"), _NO),
}
_ORDERS = {word: ">" if flag else "<" for word, flag in _FLAGS.items()}
_RESCALED = {"ElementToIntensityFunctionSlope": 1, "ElementToIntensityFunctionOffset": 0}
_SPACINGS = ("ElementSpacing", "ElementSize")
_FILE = "ElementDataFile"


def read_metaimage(path: Path, series: str | None = None) -> tuple[np.ndarray, Grid]:
    """Read a file, as :attr:`Format.read` does; ``series`` is not looked at."""
    fields = _read_fields(path)
    grid = _grid(fields)
    return read_stored(_stored(fields, grid.size)), grid


def metaimage_voxels(path: Path) -> Path:
    """Return the file that holds the voxels, as :attr:`Format.voxels` does."""
    fields = _read_fields(path)
    return _stored(fields, _grid(fields).size).path


def _read_fields(path: Path) -> Fields:
    values: dict[str, str] = {}
    for line, end in read_lines(path):
        parts = re.split("[=:]", line, maxsplit=1)
        if len(parts) == 1:
            if not line.strip():
                continue
            break
        name = _ALIASES.get(parts[0].strip(), parts[0].strip())
        add_field(values, name, parts[1].strip(), path)
        if name == _FILE:
            return Fields(path, values, end)
    if values.keys() & {"NDims", "DimSize"}:
        raise DataError("damaged or truncated within its header. Copy it again.", where=path)
    raise unreadable(path, "MetaImage")


def _grid(fields: Fields) -> Grid:
    """Find the grid: axial where nothing turns it, which the format defines so."""
    path, sizes = fields.path, fields.sizes("DimSize", "NDims")
    axes = len(sizes)
    while len(sizes) > 3 and sizes[-1] == 1:
        del sizes[-1]
    channels = "ElementNumberOfChannels"
    values = fields.numbers(channels, 1)[0] if channels in fields else 1
    refuse_other_axes(sizes, int(values), path)
    spacing = next((name for name in _SPACINGS if name in fields), None)
    if spacing is None:
        raise no_spacing(path, _SPACINGS[0])
    unit = fields.text("DistanceUnits", "mm")
    if unit not in ("mm", "?", ""):
        raise GeometryError(f"its lengths are in {unit}. Save it in mm.", where=path)
    matrix = np.eye(axes)
    if "TransformMatrix" in fields:  # a row of it is the direction of an axis
        matrix = np.reshape(fields.numbers("TransformMatrix", axes * axes), (axes, axes)).T
    offset = fields.numbers("Offset", axes) if "Offset" in fields else [0.0] * axes
    steps = matrix * fields.numbers(spacing, axes)
    return Grid.stepping(tuple(sizes), steps[:3, :3], offset[:3])


def _stored(fields: Fields, size: tuple[int, ...]) -> Stored:
    path, name = fields.path, fields.text(_FILE)
    for what, nothing in _RESCALED.items():
        if what in fields and fields.numbers(what, 1) != [nothing]:
            raise DataError(
                f"states '{what}', which programs pass over. Save the values rescaled.", where=path
            )
    packing: Packing = "deflate" if fields.choice("CompressedData", _FLAGS, "False") else "none"
    if not fields.choice("BinaryData", _FLAGS, "True"):
        packing = "text"
    dtype = np.dtype(_order(fields, packing) + fields.choice("ElementType", _TYPES))
    if name == "LOCAL":
        return Stored(path, size, dtype, start=fields.end, packing=packing)
    if name.split()[:1] == ["LIST"] or "%" in name:
        raise DataError("its voxels lie in several files. Save it as one .mha.", where=path)
    voxels = fields.beside(_FILE)
    start = int(fields.numbers("HeaderSize", 1)[0]) if "HeaderSize" in fields else 0
    if start == -1:  # whatever is before the voxels
        start = voxels.stat().st_size - prod(size) * dtype.itemsize
    if start < 0 or (start and packing != "none"):
        raise fields.wrong("HeaderSize")
    return Stored(voxels, size, dtype, start=start, packing=packing)


def _order(fields: Fields, packing: Packing) -> str:
    """Return the order of bytes; the format defines none, it was that of the machine."""
    if packing == "text" or fields.choice("ElementType", _TYPES)[1] == "1":
        return ""
    if _MSB not in fields:
        raise DataError(
            f"states no order of bytes. Add '{_MSB} = False' above '{_FILE}' where it comes from "
            "a PC or a Mac.",
            where=fields.path,
        )
    return fields.choice(_MSB, _ORDERS)
