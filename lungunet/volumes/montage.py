"""A scan and its lungs on one sheet: axial, coronal and sagittal planes with outlines."""

from collections.abc import Sequence

import cv2
import numpy as np

from lungunet.data.overlay import draw_overlay, tile_pictures
from lungunet.data.window import LUNG_WINDOW
from lungunet.volumes.volume import Volume

_SIDE = 400  # of a panel, px
_LINE = 22  # px
_HEIGHTS = (0.75, 0.5, 0.25)  # of the lungs, from the top: where the axial planes lie
_FONT, _TEXT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
_TEXT_RGB, _EDGE_RGB = (230, 230, 230), (0, 0, 0)


def draw_montage(volume: Volume, classes: np.ndarray, *, lines: Sequence[str] = ()) -> np.ndarray:
    """Draw three axial planes, and below them a coronal and two sagittal ones, in millimetres.

    Seen as radiologists do: head up, the patient's right on the left of the picture, in sagittal
    planes the front on the left. Planes go through the lungs where there are any, the sagittal ones
    through the right and the left half. Of a single slice there is one panel.

    Parameters
    ----------
    classes : (D, H, W) integer, outlined where above 0
    lines : written above, such as measurements; planes are numbered as in the array

    Returns
    -------
    (height, width, 3) uint8, RGB
    """
    panels = [_panel(volume, classes, 0, index) for index in _axial_places(classes)]
    if len(classes) > 1:
        panels.append(_panel(volume, classes, 1, _fullest(classes, 1)))
        middle = classes.shape[2] // 2
        panels.append(_panel(volume, classes, 2, _fullest(classes[..., :middle], 2)))
        panels.append(_panel(volume, classes, 2, middle + _fullest(classes[..., middle:], 2)))
    sheet = tile_pictures(panels, columns=3, side=_SIDE)
    head = np.zeros((_LINE * len(lines), sheet.shape[1], 3), np.uint8)
    for number, line in enumerate(lines):
        _write(head, line, (6, 15 + number * _LINE))
    return np.concatenate([head, sheet])


def _axial_places(classes: np.ndarray) -> list[int]:
    """Choose axial planes, from the top, spread over the lungs; of few slices each once."""
    with_lung = np.flatnonzero(classes.any(axis=(1, 2)))
    low, high = (with_lung[0], with_lung[-1]) if with_lung.size else (0, len(classes) - 1)
    places = [round(low + share * (high - low)) for share in _HEIGHTS]
    return list(dict.fromkeys(places))


def _fullest(classes: np.ndarray, axis: int) -> int:
    """Return the plane with most lung; the middle one where there is none."""
    others = tuple(other for other in range(3) if other != axis)
    lung = np.count_nonzero(classes, axis=others)
    return int(lung.argmax()) if lung.any() else classes.shape[axis] // 2


def _panel(volume: Volume, classes: np.ndarray, axis: int, index: int) -> np.ndarray:
    """Draw one plane, its longer side ``_SIDE`` pixels long."""
    grey = LUNG_WINDOW.to_grey(np.take(volume.array, index, axis))
    inside = np.take(classes, index, axis).astype(np.uint8)
    down_mm, across_mm = (mm for i, mm in enumerate(volume.spacing_mm) if i != axis)
    if axis > 0:
        grey, inside = grey[::-1], inside[::-1]  # z counts from the feet
    extent = np.array([grey.shape[1] * across_mm, grey.shape[0] * down_mm])
    width, height = np.maximum(1, np.rint(extent * _SIDE / extent.max())).astype(int).tolist()
    shrinks = width < grey.shape[1] or height < grey.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    grey = cv2.resize(np.ascontiguousarray(grey), (width, height), interpolation=method)
    inside = cv2.resize(
        np.ascontiguousarray(inside), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    panel = draw_overlay(grey, pred=inside)
    kind = ("axial", "coronal", "sagittal")[axis]
    _write(panel, f"{kind} {index}", (6, 15))
    if height > 3 * _LINE:
        _write(panel, "A" if axis == 2 else "R", (6, height // 2))  # what lies on this side
    return panel


def _write(picture: np.ndarray, text: str, place: tuple[int, int]) -> None:
    known = text.encode("ascii", "replace").decode()  # OpenCV's font has no other letters
    for colour, thickness in ((_EDGE_RGB, 3), (_TEXT_RGB, 1)):  # readable on bone and on air
        cv2.putText(picture, known, place, _FONT, _TEXT_SIZE, colour, thickness, cv2.LINE_AA)
