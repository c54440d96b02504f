"""Numbers from a mask: area, volume, and the HU within; one row per slice, scan or lung.

Pure functions of arrays, and the job that measures files into a CSV table.
"""

import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lungunet.data.codec import (
    IGNORE,
    LabelCodec,
    lie_swapped,
    looks_inverted,
    suggest_exchanged,
    tell_inverted,
)
from lungunet.data.ct import read_image, read_mask
from lungunet.data.files import plain, refuse_existing, refuse_inputs, write_csv
from lungunet.data.hu import HuSurvey, can_hold_hu, guess_hu, refuse_no_numbers, require_hu
from lungunet.data.kinds import check_kind, check_spacing
from lungunet.data.made_by import SIDES_CODEC, read_codec
from lungunet.data.manifest import (
    Pair,
    find_images,
    find_pairs,
    refuse_equal_names,
    require_same_size,
)
from lungunet.errors import (
    ConfigError,
    DataError,
    LungUNetWarning,
    counted,
    listed,
)
from lungunet.inference.quality import tell_no_chest
from lungunet.inference.sides import LEFT, RIGHT, UNTOLD, is_told, split_sides
from lungunet.progress import Progress, silent
from lungunet.volumes.formats import is_volume_source
from lungunet.volumes.slicing import ScanPair, find_volume_pairs
from lungunet.volumes.volume import put_on_grid, read_volume

Region = Literal["lungs", "left lung", "right lung"]

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
        return dict(plain(asdict(self)))


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
    image : (H, W); HU where it is signed integers or floats. Other dtypes have none
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
        When they are no slices, the image holds NaN or infinity, or a spacing is not finite and
        above 0.

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
    >>> lung = measure_slice(hu, hu < -700, spacing_mm=(0.5, 2.0))
    >>> lung.area_px, lung.area_mm2, lung.mean_hu, lung.hu_p05
    (3, 3.0, -900.0, -990.0)
    """
    _require_measurable(image, mask, name, ndim=2)
    refuse_no_numbers(image, name)
    y, x = (math.nan, math.nan) if spacing_mm is None else check_spacing(spacing_mm, 2)
    inside = mask > 0
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
        measure each by itself too. Not so where it is not told which is which

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
    _require_measurable(hu, mask, name, ndim=3)
    spacing = (math.nan,) * 3 if spacing_mm is None else check_spacing(spacing_mm, 3)
    plane_mm = None if spacing_mm is None else spacing_mm[1:]
    slices = [
        replace(
            measure_slice(plane, inside, name=name, spacing_mm=plane_mm),
            slice=index,
            spacing_z_mm=spacing[0],
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
            volume_ml=voxels * math.prod(spacing) / _MM3_PER_ML,
            region=region,
            slice=None,
        )

    return VolumeMeasurement(
        whole(mask > 0, "lungs"),
        tuple(slices),
        left=whole(mask == LEFT, "left lung") if sides else None,
        right=whole(mask == RIGHT, "right lung") if sides else None,
    )


def without_volume(measured: VolumeMeasurement) -> VolumeMeasurement:
    """Leave volumes empty, as of a scan that shows no whole chest."""
    left, right = (
        lung and replace(lung, volume_ml=math.nan) for lung in (measured.left, measured.right)
    )
    lungs = replace(measured.lungs, volume_ml=math.nan)
    return replace(measured, lungs=lungs, left=left, right=right)


def write_measurements(path: str | Path, rows: Iterable[Measurement]) -> None:
    """Write one line per row as CSV, atomically: full precision, empty where undefined."""
    write_csv(path, (asdict(row) for row in rows), COLUMNS)


@dataclass(frozen=True)
class MeasuredFile:
    """What was measured in one slice or scan.

    Parameters
    ----------
    name : of the image file or the scan
    codec : how masks are coded
    rows : of the table, a scan's as :attr:`VolumeMeasurement.rows` has them
    error : why it could not be measured; None where it could
    swapped : whether what the codec has for the left lung lies on the patient's right, and what it
        has for the right one on the left
    untold : whether each lung was to be measured, and nothing proves which is which
    no_chest : why a scan shows no whole chest, so that its volume is left empty; see
        :func:`check_volume`
    noted : whether the folder of the masks says how they are coded, as :func:`predict_scans` leaves
        it; else somebody said so, or it was guessed
    inverted : whether lung lies on most of the picture and of its margin, as background does
    """

    name: str
    codec: LabelCodec
    rows: tuple[Measurement, ...] = ()
    error: DataError | ConfigError | None = None
    swapped: bool = False
    untold: bool = False
    no_chest: str = ""
    noted: bool = False
    inverted: bool = False


def measure_files(
    images: str | Path,
    masks: str | Path,
    out: str | Path | None = None,
    *,
    codec: LabelCodec | None = None,
    names: str | None = None,
    spacing_mm: tuple[float, float] | None = None,
    sides: bool = False,
    series: str | None = None,
    resample: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Iterator[MeasuredFile]:
    """Measure slices or scans with their masks, and write one table of all rows.

    Nothing happens before the first result is asked for. The table is written when the loop ends,
    however it does, where there is a row for it.

    Parameters
    ----------
    images : a slice, a scan, or a folder of either
    masks : its mask, or a folder of them, paired by name
    out : CSV file, as :func:`write_measurements` writes it; None writes none
    codec : of the masks: lung alone, or 1 in the left lung and 2 in the right one. None takes what
        their folder says, if they were predicted into it, else the one of 0,255 and 0,1 and 0,1,2
        that most masks fit
    names : how masks are called beside their images, as for :func:`find_pairs`
    spacing_mm : (y, x) of slices; None leaves mm2 undefined. Scans know theirs
    sides : measure each lung by itself too, told apart by :func:`split_sides` where masks do not.
        A mask or a scan that does not tell which lung is which has no rows of them, and a warning
        names it
    series : of DICOM this one alone, see :func:`find_volumes`
    resample : see :func:`read_volume`; masks made so need it again

    Yields
    ------
    MeasuredFile
        One per pair; one that cannot be used has its error, and the others go on.

    Raises
    ------
    ConfigError
        When the codec has more than three classes, a spacing is given for scans or a series for
        slices, or output would replace files.
    DataError
        When files do not pair up, or a spacing is not finite and above 0.
    """
    check_kind("codec", codec, LabelCodec | None, "Give LabelCodec.parse('0,255').")
    if spacing_mm is not None:
        check_spacing(spacing_mm, 2)
    noted = read_codec(masks) if codec is None else None
    told = codec_of_lungs(masks) if codec is None else codec
    if told is not None and told.n_classes > 3:
        raise ConfigError(
            f"{told.n_classes} classes. Name lung alone, as in 0,255, or the "
            "left and the right lung, as in 0,1,2.",
            where=f"labels '{told}'",
        )
    volumes = is_volume_source(images)
    if volumes and spacing_mm is not None:
        raise ConfigError("for slices, these are volumes. Leave it out.", where="spacing_mm")
    for name, given in {"series": series is not None, "resample": resample}.items():
        if given and not volumes:
            raise ConfigError("for volumes, these are slices. Leave it out.", where=name)
    pairs: Mapping[str, Pair | ScanPair] = (
        find_volume_pairs(images, masks, names=names, series=series)
        if volumes
        else _pair_slices(Path(images), Path(masks), names)
    )
    if out is not None:
        read = [file for pair in pairs.values() for file in (pair.image, pair.mask) if file]
        refuse_inputs([Path(out)], [Path(file) for file in read])
        refuse_existing([Path(out)], overwrite)
    codec = codec or told or guess_codec(pairs.values(), volumes=volumes, progress=progress)
    judged = HuSurvey()
    measured = (
        partial(_measure_scan, resample=resample)
        if volumes
        else partial(_measure_image, spacing_mm=spacing_mm, judged=judged)
    )
    rows: list[Measurement] = []
    swapped: list[str] = []
    untold: list[str] = []
    without: list[str] = []
    inverted = with_lung = 0
    try:
        for name, pair in progress(pairs.items(), desc="measure", total=len(pairs)):
            try:
                file = measured(name, pair, codec, sides=sides)
            except (DataError, ConfigError) as err:
                yield MeasuredFile(name, noted or codec, error=err, noted=noted is not None)
                continue
            rows += file.rows
            swapped += [name] * file.swapped
            untold += [name] * file.untold
            inverted += file.inverted
            with_lung += file.rows[0].area_px > 0
            if file.no_chest:
                without.append(f"{name}: {file.no_chest}")
            yield replace(file, codec=noted or codec, noted=noted is not None)
    finally:
        if rows and out is not None:
            write_measurements(out, rows)
    if text := tell_inverted(inverted, with_lung, codec):
        warnings.warn(f"{masks}: {text}", LungUNetWarning, stacklevel=2)
    if swapped:
        _warn_of_swapped(swapped, len(pairs), codec)
    if untold:
        warnings.warn(
            f"{listed(untold, separator=', ')}: no rows of the left and the right lung in "
            f"{len(untold)} of {counted(len(pairs), 'pair')}, for neither two lungs nor body and "
            "spine prove which is which.",
            LungUNetWarning,
            stacklevel=2,
        )
    if without:
        warnings.warn(
            f"volume_ml is left empty of {len(without)} of {counted(len(pairs), 'scan')}:\n  "
            f"{listed(without)}",
            LungUNetWarning,
            stacklevel=2,
        )
    if (fault := judged.fault) is not None and fault.severity == "warning":
        warnings.warn(f"{images}: {fault.text}", LungUNetWarning, stacklevel=2)


def _pair_slices(images: Path, masks: Path, names: str | None) -> dict[str, Pair]:
    if images.is_dir() or masks.is_dir():
        try:
            pairs = find_pairs(images, masks, names=names)
        except DataError:
            pairs = _pair_predicted(images, masks) if images.is_dir() and masks.is_dir() else []
            if not pairs:
                raise
        refuse_equal_names(pairs)
        return {pair.name: pair for pair in pairs}
    return {images.stem: Pair(images, masks)}


def _pair_predicted(images: Path, masks: Path) -> list[Pair]:
    """Pair all masks of a folder with the files they were predicted from; none where one has none.

    Files without a mask are left out, as the masks that lay among the slices when these were read.
    """
    from lungunet.inference.record import identify_source, masks_by_source

    name_of, mask_of = masks_by_source(masks), {path.stem: path for path in find_images(masks)}
    called = {name_of.get(identify_source([path])): path for path in find_images(images, but=masks)}
    if not mask_of.keys() <= called.keys():
        return []
    return [Pair(called[name], mask, name) for name, mask in sorted(mask_of.items())]


def codec_of_lungs(masks: str | Path) -> LabelCodec | None:
    """Return how masks are coded that were predicted into a folder, of lungs 0, 1 and 2.

    What is 3 for want of knowledge is seen by :func:`encode_scan`.
    """
    codec = read_codec(masks)
    return LabelCodec.parse("0,1,2") if codec == SIDES_CODEC else codec


def guess_codec(
    pairs: Collection[Pair | ScanPair], *, volumes: bool, progress: Progress = silent
) -> LabelCodec:
    """Return the one of three codecs that most masks fit: no mask by itself decides."""
    codecs = [LabelCodec.parse(labels) for labels in ("0,255", "0,1", "0,1,2")]
    fitting = [0, 0, 0]
    for pair in progress(pairs, desc="labels", total=len(pairs)):
        try:
            mask = pair.require_mask()
            raw = read_volume(mask).array if volumes else read_mask(Path(mask))
        except (DataError, ConfigError):
            continue  # said where it is measured
        for place, codec in enumerate(codecs):
            fitting[place] += _fits(raw, codec)
    return codecs[fitting.index(max(fitting))]  # of equal ones the first


def _fits(raw: np.ndarray, codec: LabelCodec) -> bool:
    try:
        codec.encode(raw) if raw.ndim == 2 else _read_scan_classes(raw, codec, "mask")
    except DataError:
        return False
    return True


def _read_classes(raw: np.ndarray, codec: LabelCodec, where: str) -> np.ndarray:
    """Encode a mask; what is ignored is not measured."""
    classes = codec.encode(raw, where)
    return np.where(classes == IGNORE, 0, classes) if codec.ignores else classes


def _read_scan_classes(raw: np.ndarray, codec: LabelCodec, where: str) -> np.ndarray:
    """Encode a mask of a scan; what is ignored is not measured."""
    classes = encode_scan(raw, codec, where)
    return np.where(classes == IGNORE, 0, classes) if codec.ignores else classes


def encode_scan(
    raw: np.ndarray, codec: LabelCodec, where: str, *, argument: str = "codec"
) -> np.ndarray:
    """Return classes of a scan, or 3 for all lung in a mask with sides that does not tell them."""
    if codec.n_classes == 3 and UNTOLD not in codec.classes:
        unsure = raw == UNTOLD
        if unsure.any() and not raw[~unsure].any():
            return np.where(unsure, np.uint8(UNTOLD), np.uint8(0))
    return codec.encode(raw, where, argument=argument)


def _tell_sides(
    classes: np.ndarray,
    codec: LabelCodec,
    sides: bool,
    *,
    spacing_mm: tuple[float, ...] | None,
    hu: np.ndarray,
) -> np.ndarray | None:
    """Return the mask with the lungs told apart, by itself or by the scan; None if neither."""
    if codec.n_classes == 3:
        return classes
    return split_sides(classes, spacing_mm=spacing_mm, hu=hu) if sides else None


def _measure_image(
    name: str,
    pair: Pair,
    codec: LabelCodec,
    *,
    sides: bool,
    spacing_mm: tuple[float, float] | None,
    judged: HuSurvey,
) -> MeasuredFile:
    mask = pair.require_mask()
    image, classes = read_image(pair.image), _read_classes(read_mask(mask), codec, str(mask))
    fault = judged.look(image, name)
    if fault is not None and fault.severity == "error":
        raise DataError(fault.text, where=pair.image)
    measured = partial(measure_slice, image, name=name, spacing_mm=spacing_mm)
    rows = [measured(classes)]
    lungs = _tell_sides(classes, codec, sides, spacing_mm=spacing_mm, hu=guess_hu(image))
    if lungs is not None and is_told(lungs):
        rows.append(measured(lungs == LEFT, region="left lung"))
        rows.append(measured(lungs == RIGHT, region="right lung"))
    return replace(_measured_file(name, codec, rows, lungs), inverted=looks_inverted(classes))


def _measure_scan(
    name: str, pair: ScanPair, codec: LabelCodec, *, sides: bool, resample: bool
) -> MeasuredFile:
    mask = pair.require_mask()
    scan = read_volume(pair.image, resample=resample)
    require_hu(scan.array, scan.path)
    classes = _read_scan_classes(put_on_grid(read_volume(mask), scan), codec, str(mask))
    lungs = _tell_sides(classes, codec, sides, spacing_mm=scan.spacing_mm, hu=scan.array)
    measured = measure_volume(
        scan.array,
        classes if lungs is None else lungs,
        name=name,
        spacing_mm=scan.spacing_mm,
        sides=lungs is not None and is_told(lungs),
    )
    no_chest = tell_no_chest(scan.array, classes, spacing_mm=scan.spacing_mm)
    if no_chest:
        measured = without_volume(measured)
    file = _measured_file(name, codec, measured.rows, lungs)
    return replace(file, no_chest=no_chest, inverted=looks_inverted(classes))


def _measured_file(
    name: str, codec: LabelCodec, rows: list[Measurement], lungs: np.ndarray | None
) -> MeasuredFile:
    return MeasuredFile(
        name,
        codec,
        tuple(rows),
        swapped=codec.n_classes == 3 and lungs is not None and lie_swapped(lungs, LEFT, RIGHT),
        untold=lungs is not None and not is_told(lungs),
    )


def _warn_of_swapped(names: list[str], total: int, codec: LabelCodec) -> None:
    _, left, right = (codec.raw_values.get(index, index) for index in range(3))
    warnings.warn(
        f"{listed(names, separator=', ')}: {left} lies on the patient's right and {right} on the "
        f"left in {len(names)} of {counted(total, 'mask')}, so left and right are swapped in the "
        f"table. If {left} is the right lung, read it so: "
        f"{suggest_exchanged(codec)}.",
        LungUNetWarning,
        stacklevel=3,
    )


def _measure_hu(values: np.ndarray) -> dict[str, Any]:
    """Return the fields of a measurement that are about HU."""
    if not values.size or not can_hold_hu(values.dtype):
        return dict.fromkeys(("mean_hu", "hu_p05", "hu_p95", "emphysema_index"), math.nan)
    values = np.sort(values)  # much faster than the selection of np.percentile
    return {
        "mean_hu": float(values.mean(dtype=np.float64)),
        "hu_p05": _quantile(values, 0.05),
        "hu_p95": _quantile(values, 0.95),
        "emphysema_index": float(np.searchsorted(values, _EMPHYSEMA_HU) / values.size),
    }


def _quantile(ordered: np.ndarray, share: float) -> float:
    """Return what np.quantile does; that of integers would overflow between far ones."""
    below, part = divmod(share * (ordered.size - 1), 1)
    pair = ordered[int(below) :][:2]
    low, high = float(pair[0]), float(pair[-1])
    return low + part * (high - low)


def _require_measurable(image: np.ndarray, mask: np.ndarray, name: str, *, ndim: int) -> None:
    axes = "(D, H, W)" if ndim == 3 else "(H, W)"
    if image.ndim != ndim or not image.size:
        raise DataError(f"shape {image.shape}. Pass {axes} with sizes above 0.", where=name)
    require_same_size(image.shape, mask.shape, name)
