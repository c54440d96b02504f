"""Scans of patients and tables that are not as usual: the mask is right, or triage says so."""

import numpy as np
import pytest
from scipy import ndimage

from lungunet import check_slice, check_volume, phantom_slice, segment_lungs, split_sides
from lungunet.inference.quality import Plausibility

SIZE, STEP_MM = 128, 20.0
SPACING_MM = (STEP_MM, 2.9, 2.9)


@pytest.fixture(scope="module")
def scan() -> tuple[np.ndarray, np.ndarray]:
    """Return (D, H, W) int16 HU and bool lung."""
    made = [phantom_slice(0, z, size=SIZE) for z in np.arange(0.05, 0.97, STEP_MM / 340)]
    return np.stack([one.image for one in made]), np.stack([one.mask for one in made]) > 0


def collapse(hu: np.ndarray, lung: np.ndarray, *, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Let the right lung fall back, behind air; return HU and the air."""
    right = split_sides(lung, spacing_mm=SPACING_MM) == 2
    rows = np.nonzero(right)[1]
    air = right & (np.arange(SIZE)[:, None] < np.quantile(rows, share))
    air = ndimage.binary_opening(air, np.ones((1, 3, 3)))
    hu = hu.copy()
    hu[air] = np.random.default_rng(0).normal(-990, 12, air.sum())
    hu[right & ~air] += 250
    return hu, air


def check(hu: np.ndarray, lung: np.ndarray) -> Plausibility:
    return check_volume(hu, lung.astype(np.uint8), spacing_mm=SPACING_MM)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


class TestPneumothorax:
    def test_in_the_mask_is_red_and_named(self, scan: tuple[np.ndarray, np.ndarray]) -> None:
        hu, lung = scan
        hu, air = collapse(hu, lung, share=0.5)
        found = check(hu, lung)
        assert found.light == "red"
        assert "as dark and even as open air" in " ".join(found.reasons)
        fullest = int(air.sum(axis=(1, 2)).argmax())
        assert check_slice(hu[fullest], lung[fullest].astype(np.uint8)).light == "red"

    def test_left_out_is_no_dispute(self, scan: tuple[np.ndarray, np.ndarray]) -> None:
        hu, lung = scan
        hu, air = collapse(hu, lung, share=0.5)
        fullest = int(air.sum(axis=(1, 2)).argmax())
        image, right = hu[fullest], (lung & ~air)[fullest].astype(np.uint8)
        inside, without = (
            check_slice(image, lung[fullest].astype(np.uint8)),
            check_slice(image, right),
        )
        assert without.values["bare_air"] == 0
        assert without.worry < inside.worry
        assert without.values["left_out"] < 0.03

    def test_of_the_rule_is_red(self, scan: tuple[np.ndarray, np.ndarray]) -> None:
        hu, lung = scan
        hu, air = collapse(hu, lung, share=0.5)
        rule = segment_lungs(hu, spacing_mm=SPACING_MM)
        assert iou(rule > 0, lung & ~air) < 0.9
        assert check_volume(hu, rule, spacing_mm=SPACING_MM, by="threshold").light == "red"


def test_lung_is_no_bare_air(scan: tuple[np.ndarray, np.ndarray]) -> None:
    assert check(*scan).values["bare_air"] == pytest.approx(0, abs=0.001)


def test_a_lung_that_is_not_there_is_not_missed(scan: tuple[np.ndarray, np.ndarray]) -> None:
    hu, lung = scan
    right = split_sides(lung, spacing_mm=SPACING_MM) == 2
    gone = np.where(right, np.int16(30), hu)
    rule = segment_lungs(gone, spacing_mm=SPACING_MM) > 0
    assert iou(rule, lung & ~right) > 0.95
    assert check(gone, lung).light == "red"


def test_a_table_full_of_air_is_no_lung(scan: tuple[np.ndarray, np.ndarray]) -> None:
    hu, lung = scan
    with_table = hu.copy()
    rows = np.flatnonzero((hu > -300).any(axis=(0, 2)))
    top, bottom = rows[-1] - 2, min(rows[-1] + 16, SIZE - 2)
    free = np.zeros_like(lung)
    free[:, top:bottom, 16:-16] = True
    free &= hu < -700
    with_table[free] = -150
    inner = ndimage.binary_erosion(free, np.ones((1, 3, 3)))
    with_table[inner] = np.random.default_rng(0).normal(-980, 12, inner.sum())
    rule = segment_lungs(with_table, spacing_mm=SPACING_MM)
    assert iou(rule > 0, lung) > 0.95
    trust = check_volume(with_table, rule, spacing_mm=SPACING_MM, by="threshold")
    without = check_volume(hu, rule, spacing_mm=SPACING_MM, by="threshold")
    assert trust.light == without.light
    assert trust.worry == pytest.approx(without.worry, abs=0.02)


def test_of_one_who_lies_prone_the_rule_loses_no_lung(scan: tuple[np.ndarray, np.ndarray]) -> None:
    hu, lung = (np.ascontiguousarray(each[:, ::-1]) for each in scan)
    rule = segment_lungs(hu, spacing_mm=SPACING_MM) > 0
    assert (rule & lung).sum() > 0.95 * lung.sum()


def test_tips_of_lung_are_no_scattered_parts_of_a_scan() -> None:
    hu = np.full((6, 96, 128), -1000, np.int16)
    hu[:, 8:88, 8:120] = 40
    hu[2:5, 24:72, 24:48] = hu[2:5, 24:72, 80:104] = -850
    hu[1, 24:36, 24:36] = hu[1, 60:72, 24:36] = hu[1, 24:36, 80:92] = -850  # three, of two lungs
    mask = (hu == -850).astype(np.uint8)
    apart = check_slice(hu[1], mask[1]).values["scattered"]
    within = check_volume(hu, mask, spacing_mm=(10.0, 2.0, 2.0)).slices[1].values["scattered"]
    assert apart is not None
    assert apart > 0.1
    assert within == 0
    mask[1, 44:54, 60:70] = 1  # of no lung
    beside = check_volume(hu, mask, spacing_mm=(10.0, 2.0, 2.0)).slices[1].values["scattered"]
    assert beside == 100 / (0.05 * 96 * 128)
