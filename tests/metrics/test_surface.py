import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import directed_hausdorff
from skimage.metrics import hausdorff_distance

from lungunet.errors import ConfigError, DataError
from lungunet.metrics.surface import SurfaceDistances, score_distance, surface_distances

SPACING_MM = (2.5, 0.8, 0.7)


def by_all_pairs(truth, pred, spacing=None, tolerance=1.0):
    """The definitions, word by word: every border pixel against every other one."""
    scale = np.ones(truth.ndim) if spacing is None else np.array(spacing)
    first, second = border(truth), border(pred)
    if not len(first) and not len(second):
        return SurfaceDistances(*[math.nan] * 4)
    if not len(first) or not len(second):
        return SurfaceDistances(math.inf, math.inf, 0.0, math.inf)
    steps = (first[:, None] - second[None]) * scale
    table = np.sqrt((steps**2).sum(axis=-1))
    there, back = table.min(axis=1), table.min(axis=0)
    near = (there <= tolerance + 1e-9).sum() + (back <= tolerance + 1e-9).sum()
    return SurfaceDistances(
        hd95=max(np.percentile(there, 95), np.percentile(back, 95)),
        assd=(there.sum() + back.sum()) / (len(there) + len(back)),
        surface_dice=near / (len(there) + len(back)),
        hd=max(there.max(), back.max()),
    )


def border(mask):
    return np.argwhere(mask & ~binary_erosion(mask, border_value=0))


def box(shape, *spans):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


def assert_same(ours, theirs):
    assert dataclasses.astuple(ours) == pytest.approx(
        dataclasses.astuple(theirs), rel=1e-12, abs=1e-12, nan_ok=True
    )


def blobs(seed, shape=(5, 48, 64)):
    """Two random unions of boxes that often touch the edges of the array."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, *shape), dtype=bool)
    for mask in masks:
        for _ in range(4):
            corners = [np.sort(rng.integers(-2, n + 3, size=2)).clip(0, n) for n in shape]
            mask[tuple(slice(*corner) for corner in corners)] = True
    return masks


@st.composite
def mask_pairs(draw, *, with_empty=True):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7))
    truth, pred = (draw(hnp.arrays(bool, shape, elements=st.booleans())) for _ in range(2))
    if not with_empty:
        truth.flat[draw(st.integers(0, truth.size - 1))] = True
        pred.flat[draw(st.integers(0, pred.size - 1))] = True
    return truth, pred


class TestWorkedByHand:
    # 5 x 4 pixels, moved by 3 columns: of 14 border pixels 5 lie 3 away, 2 lie 2, 2 lie 1, 5 lie 0.
    truth = box((9, 12), (2, 7), (2, 6))
    pred = box((9, 12), (2, 7), (5, 9))

    def test_boxes_three_pixels_apart(self):
        result = surface_distances(self.truth, self.pred)
        assert result.hd == 3
        assert result.hd95 == 3
        assert result.assd == 21 / 14
        assert result.surface_dice == 7 / 14  # one pixel, unless told

    @pytest.mark.parametrize(
        ("tolerance", "within"), [(0, 5), (0.99, 5), (1, 7), (2, 9), (2.99, 9), (3, 14)]
    )
    def test_a_distance_equal_to_the_tolerance_is_within(self, tolerance, within):
        result = surface_distances(self.truth, self.pred, tolerance=tolerance)
        assert result.surface_dice == within / 14

    def test_spacing_is_in_array_order(self):
        assert surface_distances(self.truth, self.pred, spacing_mm=(5, 0.5)).hd == 1.5
        down = np.roll(self.truth, 2, axis=0)
        assert surface_distances(self.truth, down, spacing_mm=(5, 8)).hd == 10

    def test_the_tolerance_is_in_millimetres_with_a_spacing(self):
        moved = {"spacing_mm": (5, 0.7)}  # by 3 * 0.7 mm, which is 2.0999999999999996
        assert surface_distances(self.truth, self.pred, tolerance=2.1, **moved).surface_dice == 1
        assert surface_distances(self.truth, self.pred, tolerance=2.09, **moved).surface_dice < 1
        assert surface_distances(self.truth, self.pred, tolerance=0.3, spacing_mm=(5, 0.1)) == (
            dataclasses.replace(
                surface_distances(self.truth, self.pred, spacing_mm=(5, 0.1)), surface_dice=1.0
            )
        )

    @pytest.mark.parametrize(("axis", "steps", "mm"), [(0, 1, 2.5), (1, 3, 2.4), (2, 4, 2.8)])
    def test_anisotropic_volume(self, axis, steps, mm):
        truth = box((5, 48, 64), (1, 4), (10, 30), (20, 50))
        pred = np.roll(truth, steps, axis=axis)
        result = surface_distances(truth, pred, spacing_mm=SPACING_MM)
        assert result.hd == pytest.approx(mm, rel=1e-12)

    def test_the_larger_directed_percentile_linear_between_values(self):
        # One pixel of 11 strays: 1 to one side, 10 to the other. Rank 9.5 of 0..10 lies half way.
        truth = box((1, 30), (0, 1), (0, 11))
        pred = box((1, 30), (0, 1), (0, 10)) | box((1, 30), (0, 1), (20, 21))
        for result in (surface_distances(truth, pred), surface_distances(pred, truth)):
            assert result.hd95 == 5  # of all 22 together it would be 0.95
            assert result.hd == 10
            assert result.assd == 11 / 22
            assert result.surface_dice == 21 / 22

    def test_the_mean_is_over_both_borders_together(self):
        # A border of 1 and one of 21 pixels; the mean of the two directed means would be 2.62.
        truth, pred = box((1, 30), (0, 1), (0, 1)), box((1, 30), (0, 1), (0, 21))
        assert surface_distances(truth, pred).assd == 210 / 22

    def test_border_where_the_mask_touches_the_edge(self):
        truth, pred = np.ones((5, 7), dtype=bool), box((5, 7), (1, 4), (1, 6))
        result = surface_distances(truth, pred)
        assert result.hd == pytest.approx(math.sqrt(2))
        assert result.assd == pytest.approx((4 * math.sqrt(2) + 28) / 32)
        assert result.surface_dice == 28 / 32

    @pytest.mark.parametrize("corner", [(0, 0), (0, 8), (6, 0), (6, 8)])
    def test_border_at_each_edge(self, corner):
        truth = box((7, 9), (0, 7), (0, 9))
        pred = truth.copy()
        pred[corner] = False
        result = surface_distances(truth, pred)
        assert result.hd == 1  # from the corner to its neighbours
        assert result.assd == 1 / (28 + 27)

    def test_a_diagonal_neighbour_does_not_make_border(self):
        truth = box((9, 9), (2, 7), (2, 7))
        notched = truth.copy()
        notched[2, 2] = False  # (3, 3) still has its four neighbours
        result = surface_distances(truth, notched)
        assert result.assd == 1 / 31  # 16 and 15 border pixels
        assert result.hd == 1

    def test_a_hole_has_border(self):
        truth = box((11, 11), (1, 10), (1, 10))
        pred = truth.copy()
        pred[5, 5] = False
        assert surface_distances(truth, pred).hd == 3  # from round the hole to the outer border

    def test_single_pixels(self):
        truth, pred = box((9, 9), (1, 2), (1, 2)), box((9, 9), (4, 5), (5, 6))
        assert surface_distances(truth, pred) == SurfaceDistances(5, 5, 0, 5)
        assert surface_distances(truth, pred, tolerance=5).surface_dice == 1

    def test_an_array_of_one_pixel(self):
        pixel = np.ones((1, 1), dtype=bool)
        assert surface_distances(pixel, pixel) == SurfaceDistances(0, 0, 1, 0)

    def test_identical(self):
        for mask in blobs(0):
            same = surface_distances(mask, mask.copy(), spacing_mm=SPACING_MM, tolerance=0)
            assert same == SurfaceDistances(hd95=0, assd=0, surface_dice=1, hd=0)

    @pytest.mark.parametrize("shape", [(9, 12), (3, 9, 12), (0, 5), (1, 1)])
    def test_both_empty_is_undefined(self, shape):
        result = surface_distances(np.zeros(shape, bool), np.zeros(shape, bool))
        assert all(map(math.isnan, dataclasses.astuple(result)))

    def test_one_empty_is_infinitely_far(self):
        nothing = np.zeros_like(self.truth)
        far = SurfaceDistances(hd95=math.inf, assd=math.inf, surface_dice=0, hd=math.inf)
        assert surface_distances(self.truth, nothing) == far
        assert surface_distances(nothing, self.truth, tolerance=1e9) == far

    def test_a_volume_of_one_slice_is_all_border(self):
        truth, pred = box((9, 9), (1, 8), (1, 8)), box((9, 9), (2, 7), (2, 7))
        assert surface_distances(truth, pred, tolerance=0).surface_dice == 0
        assert surface_distances(truth[None], pred[None], tolerance=0).surface_dice == 50 / 74


class TestInput:
    def test_dtypes(self):
        truth, pred = blobs(1)
        expected = surface_distances(truth, pred)
        for dtype in (np.uint8, np.int16, np.int64, np.uint32):
            assert surface_distances(truth.astype(dtype) * 2, pred.astype(dtype)) == expected
        assert surface_distances(truth.astype(int) * 2 - 1, pred) == expected  # -1 is background
        assert surface_distances(truth.astype(np.uint8) * 255, pred) == expected

    def test_any_memory_layout_and_nothing_is_written(self):
        truth, pred = blobs(2)
        expected = surface_distances(truth, pred, spacing_mm=SPACING_MM)
        wide = np.repeat(truth, 2, axis=2)[:, :, ::2]
        fortran = np.asfortranarray(pred)
        for view in (wide, fortran):
            assert not view.flags.c_contiguous
            view.flags.writeable = False
        assert surface_distances(wide, fortran, spacing_mm=SPACING_MM) == expected

    def test_turned_and_flipped(self):
        truth, pred = blobs(3)
        expected = surface_distances(truth, pred, spacing_mm=SPACING_MM)
        turned = surface_distances(truth.T[::-1], pred.T[::-1], spacing_mm=SPACING_MM[::-1])
        assert_same(turned, expected)

    def test_is_frozen_and_of_plain_numbers(self):
        result = surface_distances(*blobs(4))
        assert {type(value) for value in dataclasses.astuple(result)} == {float}
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.hd = 1.0

    def test_refuses_shapes_that_differ(self):
        with pytest.raises(DataError, match=r"^pred: shape \(4, 6\), truth: \(4, 5\)\. Both"):
            surface_distances(np.zeros((4, 5), bool), np.zeros((4, 6), bool))

    @pytest.mark.parametrize("shape", [(), (4,), (1, 2, 3, 4)])
    @pytest.mark.parametrize("name", ["truth", "pred"])
    def test_refuses_other_numbers_of_axes(self, name, shape):
        masks = {"truth": np.zeros((4, 5), bool), "pred": np.zeros((4, 5), bool)}
        masks[name] = np.zeros(shape, bool)
        with pytest.raises(DataError, match=rf"^{name}: shape \(.*\. Give one slice \(H, W\) or"):
            surface_distances(**masks)

    @pytest.mark.parametrize("dtype", [np.float32, np.complex64, object])
    def test_refuses_probabilities(self, dtype):
        with pytest.raises(DataError, match=r"^pred: dtype .*\. Give a mask of bool or class"):
            surface_distances(np.zeros((4, 5), bool), np.zeros((4, 5), dtype))

    @pytest.mark.parametrize(
        "spacing", [(1,), (1, 1, 1), (1, 0), (-0.7, 0.7), (math.nan, 1), (1, math.inf), 0.7]
    )
    def test_refuses_a_spacing_that_is_none(self, spacing):
        empty = np.zeros((4, 5), bool)
        message = r"^spacing_mm .*: not two lengths above 0\. Pass \(y, x\), mm\.$"
        with pytest.raises(DataError, match=message):
            surface_distances(empty, empty, spacing_mm=spacing)
        with pytest.raises(DataError, match=message):
            score_distance(1.0, (4, 5), spacing_mm=spacing)

    def test_refuses_the_spacing_of_a_slice_for_a_volume(self):
        empty = np.zeros((2, 4, 5), bool)
        with pytest.raises(DataError, match=r"not three lengths above 0\. Pass \(z, y, x\), mm\.$"):
            surface_distances(empty, empty, spacing_mm=(0.7, 0.7))

    @pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
    def test_refuses_a_tolerance_that_is_none(self, tolerance):
        empty = np.zeros((4, 5), bool)
        with pytest.raises(ConfigError, match=rf"^tolerance: {tolerance}\. Give 0 or more"):
            surface_distances(empty, empty, tolerance=tolerance)


class TestAgreement:
    @pytest.mark.parametrize("spacing", [None, SPACING_MM])
    @pytest.mark.parametrize("seed", range(8))
    def test_all_pairs_in_a_volume(self, seed, spacing):
        truth, pred = blobs(seed, shape=(5, 24, 31))
        ours = surface_distances(truth, pred, spacing_mm=spacing, tolerance=2.4)
        assert_same(ours, by_all_pairs(truth, pred, spacing, tolerance=2.4))

    @pytest.mark.parametrize("seed", range(8))
    def test_scikit_image_and_scipy(self, seed):
        truth, pred = blobs(seed, shape=(48, 63))
        images = [mask & ~binary_erosion(mask, border_value=0) for mask in (truth, pred)]
        ours = surface_distances(truth, pred)
        assert ours.hd == pytest.approx(hausdorff_distance(*images), rel=1e-12)
        points = [border(mask) * SPACING_MM[1:] for mask in (truth, pred)]
        theirs = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
        ours = surface_distances(truth, pred, spacing_mm=SPACING_MM[1:])
        assert ours.hd == pytest.approx(theirs, rel=1e-12)


class TestProperties:
    @given(mask_pairs(), st.sampled_from([0, 1, 1.5, 3]), st.booleans())
    def test_all_pairs(self, pair, tolerance, physical):
        spacing = SPACING_MM[-pair[0].ndim :] if physical else None
        ours = surface_distances(*pair, spacing_mm=spacing, tolerance=tolerance)
        assert_same(ours, by_all_pairs(*pair, spacing, tolerance))

    @given(mask_pairs())
    def test_swapping_changes_nothing(self, pair):
        assert_same(surface_distances(*pair), surface_distances(*pair[::-1]))

    @given(mask_pairs(), st.data())
    def test_more_background_around_changes_nothing(self, pair, data):
        margin = [data.draw(st.tuples(*[st.integers(0, 4)] * 2)) for _ in range(pair[0].ndim)]
        spacing = SPACING_MM[-pair[0].ndim :]
        wide = surface_distances(*(np.pad(mask, margin) for mask in pair), spacing_mm=spacing)
        assert repr(wide) == repr(surface_distances(*pair, spacing_mm=spacing))

    @given(mask_pairs(with_empty=False))
    def test_bounds(self, pair):
        result = surface_distances(*pair)
        assert 0 <= result.assd <= result.hd + 1e-12
        assert 0 <= result.hd95 <= result.hd
        assert 0 <= result.surface_dice <= 1
        assert result.hd <= score_distance(math.inf, pair[0].shape)

    @given(mask_pairs(with_empty=False), st.lists(st.floats(0, 12), min_size=2, max_size=5))
    def test_a_wider_tolerance_never_lowers_the_surface_dice(self, pair, tolerances):
        shares = [
            surface_distances(*pair, tolerance=each).surface_dice for each in sorted(tolerances)
        ]
        assert shares == sorted(shares)

    @given(mask_pairs(), st.sampled_from([0.25, 2, 16]))
    def test_distances_scale_with_the_spacing(self, pair, factor):
        spacing = np.array(SPACING_MM[-pair[0].ndim :])
        plain = surface_distances(*pair, spacing_mm=spacing, tolerance=1.5)
        scaled = surface_distances(*pair, spacing_mm=spacing * factor, tolerance=1.5 * factor)
        expected = SurfaceDistances(
            plain.hd95 * factor, plain.assd * factor, plain.surface_dice, plain.hd * factor
        )
        assert repr(scaled) == repr(expected)  # powers of two scale without rounding

    @settings(max_examples=30)
    @given(mask_pairs(with_empty=False))
    def test_zero_means_the_same_border(self, pair):
        result = surface_distances(*pair, tolerance=0)
        same = np.array_equal(border(pair[0]), border(pair[1]))
        assert (result.hd == 0) == (result.assd == 0) == (result.surface_dice == 1) == same


class TestScoreDistance:
    def test_infinite_counts_as_the_diagonal(self):
        assert score_distance(math.inf, (300, 400)) == 500
        assert score_distance(math.inf, [300, 400], spacing_mm=(0.5, 0.5)) == 250
        assert score_distance(math.inf, (1, 2, 2), spacing_mm=(1, 4, 4)) == math.sqrt(129)

    def test_what_is_known_stays(self):
        assert score_distance(7.5, (3, 4)) == 7.5
        assert score_distance(0.0, (3, 4), spacing_mm=(9, 9)) == 0
        assert math.isnan(score_distance(math.nan, (3, 4)))

    def test_refuses_other_numbers_of_axes(self):
        with pytest.raises(DataError, match=r"^shape: shape \(3,\)\. Give one slice"):
            score_distance(1.0, (3,))


class TestIgnored:
    @staticmethod
    def masks():
        truth = np.zeros((40, 56), bool)
        truth[8:30, 6:22] = truth[10:32, 32:50] = True
        pred = np.roll(truth, 2, axis=1)
        ignored = np.zeros_like(truth)
        ignored[:, 28:] = True
        return truth, pred, ignored

    def test_measures_what_is_left(self):
        truth, pred, ignored = self.masks()
        left = surface_distances(truth & ~ignored, pred & ~ignored)
        assert surface_distances(truth, pred, ignored=ignored) == left

    def test_what_lies_there_does_not_matter(self):
        truth, pred, ignored = self.masks()
        expected = surface_distances(truth, pred, ignored=ignored)
        for there in (True, False, ~truth):
            assert surface_distances(np.where(ignored, there, truth), pred, ignored=ignored) == (
                expected
            )

    def test_makes_no_border_where_it_begins(self):
        truth, _, ignored = self.masks()
        pred = truth.copy()
        ignored[:] = False
        ignored[15:25] = True  # through both lungs
        truth = np.where(ignored, False, truth)
        assert surface_distances(truth, pred, ignored=ignored).hd == 0

    def test_nothing_left(self):
        truth, pred, ignored = self.masks()
        assert math.isnan(surface_distances(truth, pred, ignored=np.ones_like(truth)).hd95)
        nothing = np.zeros_like(truth)
        one = surface_distances(truth, np.where(ignored, pred, nothing), ignored=ignored)
        assert (one.hd95, one.surface_dice) == (math.inf, 0)

    def test_shapes_must_agree(self):
        truth, pred, ignored = self.masks()
        with pytest.raises(DataError, match="ignored: shape"):
            surface_distances(truth, pred, ignored=ignored[1:])
