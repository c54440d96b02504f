"""Can the mask of a scan be trusted? Slice by slice, among its neighbours, and all at once.

What is measured in a slice and what it weighs is in ``quality``. Knows no files.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lungunet.errors import DataError, counted
from lungunet.inference.doubt import LabelView
from lungunet.inference.quality import (
    SMALLEST,
    Plausibility,
    count_slice,
    judge,
    judge_slice,
    measure,
)
from lungunet.inference.shapes import label_parts
from lungunet.inference.threshold import segment_lungs

_NAMED = 3  # red slices, the most worrying
_WHOLE, _WHOLE_MM = 10, 30.0  # slices, and what they span, that should hold more than gas


def check_volume(
    hu: np.ndarray,
    classes: np.ndarray,
    spacing_mm: tuple[float, float, float],
    *,
    disagreement: Sequence[float] | np.ndarray | None = None,
    second_opinion: bool = True,
) -> Plausibility:
    """Judge a predicted mask by its scan, without the truth.

    Parameters
    ----------
    hu : (D, H, W) int16, int32 or float32, HU
    classes : (D, H, W) integer; above 0 is lung
    spacing_mm : (z, y, x)
    disagreement : (D,) in [0, 1], of each slice; see :func:`check_slice`
    second_opinion : ask the threshold rule, :func:`segment_lungs`, about the whole scan

    Returns
    -------
    Plausibility
        Of the scan: counts are summed over its slices, and parts are connected through them.
        ``slices`` holds what is said of each; there ``area_jump`` is how far the area is from the
        mean of the two slices around, as a share of the largest area. Reasons name the three most
        worrying red slices, counted from 0. ``lung_ml`` is judged from 10 slices over 30 mm on,
        and None in shorter scans: few slices hold little lung.

    Raises
    ------
    DataError
        When the shapes do not fit, or the spacing is not above 0.
    """
    _check(hu, classes, spacing_mm, disagreement)
    rule = _ask_rule(hu, spacing_mm) if second_opinion else None
    areas = np.count_nonzero(classes, axis=(1, 2))
    jumps = _area_jumps(areas, least=SMALLEST * hu[0].size)
    small, counts, slices = [], [], []
    for index, (plane, mask) in enumerate(zip(hu, classes, strict=True)):
        view = LabelView(plane, mask > 0, baseline=None if rule is None else rule[index])
        count = count_slice(
            view,
            mask,
            disagreement=None if disagreement is None else float(disagreement[index]),
            second_opinion=second_opinion,
        )
        count["hu"] = float(view.hu[view.lung].sum())
        slices.append(judge_slice(plane, view, measure(count) | {"area_jump": jumps[index]}))
        counts.append(count)
        small.append(view.lung)
    return _sum_up(counts, np.stack(small), tuple(slices), lung_ml=_whole_ml(areas, spacing_mm))


def _check(
    hu: np.ndarray,
    classes: np.ndarray,
    spacing_mm: tuple[float, float, float],
    disagreement: Sequence[float] | np.ndarray | None,
) -> None:
    if hu.ndim != 3 or not hu.size or classes.shape != hu.shape:
        raise DataError(
            f"shape {classes.shape}, scan: shape {hu.shape}. Pass both as (D, H, W).", where="mask"
        )
    if len(spacing_mm) != 3 or not all(0 < mm < math.inf for mm in spacing_mm):
        raise DataError(
            "not three lengths above 0. Pass (z, y, x), mm.",
            where=f"spacing_mm {tuple(spacing_mm)}",
        )
    if disagreement is not None and len(disagreement) != len(hu):
        raise DataError(
            f"{counted(len(disagreement), 'value')} for {counted(len(hu), 'slice')}. "
            "Pass one for each.",
            where="disagreement",
        )


def _ask_rule(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return what the threshold rule calls lung, (D, h, w) bool at the size of the views."""
    nothing = np.zeros(hu.shape[1:], bool)
    small = np.stack([LabelView(plane, nothing).hu for plane in hu])
    z, y, x = spacing_mm
    scale = LabelView(hu[0], nothing).scale
    spacing = (z, y * scale, x * scale)
    if len(small) == 1:  # no slices above and below that bear witness
        return segment_lungs(small[0], spacing_mm=spacing[1:])[None] > 0
    return segment_lungs(small, spacing_mm=spacing) > 0


def _area_jumps(areas: np.ndarray, *, least: float) -> list[float]:
    """Return how far each area is from the mean of its neighbours; 0 for the first and the last."""
    area = areas / max(float(areas.max()), least)
    jumps = np.zeros_like(area)
    jumps[1:-1] = np.abs(area[1:-1] - (area[2:] + area[:-2]) / 2)
    return [float(jump) for jump in jumps]


def _whole_ml(areas: np.ndarray, spacing_mm: tuple[float, float, float]) -> float | None:
    """Return the volume of the lung; None where the scan is too short to judge it."""
    if len(areas) < _WHOLE or len(areas) * spacing_mm[0] < _WHOLE_MM:
        return None
    return float(areas.sum() * np.prod(spacing_mm) / 1000)


def _sum_up(
    counts: Sequence[dict[str, float]],
    lung: np.ndarray,
    slices: tuple[Plausibility, ...],
    *,
    lung_ml: float | None,
) -> Plausibility:
    """Judge a scan by the sums over its slices, and by the slices that are red."""
    sizes = np.sort(label_parts(np.ascontiguousarray(lung).view(np.uint8))[1])
    totals = {name: sum(count[name] for count in counts) for name in counts[0]}
    totals |= {"parts": float(len(sizes)), "scattered": float(sizes[:-2].sum())}
    filled = sum(count.get("either", count["lung"]) > 0 for count in counts)
    red = [index for index, found in enumerate(slices) if found.light == "red"]
    values = measure(totals) | {
        "area_jump": max(found.values["area_jump"] or 0.0 for found in slices),
        "red_slices": len(red) / max(filled, len(red), 1),
        "lung_ml": lung_ml,
    }
    found = judge(values)
    red.sort(key=lambda index: -slices[index].worry)
    why = [f"slice {index}: {slices[index].reasons[0]}" for index in red[:_NAMED]]
    return replace(found, reasons=(*found.reasons, *why), slices=slices)
