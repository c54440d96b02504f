"""From a scan to its lungs: slice after slice through a model, the result voxel by voxel.

Knows no file formats; memory beyond the scan is one batch of slices and a byte per voxel.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lungunet.data.hu import require_hu
from lungunet.data.kinds import check_kind, plain_value
from lungunet.errors import ConfigError, LungUNetWarning
from lungunet.inference.refine import refine_volume
from lungunet.inference.segmenter import Segmented, disagree
from lungunet.progress import Progress, silent
from lungunet.volumes.volume import Volume

if TYPE_CHECKING:
    from lungunet.inference.predictor import Predictor

_MOSTLY = 0.5  # of the lung that a network finds should stay
_HARDLY = 0.1  # stays where the scan is cut so close that no body can be told from what is around


@dataclass(frozen=True, eq=False)
class VolumePrediction:
    """What a model says of one scan.

    Parameters
    ----------
    volume : the scan
    classes : (D, H, W) uint8, the likeliest class of each voxel; 1 is lung
    disagreement : (D,) float64 in [0, 1]; for each slice 1 - IoU of the lung found in it and in its
        left-right mirror, 0 where there is none in both; None without ``tta``
    spread_px : (D,) float64; for each slice the sum of ``Segmented.spread``; None of one model
    uncertainty : (D, H, W) float32, :attr:`Segmented.uncertainty` of each slice; None unless it was
        asked for
    probabilities : (C - 1, D, H, W) float32, of each class but background, as the model gives them
        before any mending; None unless they were asked for, and of a rule
    """

    volume: Volume
    classes: np.ndarray
    disagreement: np.ndarray | None = None
    spread_px: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    probabilities: np.ndarray | None = None

    def probability(self, index: int) -> np.ndarray:
        """Return the probability of a class above 0, (D, H, W) float32; of a rule 0 or 1."""
        if self.probabilities is None:
            return np.asarray(self.classes == index, np.float32)
        return np.asarray(self.probabilities[index - 1])


def predict_volume(
    predictor: "Predictor",
    volume: Volume,
    *,
    batch_size: int = 8,
    refine: bool = True,
    uncertainty: bool = False,
    probabilities: bool = False,
    progress: Progress = silent,
) -> VolumePrediction:
    """Segment a scan.

    A network sees one slice at a time, its pixels made square where they are not. What segments
    volumes sees the whole scan, in millimetres; the threshold baseline gives
    ``segment_lungs(volume.array, spacing_mm=volume.spacing_mm)``.

    Parameters
    ----------
    batch_size : slices at once
    refine : mend what a network with two classes says by :func:`refine_volume`; a warning says
        where that takes more than half away. What sees the whole scan is left as it is
    uncertainty : also say how unsure the model is of each voxel; takes 4 bytes each
    probabilities : also keep those of each class but background; take 4 bytes each
    progress : counts batches

    Returns
    -------
    VolumePrediction

    Raises
    ------
    DataError
        When the model was trained on something else than HU, or the scan holds no HU.
    ConfigError
        When the batch size is below 1, or uncertainty is asked of what has no probabilities.
    """
    check_kind("batch_size", plain_value(batch_size), int, "Give a whole number, 1 or more.")
    if batch_size < 1:
        raise ConfigError("must be at least 1.", where=f"batch_size={batch_size}")
    if uncertainty:
        refuse_rule(predictor)
    predictor.segmenter.prepare(volume.array[0], str(volume.path))
    require_hu(volume.array, volume.path)
    segment_volume = predictor.segmenter.segment_volume
    if segment_volume is not None:
        if uncertainty:
            raise no_probabilities("what segments whole scans")
        return _predict_whole(segment_volume, volume, tta=predictor.tta)
    array = volume.array
    classes = np.empty(array.shape, np.uint8)
    disagreement, spread_px = np.zeros(len(array)), np.zeros(len(array))
    unsure = np.empty(array.shape, np.float32) if uncertainty else None
    kept = None
    if probabilities:
        kept = np.empty((predictor.codec.n_classes - 1, *array.shape), np.float32)
    several, done = False, 0
    batches = predictor.segment_ahead(
        array, batch_size=batch_size, spacing_mm=volume.spacing_mm[1:]
    )
    total = -(-len(array) // batch_size)
    for batch in progress(batches, desc=volume.name, total=total):
        for index, segmented in enumerate(batch, done):
            classes[index] = segmented.classes
            disagreement[index] = segmented.disagreement or 0.0
            if segmented.spread is not None:
                several, spread_px[index] = True, segmented.spread.sum(dtype=np.float64)
            if unsure is not None:
                unsure[index] = require_uncertainty(segmented)
            if kept is not None:
                kept[:, index] = [segmented.probability(i) for i in range(1, len(kept) + 1)]
        done += len(batch)
    if refine and predictor.codec.n_classes == 2:
        classes = _refine(volume, classes)
    return VolumePrediction(
        volume,
        classes,
        disagreement if predictor.tta else None,
        spread_px if several else None,
        unsure,
        kept,
    )


def refuse_rule(predictor: "Predictor") -> None:
    """Refuse to say how unsure a model is that has no probabilities."""
    if predictor.word == "threshold":
        raise no_probabilities("the threshold")


def require_uncertainty(segmented: Segmented) -> np.ndarray:
    """Return how unsure a model is of a slice; refuse one without probabilities."""
    unsure = segmented.uncertainty
    if unsure is None:
        raise no_probabilities("the model")
    return unsure


def no_probabilities(model: str) -> ConfigError:
    """Return the error of asking how unsure it is."""
    return ConfigError(f"{model} has no probabilities. Leave it out.", where="uncertainty")


def _refine(volume: Volume, classes: np.ndarray) -> np.ndarray:
    refined = refine_volume(volume.array, classes, spacing_mm=volume.spacing_mm)
    before, after = np.count_nonzero(classes), np.count_nonzero(refined & classes)
    if after < _HARDLY * before:
        warnings.warn(
            f"{volume.path}: the mask is as the model gave it. Mending would have taken "
            f"{1 - after / before:.0%} of the predicted lung away, as outside a body or in small "
            "parts: so it is where a scan is cut to a part of the chest. Look at it.",
            LungUNetWarning,
            stacklevel=3,
        )
        return classes
    if after < _MOSTLY * before:
        warnings.warn(
            f"{volume.path}: {1 - after / before:.0%} of the predicted lung was taken away: it is "
            "outside a body, or in small parts. Look at it, or keep it with refine=False.",
            LungUNetWarning,
            stacklevel=3,
        )
    return refined


def _predict_whole(
    segment: Callable[..., np.ndarray], volume: Volume, *, tta: bool
) -> VolumePrediction:
    classes = segment(volume.array, spacing_mm=volume.spacing_mm)
    if not tta:
        return VolumePrediction(volume, classes)
    mirrored = np.ascontiguousarray(volume.array[..., ::-1])
    again = segment(mirrored, spacing_mm=volume.spacing_mm)[..., ::-1]
    disagreement = np.array([disagree(one, two) for one, two in zip(classes, again, strict=True)])
    # Of the mean of two such masks the likeliest class is lung where both say so.
    return VolumePrediction(volume, classes & again, disagreement)
