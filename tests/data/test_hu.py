"""What can be Hounsfield units, and what was stored otherwise."""

import numpy as np
import pytest

from lungunet.data.hu import (
    HuSurvey,
    clear_padding,
    find_labels,
    guess_hu,
    judge_hu,
    require_hu,
    restore_hu,
)
from lungunet.errors import DataError, LungUNetWarning


class TestRestoreHu:
    def test_leaves_hu_and_grey_alone(self) -> None:
        hu = np.array([[-1000, 40]], np.int16)
        grey = np.array([[0, 200]], np.uint8)
        assert restore_hu(hu) is hu
        assert restore_hu(grey) is grey

    def test_takes_the_offset_off(self) -> None:
        stored = np.array([[24, 1064]], np.uint16)
        assert restore_hu(stored).tolist() == [[-1000, 40]]

    def test_undoes_the_wrap(self) -> None:
        wrapped = np.array([[64536, 40]], np.uint16)
        assert restore_hu(wrapped).tolist() == [[-1000, 40]]
        assert restore_hu(wrapped.astype(">u2")).tolist() == [[-1000, 40]]


class TestOneRule:
    """What is judged to be stored wrongly is what can be restored, by the same constants."""

    TRUTH = np.array([[-1000, -850, 40, 60]], np.int16).repeat(8, 0).repeat(4, 1)

    @pytest.mark.parametrize(
        ("stored", "kind"),
        [
            (TRUTH.view(np.uint16), "hu-wrap"),
            ((TRUTH + 1024).astype(np.uint16), "hu-offset"),
            (TRUTH + np.int16(1024), "hu-offset"),
            ((TRUTH + 1024).astype(np.float32), "hu-offset"),
        ],
    )
    def test_what_is_wrong_is_restored(self, stored: np.ndarray, kind: str) -> None:
        fault = judge_hu(stored)
        assert fault is not None
        assert fault.kind == kind
        assert np.array_equal(restore_hu(stored), self.TRUTH)
        assert judge_hu(restore_hu(stored)) is None
        assert judge_hu(stored.astype(stored.dtype.newbyteorder(">"))) == fault

    def test_padding_does_not_hide_the_offset(self) -> None:
        stored = np.where(np.arange(16) < 3, -2000, self.TRUTH + 1024).astype(np.int16)
        fault = judge_hu(stored)
        assert fault is not None
        assert (fault.severity, fault.kind) == ("error", "hu-offset")
        assert np.array_equal(restore_hu(stored)[:, 3:], self.TRUTH[:, 3:])

    def test_a_scan_with_the_offset_is_refused(self) -> None:
        require_hu(self.TRUTH[None], "a.nii")
        with pytest.raises(DataError, match=r"^a\.nii: values from 24 to 1084 are no HU, air"):
            require_hu(self.TRUTH[None] + 1024, "a.nii")


def chest(count: int = 9) -> np.ndarray:
    """(count, 32, 40) HU: air, a body of 40 HU, lung of -850."""
    hu = np.full((count, 32, 40), -1000, np.float32)
    hu[:, 4:28, 4:36] = 40
    hu[:, 8:24, 8:17] = hu[:, 8:24, 22:32] = -850
    return hu + np.random.default_rng(0).normal(0, 12, hu.shape).astype(np.float32)


WRONG = {
    "offset": (lambda hu: hu + 1024, "hu-offset"),
    "offset, padded": (lambda hu: np.where(hu < -900, -2000, hu + 1024), "hu-offset"),
    "offset, padded as air is": (lambda hu: np.where(hu < -900, -1024, hu + 1024), "hu-offset"),
    "z-score": (lambda hu: (hu - hu.mean()) / hu.std(), "hu-scaled"),
    "-1 to 1": (lambda hu: np.clip((hu + 1000) / 1400, 0, 1) * 2 - 1, "hu-scaled"),
}


class TestASet:
    @pytest.mark.parametrize("wrong", WRONG)
    def test_what_cannot_be_hu_is_an_error_for_slices_and_scans(self, wrong: str) -> None:
        spoil, kind = WRONG[wrong]
        hu = spoil(chest()).astype(np.float32)
        survey = HuSurvey()
        for plane in hu:
            survey.look(plane)
        assert survey.fault is not None
        assert (survey.fault.severity, survey.fault.kind) == ("error", kind)
        with pytest.raises(DataError, match=r"^scan: "):
            require_hu(hu, "scan")

    def test_what_is_hu_passes(self) -> None:
        require_hu(chest(), "scan")
        require_hu(chest().astype(np.int16), "scan")
        padded = chest()
        padded[:, :4] = -3024
        require_hu(padded, "scan")

    def test_some_wrong_slices_are_named_in_a_warning(self) -> None:
        survey = HuSurvey()
        for index, plane in enumerate(chest()):
            survey.look(plane + 1024 * (index < 2), f"s{index}")
        assert survey.fault is not None
        assert survey.fault.severity == "warning"
        assert survey.fault.text.startswith("2 of 9 slices (s0, s1): smallest value")

    def test_each_kind_of_wrong_slices_is_named(self) -> None:
        survey = HuSurvey()
        for index, plane in enumerate(chest()):
            survey.look(plane / 800 if index == 4 else plane + 1024 * (index < 2), f"s{index}")
        assert survey.fault is not None
        assert survey.fault.kind == "hu-offset"
        assert survey.fault.text.startswith("2 of 9 slices (s0, s1): smallest value")
        assert "1 of 9 slices (s4): values" in survey.fault.text

    def test_slices_of_the_neck_and_the_belly_are_no_fault_of_the_set(self) -> None:
        survey = HuSurvey()
        for plane in (*chest(2), np.full((32, 40), 30, np.int16), np.full((32, 40), 30, np.int16)):
            survey.look(plane)
        assert survey.fault is None

    def test_a_head_whose_air_is_cut_off_passes(self) -> None:
        hu = np.full((64, 64), -1024, np.int16)
        hu[8:56, 8:56] = np.linspace(300, 1900, 48)  # bone is of all densities
        hu[20:44, 20:44] = 40
        assert float((abs(hu - 1024.0) < 200).mean()) > 0.05
        assert judge_hu(hu) is None

    def test_a_scan_without_tissue_is_doubtful(self) -> None:
        with pytest.warns(LungUNetWarning, match=r"^scan: values .* nothing as dense as tissue"):
            require_hu(np.minimum(chest(), -700), "scan")

    def test_eight_bits_are_no_fault_of_a_set(self) -> None:
        survey = HuSurvey()
        survey.look(np.zeros((8, 8), np.uint8))
        assert survey.fault is None


class TestPadding:
    @pytest.mark.parametrize("value", [0, 3071, -300])
    def test_dense_padding_becomes_dark_and_nothing_else_changes(self, value: int) -> None:
        hu = chest(1)[0].astype(np.int16)
        padding = np.add(*np.ogrid[:32, :40]) < 9  # one corner, as of a turned volume
        padded = np.where(padding, np.int16(value), hu)
        for cleared in (clear_padding(padded), guess_hu(padded)):
            assert (cleared[padding] == -2000).all()
            np.testing.assert_array_equal(cleared[~padding], hu[~padding])
            assert cleared.dtype == np.int16

    def test_tissue_in_a_corner_and_air_are_no_padding(self) -> None:
        hu = chest(1)[0]
        assert clear_padding(hu) is hu
        tissue = np.random.default_rng(0).normal(40, 12, (64, 64)).astype(np.int16)
        assert clear_padding(tissue) is tissue
        assert clear_padding(grey := np.full((8, 8), 200, np.uint8)) is grey


@pytest.mark.parametrize("lowest", [-160, -125, -280])
def test_a_window_that_makes_lung_and_air_one_is_named(lowest: int) -> None:
    fault = judge_hu(np.clip(chest(1)[0], lowest, 240))
    assert fault is not None
    assert (fault.kind, fault.severity) == ("hu-range", "warning")
    assert "cut off by a window" in fault.text


def test_fat_without_air_is_cut_off_by_no_window() -> None:
    fat = np.random.default_rng(0).normal(-60, 25, (64, 64))
    assert judge_hu(fat.astype(np.int16)) is None


class TestFindLabels:
    @pytest.mark.parametrize("values", [(0, 255), (0, 1), (0, 3, 4, 5), (1, 2)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
    def test_a_mask_is_told_by_all_its_values(self, values: tuple[int, ...], dtype: type) -> None:
        mask = np.resize(np.array(values, dtype), (9, 17))
        assert find_labels(mask) == values
        assert find_labels(np.stack([mask, mask])) == values

    @pytest.mark.parametrize(
        "values",
        [(0,), (255,), (0, 0.5, 1), (0, 1, 255), (0, 200), (0, 6), (-1, 0, 1), (-900, 4)],
    )
    def test_what_may_be_a_slice_is_none(self, values: tuple[float, ...]) -> None:
        assert find_labels(np.resize(np.array(values, np.float32), (9, 17))) == ()

    def test_one_grey_pixel_is_enough(self) -> None:
        slice_ = np.resize(np.array([0, 255], np.uint8), (33, 40))
        slice_[31, 37] = 90
        assert find_labels(slice_) == ()
