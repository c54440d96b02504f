"""A seeded synthetic chest CT with exact truth, for the demo, the docs and the tests.

``anatomy`` makes the patients; here a map of their tissues is drawn, and becomes Hounsfield units
with a scanner's noise, and a mask. It must not know how anyone trains on the slices.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from lungunet.data.ct import write_image, write_mask
from lungunet.data.disease import Disease, disease_slice
from lungunet.data.kinds import check_kind, plain_value
from lungunet.errors import ConfigError
from lungunet.phantom import organs, wall
from lungunet.phantom.anatomy import Patient, make_patient
from lungunet.phantom.chart import Chart, Tissue
from lungunet.progress import Progress, silent

_FINER = 2  # cells of the map per pixel, so that edges and thin vessels fill pixels in part
_GOLDEN = (5**0.5 - 1) / 2
_SMALLEST_PX = 32
_DENSE: tuple[Disease, ...] = ("consolidation", "collapse")
_BLUR_MM = 0.6  # sharpness of the scanner
_CEILING_HU = 3071  # twelve bits above -1024

# Hounsfield units of an unenhanced chest.
_TISSUE_HU = {
    Tissue.AIR: -1000, Tissue.TABLE: -150, Tissue.FOAM: -900, Tissue.SKIN: 0, Tissue.FAT: -102,
    Tissue.MUSCLE: 52, Tissue.BONE: 620, Tissue.MARROW: 190, Tissue.CARTILAGE: 95,
    Tissue.BLOOD: 40, Tissue.HEART: 46, Tissue.LIVER: 60, Tissue.SPLEEN: 50, Tissue.GUT: 25,
    Tissue.FLUID: 8, Tissue.GAS: -950, Tissue.AIRWAY: -980, Tissue.AIRWAY_WALL: -60,
    Tissue.LUNG: -820, Tissue.FISSURE: -640, Tissue.TWIG: -480, Tissue.VESSEL: 10,
    Tissue.NODULE: 20,
}  # fmt: skip
_ENHANCED_SHARE = {  # how much of the contrast agent in the blood reaches these
    Tissue.BLOOD: 1.0, Tissue.VESSEL: 0.8, Tissue.TWIG: 0.3, Tissue.HEART: 0.35,
    Tissue.LIVER: 0.2, Tissue.SPLEEN: 0.4, Tissue.MUSCLE: 0.05, Tissue.NODULE: 0.15,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PhantomSlice:
    """One synthetic slice and its truth.

    Parameters
    ----------
    image : (H, W) int16, HU
    mask : (H, W) uint8, 0 or 255 (lung)
    """

    name: str
    patient: str
    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class _Scan:
    """How a patient was scanned: what the same anatomy looks like."""

    tissue_hu: np.ndarray  # (256,) float32 by tissue
    dorsal_hu_per_mm: float  # lung grows denser towards the back, where it is heavier
    patches_hu: float
    noise_hu: float
    grain_mm: float
    padding_hu: int | None  # outside the scanner's circle; None where the slice is square
    floor_hu: int


def phantom_slice(patient_number: int, z: float, *, size: int = 256, seed: int = 0) -> PhantomSlice:
    """Make one slice of one made-up patient; slices at other ``z`` stack to a volume with it.

    Parameters
    ----------
    patient_number : 0 or more
    z : height in [0, 1], from below the diaphragm to above the lungs, which spans 340 mm; the lungs
        begin above 0.1 and end below 0.93
    size : side of the square slice in pixels, 32 or more; a pixel is 340 to 405 mm / ``size``

    Returns
    -------
    PhantomSlice
        The same for the same four values. Its mask is drawn from the same outlines as its image:
        vessels, nodules and fissures within the lung belong to it, the vessels of the hilum, the
        trachea, the main bronchi, pleural fluid and gas in the belly do not.

    Raises
    ------
    ConfigError
        A value lies outside its range.

    Examples
    --------
    >>> middle = phantom_slice(0, 0.5, size=64)
    >>> middle.image.dtype, middle.mask.shape, np.unique(middle.mask)
    (dtype('int16'), (64, 64), array([  0, 255], dtype=uint8))
    """
    _require_in_range(patient_number, z, size=size, seed=seed)
    patient, scan = _make(seed, patient_number)
    tissue = draw_chest(patient, z, cells=_FINER * size)
    rng = np.random.default_rng([seed, patient_number, round(z * 2**32)])
    name = f"patient-{patient_number:03d}"
    return PhantomSlice(
        name=f"{name}_z-{z:.4f}",
        patient=name,
        image=_image(tissue, patient, scan, rng=rng),
        mask=_mask(tissue),
    )


def phantom_slices(
    *, patients: int = 12, slices: int = 4, size: int = 256, seed: int = 0, disease: float = 0.0
) -> Iterator[PhantomSlice]:
    """Make several slices of several made-up patients, at heights spread over the chest.

    Slice k of patient n does not depend on how many are made. A few hold no lung at all.

    Parameters
    ----------
    disease : share of the patients into whose lungs a dense disease is painted, as
        :func:`disease_slice` does: consolidation or collapse

    Examples
    --------
    >>> [made.name for made in phantom_slices(patients=2, slices=1, size=64)]
    ['patient-000_slice-00', 'patient-001_slice-00']
    """
    for number in range(patients):
        rng = np.random.default_rng([seed, number])
        first = rng.random()
        kind = _DENSE[rng.integers(len(_DENSE))] if rng.random() < disease else None
        for index in range(slices):
            made = phantom_slice(number, _height(first, index), size=size, seed=seed)
            image = made.image
            if kind is not None:
                image = disease_slice(image, made.mask, disease=kind, seed=number)
            yield replace(made, image=image, name=f"{made.patient}_slice-{index:02d}")


def write_phantoms(
    folder: Path, *, patients: int = 12, slices: int = 4, size: int = 256, seed: int = 0,
    disease: float = 0.0, progress: Progress = silent,
) -> tuple[Path, Path]:  # fmt: skip
    """Write ``phantom_slices`` as ``images/NAME.tif`` (int16, HU) and ``masks/NAME.png`` (0, 255).

    Parameters
    ----------
    disease : share of the patients into whose lungs a dense disease is painted, as
        :func:`disease_slice` does: consolidation or collapse

    Returns
    -------
    tuple of Path
        The folders of the images and of the masks.
    """
    images, masks = Path(folder, "images"), Path(folder, "masks")
    for path in (images, masks):
        path.mkdir(parents=True, exist_ok=True)
    made = phantom_slices(patients=patients, slices=slices, size=size, seed=seed, disease=disease)
    for item in progress(made, desc="phantom slices", total=patients * slices):
        write_image(images / f"{item.name}.tif", item.image)
        write_mask(masks / f"{item.name}.png", item.mask)
    return images, masks


def draw_chest(patient: Patient, z: float, *, cells: int) -> np.ndarray:
    """Draw the slice at height ``z`` in [0, 1], as (cells, cells) uint8, values of ``Tissue``.

    From back to front: what is drawn later covers what was there.

    Examples
    --------
    >>> patient = make_patient(np.random.default_rng(0))
    >>> bool((draw_chest(patient, 0.5, cells=64) == Tissue.LUNG).any())
    True
    """
    chart = Chart(patient, z, cells)
    wall.draw_table(chart)
    wall.draw_wall(chart)
    organs.draw_lungs(chart)
    organs.draw_mediastinum(chart)
    organs.draw_belly(chart)
    wall.draw_spine(chart)
    organs.round_lungs(chart)
    organs.draw_effusion(chart)
    organs.draw_lung_inside(chart)
    organs.draw_airways(chart)
    return chart.tissue


def _height(first: float, index: int) -> float:
    """Spread any number of slices evenly by the golden ratio, then draw them to the middle."""
    off_middle = 2 * ((first + index * _GOLDEN) % 1) - 1
    return float(0.5 + 0.5 * off_middle * abs(off_middle) ** 0.4)


def _require_in_range(patient_number: int, z: float, *, size: int, seed: int) -> None:
    for name, value in (("patient_number", patient_number), ("seed", seed), ("size", size)):
        check_kind(name, plain_value(value), int, "Give a whole number.")
        if value < 0:
            raise ConfigError(f"{name} is {value}. Pass 0 or more.", where="Phantom")
    if not 0 <= z <= 1:
        raise ConfigError(
            f"z is {z}, outside [0, 1]. Pass a share of the chest's height.", where="Phantom"
        )
    if size < _SMALLEST_PX:
        raise ConfigError(f"size is {size} pixels. Pass {_SMALLEST_PX} or more.", where="Phantom")


@lru_cache(maxsize=8)
def _make(seed: int, patient_number: int) -> tuple[Patient, _Scan]:
    body, scanner = np.random.SeedSequence([seed, patient_number]).spawn(2)
    return make_patient(np.random.default_rng(body)), _make_scan(np.random.default_rng(scanner))


def _make_scan(rng: np.random.Generator) -> _Scan:
    table = np.zeros(256, np.float32)
    contrast_hu = rng.uniform(60, 240) if rng.random() < 0.3 else 0.0
    for tissue, hu in _TISSUE_HU.items():
        table[tissue] = hu + contrast_hu * _ENHANCED_SHARE.get(tissue, 0.0)
    lung_hu = rng.uniform(-885, -730)
    table[Tissue.LUNG] = lung_hu
    table[Tissue.FISSURE] = lung_hu + 140
    table[Tissue.FOAM] = rng.uniform(-930, -780)  # a mattress or cloth may be as dense as lung
    padding_hu = (None, -1024, -2000)[rng.choice(3, p=[0.45, 0.15, 0.4])]
    return _Scan(
        tissue_hu=table,
        dorsal_hu_per_mm=rng.uniform(0.3, 1.0),
        patches_hu=rng.uniform(10, 35),
        noise_hu=float(np.exp(rng.uniform(np.log(18), np.log(70)))),
        grain_mm=rng.uniform(0.35, 0.75),
        padding_hu=padding_hu,
        floor_hu=-1024 if padding_hu == -1024 or rng.random() < 0.4 else -3000,
    )


def _mask(tissue: np.ndarray) -> np.ndarray:
    """Call a pixel lung where at least half of its cells are."""
    share = _shrink((tissue >= Tissue.LUNG).astype(np.uint8) * np.uint8(255))
    return np.where(share >= 127, np.uint8(255), np.uint8(0))


def _image(
    tissue: np.ndarray, patient: Patient, scan: _Scan, *, rng: np.random.Generator
) -> np.ndarray:
    size = len(tissue) // _FINER
    hu = _shrink(cv2.LUT(tissue, scan.tissue_hu))
    y_mm = (np.arange(size, dtype=np.float32) / size - 0.5)[:, None] * patient.field_mm
    lung_hu = scan.dorsal_hu_per_mm * y_mm + scan.patches_hu * _patches(rng, 20, size)
    share = _shrink((tissue == Tissue.LUNG).astype(np.float32))
    hu = hu + share * lung_hu + 6 * _patches(rng, 40, size)  # no organ is of one density
    hu = cv2.GaussianBlur(hu, (0, 0), _BLUR_MM * size / patient.field_mm)
    hu = hu + scan.noise_hu * _noise(rng, hu, scan.grain_mm * size / patient.field_mm)
    image: np.ndarray = np.rint(np.clip(hu, scan.floor_hu, _CEILING_HU)).astype(np.int16)
    if scan.padding_hu is not None:
        image[_outside_circle(size)] = scan.padding_hu
    return image


def _shrink(cells: np.ndarray) -> np.ndarray:
    """Average the cells of each pixel."""
    size = len(cells) // _FINER
    return np.asarray(cv2.resize(cells, (size, size), interpolation=cv2.INTER_AREA))


def _patches(rng: np.random.Generator, across: int, size: int) -> np.ndarray:
    """Draw a smooth field (size, size) float32 with about ``across`` patches a side."""
    coarse = rng.standard_normal((across, across), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))


def _noise(rng: np.random.Generator, hu: np.ndarray, grain_px: float) -> np.ndarray:
    """Draw grain of standard deviation 1 in water, less in air, and streaks along thick rays."""
    size = len(hu)
    white = rng.standard_normal((2, size, size), dtype=np.float32)
    grain = cv2.GaussianBlur(white[0], (0, 0), max(grain_px, 0.3))
    grain = _standardised(grain - cv2.blur(grain, (9, 9)))  # reconstruction leaves no slow noise
    streaks = _standardised(cv2.blur(white[1], (size // 8 | 1, 1)))
    density = np.clip(hu + 1000, 0, 1600) / 1000
    across = cv2.blur(density, (size | 1, 1))  # what a ray from side to side passes
    around = cv2.blur(np.minimum(density, 1), (size // 10 | 1, size // 10 | 1))
    strength = 0.6 + 0.4 * around
    return np.asarray(strength * (grain + 2 * np.maximum(across - 0.6, 0) * streaks))


def _standardised(field: np.ndarray) -> np.ndarray:
    return np.asarray(field / field.std())


@lru_cache(maxsize=4)
def _outside_circle(size: int) -> np.ndarray:
    """Tell where the scanner's circle ends, a little inside the slice as on many scanners."""
    offsets = np.arange(size) - (size - 1) / 2
    return np.asarray(np.hypot(offsets[:, None], offsets) > 0.492 * size)
