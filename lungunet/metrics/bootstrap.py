"""Confidence intervals by the bootstrap: how much a score would move with other patients.

Slices of one patient resemble each other, so whole patients are drawn, never slices. This module
knows tables of numbers per case, and nothing of masks, models or files.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lungunet.errors import ConfigError, DataError, counted

Statistic = Callable[[np.ndarray], np.ndarray]

_ENOUGH = 20  # groups: below, a percentile interval holds the truth less often than it says
_BLOCK = 2**20  # counts at a time: 8 MB as float64
_KEPT = 2**23  # counts of a draw that is kept: those of 4,000 groups


@dataclass(frozen=True)
class Interval:
    """A confidence interval; NaN, NaN where there is none.

    Parameters
    ----------
    low, high : in the unit of the statistic
    """

    low: float
    high: float


def bootstrap_interval(
    table: np.ndarray,
    groups: Sequence[str] | Sequence[int] | np.ndarray,
    *,
    statistic: Statistic,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Give the percentile interval of a statistic of column sums, drawing groups with replacement.

    A pooled ratio is such a statistic: IoU from columns TP, FP + FN. So is the paired difference of
    two models: put the columns of both in one table, and each resample holds the same patients
    for both. For the mean of a value per case there is `mean_interval`.

    The same seed, number of groups and ``resamples`` draw the same groups again. Percentile
    intervals of few groups are too narrow: see :func:`caution_of_few`.

    Parameters
    ----------
    table : (n_cases, k) numbers
        Finite; a resample sums the rows of the groups drawn, as often as they are drawn.
    groups : (n_cases,)
        The patient of each case. Where each case stands for itself, a distinct label each.
    statistic : (resamples, k) float64 sums -> (resamples,)
        Called once. Resamples where it gives NaN or infinity (a ratio without a denominator) are
        left out.
    resamples : the groups drawn are kept for the next call, 16 MB at most
    level : the share of intervals that hold the true value, in the long run
    seed : of a generator of its own

    Returns
    -------
    Interval
        NaN, NaN where the statistic is defined in no resample, without cases, and with one group
        only: every resample is then that group itself, and the width of 0 would claim certainty
        where nothing is known about other patients.

    References
    ----------
    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval);
    Field and Welsh 2007, DOI 10.1111/j.1467-9868.2007.00593.x (drawing whole clusters).

    Examples
    --------
    >>> table = np.array([[90, 10], [80, 15], [40, 45], [70, 20]])  # TP, FP + FN
    >>> patients = ["a", "a", "b", "c"]
    >>> bootstrap_interval(table, patients, statistic=lambda sums: sums[:, 0] / sums.sum(axis=1))
    Interval(low=0.47058823529411764, high=0.8717948717948718)
    """
    table, labels = np.asarray(table), np.asarray(groups)
    _check_table(table, labels)
    if resamples < 1:
        raise ConfigError(f"{resamples}. Give at least 1; 2000 is usual.", where="resamples")
    if not 0 < level < 1:
        raise ConfigError(f"{level}. Give a share between 0 and 1, such as 0.95.", where="level")
    group_sums = _sum_groups(table, labels)
    if len(group_sums) < 2:
        return Interval(math.nan, math.nan)
    sums = _resample(group_sums, resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # undefined resamples are left out below
        drawn = np.asarray(statistic(sums))
    if drawn.shape != (resamples,):
        raise ConfigError(
            f"statistic: gives shape {drawn.shape} for sums of shape "
            f"{(resamples, table.shape[1])}. Return one number per row: reduce along axis 1."
        )
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return Interval(math.nan, math.nan)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(low, high)


def mean_interval(
    values: np.ndarray | Sequence[float],
    groups: Sequence[str] | Sequence[int] | np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Give the percentile interval of the mean over cases, drawing groups with replacement.

    For the paired difference of two models, give the differences case by case.

    Parameters
    ----------
    values : (n_cases,) float
        NaN, the score of a case where it is undefined, is skipped, as in the mean itself. A group
        of NaN alone is not drawn.
    groups, resamples, level, seed : as for `bootstrap_interval`

    Returns
    -------
    Interval
        NaN, NaN where fewer than two groups hold a value (see `bootstrap_interval`).

    Examples
    --------
    >>> mean_interval([0.75, 0.5, float("nan"), 0.25], ["a", "b", "b", "c"])
    Interval(low=0.25, high=0.75)
    """
    values, labels = np.asarray(values, dtype=float), np.asarray(groups)
    if values.ndim != 1:
        raise DataError(f"values: shape {values.shape}. Give one number per case, (n_cases,).")
    _check_table(values[:, None], labels, may_be_nan=True)
    known = ~np.isnan(values)
    return bootstrap_interval(
        np.stack([values[known], np.ones(known.sum())], axis=1),
        labels[known],
        statistic=lambda sums: sums[:, 0] / sums[:, 1],
        resamples=resamples,
        level=level,
        seed=seed,
    )


def caution_of_few(count: int, unit: str) -> str:
    """Say that the intervals of so few patients are too narrow; empty where they are not, or none.

    Examples
    --------
    >>> caution_of_few(5, "patient")
    'of 5 patients they are too narrow (fewer than 20)'
    >>> caution_of_few(20, "patient")
    ''
    """
    if not 2 <= count < _ENOUGH:
        return ""
    return f"of {counted(count, unit)} they are too narrow (fewer than {_ENOUGH})"


def _check_table(table: np.ndarray, labels: np.ndarray, *, may_be_nan: bool = False) -> None:
    if table.ndim != 2:
        raise DataError(f"shape {table.shape}. Give one row per case, (n_cases, k).", where="table")
    if labels.shape != (len(table),):
        raise DataError(
            f"groups: shape {labels.shape} for {len(table)} cases. Give the patient of each case."
        )
    bad = np.isinf(table) if may_be_nan else ~np.isfinite(table)
    if bad.any():
        case, column = np.argwhere(bad)[0].tolist()
        raise DataError(
            f"{table[case, column]}. Sums must be finite: score an infinite "
            "distance as the image diagonal, and give values with NaN to mean_interval.",
            where=f"case {case}",
        )


def _sum_groups(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the sum of the rows of each group, (n_groups, k) float64."""
    names, index = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(names), table.shape[1]))
    np.add.at(sums, index, table)
    return sums


def _resample(group_sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the sums of each resample, (resamples, k) float64."""
    n_groups = len(group_sums)
    if resamples * n_groups <= _KEPT:
        counts = _drawn_before(n_groups, resamples, seed)
        return np.asarray(counts.astype(np.float64) @ group_sums)
    blocks = _draw_counts(n_groups, resamples, seed)
    return np.concatenate([block.astype(np.float64) @ group_sums for block in blocks])


@functools.lru_cache(maxsize=2)  # a score card asks for the same again with each metric
def _drawn_before(n_groups: int, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate([*_draw_counts(n_groups, resamples, seed)])


def _draw_counts(n_groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each resample holds each group, in blocks of (n, n_groups) whole numbers.

    Whatever the blocks, the numbers are those of one draw of them all.
    """
    # Multinomial counts: drawing the groups and counting them is four times as fast as
    # Generator.multinomial. One bin for each group in each resample. BLAS multiplies floats only,
    # in which counts stay exact below 2**53.
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // n_groups)
    dtype = np.uint16 if n_groups <= np.iinfo(np.uint16).max else np.int64
    for start in range(0, resamples, rows):
        n = min(rows, resamples - start)
        bins = rng.integers(n_groups, size=(n, n_groups))
        bins += n_groups * np.arange(n)[:, None]
        counts = np.bincount(bins.ravel(), minlength=n * n_groups)
        yield counts.reshape(n, n_groups).astype(dtype)
