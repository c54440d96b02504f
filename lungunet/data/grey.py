"""Which window made a slice of 8 bits: told by where its tissue, its lung and the air around lie.

For second opinions alone, which take HU; models learn grey as it is. Knows no files and no masks.
"""

from typing import NamedTuple

import cv2
import numpy as np

from lungunet.data.window import LUNG_WINDOW, Window

_SIDE = 128  # px of the longer side that are looked at
# Medians of what is no air, of the air around, and of the air within a body, on slices of 110
# patients. Where half of the tissue is white, the window ends below it.
_TISSUE_HU, _AIR_HU, _LUNG_HU, _WHITE_HU = -10.0, -1000.0, -800.0, 50.0
# Where the usual window puts these here, it is taken for the one.
_USUAL = {"tissue": (-120, 155), "air": (-1080, -700), "lung": (-920, -560)}
_LEAST_LUNG = 0.02  # of the picture
_MOST_BLACK = 0.3  # of the lung, as airways are; more, and lung and air are one
_NEAR, _NEARER = 13, 7  # px across: air around a body lies between them, padding farther away
_LEAST_STEPS = 16  # of grey from air to tissue
_APART = 2.5  # times the spread of tissue: fat and muscle lie closer, lung does not


class _Greys(NamedTuple):
    """What is how grey; 0 is not seen, or black."""

    tissue: float
    air: float
    lung: float
    spread: float  # of tissue: half of it lies within


def tell_window(grey: np.ndarray) -> Window | None:
    """Tell the window through which a slice, (H, W) uint8, was made from HU.

    Returns
    -------
    Window
        :data:`LUNG_WINDOW` where that fits. None where it cannot be told: lung and air are one
        black, as at a window for soft tissue, or there is no air, or no tissue.
    """
    seen = _find_greys(grey)
    if seen is None or not (seen.air or seen.lung):
        return None
    if all(_is_usual(name, getattr(seen, name)) for name in _USUAL):
        return LUNG_WINDOW
    darkest, darkest_hu = (seen.air, _AIR_HU) if seen.air else (seen.lung, _LUNG_HU)
    if seen.tissue - darkest < max(_LEAST_STEPS, _APART * seen.spread):
        return None
    tissue_hu = _WHITE_HU if seen.tissue == 255 else _TISSUE_HU
    step_hu = (tissue_hu - darkest_hu) / (seen.tissue - darkest)
    width = 255 * step_hu
    return Window(level=darkest_hu - step_hu * darkest + width / 2, width=width)


def _find_greys(grey: np.ndarray) -> _Greys | None:
    step = max(1, max(grey.shape) // _SIDE)
    seen = np.ascontiguousarray(grey[::step, ::step])
    limit, _ = cv2.threshold(seen, 0, 255, cv2.THRESH_OTSU)
    dark = seen <= limit
    if dark.all():
        return None
    # With a margin, all that is dark along the rim is one part: the first.
    ringed = np.pad(dark, 1, constant_values=True).view(np.uint8)
    outside = cv2.connectedComponents(ringed, None, 4)[1][1:-1, 1:-1] == 1
    inside = seen[dark & ~outside]
    shows_lung = inside.size > _LEAST_LUNG * seen.size and (inside == 0).mean() < _MOST_BLACK
    near, nearer = (
        cv2.dilate((~outside).view(np.uint8), np.ones((px, px), np.uint8)) > 0
        for px in (_NEAR, _NEARER)
    )
    around = seen[near & ~nearer]
    low, tissue, high = np.percentile(seen[~dark], [25, 50, 75])
    return _Greys(
        tissue=float(tissue),
        air=float(np.median(around)) if around.size else 0.0,
        lung=float(np.median(inside)) if shows_lung else 0.0,
        spread=float(high - low),
    )


def _is_usual(name: str, grey: float) -> bool:
    low, high = _USUAL[name]
    hu = float(LUNG_WINDOW.to_hu(np.array(grey)))
    return grey == 0 or low <= hu <= high
