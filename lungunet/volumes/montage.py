"""A scan and its lungs on one sheet: axial, coronal and sagittal planes with outlines."""

from collections.abc import Sequence

import cv2
import numpy as np

from lungunet.data.overlay import (
    LINE_PX,
    PRED_RGB,
    TEXT_RGB,
    TRUTH_RGB,
    add_lines,
    tile_pictures,
    write_text,
)
from lungunet.data.window import LUNG_WINDOW
from lungunet.errors import ConfigError
from lungunet.volumes.volume import Volume, refuse_other_shape

_SIDE = 400  # of a panel, px
_MARK = 14  # px, at the edges of a panel
_FLANKS = (0.75, 0.25)  # of the lungs, from the top: the axial planes beside the fullest
_THIN = 0.15  # of the width: what is less tall shows nothing from the front

# By class: all lung, or the left one; the right one; and what may be either.
_LUNGS_RGB, _SIDES_RGB = (PRED_RGB,), (TRUTH_RGB, PRED_RGB, (255, 80, 220))


def draw_montage(
    volume: Volume,
    classes: np.ndarray,
    *,
    lines: Sequence[str] = (),
    sides: bool = False,
    red: Sequence[int] = (),
) -> np.ndarray:
    """Draw three axial planes, and below them a coronal and two sagittal ones, in millimetres.

    Seen as radiologists do: head up, the patient's right on the left of the picture, in sagittal
    planes the front on the left. The middle axial plane and the others go through the largest
    cross-section of the lungs, the sagittal ones through that of the right and of the left half. A
    scan that is too thin to be seen from the front and from the sides has axial planes alone.

    Parameters
    ----------
    classes : (D, H, W) integer, outlined where above 0
    lines : written above, such as measurements; planes are numbered as in the array
    sides : classes are the left lung, the right lung, and what may be either: blue, orange, pink.
        Else all are orange
    red : axial planes to be said so, and drawn below where they are not among the three

    Returns
    -------
    (height, width, 3) uint8, RGB

    Raises
    ------
    GeometryError
        When the classes are not of the scan's shape.
    ConfigError
        When the scan has no such plane as one of ``red``.
    """
    refuse_other_shape(classes, volume, "classes")
    for index in red:
        if not 0 <= index < len(classes):
            raise ConfigError(
                f"{volume.name} has axial planes 0 to {len(classes) - 1}. Name one of these.",
                where=f"red plane {index}",
            )
    colours = _SIDES_RGB if sides else _LUNGS_RGB
    planes = [(0, index) for index in _axial_places(classes)]
    z_mm, y_mm, x_mm = volume.spacing_mm
    deep, high, wide = classes.shape
    if deep * z_mm >= _THIN * max(high * y_mm, wide * x_mm):
        planes += [(1, _fullest(classes, 1)), *((2, index) for index in _sagittal_places(classes))]
    layers = [(classes, colours)]
    planes += [(0, index) for index in red if (0, index) not in planes]
    panels = [
        _panel(volume, layers, (axis, index), note=": red" if axis == 0 and index in red else "")
        for axis, index in planes
    ]
    return add_lines(tile_pictures(panels, columns=3, side=_SIDE), lines)


def draw_difference(
    volume: Volume,
    truth: np.ndarray,
    pred: np.ndarray,
    place: tuple[int, int, int],
    *,
    lines: Sequence[str] = (),
) -> np.ndarray:
    """Draw the axial, the coronal and the sagittal plane through a place, with two masks.

    Seen as by :func:`draw_montage`. Marks at the edges of each plane point at the place.

    Parameters
    ----------
    truth, pred : (D, H, W) integer, outlined where above 0: truth blue, prediction orange
    place : (z, y, x), voxel
    lines : written above

    Returns
    -------
    (height, width, 3) uint8, RGB
    """
    layers = [(truth, (TRUTH_RGB,)), (pred, (PRED_RGB,))]
    panels = []
    for axis in range(3):
        panel = _panel(volume, layers, (axis, place[axis]))
        down, across = (
            (index + 0.5) / side
            for other, (index, side) in enumerate(zip(place, truth.shape, strict=True))
            if other != axis
        )
        _point_at(panel, 1 - down if axis > 0 else down, across)
        panels.append(panel)
    return add_lines(tile_pictures(panels, columns=3, side=_SIDE), lines)


def _point_at(panel: np.ndarray, down: float, across: float) -> None:
    """Draw marks at the edges, given as shares of the panel's height and width."""
    height, width = panel.shape[:2]
    row, column = int(down * height), int(across * width)
    for edge in (slice(0, _MARK), slice(-_MARK, None)):
        panel[row, edge] = panel[edge, column] = TEXT_RGB


def _axial_places(classes: np.ndarray) -> list[int]:
    """Choose axial planes, from the top: the fullest, and one to either side; each once."""
    with_lung = np.flatnonzero(classes.any(axis=(1, 2)))
    low, high = (with_lung[0], with_lung[-1]) if with_lung.size else (0, len(classes) - 1)
    flanks = [round(low + share * (high - low)) for share in _FLANKS]
    return sorted({*flanks, _fullest(classes, 0)}, reverse=True)


def _sagittal_places(classes: np.ndarray) -> list[int]:
    """Choose a plane of either half of the lungs, or of the picture where there are none."""
    columns = np.flatnonzero(classes.any(axis=(0, 1)))
    first, last = (columns[0], columns[-1]) if columns.size else (0, classes.shape[2] - 1)
    middle = int(first + last + 1) // 2
    halves = classes[..., first:middle], classes[..., middle : last + 1]
    return [
        start + _fullest(half, 2)
        for start, half in zip((int(first), middle), halves, strict=True)
        if half.size
    ]


def _fullest(classes: np.ndarray, axis: int) -> int:
    """Return the plane with most lung; the middle one where there is none."""
    others = tuple(other for other in range(3) if other != axis)
    lung = np.count_nonzero(classes, axis=others)
    return int(lung.argmax()) if lung.any() else classes.shape[axis] // 2


def _panel(
    volume: Volume,
    layers: Sequence[tuple[np.ndarray, Sequence[tuple[int, int, int]]]],
    plane: tuple[int, int],
    *,
    note: str = "",
) -> np.ndarray:
    """Draw one plane, its longer side ``_SIDE`` pixels long.

    Parameters
    ----------
    layers : classes, with the colours of 1, 2, ...; the last one lies on top
    plane : axis and index
    """
    axis, index = plane
    grey = LUNG_WINDOW.to_grey(np.take(volume.array, index, axis))
    down_mm, across_mm = (mm for i, mm in enumerate(volume.spacing_mm) if i != axis)
    if axis > 0:
        grey = grey[::-1]  # z counts from the feet
    extent = np.array([grey.shape[1] * across_mm, grey.shape[0] * down_mm])
    width, height = np.maximum(1, np.rint(extent * _SIDE / extent.max())).astype(int).tolist()
    shrinks = width < grey.shape[1] or height < grey.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    grey = cv2.resize(np.ascontiguousarray(grey), (width, height), interpolation=method)
    panel = np.repeat(grey[..., None], 3, axis=2)
    for classes, colours in layers:
        inside = np.take(classes, index, axis).clip(0, 255).astype(np.uint8)
        inside = inside[::-1] if axis > 0 else inside
        inside = cv2.resize(
            np.ascontiguousarray(inside), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
        )
        for number in range(1, int(inside.max(initial=0)) + 1):
            _outline(panel, inside == number, colours[min(number, len(colours)) - 1])
    kind = ("axial", "coronal", "sagittal")[axis]
    write_text(panel, f"{kind} {index}{note}", (6, 15))
    side = "A" if axis == 2 else "R"
    write_text(panel, side, (6, max(height // 2, 15 + LINE_PX)))  # on the left of the panel
    return panel


def _outline(panel: np.ndarray, region: np.ndarray, rgb: tuple[int, int, int]) -> None:
    bits = np.ascontiguousarray(region).view(np.uint8)
    outlines, _ = cv2.findContours(bits, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(panel, outlines, -1, rgb, 1)
