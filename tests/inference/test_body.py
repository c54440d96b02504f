"""The air of a slice: what lies in the body, and which of it is trachea or bronchus."""

import numpy as np
import pytest

from lungunet.inference.body import find_airways, gas_level, look_into_body
from lungunet.phantom.anatomy import make_patient
from lungunet.phantom.chart import Tissue
from lungunet.phantom.phantom import draw_chest, phantom_slice

AIR, TISSUE, LUNG = -1000, 40, -850


def chest(mm: float) -> np.ndarray:
    """Return 240 x 320 mm int16: a body in air, two lungs, and lumens of 8 and 2 mm radius."""
    y, x = np.meshgrid(np.arange(0, 240, mm), np.arange(0, 320, mm), indexing="ij")
    hu = np.full(y.shape, AIR, np.int16)
    hu[(np.abs(y - 120) < 100) & (np.abs(x - 160) < 150)] = TISSUE
    hu[(np.abs(y - 120) < 60) & (np.abs(np.abs(x - 160) - 80) < 40)] = LUNG
    hu[np.hypot(y - 100, x - 160) < 8] = AIR
    hu[np.hypot(y - 160, x - 160) < 2] = AIR
    return hu


@pytest.mark.parametrize("mm", [0.6, 1.0, 2.0])
def test_the_trachea_and_its_wall_are_found_at_any_size_of_pixel(mm: float) -> None:
    hu = chest(mm)
    found = look_into_body(hu, mm)
    airways = find_airways(found, gas_level(found, (hu == LUNG).astype(np.uint8)))
    y, x = (np.arange(length) * mm for length in hu.shape)
    away = np.hypot(y[:, None] - 100, x - 160)
    assert airways[away < 8].all()
    assert not airways[away > 8 + 3 + mm].any()


def test_a_body_and_the_air_in_it() -> None:
    hu = chest(1.0)
    found = look_into_body(hu, 1.0)
    inner = np.zeros(hu.shape, bool)
    inner[20:220, 10:310] = True
    assert (found.body != inner).mean() < 0.01
    assert found.air[hu == LUNG].all()
    assert not found.air[~inner].any()
    assert found.mm == 1.0
    assert look_into_body(hu, None).mm == pytest.approx((65_000 / found.body.sum()) ** 0.5)


def test_gas_is_what_is_clearly_darker_than_lung() -> None:
    hu = chest(1.0)
    lungs = (hu == LUNG).astype(np.uint8)
    assert gas_level(look_into_body(hu, 1.0), lungs) == -880  # 30 below the median
    assert gas_level(look_into_body(hu + np.int16(200), 1.0), lungs) == pytest.approx(-680, abs=1)
    assert gas_level(look_into_body(hu - np.int16(90), 1.0), lungs) == -930
    assert gas_level(look_into_body(hu, 1.0), np.zeros_like(lungs)) == -930


@pytest.mark.parametrize("size", [256, 400])
def test_airways_of_phantoms(size: int) -> None:
    seen = held = 0
    for number in range(3):
        patient = make_patient(
            np.random.default_rng(np.random.SeedSequence([0, number]).spawn(2)[0])
        )
        for z in (0.6, 0.75, 0.9):
            made = phantom_slice(number, z, size=size)
            lumens = draw_chest(patient, z, cells=size) == Tissue.AIRWAY
            found = look_into_body(made.image, patient.field_mm / size)
            airways = find_airways(found, gas_level(found, made.mask // 255))
            seen += int((airways > 0)[lumens].sum())
            held += int(lumens.sum())
            assert (airways > 0)[made.mask > 0].mean() < 0.005
    assert seen > 0.95 * held
