"""Left and right lung: by hand, on phantoms whose sides are known, joined and alone."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lungunet import DataError
from lungunet.inference.midline import find_middles
from lungunet.inference.sides import LEFT, RIGHT, UNTOLD, is_told, split_sides
from lungunet.phantom.phantom import phantom_slice

SPACING = (6.0, 3.9, 3.9)


def boxes(shape: tuple[int, int], *spans: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for span in spans:
        mask[span] = 1
    return mask


@cache
def phantom_lungs(patient: int) -> tuple[np.ndarray, np.ndarray]:
    """(24, 96, 96) mask and its sides: each part by the half of the picture it lies in."""
    heights = np.linspace(0.15, 0.9, 24)
    mask = np.stack([phantom_slice(patient, z, size=96).mask > 0 for z in heights])
    labels, count = ndimage.label(mask)
    sides = np.zeros(mask.shape, np.uint8)
    for number in range(1, count + 1):
        part = labels == number
        sides[part] = LEFT if np.nonzero(part)[2].mean() > 47.5 else RIGHT
    return mask, sides


def joined(mask: np.ndarray, sides: np.ndarray, rows: int) -> np.ndarray:
    """Paint lung between the lungs, from their front on, in a third of the slices."""
    bridged = mask.copy()
    for plane, side in zip(bridged[8:16], sides[8:16], strict=True):
        both = np.flatnonzero((side == LEFT).any(1) & (side == RIGHT).any(1))
        for row in both[2 : 2 + rows]:
            right, left = np.flatnonzero(side[row] == RIGHT), np.flatnonzero(side[row] == LEFT)
            plane[row, right[-1] : left[0] + 1] = True
    return bridged


class TestByHand:
    RIGHT_BOX, LEFT_BOX = (slice(5, 35), slice(8, 25)), (slice(8, 38), slice(38, 52))

    def test_the_patients_right_is_on_the_left_of_the_picture(self) -> None:
        sides = split_sides(boxes((44, 60), self.RIGHT_BOX, self.LEFT_BOX))
        assert sides.dtype == np.uint8
        expected = 2 * boxes((44, 60), self.RIGHT_BOX) + boxes((44, 60), self.LEFT_BOX)
        np.testing.assert_array_equal(sides, expected)

    def test_a_bridge_is_cut_where_it_is_thinnest(self) -> None:
        mask = boxes((44, 60), self.RIGHT_BOX, self.LEFT_BOX)
        mask[10:16, 25:38] = 1
        mask[12:16, 29] = 0  # 2 pixels high here, 6 elsewhere
        sides = split_sides(mask)
        np.testing.assert_array_equal(sides > 0, mask > 0)
        assert (sides[:, :29][mask[:, :29] > 0] == RIGHT).all()
        assert (sides[:, 30:][mask[:, 30:] > 0] == LEFT).all()

    @pytest.mark.parametrize("flip", [False, True])
    def test_a_lung_that_swells_over_the_middle_is_one(self, flip: bool) -> None:
        mask = boxes((44, 60), (slice(5, 39), slice(8, 27)))
        mask[5:16, 27:37] = 1  # in front, beyond the middle at 30
        mask[:, 42:52][8:38] = 1
        expected = np.where(np.arange(60) < 40, RIGHT, LEFT) * mask
        if flip:
            mask, expected = mask[:, ::-1], ((3 - expected) * (mask > 0))[:, ::-1]
        np.testing.assert_array_equal(split_sides(mask), expected)

    def test_lungs_that_both_swell_over_the_middle(self) -> None:
        right = boxes((44, 60), (slice(5, 35), slice(8, 24)), (slice(5, 14), slice(24, 35)))
        left = boxes((44, 60), (slice(8, 38), slice(40, 54)), (slice(25, 38), slice(26, 40)))
        np.testing.assert_array_equal(split_sides(right + left), 2 * right + left)

    @pytest.mark.parametrize("columns", [slice(6, 40), slice(20, 54), slice(4, 50), slice(10, 56)])
    def test_one_wide_lung_is_not_cut(self, columns: slice) -> None:
        mask = boxes((60, 60), (slice(2, 58), columns))
        side = RIGHT if columns.start < 10 else LEFT
        np.testing.assert_array_equal(split_sides(mask), side * mask)

    def test_pieces_of_a_lung_go_with_their_side(self) -> None:
        pieces = [(slice(5, 12), slice(4, 9)), (slice(20, 30), slice(10, 20))]
        mask = boxes((44, 60), *pieces, self.LEFT_BOX)
        expected = 2 * boxes((44, 60), *pieces) + boxes((44, 60), self.LEFT_BOX)
        np.testing.assert_array_equal(split_sides(mask), expected)

    def test_an_off_centre_patient(self) -> None:
        mask = boxes((44, 90), (slice(5, 35), slice(38, 55)), (slice(5, 35), slice(62, 79)))
        sides = split_sides(mask)  # the lungs meet at column 58, the picture's middle is 45
        assert set(np.unique(sides[:, :58])) == {0, RIGHT}
        assert set(np.unique(sides[:, 58:])) == {0, LEFT}

    def test_in_a_volume_slices_tell_of_each_other(self) -> None:
        low = boxes((44, 60), (slice(5, 35), slice(8, 27)), (slice(5, 35), slice(36, 52)))
        apex = boxes((44, 60), (slice(15, 25), slice(26, 30)))  # at the middle of the picture
        apex[:, 29] = 0
        sides = split_sides(np.stack([low, low, low, apex]))
        assert (sides[3][apex > 0] == RIGHT).all()

    def test_spacing_weighs_a_neck_against_what_lies_behind(self) -> None:
        mask = np.zeros((6, 44, 60), np.uint8)
        mask[:, 5:35, 8:26] = mask[:, 5:35, 34:52] = 1
        mask[:, 10:28, 26:34] = 1  # 108 voxels of neck, 3,240 + 432 on either side
        # 0.5 * (108 z)^1.5 = 561 z^1.5 is less than 3,672 z up to z = 43
        flat, deep = (split_sides(mask, spacing_mm=(z, 1.0, 1.0)) for z in (40.0, 46.0))
        np.testing.assert_array_equal(flat, np.where(np.arange(60) < 30, RIGHT, LEFT) * mask)
        assert len(np.unique(deep)) == 2


class TestPhantoms:
    @pytest.mark.parametrize("patient", range(5))
    def test_volumes_and_slices(self, patient: int) -> None:
        mask, truth = phantom_lungs(patient)
        np.testing.assert_array_equal(split_sides(mask, spacing_mm=SPACING), truth)
        slices = np.stack([split_sides(plane, spacing_mm=SPACING[1:]) for plane in mask])
        assert (slices != truth).sum() < 0.001 * mask.sum()

    @pytest.mark.parametrize("rows", [2, 8])
    @pytest.mark.parametrize("patient", range(5))
    def test_lungs_that_touch(self, patient: int, rows: int) -> None:
        mask, truth = phantom_lungs(patient)
        bridged = joined(mask, truth, rows)
        assert bridged.sum() > mask.sum()
        assert ndimage.label(bridged)[1] < ndimage.label(mask)[1] or patient
        for found in (
            split_sides(bridged, spacing_mm=SPACING),
            np.stack([split_sides(plane) for plane in bridged]),
        ):
            np.testing.assert_array_equal(found > 0, bridged)
            assert (found != truth)[mask].sum() < 0.02 * mask.sum()

    @pytest.mark.parametrize("side", [LEFT, RIGHT])
    def test_a_lung_alone(self, side: int) -> None:
        for patient in range(3):
            _, truth = phantom_lungs(patient)
            alone = truth == side
            np.testing.assert_array_equal(split_sides(alone, spacing_mm=SPACING), side * alone)

    @pytest.mark.parametrize("shift", [-9, 8])
    def test_off_the_middle_of_the_picture(self, shift: int) -> None:
        mask, truth = phantom_lungs(1)
        found = split_sides(np.roll(mask, shift, axis=2), spacing_mm=SPACING)
        np.testing.assert_array_equal(found, np.roll(truth, shift, axis=2))

    def test_a_mirrored_patient_has_mirrored_lungs(self) -> None:
        mask, truth = phantom_lungs(2)
        bridged = joined(mask, truth, 4)
        found, mirrored = split_sides(bridged), split_sides(bridged[..., ::-1])[..., ::-1]
        assert (found[mask] + mirrored[mask] != LEFT + RIGHT).sum() < 0.002 * mask.sum()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_every_pixel_of_the_mask_gets_one_side(shape: list[int], share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    before = mask.copy()
    sides = split_sides(mask)
    np.testing.assert_array_equal(sides > 0, mask)
    assert set(np.unique(sides)) <= {0, LEFT, RIGHT}
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(
        split_sides(np.asfortranarray(mask.astype(np.int64)) * 255), sides
    )


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4, 5), (0, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"pass \(H, W\) or \(D, H, W\)"):
        split_sides(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, np.inf)])
def test_other_spacings_are_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="not two lengths above 0"):
        split_sides(np.zeros((4, 5), np.uint8), spacing_mm=spacing)


def test_a_spacing_of_numpy() -> None:
    mask = np.array([[0, 1, 1, 0, 0, 1, 1, 0]])
    given = split_sides(mask, spacing_mm=np.array([1.0, 2.0]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(given, split_sides(mask, spacing_mm=(1.0, 2.0)))


def test_scans_that_hold_nan_are_refused() -> None:
    hu = np.full((2, 4, 5), np.nan, np.float32)
    with pytest.raises(DataError, match="HU: holds NaN or infinite values"):
        split_sides(np.ones((2, 4, 5), np.uint8), hu=hu)


@cache
def phantom_scan(patient: int) -> np.ndarray:
    """(24, 96, 96) HU, of the lungs of ``phantom_lungs``."""
    heights = np.linspace(0.15, 0.9, 24)
    return np.stack([phantom_slice(patient, z, size=96).image for z in heights])


class TestProof:
    """With the scan at hand, sides are named where it proves them."""

    @pytest.mark.parametrize("side", [None, LEFT, RIGHT])
    @pytest.mark.parametrize("patient", range(3))
    def test_whole_scans(self, patient: int, side: int | None) -> None:
        mask, truth = phantom_lungs(patient)
        kept = mask if side is None else truth == side
        found = split_sides(kept, spacing_mm=SPACING, hu=phantom_scan(patient))
        np.testing.assert_array_equal(found, truth * kept)

    @pytest.mark.parametrize("spacing", [SPACING, None])
    @pytest.mark.parametrize("side", [LEFT, RIGHT])
    def test_a_scan_cut_to_one_lung_does_not_tell(self, side: int, spacing: tuple | None) -> None:
        for patient in range(3):
            _, truth = phantom_lungs(patient)
            columns = np.flatnonzero((truth == side).any(axis=(0, 1)))
            cut = np.s_[..., columns[0] : columns[-1] + 1]
            lung, hu = (truth == side)[cut], phantom_scan(patient)[cut]
            found = split_sides(lung, spacing_mm=spacing, hu=hu)
            np.testing.assert_array_equal(found, UNTOLD * lung)
            assert not is_told(found)

    def test_nor_one_that_is_padded(self) -> None:
        _, truth = phantom_lungs(0)
        hu = np.pad(phantom_scan(0)[..., 48:], ((0, 0), (0, 0), (30, 30)), constant_values=-1000)
        lung = np.pad((truth == LEFT)[..., 48:], ((0, 0), (0, 0), (30, 30)))
        assert not is_told(split_sides(lung, spacing_mm=SPACING, hu=hu))

    def test_two_lungs_of_a_narrow_picture(self) -> None:
        """Neither body nor spine is seen, but two lungs side by side are."""
        mask, truth = phantom_lungs(0)
        columns = np.flatnonzero(mask.any(axis=(0, 1)))
        cut = np.s_[:, 25:60, columns[0] : columns[-1] + 1]
        hu = np.minimum(phantom_scan(0)[cut], 60)  # no bone
        assert find_middles(hu, 3.9, around=slice(0, hu.shape[2])) == {}
        found = split_sides(mask[cut], spacing_mm=SPACING, hu=hu)
        np.testing.assert_array_equal(found, truth[cut])

    def test_two_parts_of_one_lung_are_no_two_lungs(self) -> None:
        """The spine is beside both."""
        _, truth = phantom_lungs(0)
        lung = truth == RIGHT
        columns = np.flatnonzero(lung.any(axis=(0, 1)))
        middle = int(columns.mean())
        lung[..., middle - 1 : middle + 1] = False
        assert split_sides(lung[..., :60], spacing_mm=SPACING).max() == RIGHT
        cut = np.s_[..., columns[0] : 60]
        assert not is_told(split_sides(lung[cut], spacing_mm=SPACING, hu=phantom_scan(0)[cut]))

    def test_slices(self) -> None:
        image, mask = phantom_slice(1, 0.5, size=256).image, phantom_slice(1, 0.5, size=256).mask
        found = split_sides(mask, hu=image)
        np.testing.assert_array_equal(found, split_sides(mask))
        assert set(np.unique(found)) == {0, LEFT, RIGHT}

    def test_an_empty_mask_is_told(self) -> None:
        empty = np.zeros((4, 9, 9), np.uint8)
        assert is_told(split_sides(empty, hu=np.zeros((4, 9, 9), np.int16)))

    def test_shapes_must_fit(self) -> None:
        with pytest.raises(DataError, match=r"mask: shape \(4, 9\), hu: shape \(9, 4\)"):
            split_sides(np.ones((4, 9), bool), hu=np.zeros((9, 4), np.int16))


class TestMiddle:
    def test_of_body_and_spine(self) -> None:
        hu = np.full((3, 60, 90), -1000, np.int16)
        hu[:, 10:50, 5:85] = 40  # of mm 5: 400 across
        hu[:, 34:48, 43:49] = 300
        found = find_middles(hu, 5.0)
        assert found["body"] == pytest.approx(44.5)
        assert found["spine"] == pytest.approx(45.5, abs=1)

    def test_none_where_bone_is_on_both_sides(self) -> None:
        hu = np.full((3, 60, 90), 40, np.int16)
        hu[:, 34:48, 13:19] = hu[:, 34:48, 73:79] = 300
        assert find_middles(hu, 5.0) == {}

    def test_none_at_the_margin(self) -> None:
        hu = np.full((3, 60, 90), 40, np.int16)
        hu[:, 34:48, 84:90] = 300
        assert find_middles(hu, 5.0) == {}
        hu[:, 34:48, 70:76], hu[:, 34:48, 84:90] = 300, 40
        assert set(find_middles(hu, 5.0)) == {"spine"}

    def test_none_in_air(self) -> None:
        assert find_middles(np.full((2, 9, 9), -1000, np.int16), None) == {}
