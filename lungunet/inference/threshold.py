"""The classical baseline: lungs by HU and shape alone, no weights, no training.

What a network must beat, and what serves where there is none. Knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lungunet.data.codec import LUNG_CODEC
from lungunet.data.contract import InputContract
from lungunet.data.hu import refuse_no_numbers
from lungunet.data.kinds import check_spacing
from lungunet.errors import DataError
from lungunet.inference.body import (
    HOLE_MM2,
    VESSEL_MM,
    close_cut_lungs,
    find_airways,
    find_open_air,
    gas_level,
    look_into_body,
    lumen_level,
    part_air,
    part_box,
)
from lungunet.inference.prefetch import map_side_by_side
from lungunet.inference.segmenter import Segmented
from lungunet.inference.shapes import (
    as_bits,
    close_gaps,
    fill_holes,
    keep_large,
    keep_largest,
    label_parts,
)

_LUNG_MM2 = 250  # the smallest part in a single slice
_STACKED_MM2 = 60  # in a volume, where the slices above and below bear witness
_STACKED_SHARE = 0.05  # of the largest part's volume
_OVER_LUNG = 0.5  # of a dark part's pixels
_PLACED = 2  # marks parts whose size or place speak for a lung; the others are 1

_HU = InputContract(size=512)  # for its window and dtypes: nothing is resized here


def segment_lungs(hu: np.ndarray, *, spacing_mm: tuple[float, ...] | None = None) -> np.ndarray:
    """Find the lungs in a CT slice or volume by thresholds and shape.

    The body is the largest piece of tissue with all that it surrounds, and lungs that the edge of
    the picture cuts open. Air in it is lung unless it is a small part, a lumen within a wall
    (trachea, bronchi), or as dark as gas (bowel, stomach). Lungs may be as dark: a part that is
    large and stands beside the spine is one, and a part over or under lung. Vessels are closed at
    the edge of the lung and filled within. In a volume, parts that are not connected with a lung
    through the slices go too.

    Parameters
    ----------
    hu : (H, W) or (D, H, W), int16, int32 or float32, HU; patient upright or not, but axial
    spacing_mm : of the array's axes, (y, x) or (z, y, x). None takes the body in each slice for
        65,000 mm2, an adult's chest, so that all sizes are relative to it.

    Returns
    -------
    same shape, uint8, 0 or 1 (lung)
        All 0 where there is no lung. Lung without air (consolidation, effusion) is left out.

    Raises
    ------
    DataError
        When dtype or shape is not that of HU, a value is NaN or infinite, or the spacing does not
        fit the shape.

    References
    ----------
    The order of the steps follows Hu, Hoffman, Reinhardt, Automatic lung segmentation for accurate
    quantitation of volumetric X-ray CT images, 2001, DOI 10.1109/42.929615; the threshold is fixed
    instead of theirs, which is drawn from the histogram and lies too low for annotated edges.

    Examples
    --------
    >>> hu = np.full((64, 96), -1000, np.int16)  # air, a body, two lungs
    >>> hu[8:56, 8:88] = 40
    >>> hu[16:48, 16:40] = hu[16:48, 56:80] = -850
    >>> int(segment_lungs(hu).sum()), 2 * 32 * 24
    (1536, 1536)
    """
    _refuse_no_hu(hu, spacing_mm)
    mm = None if spacing_mm is None else float(np.sqrt(spacing_mm[-1] * spacing_mm[-2]))
    if hu.ndim == 2:
        lungs = np.empty(hu.shape, np.uint8)
        air = _sort_air(hu, lungs, mm, smallest_mm2=_LUNG_MM2, alone=True)
        return _outline(lungs, air)
    parts = np.empty(hu.shape, np.uint8)

    def sort(plane: np.ndarray, part: np.ndarray) -> _Air:
        return _sort_air(plane, part, mm, smallest_mm2=_STACKED_MM2, alone=False)

    sorted_air = map_side_by_side(sort, hu, parts)
    lungs = keep_largest(parts, count=None, min_share=_STACKED_SHARE, holding=_PLACED)
    del parts
    _regain(lungs, sorted_air)

    def outline(plane: np.ndarray, air: _Air) -> None:
        plane[:] = _outline(plane, air)

    map_side_by_side(outline, lungs, sorted_air)
    return lungs


class ThresholdSegmenter:
    """:func:`segment_lungs` as a ``Segmenter``: ``Predictor.load("threshold")``.

    Slices come without spacing, so sizes are taken relative to the body; scans are seen whole, in
    millimetres.
    """

    codec = LUNG_CODEC
    contract = _HU
    word = "threshold"

    def prepare(self, image: np.ndarray, where: str = "slice") -> np.ndarray:
        """Return the slice as it is, once it is known to hold HU."""
        self.contract.check(image, where)
        return image

    def __call__(self, images: Sequence[np.ndarray]) -> list[Segmented]:
        """Segment slices of any sizes: classes alone."""
        # Prepared or not: a volume would pass below.
        return [Segmented(segment_lungs(self.prepare(image))) for image in images]

    def segment_volume(
        self, hu: np.ndarray, *, spacing_mm: tuple[float, float, float]
    ) -> np.ndarray:
        """Segment a scan, (D, H, W); a single slice has none above and below to bear witness."""
        if len(hu) == 1:
            return segment_lungs(hu[0], spacing_mm=spacing_mm[1:])[None]
        return segment_lungs(hu, spacing_mm=spacing_mm)


@dataclass(frozen=True, eq=False)
class _Air:
    """The air within the body of a slice, but for what may be lung.

    Parameters
    ----------
    airways : (H, W) uint8, eight pixels to the byte: a scan has many slices
    dark : box and (h, w) bool of parts as dark as gas, but with vessels: lung where the next slice
        says so
    mm : side of a pixel
    """

    airways: np.ndarray
    dark: list[tuple[tuple[slice, slice], np.ndarray]]
    mm: float


def _refuse_no_hu(hu: np.ndarray, spacing_mm: tuple[float, ...] | None) -> None:
    if hu.ndim not in (2, 3) or not hu.size:
        raise DataError(
            f"shape {hu.shape}, pass (H, W) or (D, H, W) with sizes above 0.", where="HU"
        )
    _HU.check_dtype(hu.dtype.name)
    refuse_no_numbers(hu, "HU")
    if spacing_mm is not None:
        check_spacing(spacing_mm, hu.ndim)


def _sort_air(
    hu: np.ndarray, lungs: np.ndarray, mm: float | None, *, smallest_mm2: float, alone: bool
) -> _Air:
    """Fill in the lungs, (H, W) uint8: 2 where size or place speak for one, else 1."""
    seen = close_cut_lungs(look_into_body(hu, mm))
    smallest_px = smallest_mm2 / seen.mm**2
    large = keep_large(seen.air, smallest_px)
    gas_hu = gas_level(seen, large)
    airways = find_airways(seen, lumen_level(seen, large, gas_hu))
    parts = part_air(keep_large(seen.air & (1 - airways), smallest_px), seen)
    parts = [part for part in parts if not part.is_of_a_table]
    open_air = find_open_air(parts, seen)
    parts = [part for part in parts if part not in open_air]
    if alone and not any(part.is_large for part in parts):
        parts = [part for part in parts if not part.is_blurred_bowel]
    lungs[:] = 0
    for part in parts:
        if not part.is_gas(gas_hu):
            lungs[part.box] |= part.bits.view(np.uint8) << part.is_placed_as_lung
    # Not the parts themselves, which hold on to their slice.
    dark = [
        (part.box, part.bits)
        for part in parts
        if not alone and part.is_gas(gas_hu) and part.has_vessels
    ]
    return _Air(np.packbits(airways), dark, seen.mm)


def _regain(lungs: np.ndarray, sorted_air: Sequence[_Air]) -> None:
    """Give dark parts back that lie mostly over or under lung, slice by slice, up and down."""
    for places in (range(1, len(lungs)), range(len(lungs) - 2, -1, -1)):
        for place in places:
            for box, bits in sorted_air[place].dark:
                if lungs[place - places.step][box][bits].mean() > _OVER_LUNG:
                    lungs[place][box] |= bits.view(np.uint8)


def _outline(lungs: np.ndarray, air: _Air) -> np.ndarray:
    """Close vessels around each lung by itself, so that two lungs do not grow together."""
    labels, sizes = label_parts(as_bits(lungs))
    closed = np.zeros_like(lungs)
    for number in range(1, len(sizes) + 1):
        part = (labels == number).view(np.uint8)
        box = part_box(part, room=0)
        closed[box] |= close_gaps(part[box], VESSEL_MM / air.mm)
    filled = fill_holes(closed, max_px=HOLE_MM2 / air.mm**2)
    airways = np.unpackbits(air.airways, count=lungs.size).reshape(lungs.shape)
    return np.asarray(filled & (1 - airways))
