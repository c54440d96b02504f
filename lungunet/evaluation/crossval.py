"""Every slice judged by a model that has not seen its patient: one training per fold left out.

:func:`cross_validate` scores the fold folders that ``lungunet split --folds`` writes, and keeps the
runs; :func:`predict_out_of_fold` makes small models of its own, for whoever doubts a mask.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lungunet.data.codec import LabelCodec
from lungunet.data.files import refuse_existing
from lungunet.data.manifest import Pair
from lungunet.data.split import (
    Split,
    fold_folders,
    fold_pairs,
    folds_of_lists,
    read_patients,
    write_split,
)
from lungunet.errors import ConfigError, DataError
from lungunet.evaluation.evaluate import evaluate, mark_seen
from lungunet.evaluation.report import REPORT
from lungunet.evaluation.scorecard import ScoreCard
from lungunet.evaluation.trained_on import seen_by
from lungunet.inference.predictor import Prediction, Predictor
from lungunet.progress import Progress, silent
from lungunet.training.config import RunConfig
from lungunet.training.distributed import refuse_torchrun
from lungunet.training.run import load_datasets, make_trainer, paint_val, train_run
from lungunet.training.run_folder import RunFolder
from lungunet.training.tracking import EpochResult

_SCORES = ("scores.json", "cases.csv")

_EVERY_TENTH = 10  # of a fold's training pairs chooses the epoch; the fold itself must not

QUICK = RunConfig(data="", size=128, epochs=12, batch_size=8, lr=3e-3, workers=0)
"""Small and quick: 200 slices in four folds take about six minutes of one CPU core."""


@dataclass(frozen=True)
class FoldResult:
    """One fold.

    Parameters
    ----------
    name : of the fold's folder
    card : its val slices at the size of the files, scored with the weights of the last epoch.
        Those of the best epoch were chosen on these very slices, and would look better than they
        are.
    """

    name: str
    card: ScoreCard


def find_folds(data: str | Path) -> list[Path]:
    """List the fold folders of a data folder that hold lists, in order.

    Raises
    ------
    DataError
        When there are none.
    """
    folds = folds_of_lists(data)
    if not folds:
        raise DataError("has no folds. Write them with 'lungunet split ... --folds 5'.", where=data)
    return folds


def cross_validate(
    config: RunConfig,
    out: str | Path,
    *,
    overwrite: bool = False,
    baselines: bool = True,
    progress: Progress = silent,
) -> Iterator[EpochResult | FoldResult]:
    """Train on each fold of ``config.data`` and score its val list.

    Parameters
    ----------
    out : gets one run folder per fold, and at the end, however it ends, the scores of all folds
        that are done: scores.json and cases.csv hold each slice once
    overwrite : remove the runs and scores that ``out`` holds, of folds that are no more too, before
        the first fold is trained
    baselines : as :func:`evaluate` takes it

    Yields
    ------
    EpochResult, FoldResult
        The epochs of a fold, then its score.

    Raises
    ------
    ConfigError
        When ``out`` holds runs or scores already, or the weights to begin with are among what would
        be replaced; or several processes train together.
    DataError, SplitError
        When the data folder has no folds, or the lists of one are wrong; before any is trained.
    LungUNetError
        As training and evaluation raise it.
    """
    refuse_torchrun("cross-validation")
    folds, out = find_folds(config.data), Path(out)
    if not overwrite:
        for run in fold_folders(out):
            RunFolder(run).refuse_present()
    refuse_existing([out / name for name in _SCORES], overwrite)
    if overwrite:
        _refuse_own_weights(config.weights, out)
    settings = [replace(config, data=str(fold)) for fold in folds]
    for each in settings:
        load_datasets(each)
    done: list[FoldResult] = []
    try:
        for fold, own in zip(folds, settings, strict=True):
            trainer, train, val = make_trainer(own, out / fold.name, progress=progress)
            if overwrite and not done:
                _clear(out)
            ill = paint_val(val, config)
            yield from trainer.epochs(train, val, overwrite=overwrite, val_ill=ill)
            predictor = Predictor(
                trainer.model,
                train.contract,
                train.codec,
                device=config.device,
                precision=config.precision,
            )
            card = evaluate(
                predictor,
                val.pairs,
                codec=train.codec,
                patients=read_patients(fold),
                baselines=baselines,
                progress=progress,
            )
            # Folds keep patients apart; the weights that they begin with may have seen them all.
            known = seen_by(out / fold.name, val.pairs).train
            done.append(FoldResult(fold.name, mark_seen(card, known) if known else card))
            yield done[-1]
    finally:
        if done:
            _merge(done, of=len(folds)).save(out, model=str(out), split="out of fold")


def _refuse_own_weights(weights: str, out: Path) -> None:
    if {run.resolve() for run in fold_folders(out)} & {*Path(weights, "_").resolve().parents}:
        raise ConfigError(
            "is of a run that would be replaced, and every fold begins with it. Choose another "
            "folder for the cross-validation.",
            where=f"weights {weights}",
        )


def _clear(out: Path) -> None:
    """Remove an earlier cross-validation: runs that stayed would be members beside the new ones."""
    of_their_mean = (f"evaluation/*/{name}" for name in (*_SCORES, REPORT, "pictures/*.png"))
    for pattern in (*_SCORES, *of_their_mean):
        for path in out.glob(pattern):
            path.unlink()
    for run in fold_folders(out):
        with RunFolder(run).claimed():
            RunFolder(run).start(overwrite=True)
            for name in ("config.toml", "environment.json"):
                (run / name).unlink(missing_ok=True)
        with suppress(OSError):  # it holds what is no part of a run
            run.rmdir()


def _merge(folds: Sequence[FoldResult], *, of: int) -> ScoreCard:
    """Join the score cards of folds: every slice once, each by a model that never saw it."""
    cards = [fold.card for fold in folds]
    first = cards[0]
    baselines = {
        name: ScoreCard(
            tuple(case for card in cards for case in card.baselines[name].cases),
            other.class_names,
        )
        for name, other in first.baselines.items()
        if all(name in card.baselines for card in cards)
    }
    cases = tuple(case for card in cards for case in card.cases)
    remarks = dict.fromkeys(remark for card in cards for remark in card.remarks)
    if len(folds) < of:
        remarks[f"{len(folds)} of {of} folds: it ended before the others were scored"] = None
    return ScoreCard(cases, first.class_names, baselines, tuple(remarks))


def predict_out_of_fold(
    pairs: Sequence[Pair],
    *,
    codec: LabelCodec,
    folds: int,
    groups: Mapping[str, str] | None = None,
    config: RunConfig = QUICK,
    work: Path | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[Pair, Prediction]]:
    """Train a model per fold on the other folds, and predict the fold with it.

    Parameters
    ----------
    groups : stem -> patient, kept in one fold; None takes each pair as a patient of its own
    config : how to train; its data folder is not used
    work : folder for the temporary runs; None takes the system's. Nothing is left in it

    Yields
    ------
    Each pair once, with the prediction of the model that did not see it.
    """
    parts = fold_pairs(pairs, folds=folds, seed=config.seed, groups=groups)
    for part in progress(parts, desc="train folds", total=folds):
        with tempfile.TemporaryDirectory(dir=work, prefix="fold-") as folder:
            predictor = _train_quickly(part.train, codec, Path(folder), config)
            predictions = predictor.predict_files([pair.image for pair in part.val])
            yield from zip(part.val, predictions, strict=True)


def _train_quickly(
    pairs: list[Pair], codec: LabelCodec, folder: Path, config: RunConfig
) -> Predictor:
    kept = pairs[::_EVERY_TENTH]
    others = [pair for place, pair in enumerate(pairs) if place % _EVERY_TENTH]
    lists = Split(others or pairs, kept, [])
    write_split(folder, lists, {"labels": codec.to_dict()})
    for _ in train_run(replace(config, data=str(folder)), folder / "run"):
        pass
    return Predictor.load(folder / "run", device=config.device)
