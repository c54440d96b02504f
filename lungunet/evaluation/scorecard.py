"""How well a model does on slices whose truth is known, how sure that is, and against what.

Measured at the size of the files, not at the size the model sees. Knows no command line.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lungunet.data.codec import IGNORE, is_lung
from lungunet.data.files import plain, write_csv, write_json
from lungunet.evaluation.calibration import Calibration, ece
from lungunet.metrics.bootstrap import Interval, bootstrap_interval, mean_interval
from lungunet.metrics.overlap import (
    METRICS,
    TOLERANCE_PX,
    ConfusionMeter,
    Overlap,
    column,
    overlap,
    ratios,
)
from lungunet.metrics.surface import SurfaceDistances, score_distance, surface_distances

COMPARED = ("iou", "dice", "hd95")
"""What is given as a difference from the baselines: pooled, where it can be, and as a mean."""


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
    seen : whether the model was trained on it, or its epoch chosen on it
    reliability : (15, 3) float64, pixels, promised and true lung by probability; None of a rule
    reliability_after : the same with a temperature
    """

    name: str
    patient: str
    counts: np.ndarray
    surface: SurfaceDistances
    shape: tuple[int, int]
    seen: bool = False
    reliability: np.ndarray | None = None
    reliability_after: np.ndarray | None = None

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

    @cached_property
    def _measured(self) -> dict[str, float]:
        overlaps = ratios(self.counts)
        return {
            name: float(overlaps[name] if name in overlaps else getattr(self.surface, name))
            for name in METRICS
        }

    def value(self, metric: str) -> float:
        """Return a metric as it enters a mean: an infinite distance is the slice's diagonal."""
        return score_distance(self._measured[metric], self.shape)

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return a row of cases.csv, not yet free of NaN and infinity."""
        classes = zip(class_names, self.scores.class_iou, strict=True)
        return {
            "name": self.name,
            "patient": self.patient,
            **{column(metric): value for metric, value in self._measured.items()},
            "truth_px": self.truth_px,
            "pred_px": self.pred_px,
            # With two classes, IoU of lung says it.
            **({f"iou_{name}": iou for name, iou in classes} if len(class_names) > 2 else {}),
        }


def score_case(
    name: str, truth: np.ndarray, pred: np.ndarray, *, n_classes: int = 2, patient: str = ""
) -> CaseScore:
    """Compare one prediction with its truth.

    Parameters
    ----------
    truth, pred : (H, W) integer, classes 0..n_classes-1; the truth may hold :data:`IGNORE`
    """
    meter = ConfusionMeter(n_classes, ignore_index=IGNORE)
    meter.update(truth=torch.from_numpy(truth), pred=torch.from_numpy(pred))
    ignored = truth == IGNORE if (truth == IGNORE).any() else None
    return CaseScore(
        name=name,
        patient=patient or name,
        counts=meter.counts.numpy(),
        surface=surface_distances(
            is_lung(truth), pred > 0, tolerance=TOLERANCE_PX, ignored=ignored
        ),
        shape=(truth.shape[0], truth.shape[1]),
    )


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


def verdict(gain: Difference, *, model: str = "the model") -> str:
    """Say whether a model does better than a threshold: the one wording that is printed anywhere.

    Parameters
    ----------
    gain : pooled lung IoU of the model minus that of the threshold
    model : what it is called
    """
    if math.isnan(gain.interval.low):
        return (
            f"whether {model} beats the threshold baseline cannot be said: an interval needs two "
            "patients"
        )
    if gain.interval.low > 0:
        return f"{model} beats the threshold baseline, by {gain.value:.4f} pooled lung IoU"
    if gain.interval.high < 0:
        return (
            f"{model} does worse than the threshold baseline, by {-gain.value:.4f} pooled lung IoU"
        )
    return (
        f"{model} is not clearly better than the threshold baseline: the interval of the "
        "difference in pooled lung IoU holds 0"
    )


@dataclass(frozen=True, repr=False)
class ScoreCard:
    """Scores of one set of masks on one list.

    Parameters
    ----------
    cases : slice by slice
    class_names : of the codec, background first
    baselines : the same slices, scored for masks that cost nothing
    remarks : what a reader should know, such as why a baseline is missing
    folder : where :func:`evaluate_list` saved it; None where it did not
    temperature : that calibration was measured with, beside without
    """

    cases: tuple[CaseScore, ...]
    class_names: tuple[str, ...]
    baselines: Mapping[str, "ScoreCard"] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    folder: Path | None = None
    temperature: float | None = None

    def __repr__(self) -> str:
        """Say in a line what it is about; :meth:`to_dict` has everything."""
        others = "".join(f", {name} {card.pooled.iou:.4f}" for name, card in self.baselines.items())
        return f"<ScoreCard of {len(self.cases)} slices: lung IoU {self.pooled.iou:.4f}{others}>"

    @cached_property
    def _counts(self) -> np.ndarray:
        """(n, C, C) int64, those of all cases."""
        return np.stack([case.counts for case in self.cases])

    @cached_property
    def pooled(self) -> Overlap:
        """From the summed counts of all pixels of all slices."""
        return overlap(self._counts.sum(axis=0))

    @cached_property
    def patients(self) -> list[str]:
        """The patient of each case."""
        return [case.patient for case in self.cases]

    @cached_property
    def calibration(self) -> Calibration | None:
        """How far the probabilities can be taken at their word; None where there are none."""
        before = [case.reliability for case in self.cases if case.reliability is not None]
        if len(before) < len(self.cases):
            return None
        value, interval = self._ece(before)
        after = [
            case.reliability_after for case in self.cases if case.reliability_after is not None
        ]
        if len(after) < len(self.cases):
            return Calibration(value, interval)
        return Calibration(value, interval, self.temperature, *self._ece(after))

    def _ece(self, counts: Sequence[np.ndarray]) -> tuple[float, Interval]:
        table = np.stack([each.ravel() for each in counts])
        interval = bootstrap_interval(table, self.patients, statistic=ece)
        return float(ece(table.sum(axis=0))), interval

    @property
    def seen(self) -> int:
        """How many slices the model has seen while it was made: its scores on them are too good."""
        return sum(case.seen for case in self.cases)

    @cached_property
    def _pooled(self) -> dict[str, float]:
        return {name: float(value) for name, value in ratios(self._counts.sum(axis=0)).items()}

    def pooled_value(self, metric: str) -> float | None:
        """Return a metric of ``METRICS`` from the summed counts; None for distances."""
        return self._pooled.get(metric)

    def pooled_interval(self, metric: str) -> Interval:
        """Return the 95 % interval of a pooled metric, resampled by patient."""
        shape = self._counts.shape
        return bootstrap_interval(
            self._counts.reshape(shape[0], -1),
            self.patients,
            statistic=lambda sums: ratios(sums.reshape(-1, *shape[1:]))[metric],
        )

    def per_case(self, metric: str) -> Summary:
        """Summarise a metric over slices; an infinite distance counts as the slice's diagonal."""
        return _summarise(np.array([case.value(metric) for case in self.cases]), self.patients)

    def per_patient(self, metric: str) -> Summary:
        """Summarise an overlap metric over patients, each pooled over his slices."""
        by_patient: dict[str, np.ndarray] = {}
        for case in self.cases:
            by_patient[case.patient] = by_patient.get(case.patient, 0) + case.counts
        counts = np.stack(list(by_patient.values()))
        return _summarise(ratios(counts)[metric], list(by_patient))

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
        metric : one that has a pooled value
        """
        ours, theirs = self._counts, other._counts
        cut = ours[0].size

        def statistic(sums: np.ndarray) -> np.ndarray:
            mine = ratios(sums[:, :cut].reshape(-1, *ours.shape[1:]))[metric]
            return np.asarray(mine - ratios(sums[:, cut:].reshape(-1, *theirs.shape[1:]))[metric])

        n = len(self.cases)
        both = np.concatenate([ours.reshape(n, -1), theirs.reshape(n, -1)], axis=1)
        return Difference(
            value=self._pooled[metric] - other._pooled[metric],
            interval=bootstrap_interval(both, self.patients, statistic=statistic),
        )

    def mean_difference(self, other: "ScoreCard", metric: str) -> Difference:
        """Return the mean over slices of our metric minus theirs; undefined slices are skipped."""
        pairs = zip(self.cases, other.cases, strict=True)
        values = [mine.value(metric) - theirs.value(metric) for mine, theirs in pairs]
        summary = _summarise(np.array(values), self.patients)
        return Difference(summary.mean, summary.interval)

    def verdict(self, model: str = "the model") -> str | None:
        """Say whether the masks are better than those of the threshold; None without that one."""
        threshold = self.baselines.get("threshold")
        if not threshold:
            return None
        seen = f", on slices of which it has seen {self.seen}" if self.seen else ""
        return verdict(self.difference(threshold, "iou"), model=model) + seen

    def worst(self, count: int = 5) -> list[CaseScore]:
        """Return the slices of lowest IoU, worst first; undefined ones left out."""
        defined = [case for case in self.cases if not math.isnan(case.scores.iou)]
        return sorted(defined, key=lambda case: (case.scores.iou, case.name))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: undefined is None, infinite is "inf"."""
        content: dict[str, Any] = plain(
            {
                "slices": len(self.cases),
                "patients": len(set(self.patients)),
                "seen_slices": self.seen,
                "measured_at": "file size",
                "surface_tolerance_px": TOLERANCE_PX,
                **self._tables(),
                "calibration": self.calibration and self.calibration.to_dict(),
                "dice_by_rule": self.dice_by_rule(),
                "empty_slices": self.empty_slices(),
                "baselines": {
                    name: {
                        **card._tables(),
                        "model_minus_baseline": self._differences(card),
                        "cases": [case.to_dict(card.class_names) for case in card.cases],
                    }
                    for name, card in self.baselines.items()
                },
                "remarks": list(self.remarks),
                "cases": [case.to_dict(self.class_names) for case in self.cases],
            }
        )
        return content

    def _tables(self) -> dict[str, Any]:
        classes = zip(self.class_names, self.pooled.class_iou, strict=True)
        return {
            "pooled": {**self._pooled, "class_iou": dict(classes)},
            "pooled_interval": {
                metric: astuple(self.pooled_interval(metric))
                for metric, about in METRICS.items()
                if about.interval
            },
            "per_case": {column(metric): _facts(self.per_case(metric)) for metric in METRICS},
            "per_patient": {metric: _facts(self.per_patient(metric)) for metric in self._pooled},
        }

    def _differences(self, other: "ScoreCard") -> dict[str, Any]:
        gains = {
            f"pooled_{metric}": self.difference(other, metric)
            for metric in COMPARED
            if METRICS[metric].formula
        }
        gains |= {
            f"mean_{column(metric)}": self.mean_difference(other, metric) for metric in COMPARED
        }
        return {name: _facts(gain) for name, gain in gains.items()}

    def save(self, folder: str | Path, **about: str) -> None:
        """Write scores.json and cases.csv into ``folder``, full precision.

        Parameters
        ----------
        **about : what scores.json says before the scores, such as model and split
        """
        folder = Path(folder)
        content = {**about, **self.to_dict()}
        write_json(folder / "scores.json", content)
        # Of what was seen every row says it; else none has the column.
        seen = [{"seen": case.seen} for case in self.cases] if self.seen else [{}] * len(self.cases)
        rows = [{**row, **more} for row, more in zip(content["cases"], seen, strict=True)]
        write_csv(folder / "cases.csv", rows)


def _summarise(values: np.ndarray, patients: Sequence[str]) -> Summary:
    known = values[~np.isnan(values)]
    if not known.size:
        return Summary(math.nan, math.nan, 0, Interval(math.nan, math.nan))
    interval = mean_interval(values, patients)
    return Summary(float(known.mean()), float(np.median(known)), int(known.size), interval)


def _facts(measured: Summary | Difference) -> dict[str, Any]:
    return {**asdict(measured), "interval": astuple(measured.interval)}
