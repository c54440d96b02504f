"""CT volumes: NIfTI, NRRD, MHA and DICOM as (z, y, x) arrays, and masks back onto their grid.

Needs the extra ``lungunet[volumes]``. Nothing of a file but voxels and grid reaches an output.
"""

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lungunet.errors import DataError, GeometryError, LungUNetWarning
from lungunet.volumes.dicom import Slice
from lungunet.volumes.formats import WRITTEN, format_of, volume_name
from lungunet.volumes.grid import Grid, straighten
from lungunet.volumes.itk import resample_nearest, simpleitk, write_values
from lungunet.volumes.pacs import at_hand
from lungunet.volumes.scan import Scan
from lungunet.volumes.series import read_scan, the_scan
from lungunet.volumes.stack import planes_of

_WRITTEN_DTYPES = ("uint8", "int16", "float32")
_OUTSIDE = int(np.iinfo(np.int16).min)


@dataclass(frozen=True, eq=False)
class Volume:
    """One CT scan, or one mask of a scan.

    Parameters
    ----------
    array : (D, H, W) int16 where that is exact, else float32; HU of a scan, raw values of a mask.
        Axial: z from feet to head, rows from front to back, columns from the patient's right to
        the left. Oblique scans are turned by right angles to the nearest such order.
    path : the file, or the folder of the series
    name : what tables and output files call it: ``path`` without folder and ending
    grid : where the file's voxels lie
    slices : of DICOM those that the planes are, in the order of the file's axis; none of another
        format, or where it was resampled
    """

    array: np.ndarray
    path: Path
    name: str
    grid: Grid
    slices: tuple[Slice, ...] = field(default=(), repr=False)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(z, y, x): distances between the centres of neighbouring voxels."""
        return self.grid.spacing_mm


def read_volume(
    path: str | Path | Scan, *, series: str | None = None, resample: bool = False
) -> Volume:
    """Read a CT scan, or a mask in the same formats.

    Parameters
    ----------
    path : .nii, .nii.gz, .hdr or .img, .nrrd, .mha, .mhd; one DICOM file; a folder, or a zip, that
        holds a DICOM series; or what :func:`find_volumes` found
    series : which one where a folder or zip holds several: the short id that the error lists, or
        the SeriesInstanceUID
    resample : put DICOM slices that are unevenly spaced, or sheared by a gantry tilt, and volume
        files that a converter left sheared so, on a straight grid, linearly; a warning says so.
        Without it they are refused

    Returns
    -------
    Volume
        HU where the file states how to rescale its values. Of a single DICOM file D is 1, and the
        spacing along z the slice thickness (1 mm where it states none).

    Raises
    ------
    DataError
        When the file is missing, damaged, in colour, of other than three axes, or holds NaN.
    GeometryError
        When slices are missing, doubled, unevenly spaced or more than 30 mm apart, axes are not at
        right angles (gantry tilt), or a file contradicts itself about its orientation, or does not
        state spacing and orientation (where a MetaImage states none, its format does).
    ConfigError
        When there are several series to choose from.
    MissingExtraError
        When SimpleITK or pydicom is not installed.
    """
    simpleitk()  # before any complaint about a file
    if isinstance(path, Scan) and path.remote is not None:
        with at_hand(path) as here:  # its slices are gone then, so that no mask can refer to them
            return replace(_read_slices(here, resample), path=path.path, slices=())
    if isinstance(path, Scan) and (path.slices or path.error):
        return _read_slices(path, resample)
    series = path.series if isinstance(path, Scan) and series is None else series
    path = Path(path)
    if not path.exists():
        raise DataError("no such file. Check the path.", where=path)
    row = format_of(path)
    if row.is_folder:
        return _read_slices(replace(the_scan(path, series), name=volume_name(path)), resample)
    if row.holds_slices:
        array, grid = row.read(path, series, resample=resample)
    else:
        array, grid = row.read(path, series)
    if resample and grid.tilted:
        array, grid = _straightened(array, grid, path)
    grid.check(str(path))
    return Volume(grid.to_axial(array), path, volume_name(path), grid)


def _read_slices(scan: Scan, resample: bool) -> Volume:
    array, grid = read_scan(scan, resample=resample)
    planes = planes_of(scan.slices, scan.path)
    return Volume(grid.to_axial(array), scan.path, scan.name, grid, planes)


def _straightened(array: np.ndarray, grid: Grid, path: Path) -> tuple[np.ndarray, Grid]:
    try:
        straight = straighten(array, grid)
    except GeometryError as err:
        raise GeometryError(err.message, where=path) from err
    warnings.warn(
        f"{path}: its axes are {grid.tilt_degrees:.1f} degrees off right angles (gantry tilt). "
        f"Resampled to a straight grid of {_text(straight[1])}: its mask lies on that grid.",
        LungUNetWarning,
        stacklevel=3,
    )
    return straight


def write_volume(path: str | Path, array: np.ndarray, *, like: Volume) -> None:
    """Write an array on the grid of a scan's file: same size, spacing, origin and direction.

    Parameters
    ----------
    path : ends with .nii.gz, .nii, .nrrd or .mha
    array : (D, H, W) uint8, int16 or float32, in the order of ``like.array``
    like : the scan

    Raises
    ------
    GeometryError
        When the array is not of the scan's shape.
    DataError
        When ending or dtype do not fit, or the folder cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(WRITTEN) or array.dtype.name not in _WRITTEN_DTYPES:
        raise DataError(
            f"volumes are written as {', '.join(WRITTEN)} of "
            f"{', '.join(_WRITTEN_DTYPES)}, this is {array.dtype}. Choose one of these.",
            where=path,
        )
    refuse_other_shape(array, like, path)
    write_values(path, like.grid.to_file(array), like.grid)


def refuse_other_shape(array: np.ndarray, like: Volume, where: object) -> None:
    """Refuse what has not one value for each voxel of a scan.

    Raises
    ------
    GeometryError
        Says both shapes.
    """
    if array.shape != like.array.shape:
        raise GeometryError(
            f"the array is {array.shape}, {like.name} is {like.array.shape}. "
            "Pass one value per voxel of the scan.",
            where=where,
        )


def put_on_grid(mask: Volume, scan: Volume) -> np.ndarray:
    """Return a mask voxel by voxel with its scan, whatever grid it was drawn on.

    Parameters
    ----------
    mask : raw values, int16
    scan : what it was drawn on

    Returns
    -------
    (D, H, W) int16, as ``scan.array``
        The same values where the grids are the same. Else each voxel of the scan takes the nearest
        one of the mask, 0 where the mask does not reach, and a warning says so.

    Raises
    ------
    GeometryError
        When no labelled voxel of the mask lies in the scan.
    DataError
        When the mask holds fractions.
    """
    if mask.array.dtype.name != "int16":
        raise DataError(f"holds {mask.array.dtype} values, labels are integers.", where=mask.path)
    here, there = mask.grid.turned, scan.grid.turned
    if here.matches(there):
        return mask.array
    moved = resample_nearest(mask.array, here, there, outside=_OUTSIDE)
    beyond = moved == _OUTSIDE
    moved[beyond] = 0
    if beyond.all() or (mask.array.any() and not moved.any()):
        raise GeometryError(
            f"lies elsewhere than {scan.path}. Check that the two belong together.", where=mask.path
        )
    warnings.warn(
        f"{mask.path}: is on another grid than its scan ({_text(here)} against {_text(there)}). "
        f"The nearest voxels were taken{', 0 where it does not reach' if beyond.any() else ''}.",
        LungUNetWarning,
        stacklevel=2,
    )
    return moved


def _text(grid: Grid) -> str:
    sides = "x".join(str(side) for side in grid.size[::-1])
    spacing = "x".join(f"{mm:g}" for mm in grid.spacing[::-1])
    return f"{sides} of {spacing} mm"
