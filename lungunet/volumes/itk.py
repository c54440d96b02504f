"""The only door to SimpleITK: voxels of DICOM files, and writing of all formats."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lungunet.data.files import replacing
from lungunet.data.kinds import native_order
from lungunet.errors import DataError, GeometryError, MissingExtraError, counted
from lungunet.process_wide import across_threads
from lungunet.volumes.grid import Grid
from lungunet.volumes.nesting import refuse_deep
from lungunet.volumes.pixels import TAGS, check_pixels
from lungunet.volumes.signatures import refuse_foreign

_INT16 = np.iinfo(np.int16)


def read_values(path: Path) -> np.ndarray:
    """Read the voxels of a file, rescaled as it says: int16 where that is exact, else float32.

    They come as (k, j, i), in the order of the file, its slowest axis first.
    """
    with _opened(path) as reader:
        image = reader.Execute()
    known = {tag: image.GetMetaData(tag) for tag in TAGS if image.HasMetaDataKey(tag)}
    check_pixels(path, known, image.GetNumberOfPixels())
    return _narrowed(simpleitk().GetArrayViewFromImage(image), path)


def write_values(
    path: Path, array: np.ndarray, grid: Grid, *, facts: Mapping[str, str] | None = None
) -> None:
    """Write voxels, (k, j, i) in the order of the file, on a grid; nothing else goes into it.

    Compressed, atomically; the ending of the path decides the format.

    Parameters
    ----------
    facts : fields to add to the header, of NRRD
    """
    _refuse_name(path)
    image = _image(array, grid)
    for name, value in (facts or {}).items():
        image.SetMetaData(name, value)
    with replacing(path) as temporary, _quiet() as sitk:
        # SimpleITK knows formats by their endings.
        ending = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
        named = temporary.with_name(temporary.name + ending)
        try:
            sitk.WriteImage(image, str(named), useCompression=True)
            named.replace(temporary)
        except RuntimeError as err:
            raise DataError("cannot be written. Choose another place.", where=path) from err
        finally:
            named.unlink(missing_ok=True)


def resample_nearest(array: np.ndarray, grid: Grid, onto: Grid, *, outside: int) -> np.ndarray:
    """Look up each voxel of the grid ``onto``; the nearest one counts.

    Takes and returns (k, j, i) int16, each in the order of the file with its grid; ``outside`` is
    the value where ``grid`` does not reach.
    """
    with _quiet() as sitk:
        resampler = sitk.ResampleImageFilter()
        resampler.SetSize(onto.size)
        resampler.SetOutputSpacing(onto.spacing)
        resampler.SetOutputOrigin(onto.origin)
        resampler.SetOutputDirection(onto.direction)
        resampler.SetInterpolator(sitk.sitkNearestNeighbor)
        resampler.SetDefaultPixelValue(outside)
        moved = resampler.Execute(_image(array, grid))
        return np.array(sitk.GetArrayViewFromImage(moved))


def simpleitk() -> Any:
    """Return the package."""
    try:
        import SimpleITK
    except ImportError as err:
        raise MissingExtraError(
            "SimpleITK is not installed. pip install 'lungunet[volumes]'", where="volumes"
        ) from err
    return SimpleITK


@across_threads
@contextmanager
def _quiet() -> Iterator[Any]:
    """Keep SimpleITK from printing warnings on stderr: what matters is checked and said here."""
    sitk = simpleitk()
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield sitk
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file as DICOM and nothing else, for other readers of SimpleITK survive less."""
    with _quiet() as sitk:
        _refuse_name(path)
        refuse_foreign(path)
        refuse_deep(path)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        try:
            yield reader
        except RuntimeError as err:
            if "orthonormal" in str(err):
                raise GeometryError(
                    "its axes are not at right angles (gantry tilt). "
                    "Resample it to a straight grid first.",
                    where=path,
                ) from err
            raise DataError(
                "not a readable volume: damaged, truncated, or of another format. "
                "Copy or export it again.",
                where=path,
            ) from err


def _refuse_name(path: Path) -> None:
    """Refuse names that no text is, on which SimpleITK would end the whole program."""
    try:
        str(path).encode()
    except UnicodeEncodeError as err:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise DataError("the name is no UTF-8. Rename it.", where=shown) from err


def _image(array: np.ndarray, grid: Grid) -> Any:
    image = simpleitk().GetImageFromArray(native_order(array))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def _narrowed(values: np.ndarray, path: Path) -> np.ndarray:
    """Return int16 where that loses nothing, else float32; slice by slice, to save memory."""
    if values.dtype.kind == "f":
        count = sum(int((~np.isfinite(plane)).sum()) for plane in values)
        if count:
            raise DataError(
                f"{counted(count, 'voxel')} NaN or infinite. Replace them by HU of air.", where=path
            )
    fits = _INT16.min <= values.min() and values.max() <= _INT16.max
    whole = values.dtype.kind != "f" or all((plane == np.rint(plane)).all() for plane in values)
    return np.array(values, np.int16 if fits and whole else np.float32)
