"""The air of a chest that is no lung: around the body, in trachea and bronchi, as dark as gas.

Works on single slices of HU, in millimetres; knows no files.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from lungunet.inference.shapes import fill_holes, grow, keep_largest, label_parts

# Between lung (-850) and chest wall (50), nearer to the wall: annotators draw around the lung.
_EDGE_HU = -300
_GRAIN_PX = 0.7  # smoothing against noise, which would dot the edge
_FLOOR_HU = -1100  # padding outside the scanner's circle lies far below air and would smear

_BODY_MM2 = 65_000  # an adult's chest in a slice

# The lower quartile of a lung lies above, even with emphysema, that of bowel gas below, even in
# small parts that are mostly blurred edge.
_GAS_HU = -930.0
_GAS_SHARE = 0.01  # of the largest lung is as dark as gas, where a scanner's HU are off
_GAS_DEPTH_HU = 30  # and it is darker than the lung's median by more than this
_GAS_GRAIN_MM = 0.7
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
    clipped = np.clip(hu, _FLOOR_HU, -_FLOOR_HU).astype(np.float32)
    smooth = cv2.GaussianBlur(clipped, (0, 0), _GRAIN_PX)
    air = (smooth < _EDGE_HU).view(np.uint8)
    body = fill_holes(keep_largest(1 - air, count=1))
    mm = mm or float(np.sqrt(_BODY_MM2 / max(int(body.sum()), 1)))
    smoother = cv2.GaussianBlur(smooth, (0, 0), _GAS_GRAIN_MM / mm)
    return BodySlice(smooth, smoother, body, air & body, mm)


def gas_level(found: BodySlice, lungs: np.ndarray) -> float:
    """Return the HU below which air holds no lung.

    Parameters
    ----------
    lungs : (H, W) uint8, 0 or 1; lung but for a part of it
    """
    core = cv2.erode(keep_largest(lungs, count=1), np.ones((5, 5), np.uint8)) > 0
    inner = found.smoother[core]
    if not inner.size:
        return _GAS_HU
    darkest, median = np.quantile(inner, [_GAS_SHARE, 0.5])
    return float(max(_GAS_HU, min(darkest, median - _GAS_DEPTH_HU)))


def find_airways(found: BodySlice, gas_hu: float) -> np.ndarray:
    """Find lumens, open to the lung or not: as dark as gas, and mostly within a bright wall.

    Returns
    -------
    (H, W) uint8
        1 in trachea and bronchi, their walls included.
    """
    labels, sizes = label_parts(found.air & (found.smoother < gas_hu).view(np.uint8))
    smallest_px, largest_px = (area / found.mm**2 for area in _LUMEN_MM2)
    wall_px = max(_WALL_MM / found.mm, 1) + _BLUR_PX
    airways = np.zeros_like(found.air)
    for number in 1 + np.flatnonzero((sizes >= smallest_px) & (sizes <= largest_px)):
        part = (labels == number).view(np.uint8)
        box = part_box(part, room=int(wall_px) + 1)
        wall = grow(part[box], wall_px) - grow(part[box], (wall_px + _BLUR_PX) / 2)
        if wall.any() and np.mean(found.smoother[box][wall > 0] > _WALL_HU) >= 0.5:
            airways |= part
    return grow(airways, wall_px)


def part_box(part: np.ndarray, *, room: int) -> tuple[slice, slice]:
    """Return the rows and columns that a (H, W) uint8 part spans, and some more."""
    left, top, width, height = cv2.boundingRect(part)
    rows = slice(max(top - room, 0), top + height + room)
    return rows, slice(max(left - room, 0), left + width + room)
