"""Reads a volume file once its header was checked, also for what SimpleITK passes over in silence.

That is two orientations, missing bytes, NaN, what is not stated. A NIfTI file is read a second
time for it, in pieces; of NRRD and MetaImage the text of the header, a file of its own in .nhdr
and .mhd.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lungunet.errors import DataError, GeometryError, counted
from lungunet.volumes.grid import Grid
from lungunet.volumes.itk import read_header, read_values

Check = Callable[[Path, Grid, Mapping[str, str]], None]
"""Refuses a file for what its header says; is told the grid, and the tags of NIfTI it has."""

_NIFTI_TAGS = (
    *("qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter", "xyzt_units"),
)

_ROUNDED = 0.1  # of a voxel: SimpleITK hands the sform out with six digits
_FLOATS = ("16", "64")  # codes of float32 and float64
_HEADER_BYTES = (348, 540)  # NIfTI-1 and NIfTI-2 begin with their own length
_PIECE_BYTES = 1 << 22
_OTHER_UNITS = {1: "metres", 3: "micrometres"}  # codes of xyzt_units; 2 is mm, 0 is taken for it

_SPACES = (
    *("right-anterior-superior", "left-anterior-superior", "left-posterior-superior"),
    *("ras", "las", "lps"),
)
"""Of NRRD's spaces those that name sides of the patient and not of a scanner or a room."""


def read_checked(path: Path, series: str | None = None, *, check: Check) -> tuple[np.ndarray, Grid]:
    """Read a file that holds one volume, as :attr:`Format.read` does, through SimpleITK.

    Parameters
    ----------
    series : not looked at, there is but one
    check : is asked before any voxel is decoded
    """
    grid, components, tags = read_header(path, _NIFTI_TAGS)
    if components != 1:
        raise DataError(
            f"{components} values in each voxel, a CT volume has one. Convert it.", where=path
        )
    if len(grid.size) != 3:
        raise DataError(
            f"{len(grid.size)} axes ({'x'.join(map(str, grid.size))}), a volume has "
            "three. Save each time point, or the slice as an image, in a file of its own.",
            where=path,
        )
    check(path, grid, tags)
    grid.check(str(path))
    return read_values(path), grid


def check_nifti(path: Path, grid: Grid, tags: Mapping[str, str]) -> None:
    """Refuse a NIfTI file that is understood differently by other readers, or not whole.

    Passes a file without any of its tags, which is none.
    """
    if "sform_code" not in tags:
        return
    unit = int(tags["xyzt_units"]) & 7
    if unit in _OTHER_UNITS:
        raise GeometryError(
            f"its lengths are in {_OTHER_UNITS[unit]}, which programs scale differently. "
            "Save it in mm (xyzt_units 2).",
            where=path,
        )
    if float(tags["scl_slope"]) == 0 and float(tags["scl_inter"]) != 0:
        raise DataError(
            f"states an offset of {float(tags['scl_inter']):g} with a scale of 0, which "
            "programs read differently. Save it with a scale of 1.",
            where=path,
        )
    _check_orientation(path, grid, tags)
    try:
        _check_values(path, int(np.prod(grid.size)), tags)
    except (EOFError, OSError, zlib.error) as err:
        raise DataError(f"damaged or truncated ({err}). Copy it again.", where=path) from err


def _check_orientation(path: Path, grid: Grid, tags: Mapping[str, str]) -> None:
    if tags["sform_code"] == tags["qform_code"] == "0":
        raise GeometryError(
            "states no orientation (sform_code and qform_code are 0), so left and right, "
            "front and back are a guess. Export it again from the DICOM series.",
            where=path,
        )
    if tags["sform_code"] == "0":
        return
    # SimpleITK takes the qform in some cases where other readers take the sform.
    rows = np.array([tags[f"srow_{axis}"].split() for axis in "xyz"], np.float64)
    rows[:2] *= -1  # NIfTI counts to the right and to the front
    spacing = np.linalg.norm(rows[:, :3], axis=0)
    if not spacing.all():
        raise GeometryError("its sform has no extent. Export it again.", where=path)
    sform = Grid(
        grid.size, tuple(spacing), tuple(rows[:, 3]), tuple((rows[:, :3] / spacing).ravel())
    )
    if not sform.matches(grid, within=_ROUNDED):
        apart = np.abs(sform.corners() - grid.corners()).max()
        raise GeometryError(
            f"its sform and its qform put voxels up to {apart:.1f} mm apart. "
            "Keep the right one of the two, and export it again.",
            where=path,
        )


def _check_values(path: Path, voxels: int, tags: Mapping[str, str]) -> None:
    itemsize = int(tags["bitpix"]) // 8
    missing = voxels * itemsize
    not_finite = 0
    for order, piece in _pieces(path, int(float(tags["vox_offset"])), missing):
        missing -= len(piece)
        if tags["datatype"] in _FLOATS:
            values = np.frombuffer(
                piece[: len(piece) // itemsize * itemsize], f"{order}f{itemsize}"
            )
            not_finite += int(np.count_nonzero(~np.isfinite(values)))
    if missing:
        raise DataError(
            f"truncated, {counted(missing // itemsize, 'voxel')} missing. Copy it again.",
            where=path,
        )
    if not_finite:
        raise DataError(
            f"{counted(not_finite, 'voxel')} NaN or infinite. Replace them by HU of air.",
            where=path,
        )


def _pieces(path: Path, offset: int, length: int) -> Iterator[tuple[str, bytes]]:
    """Yield the byte order and the voxels' bytes, piece by piece, as many as there are."""
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        file = gzip.GzipFile(fileobj=plain) if packed else plain
        order = "<" if int.from_bytes(file.read(4), "little") in _HEADER_BYTES else ">"
        file.seek(offset)
        while length > 0 and (piece := file.read(min(_PIECE_BYTES, length))):
            length -= len(piece)
            yield order, piece


def check_metaimage(path: Path, *_: object) -> None:
    """Refuse a MetaImage file that does not say how far its voxels lie apart.

    Without a TransformMatrix it is read as axial, from the patient's right to the left, from front
    to back, from feet to head: the format defines the identity as what is meant where nothing is
    said, and many programs leave it out.
    """
    names = {name for name, _ in _fields(path, "=:", last="ElementDataFile")}
    if not names & {"ElementSpacing", "ElementSize"}:
        raise _no_spacing(path, "ElementSpacing")


def check_nrrd(path: Path, *_: object) -> None:
    """Refuse an NRRD file that does not say where its voxels lie: the format defines no default."""
    fields = {name.lower(): value.lower() for name, value in _fields(path, ":", last="")}
    if "space directions" not in fields and "spacings" not in fields:
        raise _no_spacing(path, "space directions")
    space = fields.get("space", "")
    if space not in _SPACES:  # with one, SimpleITK insists on directions
        said = f"space '{space}'" if space else "no 'space'"
        raise GeometryError(
            f"states no orientation ({said}), so left and right, front and back are a "
            "guess. Export it again from the DICOM series.",
            where=path,
        )


def _no_spacing(path: Path, field: str) -> GeometryError:
    return GeometryError(
        f"states no spacing (no '{field}'), so all sizes are a guess. "
        "Export it again from the DICOM series.",
        where=path,
    )


def _fields(path: Path, separators: str, *, last: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of the header's fields, up to the name before the voxels."""
    with path.open("rb") as file:
        for line in file:
            name, *value = re.split(f"[{separators}]", line.decode("latin-1"), maxsplit=1)
            if name.strip() == last:
                return
            yield name.strip(), "".join(value).strip()
