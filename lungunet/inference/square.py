"""Planes whose pixels are not square: made so for a network, and its answer brought back.

A network learned on square pixels; what is squashed looks like no chest to it. Knows no model.
"""

from dataclasses import replace

import cv2
import numpy as np

from lungunet.data.contract import resize_classes
from lungunet.inference.segmenter import Segmented
from lungunet.volumes.grid import are_nearly_square

_MOST_PX = 2048  # of a side, where the plane itself is smaller: a network sees no more


def square_shape(shape: tuple[int, ...], spacing_mm: tuple[float, float] | None) -> tuple[int, int]:
    """Return the (H, W) that a plane has with square pixels; its own where they nearly are."""
    height, width = shape
    if spacing_mm is None or are_nearly_square(spacing_mm):
        return height, width
    sides = height * spacing_mm[0], width * spacing_mm[1]
    mm = max(min(spacing_mm), max(sides) / max(_MOST_PX, height, width))
    return max(1, round(sides[0] / mm)), max(1, round(sides[1] / mm))


def resize_plane(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scale HU, or shares, (H, W), to a shape; of the same dtype."""
    if plane.shape == shape:
        return plane
    shrinks = shape[0] < plane.shape[0] or shape[1] < plane.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    # Of int32 OpenCV scales none.
    resized = cv2.resize(plane.astype(np.float32), shape[::-1], interpolation=method)
    return (resized if plane.dtype.kind == "f" else np.rint(resized)).astype(plane.dtype)


def resize_segmented(segmented: Segmented, shape: tuple[int, int]) -> Segmented:
    """Bring what a network says of a plane to another shape."""
    if segmented.classes.shape == shape:
        return segmented
    if segmented.probabilities is None:
        return replace(segmented, classes=resize_classes(segmented.classes, *shape))
    return Segmented.likeliest(
        np.stack([resize_plane(each, shape) for each in segmented.probabilities]),
        disagreement=segmented.disagreement,
        spread=None if segmented.spread is None else resize_plane(segmented.spread, shape),
    )
