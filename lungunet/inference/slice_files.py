"""Folders of slices through a model: masks and their tables.

Owns what is written and where, and that what is finished is never lost. Prints nothing.
"""

from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lungunet.data.ct import SUFFIXES, write_image, write_mask, write_picture
from lungunet.data.files import refuse_existing, refuse_inputs
from lungunet.data.hu import HuSurvey
from lungunet.data.kinds import as_list
from lungunet.data.manifest import list_slices
from lungunet.data.overlay import add_lines, draw_overlay
from lungunet.errors import ConfigError, DataError, counted, listed
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
    measure_slice,
)
from lungunet.inference.parts import keys_of, list_of
from lungunet.inference.predictor import (
    Prediction,
    Predictor,
    find_no_hu,
    predict_some,
    sees_hu,
    warn_of,
)
from lungunet.inference.prefetch import map_ahead
from lungunet.inference.quality import Plausibility, check_slice
from lungunet.inference.record import Record, identify_source
from lungunet.inference.scans import refuse_rule, require_uncertainty
from lungunet.progress import Progress, silent

_CHUNK = 64  # slices that a process takes at once, seconds of work
_SHARES = 16  # of few slices, so that each process has some
_BEHIND = 8  # slices that may wait to be written before the model waits too


@dataclass(frozen=True)
class SliceFiles:
    """What :func:`predict_slices` writes besides masks and ``measurements.csv``.

    Parameters
    ----------
    overlay : outlines, to the subfolder overlays; with triage its light and first reason below
    probabilities : float TIFFs, to the subfolder probabilities; one per class but background
    triage : ``triage.csv``, which says which masks to look at first
    uncertainty : float TIFFs of :attr:`Segmented.uncertainty`, to the subfolder uncertainty
    """

    overlay: bool = False
    probabilities: bool = False
    triage: bool = True
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
    skipped : the mask was there, see ``skip_existing``
    name : what tables call it, see :class:`Pair`; empty takes the file's name without its ending
    """

    path: Path
    mask: Path | None = None
    measured: Measurement | None = None
    checked: Plausibility | None = None
    error: str | None = None
    skipped: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        """Take the stem for a name."""
        object.__setattr__(self, "name", self.name or self.path.stem)


def predict_slices(
    predictor: Predictor,
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    write: SliceFiles = SliceFiles(),
    batch_size: int = 8,
    overwrite: bool = False,
    skip_existing: bool = False,
    sharing: Sharing = ALONE,
    progress: Progress = silent,
) -> Generator[SliceResult, None, None]:
    """Write one mask per slice; a file that cannot be read is named and skipped.

    Masks are PNG at the size of the slice, with the codec's raw values (0 and 255), called like the
    slice; where stems repeat, as in ``p1/slice1.tif`` and ``p2/slice1.tif``, with the folders
    before: ``p1_slice1.png``. Work is done as results are asked for. The tables are written when
    the loop ends, however it ends, with every mask that was written.

    Parameters
    ----------
    inputs : slices: one or more files, folders, globs or lists (.txt)
    out : folder for the masks
    write : what else is written
    batch_size : slices at once
    overwrite : replace what is there. Masks that are not among ``inputs`` stay, with their rows, if
        the same model made them with the same settings; else they are refused, and all that is to
        be replaced goes first
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
        When output would replace what is read, what exists, or itself, another job writes into the
        folder, or the job cannot be shared.
    DataError
        When an input is missing, or output cannot be written; when the model sees HU and the
        slices cannot be, by some of them spread over the list. Single ones among others are red.
    KeyboardInterrupt
        On Ctrl-C; its text says how many masks are there, all of them whole.
    """
    if write.uncertainty:
        refuse_rule(predictor)
    out = Path(out)
    inputs = as_list(inputs)
    called = _list_slices(inputs, out)
    everything = [*called]
    part = part_of(sharing)
    files = own(everything, keys_of(everything, inputs), part)
    names = [called[file] for file in files]
    if sees_hu(predictor) and (fault := find_no_hu(files)) is not None:
        raise DataError(fault.text, where=listed(list(map(str, inputs)), separator=", "))
    classes = predictor.codec.names
    planned = [out / path for name in names for path in _slice_paths(name, classes, write)]
    job = _SliceJob(out, write, batch_size, called)
    with recording(
        out,
        predictor,
        {},
        codec=predictor.codec,
        part=part,
        belongs=_all_paths(out, called.values(), classes),
        overwrite=overwrite,
        skip_existing=skip_existing,
    ) as record:
        planned += record.files
        refuse_inputs(planned, everything)
        refuse_existing(planned, overwrite or record.goes_on)
        _refuse_others_masks(planned, names, out)
        record.begin(names, list_of([*called.values()], own=names) if part else None)
        try:
            todo: list[Path] = []
            for file in files:
                there = _look_up_slice(file, job, predictor, record)
                if there is None:
                    todo.append(file)
                else:
                    yield there
            with closing(_do_slices(job, predictor, todo, sharing, record)) as results:
                yield from progress(results, desc="predict", total=len(todo))
        except KeyboardInterrupt:
            done = f"{record.count(names)} of {counted(len(files), 'mask')} in {out}"
            raise KeyboardInterrupt(f"{done}, each of them whole") from None
        finally:
            record.write_tables(names)


@dataclass(frozen=True)
class _SliceJob:
    """What is done with slices, in whatever process."""

    out: Path
    write: SliceFiles
    batch_size: int
    called: Mapping[Path, str]

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
            name = self.called[prediction.path]
            result = _write_slice(prediction, name, predictor, self.out, self.write)
            return _keep_slice(result, record) if record else result

        return map_ahead(work, predictions, depth=_BEHIND)


def _keep_slice(result: SliceResult, record: Record) -> SliceResult:
    source = identify_source([result.path])
    if result.measured:
        record.add(result.name, source, [result.measured], result.checked)
        return result
    note(record, result.name, result.path, source=source, error=str(result.error))
    return result


def _look_up_slice(
    file: Path, job: _SliceJob, predictor: Predictor, record: Record
) -> SliceResult | None:
    """Return what there is of a slice without predicting it; None where nothing is."""
    if not record.goes_on:
        return None
    source, name = identify_source([file]), job.called[file]
    paths = _slice_paths(name, predictor.codec.names, job.write)
    belongs = [job.out / path for path in paths]
    try:
        there = record.holds(name, source, belongs)
    except DataError as err:
        note(record, name, file, source=source, error=str(err))
        return SliceResult(file, error=str(err), name=name)
    return SliceResult(file, belongs[0], skipped=True, name=name) if there else None


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
                name = job.called[paths[0]]
                done, looked = [SliceResult(paths[0], error=error, name=name)], HuSurvey()
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


def _list_slices(inputs: list[str], out: Path) -> dict[Path, str]:
    """Return file -> what it is called."""
    if any(Path(source).is_dir() and Path(source).resolve() == out.resolve() for source in inputs):
        raise ConfigError(
            "is the folder that is read; masks would lie between the slices. Choose another one.",
            where=out,
        )
    slices = list_slices(inputs, but=out)
    by_name = defaultdict(list)
    for slice_ in slices:
        by_name[slice_.name].append(str(slice_.image))
    clashes = [" and ".join(files) for files in by_name.values() if len(files) > 1]
    if clashes:
        raise ConfigError(
            f"files that would write the same mask:\n  {listed(clashes)}\n"
            "Predict them into different folders."
        )
    return {slice_.image: slice_.name for slice_ in slices}


def _refuse_others_masks(planned: list[Path], names: Sequence[str], out: Path) -> None:
    """Keep predictions out of a folder of masks in another format, which they would pair with."""
    known = set(names)
    others = [
        str(path)
        for path in sorted(out.glob("*"))
        if path.suffix.lower() in SUFFIXES and path.stem in known and path not in planned
    ]
    if others:
        raise ConfigError(
            "of the same names as the masks to be written, and not written by this command. "
            "Choose another folder.",
            where=listed(others, separator=", "),
        )


def _write_slice(
    prediction: Prediction, called: str, predictor: Predictor, out: Path, write: SliceFiles
) -> SliceResult:
    """Write the files of one slice, then measure and check its mask."""
    path, image, segmented = prediction.path, prediction.image, prediction.segmented
    if image is None or segmented is None:
        return SliceResult(path, error=prediction.error, name=called)
    mask, classes = out / f"{called}.png", segmented.classes
    unsure = require_uncertainty(segmented) if write.uncertainty else None
    if write.probabilities:
        for index, name in enumerate(name_maps(called, predictor.codec.names), start=1):
            write_image(out / name, segmented.probability(index))
    if unsure is not None:
        write_image(out / name_uncertainty(f"{called}.tif"), unsure)
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
            in_hu=sees_hu(predictor),
        )
    if write.overlay:
        picture = draw_overlay(predictor.to_grey(image), pred=classes)
        if checked:  # below, so that a pixel of the slice is where it was
            said = ": ".join((checked.light, *checked.reasons[:1]))
            picture = add_lines(picture, [said], below=True)
        write_picture(out / _overlay(called), picture)
    measured = measure_slice(image, classes, name=called)
    return SliceResult(path, mask, measured, checked, name=called)


def _slice_paths(stem: str, class_names: Sequence[str], write: SliceFiles) -> list[Path]:
    """List what is written for one slice, below the folder; the mask first."""
    pictures = [_overlay(stem)] if write.overlay else []
    maps = name_maps(stem, class_names) if write.probabilities else []
    maps += [name_uncertainty(f"{stem}.tif")] if write.uncertainty else []
    return [Path(f"{stem}.png"), *pictures, *maps]


def _all_paths(
    out: Path, names: Iterable[str], class_names: Sequence[str]
) -> dict[str, list[Path]]:
    """List by name all files that may be of each slice, whatever is written this time."""
    all_kinds = SliceFiles(overlay=True, probabilities=True, uncertainty=True)
    return {n: [out / path for path in _slice_paths(n, class_names, all_kinds)] for n in names}


def _overlay(stem: str) -> Path:
    return Path("overlays", f"{stem}.png")
