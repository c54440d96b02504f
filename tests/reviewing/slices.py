"""Slices to review, lopsided on purpose."""

from pathlib import Path

import numpy as np

import lungunet

SHAPE = (72, 96)


def body(seed: int = 0) -> np.ndarray:
    """Draw a slice: a body in air, two lungs with a vessel each, a mattress; (72, 96) int16, HU."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    hu = np.full(SHAPE, -1000, np.int16)
    hu[((x - 48) / 42) ** 2 + ((y - 34) / 29) ** 2 < 1] = 40
    for middle in (30, 66):
        hu[((x - middle) / 13) ** 2 + ((y - 34) / 19) ** 2 < 1] = -850
        hu[32:35, middle - 1 : middle + 3] = 30
    return (hu + rng.integers(-15, 16, SHAPE)).astype(np.int16)


def lungs() -> np.ndarray:
    """Return what is lung in :func:`body`, bool."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.logical_or.reduce(
        [((x - middle) / 13) ** 2 + ((y - 34) / 19) ** 2 < 1 for middle in (30, 66)]
    )


def write_case(folder: Path, name: str, mask: np.ndarray, seed: int = 0) -> lungunet.Pair:
    """Write a slice as int16 TIFF and raw mask values as PNG."""
    pair = lungunet.Pair(folder / "images" / f"{name}.tif", folder / "masks" / f"{name}.png")
    lungunet.write_image(pair.image, body(seed))
    lungunet.write_mask(pair.require_mask(), mask)
    return pair
