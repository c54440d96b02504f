"""Folders of slices and scans through a model: masks and their tables; two jobs, one per kind.

Owns what is written and where, and that what is finished is never lost. Prints nothing.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lungunet._version import __version__
from lungunet.data.ct import SUFFIXES, write_image, write_mask, write_picture
from lungunet.data.files import json_text, plain, refuse_existing, refuse_inputs
from lungunet.data.hu import HuSurvey
from lungunet.data.manifest import list_images
from lungunet.data.overlay import draw_overlay
from lungunet.errors import ConfigError, DataError, LungUNetWarning, counted, listed
from lungunet.inference.crew import Crew, LostError, Sharing, Work, start_processes
from lungunet.inference.measure import (
    Measurement,
    VolumeMeasurement,
    measure_slice,
    measure_volume,
)
from lungunet.inference.parts import Part, keys_of, list_of, refuse_divided_otherwise
from lungunet.inference.predictor import Loading, Prediction, Predictor, predict_some, warn_of
from lungunet.inference.prefetch import map_ahead
from lungunet.inference.quality import Plausibility, check_slice, check_volume
from lungunet.inference.record import Record, identify_source
from lungunet.inference.scans import VolumePrediction, predict_volume, refuse_rule
from lungunet.inference.segmenter import Segmenter
from lungunet.inference.sides import UNTOLD, is_told, split_sides
from lungunet.progress import Progress, silent
from lungunet.volumes.formats import find_volumes, written_suffix
from lungunet.volumes.labels import SIDES
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

T = TypeVar("T")
R = TypeVar("R", "SliceResult", "ScanResult")

_ALONE = Sharing()
_CHUNK = 64  # slices that a process takes at once, seconds of work
_SHARES = 16  # of few slices, so that each process has some
_BEHIND = 8  # slices that may wait to be written before the model waits too
_LABELS = "labels.txt"


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
    sides : masks hold 1 for the left and 2 for the right lung, instead of 1 for both, and 3 where
        the scan does not prove which is which, see :func:`split_sides`
    preview : a picture of three planes, to the subfolder previews
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
class SliceResult:
    """What became of one slice.

    Parameters
    ----------
    path : the slice
    mask : the file written; None where there is an error
    measured : area and HU of the lung
    checked : how far the mask can be trusted; None where no triage was asked for
    error : why there is no mask; None where all went well
    skipped : the mask was there, see ``skip_existing``
    """

    path: Path
    mask: Path | None = None
    measured: Measurement | None = None
    checked: Plausibility | None = None
    error: str | None = None
    skipped: bool = False

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


def predict_slices(
    predictor: Predictor,
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    write: SliceFiles = SliceFiles(),
    batch_size: int = 8,
    overwrite: bool = False,
    skip_existing: bool = False,
    sharing: Sharing = _ALONE,
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
    skip_existing : go on where an earlier call with the same model ended, or add to what it made;
        the tables are of all masks
    sharing : how the job is divided, and among which processes; the predictor must then be one that
        :meth:`Predictor.load` read from a path, or by a word
    progress : counts slices

    Yields
    ------
    SliceResult
        In order, once its files are written; those that were there first.

    Raises
    ------
    ConfigError
        When output would replace what is read, what exists, or itself, or the job cannot be shared.
    DataError
        When an input is missing, or output cannot be written.
    KeyboardInterrupt
        On Ctrl-C; its text says how many masks are there, all of them whole.
    """
    if write.uncertainty:
        refuse_rule(predictor)
    out = Path(out)
    inputs = _as_list(inputs)
    everything = _list_slices(inputs, out)
    part = _part_of(sharing)
    files = _own(everything, keys_of(everything, inputs), part)
    names = predictor.codec.names
    planned = [out / path for file in files for path in _slice_paths(file.stem, names, write)]
    record = _begin(out, predictor, {}, part=part, overwrite=overwrite, skip_existing=skip_existing)
    planned += record.files
    refuse_inputs(planned, everything)
    refuse_existing(planned, overwrite or record.goes_on)
    _refuse_others_masks(planned, files, out)
    stems = [file.stem for file in files]
    if part:
        record.begin(list_of([file.stem for file in everything], own=stems))
    job = _SliceJob(out, write, batch_size)
    todo: list[Path] = []
    try:
        for file in files:
            there = _look_up_slice(file, job, predictor, record)
            if there is None:
                todo.append(file)
            else:
                yield there
        with closing(_do_slices(job, predictor, todo, sharing, record)) as results:
            yield from progress(results, desc="predict", total=len(todo))
    except KeyboardInterrupt:
        done = f"{record.count(stems)} of {counted(len(files), 'mask')} in {out}"
        raise KeyboardInterrupt(f"{done}, each of them whole") from None
    finally:
        record.write_tables(stems)
        record.close()


@dataclass(frozen=True)
class _SliceJob:
    """What is done with slices, in whatever process."""

    out: Path
    write: SliceFiles
    batch_size: int

    def __call__(
        self, predictor: Predictor, paths: Sequence[Path]
    ) -> tuple[list[SliceResult], HuSurvey]:
        """Do some of many."""
        judged = HuSurvey()
        predictions = predict_some(predictor, paths, judged, batch_size=self.batch_size)
        with closing(self.finish(predictor, predictions)) as results:
            return list(results), judged

    def finish(
        self, predictor: Predictor, predictions: Iterable[Prediction], record: Record | None = None
    ) -> Generator[SliceResult, None, None]:
        """Write what belongs to each slice, in threads."""

        def work(prediction: Prediction) -> SliceResult:
            result = _write_slice(prediction, predictor, self.out, self.write)
            return _keep_slice(result, record) if record else result

        return map_ahead(work, predictions, depth=_BEHIND)


def _keep_slice(result: SliceResult, record: Record) -> SliceResult:
    source = identify_source(result.path)
    if result.measured:
        record.add(result.name, source, [result.measured], result.checked)
        return result
    return _note(result, source, record)


def _look_up_slice(
    file: Path, job: _SliceJob, predictor: Predictor, record: Record
) -> SliceResult | None:
    """Return what there is of a slice without predicting it; None where nothing is."""
    if not record.goes_on:
        return None
    source = identify_source(file)
    paths = _slice_paths(file.stem, predictor.codec.names, job.write)
    belongs = [job.out / path for path in paths]
    try:
        there = record.holds(file.stem, source, belongs)
    except DataError as err:
        return _note(SliceResult(file, error=str(err)), source, record)
    return SliceResult(file, belongs[0], skipped=True) if there else None


def _do_slices(
    job: _SliceJob,
    predictor: Predictor,
    todo: Sequence[Path],
    sharing: Sharing,
    record: Record,
) -> Generator[SliceResult, None, None]:
    if sharing.is_alone or not todo:
        predictions = predictor.predict_files(todo, batch_size=job.batch_size)
        with closing(job.finish(predictor, predictions, record)) as results:
            yield from results
        return
    # Batches hold the same slices as in one process, or the last bit of a network's sums differs.
    length = job.batch_size * max(1, min(_CHUNK, len(todo) // _SHARES) // job.batch_size)
    chunks = [todo[start : start + length] for start in range(0, len(todo), length)]
    judged = HuSurvey()
    with start_crew(job, predictor, sharing, most=len(chunks)) as crew:

        def ask(paths: Sequence[Path]) -> tuple[list[SliceResult], HuSurvey]:
            try:
                done, looked = crew.ask(paths)
            except LostError as err:
                if crew.is_stopped:
                    raise
                if len(paths) > 1:
                    return _joined(ask([path]) for path in paths)
                error = f"{paths[0]}: twice {err}. The others go on."
                done, looked = [SliceResult(paths[0], error=error)], HuSurvey()
            return [_keep_slice(one, record) for one in done], looked

        with closing(crew.map(ask, chunks)) as answers:
            for some, looked in answers:
                judged.add(looked)
                yield from some
    warn_of(predictor, judged)


def _joined(
    answers: Iterable[tuple[list[SliceResult], HuSurvey]],
) -> tuple[list[SliceResult], HuSurvey]:
    results, judged = [], HuSurvey()
    for some, looked in answers:
        results += some
        judged.add(looked)
    return results, judged


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
    sharing: Sharing = _ALONE,
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
        When output would replace what is read or what exists, sides cannot be told, or masks in
        DICOM are asked for of other formats.
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
    inputs = _as_list(inputs)
    everything = find_volumes(inputs, series=series)
    part = _part_of(sharing)
    below = keys_of([scan.path for scan in everything], inputs)
    keys = [f"{key} {one.id}" for key, one in zip(below, everything, strict=True)]
    scans = _own(everything, keys, part)
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
    record = _begin(
        out, predictor, settings, part=part, overwrite=overwrite, skip_existing=skip_existing
    )
    labels = [out / _LABELS] if not (part or all(map(holds_names, planned))) else []
    refuse_existing([*planned, *labels, *record.files], overwrite or record.goes_on)
    _tell_series_apart(scans)
    names = [scan.name for scan in scans]
    if part:
        record.begin(list_of([scan.name for scan in everything], own=names))
    try:
        steps = (_look_up_scan(scan, job, record) for scan in scans)
        with closing(
            _do_scans(job, predictor, steps, sharing, record, total=len(scans), progress=progress)
        ) as results:
            for step, result in results:
                if write.store and not result.error:
                    result = _sent(result, step.scan)
                if result.error:
                    _note(result, step.source, record)
                record.write_tables(names, now=False)  # nothing can end the process before
                yield result
    except KeyboardInterrupt:
        done = f"{record.count(names)} of {counted(len(scans), 'scan')} done"
        raise KeyboardInterrupt(done) from None
    finally:
        record.write_tables(names)
        record.close()


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


def _part_of(sharing: Sharing) -> Part | None:
    return Part.parse(sharing.part) if sharing.part else None


def _own(items: Sequence[T], keys: Sequence[str], part: Part | None) -> list[T]:
    """Return what is of a part."""
    if part is None:
        return list(items)
    return [item for item, key in zip(items, keys, strict=True) if part.takes(key)]


def start_crew(
    job: Callable[..., Any], predictor: Predictor, sharing: Sharing, *, most: int
) -> Crew:
    """Start the processes that share a job, which load the model by themselves.

    Raises
    ------
    ConfigError
        When they could not.
    """
    if predictor.loading is None:
        raise ConfigError(
            "processes load the model by themselves. Give a predictor that Predictor.load read "
            "from a path, or by a word.",
            where="sharing",
        )
    start = partial(_start, predictor.loading, _identify(predictor.segmenter), job)
    if sharing.ray is None:
        return Crew(start_processes(start, sharing.devices[: max(1, most)]))
    from lungunet.inference.ray_actors import start_actors

    return Crew(*start_actors(start, sharing.ray, cores=sharing.ray_cores, most=max(1, most)))


def _start(loading: Loading, identity: str, job: Callable[..., Any], device: str) -> Work:
    """Load the model in a process; return what it does with an item."""
    predictor = Predictor.load(
        loading.model, device=device, precision=loading.precision, tta=loading.tta
    )
    if _identify(predictor.segmenter) != identity:
        raise ConfigError("is another model there.", where=loading.model)
    return partial(job, predictor)


def _note(result: R, source: str, record: Record) -> R:
    """Record why there is no mask, without the folders of the file."""
    text = str(result.error).replace(str(result.path), result.name)
    record.fail(result.name, source, text.removeprefix(f"{result.name}: "))
    return result


def _source_of(scan: Scan) -> str:
    """Return what tells a scan from others of its name."""
    if scan.remote is not None:
        return f"{scan.remote.series} {len(scan.remote.instances)}"
    return identify_source(scan.path, [item.path for item in scan.slices])


def _begin(
    out: Path,
    predictor: Predictor,
    settings: Mapping[str, bool | str],
    *,
    part: Part | None,
    overwrite: bool,
    skip_existing: bool,
) -> Record:
    if overwrite and skip_existing:
        raise ConfigError(
            "overwrite and skip_existing: one replaces what the other keeps. Leave one out."
        )
    made_by = {"model": _identify(predictor.segmenter), "tta": predictor.tta, **settings}
    if predictor.address:
        made_by["address"] = predictor.address
    if skip_existing and not made_by["model"]:
        raise ConfigError(
            "skip_existing: nobody can tell whether masks were made by this segmenter. "
            "Give it weights_sha256, which says what it is.",
        )
    refuse_divided_otherwise(out, part, plain(made_by), overwrite=overwrite)
    return Record(out, made_by, going_on=skip_existing, part=part.folder(out) if part else None)


def _identify(segmenter: Segmenter) -> str:
    """Return what two models share when they make the same masks; empty where nobody knows."""
    said = getattr(segmenter, "weights_sha256", "")
    if segmenter.word == "threshold":
        said = f"threshold {__version__}"
    members = [_identify(member) for member in getattr(segmenter, "members", ())]
    said = said or (" ".join(members) if all(members) else "")
    about = json_text([segmenter.contract.to_dict(), segmenter.codec.to_dict()])
    return sha256(f"{said} {about}".encode()).hexdigest() if said else ""


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
            "not from a PACS, so there is none to store its mask in. Leave out store=True.",
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
            "skip_existing=True.",
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
        measured = _without_volume(measured)
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
        write_picture(picture, draw_montage(scan, classes, lines=lines, sides=write.sides))
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
    if not chest:  # what lies where in it, nobody knows
        return np.where(classes > 0, np.uint8(UNTOLD), np.uint8(0))
    sides = split_sides(classes, spacing_mm=scan.spacing_mm, hu=scan.array)
    if not is_told(sides):
        warnings.warn(
            f"{scan.path}: which lung is which is not told, for neither two lungs nor body and "
            "spine prove it. Its mask holds 3, which is neither left nor right.",
            LungUNetWarning,
            stacklevel=4,
        )
    return sides


def _without_volume(measured: VolumeMeasurement) -> VolumeMeasurement:
    return replace(measured, lungs=replace(measured.lungs, volume_ml=math.nan))


def _slice_paths(stem: str, class_names: Sequence[str], write: SliceFiles) -> list[Path]:
    """List what is written for one slice, below the folder; the mask first."""
    pictures = [_overlay(stem)] if write.overlay else []
    maps = _maps(stem, class_names) if write.probabilities else []
    maps += [_unsure(f"{stem}.tif")] if write.uncertainty else []
    return [Path(f"{stem}.png"), *pictures, *maps]


def _scan_paths(scan: Path, name: str, write: ScanFiles, class_names: Sequence[str]) -> list[Path]:
    """List what is written for one scan, below the folder: mask, picture, probabilities, doubt."""
    suffix = written_suffix(scan)
    pictures = [Path("previews", f"{name}.png")] if write.preview else []
    maps = _maps(name, class_names, suffix) if write.probabilities else []
    unsure = [_unsure(f"{name}{suffix}")] if write.uncertainty else []
    return [Path(f"{name}{mask_suffix(scan, write.mask_format)}"), *pictures, *maps, *unsure]


def _unsure(name: str) -> Path:
    return Path("uncertainty", name)


def _overlay(stem: str) -> Path:
    return Path("overlays", f"{stem}.png")


def _maps(stem: str, class_names: Sequence[str], suffix: str = ".tif") -> list[Path]:
    """Return where the probabilities of each class but background go."""
    if len(class_names) == 2:
        return [Path("probabilities", f"{stem}{suffix}")]
    ends = [name.replace(" ", "-") for name in class_names[1:]]
    return [Path("probabilities", f"{stem}_{end}{suffix}") for end in ends]


def _say(lung: Measurement) -> str:
    density = "" if math.isnan(lung.mean_hu) else f", {lung.mean_hu:.0f} HU on average"
    return f"{lung.region} {lung.volume_ml:.0f} mL{density}"
