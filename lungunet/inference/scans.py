"""From a scan to its lungs: slice after slice through a model, the result voxel by voxel.

Knows no file formats; memory beyond the scan is one batch of slices and a byte per voxel.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lungunet.errors import ConfigError, DataError, LungUNetWarning
from lungunet.inference.refine import refine_volume
from lungunet.inference.threshold import ThresholdSegmenter, segment_lungs
from lungunet.progress import Progress, silent
from lungunet.volumes.volume import Volume, require_hu

_MOSTLY = 0.5  # of the lung that a network finds should stay
_HARDLY = 0.1  # stays where the scan is cut so close that no body can be told from what is around

if TYPE_CHECKING:
    from lungunet.inference.predictor import Predictor


@dataclass(frozen=True, eq=False)
class VolumePrediction:
    """What a model says of one scan.

    Parameters
    ----------
    volume : the scan
    classes : (D, H, W) uint8, the likeliest class of each voxel; 1 is lung
    disagreement : (D,) float64 in [0, 1]; for each slice 1 - IoU of the lung found in it and in its
        left-right mirror, 0 where there is none in both; None without ``tta``
    """

    volume: Volume
    classes: np.ndarray
    disagreement: np.ndarray | None = None


def predict_volume(
    predictor: Predictor,
    volume: Volume,
    *,
    batch_size: int = 8,
    refine: bool = True,
    progress: Progress = silent,
) -> VolumePrediction:
    """Segment a scan.

    A network sees one slice at a time. The threshold baseline sees the whole scan, in millimetres:
    ``segment_lungs(volume.array, spacing_mm=volume.spacing_mm)``.

    Parameters
    ----------
    batch_size : slices at once
    refine : mend what a network with two classes says by :func:`refine_volume`; a warning says
        where that takes more than half away. The threshold baseline knows the same of lungs by
        itself
    progress : counts batches

    Returns
    -------
    VolumePrediction

    Raises
    ------
    DataError
        When the model was trained on something else than HU, or the scan holds no HU.
    ConfigError
        When the batch size is below 1.
    """
    if batch_size < 1:
        raise ConfigError("must be at least 1.", where=f"batch_size={batch_size}")
    _check(predictor, volume)
    if isinstance(predictor.segmenter, ThresholdSegmenter):
        return _predict_by_threshold(volume, tta=predictor.tta)
    array = volume.array
    classes = np.empty(array.shape, np.uint8)
    disagreement = np.zeros(len(array))
    starts = range(0, len(array), batch_size)
    for start in progress(starts, desc=volume.name, total=len(starts)):
        found = predictor.segment(list(array[start : start + batch_size]))
        for index, segmented in enumerate(found, start):
            classes[index] = segmented.classes
            disagreement[index] = segmented.disagreement or 0.0
    if refine and predictor.codec.n_classes == 2:
        classes = _refine(volume, classes)
    return VolumePrediction(volume, classes, disagreement if predictor.tta else None)


def _refine(volume: Volume, classes: np.ndarray) -> np.ndarray:
    refined = refine_volume(volume.array, classes, volume.spacing_mm)
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
            "outside a body, or in small parts. Look at it, or keep it with --raw (refine=False).",
            LungUNetWarning,
            stacklevel=3,
        )
    return refined


def _check(predictor: Predictor, volume: Volume) -> None:
    try:
        predictor.segmenter.prepare(volume.array[0])
    except DataError as err:
        reason = str(err).removeprefix("slice: ")
        raise DataError(f"{reason}", where=volume.path) from err
    require_hu(volume)


def _predict_by_threshold(volume: Volume, *, tta: bool) -> VolumePrediction:
    lungs = _threshold(volume.array, volume.spacing_mm)
    if not tta:
        return VolumePrediction(volume, lungs)
    again = _threshold(np.ascontiguousarray(volume.array[..., ::-1]), volume.spacing_mm)[..., ::-1]
    either = np.count_nonzero(lungs | again, axis=(1, 2))
    both = np.count_nonzero(lungs & again, axis=(1, 2))
    # Of the mean of two such masks the likeliest class is lung where both say so.
    return VolumePrediction(
        volume, lungs & again, np.where(either, 1 - both / np.maximum(either, 1), 0.0)
    )


def _threshold(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    if len(hu) == 1:  # no slices above and below that bear witness
        return segment_lungs(hu[0], spacing_mm=spacing_mm[1:])[None]
    return segment_lungs(hu, spacing_mm=spacing_mm)
