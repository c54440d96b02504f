"""How well a model does on slices or scans whose truth is known, how sure that is, against what.

Measured at the size of the files, not at the size the model sees; scans in millimetres. Knows no
command line.
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
from lungunet.errors import DataError, counted, listed
from lungunet.evaluation.calibration import Calibration, ece
from lungunet.metrics.bootstrap import Interval, bootstrap_interval, caution_of_few, mean_interval
from lungunet.metrics.overlap import (
    METRICS,
    SLICES,
    ConfusionMeter,
    Overlap,
    Ruler,
    evaluate_formulas,
    overlap,
    overlap_of_sizes,
    ratios,
)
from lungunet.metrics.surface import SurfaceDistances, score_distance, surface_distances

_MM3_PER_ML = 1000

COMPARED = ("iou", "dice", "hd95")
"""What is given as a difference from the baselines: pooled, where it can be, and as a mean."""


NOTHING = "all background"
"""The baseline that calls nothing lung."""


@dataclass(frozen=True, eq=False)
class CaseScore:
    """One slice, or one scan.

    Parameters
    ----------
    name : file stem, or name of the scan
    patient : the unit that intervals resample; the name itself where patients are not known
    counts : (C, C) int64, ``counts[t, p]`` pixels of true class t predicted as p
    surface : of lung, all classes above 0 merged; px, of a scan mm
    shape : (H, W) of the slice, or (D, H, W) of the scan
    seen : whether the model was trained on it, or its epoch chosen on it
    reliability : (15, 3) float64, pixels, promised and true lung by probability; None of a rule,
        and of scans
    reliability_after : the same with a temperature
    spacing_mm : (z, y, x) of a scan
    ruler : what it is, and its units
    """

    name: str
    patient: str
    counts: np.ndarray
    surface: SurfaceDistances
    shape: tuple[int, ...]
    seen: bool = False
    reliability: np.ndarray | None = None
    reliability_after: np.ndarray | None = None
    spacing_mm: tuple[float, ...] | None = None
    ruler: Ruler = SLICES

    @cached_property
    def scores(self) -> Overlap:
        """Overlap in this case; NaN where truth and prediction hold no lung."""
        return overlap(self.counts)

    @property
    def sizes(self) -> np.ndarray:
        """The counts as they are added up: pixels, of scans mL, for their voxels are not alike."""
        if self.spacing_mm is None:
            return self.counts
        return np.asarray(self.counts * (math.prod(self.spacing_mm) / _MM3_PER_ML))

    @property
    def truth_px(self) -> int:
        """Lung pixels of the truth, or voxels."""
        return int(self.counts[1:].sum())

    @property
    def pred_px(self) -> int:
        """Lung pixels of the prediction, or voxels."""
        return int(self.counts[:, 1:].sum())

    @property
    def truth_size(self) -> float:
        """Lung of the truth: pixels, of scans mL."""
        return float(self.sizes[1:].sum())

    @property
    def pred_size(self) -> float:
        """Lung of the prediction: pixels, of scans mL."""
        return float(self.sizes[:, 1:].sum())

    @cached_property
    def _measured(self) -> dict[str, float]:
        metrics = self.ruler.metrics
        values = evaluate_formulas(self.sizes, metrics)
        return {
            name: float(values[name] if name in values else getattr(self.surface, name))
            for name in metrics
        }

    def value(self, metric: str) -> float:
        """Return a metric as it enters a mean: an infinite distance is the diagonal of the case."""
        return score_distance(self._measured[metric], self.shape, spacing_mm=self.spacing_mm)

    def compared(self, metric: str) -> float:
        """Return a metric as it is set against that of other masks of the same case.

        Of a case without lung, rightly without a mask, a share is 1 and a distance or an error 0,
        so that other masks lose by what they invent there.
        """
        value = self.value(metric)
        if math.isnan(value) and not self.truth_px and not self.pred_px:
            return 0.0 if self.ruler.metrics[metric].unit else 1.0
        return value

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return a row of cases.csv, not yet free of NaN and infinity."""
        classes = zip(class_names, self.scores.class_iou, strict=True)
        size = self.ruler.in_size
        return {
            "name": self.name,
            "patient": self.patient,
            **{self.ruler.column(metric): value for metric, value in self._measured.items()},
            f"truth_{size}": self.truth_px if size == "px" else self.truth_size,
            f"pred_{size}": self.pred_px if size == "px" else self.pred_size,
            # With two classes, IoU of lung says it.
            **({f"iou_{name}": iou for name, iou in classes} if len(class_names) > 2 else {}),
        }


def score_case(
    name: str,
    truth: np.ndarray,
    pred: np.ndarray,
    *,
    n_classes: int = 2,
    patient: str = "",
    spacing_mm: tuple[float, ...] | None = None,
    ruler: Ruler = SLICES,
) -> CaseScore:
    """Compare one prediction with its truth.

    Parameters
    ----------
    truth, pred : (H, W) or (D, H, W) integer, classes 0..n_classes-1; the truth may hold
        :data:`IGNORE`. Distances in a scan of one slice are those within the slice
    spacing_mm, ruler : of a scan
    """
    counts, shape = count_classes(truth, pred, n_classes), truth.shape
    axes_mm = spacing_mm
    if truth.ndim == 3:  # distances take many times the memory of a mask
        box = box_of_either(truth, pred)
        truth, pred = truth[box], pred[box]
    if len(shape) == 3 and shape[0] == 1:  # in three dimensions all of a lone slice is border
        truth, pred = truth[0], pred[0]
        axes_mm = spacing_mm and spacing_mm[1:]
    ignored = truth == IGNORE
    return CaseScore(
        name=name,
        patient=patient or name,
        counts=counts,
        surface=surface_distances(
            is_lung(truth),
            pred > 0,
            spacing_mm=axes_mm,
            tolerance=ruler.tolerance,
            ignored=ignored if ignored.any() else None,
        ),
        shape=shape,
        spacing_mm=spacing_mm,
        ruler=ruler,
    )


def count_classes(truth: np.ndarray, pred: np.ndarray, n_classes: int) -> np.ndarray:
    """Return (C, C) int64, ``counts[t, p]`` pixels of true class t predicted as p."""
    meter = ConfusionMeter(n_classes, ignore_index=IGNORE)
    planes = [(truth, pred)] if truth.ndim == 2 else zip(truth, pred, strict=True)
    for one, other in planes:  # one by one, for an index takes eight bytes
        meter.update(truth=torch.from_numpy(one), pred=torch.from_numpy(other))
    return meter.counts.numpy()


def box_of_either(truth: np.ndarray, pred: np.ndarray) -> tuple[slice, ...]:
    """Return the box of what either of two volumes has above 0; of nothing one voxel."""
    rows = np.zeros(truth.shape[:2], bool)
    columns = np.zeros(truth.shape[2], bool)
    for index, (one, other) in enumerate(zip(truth, pred, strict=True)):
        either = (one > 0) | (other > 0)
        rows[index] = either.any(axis=1)
        columns |= either.any(axis=0)
    held = [np.flatnonzero(flags) for flags in (rows.any(axis=1), rows.any(axis=0), columns)]
    if not held[0].size:
        return (slice(0, 1),) * 3
    return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in held)


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


def verdict(gain: Difference, *, model: str = "the model", than: str = "threshold") -> str:
    """Say whether a model does better than another: the one wording that is printed anywhere.

    Parameters
    ----------
    gain : pooled lung IoU of the model minus that of the other
    model, than : what they are called
    """
    than = "the threshold baseline" if than == "threshold" else than
    if math.isnan(gain.value):
        return f"whether {model} beats {than} cannot be said: of no lung there is no IoU"
    if math.isnan(gain.interval.low):
        return f"whether {model} beats {than} cannot be said: an interval needs two patients"
    if gain.interval.low > 0:
        return f"{model} beats {than}, by {gain.value:.4f} pooled lung IoU"
    if gain.interval.high < 0:
        return f"{model} does worse than {than}, by {-gain.value:.4f} pooled lung IoU"
    return (
        f"{model} is not clearly better than {than}: the interval of the difference in pooled lung "
        "IoU holds 0"
    )


@dataclass(frozen=True, eq=False, repr=False)
class ScoreCard:
    """Scores of one set of masks on one list.

    Parameters
    ----------
    cases : slice by slice, or scan by scan
    class_names : of the codec, background first
    baselines : the same cases, scored for masks that cost nothing
    remarks : what a reader should know, such as why a baseline is missing
    folder : where :func:`evaluate_list` or :func:`evaluate_scans` saved it; None where it did not
    temperature : that calibration was measured with, beside without
    regions : of scans each class by itself, such as the left lung, of those that tell it
    failed : scans that could not be scored and count nowhere, each with the reason
    """

    cases: tuple[CaseScore, ...]
    class_names: tuple[str, ...]
    baselines: Mapping[str, "ScoreCard"] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    folder: Path | None = None
    temperature: float | None = None
    regions: Mapping[str, "ScoreCard"] = field(default_factory=dict)
    failed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Say in a line what it is about; :meth:`to_dict` has everything."""
        others = "".join(f", {name} {card.pooled.iou:.4f}" for name, card in self.baselines.items())
        cases = counted(len(self.cases), self.ruler.noun)
        return f"<ScoreCard of {cases}: lung IoU {self.pooled.iou:.4f}{others}>"

    @property
    def ruler(self) -> Ruler:
        """What the cases are, and their units."""
        return self.cases[0].ruler

    @cached_property
    def _counts(self) -> np.ndarray:
        """(n, C, C), of all cases: pixels, int64; of scans mL, float64."""
        return np.stack([case.sizes for case in self.cases])

    @cached_property
    def pooled(self) -> Overlap:
        """From the summed pixels of all slices, or the summed volumes of all scans."""
        pixels = sum(int(case.counts.sum()) for case in self.cases)
        return overlap_of_sizes(self._counts.sum(axis=0), n_pixels=pixels)

    @cached_property
    def patients(self) -> list[str]:
        """The patient of each case."""
        return [case.patient for case in self.cases]

    @property
    def caution(self) -> str:
        """Why the intervals are too narrow, where they are of few patients; else empty."""
        patients = len(set(self.patients))
        unit = self.ruler.noun if patients == len(self.cases) else "patient"
        return caution_of_few(patients, unit)

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
        """Summarise a metric over cases; an infinite distance counts as the case's diagonal."""
        return _summarise(np.array([case.value(metric) for case in self.cases]), self.patients)

    def per_patient(self, metric: str) -> Summary:
        """Summarise an overlap metric over patients, each pooled over his slices or scans."""
        by_patient: dict[str, np.ndarray] = {}
        for case in self.cases:
            by_patient[case.patient] = by_patient.get(case.patient, 0) + case.sizes
        counts = np.stack(list(by_patient.values()))
        return _summarise(ratios(counts)[metric], list(by_patient))

    def dice_by_rule(self) -> dict[str, float]:
        """Mean Dice per case under each rule for cases without lung that is in use.

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

    def empty_slices(self) -> dict[str, float]:
        """Count the cases without lung, those where lung was invented, and how much in px or mL."""
        empty = [case for case in self.cases if case.truth_px == 0]
        in_pixels = self.ruler.size == "px"
        invented = [case.pred_px if in_pixels else case.pred_size for case in empty]
        return {
            f"{self.ruler.noun}s": len(invented),
            "with_false_positives": sum(size > 0 for size in invented),
            f"false_positive_{self.ruler.in_size}": sum(invented),
        }

    def difference(self, other: "ScoreCard", metric: str) -> Difference:
        """Return our pooled metric minus that of ``other``, on the same cases.

        Parameters
        ----------
        metric : one that has a pooled value

        Raises
        ------
        DataError
            When ``other`` is of other cases. They are matched by name, whatever their order.
        """
        ours = self._counts
        theirs = np.stack([case.sizes for case in self._matched(other)])
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
        """Return the mean over cases of our metric minus theirs.

        Where one is rightly empty it counts as 1, a distance as 0 (:meth:`CaseScore.compared`); the
        means of :meth:`per_case` leave such cases out, so that this is not their difference. What
        is undefined all the same, as recall without lung, is skipped.

        Raises
        ------
        DataError
            When ``other`` is of other cases. They are matched by name, whatever their order.
        """
        pairs = zip(self.cases, self._matched(other), strict=True)
        values = [mine.compared(metric) - theirs.compared(metric) for mine, theirs in pairs]
        summary = _summarise(np.array(values), self.patients)
        return Difference(summary.mean, summary.interval)

    def moved(self, other: "ScoreCard", count: int = 3) -> list[tuple[str, float, float]]:
        """Return where our IoU is furthest above that of ``other``, then where furthest below.

        Returns
        -------
        list
            Of (name, ours, theirs), at most ``count`` above and ``count`` below, by
            :meth:`CaseScore.compared`: 1 where none is rightly marked.

        Raises
        ------
        DataError
            When ``other`` is of other cases. They are matched by name, whatever their order.
        """
        pairs = zip(self.cases, self._matched(other), strict=True)
        rows = [(mine.name, mine.compared("iou"), theirs.compared("iou")) for mine, theirs in pairs]
        ranked = sorted(rows, key=lambda row: (row[2] - row[1], row[0]))
        above = [row for row in ranked[:count] if row[1] > row[2]]
        return above + [row for row in ranked[-count:] if row[1] < row[2]]

    def _matched(self, other: "ScoreCard") -> list[CaseScore]:
        """Return the cases of another card in the order of ours; refuse others than ours."""
        noun = self.ruler.noun
        theirs = {case.name: case for case in other.cases}
        apart = sorted({case.name for case in self.cases} ^ theirs.keys())
        if apart or not len(self.cases) == len(other.cases) == len(theirs):
            named = f": {listed(apart, separator=', ')}" if apart else ""
            raise DataError(
                f"{counted(len(self.cases), noun)} and {len(other.cases)} do not match by name"
                f"{named}. A difference is one on the same {noun}s: score both on one list.",
                where="cards that are compared",
            )
        matched = [theirs[case.name] for case in self.cases]
        for mine, their in zip(self.cases, matched, strict=True):
            facts = [(case.shape, int(case.counts.sum()), case.truth_px) for case in (mine, their)]
            if facts[0] != facts[1]:
                one, two = (
                    f"{lung} of {known} in {'x'.join(map(str, shape))}"
                    for shape, known, lung in facts
                )
                raise DataError(
                    f"the truth holds lung in {one} in one card, in {two} in the other. A "
                    f"difference is one on the same {noun}s: score both on one list.",
                    where=mine.name,
                )
        return matched

    def verdict(self, model: str = "the model", *, than: str = "threshold") -> str | None:
        """Say whether the masks are better than those of a baseline; None without that one."""
        other = self.baselines.get(than)
        if not other:
            return None
        seen = f", on {self.ruler.noun}s of which it has seen {self.seen}" if self.seen else ""
        return verdict(self.difference(other, "iou"), model=model, than=than) + seen

    def worst(self, count: int = 5) -> list[CaseScore]:
        """Return the cases of lowest IoU, worst first; undefined ones left out."""
        defined = [case for case in self.cases if not math.isnan(case.scores.iou)]
        return sorted(defined, key=lambda case: (case.scores.iou, case.name))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: undefined is None, infinite is "inf"."""
        ruler, scans = self.ruler, self.ruler.noun == "scan"
        failed: dict[str, Any] = {"failed": list(self.failed)} if scans else {}
        regions = {
            name: {
                **card._tables(),
                "cases": [case.to_dict(card.class_names) for case in card.cases],
            }
            for name, card in self.regions.items()
        }
        content: dict[str, Any] = plain(
            {
                f"{ruler.noun}s": len(self.cases),
                "patients": len(set(self.patients)),
                f"seen_{ruler.noun}s": self.seen,
                **failed,
                "measured_at": "grid of the scan" if scans else "file size",
                f"surface_tolerance_{ruler.length}": ruler.tolerance,
                **self._tables(),
                **({"regions": regions} if scans else {}),
                "calibration": self.calibration and self.calibration.to_dict(),
                "dice_by_rule": self.dice_by_rule(),
                f"empty_{ruler.noun}s": self.empty_slices(),
                "baselines": {
                    name: {
                        **card._tables(),
                        "model_minus_baseline": self._differences(card),
                        "furthest": [
                            {"name": name, "model": ours, "baseline": theirs, "gain": ours - theirs}
                            for name, ours, theirs in self.moved(card)
                        ],
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
            "per_case": {
                self.ruler.column(metric): _facts(self.per_case(metric))
                for metric in self.ruler.metrics
            },
            "per_patient": {metric: _facts(self.per_patient(metric)) for metric in self._pooled},
        }

    def _differences(self, other: "ScoreCard") -> dict[str, Any]:
        gains = {
            f"pooled_{metric}": self.difference(other, metric)
            for metric in COMPARED
            if METRICS[metric].formula
        }
        gains |= {
            f"mean_{self.ruler.column(metric)}": self.mean_difference(other, metric)
            for metric in COMPARED
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
        for name, other in self.baselines.items():
            if name != NOTHING:  # whose IoU is 0
                for row, case in zip(rows, other.cases, strict=True):
                    row[f"baseline_iou_{name}"] = plain(case.value("iou"))
        if self.ruler.noun == "scan":
            parts = {"lungs": rows, **{k: of["cases"] for k, of in content["regions"].items()}}
            rows = [
                {"name": row["name"], "region": region, **row}
                for region, of in parts.items()
                for row in of
            ]
        write_csv(folder / "cases.csv", rows)


def _summarise(values: np.ndarray, patients: Sequence[str]) -> Summary:
    known = values[~np.isnan(values)]
    if not known.size:
        return Summary(math.nan, math.nan, 0, Interval(math.nan, math.nan))
    interval = mean_interval(values, patients)
    return Summary(float(known.mean()), float(np.median(known)), int(known.size), interval)


def _facts(measured: Summary | Difference) -> dict[str, Any]:
    return {**asdict(measured), "interval": astuple(measured.interval)}
