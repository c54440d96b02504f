"""How well a model does on slices whose truth is known, how sure that is, and against what.

Measured at the size of the files, not at the size the model sees. Knows no command line.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lungunet.data.files import write_text
from lungunet.evaluation.cases import (
    DISTANCES,
    OVERLAPS,
    TOLERANCE_PX,
    CaseScore,
    plain_case,
    pooled_ratios,
    stack_counts,
)
from lungunet.metrics.bootstrap import Interval, bootstrap_interval, mean_interval
from lungunet.metrics.overlap import Overlap, overlap

POOLED_WITH_INTERVAL = ("accuracy", "iou", "dice", "precision", "recall")


@dataclass(frozen=True)
class Summary:
    """A metric over cases.

    Parameters
    ----------
    mean, median : over the cases where it is defined; NaN where there is none
    n : number of those cases
    interval : of the mean, 95 %, resampled by patient
    """

    mean: float
    median: float
    n: int
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """What one set of masks scores above another one on the same slices.

    Parameters
    ----------
    value : ours minus theirs
    interval : 95 %, paired: each resample holds the same patients for both
    """

    value: float
    interval: Interval


@dataclass(frozen=True, repr=False)
class ScoreCard:
    """Scores of one set of masks on one list.

    Parameters
    ----------
    cases : slice by slice
    class_names : of the codec, background first
    baselines : the same slices, scored for masks that cost nothing
    remarks : what a reader should know, such as why a baseline is missing
    """

    cases: tuple[CaseScore, ...]
    class_names: tuple[str, ...]
    baselines: Mapping[str, "ScoreCard"] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Say in a line what it is about; :meth:`to_dict` has everything."""
        others = "".join(f", {name} {card.pooled.iou:.4f}" for name, card in self.baselines.items())
        return f"<ScoreCard of {len(self.cases)} slices: lung IoU {self.pooled.iou:.4f}{others}>"

    @cached_property
    def pooled(self) -> Overlap:
        """From the summed counts of all pixels of all slices."""
        return overlap(stack_counts(self.cases).sum(axis=0))

    @cached_property
    def patients(self) -> list[str]:
        """The patient of each case."""
        return [case.patient for case in self.cases]

    def pooled_interval(self, metric: str) -> Interval:
        """Return the 95 % interval of a pooled metric, resampled by patient."""
        counts = stack_counts(self.cases)
        return bootstrap_interval(
            counts.reshape(len(counts), -1),
            self.patients,
            statistic=lambda sums: pooled_ratios(sums.reshape(-1, *counts.shape[1:]), metric),
        )

    def per_case(self, metric: str) -> Summary:
        """Summarise a metric over slices; an infinite distance counts as the slice's diagonal."""
        values = np.array([case.value(metric) for case in self.cases])
        known = values[~np.isnan(values)]
        if not known.size:
            return Summary(math.nan, math.nan, 0, Interval(math.nan, math.nan))
        interval = mean_interval(values, self.patients)
        return Summary(float(known.mean()), float(np.median(known)), int(known.size), interval)

    def per_patient(self, metric: str) -> Summary:
        """Summarise an overlap metric over patients, each pooled over his slices."""
        by_patient: dict[str, np.ndarray] = {}
        for case in self.cases:
            by_patient[case.patient] = by_patient.get(case.patient, 0) + case.counts
        values = np.array([getattr(overlap(counts), metric) for counts in by_patient.values()])
        known = values[~np.isnan(values)]
        if not known.size:
            return Summary(math.nan, math.nan, 0, Interval(math.nan, math.nan))
        interval = mean_interval(values, list(by_patient))
        return Summary(float(known.mean()), float(np.median(known)), int(known.size), interval)

    def dice_by_rule(self) -> dict[str, float]:
        """Mean Dice per slice under each rule for slices without lung that is in use.

        Returns
        -------
        dict
            ``both_empty_is_nan`` (ours: undefined where truth and prediction are empty, 0 where
            only one is), ``both_empty_is_1``, and ``empty_truth_skipped`` (slices without lung in
            the truth do not count, whatever was predicted on them).
        """
        dice = np.array([case.scores.dice for case in self.cases])
        has_lung = np.array([case.truth_px > 0 for case in self.cases])
        rules = {
            "both_empty_is_nan": dice[~np.isnan(dice)],
            "both_empty_is_1": np.where(np.isnan(dice), 1.0, dice),
            "empty_truth_skipped": dice[has_lung],
        }
        return {name: float(v.mean()) if v.size else math.nan for name, v in rules.items()}

    def empty_slices(self) -> dict[str, int]:
        """Count the slices without lung, those where lung was invented, and how many pixels."""
        false_px = [case.pred_px for case in self.cases if case.truth_px == 0]
        return {
            "slices": len(false_px),
            "with_false_positives": sum(px > 0 for px in false_px),
            "false_positive_px": sum(false_px),
        }

    def difference(self, other: "ScoreCard", metric: str) -> Difference:
        """Return our pooled metric minus that of ``other``, on the same slices.

        Parameters
        ----------
        metric : iou or dice, which merge all classes above 0
        """
        ours, theirs = stack_counts(self.cases), stack_counts(other.cases)
        cut = ours[0].size

        def statistic(sums: np.ndarray) -> np.ndarray:
            mine = pooled_ratios(sums[:, :cut].reshape(-1, *ours.shape[1:]), metric)
            return np.asarray(
                mine - pooled_ratios(sums[:, cut:].reshape(-1, *theirs.shape[1:]), metric)
            )

        n = len(self.cases)
        table = np.concatenate([ours.reshape(n, -1), theirs.reshape(n, -1)], axis=1)
        return Difference(
            value=getattr(self.pooled, metric) - getattr(other.pooled, metric),
            interval=bootstrap_interval(table, self.patients, statistic=statistic),
        )

    def mean_difference(self, other: "ScoreCard", metric: str) -> Difference:
        """Return the mean over slices of our metric minus theirs; undefined slices are skipped."""
        values = np.array(
            [
                mine.value(metric) - theirs.value(metric)
                for mine, theirs in zip(self.cases, other.cases, strict=True)
            ]
        )
        known = values[~np.isnan(values)]
        mean = float(known.mean()) if known.size else math.nan
        return Difference(mean, mean_interval(values, self.patients))

    def worst(self, count: int = 5) -> list[CaseScore]:
        """Return the slices of lowest IoU, worst first; undefined ones left out."""
        defined = [case for case in self.cases if not math.isnan(case.scores.iou)]
        return sorted(defined, key=lambda case: (case.scores.iou, case.name))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: undefined is None, infinite is "inf"."""
        content: dict[str, Any] = _plain(
            {
                "slices": len(self.cases),
                "patients": len(set(self.patients)),
                "measured_at": "file size",
                "surface_tolerance_px": TOLERANCE_PX,
                **self._tables(),
                "dice_by_rule": self.dice_by_rule(),
                "empty_slices": self.empty_slices(),
                "baselines": {
                    name: {
                        **card._tables(),
                        "model_minus_baseline": self._differences(card),
                        "cases": [plain_case(case, card.class_names) for case in card.cases],
                    }
                    for name, card in self.baselines.items()
                },
                "remarks": list(self.remarks),
                "cases": [plain_case(case, self.class_names) for case in self.cases],
            }
        )
        return content

    def _tables(self) -> dict[str, Any]:
        names = zip(self.class_names, self.pooled.class_iou, strict=True)
        return {
            "pooled": {
                **{metric: getattr(self.pooled, metric) for metric in OVERLAPS},
                "class_iou": dict(names),
            },
            "pooled_interval": {
                metric: _pair(self.pooled_interval(metric)) for metric in POOLED_WITH_INTERVAL
            },
            "per_case": {
                _key(metric): _summary(self.per_case(metric)) for metric in (*OVERLAPS, *DISTANCES)
            },
            "per_patient": {metric: _summary(self.per_patient(metric)) for metric in OVERLAPS},
        }

    def _differences(self, other: "ScoreCard") -> dict[str, Any]:
        found = {f"pooled_{metric}": self.difference(other, metric) for metric in ("iou", "dice")}
        found |= {
            f"mean_{_key(metric)}": self.mean_difference(other, metric)
            for metric in ("iou", "dice", "hd95")
        }
        return {
            name: {"value": each.value, "interval": _pair(each.interval)}
            for name, each in found.items()
        }

    def save(self, folder: str | Path, **about: str) -> None:
        """Write scores.json and cases.csv into ``folder``, full precision.

        Parameters
        ----------
        **about : what scores.json says before the scores, such as model and split
        """
        folder = Path(folder)
        content = {**about, **self.to_dict()}
        write_text(folder / "scores.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
        text = io.StringIO()
        writer = csv.DictWriter(text, list(content["cases"][0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(content["cases"])
        write_text(folder / "cases.csv", text.getvalue())


def _key(metric: str) -> str:
    return f"{metric}_px" if metric in ("hd95", "assd") else metric


def _pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "mean": summary.mean,
        "interval": _pair(summary.interval),
        "median": summary.median,
        "n": summary.n,
    }


def _plain(value: Any) -> Any:
    """Replace NaN by None and infinity by "inf", however deep, as JSON knows neither."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
