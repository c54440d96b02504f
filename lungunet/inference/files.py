"""Folders of slices and scans through a model: masks and their tables; two jobs, one per kind.

Owns what is written and where, and that what is finished is never lost. Prints nothing.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from lungunet.data.ct import SUFFIXES, write_image, write_mask, write_picture
from lungunet.data.files import refuse_existing, refuse_inputs
from lungunet.data.manifest import list_images
from lungunet.data.overlay import draw_overlay
from lungunet.errors import ConfigError, DataError, LungUNetWarning, counted, listed
from lungunet.inference.measure import (
    Measurement,
    VolumeMeasurement,
    measure_slice,
    measure_volume,
    write_measurements,
)
from lungunet.inference.predictor import Prediction, Predictor
from lungunet.inference.prefetch import map_ahead
from lungunet.inference.quality import Plausibility, check_slice, check_volume, write_triage
from lungunet.inference.scans import VolumePrediction, predict_volume, refuse_rule
from lungunet.inference.sides import split_sides
from lungunet.progress import Progress, silent
from lungunet.volumes.formats import find_volumes, written_suffix
from lungunet.volumes.montage import draw_montage
from lungunet.volumes.scan import Scan
from lungunet.volumes.volume import read_volume, write_volume

_BEHIND = 8  # slices that may wait to be written before the model waits too
_MEASUREMENTS, _TRIAGE = "measurements.csv", "triage.csv"


@dataclass(frozen=True)
class SliceFiles:
    """What :func:`predict_slices` writes besides masks and ``measurements.csv``.

    Parameters
    ----------
    overlay : outlines, to the subfolder overlays
    probabilities : float TIFFs, to the subfolder probabilities; one per class but background
    triage : ``triage.csv``, which says which masks to look at first
    uncertainty : float TIFFs of :attr:`Segmented.uncertainty`, to the subfolder uncertainty
    """

    overlay: bool = False
    probabilities: bool = False
    triage: bool = True
    uncertainty: bool = False


@dataclass(frozen=True)
class ScanFiles:
    """What :func:`predict_scans` writes besides masks, ``measurements.csv`` and ``triage.csv``.

    Parameters
    ----------
    sides : masks hold 1 for the left and 2 for the right lung, instead of 1 for both
    preview : a picture of three planes, to the subfolder previews
    uncertainty : a float volume of :attr:`Segmented.uncertainty`, to the subfolder uncertainty
    """

    sides: bool = False
    preview: bool = False
    uncertainty: bool = False


@dataclass(frozen=True)
class SliceResult:
    """What became of one slice.

    Parameters
    ----------
    path : the slice
    mask : the file written; None where there is an error
    measured : area and HU of the lung
    checked : how far the mask can be trusted; None where no triage was asked for
    error : why there is no mask; None where all went well
    """

    path: Path
    mask: Path | None = None
    measured: Measurement | None = None
    checked: Plausibility | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """What tables call it: the file's name without its ending."""
        return self.path.stem


@dataclass(frozen=True)
class ScanResult:
    """What became of one scan.

    Parameters
    ----------
    path : the file, or the folder of the series
    name : what tables and output files call it
    mask : the file written; None where there is an error
    measured : volumes and HU of the lungs
    checked : how far the mask can be trusted
    error : why there is no mask; None where all went well
    """

    path: Path
    name: str
    mask: Path | None = None
    measured: VolumeMeasurement | None = None
    checked: Plausibility | None = None
    error: str | None = None

    @property
    def summary(self) -> str:
        """Say in one line what was found, and whether to look at it."""
        if self.measured is None or self.checked is None:
            return str(self.error)
        why = f" ({self.checked.reasons[0]})" if self.checked.reasons else ""
        return f"{self.name}: {_say(self.measured.lungs)}; {self.checked.light}{why}"


def predict_slices(
    predictor: Predictor,
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    write: SliceFiles = SliceFiles(),
    batch_size: int = 8,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Generator[SliceResult, None, None]:
    """Write one mask per slice; a file that cannot be read is named and skipped.

    Masks are PNG at the size of the slice, with the codec's raw values (0 and 255), called like the
    slice. Work is done as results are asked for. The tables are written when the loop ends, however
    it ends, with every mask that was written.

    Parameters
    ----------
    inputs : slices: one or more files, folders, globs or lists (.txt)
    out : folder for the masks
    write : what else is written
    batch_size : slices at once
    overwrite : replace what is there
    progress : counts slices

    Yields
    ------
    SliceResult
        In order, once its files are written.

    Raises
    ------
    ConfigError
        When output would replace what is read, what exists, or itself.
    DataError
        When an input is missing, or output cannot be written.
    KeyboardInterrupt
        On Ctrl-C; its text says how many masks are there, all of them whole.
    """
    if write.uncertainty:
        refuse_rule(predictor)
    out = Path(out)
    files = _list_slices(_as_list(inputs), out)
    names = predictor.codec.names
    planned = [out / path for file in files for path in _slice_paths(file.stem, names, write)]
    planned += [out / _MEASUREMENTS, *([out / _TRIAGE] if write.triage else [])]
    refuse_inputs(planned, files)
    refuse_existing(planned, overwrite)
    _refuse_others_masks(planned, files, out)
    finished: dict[Path, SliceResult] = {}

    def finish(prediction: Prediction) -> SliceResult:
        """Write what belongs to one slice, in a thread."""
        result = _write_slice(prediction, predictor, out, write)
        finished[result.path] = result
        return result

    predictions = predictor.predict_files(files, batch_size=batch_size)
    try:
        with closing(map_ahead(finish, predictions, depth=_BEHIND)) as results:
            yield from progress(results, desc="predict", total=len(files))
    except KeyboardInterrupt:
        done = sum(result.mask is not None for result in finished.values())
        raise KeyboardInterrupt(
            f"{done} of {counted(len(files), 'mask')} in {out}, each of them whole"
        ) from None
    finally:
        in_order = [finished[file] for file in files if file in finished]
        rows = [result.measured for result in in_order if result.measured]
        _write_tables(out, rows, {one.name: one.checked for one in in_order if one.checked})


def predict_scans(
    predictor: Predictor,
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    write: ScanFiles = ScanFiles(),
    refine: bool = True,
    series: str | None = None,
    resample: bool = False,
    batch_size: int = 8,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Generator[ScanResult, None, None]:
    """Write one mask per scan, on its own grid; a scan that cannot be used is named and skipped.

    Masks carry class indices, 0 and 1, and not 0 and 255: so do those of other programs, and
    viewers number and colour labels by them. Work is done as results are asked for. The tables are
    written after each scan: whatever ends the process, they hold the masks that are there.

    Parameters
    ----------
    inputs : scans: one or more sources that :func:`find_volumes` takes
    out : folder for the masks
    write : what else is written
    refine : see :func:`predict_volume`
    series : of DICOM this one alone, see :func:`find_volumes`
    resample : see :func:`read_volume`; the mask lies on the straight grid
    batch_size : slices at once
    overwrite : replace what is there
    progress : counts the batches of each scan

    Yields
    ------
    ScanResult
        In order, once its files are written.

    Raises
    ------
    ConfigError
        When output would replace what is read or what exists, or sides cannot be told.
    DataError
        When a source holds no volume.
    KeyboardInterrupt
        On Ctrl-C; its text says how many scans are done.
    """
    if write.sides and predictor.codec.n_classes > 2:
        raise ConfigError(
            f"sides: the model has {predictor.codec.n_classes} classes, sides are told of lung "
            "against background. Leave it out."
        )
    if write.uncertainty:
        refuse_rule(predictor)
    out = Path(out)
    scans = find_volumes(_as_list(inputs), series=series)
    planned = [out / path for scan in scans for path in _scan_paths(scan.path, scan.name, write)]
    refuse_inputs(planned, [scan.path for scan in scans])
    refuse_existing([*planned, out / _TRIAGE, out / _MEASUREMENTS], overwrite)
    _tell_series_apart(scans)
    finished: list[ScanResult] = []
    try:
        for scan in scans:
            try:
                volume = replace(read_volume(scan, resample=resample), name=scan.name)
                prediction = predict_volume(
                    predictor,
                    volume,
                    batch_size=batch_size,
                    refine=refine,
                    uncertainty=write.uncertainty,
                    progress=progress,
                )
                result = _write_scan(prediction, out, write, by=predictor.word)
            except (DataError, ConfigError) as err:
                yield ScanResult(scan.path, scan.name, error=str(err))
                continue
            finished.append(result)
            _write_scan_tables(out, finished)  # at once: nothing can end the process before
            yield result
    except KeyboardInterrupt:
        done = f"{len(finished)} of {counted(len(scans), 'scan')} done"
        raise KeyboardInterrupt(done) from None
    finally:
        _write_scan_tables(out, finished)


def _tell_series_apart(scans: Sequence[Scan]) -> None:
    """Say what is what where one folder holds several scans, whose names do not."""
    by_path = defaultdict(list)
    for scan in scans:
        by_path[scan.path].append(scan)
    for path, members in by_path.items():
        if len(members) > 1:
            warnings.warn(
                f"{path}: {len(members)} series, a mask for each:\n  "
                f"{listed([member.describe() for member in members])}",
                LungUNetWarning,
                stacklevel=3,
            )


def _as_list(inputs: str | Path | Iterable[str | Path]) -> list[str]:
    return [str(inputs)] if isinstance(inputs, str | Path) else [str(source) for source in inputs]


def _list_slices(inputs: list[str], out: Path) -> list[Path]:
    if any(Path(source).is_dir() and Path(source).resolve() == out.resolve() for source in inputs):
        raise ConfigError(
            "is the folder that is read; masks would lie between the slices. Choose another one.",
            where=out,
        )
    # A file named twice is one; two links to it are two slices.
    listing = {file.absolute(): file for source in inputs for file in list_images(source, but=out)}
    by_stem = defaultdict(list)
    for file in listing.values():
        by_stem[file.stem].append(str(file))
    clashes = [" and ".join(names) for names in by_stem.values() if len(names) > 1]
    if clashes:
        raise ConfigError(
            f"files that would write the same mask:\n  {listed(clashes)}\n"
            "Predict them into different folders."
        )
    return list(listing.values())


def _refuse_others_masks(planned: list[Path], files: list[Path], out: Path) -> None:
    """Keep predictions out of a folder of masks in another format, which they would pair with."""
    stems = {file.stem for file in files}
    others = [
        str(path)
        for path in sorted(out.glob("*"))
        if path.suffix.lower() in SUFFIXES and path.stem in stems and path not in planned
    ]
    if others:
        raise ConfigError(
            "of the same names as the masks to be written, and not written by this command. "
            "Choose another folder.",
            where=listed(others, separator=", "),
        )


def _write_slice(
    prediction: Prediction, predictor: Predictor, out: Path, write: SliceFiles
) -> SliceResult:
    """Write the files of one slice, then measure and check its mask."""
    path, image, segmented = prediction.path, prediction.image, prediction.segmented
    if image is None or segmented is None:
        return SliceResult(path, error=prediction.error)
    mask, classes = out / f"{path.stem}.png", segmented.classes
    if write.overlay:
        picture = draw_overlay(predictor.to_grey(image), pred=classes)
        write_picture(out / _overlay(path.stem), picture)
    if write.probabilities:
        for index, name in enumerate(_maps(path.stem, predictor.codec.names), start=1):
            write_image(out / name, segmented.probability(index))
    if write.uncertainty and segmented.uncertainty is not None:
        write_image(out / _unsure(f"{path.stem}.tif"), segmented.uncertainty)
    write_mask(mask, predictor.codec.decode(classes))
    checked = None
    if write.triage:
        checked = check_slice(
            image,
            classes,
            probabilities=segmented.probabilities,
            disagreement=segmented.disagreement,
            spread=segmented.spread,
            by=predictor.word,
        )
    return SliceResult(path, mask, measure_slice(image, classes, name=path.stem), checked)


def _write_scan(
    prediction: VolumePrediction, out: Path, write: ScanFiles, *, by: str
) -> ScanResult:
    """Check and measure the mask of one scan, and write its files."""
    scan, classes, spacing_mm = prediction.volume, prediction.classes, prediction.volume.spacing_mm
    checked = check_volume(
        scan.array,
        classes,
        spacing_mm=spacing_mm,
        disagreement=prediction.disagreement,
        spread_px=prediction.spread_px,
        by=by,
    )
    if write.sides:
        classes = split_sides(classes, spacing_mm=spacing_mm)
    measured = measure_volume(
        scan.array, classes, name=scan.name, spacing_mm=spacing_mm, sides=write.sides
    )
    mask, *others = (out / path for path in _scan_paths(scan.path, scan.name, write))
    result = ScanResult(scan.path, scan.name, mask, measured, checked)
    if write.uncertainty and prediction.uncertainty is not None:
        write_volume(others[-1], prediction.uncertainty, like=scan)
    for picture in others[:1] if write.preview else ():
        sides = [_say(lung) for lung in (measured.right, measured.left) if lung]
        write_picture(picture, draw_montage(scan, classes, lines=[result.summary, *sides]))
    write_volume(mask, classes, like=scan)
    return result


def _write_scan_tables(out: Path, finished: Sequence[ScanResult]) -> None:
    rows = [row for result in finished if result.measured for row in result.measured.rows]
    _write_tables(out, rows, {one.name: one.checked for one in finished if one.checked})


def _write_tables(out: Path, rows: list[Measurement], checked: Mapping[str, Plausibility]) -> None:
    if rows:  # else tables that are there stay, as the masks do
        write_measurements(out / _MEASUREMENTS, rows)
    if checked:
        write_triage(out / _TRIAGE, checked)


def _slice_paths(stem: str, class_names: Sequence[str], write: SliceFiles) -> list[Path]:
    """List what is written for one slice, below the folder; the mask first."""
    pictures = [_overlay(stem)] if write.overlay else []
    maps = _maps(stem, class_names) if write.probabilities else []
    maps += [_unsure(f"{stem}.tif")] if write.uncertainty else []
    return [Path(f"{stem}.png"), *pictures, *maps]


def _scan_paths(scan: Path, name: str, write: ScanFiles) -> list[Path]:
    """List what is written for one scan: NRRD and MHA stay what they are, else NIfTI."""
    pictures = [Path("previews", f"{name}.png")] if write.preview else []
    mask = f"{name}{written_suffix(scan)}"
    unsure = [_unsure(mask)] if write.uncertainty else []
    return [Path(mask), *pictures, *unsure]


def _unsure(name: str) -> Path:
    return Path("uncertainty", name)


def _overlay(stem: str) -> Path:
    return Path("overlays", f"{stem}.png")


def _maps(stem: str, class_names: Sequence[str]) -> list[Path]:
    """Return where the probabilities of each class but background go."""
    if len(class_names) == 2:
        return [Path("probabilities", f"{stem}.tif")]
    ends = [name.replace(" ", "-") for name in class_names[1:]]
    return [Path("probabilities", f"{stem}_{end}.tif") for end in ends]


def _say(lung: Measurement) -> str:
    density = "" if math.isnan(lung.mean_hu) else f", {lung.mean_hu:.0f} HU on average"
    return f"{lung.region} {lung.volume_ml:.0f} mL{density}"
