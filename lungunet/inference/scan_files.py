"""Scans through a model: masks and their tables.

Owns what is written and where, and that what is finished is never lost. Prints nothing.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lungunet.data.codec import LabelCodec
from lungunet.data.ct import write_picture
from lungunet.data.files import refuse_existing, refuse_inputs
from lungunet.data.kinds import as_list
from lungunet.data.made_by import SIDES, SIDES_CODEC
from lungunet.errors import ConfigError, DataError, LungUNetWarning, counted, listed
from lungunet.inference.crew import LostError, Sharing
from lungunet.inference.jobs import (
    ALONE,
    name_maps,
    name_uncertainty,
    note,
    own,
    part_of,
    recording,
    start_crew,
)
from lungunet.inference.measure import (
    Measurement,
    VolumeMeasurement,
    measure_volume,
    without_volume,
)
from lungunet.inference.parts import keys_of, list_of
from lungunet.inference.predictor import Predictor
from lungunet.inference.quality import Plausibility, check_volume
from lungunet.inference.record import Record, identify_source
from lungunet.inference.scans import VolumePrediction, predict_volume, refuse_rule
from lungunet.inference.sides import UNTOLD, is_told, split_sides
from lungunet.progress import Progress, silent
from lungunet.volumes.formats import files_of, find_volumes, written_suffix
from lungunet.volumes.masks import (
    MaskFormat,
    holds_names,
    is_dicom,
    mask_suffix,
    referable,
    refuse_others,
    refuse_unreferable,
    write_labels,
    write_segmentation,
)
from lungunet.volumes.montage import draw_montage
from lungunet.volumes.pacs import at_hand, store
from lungunet.volumes.scan import Scan
from lungunet.volumes.volume import Volume, read_volume, write_volume

_LABELS = "labels.txt"


@dataclass(frozen=True)
class ScanFiles:
    """What :func:`predict_scans` writes besides masks, ``measurements.csv`` and ``triage.csv``.

    Parameters
    ----------
    sides : masks hold 1 for the left and 2 for the right lung, instead of 1 for both, and 3 where
        the scan does not prove which is which, see :func:`split_sides`
    preview : a picture of three planes and of the worst slices, to the subfolder previews
    format : of the masks: nifti, nrrd, or of DICOM series dicom-seg or rtstruct, which name patient
        and study; auto keeps NRRD and MHA, and is NIfTI for all others
    store : send masks in DICOM back to the PACS that the scans come from
    uncertainty : a float volume of :attr:`Segmented.uncertainty`, to the subfolder uncertainty
    probabilities : float volumes, to the subfolder probabilities; one per class but background, as
        the model gives them before any mending
    """

    sides: bool = False
    preview: bool = False
    format: MaskFormat = "auto"
    store: bool = False
    uncertainty: bool = False
    probabilities: bool = False

    @property
    def mask_format(self) -> MaskFormat:
        """The format: what is sent back is DICOM SEG where nothing else was said."""
        return "dicom-seg" if self.store and self.format == "auto" else self.format


@dataclass(frozen=True)
class ScanResult:
    """What became of one scan.

    Parameters
    ----------
    path : the file, or the folder of the series
    name : what tables and output files call it
    mask : the file written; None where there is an error
    measured : volumes and HU of the lungs; without a volume where the scan shows no chest, and
        without sides where they cannot be told
    checked : how far the mask can be trusted
    error : why there is no mask, or why a PACS did not take it; None where all went well
    """

    path: Path
    name: str
    mask: Path | None = None
    measured: VolumeMeasurement | None = None
    checked: Plausibility | None = None
    error: str | None = None
    skipped: bool = False

    @property
    def summary(self) -> str:
        """Say in one line what was found, and whether to look at it."""
        if self.skipped:
            return f"{self.name}: was there"
        if self.measured is None or self.checked is None:
            return str(self.error)
        if self.checked.chest is False:
            return f"{self.name}: {self.checked.reasons[0]}; {self.checked.light}"
        why = f" ({self.checked.reasons[0]})" if self.checked.reasons else ""
        return f"{self.name}: {_say(self.measured.lungs)}; {self.checked.light}{why}"


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
    skip_existing: bool = False,
    sharing: Sharing = ALONE,
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
    overwrite : replace what is there. Masks that are not among ``inputs`` stay, with their rows, if
        the same model made them with the same settings; else they are refused, and all that is to
        be replaced goes first
    skip_existing : go on where an earlier call with the same model ended, or add to what it made;
        the tables are of all masks
    sharing : see :func:`predict_slices`
    progress : counts the batches of each scan, or scans where several processes share them

    Yields
    ------
    ScanResult
        In order, once its files are written.

    Raises
    ------
    ConfigError
        When output would replace what is read or what exists, another job writes into the folder,
        sides cannot be told, or masks in DICOM are asked for of other formats.
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
    inputs = as_list(inputs)
    everything = find_volumes(inputs, series=series)
    part = part_of(sharing)
    below = keys_of([scan.path for scan in everything], inputs)
    keys = [f"{key} {one.id}" for key, one in zip(below, everything, strict=True)]
    scans = own(everything, keys, part)
    refuse_others(scans, write.mask_format)
    _refuse_to_store(scans, write)
    job = _ScanJob(
        out,
        write,
        predictor.codec.names,
        refine=refine,
        resample=resample,
        batch_size=batch_size,
    )
    planned = [path for scan in scans for path in job.paths(scan)]
    refuse_inputs(planned, [scan.path for scan in everything])
    settings: dict[str, bool | str] = {"mending": refine, "sides": write.sides}
    settings |= {"resampling": resample, "format": write.mask_format}
    class_names = predictor.codec.names
    indices = LabelCodec({index: index for index in range(len(class_names))}, names=class_names)
    every = replace(job, write=replace(write, preview=True, uncertainty=True, probabilities=True))
    names = [scan.name for scan in scans]
    with recording(
        out,
        predictor,
        settings,
        codec=SIDES_CODEC if write.sides else indices,
        part=part,
        belongs={scan.name: every.paths(scan) for scan in everything},
        overwrite=overwrite,
        skip_existing=skip_existing,
    ) as record:
        labels = [out / _LABELS] if not (part or all(map(holds_names, planned))) else []
        refuse_existing([*planned, *labels, *record.files], overwrite or record.goes_on)
        _tell_series_apart(scans)
        record.begin(names, list_of([one.name for one in everything], own=names) if part else None)
        try:
            steps = (_look_up_scan(scan, job, record) for scan in scans)
            done_one_by_one = _do_scans(
                job, predictor, steps, sharing, record, total=len(scans), progress=progress
            )
            with closing(done_one_by_one) as results:
                for step, result in results:
                    if write.store and not result.error:
                        result = _sent(result, step.scan)
                    if result.error:
                        note(
                            record,
                            result.name,
                            result.path,
                            source=step.source,
                            error=result.error,
                        )
                    record.write_tables(names, now=False)  # nothing can end the process before
                    yield result
        except KeyboardInterrupt:
            done = f"{record.count(names)} of {counted(len(scans), 'scan')} done"
            raise KeyboardInterrupt(done) from None
        finally:
            record.write_tables(names)


@dataclass(frozen=True)
class _ScanJob:
    """What is done with a scan, in whatever process."""

    out: Path
    write: ScanFiles
    class_names: Sequence[str]
    refine: bool
    resample: bool
    batch_size: int

    def paths(self, scan: Scan) -> list[Path]:
        """List what is written for a scan; the mask first."""
        of_scan = _scan_paths(scan.path, scan.name, self.write, self.class_names)
        return [self.out / path for path in of_scan]

    def __call__(self, predictor: Predictor, scan: Scan, progress: Progress = silent) -> ScanResult:
        """Read, segment and write one scan."""
        try:
            with (
                at_hand(scan, progress=progress) as near,
                referable(near, self.write.mask_format) as here,
            ):
                volume = replace(read_volume(here, resample=self.resample), name=scan.name)
                refuse_unreferable(volume, self.write.mask_format)
                prediction = predict_volume(
                    predictor,
                    volume,
                    batch_size=self.batch_size,
                    refine=self.refine,
                    uncertainty=self.write.uncertainty,
                    probabilities=self.write.probabilities,
                    progress=progress,
                )
                result = _write_scan(prediction, predictor, self.out, self.write)
            return replace(result, path=scan.path)
        except (DataError, ConfigError) as err:
            return ScanResult(scan.path, scan.name, error=str(err))


@dataclass(frozen=True)
class _Step:
    """One scan, and what is known of it before it is predicted."""

    scan: Scan
    source: str
    known: ScanResult | None = None


def _look_up_scan(scan: Scan, job: _ScanJob, record: Record) -> _Step:
    source = _source_of(scan)
    if not record.goes_on:
        return _Step(scan, source)
    belongs = job.paths(scan)
    try:
        there = record.holds(scan.name, source, belongs)
    except DataError as err:
        return _Step(scan, source, ScanResult(scan.path, scan.name, error=str(err)))
    skipped = ScanResult(scan.path, scan.name, mask=belongs[0], skipped=True)
    return _Step(scan, source, skipped if there else None)


def _do_scans(
    job: _ScanJob,
    predictor: Predictor,
    steps: Iterable[_Step],
    sharing: Sharing,
    record: Record,
    *,
    total: int,
    progress: Progress,
) -> Generator[tuple[_Step, ScanResult], None, None]:
    def keep(step: _Step, result: ScanResult) -> tuple[_Step, ScanResult]:
        if result.measured:
            record.add(result.name, step.source, result.measured.rows, result.checked)
        return step, result

    if sharing.is_alone:
        for step in steps:
            yield keep(step, step.known or job(predictor, step.scan, progress))
        return
    with start_crew(job, predictor, sharing, most=total) as crew:

        def ask(step: _Step) -> tuple[_Step, ScanResult]:
            scan = step.scan
            try:
                return keep(step, step.known or crew.ask(scan))
            except LostError as err:
                if crew.is_stopped:
                    raise
                error = f"{scan}: twice {err}. The others go on."
                return step, ScanResult(scan.path, scan.name, error=error)

        with closing(crew.map(ask, steps)) as results:
            yield from progress(results, desc="predict", total=total)


def _source_of(scan: Scan) -> str:
    """Return what tells a scan from others of its name."""
    if scan.remote is not None:
        return f"{scan.remote.series} {len(scan.remote.instances)}"
    return identify_source([item.path for item in scan.slices] or files_of(scan.path))


def _refuse_to_store(scans: Sequence[Scan], write: ScanFiles) -> None:
    """Stop before any work where a mask could not go back to where its scan came from."""
    if not write.store:
        return
    if not is_dicom(write.mask_format):
        raise ConfigError(
            f"a PACS takes DICOM, not {write.mask_format}. Choose dicom-seg or rtstruct.",
            where="store",
        )
    here = [str(scan) for scan in scans if scan.remote is None]
    if here:
        raise ConfigError(
            "not from a PACS, so there is none to store its mask in. Leave out store=True, and "
            "send the files by another tool: 'dicomweb_client --url URL store instances FILE', or "
            "'storescu -R -aec TITLE HOST PORT FILE' of DCMTK.",
            where=listed(here, separator=", "),
        )


def _sent(result: ScanResult, scan: Scan) -> ScanResult:
    """Send a mask to the PACS of its scan, if it is not there; where that fails it is here."""
    try:
        if result.mask is not None and scan.remote is not None:
            store(result.mask, scan.remote, unless_there=result.skipped)
    except DataError as err:
        return replace(
            result,
            error=f"{err} The mask was not stored; it is {result.mask}. Send it again with "
            "skip_existing=True ('lungunet ... --skip-existing').",
        )
    return result


def _tell_series_apart(scans: Sequence[Scan]) -> None:
    """Say what is what where one folder holds several scans, whose names do not."""
    by_path = defaultdict(list)
    for scan in scans:
        by_path[scan.path].append(scan)
    for path, members in by_path.items():
        if len(members) > 1:
            warnings.warn(
                f"{path}: {len(members)} series{_of_several(members)}, a mask for each:\n  "
                f"{listed([member.describe() for member in members])}",
                LungUNetWarning,
                stacklevel=3,
            )


def _of_several(scans: Sequence[Scan]) -> str:
    """Say of how many patients scans are, or else studies, where not of one; name none."""
    slices = [scan.slices[0] for scan in scans]
    if (patients := len({item.owner for item in slices})) > 1:
        return f" of {patients} patients"
    studies = len({item.study for item in slices})
    return f" of {studies} studies" if studies > 1 else ""


def _write_scan(
    prediction: VolumePrediction, predictor: Predictor, out: Path, write: ScanFiles
) -> ScanResult:
    """Check and measure the mask of one scan, and write its files."""
    scan, classes, spacing_mm = prediction.volume, prediction.classes, prediction.volume.spacing_mm
    checked = check_volume(
        scan.array,
        classes,
        spacing_mm=spacing_mm,
        disagreement=prediction.disagreement,
        spread_px=prediction.spread_px,
        by=predictor.word,
    )
    if write.sides:
        classes = _split_sides(scan, classes, chest=checked.chest is not False)
    measured = measure_volume(
        scan.array,
        classes,
        name=scan.name,
        spacing_mm=spacing_mm,
        sides=write.sides and bool(checked.chest) and is_told(classes),
    )
    if checked.chest is False:
        measured = without_volume(measured)
    class_names = predictor.codec.names
    mask, *others = (out / path for path in _scan_paths(scan.path, scan.name, write, class_names))
    result = ScanResult(scan.path, scan.name, mask, measured, checked)
    if write.uncertainty and prediction.uncertainty is not None:
        write_volume(others[-1], prediction.uncertainty, like=scan)
    for index, path in enumerate(others[write.preview :], start=1):
        if write.probabilities and index < predictor.codec.n_classes:
            write_volume(path, prediction.probability(index), like=scan)
    for picture in others[:1] if write.preview else ():
        sides = {"orange": measured.right, "blue": measured.left}
        lines = [f"{_say(lung)} ({colour})" for colour, lung in sides.items() if lung]
        lines.insert(0, result.summary)
        red = checked.worst_slices
        lines += [f"slice {index}: {checked.slices[index].reasons[0]}" for index in red]
        write_picture(picture, draw_montage(scan, classes, lines=lines, sides=write.sides, red=red))
    names = SIDES if write.sides else predictor.codec.names[1:]
    if not holds_names(mask):
        write_labels(out / _LABELS, names)
    write_segmentation(
        mask,
        classes,
        like=scan,
        names=names[: max(2, int(classes.max()))] if write.sides else names,
        model=predictor.word or "network",
        weights_sha256=predictor.weights_sha256 if is_dicom(write.mask_format) else "",
    )
    return result


def _split_sides(scan: Volume, classes: np.ndarray, *, chest: bool) -> np.ndarray:
    if chest:
        sides = split_sides(classes, spacing_mm=scan.spacing_mm, hu=scan.array)
        why = "neither two lungs nor body and spine prove it"
    else:  # what lies where in it, nobody knows
        sides = np.where(classes > 0, np.uint8(UNTOLD), np.uint8(0))
        why = "the scan shows no whole chest"
    if not is_told(sides):
        warnings.warn(
            f"{scan.path}: which lung is which is not told, for {why}. Its "
            "mask holds 3, which is neither left nor right.",
            LungUNetWarning,
            stacklevel=4,
        )
    return sides


def _scan_paths(scan: Path, name: str, write: ScanFiles, class_names: Sequence[str]) -> list[Path]:
    """List what is written for one scan, below the folder: mask, picture, probabilities, doubt."""
    suffix = written_suffix(scan)
    pictures = [Path("previews", f"{name}.png")] if write.preview else []
    maps = name_maps(name, class_names, suffix) if write.probabilities else []
    unsure = [name_uncertainty(f"{name}{suffix}")] if write.uncertainty else []
    return [Path(f"{name}{mask_suffix(scan, write.mask_format)}"), *pictures, *maps, *unsure]


def _say(lung: Measurement) -> str:
    density = "" if math.isnan(lung.mean_hu) else f", {lung.mean_hu:.0f} HU on average"
    return f"{lung.region} {lung.volume_ml:.0f} mL{density}"
