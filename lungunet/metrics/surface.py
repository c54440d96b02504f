"""Distances between the borders of two masks: HD95, ASSD, surface Dice, Hausdorff.

In millimetres where the spacing is known, else in pixels. This module knows arrays of one slice or
one volume, and nothing of models, files or label values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from lungunet.data.kinds import check_spacing
from lungunet.errors import ConfigError, DataError

_ROUNDING = 1e-9  # 3 pixels of 0.7 mm come out as 2.0999999999999996 mm, and must be within 2.1 mm


@dataclass(frozen=True)
class SurfaceDistances:
    """How far the border of a prediction lies from that of the truth, in one slice or volume.

    Distances are in mm where ``surface_distances`` was given a spacing, else in pixels. All are NaN
    where both masks are empty; where one is, the distances are infinite and ``surface_dice`` is 0.
    `score_distance` says what infinite counts as in a mean.

    Parameters
    ----------
    hd95 : the larger of the two directed 95th percentiles, linear between the nearest two values
    assd : mean over the distances of both borders together
    surface_dice : share of both borders that lies within the tolerance of the other one, 0 to 1
    hd : Hausdorff distance, the largest of all
    """

    hd95: float
    assd: float
    surface_dice: float
    hd: float


def surface_distances(
    truth: np.ndarray,
    pred: np.ndarray,
    *,
    spacing_mm: Sequence[float] | None = None,
    tolerance: float = 1.0,
    ignored: np.ndarray | None = None,
) -> SurfaceDistances:
    """Measure the distances between the borders of two masks; swapping them changes nothing.

    The border of a mask is what its erosion by one pixel (4 neighbours in 2-D, 6 in 3-D) takes
    away. Outside the array is background: a mask that touches the array's edge has border there,
    and in a volume of a single slice every mask pixel is border (give the slice as (H, W)).

    Parameters
    ----------
    truth, pred : (H, W) or (D, H, W) bool or integer
        The mask is what lies above 0. Read in place, from any memory layout.
    spacing_mm : mm between pixel centres, one number per axis in array order; None: pixels
    tolerance : in mm with a spacing, else in pixels; a distance equal to it is within
    ignored : bool, of the same shape; there the prediction is taken for the truth, and no border is
        measured. None ignores nothing

    Raises
    ------
    DataError
        Shapes differ, are of other than 2 or 3 axes, a dtype is not bool or integer, or
        ``spacing_mm`` has not one positive number per axis.
    ConfigError
        The tolerance is negative or not finite.

    References
    ----------
    Huttenlocher et al. 1993, DOI 10.1109/34.232073 (Hausdorff distance); Heimann et al. 2009,
    DOI 10.1109/TMI.2009.2013851 (ASSD); Nikolov et al. 2021, DOI 10.2196/26151 (surface Dice; here
    of counted border pixels, not of areas); Maier-Hein et al. 2024, DOI 10.1038/s41592-023-02151-z
    (HD95 as the larger percentile).

    Examples
    --------
    >>> truth = np.zeros((9, 12), dtype=bool)
    >>> truth[2:7, 2:6] = True
    >>> surface_distances(truth, np.roll(truth, 1, axis=1)).hd95
    1.0
    >>> surface_distances(truth, np.roll(truth, 1, axis=1), spacing_mm=(0.8, 0.75)).hd
    0.75
    >>> surface_distances(truth, np.zeros_like(truth))
    SurfaceDistances(hd95=inf, assd=inf, surface_dice=0.0, hd=inf)
    """
    truth, pred = _as_mask("truth", truth), _as_mask("pred", pred)
    if truth.shape != pred.shape:
        raise DataError(
            f"pred: shape {pred.shape}, truth: {truth.shape}. Both must lie on the same grid: "
            "bring the prediction back to the size of its input."
        )
    if not 0 <= tolerance < math.inf:
        raise ConfigError(
            f"tolerance: {tolerance}. Give 0 or more, in mm with a spacing, else in pixels."
        )
    spacing = _as_spacing(spacing_mm, truth.ndim)
    counted = None
    if ignored is not None:
        ignored = np.asarray(ignored, bool)
        if ignored.shape != truth.shape:
            raise DataError(f"ignored: shape {ignored.shape}, truth: {truth.shape}. Give one grid.")
        counted = ~ignored
        truth = np.where(ignored, pred, truth)
    has_truth, has_pred = (
        bool((mask if counted is None else mask & counted).any()) for mask in (truth, pred)
    )
    if not (has_truth and has_pred):
        far, share = (math.inf, 0.0) if has_truth or has_pred else (math.nan, math.nan)
        return SurfaceDistances(hd95=far, assd=far, surface_dice=share, hd=far)
    there, back = _border_distances(truth, pred, spacing, counted)
    both = np.concatenate([there, back])
    if not both.size:  # all border is ignored
        return SurfaceDistances(hd95=math.nan, assd=math.nan, surface_dice=math.nan, hd=math.nan)
    return SurfaceDistances(
        hd95=max(float(np.percentile(way, 95)) for way in (there, back) if way.size),
        assd=float(both.mean()),
        surface_dice=float((both <= tolerance * (1 + _ROUNDING)).mean()),
        hd=float(both.max()),
    )


def score_distance(
    distance: float, shape: Sequence[int], *, spacing_mm: Sequence[float] | None = None
) -> float:
    """Give what a distance counts as in a mean: infinite counts as the image diagonal.

    Leaving out the cases that a model missed altogether would reward missing them. The diagonal
    runs from corner to corner of the array, pixel sizes included, so no distance inside the image
    is larger. NaN stays NaN, for the mean to skip.

    Parameters
    ----------
    distance : of `surface_distances`, in mm with a spacing, else in pixels
    shape : of the masks, (H, W) or (D, H, W)
    spacing_mm : as given to `surface_distances`

    Raises
    ------
    DataError
        ``shape`` has other than 2 or 3 axes, or ``spacing_mm`` not one positive number per axis.

    References
    ----------
    Maier-Hein et al. 2024, DOI 10.1038/s41592-023-02151-z: undefined distances take the worst
    value possible.

    Examples
    --------
    >>> score_distance(float("inf"), (300, 400))
    500.0
    >>> score_distance(2.5, (300, 400))
    2.5
    """
    _check_axes("shape", tuple(shape))
    diagonal = math.hypot(*(np.asarray(shape) * _as_spacing(spacing_mm, len(shape))).tolist())
    return diagonal if distance == math.inf else distance


def _as_mask(name: str, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    _check_axes(name, array.shape)
    if array.dtype != bool and not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"dtype {array.dtype}. Give a mask of bool or class indices.", where=name)
    return np.asarray(array > 0)


def _check_axes(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3):
        raise DataError(
            f"shape {shape}. Give one slice (H, W) or one volume (D, H, W).", where=name
        )


def _as_spacing(spacing_mm: Sequence[float] | None, n_axes: int) -> np.ndarray:
    return np.ones(n_axes) if spacing_mm is None else np.array(check_spacing(spacing_mm, n_axes))


def _border_distances(
    truth: np.ndarray, pred: np.ndarray, spacing: np.ndarray, counted: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each counted border pixel of truth to pred's, and the reverse."""
    box = _bounding_box(truth | pred)
    # A tree over the few border pixels is exact in float64, takes any spacing and both dimensions,
    # and beats distance maps of the box: 1.4 ms against 2.4 ms (OpenCV) and 5.2 ms (scipy) for the
    # lungs of a 512 x 512 slice. Only masks of noise, which are nearly all border, are slower so.
    borders = [_border(mask[box]) for mask in (truth, pred)]
    seen = None if counted is None else counted[box]
    return _ways(borders[0], borders[1], spacing, seen), _ways(
        borders[1], borders[0], spacing, seen
    )


def _ways(
    start: np.ndarray, end: np.ndarray, spacing: np.ndarray, counted: np.ndarray | None
) -> np.ndarray:
    """Return the distance of each counted border pixel of one mask to the border of the other."""
    start = start if counted is None else start & counted
    apart = np.argwhere(start & ~end) * spacing
    shared = np.count_nonzero(start) - len(apart)  # the larger part of good masks, and no way
    # Built by midpoints, not medians: on grid points queries are as fast and building is faster.
    tree = cKDTree(np.argwhere(end) * spacing, balanced_tree=False, compact_nodes=False)
    return np.concatenate([np.zeros(shared), tree.query(apart)[0]])


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    axes = set(range(mask.ndim))
    held = [np.flatnonzero(mask.any(axis=tuple(axes - {axis}))) for axis in axes]
    return tuple(slice(inside[0], inside[-1] + 1) for inside in held)


def _border(mask: np.ndarray) -> np.ndarray:
    """Return the border pixels, bool of the same shape.

    All mask lies in the bounding box, so what is outside of it is background, as it is outside of
    the array.
    """
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):  # the neighbour before, the neighbour after
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(start, start + mask.shape[axis])
            inner &= padded[tuple(window)]
    return np.asarray(mask & ~inner)
