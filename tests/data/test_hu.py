"""What can be Hounsfield units, and what was stored otherwise."""

import numpy as np
import pytest

from lungunet.data.hu import judge_hu, require_hu, restore_hu
from lungunet.errors import DataError


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


class TestOneRule:
    """What is judged to be stored wrongly is what can be restored, by the same constants."""

    TRUTH = np.array([[-1000, -850, 40, 60]], np.int16).repeat(8, 0).repeat(4, 1)

    @pytest.mark.parametrize(
        ("stored", "kind"),
        [
            (TRUTH.view(np.uint16), "hu-wrap"),
            ((TRUTH + 1024).astype(np.uint16), "hu-offset"),
            (TRUTH + np.int16(1024), "hu-offset"),
        ],
    )
    def test_what_is_wrong_is_restored(self, stored: np.ndarray, kind: str) -> None:
        fault = judge_hu(stored)
        assert fault is not None
        assert fault.kind == kind
        assert np.array_equal(restore_hu(stored), self.TRUTH)
        assert judge_hu(restore_hu(stored)) is None

    def test_a_scan_with_the_offset_is_refused(self) -> None:
        require_hu(self.TRUTH[None], "a.nii")
        with pytest.raises(DataError, match=r"^a\.nii: values from 24 to 1084 are no HU, air"):
            require_hu(self.TRUTH[None] + 1024, "a.nii")
