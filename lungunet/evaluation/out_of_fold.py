"""What models say of pairs that they never saw: K small trainings, each predicts what it left out.

Knows nothing of audits; whoever doubts a mask, or wants a cross-validated score, can ask.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lungunet.data.codec import LabelCodec
from lungunet.data.manifest import Pair
from lungunet.data.split import Split, fold_pairs, write_split
from lungunet.inference.predictor import Prediction, Predictor
from lungunet.progress import Progress, silent
from lungunet.training.config import RunConfig
from lungunet.training.run import train_run

_EVERY_TENTH = 10  # of a fold's training pairs chooses the epoch; the fold itself must not

QUICK = RunConfig(data="", size=128, epochs=12, batch_size=8, lr=3e-3, workers=0)
"""Small and quick: 200 slices in four folds take about six minutes of one CPU core."""


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

    Raises
    ------
    ConfigError, SplitError
        When there are fewer than two folds, or fewer patients than folds.
    """
    parts = fold_pairs(pairs, folds=folds, seed=config.seed, groups=groups)
    for part in progress(parts, desc="train folds", total=folds):
        with tempfile.TemporaryDirectory(dir=work, prefix="fold-") as folder:
            predictor = _train(part.train, codec, Path(folder), config)
            found = predictor.predict_files([pair.image for pair in part.val])
            yield from zip(part.val, found, strict=True)


def _train(pairs: list[Pair], codec: LabelCodec, folder: Path, config: RunConfig) -> Predictor:
    kept = pairs[::_EVERY_TENTH]
    lists = Split([pair for pair in pairs if pair not in kept] or pairs, kept, [])
    write_split(folder, lists, {"labels": codec.to_dict()})
    for _ in train_run(replace(config, data=str(folder)), folder / "run"):
        pass
    return Predictor.load(folder / "run", device=config.device)
