"""The baseline on chests drawn by hand, on phantoms, and behind the predictor."""

from pathlib import Path

import numpy as np
import pytest
from arms import lay_arms

import lungunet
from lungunet import DataError, ModelError, Predictor
from lungunet.inference.threshold import ThresholdSegmenter, segment_lungs
from lungunet.phantom.phantom import phantom_slice, phantom_slices

AIR, TISSUE, LUNG = -1000, 40, -850
SHAPE = (180, 250)
SPACING = (1.3, 1.3)  # the body below is 312 x 195 mm
RIGHT, LEFT = (slice(45, 135), slice(30, 95)), (slice(45, 135), slice(150, 215))
MIDDLE = slice(95, 150)  # columns between the lungs

Box = tuple[slice, slice]


def chest(*lungs: Box) -> np.ndarray:
    """(180, 250) int16: a body in air, with boxes of lung."""
    hu = np.full(SHAPE, AIR, np.int16)
    hu[15:165, 5:245] = TISSUE
    for box in lungs:
        hu[box] = LUNG
    return hu


def truth(*lungs: Box) -> np.ndarray:
    return (chest(*lungs) == LUNG).astype(np.uint8)


def noisy(hu: np.ndarray, hu_std: float = 25) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, hu_std, hu.shape)
    return (hu + noise).round().astype(np.int16)


def disk(row: float, column: float, radius_mm: float) -> np.ndarray:
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return np.asarray(np.hypot(rows - row, columns - column) * SPACING[0] <= radius_mm)


def outside_circle() -> np.ndarray:
    """Everything but a circle that touches the slice above and below: it cuts the arms off."""
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return np.asarray(np.hypot((rows - 89.5) / 90, (columns - 124.5) / 128) > 1)


def assert_overlap(found: np.ndarray, expected: np.ndarray, at_least: float = 0.99) -> None:
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert (found & expected).sum() / (found | expected).sum() >= at_least


class TestAnatomy:
    @pytest.mark.parametrize("spacing_mm", [None, SPACING])
    def test_two_lungs_to_the_pixel(self, spacing_mm: tuple[float, ...] | None) -> None:
        found = segment_lungs(chest(RIGHT, LEFT), spacing_mm=spacing_mm)
        assert_overlap(found, truth(RIGHT, LEFT), 1.0)

    def test_noise_moves_little(self) -> None:
        found = segment_lungs(noisy(chest(RIGHT, LEFT), 250), spacing_mm=SPACING)
        assert_overlap(found, truth(RIGHT, LEFT), 0.98)

    def test_one_lung(self) -> None:
        assert_overlap(segment_lungs(noisy(chest(LEFT))), truth(LEFT))

    def test_lungs_that_touch_do_not_swallow_the_heart_between_them(self) -> None:
        bridges = (slice(45, 52), MIDDLE), (slice(128, 135), MIDDLE)
        found = segment_lungs(noisy(chest(RIGHT, LEFT, *bridges)), spacing_mm=SPACING)
        assert_overlap(found, truth(RIGHT, LEFT, *bridges))
        assert not found[60:120, MIDDLE].any()

    def test_lungs_that_nearly_touch_stay_two(self) -> None:
        near = (slice(45, 135), slice(97, 160))
        found = segment_lungs(noisy(chest(RIGHT, near)), spacing_mm=SPACING)
        assert not found[:, 95:97].any()

    def test_no_lung(self) -> None:
        assert not segment_lungs(noisy(chest())).any()

    @pytest.mark.parametrize("radius_mm", [7, 12])
    def test_the_trachea_is_no_lung(self, radius_mm: float) -> None:
        hu = chest(RIGHT, LEFT)
        hu[disk(70, 122, radius_mm)] = AIR
        assert_overlap(segment_lungs(noisy(hu), spacing_mm=SPACING), truth(RIGHT, LEFT))
        alone = chest()
        alone[disk(70, 122, radius_mm)] = AIR
        assert not segment_lungs(noisy(alone), spacing_mm=SPACING).any()

    @pytest.mark.parametrize(
        ("radius_mm", "first_row", "mm"),
        [(5, 0, 1.0), (8, 0, 1.0), (8, 82, 0.7)],  # the last lumen ends near the edge
    )
    def test_a_main_bronchus_open_to_the_lung_is_cut_off(
        self, radius_mm: float, first_row: int, mm: float
    ) -> None:
        lungs = (slice(86, 135), RIGHT[1]), (slice(86, 135), LEFT[1])
        hu = chest(*lungs)
        hu[89:92, 93:102] = AIR  # joins the lumen with the right lung
        lumen = disk(90, 97 + radius_mm / SPACING[0], radius_mm)
        hu[lumen & (hu != LUNG)] = AIR
        found = segment_lungs(noisy(hu)[first_row:], spacing_mm=(mm, mm))
        assert not found[lumen[first_row:]].any()
        expected = truth(*lungs)[first_row:]
        assert_overlap(found, expected, 0.97)
        assert (found & ~expected & 1).sum() < 5

    def test_bronchi_within_the_lung_stay_when_small(self) -> None:
        hu = chest(RIGHT, LEFT)
        hu[disk(90, 60, 7.7)] = TISSUE
        lumen = disk(90, 60, 4.7)  # 69 mm2, or 17 mm2 at half the spacing
        hu[lumen] = AIR
        large = segment_lungs(noisy(hu), spacing_mm=SPACING)
        small = segment_lungs(noisy(hu), spacing_mm=(0.65, 0.65))
        assert not large[lumen].any()
        assert small[lumen].all()

    @pytest.mark.parametrize("lungs", [(RIGHT, LEFT), ()])
    def test_gas_in_the_stomach_is_no_lung(self, lungs: tuple[Box, ...]) -> None:
        hu = chest(*lungs)
        hu[60:100, 105:140] = -970  # 2,400 mm2, larger than any lumen
        found = segment_lungs(noisy(hu), spacing_mm=SPACING)
        assert not found[60:100, 105:140].any()
        np.testing.assert_array_equal(
            found, segment_lungs(noisy(chest(*lungs)), spacing_mm=SPACING)
        )

    def test_gas_is_told_by_the_lung_where_a_scanner_reads_too_high(self) -> None:
        hu = chest(RIGHT, LEFT)
        hu[60:100, 105:140] = -970
        found = segment_lungs(noisy(hu + np.int16(170)), spacing_mm=SPACING)
        assert_overlap(found, truth(RIGHT, LEFT))

    def test_vessels_are_closed_within_and_at_the_edge(self) -> None:
        hu = chest(RIGHT, LEFT)
        vessel = disk(80, 60, 7.5)  # cut across
        hu[vessel] = TISSUE
        hu[100:106, 70:95] = TISSUE  # entering at the hilum, 8 mm wide
        found = segment_lungs(noisy(hu), spacing_mm=SPACING)
        assert_overlap(found, truth(RIGHT, LEFT))
        assert found[vessel].all()

    def test_the_dome_of_the_liver_stays_out(self) -> None:
        hu = chest(RIGHT, LEFT)
        dome = disk(90, 62, 20)
        hu[dome] = TISSUE
        found = segment_lungs(noisy(hu), spacing_mm=SPACING)
        assert not found[disk(90, 62, 17)].any()


class TestSurroundings:
    def test_table_and_foam_are_not_lung(self) -> None:
        hu = chest(RIGHT, LEFT)
        hu[168:178, 20:230] = -150  # shell, 4 mm below the back
        hu[170:176, 24:226] = -870  # foam in it, as dense as lung
        assert_overlap(segment_lungs(noisy(hu), spacing_mm=SPACING), truth(RIGHT, LEFT))

    def test_an_arm_with_air_around_is_not_the_body(self) -> None:
        hu = np.pad(chest(RIGHT, LEFT), ((0, 0), (0, 60)), constant_values=AIR)
        hu[60:120, 255:305] = TISSUE
        hu[75:105, 270:290] = LUNG
        found = segment_lungs(noisy(hu), spacing_mm=SPACING)
        assert_overlap(found, np.pad(truth(RIGHT, LEFT), ((0, 0), (0, 60))))

    @pytest.mark.parametrize("number", [2, 5, 9])
    def test_air_that_an_arm_closes_in_is_not_lung(self, number: int) -> None:
        image, mask, pocket = lay_arms(phantom_slice(number, 0.5), joined=True)
        found = segment_lungs(image)
        assert not found[pocket].any()
        assert_overlap(found, mask // 255, 0.96)

    def test_a_stomach_in_the_chest_is_not_lung(self) -> None:
        hu = noisy(chest(RIGHT, LEFT))
        hu[95:130, 100:145] = noisy(np.full((35, 45), AIR, np.int16))  # beside the spine
        vessels = np.random.default_rng(2).random(SHAPE) < 0.06
        hu[vessels & (truth(RIGHT, LEFT) > 0)] = 0
        found = segment_lungs(hu, spacing_mm=SPACING)
        assert not found[95:130, 100:145].any()
        assert_overlap(found, truth(RIGHT, LEFT))

    @pytest.mark.parametrize("padding", [None, -1024, -1670, -2470, -32768])
    def test_padding_outside_the_circle_does_not_matter(self, padding: int | None) -> None:
        hu = noisy(chest(RIGHT, LEFT))
        if padding is not None:
            hu[outside_circle()] = padding
        assert_overlap(segment_lungs(hu), truth(RIGHT, LEFT))

    def test_padding_does_not_leak_through_a_thin_wall(self) -> None:
        hu = noisy(chest(RIGHT, LEFT))
        hu[:43] = -32768  # 2 px from the lungs
        assert_overlap(segment_lungs(hu, spacing_mm=SPACING), truth(RIGHT, LEFT))

    def test_a_body_that_fills_the_picture(self) -> None:
        hu = noisy(chest(RIGHT, LEFT))[20:160, 10:240]
        assert_overlap(segment_lungs(hu), truth(RIGHT, LEFT)[20:160, 10:240])

    def test_a_lung_that_the_picture_cuts_is_outside_as_the_docstring_says(self) -> None:
        hu = noisy(chest(RIGHT, LEFT))[:, 60:]
        assert_overlap(segment_lungs(hu, spacing_mm=SPACING), truth(LEFT)[:, 60:])


class TestInvariance:
    MADE = phantom_slice(3, 0.55, size=128)

    @pytest.mark.parametrize("dtype", [np.int32, np.float32])
    def test_dtype(self, dtype: type) -> None:
        found = segment_lungs(self.MADE.image.astype(dtype))
        np.testing.assert_array_equal(found, segment_lungs(self.MADE.image))

    @pytest.mark.parametrize("axis", [0, 1])
    def test_flip_and_memory_order(self, axis: int) -> None:
        flipped = np.flip(self.MADE.image, axis)
        assert not flipped.flags.c_contiguous
        expected = np.flip(segment_lungs(self.MADE.image), axis)
        np.testing.assert_array_equal(segment_lungs(flipped), expected)

    @pytest.mark.parametrize("padding", [-1000, -2000])
    def test_air_around(self, padding: int) -> None:
        wider = np.pad(self.MADE.image, ((7, 30), (21, 4)), constant_values=padding)
        expected = np.pad(segment_lungs(self.MADE.image), ((7, 30), (21, 4)))
        assert expected.any()
        np.testing.assert_array_equal(segment_lungs(wider), expected)

    def test_the_input_is_left_as_it_is(self) -> None:
        before = self.MADE.image.copy()
        segment_lungs(self.MADE.image)
        np.testing.assert_array_equal(self.MADE.image, before)

    def test_sizes_are_in_mm_where_the_spacing_is_known(self) -> None:
        small = (slice(80, 97), slice(60, 77))  # 17 x 17 px
        hu = chest(small, LEFT)
        assert segment_lungs(hu, spacing_mm=(1.0, 1.0))[small].all()  # 289 mm2
        assert not segment_lungs(hu, spacing_mm=(0.8, 0.8))[small].any()  # 185 mm2
        assert segment_lungs(hu, spacing_mm=(0.8, 1.6))[small].all()  # 370 mm2
        assert segment_lungs(hu, spacing_mm=(1.6, 0.8))[small].all()


class TestPhantoms:
    def test_pooled_iou(self) -> None:
        both = either = 0
        for made in phantom_slices(patients=8, slices=3, size=192):
            found, lung = segment_lungs(made.image) > 0, made.mask > 0
            both += int((found & lung).sum())
            either += int((found | lung).sum())
            if not lung.any():
                assert not found.any(), made.name
        assert both / either > 0.97


class TestVolume:
    def test_slices_in_the_middle_are_those_of_the_stack(self) -> None:
        made = [phantom_slice(1, z, size=96) for z in (0.5, 0.53, 0.56)]
        volume = np.stack([one.image for one in made])
        found = segment_lungs(volume, spacing_mm=(10.0, 3.8, 3.8))
        stack = np.stack([segment_lungs(one, spacing_mm=(3.8, 3.8)) for one in volume])
        assert_overlap(found, stack, 0.99)
        assert_overlap(found, np.stack([one.mask // 255 for one in made]), 0.93)

    def test_small_parts_count_where_they_go_on_in_the_next_slice(self) -> None:
        apex = (slice(80, 90), slice(60, 70))  # 169 mm2
        bubble = (slice(60, 70), slice(118, 128))
        volume = np.stack([chest(RIGHT, LEFT), chest(RIGHT, LEFT, bubble), chest(apex), chest()])
        found = segment_lungs(volume, spacing_mm=(5.0, *SPACING))
        expected = np.stack([truth(RIGHT, LEFT), truth(RIGHT, LEFT), truth(apex), truth()])
        assert_overlap(found, expected, 0.999)
        assert found[2][apex].sum() > 90
        assert not segment_lungs(volume[2], spacing_mm=SPACING).any()
        assert not found[1][bubble].any()

    def test_a_volume_without_lung(self) -> None:
        assert not segment_lungs(np.stack([chest(), chest()])).any()


@pytest.mark.parametrize("value", [-32768, -1000, -850, 0, 3000])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2), (40, 57), (1, 1, 1), (2, 5, 7)])
def test_pictures_of_one_value_and_tiny_ones_hold_no_lung(
    shape: tuple[int, ...], value: int
) -> None:
    found = segment_lungs(np.full(shape, value, np.int16))
    assert found.shape == shape
    assert found.dtype == np.uint8
    assert not found.any()


class TestRefusals:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64, bool])
    def test_dtypes_without_hu(self, dtype: type) -> None:
        for shape in ((20, 30), (2, 20, 30)):
            with pytest.raises(DataError, match=f"a slice of {np.dtype(dtype)}, .* int16"):
                segment_lungs(np.zeros(shape, dtype))

    @pytest.mark.parametrize("shape", [(5,), (0, 4), (2, 0, 4), (1, 2, 3, 4)])
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"pass \(H, W\) or \(D, H, W\)"):
            segment_lungs(np.zeros(shape, np.int16))

    @pytest.mark.parametrize(
        "spacing_mm",
        [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (np.nan, 1.0), (1.0, np.inf), 1.0],
    )
    def test_spacings(self, spacing_mm: tuple[float, ...]) -> None:
        with pytest.raises(DataError, match="not two lengths above 0"):
            segment_lungs(np.zeros((20, 30), np.int16), spacing_mm=spacing_mm)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_no_number_wherever_it_lies(self, value: float) -> None:
        hu = np.zeros((3, 20, 30), np.float32)
        hu[2, 11, 5] = value
        for given in (hu, hu[2]):
            with pytest.raises(DataError, match="HU: holds NaN or infinite values"):
                segment_lungs(given)


class TestSegmenter:
    def test_classes_are_all_it_says_at_the_size_of_each_slice(self) -> None:
        images = [chest(RIGHT, LEFT), chest()[:, ::2]]
        first, second = ThresholdSegmenter()(images)
        assert first.probabilities is second.probabilities is None
        assert first.classes.dtype == second.classes.dtype == np.uint8
        np.testing.assert_array_equal(first.classes, segment_lungs(images[0]))
        np.testing.assert_array_equal(second.classes, np.zeros((180, 125)))

    def test_whoever_asks_for_probabilities_gets_zeros_and_ones(self) -> None:
        image = chest(RIGHT, LEFT)
        both = Predictor.load("threshold").probabilities(image)
        assert both.shape == (2, *SHAPE)
        assert both.dtype == np.float32
        np.testing.assert_array_equal(both[1], segment_lungs(image))
        np.testing.assert_array_equal(both.sum(0), 1)

    def test_the_word_threshold_is_a_model(self, tmp_path: Path) -> None:
        predictor = Predictor.load("threshold")
        image = chest(RIGHT, LEFT)
        np.testing.assert_array_equal(predictor.predict(image), truth(RIGHT, LEFT) * 255)
        with pytest.raises(ModelError):
            Predictor.load(tmp_path / "threshold")
        with pytest.raises(ModelError):
            Predictor.load("./threshold")

    def test_slices_are_shown_at_the_lung_window(self) -> None:
        grey = ThresholdSegmenter().contract.to_grey(np.array([[-1350, -600, 150]], np.int16))
        np.testing.assert_array_equal(grey, [[0, 128, 255]])

    def test_what_holds_no_hu_is_refused(self) -> None:
        segmenter = ThresholdSegmenter()
        for image in (np.zeros((20, 30), np.uint8), np.zeros((2, 20, 30), np.int16)):
            with pytest.raises(DataError):
                segmenter.prepare(image)
            with pytest.raises(DataError):
                segmenter.contract.to_grey(image)
            with pytest.raises(DataError):
                segmenter([image])

    def test_files_in_order_with_the_bad_one_named(self, tmp_path: Path) -> None:
        lungunet.write_image(tmp_path / "a.tif", chest(RIGHT))
        lungunet.write_image(tmp_path / "b.tif", np.zeros((20, 30), np.uint8))
        found = list(
            Predictor.load("threshold").predict_files([tmp_path / "b.tif", tmp_path / "a.tif"])
        )
        assert "b.tif: a slice of uint8" in str(found[0].error)
        np.testing.assert_array_equal(found[1].classes, truth(RIGHT))
