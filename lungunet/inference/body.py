"""The body in a slice, and its air: which of it is no lung, but around the body, a lumen, or gas.

Owns the HU and the sizes by which they are told apart. Works on single slices of HU, in
millimetres; knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import cv2
import numpy as np

from lungunet.data.hu import clear_padding
from lungunet.inference.shapes import (
    close_gaps,
    fill_holes,
    grow,
    keep_largest,
    label_parts,
    look_up,
)

LUNG_HU = -750.0
"""The usual lung, where no mask shows this patient's."""
PADDING_HU = -1100
"""What lies outside the scanner's circle is darker than any air, and would smear."""
HOLE_MM2 = 200
"""The largest vessel cut across; the dome of the liver is larger."""
VESSEL_MM = 6.5
"""Radius of a notch where vessels enter the lung."""

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
_PADDED, _SAME_HU = 0.99, 3  # of what is beyond the circle is of one value, but for rounding
_OVER_OPEN_AIR_HU = 40.0
_WITHIN = 0.8  # of a lung lies within the outline of the body
_CUT_MM2 = 100  # the smallest part that the edge may have cut open
_AROUND = np.ones((3, 3), np.uint8)

# The lower quartile of most lungs lies above, that of bowel gas below, even in small parts that are
# mostly blurred edge; but lungs with emphysema, or in full breath, are as dark as gas.
_GAS_HU, _GAS_QUANTILE = -930.0, 0.25
_GAS_SHARE = 0.01  # of the largest lung is as dark as gas, where a scanner's HU are off
_GAS_DEPTH_HU = 30  # and it is darker than the lung's median by more than this
_OTHER_LUNG = 0.3  # of the larger one's size, at least
# By which air is off: less is usual, and where it is more the values are no HU at all.
_OFFSET_HU = (20.0, 150.0)
_GAS_GRAIN_MM = 0.7
# Of a part against the patient's lung: an airway or gas that a rule mistook is at least this much
# darker, and this share of the way from lung to open air.
_PART_DEPTH_HU, _PART_SHARE = 40.0, 0.4

# What else tells a lung from gas: it is large and stands beside the spine, or has vessels. Gas
# floats in front, in bowel and stomach, and its inside is as even as the air around the patient.
_LUNG_MM2 = 3000
_FRONT = 0.45  # of the body's depth
_RIM_MM = 4  # of a part, which is blurred edge
_INSIDE_PX = 20  # fewer pixels say nothing of vessels
_BRIGHT_QUANTILE = 0.97
_VESSELS_HU, _EVEN_HU = 120.0, 60.0  # by which that is brighter than the middle
_BOWEL_MM2 = 800  # in a slice without lung gas is blurred and small
# A pocket of air between arm and chest, or a stomach in the chest, is of a lung's size and place.
_AS_OPEN_AIR_HU = 18.0
# Air in a table, or under cloth: even, and a thin wall away from the outside.
_SKIN_MM, _TABLE_MM = 6, 22

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
    edge : (H, W) bool; the margin of what the scanner saw, and what lies beyond
    mm : side of a pixel
    """

    smooth: np.ndarray
    smoother: np.ndarray
    body: np.ndarray
    air: np.ndarray
    edge: np.ndarray
    mm: float

    @cached_property
    def depth_mm(self) -> np.ndarray:
        """(H, W) float32, distance from the surface of the body; 0 outside."""
        depth_px = cv2.distanceTransform(np.pad(self.body, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        return np.asarray(depth_px * np.float32(self.mm))


def look_into_body(hu: np.ndarray, mm: float | None) -> BodySlice:
    """Find the body of a slice and the air in it.

    Parameters
    ----------
    hu : (H, W) int16, int32 or float32, HU
    mm : side of a pixel; None takes the body for 65,000 mm2, an adult's chest
    """
    hu = clear_padding(hu)
    clipped = np.clip(hu, PADDING_HU, -PADDING_HU).astype(np.float32)
    smooth = cv2.GaussianBlur(clipped, (0, 0), _GRAIN_PX)
    air = (smooth < _EDGE_HU).view(np.uint8)
    body = find_body(air)
    mm = mm or float(np.sqrt(_BODY_MM2 / max(int(body.sum()), 1)))
    smoother = cv2.GaussianBlur(smooth, (0, 0), _GAS_GRAIN_MM / mm)
    return BodySlice(smooth, smoother, body, air & body, _find_edge(hu, smooth), mm)


def _find_edge(hu: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """Mark the margin of the picture, of its padding, or of the circle that is padded around."""
    seen = np.zeros(hu.shape, np.uint8)
    seen[1:-1, 1:-1] = smooth[1:-1, 1:-1] > _NEARLY_PADDING_HU
    certain = _beyond_circle(*hu.shape, room=_EDGE_PX)  # resized, the circle is blurred
    off = np.abs(np.subtract(hu[certain], hu[0, 0], dtype=np.float32))
    if off.size and np.mean(off < _SAME_HU) > _PADDED:
        seen[_beyond_circle(*hu.shape, room=0)] = 0
    return np.asarray(cv2.erode(seen, _AROUND, iterations=_EDGE_PX) == 0)


@lru_cache(maxsize=8)
def _beyond_circle(height: int, width: int, *, room: int) -> np.ndarray:
    """Mark what lies more than ``room`` px beyond the largest circle in a picture."""
    y, x = np.ogrid[:height, :width]
    across = (2 * y + 1 - height) ** 2 + (2 * x + 1 - width) ** 2
    beyond = np.asarray(across > (min(height, width) + 2 * room) ** 2)
    beyond.flags.writeable = False  # the next caller gets the same
    return beyond


def may_be_cut(body: np.ndarray) -> bool:
    """Whether a body, (H, W) uint8, reaches the margin of the picture or of the circle in it."""
    edge = _beyond_circle(*body.shape, room=-_EDGE_PX - 1)
    sides = (body[0], body[-1], body[:, 0], body[:, -1], body[edge])
    return any(bool(side.any()) for side in sides)


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
    air_hu = open_air_level(hu, outside)
    air_hu = lung_hu if air_hu is None else air_hu
    return min(lung_hu - _PART_DEPTH_HU, lung_hu + _PART_SHARE * (air_hu - lung_hu))


def open_air_level(hu: np.ndarray, outside: np.ndarray) -> float | None:
    """Return the HU of the air around a body; None where the slice shows little of it."""
    open_air = hu[outside & (hu > PADDING_HU)]
    return float(np.quantile(open_air, _OPEN_AIR_QUANTILE)) if open_air.size > 50 else None


def gas_level(seen: BodySlice, lungs: np.ndarray) -> float:
    """Return the HU below which air may hold no lung.

    Parameters
    ----------
    lungs : (H, W) uint8, 0 or 1; lung but for a part of it
    """
    lowest = _GAS_HU + _offset(seen)
    inner = _inside(seen, keep_largest(lungs, count=1))
    if not inner.size:
        return lowest
    darkest, median = np.quantile(inner, [_GAS_SHARE, 0.5])
    return float(max(lowest, min(darkest, median - _GAS_DEPTH_HU)))


def lumen_level(seen: BodySlice, lungs: np.ndarray, gas_hu: float) -> float:
    """Return the HU below which a part may be an airway: gas, and darker than either lung."""
    labels, sizes = label_parts(lungs)
    large = 1 + np.flatnonzero(sizes >= _OTHER_LUNG * sizes.max(initial=0))
    insides = [_inside(seen, (labels == number).view(np.uint8)) for number in large]
    return min([gas_hu, *(float(np.median(i)) - _GAS_DEPTH_HU for i in insides if i.size)])


def _inside(seen: BodySlice, part: np.ndarray) -> np.ndarray:
    return seen.smoother[cv2.erode(part, np.ones((5, 5), np.uint8)) > 0]


def _offset(seen: BodySlice) -> float:
    """Return by how many HU the air around the patient lies above -1000, as far as it is likely."""
    open_air = seen.smoother[(seen.body == 0) & ~seen.edge]
    above = float(np.median(open_air)) + 1000 if open_air.size else 0.0
    low, high = _OFFSET_HU
    return above if low < above < high else 0.0


@dataclass(frozen=True, eq=False)
class AirPart:
    """A part of the air in a body, by what tells lung from gas.

    Parameters
    ----------
    bits : (h, w) bool, in ``box``
    box : the rows and columns that it spans
    seen : the slice
    area_mm2 : of the part
    quartile_hu : a quarter of it is darker
    centre, end : rows of its centre and of its last row, from 0 at the front of the body to 1
    """

    bits: np.ndarray
    box: tuple[slice, slice]
    seen: BodySlice
    area_mm2: float
    quartile_hu: float
    centre: float
    end: float

    @cached_property
    def _inside(self) -> np.ndarray:
        """HU of what is not near its edge, vessels included."""
        mm = self.seen.mm
        closed = fill_holes(close_gaps(self.bits, VESSEL_MM / mm), max_px=HOLE_MM2 / mm**2)
        rim = cv2.distanceTransform(np.pad(closed, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        return np.asarray(self.seen.smooth[self.box][rim > _RIM_MM / mm])

    @cached_property
    def _vessels_hu(self) -> float:
        """How much brighter the brightest of its inside is than the middle; NaN without inside."""
        if self._inside.size < _INSIDE_PX:
            return np.nan
        return float(np.subtract(*np.quantile(self._inside, [_BRIGHT_QUANTILE, 0.5])))

    @property
    def is_large(self) -> bool:
        """Whether it is of a lung's size and reaches beside the spine."""
        return self.area_mm2 >= _LUNG_MM2 and self.end > 0.5

    @property
    def is_placed_as_lung(self) -> bool:
        """Whether place, or size and vessels, speak for a lung: bowel gas lies in front."""
        large = self.area_mm2 >= _LUNG_MM2 and (self.end > 0.5 or self.has_vessels)
        return large or self.centre > _FRONT

    @property
    def has_vessels(self) -> bool:
        """Whether its inside is as uneven as that of a lung."""
        return self._vessels_hu >= _VESSELS_HU

    @property
    def is_of_a_table(self) -> bool:
        """Whether it lies under a thin skin, even and flat."""
        depth_mm = self.seen.depth_mm[self.box][self.bits]
        flat = depth_mm.min() < _SKIN_MM and depth_mm.max() < _TABLE_MM
        return bool(flat and not self._vessels_hu > _EVEN_HU)

    def is_gas(self, gas_hu: float) -> bool:
        """Whether it is as dark as gas, and its size and place do not speak for a lung."""
        behind = self.centre > _FRONT and self.area_mm2 >= _BOWEL_MM2
        return self.quartile_hu <= gas_hu and not (self.is_large or behind)

    def is_as_open_air(self, air_hu: float) -> bool:
        """Whether its inside is as dark and as even as the air around the patient."""
        if self.quartile_hu > air_hu + _AS_OPEN_AIR_HU or not self._vessels_hu <= _EVEN_HU:
            return False
        return bool(np.median(self._inside) <= air_hu + _AS_OPEN_AIR_HU)

    @property
    def is_blurred_bowel(self) -> bool:
        """Whether it is bowel as far as one can tell in a slice where no part is large."""
        small = self.area_mm2 < _BOWEL_MM2 and self.centre < _FRONT
        # Lung that thins out is a sliver, without an inside.
        return small and self._inside.size * self.seen.mm**2 > 0.1 * self.area_mm2


def part_air(air: np.ndarray, seen: BodySlice) -> list[AirPart]:
    """Take the air of a slice, (H, W) uint8, apart."""
    labels, sizes = label_parts(air)
    rows = np.flatnonzero(seen.body.any(axis=1))
    return [
        _describe(labels == number, seen, top=int(rows[0]), height=len(rows))
        for number in range(1, len(sizes) + 1)
    ]


def _describe(part: np.ndarray, seen: BodySlice, *, top: int, height: int) -> AirPart:
    box = part_box(part.view(np.uint8), room=0)
    bits = part[box]
    across = bits.sum(axis=1)
    first = box[0].start - top
    centre = first + float(np.average(np.arange(len(across)), weights=across))
    return AirPart(
        bits,
        box,
        seen,
        area_mm2=float(across.sum()) * seen.mm**2,
        quartile_hu=float(np.quantile(seen.smooth[box][bits], _GAS_QUANTILE)),
        centre=centre / height,
        end=(first + len(across) - 1) / height,
    )


def find_open_air(parts: Sequence[AirPart], seen: BodySlice) -> list[AirPart]:
    """Find parts that are like the air around the patient, where another part has vessels.

    A pocket that arm and chest close is one, gas of a stomach in the chest, or the trachea.
    """
    air_hu = open_air_level(seen.smoother, (seen.body == 0) & ~seen.edge)
    if air_hu is None:
        return []
    found = [part for part in parts if part.is_as_open_air(air_hu)]
    others = [part for part in parts if part not in found]
    return found if any(part.has_vessels for part in others) else []


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
    labels, sizes = label_parts(lungs)
    large = np.concatenate([[False], sizes >= _CUT_MM2 / seen.mm**2])
    cut = np.zeros_like(lungs)
    for number in np.unique(labels[seen.edge & large[labels]]):
        part = (labels == number).view(np.uint8)
        wall = (cv2.dilate(part, _AROUND) > part) & ~seen.edge
        if wall.any() and seen.body[wall].mean() >= 0.5:
            cut |= part
    return cut


def close_cut_lungs(seen: BodySlice) -> BodySlice:
    """Count lungs that the edge cuts open to the body.

    They are told from the air around the patient by lying within the outline of the body, by the
    body around them, by vessels, and by being brighter.
    """
    if not seen.body[seen.edge].any():  # all of the patient is in the picture
        return seen
    outside = ((seen.smooth < _EDGE_HU) & (seen.body == 0) & ~seen.edge).view(np.uint8)
    labels, sizes = label_parts(outside)
    within = np.bincount(labels[_fill_hull(seen.body) > 0], minlength=len(sizes) + 1)[1:]
    large = (sizes >= _LUNG_MM2 / seen.mm**2) & (within >= _WITHIN * sizes)
    if not large.any():
        return seen
    beside = look_up(np.concatenate([[False], large]).view(np.uint8), labels)
    around = seen.smoother[outside > beside]
    air_hu = float(np.quantile(around, _OPEN_AIR_QUANTILE)) if around.size > 50 else -1000.0
    lungs = np.zeros_like(seen.air)
    for part in part_air(find_cut_open(cv2.dilate(beside, _AROUND), seen), seen):
        bright = part.quartile_hu > air_hu + _OVER_OPEN_AIR_HU
        if part.is_large and part.has_vessels and bright:
            lungs[part.box] |= part.bits.view(np.uint8)
    # Up to the edge itself, where it is blurred.
    lungs = grow(lungs, _EDGE_PX) & (seen.smooth < _EDGE_HU).view(np.uint8)
    return replace(seen, body=seen.body | lungs, air=seen.air | lungs)


def _fill_hull(body: np.ndarray) -> np.ndarray:
    """Fill the outline that a string around the body would have, (H, W) uint8."""
    outlines, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    hull = np.zeros_like(body)
    if outlines:
        cv2.fillConvexPoly(hull, cv2.convexHull(np.concatenate(outlines)), 1)
    return hull


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
