"""The score of one slice: counts, overlap and distances."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lungunet.metrics.overlap import ConfusionMeter, Overlap, overlap
from lungunet.metrics.surface import SurfaceDistances, score_distance, surface_distances

OVERLAPS = ("accuracy", "iou", "miou", "dice", "precision", "recall")
DISTANCES = ("hd95", "assd", "surface_dice")
TOLERANCE_PX = 1.0  # of the surface Dice


@dataclass(frozen=True)
class CaseScore:
    """One slice.

    Parameters
    ----------
    name : file stem
    patient : the unit that intervals resample; the name itself where patients are not known
    counts : (C, C) int64, ``counts[t, p]`` pixels of true class t predicted as p
    surface : of lung, all classes above 0 merged, px
    shape : (H, W) of the slice, px
    """

    name: str
    patient: str
    counts: np.ndarray
    surface: SurfaceDistances
    shape: tuple[int, int]

    @cached_property
    def scores(self) -> Overlap:
        """Overlap in this slice; NaN where truth and prediction hold no lung."""
        return overlap(self.counts)

    @property
    def truth_px(self) -> int:
        """Lung pixels of the truth."""
        return int(self.counts[1:].sum())

    @property
    def pred_px(self) -> int:
        """Lung pixels of the prediction."""
        return int(self.counts[:, 1:].sum())

    def value(self, metric: str) -> float:
        """Return a metric as it enters a mean: an infinite distance is the slice's diagonal."""
        if metric in OVERLAPS:
            return float(getattr(self.scores, metric))
        value = float(getattr(self.surface, metric))
        return value if metric == "surface_dice" else score_distance(value, self.shape)


def score_case(
    name: str, truth: np.ndarray, pred: np.ndarray, *, n_classes: int = 2, patient: str = ""
) -> CaseScore:
    """Compare one prediction with its truth.

    Parameters
    ----------
    truth, pred : (H, W) integer, classes 0..n_classes-1

    Raises
    ------
    DataError
        When shapes differ or a class is out of range.
    """
    meter = ConfusionMeter(n_classes)
    meter.update(torch.from_numpy(pred), torch.from_numpy(truth))
    return CaseScore(
        name=name,
        patient=patient or name,
        counts=meter.counts.numpy(),
        surface=surface_distances(truth > 0, pred > 0, tolerance=TOLERANCE_PX),
        shape=(truth.shape[0], truth.shape[1]),
    )


def pooled_ratios(sums: np.ndarray, metric: str) -> np.ndarray:
    """Turn summed counts into a pooled metric, many at once.

    Parameters
    ----------
    sums : (R, C, C) counts
    metric : one of ``OVERLAPS`` but miou, which no interval is given for

    Returns
    -------
    (R,) float64, NaN where undefined
    """
    right = np.trace(sums, axis1=1, axis2=2)
    both = sums[:, 1:, 1:].sum(axis=(1, 2))
    truth, pred = sums[:, 1:].sum(axis=(1, 2)), sums[:, :, 1:].sum(axis=(1, 2))
    part, whole = {
        "accuracy": (right, sums.sum(axis=(1, 2))),
        "iou": (both, truth + pred - both),
        "dice": (2 * both, truth + pred),
        "precision": (both, pred),
        "recall": (both, truth),
    }[metric]
    return np.asarray(np.divide(part, whole, out=np.full(len(sums), np.nan), where=whole > 0))


def stack_counts(cases: Sequence[CaseScore]) -> np.ndarray:
    """Return the counts of all cases, (n, C, C) int64."""
    return np.stack([case.counts for case in cases])


def plain_case(case: CaseScore, class_names: Sequence[str]) -> dict[str, Any]:
    """Return one case as plain values, not yet free of NaN and infinity."""
    classes = zip(class_names, case.scores.class_iou, strict=True)
    return {
        "name": case.name,
        "patient": case.patient,
        **{metric: getattr(case.scores, metric) for metric in OVERLAPS},
        "hd95_px": case.surface.hd95,
        "assd_px": case.surface.assd,
        "surface_dice": case.surface.surface_dice,
        "truth_px": case.truth_px,
        "pred_px": case.pred_px,
        # With two classes, IoU of lung says it.
        **({f"iou_{name}": iou for name, iou in classes} if len(class_names) > 2 else {}),
    }
