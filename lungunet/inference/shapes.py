"""Tidy a mask by shape alone: largest parts, small holes, narrow gaps.

Serves the threshold baseline and any network. Knows no HU and no millimetres.
"""

from functools import partial

import cv2
import numpy as np
from scipy import ndimage

from lungunet.errors import DataError
from lungunet.inference.prefetch import map_side_by_side

Box = tuple[slice, ...]

_FEW_PARTS = 12  # are counted faster one by one, which needs no 64-bit copy of the labels


def keep_largest(
    mask: np.ndarray,
    *,
    count: int | None = 2,
    min_share: float = 0.0,
    holding: int | None = None,
) -> np.ndarray:
    """Keep the largest connected parts of a mask; pixels that touch at a corner are apart.

    Parameters
    ----------
    mask : (H, W) or (D, H, W), bool or integer; above 0 is inside
    count : parts to keep at most, 2 for two lungs; None keeps all that are large enough
    min_share : in [0, 1]; parts smaller than this share of the largest one go
    holding : where any part holds this value of the mask, those without it go

    Returns
    -------
    same shape, uint8, 0 or 1
        All 0 for an empty mask. Of parts equal in size the first in reading order wins.

    Examples
    --------
    >>> keep_largest(np.array([[1, 1, 0, 1, 0, 1, 1, 1]]), count=2)
    array([[1, 1, 0, 0, 0, 1, 1, 1]], dtype=uint8)
    """
    inside = as_bits(mask)
    box = box_of(inside)
    if box is None:
        return inside
    labels, sizes = label_parts(np.ascontiguousarray(inside[box]))
    if holding is not None:
        held = np.zeros(len(sizes) + 1, bool)
        for part, value in zip(labels, mask[box], strict=True):  # all at once take much memory
            held[part[value == holding]] = True
        sizes = sizes * held[1:] if held.any() else sizes
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    order = order[sizes[order] >= min_share * sizes[order[0]]][:count]
    kept = np.zeros(len(sizes) + 1, np.uint8)
    kept[order + 1] = 1
    inside[box] = look_up(kept, labels)
    return inside


def keep_large(inside: np.ndarray, smallest_px: float) -> np.ndarray:
    """Keep the parts of a mask, uint8 of 0 and 1, that hold so many pixels."""
    labels, sizes = label_parts(inside)
    kept = np.concatenate([[False], sizes >= smallest_px])
    return look_up(kept.view(np.uint8), labels)


def fill_holes(mask: np.ndarray, *, max_px: float = np.inf) -> np.ndarray:
    """Fill the holes of each slice: background that leads to the edge across corners at most.

    Parameters
    ----------
    mask : (H, W) or (D, H, W), bool or integer; above 0 is inside
    max_px : larger holes stay open

    Returns
    -------
    same shape, uint8, 0 or 1

    Examples
    --------
    >>> fill_holes(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]], dtype=uint8)
    """
    inside = as_bits(mask)
    if inside.ndim == 3:
        return np.stack(map_side_by_side(partial(fill_holes, max_px=max_px), inside))
    # A frame of background makes all that reaches the edge of the slice one part: the outside.
    labels, sizes = label_parts(1 - np.pad(inside, 1))
    hole = np.concatenate([[False], sizes <= max_px])
    hole[labels[0, 0]] = False
    return np.asarray(inside | hole[labels[1:-1, 1:-1]].view(np.uint8))


def fill_cavities(mask: np.ndarray) -> np.ndarray:
    """Fill what a volume encloses on all sides: background that no way by faces leads out of.

    Parameters
    ----------
    mask : (D, H, W), bool or integer; above 0 is inside

    Returns
    -------
    (D, H, W) uint8, 0 or 1
        What opens to an edge of the volume stays open.
    """
    if mask.ndim != 3:
        raise DataError(f"shape {mask.shape}, pass (D, H, W).", where="mask")
    inside = as_bits(mask)
    labels, sizes = label_parts(1 - inside)
    enclosed = np.ones(len(sizes) + 1, bool)
    for axis in range(3):
        for end in (0, -1):
            enclosed[labels.take(end, axis)] = False
    enclosed[0] = True  # the mask itself
    return look_up(enclosed.view(np.uint8), labels)


def close_gaps(mask: np.ndarray, radius_px: float) -> np.ndarray:
    """Close gaps and notches of each slice that a disk of this radius cannot enter.

    Parameters
    ----------
    mask : (H, W) or (D, H, W), bool or integer; above 0 is inside
    radius_px : of the disk; 0 changes nothing

    Returns
    -------
    same shape, uint8, 0 or 1
    """
    inside = as_bits(mask)
    if inside.ndim == 3:
        return np.stack([close_gaps(plane, radius_px) for plane in inside])
    # By distances: as fast for large disks as for small ones.
    room = int(radius_px) + 2
    grown = grow(np.pad(inside, room), radius_px)
    shrunk = cv2.distanceTransform(grown, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > radius_px
    return np.asarray(shrunk[room:-room, room:-room].view(np.uint8))


def grow(inside: np.ndarray, radius_px: float) -> np.ndarray:
    """Add all pixels within a distance of a (H, W) uint8 mask of 0 and 1."""
    if not inside.any():
        return inside
    away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray((away <= radius_px).view(np.uint8))


def label_parts(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each part that touches by edges or faces a number, and count its pixels.

    Parameters
    ----------
    inside : (H, W) or (D, H, W) uint8, 0 or 1

    Returns
    -------
    labels : same shape, int32; parts count from 1, 0 is outside
    sizes : (parts,) int64; of part 1 first
    """
    if inside.ndim == 3:
        labels, count = ndimage.label(inside)
        # Slice by slice: bincount makes 64 bits of the 32.
        sizes = sum(np.bincount(plane.ravel(), minlength=count + 1) for plane in labels)
        return labels, np.asarray(sizes)[1:]
    # Twice as fast as scipy on slices. OpenCV's own sizes would take three times as long again.
    count, labels = cv2.connectedComponents(inside, None, 4)
    if count > _FEW_PARTS:
        return labels, np.bincount(labels.ravel())[1:]
    counts = [np.count_nonzero(labels == number) for number in range(1, count)]
    return labels, np.array(counts, np.int64)


def box_of(mask: np.ndarray) -> Box | None:
    """Return the smallest box that holds a mask, as slices of its axes; None for an empty one."""
    spans = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        held = np.flatnonzero(mask.any(axis=others))
        if not held.size:
            return None
        spans.append(slice(int(held[0]), int(held[-1]) + 1))
    return tuple(spans)


def look_up(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return ``table[labels]`` for the labels of a slice or a volume."""
    if labels.ndim == 2:
        return np.asarray(table[labels])
    values = np.empty(labels.shape, table.dtype)
    for plane, numbers in zip(values, labels, strict=True):  # indices become 64 bits each
        plane[:] = table[numbers]
    return values


def as_bits(mask: np.ndarray) -> np.ndarray:
    """Return a mask as contiguous uint8 of 0 and 1."""
    if mask.ndim not in (2, 3) or not mask.size:
        raise DataError(f"mask: shape {mask.shape}, pass (H, W) or (D, H, W) with sizes above 0.")
    return np.ascontiguousarray(mask > 0).view(np.uint8)
