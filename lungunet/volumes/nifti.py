"""Reads NIfTI-1 and NIfTI-2, single files and pairs, and refuses what programs read differently.

Not through SimpleITK, which passes over missing voxels and wrong checksums, takes the qform where
other readers take the sform, and knows no NIfTI-2.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lungunet.errors import DataError, GeometryError
from lungunet.volumes.fields import refuse_other_axes, unreadable
from lungunet.volumes.grid import Grid
from lungunet.volumes.voxels import Stored, read_head, read_stored

_Order = Literal["<", ">"]
_SHAPES = {"dim": 8, "pixdim": 8, "quatern": 3, "qoffset": 3, "srow": (3, 4)}


def _layout(itemsize: int, places: dict[str, tuple[str, int]]) -> np.dtype[np.void]:
    return np.dtype(
        {
            "names": list(places),
            "formats": [(kind, _SHAPES.get(name, ())) for name, (kind, _) in places.items()],
            "offsets": [at for _, at in places.values()],
            "itemsize": itemsize,
        }
    )


_LAYOUTS = {
    348: _layout(
        348,
        {
            **{"magic": ("S4", 344), "dim": ("i2", 40), "datatype": ("i2", 70)},
            **{"bitpix": ("i2", 72), "pixdim": ("f4", 76), "vox_offset": ("f4", 108)},
            **{"scl_slope": ("f4", 112), "scl_inter": ("f4", 116), "xyzt_units": ("u1", 123)},
            **{"qform_code": ("i2", 252), "sform_code": ("i2", 254), "quatern": ("f4", 256)},
            **{"qoffset": ("f4", 268), "srow": ("f4", 280)},
        },
    ),
    540: _layout(
        540,
        {
            **{"magic": ("S4", 4), "datatype": ("i2", 12), "bitpix": ("i2", 14)},
            **{"dim": ("i8", 16), "pixdim": ("f8", 104), "vox_offset": ("i8", 168)},
            **{"scl_slope": ("f8", 176), "scl_inter": ("f8", 184), "qform_code": ("i4", 344)},
            **{"sform_code": ("i4", 348), "quatern": ("f8", 352), "qoffset": ("f8", 376)},
            **{"srow": ("f8", 400), "xyzt_units": ("i4", 500)},
        },
    ),
}
"""Of NIfTI-1 and NIfTI-2: a header begins with its own length."""

_DTYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"},
    **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
_COLOURS = {128: 3, 2304: 4}  # values in a voxel
_SINGLE, _PAIR = (b"n+1", b"n+2"), (b"ni1", b"ni2")
_ROUNDED = 0.1  # of a voxel: the two orientations are stored with few digits
_CODES = range(6)  # of sform and qform: what the coordinates are aligned to; 0 is none
_OTHER_UNITS = {1: "metres", 3: "micrometres"}  # codes of xyzt_units; 2 is mm, 0 is taken for it
_TO_LPS = np.array([-1.0, -1.0, 1.0])  # NIfTI counts to the right and to the front


@dataclass(frozen=True)
class _Header:
    path: Path
    fields: Any  # one record of a layout
    order: _Order
    first: int  # byte of voxels at the earliest, in a file with header


def is_pair(path: Path) -> bool:
    """Whether a file is the header or the voxels of a NIfTI or Analyze pair."""
    header = path.with_suffix(_matching(path, ".hdr"))
    if path.suffix.lower() not in (".hdr", ".img") or not header.is_file():
        return path.suffix.lower() == ".hdr" and not path.exists()
    return _order(read_head(header, 4)[0]) is not None


def header_of(path: Path) -> Path:
    """Return the file that stands for a scan: of a pair the header."""
    return path.with_suffix(_matching(path, ".hdr")) if path.suffix.lower() == ".img" else path


def read_nifti(path: Path, series: str | None = None) -> tuple[np.ndarray, Grid]:
    """Read a file or pair, as :attr:`Format.read` does.

    Parameters
    ----------
    path : of a pair either file
    series : not looked at, there is but one
    """
    header = _read_header(header_of(path))
    size = _size(header)
    dtype = _dtype(header)
    slope, intercept = _scale(header)
    grid = _grid(header, size)
    voxels, packing, offset = _place(header)
    stored = Stored(
        voxels, size, dtype, offset=offset, packing=packing, slope=slope, intercept=intercept
    )
    return read_stored(stored), grid


def nifti_voxels(path: Path) -> Path:
    """Return the file that holds the voxels, as :attr:`Format.voxels` does."""
    return _place(_read_header(header_of(path)))[0]


def _order(head: bytes) -> _Order | None:
    if int.from_bytes(head[:4], "little") in _LAYOUTS:
        return "<"
    return ">" if int.from_bytes(head[:4], "big") in _LAYOUTS else None


def _read_header(path: Path) -> _Header:
    head, _ = read_head(path, max(_LAYOUTS))
    order = _order(head)
    if order is None:
        raise unreadable(path, "NIfTI")
    length = int.from_bytes(head[:4], "little" if order == "<" else "big")
    if len(head) < length:
        raise DataError("truncated within its header. Copy it again.", where=path)
    fields = np.frombuffer(head, _LAYOUTS[length].newbyteorder(order), 1)[0]
    if fields["magic"] not in (*_SINGLE, *_PAIR):
        if path.suffix.lower() == ".hdr":
            raise GeometryError(
                "is Analyze 7.5, which states no orientation, so left and right are a guess. "
                "Export it again from the DICOM series, as NIfTI.",
                where=path,
            )
        raise DataError("damaged: its header has no mark of NIfTI. Copy it again.", where=path)
    return _Header(path, fields, order, length + 4)


def _size(header: _Header) -> tuple[int, ...]:
    axes = int(header.fields["dim"][0])
    sizes = [int(n) for n in header.fields["dim"][1 : axes + 1]]
    if not 1 <= axes <= 7 or min(sizes) < 1:
        raise DataError(
            f"damaged: it states {axes} axes of {sizes} voxels. Copy it again.", where=header.path
        )
    while len(sizes) > 3 and sizes[-1] == 1:
        del sizes[-1]
    values = _COLOURS.get(int(header.fields["datatype"]), 1)
    if len(sizes) == 5 and sizes[3] == 1:
        values = sizes.pop()
        del sizes[-1]
    refuse_other_axes(sizes, values, header.path)
    return tuple(sizes)


def _dtype(header: _Header) -> np.dtype[np.generic]:
    code, bits = int(header.fields["datatype"]), int(header.fields["bitpix"])
    if code not in _DTYPES:
        raise DataError(
            f"datatype {code}, a CT volume holds integers or floats. Save it as int16.",
            where=header.path,
        )
    dtype = np.dtype(header.order + _DTYPES[code])
    if bits not in (0, dtype.itemsize * 8):
        raise DataError(
            f"contradicts itself: {dtype.name} in {bits} bits. Copy or export it again.",
            where=header.path,
        )
    return dtype


def _scale(header: _Header) -> tuple[float, float]:
    slope, intercept = (float(header.fields[name]) for name in ("scl_slope", "scl_inter"))
    if slope == 0 and np.isfinite(intercept) and intercept != 0:
        raise DataError(
            f"states an offset of {intercept:g} with a scale of 0, which "
            "programs read differently. Save it with a scale of 1.",
            where=header.path,
        )
    if slope == 0 or np.isnan(slope):  # both mean that there is none
        return 1.0, 0.0
    if not np.isfinite([slope, intercept]).all():
        raise DataError(
            f"scale {slope:g} and offset {intercept:g} are no numbers to rescale by. "
            "Export it again.",
            where=header.path,
        )
    return slope, intercept


def _place(header: _Header) -> tuple[Path, Any, int]:
    """Return the file of the voxels, how it is packed, and the first byte of them."""
    path, stated = header.path, float(header.fields["vox_offset"])
    single = header.fields["magic"] in _SINGLE
    least = header.first if single else 0
    if not (least <= stated < 2**60 and stated == int(stated)):
        raise DataError(
            f"states that voxels begin at byte {stated:g}, the header ends at {least}. "
            "Copy or export it again.",
            where=path,
        )
    if single:
        return path, read_head(path, 1)[1], int(stated)
    voxels = path.with_suffix(_matching(path, ".img"))
    if not voxels.is_file():
        raise DataError(f"its voxels, {voxels.name}, are missing. Copy both files.", where=path)
    return voxels, "none", int(stated)


def _matching(path: Path, suffix: str) -> str:
    return suffix.upper() if path.suffix.isupper() else suffix


def _grid(header: _Header, size: tuple[int, ...]) -> Grid:
    fields, path = header.fields, header.path
    unit = int(fields["xyzt_units"]) & 7
    if unit in _OTHER_UNITS:
        raise GeometryError(
            f"its lengths are in {_OTHER_UNITS[unit]}, which programs scale differently. "
            "Save it in mm (xyzt_units 2).",
            where=path,
        )
    for name in ("sform_code", "qform_code"):
        if fields[name] not in _CODES:  # some programs take it for 0, some for 1
            raise GeometryError(
                f"damaged: {name} {fields[name]} is none. Copy or export it again.", where=path
            )
    has_sform, has_qform = fields["sform_code"] > 0, fields["qform_code"] > 0
    if not has_sform and not has_qform:
        raise GeometryError(
            "states no orientation (sform_code and qform_code are 0), so left and right, "
            "front and back are a guess. Export it again from the DICOM series.",
            where=path,
        )
    if not has_sform:
        return _qform(header, size)
    sform = _sform(header, size)
    if sform.tilted or not np.isfinite(sform.matrix).all():
        return sform  # to be refused: what no qform can hold is no contradiction
    if has_qform:
        _refuse_contradiction(sform, _qform(header, size), path)
    # What is within rounding is put at right angles, as it is when a mask is written.
    u, _, vt = np.linalg.svd(sform.matrix)
    return replace(sform, direction=tuple((u @ vt).ravel().tolist()))


def _refuse_contradiction(sform: Grid, qform: Grid, path: Path) -> None:
    if not sform.matches(qform, within=_ROUNDED):
        apart = np.abs(sform.corners() - qform.corners()).max()
        raise GeometryError(
            f"its sform and its qform put voxels up to {apart:.3g} mm apart. "
            "Keep the right one of the two, and export it again.",
            where=path,
        )


def _sform(header: _Header, size: tuple[int, ...]) -> Grid:
    rows = header.fields["srow"].astype(np.float64) * _TO_LPS[:, None]
    if not rows[:, :3].any(axis=0).all():
        raise GeometryError("its sform has no extent. Export it again.", where=header.path)
    return Grid.stepping(size, rows[:, :3], rows[:, 3])


def _qform(header: _Header, size: tuple[int, ...]) -> Grid:
    """Follow the definition: a unit quaternion, and the sign of the third axis in pixdim[0]."""
    b, c, d = (float(part) for part in header.fields["quatern"])
    square = 1 - (b * b + c * c + d * d)
    if not square > -1e-5:  # rounded; NaN too
        raise GeometryError(
            f"its qform is no rotation (quaternion {b:g}, {c:g}, {d:g}). Export it again.",
            where=header.path,
        )
    a = np.sqrt(max(square, 0.0))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    pixdim = header.fields["pixdim"].astype(np.float64)
    steps = rotation * pixdim[1:4]
    if pixdim[0] < 0:
        steps[:, 2] *= -1
    if not (pixdim[1:4] > 0).all():
        sides = " x ".join(f"{mm:g}" for mm in pixdim[1:4])
        raise GeometryError(
            f"spacing {sides} mm is no grid of voxels. Export it again.", where=header.path
        )
    origin = header.fields["qoffset"].astype(np.float64)
    return Grid.stepping(size, steps * _TO_LPS[:, None], origin * _TO_LPS)
