"""One picture per doubtful pair: slice, mask and second opinion side by side."""

import cv2
import numpy as np

from lungunet.data.codec import LabelCodec
from lungunet.data.dataset import read_pair
from lungunet.data.manifest import Pair
from lungunet.data.overlay import draw_overlay, show_grey, tile
from lungunet.inference.doubt import LabelView

_PANEL = 400  # px
_CAPTION = 22  # px
_FONT, _TEXT_SIZE, _TEXT_RGB = cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230)


def draw_case(
    pair: Pair, codec: LabelCodec, *, caption: str, seen: np.ndarray | None = None
) -> np.ndarray:
    """Draw the slice, the mask in blue, and over it in orange what someone else sees.

    Parameters
    ----------
    caption : a line above the panels
    seen : bits of (H, W), packed: what a model calls lung; None draws the threshold rule's lung

    Returns
    -------
    (422, 1200, 3) uint8, RGB
    """
    image, classes = read_pair(pair, codec)
    grey = show_grey(image)
    if seen is None:
        rule = LabelView(image, classes > 0).baseline.view(np.uint8)
        size = (image.shape[1], image.shape[0])
        other = cv2.resize(rule, size, interpolation=cv2.INTER_NEAREST)
    else:
        other = np.unpackbits(seen, count=image.size).reshape(image.shape)
    panels = tile(
        [
            draw_overlay(grey),
            draw_overlay(grey, truth=classes),
            draw_overlay(grey, truth=classes, pred=other),
        ],
        columns=3,
        side=_PANEL,
    )
    by = "the rule" if seen is None else "the model"
    return np.concatenate([_line(f"{caption}   (blue: mask, orange: {by})", panels), panels])


def _line(text: str, panels: np.ndarray) -> np.ndarray:
    line = np.zeros((_CAPTION, panels.shape[1], 3), np.uint8)
    known = text.encode("ascii", "replace").decode()  # OpenCV's font has no other letters
    cv2.putText(line, known, (6, 15), _FONT, _TEXT_SIZE, _TEXT_RGB, 1, cv2.LINE_AA)
    return line
