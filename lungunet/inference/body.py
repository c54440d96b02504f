"""The body in a slice, and its air: which of it is no lung, but around the body, a lumen, or gas.

Owns the HU and the sizes by which they are told apart. Works on single slices of HU, in
millimetres; knows no files.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from lungunet.inference.shapes import fill_holes, grow, keep_largest, label_parts, look_up

LUNG_HU = -750.0
"""The usual lung, where no mask shows this patient's."""
PADDING_HU = -1100
"""What lies outside the scanner's circle is darker than any air, and would smear."""
HOLE_MM2 = 200
"""The largest vessel cut across; the dome of the liver is larger."""

# Between lung (-850) and chest wall (50), nearer to the wall: annotators draw around the lung.
_EDGE_HU = -300
_GRAIN_PX = 0.7  # smoothing against noise, which would dot the edge
_BODY_MM2 = 65_000  # an adult's chest in a slice

# Where a patient's lung is known: from it to tissue.
_TISSUE_HU = 0.0
_AIRY = 0.45  # below this share of the way a pixel is airy

_OPEN_AIR_HU = -950  # air around the body; lung that the edge of the picture cuts open is brighter
_OPEN_AIR_QUANTILE = 0.25  # of what surrounds the body; the rest may be mattress and cloth
_NEARLY_PADDING_HU = PADDING_HU + 10  # below is no air, in a slice that was clipped and smoothed
_EDGE_PX = 2  # from where lung reaches it, as padding is blurred
_CUT_MM2 = 100  # the smallest part that the edge may have cut open
_AROUND = np.ones((3, 3), np.uint8)

# The lower quartile of a lung lies above, even with emphysema, that of bowel gas below, even in
# small parts that are mostly blurred edge.
_GAS_HU, _GAS_QUANTILE = -930.0, 0.25
_GAS_SHARE = 0.01  # of the largest lung is as dark as gas, where a scanner's HU are off
_GAS_DEPTH_HU = 30  # and it is darker than the lung's median by more than this
_GAS_GRAIN_MM = 0.7
# Of a part against the patient's lung: an airway or gas that a rule mistook is at least this much
# darker, and this share of the way from lung to open air.
_PART_DEPTH_HU, _PART_SHARE = 40.0, 0.4

_LUMEN_MM2 = (20, 700)  # from lobar bronchi to the trachea
_WALL_MM = 3
_BLUR_PX = 0.5  # coarse pixels blur the lumen's edge, so that its dark core is smaller
_WALL_HU = -500  # a thin wall is blurred; lung is darker


@dataclass(frozen=True, eq=False)
class BodySlice:
    """A slice, and the air in its body.

    Parameters
    ----------
    smooth : (H, W) float32, HU without grain, -1100 at least
    smoother : (H, W) float32, HU in which blurred edges do not look like gas
    body : (H, W) uint8; the largest piece of tissue with all that it surrounds
    air : (H, W) uint8; what in the body is as dark as lung or darker
    mm : side of a pixel
    """

    smooth: np.ndarray
    smoother: np.ndarray
    body: np.ndarray
    air: np.ndarray
    mm: float


def look_into_body(hu: np.ndarray, mm: float | None) -> BodySlice:
    """Find the body of a slice and the air in it.

    Parameters
    ----------
    hu : (H, W) int16, int32 or float32, HU
    mm : side of a pixel; None takes the body for 65,000 mm2, an adult's chest
    """
    clipped = np.clip(hu, PADDING_HU, -PADDING_HU).astype(np.float32)
    smooth = cv2.GaussianBlur(clipped, (0, 0), _GRAIN_PX)
    air = (smooth < _EDGE_HU).view(np.uint8)
    body = find_body(air)
    mm = mm or float(np.sqrt(_BODY_MM2 / max(int(body.sum()), 1)))
    smoother = cv2.GaussianBlur(smooth, (0, 0), _GAS_GRAIN_MM / mm)
    return BodySlice(smooth, smoother, body, air & body, mm)


def find_body(air: np.ndarray) -> np.ndarray:
    """Find the largest piece of what is no air, (H, W) uint8, with all that it surrounds."""
    return fill_holes(keep_largest(1 - air, count=1))


def find_airy(hu: np.ndarray, *, lung_hu: float) -> np.ndarray:
    """Mark what is nearer to a patient's lung, or to air, than to tissue: (H, W) bool."""
    return np.asarray(hu < lung_hu + _AIRY * (_TISSUE_HU - lung_hu))


def dark_level(hu: np.ndarray, outside: np.ndarray, *, lung_hu: float) -> float:
    """Return the HU below which a part is an airway or gas, for a patient whose lung is known.

    It is darker than the lung, and nearly open air; that is measured in the slice, for many
    scanners' air is not at -1000 HU.

    Parameters
    ----------
    hu : (H, W) float32
    outside : (H, W) bool, around the body
    """
    open_air = hu[outside & (hu > PADDING_HU)]
    air_hu = float(np.quantile(open_air, _OPEN_AIR_QUANTILE)) if open_air.size > 50 else lung_hu
    return min(lung_hu - _PART_DEPTH_HU, lung_hu + _PART_SHARE * (air_hu - lung_hu))


def gas_level(seen: BodySlice, lungs: np.ndarray) -> float:
    """Return the HU below which air holds no lung.

    Parameters
    ----------
    lungs : (H, W) uint8, 0 or 1; lung but for a part of it
    """
    core = cv2.erode(keep_largest(lungs, count=1), np.ones((5, 5), np.uint8)) > 0
    inner = seen.smoother[core]
    if not inner.size:
        return _GAS_HU
    darkest, median = np.quantile(inner, [_GAS_SHARE, 0.5])
    return float(max(_GAS_HU, min(darkest, median - _GAS_DEPTH_HU)))


def clear_gas(lungs: np.ndarray, seen: BodySlice, gas_hu: float) -> np.ndarray:
    """Clear the parts of a slice, (H, W) uint8, that are gas for the most part."""
    labels, sizes = label_parts(lungs)
    kept = np.zeros(len(sizes) + 1, np.uint8)
    for number in range(1, len(kept)):
        kept[number] = np.quantile(seen.smooth[labels == number], _GAS_QUANTILE) > gas_hu
    return look_up(kept, labels)


def clear_open_air(lungs: np.ndarray, seen: BodySlice) -> np.ndarray:
    """Clear the parts of a slice, (H, W) uint8, that are mostly air around the body."""
    labels, sizes = label_parts(lungs)
    open_air = (seen.body == 0) & (seen.smoother < _OPEN_AIR_HU)
    dark = np.bincount(labels[open_air], minlength=len(sizes) + 1)[1:]
    return look_up(np.concatenate([[False], 2 * dark <= sizes]).view(np.uint8), labels)


def find_cut_open(lungs: np.ndarray, seen: BodySlice) -> np.ndarray:
    """Find lung that the edge of the picture, or of its padding, cuts open: the body walls it.

    Returns
    -------
    (H, W) uint8
    """
    inner = np.zeros_like(lungs)
    inner[1:-1, 1:-1] = seen.smooth[1:-1, 1:-1] > _NEARLY_PADDING_HU
    edge = cv2.erode(inner, _AROUND, iterations=_EDGE_PX) == 0
    labels, sizes = label_parts(lungs)
    large = np.concatenate([[False], sizes >= _CUT_MM2 / seen.mm**2])
    cut = np.zeros_like(lungs)
    for number in np.unique(labels[edge & large[labels]]):
        part = (labels == number).view(np.uint8)
        wall = (cv2.dilate(part, _AROUND) > part) & ~edge
        if wall.any() and seen.body[wall].mean() >= 0.5:
            cut |= part
    return cut


def find_airways(seen: BodySlice, gas_hu: float) -> np.ndarray:
    """Find lumens, open to the lung or not: as dark as gas, and mostly within a bright wall.

    Returns
    -------
    (H, W) uint8
        1 in trachea and bronchi, their walls included.
    """
    labels, sizes = label_parts(seen.air & (seen.smoother < gas_hu).view(np.uint8))
    smallest_px, largest_px = (area / seen.mm**2 for area in _LUMEN_MM2)
    wall_px = max(_WALL_MM / seen.mm, 1) + _BLUR_PX
    airways = np.zeros_like(seen.air)
    for number in 1 + np.flatnonzero((sizes >= smallest_px) & (sizes <= largest_px)):
        part = (labels == number).view(np.uint8)
        box = part_box(part, room=int(wall_px) + 1)
        wall = grow(part[box], wall_px) - grow(part[box], (wall_px + _BLUR_PX) / 2)
        if wall.any() and np.mean(seen.smoother[box][wall > 0] > _WALL_HU) >= 0.5:
            airways |= part
    return grow(airways, wall_px)


def part_box(part: np.ndarray, *, room: int) -> tuple[slice, slice]:
    """Return the rows and columns that a (H, W) uint8 part spans, and some more."""
    left, top, width, height = cv2.boundingRect(part)
    rows = slice(max(top - room, 0), top + height + room)
    return rows, slice(max(left - room, 0), left + width + room)
