"""How well a model does on slices whose truth is known: pooled, and case by case.

Measured at the size of the files, not at the size the model sees. Knows no command line.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lungunet.data.atomic import write_text
from lungunet.data.codec import LabelCodec
from lungunet.data.dataset import read_pair
from lungunet.data.manifest import Pair
from lungunet.errors import DataError, SplitError
from lungunet.inference.predictor import Predictor
from lungunet.metrics.overlap import ConfusionMeter, Overlap, overlap
from lungunet.progress import Progress, silent

METRICS = ("accuracy", "iou", "miou", "dice", "precision", "recall")


@dataclass(frozen=True)
class CaseScore:
    """One slice.

    Parameters
    ----------
    name : file stem
    scores : of this slice alone; NaN where truth and prediction hold no lung
    truth_px, pred_px : lung pixels, all classes above 0
    """

    name: str
    scores: Overlap
    truth_px: int
    pred_px: int


@dataclass(frozen=True)
class ScoreCard:
    """Scores of one model on one list.

    Parameters
    ----------
    pooled : from the counts of all pixels of all slices
    cases : slice by slice
    class_names : of the codec, background first
    """

    pooled: Overlap
    cases: tuple[CaseScore, ...]
    class_names: tuple[str, ...]

    def per_case(self, metric: str) -> tuple[float, float, int]:
        """Return mean and median over the slices where ``metric`` is defined, and their number."""
        values = np.array([getattr(case.scores, metric) for case in self.cases])
        values = values[~np.isnan(values)]
        if not values.size:
            return math.nan, math.nan, 0
        return float(values.mean()), float(np.median(values)), int(values.size)

    def worst(self, count: int = 5) -> list[CaseScore]:
        """Return the slices of lowest IoU, worst first; undefined ones left out."""
        defined = [case for case in self.cases if not math.isnan(case.scores.iou)]
        return sorted(defined, key=lambda case: (case.scores.iou, case.name))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; undefined is None."""
        per_case = {}
        for metric in METRICS:
            mean, median, n = self.per_case(metric)
            per_case[metric] = {"mean": _plain(mean), "median": _plain(median), "n": n}
        return {
            "slices": len(self.cases),
            "measured_at": "file size",
            "pooled": _plain_scores(self.pooled, self.class_names),
            "per_case": per_case,
            "cases": [
                {
                    "name": case.name,
                    **_plain_scores(case.scores, self.class_names),
                    "truth_px": case.truth_px,
                    "pred_px": case.pred_px,
                }
                for case in self.cases
            ],
        }

    def save(self, folder: str | Path) -> None:
        """Write scores.json and cases.csv into ``folder``, full precision."""
        folder = Path(folder)
        write_text(folder / "scores.json", json.dumps(self.to_dict(), indent=2) + "\n")
        text = io.StringIO()
        columns = ("name", *METRICS, "truth_px", "pred_px")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for case in self.cases:
            values = [_plain(getattr(case.scores, metric)) for metric in METRICS]
            writer.writerow([case.name, *values, case.truth_px, case.pred_px])
        write_text(folder / "cases.csv", text.getvalue())


def evaluate(
    predictor: Predictor,
    pairs: Sequence[Pair],
    *,
    codec: LabelCodec | None = None,
    progress: Progress = silent,
) -> ScoreCard:
    """Score a model on pairs, at the size of the files.

    Parameters
    ----------
    codec : of the truth; None means that of the model

    Raises
    ------
    SplitError
        When there are no pairs.
    DataError, GeometryError, LabelError
        When a file is wrong: a score that leaves slices out would not be one of this list.
    """
    if not pairs:
        raise SplitError("no pairs to evaluate on. Choose another list with --split.")
    codec = codec or predictor.segmenter.codec
    if codec.n_classes != predictor.segmenter.codec.n_classes:
        raise DataError(
            f"the masks have {codec.n_classes} classes, the model "
            f"{predictor.segmenter.codec.n_classes}. Pass the labels that map one to the other."
        )
    total = ConfusionMeter(codec.n_classes)
    cases = []
    predictions = predictor.predict_files([pair.image for pair in pairs])
    matched = zip(pairs, predictions, strict=True)
    for pair, prediction in progress(matched, desc="evaluate", total=len(pairs)):
        _, truth = read_pair(pair, codec)
        counts = ConfusionMeter(codec.n_classes)
        counts.update(torch.from_numpy(prediction.classes), torch.from_numpy(truth))
        total.merge(counts)
        lung = (int((truth > 0).sum()), int((prediction.classes > 0).sum()))
        cases.append(CaseScore(pair.name, overlap(counts.counts), *lung))
    return ScoreCard(total.compute(), tuple(cases), codec.names)


def _plain(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "inf"


def _plain_scores(scores: Overlap, names: Sequence[str]) -> dict[str, Any]:
    return {
        **{metric: _plain(getattr(scores, metric)) for metric in METRICS},
        "class_iou": {name: _plain(iou) for name, iou in zip(names, scores.class_iou, strict=True)},
    }
