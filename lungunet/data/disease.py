"""Disease painted into the lung of a slice: what healthy truth looks like when its patient is ill.

Measures lung, tissue and grain in the slice, so that it works on HU and on grey alike; the mask
stays as it is. Knows no files and no networks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from lungunet.data.hu import refuse_no_numbers
from lungunet.data.kinds import check_whole
from lungunet.errors import ConfigError, DataError, GeometryError

Disease = Literal[
    "consolidation", "ground-glass", "effusion", "mass", "fibrosis", "emphysema", "collapse"
]
"""What can be painted."""

_BOTH_LUNGS = {
    "ground-glass": 0.5,
    "fibrosis": 0.6,
    "emphysema": 0.8,
}  # how often; others: a quarter
_SMALLEST_PX = 8  # root of the area of a lung that is worth painting
_BELOW_LUNG = 0.18  # of the way from tissue to lung lies gas below lung


def disease_slice(
    image: np.ndarray, mask: np.ndarray, *, disease: Disease | None = None, seed: int = 0
) -> np.ndarray:
    """Paint a disease into the lung of a slice, to test or to train on ill lungs with known truth.

    Consolidation has air bronchograms, ground glass keeps its vessels, effusion lies level with a
    rim that climbs, now and then of a patient who lies prone; masses, fibrosis with honeycombs,
    emphysema with bullae, and lobes that have collapsed. About 3 ms at 256x256.

    Parameters
    ----------
    image : (H, W), HU or grey of any real dtype
    mask : (H, W), bool or integer; above 0 is lung, which is painted and stays lung
    disease : one of consolidation, ground-glass, effusion, mass, fibrosis, emphysema, collapse;
        None draws one
    seed : another seed, another patient

    Returns
    -------
    (H, W), dtype of ``image``
        As it was outside the mask, and everywhere where there is no lung to speak of.

    Raises
    ------
    ConfigError
        When the disease is not known, or the seed is no whole number of 0 or more.
    GeometryError
        When image and mask differ in shape.
    DataError
        When they are no slices, or the image holds NaN or infinity.

    Examples
    --------
    >>> from lungunet import phantom_slice
    >>> made = phantom_slice(0, 0.5, size=128)
    >>> ill = disease_slice(made.image, made.mask, disease="consolidation")
    >>> bool(ill[made.mask > 0].mean() > made.image[made.mask > 0].mean() + 20)
    True
    """
    if disease is not None and disease not in get_args(Disease):
        raise ConfigError(f"disease '{disease}': is not one of {', '.join(get_args(Disease))}.")
    if image.ndim != 2 or not image.size:
        raise DataError(f"image: shape {image.shape}, a slice is (H, W) with H, W above 0.")
    if image.shape != mask.shape:
        raise GeometryError(f"mask: shape {mask.shape}, image: {image.shape}. Pass them together.")
    refuse_no_numbers(image, "image")
    rng = np.random.default_rng(check_whole("seed", seed))
    return paint_disease(image, mask, rng, disease=disease)


def paint_disease(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, *, disease: Disease | None = None
) -> np.ndarray:
    """Do what :func:`disease_slice` does, with a generator that goes on."""
    name: Disease = disease or get_args(Disease)[rng.integers(len(get_args(Disease)))]
    lung = mask > 0
    left, top, width, height = cv2.boundingRect(lung.view(np.uint8))
    box = (slice(max(top - 3, 0), top + height + 3), slice(max(left - 3, 0), left + width + 3))
    chest = _look(image[box].astype(np.float32), lung[box], rng, both=_BOTH_LUNGS.get(name, 0.25))
    if chest is None:
        return image.copy()
    painted = np.where(chest.side, _PAINTERS[name](chest), chest.pixels)
    if image.dtype.kind in "iu":
        limits = np.iinfo(image.dtype)
        painted = np.clip(np.rint(painted), limits.min, limits.max)
    ill = image.copy()
    ill[box] = painted.astype(image.dtype)
    return ill


@dataclass(frozen=True, eq=False)
class _Chest:
    """The lungs of a slice, and what is painted with.

    Parameters
    ----------
    pixels : (h, w) float32, the box around the lungs
    lung, side : (h, w) bool; both lungs, and what of them falls ill
    depth : (h, w) float32; distance from the edge of ``side``, in its size
    size : root of its area, px
    tissue, healthy, gas : values of these in the slice
    grain : (h, w) float32, noise as tissue has it here
    """

    pixels: np.ndarray
    lung: np.ndarray
    side: np.ndarray
    depth: np.ndarray
    size: float
    tissue: float
    healthy: float
    gas: float
    grain: np.ndarray
    rng: np.random.Generator

    @property
    def contrast(self) -> float:
        """From lung to tissue."""
        return self.tissue - self.healthy

    def noise(self, scale: float) -> np.ndarray:
        """Return smooth noise of about unit spread; features are ``scale`` sizes wide."""
        height, width = self.side.shape
        cell = max(1.5, scale * self.size)
        cells = self.rng.standard_normal(
            (int(height / cell) + 3, int(width / cell) + 3), dtype=np.float32
        )
        return np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC))

    def mixed(self, share: np.ndarray, value: np.ndarray | float) -> np.ndarray:
        """Return the pixels with so much of another value in them."""
        return np.asarray(self.pixels + share * (value - self.pixels))

    def lifted(self, pixels: np.ndarray, share: np.ndarray | float) -> np.ndarray:
        """Return pixels brought nearer to tissue by this share; vessels and tissue stay."""
        return np.asarray(pixels + share * np.clip(self.tissue - pixels, 0, None))

    def rows_and_columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (h, 1) and (1, w) float32."""
        height, width = self.side.shape
        y, x = np.ogrid[:height, :width]
        return y.astype(np.float32), x.astype(np.float32)

    def somewhere(self) -> tuple[float, float]:
        """Draw a place in the lung that falls ill."""
        places = np.flatnonzero(self.side)
        y, x = divmod(int(places[self.rng.integers(len(places))]), self.side.shape[1])
        return float(y), float(x)


def _look(
    pixels: np.ndarray, lung: np.ndarray, rng: np.random.Generator, *, both: float
) -> _Chest | None:
    """Choose a lung or both, and measure the slice; None where there is too little lung."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(lung.view(np.uint8), connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = 1 + np.argsort(-areas)[:2]
    largest = largest[areas[largest - 1] >= _SMALLEST_PX**2]  # a crumb is no lung to choose
    alone = len(largest) > 1 and rng.random() >= both
    side = labels == largest[rng.integers(2)] if alone else lung
    size = float(np.sqrt(np.count_nonzero(side)))
    if size < _SMALLEST_PX:
        return None
    healthy = float(np.median(pixels[lung]))
    around = cv2.dilate(lung.view(np.uint8), np.ones((7, 7), np.uint8)) > cv2.dilate(
        lung.view(np.uint8), np.ones((3, 3), np.uint8)
    )
    beside = pixels[around] if around.any() else pixels[~lung]
    dense = float(np.quantile(beside, 0.9)) if beside.size else healthy
    wall = around & (pixels > (healthy + dense) / 2)
    tissue = float(np.median(pixels[wall])) if wall.any() else dense
    contrast = tissue - healthy
    if contrast <= 0:
        return None
    fine = np.abs(pixels - cv2.GaussianBlur(pixels, (0, 0), 1.0))
    spread = 1.3 * float(np.median(fine[wall])) if wall.any() else 0.0
    amount = 2.2 * min(spread, 0.06 * contrast) * rng.uniform(0.7, 1.3)
    white = rng.standard_normal(lung.shape, dtype=np.float32)
    grain = np.asarray(cv2.GaussianBlur(white, (0, 0), 0.7) * np.float32(amount))
    depth = cv2.distanceTransform(side.view(np.uint8), cv2.DIST_L2, 3) / np.float32(size)
    gas = healthy - _BELOW_LUNG * contrast
    return _Chest(pixels, lung, side, depth, size, tissue, healthy, gas, grain, rng)


def _ramp(field: np.ndarray, width: float) -> np.ndarray:
    """Turn a field into a share: 0.5 at 0, and all or nothing half a width away."""
    return np.clip(0.5 + field / max(width, 1e-6), 0, 1)


def _spots(
    chest: _Chest, low: float, high: float, *, count: int, soft: float, rough: float = 0.25
) -> np.ndarray:
    """Return irregular spots, (h, w) in [0, 1].

    Parameters
    ----------
    low, high : radii, in sizes of the lung
    soft : width of the edge, in radii
    rough : how far the edge leaves an ellipse, in radii
    """
    y, x = chest.rows_and_columns()
    field = np.full(chest.side.shape, -9, np.float32)
    for _ in range(count):
        row, column = chest.somewhere()
        radius = chest.size * chest.rng.uniform(low, high)
        turn, flat = chest.rng.uniform(0, np.pi), chest.rng.uniform(0.6, 1.0)
        down, across = y - row, x - column
        along = np.cos(turn) * across + np.sin(turn) * down
        beside = (np.cos(turn) * down - np.sin(turn) * across) / flat
        np.maximum(field, 1 - np.hypot(along, beside) / radius, out=field)
    edge = chest.noise(0.12) + 0.6 * chest.noise(0.05)
    return _ramp(field + np.float32(rough) * edge, soft)


def _bronchi(chest: _Chest, dense: np.ndarray) -> np.ndarray:
    """Return airways that show in what is dense, (h, w) in [0, 1], from the hilum outwards."""
    canvas = np.zeros(chest.side.shape, np.uint8)
    places = np.argwhere(dense > 0.5)
    if len(places) < 30:
        return canvas.astype(np.float32)
    hilum = np.argwhere(chest.lung).mean(axis=0)
    for _ in range(int(chest.rng.integers(2, 7))):
        end = places[chest.rng.integers(len(places))]
        start = end + (hilum - end) * chest.rng.uniform(0.25, 0.6)
        line = np.linspace(start, end, 6)
        line[1:-1] += chest.rng.normal(0, 0.02 * chest.size, (4, 2))
        width = max(1, round(chest.rng.uniform(0.006, 0.018) * chest.size))
        points = np.rint(line[:, ::-1] * 8).astype(np.int32)
        cv2.polylines(canvas, [points], False, 255, width, cv2.LINE_AA, 3)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), 0.6) / np.float32(255))


def _consolidate(chest: _Chest) -> np.ndarray:
    if chest.rng.random() < 0.35:  # a lobe
        share = _spots(chest, 0.5, 1.2, count=1, soft=0.25)
    else:
        share = _spots(chest, 0.1, 0.45, count=int(chest.rng.integers(1, 5)), soft=0.5)
    if chest.rng.random() < 0.5:
        share = share * (1 - chest.rng.uniform(0.5, 0.9) * _bronchi(chest, share))
    dense = chest.tissue - chest.rng.uniform(0, 0.12) * chest.contrast
    return chest.mixed(share, dense + chest.grain)


def _cloud(chest: _Chest) -> np.ndarray:
    count = int(chest.rng.integers(1, 6))
    share = _spots(chest, 0.15, 1.0, count=count, soft=0.8, rough=0.35)
    patches = np.clip(0.8 + 0.25 * chest.noise(0.04), 0, 1.2)
    clouded = chest.lifted(chest.pixels, share * patches * chest.rng.uniform(0.15, 0.6))
    if chest.rng.random() < 0.4:  # crazy paving: thickened septa
        septa = np.clip(1 - np.abs(chest.noise(0.035)) / 0.25, 0, 1)
        clouded = chest.lifted(clouded, share * septa * 0.25)
    return clouded


def _flood(chest: _Chest) -> np.ndarray:
    y, x = chest.rows_and_columns()
    rows = np.flatnonzero(chest.side.any(axis=1))
    top, height = float(rows[0]), float(len(rows))
    filled = chest.rng.uniform(0.1, 0.75) * height
    prone = chest.rng.random() < 0.15
    field = top + filled - y if prone else y - (top + height - filled)
    field = field + chest.rng.normal(0, 0.05) * (x - x.mean())
    field = field + chest.rng.uniform(0, 0.3) * height * np.clip(1 - chest.depth / 0.25, 0, 1)
    field = field + 0.01 * chest.size * chest.noise(0.15)
    share = _ramp(field, max(1.0, 0.02 * chest.size))
    fluid = chest.tissue - chest.rng.uniform(0.02, 0.06) * chest.contrast
    pressed = np.clip(1 + field / (0.25 * chest.size), 0, 1) * (1 - share)
    return chest.lifted(
        chest.mixed(share, fluid + chest.grain), pressed * chest.rng.uniform(0, 0.35)
    )


def _grow_mass(chest: _Chest) -> np.ndarray:
    count = 1 if chest.rng.random() < 0.7 else int(chest.rng.integers(2, 8))
    soft, rough = chest.rng.uniform(0.08, 0.3), chest.rng.uniform(0.03, 0.15)
    largest = 0.45 if count == 1 else 0.12
    share = _spots(chest, 0.06, largest, count=count, soft=soft, rough=rough)
    grown = chest.mixed(share, chest.tissue + chest.grain)
    if count == 1 and chest.rng.random() < 0.15:  # a cavity
        around = np.ones((3, 3), np.uint8)
        cavity = cv2.erode(share, around, iterations=max(2, int(0.06 * chest.size)))
        grown = grown + cavity * (0.8 * chest.gas + 0.2 * chest.healthy - grown)
    return np.asarray(grown)


def _scar(chest: _Chest) -> np.ndarray:
    y, _ = chest.rows_and_columns()
    down = y / len(y) - 0.5
    field = chest.rng.uniform(0.06, 0.25) - chest.depth + 0.05 * chest.noise(0.1)
    share = _ramp(field + chest.rng.uniform(0, 0.15) * down, 0.1)
    cells = chest.noise(chest.rng.uniform(0.015, 0.03))
    walls = np.clip(1 - np.abs(cells) / chest.rng.uniform(0.25, 0.6), 0, 1)
    dense = walls * chest.rng.uniform(0.4, 0.9) + chest.rng.uniform(0.05, 0.25)
    scarred = chest.lifted(chest.pixels, share * dense)
    if chest.rng.random() < 0.6:  # honeycombs
        scarred = scarred + share * np.clip(cells - 0.5, 0, 1) * (chest.gas - scarred)
    return np.asarray(scarred)


def _inflate(chest: _Chest) -> np.ndarray:
    cells = chest.noise(chest.rng.uniform(0.03, 0.12))
    lost = np.clip(chest.rng.uniform(0.2, 0.8) + 0.5 * cells, 0, 1) * chest.rng.uniform(0.4, 1.0)
    airy = np.clip(1 - (chest.pixels - chest.healthy) / (0.25 * chest.contrast), 0, 1)
    inflated = chest.pixels + lost * airy * np.minimum(chest.gas - chest.pixels, 0)
    if chest.rng.random() < 0.6:
        for _ in range(int(chest.rng.integers(1, 5))):  # bullae
            share = _spots(chest, 0.05, 0.35, count=1, soft=0.06, rough=0.04)
            inflated = inflated + (share > 0.5) * share * (chest.gas + 0.3 * chest.grain - inflated)
            wall = np.clip(1 - np.abs(share - 0.5) / 0.5, 0, 1)
            inflated = chest.lifted(inflated, wall * chest.rng.uniform(0.05, 0.25))
    return np.asarray(inflated)


def _collapse(chest: _Chest) -> np.ndarray:
    y, x = chest.rows_and_columns()
    row, column = np.argwhere(chest.side).mean(axis=0)
    turn = chest.rng.uniform(0, 2 * np.pi)
    down, across = y - np.float32(row), x - np.float32(column)
    towards = np.cos(turn) * across + np.sin(turn) * down
    along = np.sin(turn) * across - np.cos(turn) * down
    fissure = np.quantile(towards[chest.side], 1 - chest.rng.uniform(0.1, 0.6))
    field = towards - fissure + chest.rng.normal(0, 0.4) * along**2 / chest.size
    field = field + 0.015 * chest.size * chest.noise(0.1)
    share = _ramp(field, max(1.0, 0.02 * chest.size))
    if chest.rng.random() < 0.5:
        share = share * (1 - chest.rng.uniform(0.3, 0.8) * _bronchi(chest, share))
    return chest.mixed(share, chest.tissue + chest.grain)


_PAINTERS: dict[Disease, Callable[[_Chest], np.ndarray]] = {
    "consolidation": _consolidate,
    "ground-glass": _cloud,
    "effusion": _flood,
    "mass": _grow_mass,
    "fibrosis": _scar,
    "emphysema": _inflate,
    "collapse": _collapse,
}
