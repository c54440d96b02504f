"""Numbers from a mask: area, volume, and the HU within; one row per slice, scan or lung.

Pure functions of arrays, and the CSV file of their rows.
"""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lungunet.data.files import write_text
from lungunet.errors import DataError, GeometryError
from lungunet.inference.sides import LEFT, RIGHT

Region = Literal["lungs", "left lung", "right lung"]

_HU_DTYPES = ("int16", "int32", "float32")
_EMPHYSEMA_HU = -950
_MM3_PER_ML = 1000


@dataclass(frozen=True)
class Measurement:
    """What was measured in one slice, or in all slices of a scan.

    What is undefined is NaN: lengths where the spacing is not known, HU of eight-bit and uint16
    pictures or of an empty mask, the area of a scan, the volume of a slice.

    Parameters
    ----------
    name : of the image file or the scan
    area_px : pixels of the mask; of a scan summed over its slices, which is voxels
    area_mm2 : of a slice
    mean_hu, hu_p05, hu_p95 : mean, 5th and 95th percentile of the HU in the mask
    emphysema_index : in [0, 1]; share of the mask below -950 HU
    volume_ml : of a scan
    region : lungs, left lung or right lung (the patient's)
    slice : of a scan, counted from 0 at the feet; None for the whole scan and for single images
    spacing_z_mm, spacing_y_mm, spacing_x_mm : what areas and volumes were computed with
    """

    name: str
    area_px: int
    area_mm2: float
    mean_hu: float
    hu_p05: float
    hu_p95: float
    emphysema_index: float
    volume_ml: float
    region: Region
    slice: int | None
    spacing_z_mm: float
    spacing_y_mm: float
    spacing_x_mm: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; None for what is undefined."""
        return {
            column: None if isinstance(value, float) and math.isnan(value) else value
            for column, value in asdict(self).items()
        }


COLUMNS = tuple(field.name for field in fields(Measurement))
"""Of the CSV file, in order."""


@dataclass(frozen=True)
class VolumeMeasurement:
    """What was measured in a scan.

    Parameters
    ----------
    lungs : all of the mask
    slices : the lungs in each slice, from the feet up
    left, right : each lung, where the mask tells them apart
    """

    lungs: Measurement
    slices: tuple[Measurement, ...]
    left: Measurement | None = None
    right: Measurement | None = None

    @property
    def rows(self) -> list[Measurement]:
        """The scan, its lungs, then its slices: the rows of a table."""
        return [row for row in (self.lungs, self.left, self.right) if row] + list(self.slices)


def measure_slice(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    name: str = "slice",
    spacing_mm: tuple[float, float] | None = None,
    region: Region = "lungs",
) -> Measurement:
    """Measure the lung in one slice.

    Parameters
    ----------
    image : (H, W); HU where it is int16, int32 or float32. Other dtypes have none.
    mask : (H, W), bool or integer; above 0 is inside
    spacing_mm : (y, x); None leaves mm2 undefined
    region : what the mask is of

    Returns
    -------
    Measurement
        Area ``n * y * x`` of n pixels; percentiles with linear interpolation between ranks (type 7
        of Hyndman and Fan). An empty mask has area 0 and no HU.

    Raises
    ------
    GeometryError
        When image and mask differ in shape.
    DataError
        When they are no slices, or a spacing is not above 0.

    References
    ----------
    Emphysema index: Müller, Staples, Miller, Abboud, "Density mask": an objective method to
    quantitate emphysema using computed tomography, 1988, DOI 10.1378/chest.94.4.782; -950 HU after
    Gevenois, de Vuyst, de Maertelaer et al., Comparison of computed density and microscopic
    morphometry in pulmonary emphysema, 1996, DOI 10.1164/ajrccm.154.1.8680679. Theirs are sections
    of 1 mm with a sharp kernel; thick or smoothed slices give less.
    Percentiles: Hyndman, Fan, Sample quantiles in statistical packages, 1996,
    DOI 10.1080/00031305.1996.10473566.

    Examples
    --------
    >>> hu = np.array([[-1000, -900, -800, 40]], np.int16)
    >>> found = measure_slice(hu, hu < -700, spacing_mm=(0.5, 2.0))
    >>> found.area_px, found.area_mm2, found.mean_hu, found.hu_p05
    (3, 3.0, -900.0, -990.0)
    """
    _check(image, mask, name, spacing_mm, ndim=2)
    inside = mask > 0
    y, x = spacing_mm or (math.nan, math.nan)
    area_px = int(inside.sum())
    return Measurement(
        name=name,
        area_px=area_px,
        area_mm2=area_px * y * x,
        **_measure_hu(image[inside]),
        volume_ml=math.nan,
        region=region,
        slice=None,
        spacing_z_mm=math.nan,
        spacing_y_mm=y,
        spacing_x_mm=x,
    )


def measure_volume(
    hu: np.ndarray,
    mask: np.ndarray,
    *,
    name: str = "scan",
    spacing_mm: tuple[float, float, float] | None = None,
    sides: bool = False,
) -> VolumeMeasurement:
    """Measure the lungs in a scan, as a whole and slice by slice.

    Parameters
    ----------
    hu : (D, H, W), as for :func:`measure_slice`
    mask : (D, H, W), bool or integer; above 0 is inside
    spacing_mm : (z, y, x); None leaves mm2 and mL undefined
    sides : the mask is one of :func:`split_sides`, 1 in the left lung and 2 in the right one:
        measure each by itself too

    Returns
    -------
    VolumeMeasurement
        Volume ``n * z * y * x / 1000`` of n voxels. HU of the scan are those of all its voxels, not
        the mean over slices.

    Raises
    ------
    GeometryError, DataError
        As for :func:`measure_slice`.

    References
    ----------
    See :func:`measure_slice`.

    Examples
    --------
    >>> hu = np.full((3, 40, 50), -850, np.int16)
    >>> measure_volume(hu, hu < 0, spacing_mm=(5.0, 1.0, 1.0)).lungs.volume_ml
    30.0
    """
    _check(hu, mask, name, spacing_mm, ndim=3)
    plane_mm = None if spacing_mm is None else spacing_mm[1:]
    z = math.nan if spacing_mm is None else spacing_mm[0]
    slices = [
        replace(
            measure_slice(plane, inside, name=name, spacing_mm=plane_mm),
            slice=index,
            spacing_z_mm=z,
        )
        for index, (plane, inside) in enumerate(zip(hu, mask, strict=True))
    ]

    def whole(inside: np.ndarray, region: Region) -> Measurement:
        voxels = int(inside.sum())
        return replace(
            slices[0],
            area_px=voxels,
            area_mm2=math.nan,
            **_measure_hu(hu[inside]),
            volume_ml=voxels * math.prod(spacing_mm or (math.nan,)) / _MM3_PER_ML,
            region=region,
            slice=None,
        )

    return VolumeMeasurement(
        whole(mask > 0, "lungs"),
        tuple(slices),
        left=whole(mask == LEFT, "left lung") if sides else None,
        right=whole(mask == RIGHT, "right lung") if sides else None,
    )


def write_measurements(path: str | Path, rows: Iterable[Measurement]) -> None:
    """Write one line per row as CSV, atomically: full precision, empty where undefined."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_dict() for row in rows)
    write_text(path, text.getvalue())


def _measure_hu(values: np.ndarray) -> dict[str, Any]:
    """Return the fields of a measurement that are about HU."""
    if not values.size or values.dtype.name not in _HU_DTYPES:
        return dict.fromkeys(("mean_hu", "hu_p05", "hu_p95", "emphysema_index"), math.nan)
    values = np.sort(values)  # much faster than the selection of np.percentile
    low, high = np.percentile(values, [5, 95])
    return {
        "mean_hu": float(values.mean(dtype=np.float64)),
        "hu_p05": float(low),
        "hu_p95": float(high),
        "emphysema_index": float(np.searchsorted(values, _EMPHYSEMA_HU) / values.size),
    }


def _check(
    image: np.ndarray,
    mask: np.ndarray,
    name: str,
    spacing_mm: tuple[float, ...] | None,
    *,
    ndim: int,
) -> None:
    axes = "(D, H, W)" if ndim == 3 else "(H, W)"
    if image.ndim != ndim or not image.size:
        raise DataError(f"shape {image.shape}. Pass {axes} with sizes above 0.", where=name)
    if mask.shape != image.shape:
        sizes = ["x".join(map(str, array.shape)) for array in (mask, image)]
        raise GeometryError(
            f"mask is {sizes[0]}, image is {sizes[1]}. "
            "A mask must be drawn on the image it labels: re-export it, or drop the pair.",
            where=name,
        )
    if spacing_mm is not None and (len(spacing_mm) != ndim or not min(spacing_mm) > 0):
        raise DataError(
            f"spacing_mm {spacing_mm}. Pass {ndim} values above 0 for {axes}, or None.", where=name
        )
