"""Which lung is which: the patient's left and right, also where the two touch.

Shape parts them; what the scan shows of body and spine proves which is which. Knows no files.
"""

import numpy as np

from lungunet.data.hu import refuse_no_numbers
from lungunet.data.kinds import check_spacing
from lungunet.errors import DataError
from lungunet.inference.midline import find_middles
from lungunet.inference.shapes import Box, as_bits, box_of, label_parts, look_up

LEFT, RIGHT, UNTOLD = 1, 2, 3
"""Values of a mask with sides: the patient's left lung and right lung, and what may be either."""

_OFF_MIDDLE = 5.0  # a border a quarter of the width off the middle: 0.3 of the fullest column
_REACH = 0.2  # of the width, how far a seam may leave the middle for the other lung to swell over
_STRAIGHT = 0.01  # pixels of lung in each row that a seam at full reach costs, against idle bends
_STEPS = np.array([0, -1, 1], np.int8)  # of a seam from row to row, straight on first
_NECK = 0.5  # what lies behind a neck of width w is a lung of its own from 0.5 w^2 (w^3) on

# Of a lung that each witness has on its own side: of two lungs, which may swell over the middle,
# and of a lung that is alone but for crumbs.
_MOSTLY, _ALL = 2 / 3, 0.9
_CRUMB = 0.1  # of the larger side
_ALIKE = 1 / 3  # of the larger side: two lungs where no witness is
_BESIDE = 0.5  # of the smaller one's slices and rows, likewise


def split_sides(
    mask: np.ndarray,
    *,
    spacing_mm: tuple[float, ...] | None = None,
    hu: np.ndarray | None = None,
) -> np.ndarray:
    """Tell the patient's left lung from the right one, also where they touch.

    From front to back runs a seam through each slice, near the middle, where it cuts the least
    lung. It may bend around a lung that swells over the middle. A part that it cuts nonetheless is
    two lungs joined by a neck when the smaller side is large for the width of the cut, else it is
    one lung and goes to the side that holds most of it. Lungs in several pieces are told piece by
    piece.

    Parameters
    ----------
    mask : (H, W) or (D, H, W), bool or integer; above 0 is lung. Rows run from front to back and
        columns from the patient's right to the left, as slices are looked at.
    spacing_mm : of the array's axes, (y, x) or (z, y, x); None takes pixels or voxels for cubes
    hu : the slice or scan, of the same shape: sides are named only where it proves them

    Returns
    -------
    same shape, uint8
        0 outside, 1 left lung, 2 right lung. All 0 for an empty mask. Without ``hu`` a single lung
        is called by the half of the picture that holds it, of which a picture cropped to one lung
        tells nothing. With it two lungs must lie on either side of the body's middle and of the
        spine, as far as these are seen, or be alike and side by side where neither is; a single one
        must lie beside a spine. Else all lung is 3: left or right, nobody knows.

    Raises
    ------
    DataError
        When the mask is neither a slice nor a volume, spacing or scan do not fit it, or the scan
        holds NaN or infinity.

    Examples
    --------
    >>> split_sides(np.array([[0, 1, 1, 0, 0, 0, 1, 0]]))
    array([[0, 2, 2, 0, 0, 0, 1, 0]], dtype=uint8)
    """
    inside = as_bits(mask)
    ones = (1.0,) * inside.ndim
    spacing = ones if spacing_mm is None else check_spacing(spacing_mm, inside.ndim)
    if hu is not None:
        if hu.shape != inside.shape:
            raise DataError(
                f"shape {mask.shape}, hu: shape {hu.shape}. Pass both alike.", where="mask"
            )
        refuse_no_numbers(hu, "HU")
    sides = np.zeros_like(inside)
    box = box_of(inside)
    if box is None:
        return sides
    _part(sides, inside, spacing, box)
    if hu is not None and not _is_proven(sides, hu, box, spacing_mm):
        sides[inside > 0] = UNTOLD
    return sides


def is_told(sides: np.ndarray) -> bool:
    """Whether a mask of :func:`split_sides` says which lung is which."""
    return not (sides == UNTOLD).any()


def _is_proven(
    sides: np.ndarray, hu: np.ndarray, box: Box, spacing_mm: tuple[float, ...] | None
) -> bool:
    """Whether body, spine and both lungs, as far as they are seen, agree on the names."""
    lungs = sides if sides.ndim == 3 else sides[None]
    planes = hu[box[0]] if hu.ndim == 3 else hu[None]
    mm = None if spacing_mm is None else float(np.sqrt(spacing_mm[-1] * spacing_mm[-2]))
    middles = find_middles(planes, mm, around=box[-1])
    right, left = (np.count_nonzero(lungs == side, axis=(0, 1)) for side in (RIGHT, LEFT))
    smaller, larger = sorted([right.sum(), left.sum()])
    columns = [round(column) for column in middles.values()]
    if smaller < _CRUMB * larger:
        alone = _lie_apart(right, left, columns, share=_ALL, least=_CRUMB * larger)
        return alone and "spine" in middles
    if columns:
        return _lie_apart(right, left, columns, share=_MOSTLY)
    return bool(smaller >= _ALIKE * larger) and _lie_beside(lungs)


def _lie_apart(
    right: np.ndarray, left: np.ndarray, columns: list[int], *, share: float, least: float = 0
) -> bool:
    """Whether of each side, if it has enough pixels, that share is on its side of every column."""
    for column in columns:
        for held, whole in ((right[:column], right), (left[column:], left)):
            if whole.sum() >= least and held.sum() < share * whole.sum():
                return False
    return True


def _lie_beside(lungs: np.ndarray) -> bool:
    """Whether two lungs share most of the slices and rows of the smaller one."""
    for others in ((1, 2), (0, 2)):
        right, left = ((lungs == side).any(axis=others) for side in (RIGHT, LEFT))
        if (right & left).sum() < _BESIDE * min(right.sum(), left.sum()):
            return False
    return True


def _part(sides: np.ndarray, inside: np.ndarray, spacing: tuple[float, ...], box: Box) -> None:
    """Part a mask that is not empty by its shape alone."""
    planes = inside if inside.ndim == 3 else inside[None]
    seams = _find_seams(planes, _middle(planes))
    columns = np.arange(planes.shape[2])
    for side, plane, seam in zip(sides.reshape(planes.shape), planes, seams, strict=True):
        side[:] = plane * np.where(columns < seam[:, None], np.uint8(RIGHT), np.uint8(LEFT))
    half = max(planes.shape[2] // 2 - box[-1].start, 0)
    _mend_cuts(sides[box], spacing, half=half)


def _middle(planes: np.ndarray) -> int:
    """Find the border between columns, near the middle, with little lung at it, and both sides."""
    width = planes.shape[2]
    lung = planes.sum(axis=(0, 1), dtype=np.float64)
    at_border = np.convolve(np.pad(lung, 1, mode="edge"), [0.5, 0.5], mode="valid")
    right = np.concatenate([[0.0], np.cumsum(lung)]) / max(lung.sum(), 1)
    off_middle = (np.arange(width + 1) - width / 2) / width
    # Two lungs speak for a border between them, against one beside both.
    cost = at_border / max(lung.max(), 1) - np.minimum(right, 1 - right)
    return int(np.argmin(cost + _OFF_MIDDLE * off_middle**2))


def _find_seams(planes: np.ndarray, middle: int) -> np.ndarray:
    """Find the cheapest way from the first row to the last in each slice, by dynamic programming.

    Parameters
    ----------
    planes : (D, H, W) uint8, 0 or 1
    middle : border between columns that a seam keeps to where nothing speaks against it

    Returns
    -------
    (D, H) int64
        Columns below are on the patient's right. Neighbouring rows differ by one at most.
    """
    depth, height, width = planes.shape
    reach = max(int(_REACH * width), 1)
    low, high = max(middle - reach, 0), min(middle + reach, width)
    borders = np.arange(low, high + 1)
    detour = (_STRAIGHT * np.abs(borders - middle) / reach).astype(np.float32)
    best = np.zeros((depth, len(borders)), np.float32)
    rows = _span(np.any(planes, axis=(0, 2)))  # the others hold nothing to part
    steps = np.zeros((height, depth, len(borders)), np.int8)
    for row in rows:
        around = np.pad(best, ((0, 0), (1, 1)), constant_values=np.inf)
        ways = np.stack([around[:, 1:-1], around[:, :-2], around[:, 2:]])
        steps[row] = _STEPS[ways.argmin(axis=0)]
        lung = np.pad(planes[:, row], ((0, 0), (1, 1)))
        cut = lung[:, low : high + 1] & lung[:, low + 1 : high + 2]
        best = ways.min(axis=0) + cut + detour
    seams = np.full((depth, height), middle)
    at = best.argmin(axis=1)
    for row in reversed(rows):
        seams[:, row] = borders[at]
        at = at + steps[row, np.arange(depth), at]
    return seams


def _span(held: np.ndarray) -> range:
    """Return the indices from the first to the last that is true."""
    true_at = np.flatnonzero(held)
    return range(true_at[0], true_at[-1] + 1) if true_at.size else range(0)


def _mend_cuts(sides: np.ndarray, spacing: tuple[float, ...], *, half: int) -> None:
    """Give parts that are one lung, but were cut, to the side that holds most of them.

    The seam and the half of the picture have a vote each: the seam may run through a lung's middle.
    """
    labels, sizes = label_parts((sides > 0).view(np.uint8))
    width = _width_of_cuts(sides, labels, spacing=spacing, count=len(sizes))
    right = _count(labels, sides == RIGHT, len(sizes))
    smaller = np.minimum(right, sizes - right) * np.prod(spacing)
    one_lung = smaller < _NECK * width**sides.ndim
    votes = right + np.bincount(labels[..., :half].ravel(), minlength=len(sizes) + 1)[1:]
    side = np.where(one_lung, np.where(votes > sizes, RIGHT, LEFT), 0).astype(np.uint8)
    given = look_up(np.concatenate([np.zeros(1, np.uint8), side]), labels)
    np.copyto(sides, given, where=given > 0)


def _width_of_cuts(
    sides: np.ndarray, labels: np.ndarray, *, spacing: tuple[float, ...], count: int
) -> np.ndarray:
    """Measure where left and right touch in each part: (count,) lengths, or roots of areas."""
    cut = np.zeros(count)
    for axis, step in enumerate(spacing):
        before, after = _neighbours(sides, axis)
        touching = before * after == LEFT * RIGHT
        cut += np.prod(spacing) / step * _count(_neighbours(labels, axis)[0], touching, count)
    return np.asarray(cut ** (1 / (sides.ndim - 1)))


def _count(labels: np.ndarray, chosen: np.ndarray, count: int) -> np.ndarray:
    """Count the chosen pixels of each part: (count,)."""
    return np.bincount(labels[chosen], minlength=count + 1)[1:]


def _neighbours(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all values but the last along an axis, and all but the first."""
    before, after = [slice(None)] * values.ndim, [slice(None)] * values.ndim
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return values[tuple(before)], values[tuple(after)]
