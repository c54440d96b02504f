"""Mending a predicted volume: a chest drawn by hand, phantoms, and how much memory it takes."""

import subprocess
import sys

import numpy as np
import pytest

from lungunet import DataError, GeometryError
from lungunet.inference.refine import refine_volume
from lungunet.phantom.phantom import phantom_slice

AIR, TISSUE, LUNG = -1000, 40, -850
SHAPE = (12, 90, 130)
SPACING = (3.0, 2.6, 2.6)
MM2 = 2.6 * 2.6
RIGHT = (slice(1, 11), slice(22, 68), slice(16, 48))
LEFT = (slice(2, 11), slice(22, 68), slice(76, 108))


def chest(*lungs: tuple[slice, ...]) -> np.ndarray:
    """(12, 90, 130) int16: a body in air, with boxes of lung."""
    hu = np.full(SHAPE, AIR, np.int16)
    hu[:, 8:82, 4:126] = TISSUE
    for box in lungs:
        hu[box] = LUNG
    return hu


def boxes(*parts: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    for box in parts:
        mask[box] = 1
    return mask


def refined(hu: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return refine_volume(hu, mask, spacing_mm=SPACING)


class TestParts:
    def test_a_right_mask_stays(self) -> None:
        found = refined(chest(RIGHT, LEFT), 255 * boxes(RIGHT, LEFT))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, boxes(RIGHT, LEFT))

    def test_specks_go(self) -> None:
        speck = (slice(4, 8), slice(30, 38), slice(56, 64))  # 256 of 14,720 voxels
        found = refined(chest(RIGHT, LEFT), boxes(RIGHT, LEFT, speck))
        np.testing.assert_array_equal(found, boxes(RIGHT, LEFT))

    def test_air_around_the_body_goes_even_where_it_is_most(self) -> None:
        outside = chest(RIGHT, LEFT) == AIR
        found = refined(chest(RIGHT, LEFT), boxes(RIGHT, LEFT) | outside)
        np.testing.assert_array_equal(found, boxes(RIGHT, LEFT))

    def test_foam_beside_the_body_goes(self) -> None:
        foam = (slice(0, 12), slice(84, 88), slice(10, 120))  # 5,280 voxels, as dense as lung
        found = refined(chest(RIGHT, LEFT, foam), boxes(RIGHT, LEFT, foam))
        np.testing.assert_array_equal(found, boxes(RIGHT, LEFT))

    @pytest.mark.parametrize(("voxels", "stays"), [(5, False), (10, True)])
    def test_a_small_lung_stays_when_it_is_the_other_one(self, voxels: int, stays: bool) -> None:
        # Of 20 mL of right lung 1.0 mL are 5 %: smaller parts need 10 mL beyond the middle.
        small = (slice(4, 9), slice(30, 30 + voxels), slice(68, 80))  # 6.1 or 12.2 mL
        same_side = (slice(4, 9), slice(70, 70 + voxels), slice(20, 32))
        hu = chest(RIGHT, small, same_side)
        np.testing.assert_array_equal(
            refined(hu, boxes(RIGHT, small, same_side)), boxes(RIGHT, *([small] if stays else []))
        )

    def test_gas_that_no_rule_calls_lung_goes_and_dense_lung_stays(self) -> None:
        hu = np.concatenate([np.full(SHAPE, AIR, np.int16), chest(RIGHT, LEFT)])
        hu[:12, 8:82, 4:126] = TISSUE
        bowel = (slice(2, 9), slice(20, 40), slice(80, 104))
        lobe = (slice(2, 8), slice(22, 42), slice(16, 40))
        hu[bowel] = -990
        found = refined(hu, np.concatenate([boxes(bowel, lobe), boxes(RIGHT, LEFT)]))
        np.testing.assert_array_equal(found, np.concatenate([boxes(lobe), boxes(RIGHT, LEFT)]))

    def test_lung_that_the_picture_cuts_open_stays(self) -> None:
        hu, mask = chest(RIGHT, LEFT)[:, :, 30:], boxes(RIGHT, LEFT)[:, :, 30:]
        np.testing.assert_array_equal(refined(hu, mask), mask)
        wider = ((0, 0), (0, 0), (9, 0))
        padded = np.pad(hu, wider, constant_values=-2000)
        np.testing.assert_array_equal(refined(padded, np.pad(mask, wider)), np.pad(mask, wider))

    def test_where_nothing_lies_in_the_body_the_parts_stay(self) -> None:
        hu = np.full(SHAPE, LUNG, np.int16)
        np.testing.assert_array_equal(refined(hu, boxes(RIGHT)), boxes(RIGHT))


class TestAirways:
    def made(self, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """A chest with a trachea of 14 px (95 mm2) between the lungs, from a slice upwards."""
        rows, columns = np.ogrid[:90, :130]
        lumen = np.zeros(SHAPE, bool)
        lumen[first:] = np.hypot(rows - 40, columns - 62) < 4
        hu = chest(RIGHT, LEFT)
        hu[lumen] = AIR
        return hu, lumen

    def test_a_trachea_that_joins_the_lungs_goes(self) -> None:
        hu, lumen = self.made()
        bridge = (slice(5, 7), slice(39, 41), slice(48, 76))
        found = refined(hu, boxes(RIGHT, LEFT, bridge) | lumen)
        assert not found[lumen].any()
        np.testing.assert_array_equal(found[boxes(RIGHT, LEFT) > 0], 1)

    def test_what_hangs_on_a_trachea_alone_goes_with_it(self) -> None:
        hu, lumen = self.made()
        bridge = (slice(5, 7), slice(39, 41), slice(48, 76))
        pouch = (slice(4, 8), slice(43, 52), slice(60, 64))
        found = refined(hu, boxes(RIGHT, LEFT, bridge, pouch) | lumen)
        assert not found[pouch].any()

    def test_a_bronchus_within_the_lung_is_no_hole_to_fill(self) -> None:
        rows, columns = np.ogrid[:90, :130]
        away = np.broadcast_to(np.hypot(rows - 45, columns - 32), SHAPE)
        hu = chest(RIGHT, LEFT)
        hu[away < 4.5], hu[away < 2.5] = TISSUE, AIR  # 128 mm2 of lumen
        mask = boxes(RIGHT, LEFT) & (away >= 2.5)
        found = refined(hu, mask)
        assert not found[away < 2.5].any()
        assert found[boxes(RIGHT, LEFT) & (away > 6) == 1].all()

    def test_a_bubble_in_few_slices_is_left_to_the_rule_of_parts(self) -> None:
        hu, lumen = self.made(first=9)  # 9 mm
        bridge = (slice(9, 11), slice(39, 41), slice(48, 76))
        found = refined(hu, boxes(RIGHT, LEFT, bridge) | lumen)
        assert found[9:11][lumen[9:11]].all()


class TestHoles:
    def test_vessels_are_filled_and_a_dome_is_not(self) -> None:
        hu, mask = chest(RIGHT, LEFT), boxes(RIGHT, LEFT)
        vessel = (slice(0, 12), slice(30, 35), slice(20, 25))  # 169 mm2, open above and below
        dome = (slice(0, 12), slice(45, 60), slice(25, 40))
        hu[vessel] = hu[dome] = TISSUE
        mask[vessel] = mask[dome] = 0
        found = refined(hu, mask)
        expected = boxes(RIGHT, LEFT)
        expected[dome] = 0
        np.testing.assert_array_equal(found, expected)

    def test_a_nodule_is_filled(self) -> None:
        hu, mask = chest(RIGHT, LEFT), boxes(RIGHT, LEFT)
        nodule = (slice(4, 8), slice(30, 50), slice(80, 100))  # 2,704 mm2 in a slice
        hu[nodule], mask[nodule] = TISSUE, 0
        np.testing.assert_array_equal(refined(hu, mask), boxes(RIGHT, LEFT))


def test_phantoms_with_foreign_air_become_lungs() -> None:
    made = [phantom_slice(4, z, size=128) for z in np.linspace(0.1, 0.95, 30)]
    hu = np.stack([one.image for one in made])
    truth = np.stack([one.mask for one in made]) > 0
    rng = np.random.default_rng(0)
    wrong = (truth | (hu < -950)) ^ (rng.random(hu.shape) < 0.003)
    for mask, at_least in ((truth, 0.995), (wrong, 0.985)):
        found = refine_volume(hu, mask, spacing_mm=(10.0, 2.9, 2.9)) > 0
        assert (found & truth).sum() / (found | truth).sum() > at_least
    assert (wrong & truth).sum() / (wrong | truth).sum() < 0.5


@pytest.mark.parametrize("shape", [(1, 40, 50), (3, 1, 1), (2, 5, 3)])
def test_empty_and_tiny(shape: tuple[int, ...]) -> None:
    hu = np.full(shape, LUNG, np.int16)
    assert not refined(hu, np.zeros(shape, bool)).any()
    assert refined(hu, np.ones(shape, bool)).shape == shape


def test_the_input_stays() -> None:
    hu, mask = chest(RIGHT, LEFT), boxes(RIGHT, LEFT)
    before = hu.copy(), mask.copy()
    refined(hu, np.asfortranarray(mask))
    np.testing.assert_array_equal(hu, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_what_does_not_fit_is_refused() -> None:
    hu, mask = chest(RIGHT), boxes(RIGHT)
    with pytest.raises(GeometryError, match=r"mask: is \(12, 90, 129\), its scan is"):
        refined(hu, mask[:, :, 1:])
    with pytest.raises(DataError, match=r"mask: shape \(90, 130\)\. Pass \(D, H, W\)"):
        refined(hu[0], mask[0])
    for spacing in (SPACING[:2], (3.0, 0.0, 1.0), (3.0, np.nan, 1.0), (3.0, 1.0, np.inf)):
        with pytest.raises(DataError, match="not three lengths above 0"):
            refine_volume(hu, mask, spacing_mm=spacing)  # type: ignore[arg-type]
    spoilt = hu.astype(np.float32)
    spoilt[3, 40, 50] = np.nan
    with pytest.raises(DataError, match="HU: holds NaN or infinite values"):
        refined(spoilt, mask)


def test_memory_stays_below_three_times_the_volume() -> None:
    """Of float32, with scan and mask, at (64, 128, 128): what numpy holds at most."""
    code = """if True:
        import tracemalloc
        import numpy as np
        from lungunet.inference.refine import refine_volume
        from lungunet.inference.sides import split_sides
        hu = np.full((64, 128, 128), 40, np.float32)
        hu[:, 30:100, 20:55] = hu[:, 30:100, 75:110] = -850
        mask = (hu < 0).astype(np.uint8)
        for work in (refine_volume, lambda hu, mask, **mm: split_sides(mask, **mm)):
            tracemalloc.start()
            work(hu, mask, spacing_mm=(3.0, 2.0, 2.0))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            print((hu.nbytes + mask.nbytes + peak) / hu.nbytes)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert max(map(float, done.stdout.split())) < 3
