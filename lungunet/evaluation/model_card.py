"""What a run's own model scored, for the model folder: numbers that go where the weights go."""

import math
from pathlib import Path
from typing import Any

from lungunet.evaluation.scorecard import POOLED_WITH_INTERVAL, ScoreCard
from lungunet.metrics.bootstrap import Interval
from lungunet.models.folder import add_scores


def note_scores(model: str | Path, split: str, card: ScoreCard, *, weights_sha256: str) -> None:
    """Add the scores of one list to ``lungunet.json`` and to the model card.

    Parameters
    ----------
    model : a run folder or a model folder
    weights_sha256 : of the weights that were scored; nothing is written when the folder holds
        others by now
    """
    found: dict[str, Any] = {"slices": len(card.cases), "patients": len(set(card.patients))}
    for metric in POOLED_WITH_INTERVAL:
        found[metric] = _score(getattr(card.pooled, metric), card.pooled_interval(metric))
    distance = card.per_case("hd95")
    found["hd95_px"] = _score(distance.mean, distance.interval)
    if threshold := card.baselines.get("threshold"):
        gain = card.difference(threshold, "iou")
        found["threshold_iou"] = _score(threshold.pooled.iou, threshold.pooled_interval("iou"))
        found["iou_above_threshold"] = _score(gain.value, gain.interval)
    add_scores(model, {split: found}, weights_sha256=weights_sha256)


def _score(value: float, interval: Interval) -> dict[str, float | None]:
    found = {"value": value, "low": interval.low, "high": interval.high}
    return {name: None if math.isnan(number) else number for name, number in found.items()}
