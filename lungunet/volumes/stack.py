"""From the slices of a series to one volume: in order, evenly spaced, at right angles, or refused.

With ``resample`` what is uneven or sheared is put on a straight grid. Knows no files.
"""

import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from lungunet.errors import DataError, GeometryError, LungUNetWarning, counted, listed
from lungunet.volumes.dicom import Slice, read_planes
from lungunet.volumes.grid import Grid, moved

SAME_MM = 1e-3
"""Two slices so near to each other are at one place."""

_UNEVEN = 0.1  # of the usual step: scanners round positions
_OFF_GRID = 0.5  # of the mean step, by which a slice may lie off its place on the even grid
_DRIFT_PX = 0.5  # by which the last slice may lie beside the axis of the first
_SPARSE, _FAR_MM = 1.5, 30.0  # steps in thicknesses of a slice; and mm, beyond which is no volume
_FINER = 4  # resampling makes at most so many slices of one
_MOST_RUNS = 4  # of equal steps, that a message names one by one
_ASK = "Have it resampled with resample=True ('lungunet ... --resample')"


@dataclass(frozen=True, eq=False)
class _Stack:
    """Slices in order along their normal, with their places (n,) and (n, 2) in mm."""

    slices: list[Slice]
    heights_mm: np.ndarray
    beside_mm: np.ndarray

    @property
    def first(self) -> Slice:
        return self.slices[0]


def read_stack(
    slices: tuple[Slice, ...], where: Path, *, resample: bool = False
) -> tuple[np.ndarray, Grid]:
    """Read the slices of one series as one volume.

    Returns (k, j, i) int16 where that is exact, else float32, and the grid it lies on.

    Parameters
    ----------
    where : what messages call the series
    resample : put slices of uneven steps, or shifted by a gantry tilt, on a straight grid
    """
    _check_alike(slices, where)
    stack = _in_order(slices)
    _grid(stack, 1.0, len(slices), where)  # what is no grid of pixels cannot be judged below
    if len(slices) == 1:
        step_mm = stack.first.thickness_mm or 1.0
        return _read(stack), _grid(stack, step_mm, len(slices), where)
    uneven = _check_steps(stack, where, resample)
    tilted = _check_straight(stack, where, resample)
    _check_gaps(stack, where)
    if uneven or tilted:
        return _straighten(stack, where, " and ".join(filter(None, (uneven, tilted))))
    step_mm = float(np.diff(stack.heights_mm).mean())
    return _read(stack), _grid(stack, step_mm, len(slices), where)


def are_even(slices: list[Slice]) -> bool:
    """Whether slices lie at places of their own, in even steps."""
    steps = np.diff(_in_order(tuple(slices)).heights_mm)
    usual = np.median(steps) if len(steps) else 0.0
    return bool((steps > SAME_MM).all() and (abs(steps - usual) <= _UNEVEN * usual).all())


def planes_of(slices: tuple[Slice, ...], where: Path) -> tuple[Slice, ...]:
    """Return slices in the order of the planes that :func:`read_stack` makes of them.

    None where it puts them on another grid, so that no plane is a slice.
    """
    stack = _in_order(slices)
    moved = len(slices) > 1 and (
        _check_steps(stack, where, resample=True) or _check_straight(stack, where, resample=True)
    )
    return () if moved else tuple(stack.slices)


def differ(first: Slice, item: Slice) -> str:
    """Say in what two slices differ that should be alike in one volume; else nothing."""
    for what, same in (
        ("size", first.size == item.size),
        ("pixel spacing", _close(first.spacing, item.spacing, rtol=1e-3)),
        ("orientation", _close(first.axes, item.axes, atol=1e-3)),
        ("patient", first.owner == item.owner),
    ):
        if not same:
            return what
    return ""


def _close(
    one: tuple[float, ...], other: tuple[float, ...], rtol: float = 0, atol: float = 0
) -> bool:
    # Mostly they are the same.
    return one == other or bool(np.allclose(one, other, rtol=rtol, atol=atol))


def _in_order(slices: tuple[Slice, ...]) -> _Stack:
    axes = np.reshape(slices[0].axes, (2, 3))
    positions = np.array([item.position for item in slices])
    heights = positions @ slices[0].normal
    order = np.argsort(heights, kind="stable")
    ordered = positions[order]
    return _Stack([slices[i] for i in order], heights[order], (ordered - ordered[0]) @ axes.T)


def _read(stack: _Stack) -> np.ndarray:
    """Read voxels into one array, in the order of the stack; a slice at a time, to save memory."""
    array = np.empty((len(stack.slices), *stack.first.size[::-1]), np.int16)
    for index, plane in enumerate(read_planes(stack.slices)):
        if plane.dtype != array.dtype and array.dtype == np.int16:
            array = array.astype(np.float32)
        array[index] = plane
    return array


def _grid(stack: _Stack, step_mm: float, depth: int, where: Path) -> Grid:
    first = stack.first
    directions = np.column_stack([first.axes[:3], first.axes[3:], first.normal])
    grid = Grid(
        (*first.size, depth),
        (*first.spacing, step_mm),
        first.position,
        tuple(float(cosine) for cosine in directions.ravel()),
    )
    grid.check(str(where))
    return grid


def _check_alike(slices: tuple[Slice, ...], where: Path) -> None:
    first = slices[0]
    for item in slices[1:]:
        what = differ(first, item)
        if what:
            raise GeometryError(
                f"{first.label} and {item.label} are of one series, but differ in {what}. "
                "Leave out what does not belong (localisers, reformats).",
                where=where,
            )
    silent = [item for item in slices if item.rescale is None]
    if silent and len(silent) < len(slices):
        raise DataError(
            f"{len(silent)} of {len(slices)} slices do not say how their values become HU "
            f"(no RescaleIntercept: {listed([item.label for item in silent], separator=', ')}). "
            "Export the series again.",
            where=where,
        )


def _check_steps(stack: _Stack, where: Path, resample: bool) -> str:
    """Refuse doubled and missing slices; say how steps differ otherwise, to be mended."""
    steps = np.diff(stack.heights_mm)
    usual = float(np.median(steps[steps > SAME_MM])) if (steps > SAME_MM).any() else 0.0
    doubled, gaps = [], []
    for step, below, (low, high) in zip(
        steps, stack.heights_mm, pairwise(stack.slices), strict=False
    ):
        names = f"{low.label} and {high.label}"
        if step <= SAME_MM:
            doubled.append(f"{names}, at {below:.2f} mm")
        elif abs(step - usual) > _UNEVEN * usual:
            gaps.append(f"{names}: {below:.2f} mm and {below + step:.2f} mm, {step:.2f} apart")
    if doubled:
        raise GeometryError(
            f"{counted(len(doubled), 'slice')} at the place of another one:\n  {listed(doubled)}\n"
            "Keep one reconstruction and one time point.",
            where=where,
        )
    if gaps and _is_broken(steps, usual):
        raise GeometryError(
            f"slices are {usual:.2f} mm apart, but not between\n  {listed(gaps)}\n"
            "Slices are missing: copy the series again, or leave out the part beyond the gap.",
            where=where,
        )
    said = _say_runs(steps) if gaps else _say_drift(stack)
    if said and not resample:
        raise GeometryError(
            f"{said}. {_ASK}, or take the part with one spacing.",
            where=where,
        )
    return said


def say_steps(slices: tuple[Slice, ...]) -> str:
    """Say in a few words how far apart slices are; nothing where they are at one place."""
    stack = _in_order(slices)
    steps = np.diff(stack.heights_mm)
    if not len(steps) or steps.max() <= SAME_MM:
        return ""
    if are_even(stack.slices) and not _say_drift(stack):
        return f"{steps.mean():.4g} mm apart"
    return f"unevenly spaced ({_range(steps)} mm)"


def _say_runs(steps: np.ndarray) -> str:
    runs = [f"{step:g} mm ({counted(count, 'time')})" for step, count in _runs(steps)]
    if len(runs) > _MOST_RUNS:
        said = f"{_range(steps)} mm apart, changing {len(runs) - 1} times"
    else:
        said = ", then ".join(runs)
    return f"slices are unevenly spaced: {said}"


def _range(steps: np.ndarray) -> str:
    return f"{steps.min():.3g} to {steps.max():.3g}"


def _say_drift(stack: _Stack) -> str:
    """Say where steps that differ a little add up to slices far from an even grid; else nothing."""
    heights, steps = stack.heights_mm, np.diff(stack.heights_mm)
    off = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights)))
    if off.max() <= _OFF_GRID * steps.mean():
        return ""
    return (
        f"slices are unevenly spaced: steps of {_range(steps)} mm add up, "
        f"and {stack.slices[int(off.argmax())].label} lies {off.max():.1f} mm off an even grid"
    )


def _runs(steps: np.ndarray) -> list[tuple[float, int]]:
    """Return steps in mm and how often each follows itself."""
    runs: list[list[float]] = []
    for step in steps:
        if runs and abs(step - runs[-1][0]) <= _UNEVEN * runs[-1][0]:
            runs[-1].append(float(step))
        else:
            runs.append([float(step)])
    return [(round(float(np.median(run)), 2), len(run)) for run in runs]


def _is_broken(steps: np.ndarray, usual: float) -> bool:
    """Whether there is a lone step over one slice or more, as where a file was lost."""
    times = [step / usual for step, count in _runs(steps) if count == 1]
    return any(round(n) >= 2 and abs(n - round(n)) <= _UNEVEN for n in times)


def _check_straight(stack: _Stack, where: Path, resample: bool) -> str:
    """Refuse a slice beside the others; say by how much all are sheared, to be mended."""
    first = stack.first
    length = stack.heights_mm[-1] - stack.heights_mm[0]
    along = (stack.heights_mm - stack.heights_mm[0])[:, None] / length * stack.beside_mm[-1]
    off = np.abs(stack.beside_mm - along).max(axis=1)
    limit = _DRIFT_PX * min(first.spacing)
    if off.max() > limit:
        raise GeometryError(
            f"{stack.slices[int(off.argmax())].label} is shifted by {off.max():.1f} mm against the "
            "slices around it. Export the series again.",
            where=where,
        )
    across = np.abs(stack.beside_mm[-1]).max()
    if across <= limit:
        return ""
    said = (
        "slices are shifted against each other, "
        f"{np.degrees(np.arctan2(across, length)):.1f} degrees off right angles (gantry tilt)"
    )
    if not resample:
        raise GeometryError(f"{said}. {_ASK}.", where=where)
    return said


def _check_gaps(stack: _Stack, where: Path) -> None:
    """Look for steps much larger than slices are thick: what lies between was not seen."""
    thick = max(item.thickness_mm or np.inf for item in stack.slices)
    step = float(np.diff(stack.heights_mm).max())
    if step <= _SPARSE * thick and step <= _FAR_MM:
        return
    said = f"slices are {step:g} mm apart" + (f" and {thick:g} mm thick" if thick < np.inf else "")
    if step > _FAR_MM:
        raise GeometryError(
            f"{said}: too far apart for a volume. Where slices are missing, copy the series again; "
            "else take each file by itself.",
            where=where,
        )
    warnings.warn(
        f"{where}: {said}: nobody saw what lies between, so volumes are estimates. "
        "Where slices were lost, copy the series again.",
        LungUNetWarning,
        stacklevel=4,
    )


def _straighten(stack: _Stack, where: Path, why: str) -> tuple[np.ndarray, Grid]:
    """Put slices on a straight grid of even steps, linearly, and say so."""
    first, heights = stack.first, stack.heights_mm - stack.heights_mm[0]
    step = max(float(np.diff(heights).min()), heights[-1] / (_FINER * len(heights)))
    depth = round(heights[-1] / step) + 1
    pixels = (stack.beside_mm - stack.beside_mm.min(axis=0)) / first.spacing
    extra = np.ceil(pixels.max(axis=0) - 1e-3).astype(int)
    planes = _read(stack)
    wide = np.empty((len(planes), *(planes.shape[1:] + extra[::-1])), np.float32)
    for index, plane in enumerate(planes):
        wide[index] = moved(plane, wide.shape[1:], pixels[index, ::-1])
    places = np.linspace(0, heights[-1], depth)
    below = np.clip(np.searchsorted(heights, places, side="right") - 1, 0, len(heights) - 2)
    share = (places - heights[below]) / np.diff(heights)[below]
    array = np.empty((depth, *wide.shape[1:]), planes.dtype)
    for index, (low, part) in enumerate(zip(below, share, strict=True)):
        mixed = wide[low] * (1 - np.float32(part)) + wide[low + 1] * np.float32(part)
        array[index] = mixed if array.dtype.kind == "f" else np.rint(mixed)
    axes = np.reshape(first.axes, (2, 3))
    origin = np.asarray(first.position) + stack.beside_mm.min(axis=0) @ axes
    directions = np.column_stack([*axes, first.normal])
    grid = Grid(
        (array.shape[2], array.shape[1], depth),
        (*first.spacing, float(heights[-1] / (depth - 1))),
        tuple(float(mm) for mm in origin),
        tuple(float(cosine) for cosine in directions.ravel()),
    )
    grid.check(str(where))
    sides = "x".join(map(str, array.shape))
    spacing = "x".join(f"{mm:.3g}" for mm in grid.spacing[::-1])
    warnings.warn(
        f"{where}: {why}. Resampled to a straight grid of {sides}, {spacing} mm: its mask lies "
        "on that grid, and not on the slices.",
        LungUNetWarning,
        stacklevel=4,
    )
    return array, grid
