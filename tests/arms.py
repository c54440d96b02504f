"""Phantoms with an arm at each side, and the air that arm and chest close in."""

import cv2
import numpy as np

from lungunet.phantom.phantom import PhantomSlice

_ROOM = 64  # columns added at each side
_OWN_ARM = 8  # columns of a phantom, where it may have an arm of its own
_GAP = np.ones((5, 5), np.uint8)


def lay_arms(made: PhantomSlice, *, joined: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay arms beside the body of a phantom of 256x256.

    Parameters
    ----------
    joined : they touch the chest, so that the pocket is closed; else a gap of two pixels stays

    Returns
    -------
    image, mask, pocket : (256, 384) int16, uint8 and bool
    """
    open_air = float(np.median(made.image[:16]))
    grain = np.random.default_rng(1).normal(0, 20, (256, 256 + 2 * _ROOM))
    image = open_air + grain
    inner = slice(_ROOM + _OWN_ARM, -_ROOM - _OWN_ARM)
    image[:, inner] = made.image[:, _OWN_ARM:-_OWN_ARM]
    body = (image > -300).astype(np.uint8)
    body[:, [0, -1]] = 0
    first, last = np.flatnonzero(body[128])[[0, -1]]
    arms, pocket = np.zeros_like(body), np.zeros(image.shape, bool)
    for edge, away in ((int(first), -1), (int(last), 1)):
        outer = edge + away * 46
        cv2.line(arms, (outer, 90), (outer, 166), 1, 14)
        for row in (90, 166):
            cv2.line(arms, (outer, row), (edge - away * 10, row), 1, 14)
        pocket[101:156, min(edge, edge + away * 35) : max(edge, edge + away * 35)] = True
    arms &= 1 - (body if joined else cv2.dilate(body, _GAP))
    tissue = cv2.GaussianBlur(arms.astype(np.float32), (0, 0), 0.8)
    image = image * (1 - tissue) + (40 + grain) * tissue
    pocket &= image < open_air + 150
    mask = np.pad(made.mask, ((0, 0), (_ROOM, _ROOM)))
    return image.round().astype(np.int16), mask, pocket
