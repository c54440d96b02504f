"""Overlap metrics from counted pixels: a confusion matrix on the device, and its ratios.

Counts are summed and divided once, at the end; averages of per-batch ratios are never taken. Owns
``METRICS``, which every table, page, card and file of scores reads. This module knows tensors of
class indices and nothing of models, files or label values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from lungunet.data.kinds import native_order
from lungunet.errors import DataError


class PixelCounts(NamedTuple):
    """What the formulas of metrics are made of, for any number of confusion matrices at once.

    All are (...,), whole numbers of pixels, or of scans their volumes in mL; lung is every class
    above 0 merged.

    Parameters
    ----------
    tp, fp, fn, tn : lung called lung, background called lung, lung called background, and neither
    right, total : pixels of the right class, all classes told apart; all pixels
    class_iou : (..., C) float64, IoU of each class; NaN for a class in neither
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray
    right: np.ndarray
    total: np.ndarray
    class_iou: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray) -> Self:
        """Add up what :func:`ratios` takes."""
        hit = np.diagonal(counts, axis1=-2, axis2=-1)
        return cls(
            tp=counts[..., 1:, 1:].sum(axis=(-2, -1)),
            fp=counts[..., 0, 1:].sum(axis=-1),
            fn=counts[..., 1:, 0].sum(axis=-1),
            tn=counts[..., 0, 0],
            right=hit.sum(axis=-1),
            total=counts.sum(axis=(-2, -1)),
            class_iou=share(hit, counts.sum(axis=-1) + counts.sum(axis=-2) - hit),
        )


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide, NaN where the whole is 0."""
    nan = np.full(np.shape(whole), np.nan)
    return np.asarray(np.divide(part, whole, out=nan, where=np.asarray(whole) > 0))


def _mean_iou(n: PixelCounts) -> np.ndarray:
    known = ~np.isnan(n.class_iou)
    return share(np.where(known, n.class_iou, 0).sum(axis=-1), known.sum(axis=-1))


@dataclass(frozen=True)
class Metric:
    """What tables, files and pages need to know of a number.

    Parameters
    ----------
    title : as it stands in a table, without its unit
    formula : pixel counts to one value each; None for what is measured slice by slice, a field of
        :class:`SurfaceDistances`, and has no pooled value
    unit : "" for a share; "px" for a distance, which is in mm in scans; else of scans, "mL" or "%"
    digits : after the point, where it is shown rounded
    interval : give the pooled value a confidence interval
    of_scans : of scans alone, one by one, with no pooled value
    """

    title: str
    formula: Callable[[PixelCounts], np.ndarray] | None = None
    unit: str = ""
    digits: int = 4
    interval: bool = False
    of_scans: bool = False

    @property
    def label(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def heading(self) -> str:
        """The label as a line begins with it: only words get a capital, mIoU stays as it is."""
        first, rest = self.label[:1], self.label[1:]
        return (first.upper() if rest[:1].islower() else first) + rest


class _Metrics(dict[str, Metric]):
    """Every metric that is reported, by name, in the order of tables.

    An entry that is added stands in all tables, files and pages from then on.
    """


TOLERANCE_PX, TOLERANCE_MM = 1.0, 2.0  # of the surface Dice


def _volume_error(n: PixelCounts) -> np.ndarray:
    return 100 * share(n.fp - n.fn, n.tp + n.fn)


METRICS = _Metrics(
    {
        "iou": Metric("lung IoU", lambda n: share(n.tp, n.tp + n.fp + n.fn), interval=True),
        "dice": Metric("Dice", lambda n: share(2 * n.tp, 2 * n.tp + n.fp + n.fn), interval=True),
        "precision": Metric("precision", lambda n: share(n.tp, n.tp + n.fp), interval=True),
        "recall": Metric("recall", lambda n: share(n.tp, n.tp + n.fn), interval=True),
        "miou": Metric("mIoU", _mean_iou),
        "accuracy": Metric("accuracy", lambda n: share(n.right, n.total), interval=True),
        "hd95": Metric("HD95", unit="px", digits=2),
        "assd": Metric("ASSD", unit="px", digits=2),
        "surface_dice": Metric(f"surface Dice, {TOLERANCE_PX:g} px"),
        # What is predicted minus what there is.
        "volume_error": Metric(
            "volume error", lambda n: n.fp - n.fn, unit="mL", digits=1, of_scans=True
        ),
        "relative_volume_error": Metric(
            "volume error", _volume_error, unit="%", digits=2, of_scans=True
        ),
        "absolute_volume_error": Metric(
            "absolute volume error",
            lambda n: np.abs(_volume_error(n)),
            unit="%",
            digits=2,
            of_scans=True,
        ),
    }
)


@dataclass(frozen=True)
class Ruler:
    """What cases are, and in which units they are measured.

    Parameters
    ----------
    noun : slice or scan
    length : unit of distances, px or mm
    size : unit of how much lung there is, px or mL
    tolerance : of the surface Dice, in the unit of distances
    """

    noun: str
    length: str
    size: str
    tolerance: float

    @property
    def metrics(self) -> dict[str, Metric]:
        """What such cases have of ``METRICS``, in its order, with their own units."""
        own = {
            name: replace(metric, unit=self.length) if metric.unit == "px" else metric
            for name, metric in METRICS.items()
            if self.noun == "scan" or not metric.of_scans
        }
        title = f"surface Dice, {self.tolerance:g} {self.length}"
        return {**own, "surface_dice": replace(own["surface_dice"], title=title)}

    def column(self, metric: str) -> str:
        """Return what files call a metric: its name and unit, ``hd95_px``."""
        unit = self.metrics[metric].unit
        return f"{metric}_{_IN_FILES.get(unit, unit)}" if unit else metric

    @property
    def in_size(self) -> str:
        """The unit of how much lung there is, as names of columns end."""
        return _IN_FILES.get(self.size, self.size)


_IN_FILES = {"mL": "ml", "%": "percent"}  # units as names of columns end

SLICES = Ruler("slice", "px", "px", TOLERANCE_PX)


def ruler_of_scans(tolerance_mm: float = TOLERANCE_MM) -> Ruler:
    """Return the ruler of scans, whose spacing is known."""
    return Ruler("scan", "mm", "mL", tolerance_mm)


def ratios(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Turn many confusion matrices into the metrics that follow from counts, unchecked.

    Parameters
    ----------
    counts : (..., C, C) int64 pixels, or float64: sums of them, or volumes

    Returns
    -------
    dict of name to (...,) float64
        NaN where undefined.

    Examples
    --------
    >>> ratios(np.array([[[90, 2], [1, 7]], [[100, 0], [0, 0]]]))["iou"]
    array([0.7, nan])
    """
    return evaluate_formulas(
        counts, {name: metric for name, metric in METRICS.items() if not metric.of_scans}
    )


def evaluate_formulas(counts: np.ndarray, metrics: Mapping[str, Metric]) -> dict[str, np.ndarray]:
    """Return those of the metrics that follow from counts, unchecked; see :func:`ratios`."""
    pixels = PixelCounts.of(counts)
    return {name: metric.formula(pixels) for name, metric in metrics.items() if metric.formula}


@dataclass(frozen=True)
class Overlap:
    """How well a prediction overlaps the truth, pooled over all counted pixels.

    "Lung" is every class above 0 merged. Undefined is NaN: a ratio without a denominator, that is
    every overlap of two empty regions. One empty region gives 0.

    Parameters
    ----------
    accuracy : correct pixels over all pixels, all classes told apart; NaN without pixels
    iou : TP / (TP + FP + FN) of lung
    miou : mean of ``class_iou`` over the classes, background included, that truth or prediction
        holds
    dice : 2 TP / (2 TP + FP + FN) of lung
    precision : TP / (TP + FP) of lung; NaN where nothing is predicted
    recall : TP / (TP + FN) of lung; NaN where the truth holds none
    class_iou : IoU of each class 0..C-1; NaN for a class in neither
    n_pixels : number of pixels counted
    """

    accuracy: float
    iou: float
    miou: float
    dice: float
    precision: float
    recall: float
    class_iou: tuple[float, ...]
    n_pixels: int


def overlap(counts: Tensor | np.ndarray) -> Overlap:
    """Turn a confusion matrix into metrics.

    Parameters
    ----------
    counts : (C, C) integer
        ``counts[t, p]`` pixels of true class ``t`` that were predicted as ``p``; C >= 2.

    Raises
    ------
    DataError
        The matrix is not square, not of integers, smaller than 2 x 2, or holds a negative count.

    References
    ----------
    Jaccard 1912, DOI 10.1111/j.1469-8137.1912.tb05611.x (IoU); Dice 1945, DOI 10.2307/1932409.

    Examples
    --------
    >>> import numpy as np
    >>> result = overlap(np.array([[90, 2], [1, 7]]))
    >>> result.iou, result.accuracy
    (0.7, 0.97)
    >>> overlap(np.array([[100, 0], [0, 0]])).dice  # no lung in either
    nan
    """
    table = _checked(counts)
    return overlap_of_sizes(table, n_pixels=int(table.sum()))


def overlap_of_sizes(sizes: np.ndarray, *, n_pixels: int) -> Overlap:
    """Return the overlap of (C, C) sizes in any unit, unchecked; see :func:`overlap`."""
    values = ratios(sizes)
    own = [field.name for field in fields(Overlap) if field.name in values]
    return Overlap(
        **{name: float(values[name]) for name in own},
        class_iou=tuple(PixelCounts.of(sizes).class_iou.tolist()),
        n_pixels=n_pixels,
    )


def _checked(counts: Tensor | np.ndarray) -> np.ndarray:
    table = counts.detach().cpu().numpy() if isinstance(counts, Tensor) else np.asarray(counts)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or table.shape[0] < 2:
        raise DataError(f"counts: shape {table.shape}. A confusion matrix is (C, C) with C >= 2.")
    if not np.issubdtype(table.dtype, np.integer):
        raise DataError(f"counts: dtype {table.dtype}. Give whole pixel counts, not fractions.")
    if (table < 0).any():
        raise DataError(f"counts: smallest count {table.min()}. A count cannot be negative.")
    return table.astype(np.int64)


class ConfusionMeter:
    """Count (truth, prediction) pairs of pixels on the device that predicts.

    ``update``, ``merge`` and ``counts`` never wait for a CUDA device and work in deterministic
    mode; ``compute`` waits once. The counts move from the CPU to the device that first feeds them.

    Parameters
    ----------
    n_classes : number of classes C with background, at least 2
    ignore_index : where the truth has this value, a pixel is not counted, whatever was predicted

    Examples
    --------
    >>> meter = ConfusionMeter(2)
    >>> meter.update(truth=torch.tensor([[0, 0, 1]]), pred=torch.tensor([[0, 1, 1]]))
    >>> meter.counts
    tensor([[1, 1],
            [0, 1]])
    >>> meter.compute().iou
    0.5
    """

    def __init__(self, n_classes: int, *, ignore_index: int | None = None) -> None:
        if n_classes < 2:
            raise DataError(f"n_classes: {n_classes}. Count background as a class: at least 2.")
        if ignore_index is not None and 0 <= ignore_index < n_classes:
            raise DataError(f"ignore_index: {ignore_index} is a class. Give a number that is none.")
        self.n_classes = n_classes
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        # Bin t * C + p counts true class t predicted as p; the last bin what is no class at all.
        self._bins = torch.zeros(self.n_classes**2 + 1, dtype=torch.int64)

    def update(self, *, truth: Tensor, pred: Tensor) -> None:
        """Add the pixels of one batch; by keyword, because a swap would swap false with missing.

        Parameters
        ----------
        truth : any shape, integer or bool, class indices 0..C-1, or ``ignore_index``
        pred : the same shape and device

        Raises
        ------
        DataError
            Shapes, dtypes or devices differ, or an index lies outside 0..C-1 (on a CPU: at once,
            nothing is counted; on other devices: ``compute`` raises).
        """
        _check_same_pixels(truth, pred)
        truth, pred = truth.detach().reshape(-1).long(), pred.detach().reshape(-1).long()
        n_bins = self.n_classes**2 + 1
        counted = None if self.ignore_index is None else truth != self.ignore_index
        if pred.device.type == "cpu":
            if counted is not None:
                truth, pred = truth[counted], pred[counted]
            _check_range("pred", pred, self.n_classes)
            _check_range("truth", truth, self.n_classes)
            self._add(torch.bincount(truth * self.n_classes + pred, minlength=n_bins))
        else:
            bins = _bin_of(truth, pred, self.n_classes)
            if counted is not None:  # into a bin that is not looked at
                bins = torch.where(counted, bins, n_bins)
            self._add(_count_without_sync(bins, n_bins))

    def merge(self, other: "ConfusionMeter | Tensor | np.ndarray") -> None:
        """Add what another meter counted, or a (C, C) matrix of counts (a rank's, a checkpoint's).

        Raises
        ------
        DataError
            The number of classes differs, or the counts are not integers.
        """
        if isinstance(other, np.ndarray):
            other = native_order(other)
        counts = other.counts if isinstance(other, ConfusionMeter) else torch.as_tensor(other)
        if counts.shape != (self.n_classes, self.n_classes) or counts.is_floating_point():
            raise DataError(
                f"counts: shape {tuple(counts.shape)}, {counts.dtype}; this meter has "
                f"{self.n_classes} x {self.n_classes} integers. Merge meters of the same classes."
            )
        outside = other._bins[-1:] if isinstance(other, ConfusionMeter) else counts.new_zeros(1)
        self._add(torch.cat([counts.detach().reshape(-1).long(), outside.long()]))

    def __iadd__(self, other: "ConfusionMeter | Tensor | np.ndarray") -> Self:
        self.merge(other)
        return self

    def _add(self, bins: Tensor) -> None:
        device = bins.device if self._bins.device.type == "cpu" else self._bins.device
        self._bins = self._bins.to(device, non_blocking=True) + bins.to(device, non_blocking=True)

    @property
    def counts(self) -> Tensor:
        """A copy of the counts: (C, C) int64, ``counts[truth, pred]``, on the device."""
        return self._bins[:-1].reshape(self.n_classes, self.n_classes).clone()

    def compute(self) -> Overlap:
        """Give the metrics of all pixels counted; the one place that waits for the device.

        Raises
        ------
        DataError
            Pixels outside 0..C-1 were fed on a device other than the CPU.
        """
        bins = self._bins.cpu()
        if n_outside := int(bins[-1]):
            raise DataError(
                f"truth or pred: {n_outside} pixels outside the classes 0..{self.n_classes - 1}. "
                "Decode masks with the label codec before counting."
            )
        return overlap(bins[:-1].reshape(self.n_classes, self.n_classes))


def _check_same_pixels(truth: Tensor, pred: Tensor) -> None:
    for name, given in (("pred", pred), ("truth", truth)):
        if not isinstance(given, Tensor):
            raise DataError(
                f"a {type(given).__name__}, no tensor. Pass torch.as_tensor({name}).", where=name
            )
    if pred.shape != truth.shape:
        raise DataError(
            f"pred: shape {tuple(pred.shape)}, truth: {tuple(truth.shape)}. Both are class "
            "indices of the same pixels: take the argmax over classes first."
        )
    for name, tensor in (("pred", pred), ("truth", truth)):
        if tensor.is_floating_point() or tensor.is_complex():
            raise DataError(
                f"dtype {tensor.dtype}. Give class indices of an integer dtype.", where=name
            )
    if pred.device != truth.device:
        raise DataError(f"pred: on {pred.device}, truth: on {truth.device}. Move one to the other.")


def _check_range(name: str, indices: Tensor, n_classes: int) -> None:
    low, high = (int(value) for value in indices.aminmax()) if indices.numel() else (0, 0)
    if low < 0 or high >= n_classes:
        value = low if low < 0 else high
        raise DataError(
            f"class index {value} is not one of 0..{n_classes - 1}. Decode masks "
            "with the label codec before counting.",
            where=name,
        )


def _bin_of(truth: Tensor, pred: Tensor, n_classes: int) -> Tensor:
    outside = (pred < 0) | (pred >= n_classes) | (truth < 0) | (truth >= n_classes)
    return torch.where(outside, n_classes**2, truth * n_classes + pred)


def _count_without_sync(bins: Tensor, n_bins: int) -> Tensor:
    # torch.bincount reads min and max back from a CUDA device, which waits for it, and histc
    # raises in deterministic mode. One comparison per bin does neither,
    # and the bins are few: C * C + 1.
    return torch.stack([(bins == k).sum() for k in range(n_bins)])


class Mean:
    """The running weighted mean of scalars that live on a device, such as losses.

    Sum and weight are kept on the device in float64 (float32 on mps, which has no float64), so
    ``update`` never waits. A NaN that is fed makes the mean NaN.

    Examples
    --------
    >>> mean = Mean()
    >>> mean.update(torch.tensor(1.0), weight=3)  # the mean loss of a batch of 3
    >>> mean.update(torch.tensor(5.0), weight=1)  # a last batch of 1
    >>> mean.compute()
    2.0
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._sums = torch.zeros(2, dtype=torch.float64)

    def update(self, value: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add the scalar ``value``, counted ``weight`` times: for a mean over a batch, its size."""
        if isinstance(value, Tensor):
            value = value.detach().to(_widest(value.device))
            self._sums = self._sums.to(value.dtype).to(value.device, non_blocking=True)
        self._sums[0] += value * weight
        self._sums[1] += weight

    def merge(self, other: "Mean | Tensor") -> None:
        """Add another mean, or its ``sums``, as if its values had been fed here."""
        sums = other._sums if isinstance(other, Mean) else other
        if sums.shape != (2,):
            raise DataError(f"sums: shape {tuple(sums.shape)}. Give the (2,) sums of a Mean.")
        device = sums.device if self._sums.device.type == "cpu" else self._sums.device
        dtype = _widest(device)
        # The dtype first: mps refuses to take a float64 tensor at all.
        self._sums = self._sums.to(dtype).to(device) + sums.detach().to(dtype).to(device)

    def __iadd__(self, other: "Mean | Tensor") -> Self:
        self.merge(other)
        return self

    @property
    def sums(self) -> Tensor:
        """A copy of (sum of value * weight, sum of weight), (2,) on the device; ranks add it up."""
        return self._sums.clone()

    def compute(self) -> float:
        """Give the mean, NaN without weight; waits for the device."""
        total, weight = self._sums.tolist()
        return total / weight if weight else float("nan")


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
