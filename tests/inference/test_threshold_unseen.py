"""Lungs that no scan at hand shows: of any density, each by itself, off the scale, cut open."""

import itertools

import numpy as np
import pytest

from lungunet.inference.doubt import LabelView
from lungunet.inference.threshold import segment_lungs
from lungunet.phantom.phantom import PhantomSlice, phantom_slice

LUNG_HU = -820  # of the phantoms
LEVELS = (-980, -900, -700, -500)


def breathed(made: PhantomSlice, right_hu: float, left_hu: float, *, offset: int = 0) -> np.ndarray:
    """Give each lung a density of its own, its vessels less so; then move all values."""
    hu = made.image.astype(np.float32)
    middle = hu.shape[1] // 2
    change = np.zeros_like(hu)
    change[:, :middle], change[:, middle:] = right_hu - LUNG_HU, left_hu - LUNG_HU
    hu += change * (made.mask > 0) * np.clip(hu / LUNG_HU, 0, 1.2)
    return (np.clip(hu, -1024, 3071) + offset).astype(np.int16)


def share_found(lungs: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of the lung that is found, of the side where it is smaller."""
    middle = truth.shape[1] // 2
    sides = (slice(None, middle), slice(middle, None))
    return min(float(lungs[:, side][truth[:, side]].mean()) for side in sides)


@pytest.mark.parametrize("offset", [-100, 0, 100])
@pytest.mark.parametrize("place", [(0, 0.5), (4, 0.55), (7, 0.9)])
def test_no_aerated_lung_is_lost(place: tuple[int, float], offset: int) -> None:
    made = phantom_slice(*place, size=256)
    truth = made.mask > 0
    for right, left in itertools.product(LEVELS, LEVELS):
        lungs = segment_lungs(breathed(made, right, left, offset=offset)) > 0
        where = f"{right} and {left} HU"
        # Of a lung at -400 HU the blurred edge is lost, in an apex much of it.
        assert share_found(lungs, truth) > (0.88 if place[1] < 0.9 else 0.75), where
        assert (lungs & ~truth).sum() < 0.08 * truth.sum(), where


def test_dark_lungs_in_a_scan_keep_their_ends() -> None:
    spacing_mm = (6.0, 1.4, 1.4)
    made = [phantom_slice(2, z, size=256) for z in np.arange(0.2, 0.95, 0.025)]
    truth = np.stack([one.mask > 0 for one in made])
    hu = np.stack([breathed(one, -980, -700) for one in made])
    lungs = segment_lungs(hu, spacing_mm=spacing_mm) > 0
    usual = segment_lungs(np.stack([one.image for one in made]), spacing_mm=spacing_mm) > 0
    assert lungs.sum() == pytest.approx(usual.sum(), rel=0.03)
    assert (lungs & truth).sum() / (lungs | truth).sum() > 0.95


def test_gas_in_a_belly_is_no_lung() -> None:
    for patient in range(8):
        made = phantom_slice(patient, 0.02, size=256)
        for offset in (0, 60):
            lungs = segment_lungs(made.image + np.int16(offset))
            assert not (lungs[made.mask == 0] > 0).sum() > 30, patient


def cut_by_circle(size: int, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a slice whose circle begins within the right lung, and the lung in it."""
    made = phantom_slice(0, 0.5, size=size)
    truth = made.mask > 0
    columns = np.flatnonzero(truth.any(axis=0))
    shift = int(columns[0]) + size // 25
    hu = np.full_like(made.image, -1000)
    hu[:, : size - shift] = made.image[:, shift:]
    there = np.zeros_like(truth)
    there[:, : size - shift] = truth[:, shift:]
    y, x = np.ogrid[:size, :size]
    beyond = (2 * y - size + 1) ** 2 + (2 * x - size + 1) ** 2 > size**2
    hu[beyond], there[beyond] = padding, False
    return hu, there


@pytest.mark.parametrize("padding", [-1024, -2000])
def test_a_lung_that_the_circle_cuts_open_stays(padding: int) -> None:
    hu, there = cut_by_circle(256, padding)
    lungs = segment_lungs(hu) > 0
    assert (lungs & there).sum() / (lungs | there).sum() > 0.93


@pytest.mark.parametrize("padding", [-1024, 0])
@pytest.mark.parametrize("size", [256, 400, 512])
def test_nor_is_it_outside_in_the_view_that_triage_has(size: int, padding: int) -> None:
    hu, there = cut_by_circle(size, padding)
    view = LabelView(hu, there)  # resized, the circle is blurred
    assert (view.outside & view.lung).sum() < 0.01 * view.lung.sum()
    assert (view.baseline & view.lung).sum() > 0.93 * view.lung.sum()


def test_the_foam_of_a_table_is_no_lung() -> None:
    made = phantom_slice(4, 0.55, size=256)
    for offset in (0, 50, 100):
        lungs = segment_lungs(made.image + np.int16(offset)) > 0
        assert (lungs & (made.mask == 0)).sum() < 0.03 * (made.mask > 0).sum()


@pytest.mark.parametrize("padding", [0, 40])
def test_padding_as_dense_as_tissue_is_no_body(padding: int) -> None:
    for place in ((0, 0.5), (0, 0.02)):
        made = phantom_slice(*place, size=256)
        y, x = np.ogrid[:256, :256]
        beyond = (2 * y - 255) ** 2 + (2 * x - 255) ** 2 > 250**2  # a ring around all of it
        lungs = segment_lungs(np.where(beyond, np.int16(padding), made.image))
        wrong = (lungs > 0) & (made.mask == 0)
        assert wrong.sum() <= 0.03 * max((made.mask > 0).sum(), 1000)
