"""Pictures for eyes: outlines of truth and prediction on a windowed slice, sheets and captions."""

import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

from lungunet.data.hu import judge_hu, restore_hu
from lungunet.data.kinds import native_order
from lungunet.data.window import LUNG_WINDOW, Window
from lungunet.errors import ConfigError, DataError, GeometryError

TRUTH_RGB = (64, 200, 255)
"""Blue for the truth, orange for the prediction: told apart by colour-blind eyes too."""
PRED_RGB = (255, 140, 0)
TEXT_RGB = (255, 255, 255)
"""Of text, which stands on black."""
_HATCH_PX = 8  # from line to line
LINE_PX = 22
_FONT, _TEXT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.45


def show_grey(image: np.ndarray) -> np.ndarray:
    """Return a slice as (H, W) uint8 for eyes, whose input contract nobody knows.

    Parameters
    ----------
    image : (H, W) of a slice dtype. Eight-bit pictures come back as they are, HU are shown as lungs
        are looked at, and unsigned values that cannot be HU are stretched to fit
    """
    if image.dtype == np.uint8:
        return image
    image = native_order(image)
    hu = restore_hu(image)
    if image.dtype == np.uint16 and judge_hu(hu) is not None:
        low, high = float(image.min()), float(image.max())
        return Window((low + high) / 2, max(high - low, 1.0)).to_grey(image)
    return LUNG_WINDOW.to_grey(hu)


def draw_overlay(
    grey: np.ndarray,
    *,
    truth: np.ndarray | None = None,
    pred: np.ndarray | None = None,
    ignore_index: int | None = None,
) -> np.ndarray:
    """Draw the outlines of masks on a slice: truth blue, prediction orange.

    Parameters
    ----------
    grey : (H, W) uint8, as :meth:`InputContract.to_grey` gives it
    truth, pred : (H, W) integer classes; the outline runs around each class above 0
    ignore_index : where the truth has this value, it is hatched in blue

    Returns
    -------
    (H, W, 3) uint8, RGB

    Raises
    ------
    DataError
        When the slice is not (H, W) uint8.
    GeometryError
        When a mask is not of its shape.
    """
    if grey.dtype != np.uint8 or grey.ndim != 2:
        raise DataError(
            f"{grey.dtype} of shape {grey.shape}, this draws on (H, W) uint8. Window HU first, "
            "e.g. with LUNG_WINDOW.to_grey.",
            where="grey",
        )
    for name, mask in (("truth", truth), ("pred", pred)):
        if mask is not None and mask.shape != grey.shape:
            raise GeometryError(
                f"the mask is {mask.shape}, the slice is {grey.shape}. Pass one class per pixel of "
                "the slice.",
                where=name,
            )
    rgb = np.repeat(grey[..., None], 3, axis=2)
    if truth is not None and ignore_index is not None:
        ignored = truth == ignore_index
        rows, columns = np.ogrid[: truth.shape[0], : truth.shape[1]]
        rgb[ignored & ((rows + columns) % _HATCH_PX == 0)] = TRUTH_RGB
        truth = np.where(ignored, 0, truth)
    for classes, colour in ((truth, TRUTH_RGB), (pred, PRED_RGB)):
        if classes is None:
            continue
        for index in range(1, int(classes.max(initial=0)) + 1):
            region = np.ascontiguousarray(classes == index).view(np.uint8)
            outlines, _ = cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(rgb, outlines, -1, colour, 1)
    return rgb


def tile_pictures(
    pictures: Sequence[np.ndarray], *, columns: int = 4, side: int = 320
) -> np.ndarray:
    """Lay pictures out on one sheet.

    Parameters
    ----------
    pictures : at least one (H, W, 3) uint8; each is fitted into a square
    columns : pictures in a row
    side : of a picture on the sheet, px

    Returns
    -------
    (rows * side, columns * side, 3) uint8

    Raises
    ------
    DataError
        When there is no picture.
    ConfigError
        When ``columns`` or ``side`` is below 1.
    """
    if not pictures:
        raise DataError("none to lay out. Give at least one.", where="pictures")
    for name, value in (("columns", columns), ("side", side)):
        if value < 1:
            raise ConfigError("must be at least 1.", where=f"{name}={value}")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.zeros((rows * side, columns * side, 3), np.uint8)
    for place, picture in enumerate(pictures):
        scale = side / max(picture.shape[:2])
        height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(picture, (width, height), interpolation=method)
        top, left = place // columns * side, place % columns * side
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def add_lines(picture: np.ndarray, lines: Sequence[str], *, below: bool = False) -> np.ndarray:
    """Write lines of text above a picture, or below it, broken where they are too long.

    Parameters
    ----------
    picture : (H, W, 3) uint8

    Returns
    -------
    (H + 22 per line, W, 3) uint8
    """
    wrapped = [part for line in lines for part in _wrap(line, picture.shape[1] - 12)]
    strip = np.zeros((LINE_PX * len(wrapped), picture.shape[1], 3), np.uint8)
    for number, line in enumerate(wrapped):
        write_text(strip, line, (6, 15 + number * LINE_PX))
    return np.concatenate([picture, strip] if below else [strip, picture])


def write_text(picture: np.ndarray, text: str, place: tuple[int, int]) -> None:
    """Write white on black into a picture, which is readable on bone and on air.

    Letters that OpenCV's font lacks, as those of Thai, are question marks; it has Latin, Greek,
    Cyrillic, Arabic, Hebrew, Chinese, Japanese and Korean.

    Parameters
    ----------
    place : left end of the base line, (x, y) px
    """
    text = _as_drawn(text)
    (left, base), (width, height) = place, _size(text)
    corners = (left - 3, base - height - 4), (left + width + 3, base + 5)
    cv2.rectangle(picture, *corners, (0, 0, 0), cv2.FILLED)
    cv2.putText(picture, text, place, _FONT, _TEXT_SIZE, TEXT_RGB, 1, cv2.LINE_AA)


def _as_drawn(text: str) -> str:
    """Return a text as OpenCV can draw it, which crashes where a file name is no Unicode."""
    whole = unicodedata.normalize("NFC", text)  # macOS writes é as e and an accent
    return whole.encode("utf-8", "replace").decode()


def _wrap(line: str, width: int) -> list[str]:
    """Break a line between words where it is too long."""
    parts = [""]
    for word in _as_drawn(line).split():
        longer = f"{parts[-1]} {word}".strip()
        if parts[-1] and _size(longer)[0] > width:
            parts.append(word)
        else:
            parts[-1] = longer
    return parts


def _size(text: str) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(text, _FONT, _TEXT_SIZE, 1)
    return int(width), int(height)
