"""What anatomy knows of a predicted lung mask: where lungs cannot be, and what belongs to them.

For volumes, from HU and millimetres; ``shapes.py`` has the steps that need neither.
"""

import numpy as np

from lungunet.data.hu import refuse_no_numbers
from lungunet.data.kinds import check_spacing
from lungunet.errors import DataError, GeometryError
from lungunet.inference.body import (
    HOLE_MM2,
    clear_open_air,
    find_airways,
    find_cut_open,
    gas_level,
    look_into_body,
)
from lungunet.inference.prefetch import map_side_by_side
from lungunet.inference.shapes import (
    Box,
    as_bits,
    box_of,
    fill_cavities,
    fill_holes,
    label_parts,
    look_up,
)
from lungunet.inference.threshold import segment_lungs

_PART_SHARE = 0.05  # of the largest part
_LUNG_ML = 10.0  # a collapsed lung, where the largest part is the other one
_AIRWAY_MM = 10  # height
_DOUBTED_SHARE = 1 / 3  # of the largest part: smaller ones may be gas, where nobody else sees lung
_SEEN_SHARE = 0.02  # of a part
_AIRY_HU = -400  # on average; a part of dense lung may be seen by no rule
_ONE_SIDE = 0.8  # of a lung that is alone
_COARSE = 2  # every other pixel is enough to see who agrees


def refine_volume(
    hu: np.ndarray, mask: np.ndarray, *, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Mend a predicted lung mask by what is known of lungs.

    Air around the body goes, and so do trachea and main bronchi: lumens within a wall, as dark as
    gas, 10 mm tall; where pixels are larger than 2 mm some are missed. Of the parts that remain
    those stay that lie in the body for the most part and have 5 % of the largest one, and the
    largest beyond the body's middle, if it has 10 mL: two lungs, even when one has collapsed. Of
    parts under a third of the largest those go that are full of air and of which the threshold
    rule, :func:`segment_lungs`, sees nothing: gas of bowel and stomach. Lung that the edge of the
    picture cuts open counts as in the body where tissue walls it. Holes up to
    200 mm2 (vessels) are filled slice by slice, and what is enclosed on all sides (nodules).

    Parameters
    ----------
    hu : (D, H, W) int16, int32 or float32, HU; feet to head, front to back, right to left
    mask : (D, H, W), bool or integer; above 0 is lung
    spacing_mm : (z, y, x)

    Returns
    -------
    (D, H, W) uint8, 0 or 1
        All 0 for an empty mask.

    Raises
    ------
    DataError
        When the mask is no volume, the scan holds NaN or infinity, or the spacing is not finite and
        above 0.
    GeometryError
        When mask and scan differ in shape.
    """
    _refuse_misfits(hu, mask, spacing_mm)
    lungs = np.zeros(mask.shape, np.uint8)
    box = box_of(mask)
    if box is None:
        return lungs
    parts, body, airways, middle = _look_into(hu, mask, box, spacing_mm)
    kept = _keep_lungs(parts, body, middle=middle, voxel_ml=float(np.prod(spacing_mm)) / 1000)
    kept = _clear_gas(kept, hu, box, spacing_mm=spacing_mm, middle=middle)
    filled = fill_holes(kept, max_px=HOLE_MM2 / (spacing_mm[1] * spacing_mm[2]))
    lungs[box] = fill_cavities(filled) & (1 - airways)
    return lungs


def _refuse_misfits(hu: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, ...]) -> None:
    if mask.ndim != 3:
        raise DataError(f"shape {mask.shape}. Pass (D, H, W).", where="mask")
    check_spacing(spacing_mm, 3)
    if hu.shape != mask.shape:
        raise GeometryError(
            f"mask: is {mask.shape}, its scan is {hu.shape}. Pass one value per voxel of the scan."
        )
    refuse_no_numbers(hu, "HU")


def _look_into(
    hu: np.ndarray, mask: np.ndarray, box: Box, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Look at the box around a mask.

    Returns
    -------
    lungs : (D, H, W) uint8, without open air and airways
    body : (D, H, W) uint8, with lung that the picture cuts open
    airways : (D, H, W) uint8, tall ones
    middle : column in the box, of the whole body
    """
    mm = float(np.sqrt(spacing_mm[1] * spacing_mm[2]))
    shape = mask[box].shape
    lungs, body, airways = (np.empty(shape, np.uint8) for _ in range(3))

    def look(index: int) -> np.ndarray:
        place = box[0].start + index
        seen = look_into_body(hu[place], mm)
        here = clear_open_air(as_bits(mask[place]), seen)
        lungs[index] = here[box[1:]]
        body[index] = (seen.body | find_cut_open(here, seen))[box[1:]]
        airways[index] = find_airways(seen, gas_level(seen, here))[box[1:]]
        return np.asarray(seen.body.sum(axis=0, dtype=np.int64))

    columns = np.sum(map_side_by_side(look, range(len(lungs))), axis=0)
    middle = float((columns * np.arange(len(columns))).sum() / max(columns.sum(), 1))
    airways = _keep_tall(airways, spacing_mm[0])
    lungs &= 1 - airways
    return lungs, body, airways, middle - box[2].start


def _keep_tall(airways: np.ndarray, slice_mm: float) -> np.ndarray:
    """Keep the parts that reach through many slices: no bubble, no speck."""
    labels, _ = label_parts(airways)
    heights = np.bincount(np.concatenate([np.unique(plane) for plane in labels]))
    tall = heights * slice_mm >= min(_AIRWAY_MM, len(airways) * slice_mm)
    tall[0] = False
    return look_up(tall.view(np.uint8), labels)


def _keep_lungs(
    lungs: np.ndarray, body: np.ndarray, *, middle: float, voxel_ml: float
) -> np.ndarray:
    """Clear the parts that are no lungs."""
    labels, sizes = label_parts(lungs)
    inside, column_sums = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1)
    columns = np.broadcast_to(np.arange(labels.shape[2]), labels.shape[1:]).ravel()
    for numbers, plane in zip(labels, body, strict=True):
        inside += np.bincount(numbers[plane > 0], minlength=len(inside))
        column_sums += np.bincount(numbers.ravel(), columns, minlength=len(inside))
    possible = sizes * (2 * inside[1:] >= sizes)
    if not possible.any():
        return lungs
    largest = int(possible.argmax())
    kept = possible >= max(_PART_SHARE * possible[largest], 1)
    right = column_sums[1:] < middle * sizes
    beyond = np.where(right == right[largest], 0, possible)
    kept[beyond.argmax()] |= beyond.max() * voxel_ml >= _LUNG_ML
    return look_up(np.concatenate([[False], kept]).view(np.uint8), labels)


def _clear_gas(
    lungs: np.ndarray,
    hu: np.ndarray,
    box: Box,
    *,
    spacing_mm: tuple[float, float, float],
    middle: float,
) -> np.ndarray:
    """Clear small airy parts that the threshold rule does not call lung, in the box of a mask."""
    labels, sizes = label_parts(lungs)
    doubted = sizes < _DOUBTED_SHARE * sizes.max(initial=0)
    if not doubted.any():
        return lungs
    doubted &= ~_other_lung(labels, sizes, middle)  # one may have collapsed
    z, y, x = spacing_mm
    rule = segment_lungs(hu[box[0], ::_COARSE, ::_COARSE], spacing_mm=(z, y * _COARSE, x * _COARSE))
    rows, columns = (
        np.arange(-(-side.start // _COARSE) * _COARSE, side.stop, _COARSE) for side in box[1:]
    )
    numbers = labels[:, rows - box[1].start][:, :, columns - box[2].start]
    values = hu[box[0]][:, rows][:, :, columns]
    seen = rule[:, rows // _COARSE][:, :, columns // _COARSE] > 0
    count = len(sizes) + 1
    sampled = np.maximum(np.bincount(numbers.ravel(), minlength=count), 1)
    share = np.bincount(numbers[seen], minlength=count) / sampled
    mean_hu = np.bincount(numbers.ravel(), values.ravel(), minlength=count) / sampled
    gas = doubted & (share[1:] < _SEEN_SHARE) & (mean_hu[1:] < _AIRY_HU)
    return look_up(np.concatenate([[False], ~gas]).view(np.uint8), labels)


def _other_lung(labels: np.ndarray, sizes: np.ndarray, middle: float) -> np.ndarray:
    """Mark the largest part beyond the middle; none where the largest of all is both lungs."""
    on_right = labels[:, :, : max(round(middle), 0)]
    right = np.bincount(on_right.ravel(), minlength=len(sizes) + 1)[1:] / sizes
    share = right[sizes.argmax()]
    beyond = np.where((right > 0.5) == (share > 0.5), 0, sizes)
    other = np.zeros(len(sizes), bool)
    if max(share, 1 - share) > _ONE_SIDE and beyond.any():
        other[beyond.argmax()] = True
    return other
