"""Whether probabilities mean what they say: of pixels called lung, as many are lung as promised.

Owns how that is counted, and the one temperature that mends it. Knows no files.
"""

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from lungunet.data.codec import IGNORE, LabelCodec
from lungunet.data.dataset import read_pair
from lungunet.data.manifest import Pair
from lungunet.evaluation.masks import Predicts
from lungunet.inference.segmenter import Segmented
from lungunet.metrics.bootstrap import Interval
from lungunet.progress import Progress, silent

BINS = 15
_SUREST = 1e-7  # float32 tells no smaller doubt from none
_LOGITS = np.linspace(0, 17, 1025)  # to -log of that; a pixel called lung has none below 0
_RANGE = (0.05, 20.0)  # of temperatures


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be taken at their word.

    Parameters
    ----------
    ece : expected calibration error of the pixels that are called lung: what the probability of
        lung says against the share that is lung, in 15 bins of equal width, weighed by pixels
    interval : 95 %, resampled by patient
    temperature : that makes the truth of val likeliest where the logit of lung is divided by it;
        above 1 the model is too sure of itself; None where there was no val to fit it on
    ece_after, interval_after : with that temperature

    References
    ----------
    Guo et al. 2017, On Calibration of Modern Neural Networks, equations 3 and 9.
    """

    ece: float
    interval: Interval
    temperature: float | None = None
    ece_after: float | None = None
    interval_after: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        after = self.interval_after
        return {
            **asdict(self),
            "interval": astuple(self.interval),
            "interval_after": None if after is None else astuple(after),
        }


def count_reliability(
    truth: np.ndarray, segmented: Segmented, *, temperature: float = 1.0
) -> np.ndarray | None:
    """Sort the pixels that are called lung by what was promised.

    Parameters
    ----------
    truth : (H, W) integer; above 0 is lung, :data:`IGNORE` is left out

    Returns
    -------
    (15, 3) float64, or None where there are no probabilities
        For each bin of the probability of lung: pixels, their summed probability, how many are
        lung.
    """
    logits = _logits(segmented)
    if logits is None:
        return None
    hits, known = _hits(truth, segmented)
    probability = 1 / (1 + np.exp(-logits[known] / temperature))
    bins = np.minimum((probability * BINS).astype(np.intp), BINS - 1)
    columns = (None, probability, hits)
    return np.stack([np.bincount(bins, column, BINS) for column in columns], axis=1)


def ece(sums: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of (..., 15 * 3) sums; NaN without pixels."""
    pixels, promised, hits = np.moveaxis(sums.reshape(*sums.shape[:-1], BINS, 3), -1, 0)
    gaps = np.abs(promised - hits).sum(axis=-1)
    total = pixels.sum(axis=-1)
    return np.asarray(gaps / np.where(total > 0, total, np.nan))


def fit_temperature(
    predictor: Predicts, pairs: Sequence[Pair], codec: LabelCodec, *, progress: Progress = silent
) -> float | None:
    """Find the temperature that makes the truth of the pixels called lung likeliest.

    Parameters
    ----------
    pairs : that the model was not trained on, such as val

    Returns
    -------
    float or None
        None of a rule, which has no probabilities, and where no pixel that is called lung is lung.

    Raises
    ------
    DataError, GeometryError, LabelError
        When a file is wrong.
    """
    counts = np.zeros((2, len(_LOGITS) - 1))  # of pixels by logit: no lung, lung
    predictions = predictor.predict_files([pair.image for pair in pairs])
    matched = zip(pairs, predictions, strict=True)
    for pair, prediction in progress(matched, desc="calibrate", total=len(pairs)):
        segmented = prediction.segmented
        logits = None if segmented is None else _logits(segmented)
        if segmented is None or logits is None:
            return None
        hits, known = _hits(read_pair(pair, codec)[1], segmented)
        logits = logits[known]
        for truth in (0, 1):
            counts[truth] += np.histogram(logits[hits == truth], _LOGITS)[0]
    if not counts[1].any():
        return None
    middles = (_LOGITS[1:] + _LOGITS[:-1]) / 2

    def unlikelihood(log_temperature: float) -> float:
        scaled = middles / np.exp(log_temperature)
        return float(counts[0] @ np.logaddexp(0, scaled) + counts[1] @ np.logaddexp(0, -scaled))

    best = minimize_scalar(unlikelihood, bounds=np.log(_RANGE), method="bounded")
    return float(np.exp(best.x))


def _hits(truth: np.ndarray, segmented: Segmented) -> tuple[np.ndarray, np.ndarray]:
    """Return which known pixels called lung are lung, and which of those called lung are known."""
    true = truth[segmented.classes > 0]
    known = true != IGNORE
    return true[known] > 0, known


def _logits(segmented: Segmented) -> np.ndarray | None:
    """Return log odds of lung of the pixels called lung, (n,) float64."""
    if segmented.probabilities is None:
        return None
    other = segmented.probabilities[0][segmented.classes > 0].astype(np.float64)
    other = np.clip(other, _SUREST, 0.5)
    return np.asarray(np.log((1 - other) / other))
