"""Score a model, or the masks of any other tool, on a list of pairs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from lungunet.data.codec import LabelCodec
from lungunet.data.ct import write_picture
from lungunet.data.dataset import read_pair
from lungunet.data.manifest import Pair
from lungunet.data.overlay import draw_overlay, tile
from lungunet.errors import DataError, GeometryError, SplitError
from lungunet.evaluation.cases import CaseScore, score_case
from lungunet.evaluation.scorecard import ScoreCard
from lungunet.inference.predictor import Prediction
from lungunet.inference.threshold import ThresholdSegmenter
from lungunet.progress import Progress, silent

_PICTURE_PX = 384


class Predicts(Protocol):
    """What can be scored: a :class:`Predictor`, or a :class:`MaskFolder`."""

    @property
    def codec(self) -> LabelCodec:
        """Of the masks that come out."""
        ...

    @property
    def is_rule(self) -> bool:
        """Whether it is the threshold rule, which is no baseline to itself."""
        ...

    def predict_files(self, paths: Iterable[Path], *, batch_size: int = 8) -> Iterator[Prediction]:
        """Yield one prediction per path, in order."""
        ...

    def to_grey(self, image: np.ndarray) -> np.ndarray:
        """Return a slice as (H, W) uint8, the way it should be looked at."""
        ...


def evaluate(
    predictor: Predicts,
    pairs: Sequence[Pair],
    *,
    codec: LabelCodec | None = None,
    patients: Mapping[str, object] | None = None,
    baselines: bool = True,
    progress: Progress = silent,
) -> ScoreCard:
    """Score masks on pairs at the size of the files, beside what costs nothing.

    Parameters
    ----------
    predictor : a :class:`Predictor`, or a :class:`MaskFolder`
    codec : of the truth; None means 0/255, or for more classes that of the predictor
    patients : stem -> patient; None takes every slice as a patient of its own, which makes
        intervals too narrow where that is not so
    baselines : also score the threshold (where slices hold HU) and all background

    Raises
    ------
    SplitError
        When there are no pairs.
    DataError, GeometryError, LabelError
        When a file is wrong: a score that leaves slices out would not be one of this list.
    """
    if not pairs:
        raise SplitError("no pairs to evaluate on. Choose another list with --split.")
    codec = codec or predictor.codec.for_prediction
    if codec.n_classes != predictor.codec.n_classes:
        raise DataError(
            f"the masks have {codec.n_classes} classes, the model "
            f"{predictor.codec.n_classes}. Pass the labels that map one to the other."
        )
    owners = patients or {}
    scored = _Scored(codec.n_classes)
    if predictor.is_rule:
        del scored.baselines["threshold"]  # nothing is a baseline to itself
    predictions = predictor.predict_files([pair.image for pair in pairs])
    matched = zip(pairs, predictions, strict=True)
    for pair, prediction in progress(matched, desc="evaluate", total=len(pairs)):
        image, truth = read_pair(pair, codec)
        if prediction.classes.shape != truth.shape:
            raise GeometryError(
                f"the mask to score is {prediction.classes.shape}, the truth "
                f"{truth.shape}. Bring it back to the size of its slice.",
                where=pair.name,
            )
        patient = str(owners.get(pair.name, pair.name))
        scored.add(pair.name, patient, truth, prediction.classes)
        if baselines:
            scored.add_baselines(pair.name, patient, truth, image)
    return scored.card(codec.names)


class _Scored:
    """Cases of the model and of the baselines, as they come in."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.cases: list[CaseScore] = []
        self.baselines: dict[str, list[CaseScore]] = {"threshold": [], "all background": []}
        self.threshold = ThresholdSegmenter()
        self.remarks: list[str] = []

    def add(self, name: str, patient: str, truth: np.ndarray, pred: np.ndarray) -> None:
        """Score one slice of the model."""
        self.cases.append(score_case(name, truth, pred, n_classes=self.n_classes, patient=patient))

    def add_baselines(self, name: str, patient: str, truth: np.ndarray, image: np.ndarray) -> None:
        """Score one slice of each baseline; they know lung and background alone."""
        lung = (truth > 0).astype(np.uint8)
        nothing = np.zeros_like(lung)
        self.baselines["all background"].append(score_case(name, lung, nothing, patient=patient))
        if self.remarks or "threshold" not in self.baselines:
            return
        try:
            pred = self.threshold([image])[0].classes
        except DataError as err:
            self.remarks.append(f"no threshold baseline: {err}")
            return
        self.baselines["threshold"].append(score_case(name, lung, pred, patient=patient))

    def card(self, class_names: tuple[str, ...]) -> ScoreCard:
        """Return the score card; a baseline that does not cover every slice is left out."""
        whole = {
            name: ScoreCard(tuple(cases), ("background", "lung"))
            for name, cases in self.baselines.items()
            if len(cases) == len(self.cases)
        }
        return ScoreCard(tuple(self.cases), class_names, whole, tuple(self.remarks))


def save_pictures(
    folder: str | Path,
    predictor: Predicts,
    pairs: Sequence[Pair],
    card: ScoreCard,
    *,
    codec: LabelCodec,
) -> None:
    """Write overlays of the worst six and the best three slices, truth blue, prediction orange.

    They are named ``worst-01_NAME.png`` and ``best-01_NAME.png``; what an earlier call left in
    ``folder`` under such names is removed.
    """
    folder = Path(folder)
    ranked = [case.name for case in card.worst(len(card.cases))]
    best = ranked[:5:-1][:3]  # from the other end, and none that is among the worst six
    wanted = {f"worst-{n:02d}_{name}": name for n, name in enumerate(ranked[:6], start=1)}
    wanted |= {f"best-{n:02d}_{name}": name for n, name in enumerate(best, start=1)}
    for kind in ("worst", "best"):
        for old in folder.glob(f"{kind}-[0-9][0-9]_*.png"):
            old.unlink()
    by_name = {pair.name: pair for pair in pairs}
    chosen = [by_name[name].image for name in wanted.values()]
    for title, prediction in zip(wanted, predictor.predict_files(chosen), strict=True):
        image, truth = read_pair(by_name[wanted[title]], codec)
        grey = predictor.to_grey(image)
        picture = draw_overlay(grey, truth=truth, pred=prediction.classes)
        # Small enough that a page with all of them can be mailed.
        write_picture(folder / f"{title}.png", tile([picture], side=_PICTURE_PX))
