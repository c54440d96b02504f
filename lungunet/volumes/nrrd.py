"""Reads NRRD: .nrrd, and .nhdr with its voxels in a file beside."""

import re
from contextlib import suppress
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
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int"), "i2"),
    **dict.fromkeys(("int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int"), "u2"),
    **dict.fromkeys(("uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long"), "i8"),
    **dict.fromkeys(("signed long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int"), "u8"),
    **dict.fromkeys(("uint64", "uint64_t"), "u8"),
    **{"float": "f4", "double": "f8"},
}
_PACKINGS: dict[str, Packing] = {
    "raw": "none",
    **dict.fromkeys(("gzip", "gz"), "deflate"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
    **dict.fromkeys(("ascii", "text", "txt"), "text"),
}
_SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
}
"""The spaces that name sides of the patient, not of a scanner or a room; the signs lead to LPS."""

_FILE = "data file"
_SKIPS = ("line skip", "byte skip")
_ONE_WORD = {"datafile": _FILE, "lineskip": "line skip", "byteskip": "byte skip"}
_VECTOR = re.compile(r"\([^)]*\)|none")


def read_nrrd(path: Path, series: str | None = None) -> tuple[np.ndarray, Grid]:
    """Read a file, as :attr:`Format.read` does; ``series`` is not looked at."""
    fields = _read_fields(path)
    grid = _grid(fields)
    return read_stored(_stored(fields, grid.size)), grid


def nrrd_voxels(path: Path) -> Path:
    """Return the file that holds the voxels, as :attr:`Format.voxels` does."""
    fields = _read_fields(path)
    return _stored(fields, _grid(fields).size).path


def read_nrrd_pairs(path: Path) -> dict[str, str]:
    """Return what a header says beside its fields, in pairs of key and value: names of segments."""
    pairs = {}
    for line, _ in read_lines(path):
        if not line:
            break
        key, colon, value = line.partition(":")
        if colon and value.startswith("=") and not line.startswith("#"):
            pairs[_plain(key)] = _plain(value[1:])
    return pairs


def _plain(text: str) -> str:
    with suppress(UnicodeDecodeError):  # lines are read as Latin-1
        text = text.encode("latin-1").decode()
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)


def _read_fields(path: Path) -> Fields:
    """Read the header; names and values are lower case, but that of the file of voxels."""
    lines = read_lines(path)
    first, at = next(lines, ("", 0))
    if not re.fullmatch("NRRD000[1-5]", first):
        raise unreadable(path, "NRRD")
    values: dict[str, str] = {}
    ended = False
    for line, end in lines:
        at = end
        if not line:
            ended = True
            break
        name, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):
            continue
        if not colon:
            raise unreadable(path, "NRRD")
        key = _ONE_WORD.get(name.strip().lower(), name.strip().lower())
        add_field(values, key, value.strip() if key == _FILE else value.strip().lower(), path)
    if not ended and _FILE not in values:  # without voxels the empty line may be missing
        raise DataError("truncated within its header. Copy it again.", where=path)
    return Fields(path, values, at)


def _grid(fields: Fields) -> Grid:
    path, sizes = fields.path, fields.sizes("sizes", "dimension")
    if "space directions" not in fields and "spacings" not in fields:
        raise no_spacing(path, "space directions")
    space = fields.text("space", "")
    if space not in _SPACES or "space directions" not in fields:
        said = "no 'space'" if not space else f"space '{space}'"
        said = "no 'space directions'" if space in _SPACES else said
        raise GeometryError(
            f"states no orientation ({said}), so left and right, front and back are a "
            "guess. Export it again from the DICOM series.",
            where=path,
        )
    units = set(re.findall(r'"([^"]*)"', fields.text("space units", ""))) - {"mm", ""}
    if units:
        raise GeometryError(
            f"its lengths are in {min(units)}. Save it in mm (space units).", where=path
        )
    vectors = _VECTOR.findall(fields.text("space directions"))
    if len(vectors) != len(sizes) or _VECTOR.sub("", fields.text("space directions")).strip():
        raise fields.wrong("space directions")
    axes = list(zip(sizes, vectors, strict=True))
    # An axis without direction is none of space: colours, or the layers of a segmentation.
    values = prod(size for size, vector in axes if vector == "none")
    size = [size for size, vector in axes if vector != "none"]
    refuse_other_axes(size, values, path)
    steps = [fields.parse("space directions", vector, 3) for _, vector in axes if vector != "none"]
    origin = fields.numbers("space origin", 3) if "space origin" in fields else (0.0, 0.0, 0.0)
    signs = np.array(_SPACES[space])
    return Grid.stepping(tuple(size), np.transpose(steps) * signs[:, None], signs * origin)


def _stored(fields: Fields, size: tuple[int, ...]) -> Stored:
    path, encoding = fields.path, fields.text("encoding")
    if encoding not in _PACKINGS:
        raise DataError(f"encoding {encoding} is not read. Save it with gzip or raw.", where=path)
    if any(fields.text(skip, "0") != "0" for skip in _SKIPS):
        raise DataError("bytes to skip are not read. Save it as one .nrrd.", where=path)
    packing, kind, order = _PACKINGS[encoding], fields.choice("type", _TYPES), ""
    if kind[1] != "1" and packing != "text":
        order = fields.choice("endian", {"little": "<", "big": ">"})
    dtype = np.dtype(order + kind)
    if _FILE not in fields:
        return Stored(path, size, dtype, start=fields.end, packing=packing)
    if fields.text(_FILE).startswith("LIST") or "%" in fields.text(_FILE):
        raise DataError("its voxels lie in several files. Save it as one .nrrd.", where=path)
    return Stored(fields.beside(_FILE), size, dtype, packing=packing)
