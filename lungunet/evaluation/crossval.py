"""Cross-validation: every slice scored by a model that has not seen its patient.

One training per fold; knows the fold folders that ``lungunet split --folds`` writes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lungunet.data.split import read_patients
from lungunet.errors import DataError
from lungunet.evaluation.evaluate import evaluate
from lungunet.evaluation.scorecard import ScoreCard
from lungunet.inference.network import TorchSegmenter
from lungunet.inference.predictor import Predictor
from lungunet.progress import Progress, silent
from lungunet.training.config import RunConfig
from lungunet.training.run import make_trainer
from lungunet.training.tracking import EpochResult


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
    """List the fold folders of a data folder, in order.

    Raises
    ------
    DataError
        When there are none.
    """
    folds = sorted(Path(data).glob("fold-[0-9]*"), key=lambda path: int(path.name.split("-")[1]))
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
    out : gets one run folder per fold
    overwrite : replace the runs that ``out`` holds

    Yields
    ------
    EpochResult, FoldResult
        The epochs of a fold, then its score.

    Raises
    ------
    DataError
        When the data folder has no folds.
    LungUNetError
        As training and evaluation raise it.
    """
    for fold in find_folds(config.data):
        trainer, train, val = make_trainer(
            replace(config, data=str(fold)), Path(out) / fold.name, progress=progress
        )
        yield from trainer.epochs(train, val, overwrite=overwrite)
        segmenter = TorchSegmenter(
            trainer.model,
            train.contract,
            train.codec,
            device=config.device,
            precision=config.precision,
        )
        card = evaluate(
            Predictor(segmenter),
            val.pairs,
            codec=train.codec,
            patients=read_patients(fold),
            baselines=baselines,
            progress=progress,
        )
        yield FoldResult(fold.name, card)


def merge_cards(results: list[FoldResult]) -> ScoreCard:
    """Join the score cards of all folds: every slice once, each by a model that never saw it."""
    cards = [result.card for result in results]
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
    remarks = tuple(dict.fromkeys(remark for card in cards for remark in card.remarks))
    return ScoreCard(cases, first.class_names, baselines, remarks)
