"""Largest parts, holes and gaps: worked by hand, and against scipy and scikit-image."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology

from lungunet import DataError
from lungunet.inference.shapes import (
    box_of,
    close_gaps,
    fill_cavities,
    fill_holes,
    keep_largest,
    label_parts,
)


def speckled(shape: tuple[int, ...], share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def keep_largest_by_scipy(mask: np.ndarray, count: int) -> np.ndarray:
    labels, n = ndimage.label(mask)
    sizes = [(labels == number).sum() for number in range(1, n + 1)]
    largest = sorted(range(n), key=lambda index: -sizes[index])[:count]
    return np.isin(labels, [index + 1 for index in largest])


@pytest.mark.parametrize("shape", [(41, 29), (5, 23, 17)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_largest_parts_as_scipy_finds_them(shape: tuple[int, ...], count: int) -> None:
    for seed in range(5):
        mask = speckled(shape, 0.45 if len(shape) == 2 else 0.25, seed)
        expected = keep_largest_by_scipy(mask, count)
        kept = keep_largest(mask, count=count)
        assert kept.dtype == np.uint8
        assert kept.sum() == expected.sum()  # parts of equal size may stand for each other
        assert ndimage.label(kept)[1] == count
        assert not (kept & ~mask).any()


def test_parts_that_touch_at_a_corner_are_apart() -> None:
    mask = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(keep_largest(mask, count=1)[:, 2], [0, 1, 1, 1])
    assert keep_largest(mask, count=1).sum() == 3


def test_a_volume_is_connected_through_its_slices() -> None:
    mask = np.zeros((4, 6, 7), np.uint8)
    mask[:, 1, 1] = 1  # 4 voxels, a column
    mask[2, 4, 3:6] = 1  # 3 in one slice
    np.testing.assert_array_equal(keep_largest(mask, count=1)[:, 1, 1], 1)
    assert keep_largest(mask, count=1).sum() == 4


def test_small_parts_go_by_their_share_of_the_largest() -> None:
    row = np.array([[1] * 10 + [0] + [1] * 5 + [0] + [1] * 4])
    assert keep_largest(row, count=None).sum() == 19
    assert keep_largest(row, count=None, min_share=0.5).sum() == 15
    assert keep_largest(row, count=1, min_share=0.1).sum() == 10


@pytest.mark.parametrize("shape", [(41, 29), (3, 33, 17)])
def test_holes_as_scipy_finds_them(shape: tuple[int, ...]) -> None:
    for seed in range(5):
        mask = speckled(shape, 0.6, seed)
        planes = mask if mask.ndim == 3 else mask[None]
        expected = np.stack([ndimage.binary_fill_holes(plane) for plane in planes])
        filled = fill_holes(mask)
        assert filled.sum() > mask.sum()
        np.testing.assert_array_equal(filled, expected.reshape(shape))


def test_holes_up_to_a_size_are_filled() -> None:
    mask = np.ones((12, 20), np.uint8)
    mask[2:5, 2:4] = 0  # 6 px
    mask[2:9, 8] = 0  # 7 px
    assert (fill_holes(mask, max_px=5) == mask).all()
    filled = fill_holes(mask, max_px=6)
    assert filled[2:5, 2:4].all()
    assert not filled[2:9, 8].any()
    assert fill_holes(mask, max_px=7).all()


def test_the_outside_is_no_hole_however_small() -> None:
    mask = np.ones((5, 9), np.uint8)
    mask[0, 4] = 0
    np.testing.assert_array_equal(fill_holes(mask), mask)


def test_cavities_as_scipy_finds_them() -> None:
    for seed in range(5):
        mask = speckled((6, 19, 14), 0.75, seed)
        filled = fill_cavities(mask)
        assert filled.dtype == np.uint8
        assert filled.sum() > mask.sum()
        np.testing.assert_array_equal(filled, ndimage.binary_fill_holes(mask))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_what_opens_to_an_edge_is_no_cavity(axis: int, end: int) -> None:
    mask = np.ones((5, 6, 7), np.uint8)
    mask[2, 3, 4] = 0
    assert fill_cavities(mask).all()
    np.moveaxis(mask, axis, 0)[end, 3, 3] = 0  # an edge of its own, not the cavity
    np.testing.assert_array_equal(fill_cavities(mask).sum(), mask.size - 1)


def test_cavities_are_of_volumes() -> None:
    with pytest.raises(DataError, match=r"pass \(D, H, W\)"):
        fill_cavities(np.ones((4, 5)))


def test_the_box_of_a_mask() -> None:
    mask = np.zeros((5, 6, 7), bool)
    assert box_of(mask) is None
    mask[1, 2, 3] = mask[3, 4, 3] = True
    assert box_of(mask) == (slice(1, 4), slice(2, 5), slice(3, 4))


@pytest.mark.parametrize("dtype", [bool, np.uint8])
@pytest.mark.parametrize("points", [[], [(0, 0)], [(8, 10)], [(1, 4), (7, 2), (3, 9)]])
def test_box_of_a_slice(dtype: type, points: list[tuple[int, int]]) -> None:
    mask = np.zeros((9, 11), dtype)
    for y, x in points:
        mask[y, x] = 1
    found = ndimage.find_objects(mask.astype(int))
    assert box_of(mask) == (found[0] if found else None)


@pytest.mark.parametrize("radius", [1, 2, 3, 5])
def test_gaps_close_as_with_the_disk_of_scikit_image(radius: int) -> None:
    mask = np.pad(speckled((40, 31), 0.1), 12)
    expected = morphology.closing(mask, morphology.disk(radius))
    assert expected.sum() > mask.sum()
    np.testing.assert_array_equal(close_gaps(mask, radius), expected)
    np.testing.assert_array_equal(close_gaps(mask[None], radius)[0], expected)


def test_closing_at_the_edge_of_the_slice_keeps_the_mask() -> None:
    mask = np.zeros((9, 13), np.uint8)
    mask[:, :4] = 1
    np.testing.assert_array_equal(close_gaps(mask, 3), mask)
    np.testing.assert_array_equal(close_gaps(mask, 0), mask)


Tidy = Callable[[np.ndarray], np.ndarray]
TIDY: list[Tidy] = [keep_largest, fill_holes, lambda mask: close_gaps(mask, 2.5)]


@pytest.mark.parametrize("tidy", TIDY)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 4), (1, 1, 1), (3, 4, 5)])
def test_empty_and_full_masks_stay(tidy: Tidy, shape: tuple[int, ...]) -> None:
    assert not tidy(np.zeros(shape, bool)).any()
    full = tidy(np.full(shape, 255, np.uint8))
    np.testing.assert_array_equal(full, np.ones(shape))
    assert full.dtype == np.uint8


@pytest.mark.parametrize("tidy", TIDY)
def test_neither_order_nor_dtype_matters_and_the_input_stays(tidy: Tidy) -> None:
    mask = speckled((30, 44), 0.5)
    before = mask.copy()
    expected = tidy(mask)
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(tidy(np.asfortranarray(mask.astype(np.int64) * 3)), expected)


@pytest.mark.parametrize("tidy", TIDY)
@pytest.mark.parametrize("shape", [(4,), (2, 3, 4, 5), (0, 4)])
def test_other_shapes_are_refused(tidy: Tidy, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"pass \(H, W\) or \(D, H, W\)"):
        tidy(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("spacing", [2, 9, 60])  # hundreds of parts, dozens, one
def test_parts_and_their_sizes_are_those_of_scipy(spacing: int) -> None:
    inside = np.zeros((61, 50), np.uint8)
    inside[::spacing, ::spacing] = 1
    inside[1:9:spacing, 2] = 1  # parts differ in size
    labels, sizes = label_parts(inside)
    expected, count = ndimage.label(inside)
    assert len(sizes) == count
    assert sizes.tolist() == [int((labels == number).sum()) for number in range(1, count + 1)]
    assert sorted(sizes) == sorted(np.bincount(expected.ravel())[1:])


@pytest.mark.parametrize("value", [0, 1])
def test_a_slice_of_one_value_has_one_part_or_none(value: int) -> None:
    labels, sizes = label_parts(np.full((4, 5), value, np.uint8))
    assert sizes.tolist() == [20] * value
    assert (labels == value).all()


def test_parts_that_hold_a_value_stay() -> None:
    row = np.array([[1, 1, 1, 0, 1, 2, 0, 2, 0, 1]])
    for mask in (row, np.stack([row, row])):
        kept = keep_largest(mask, count=None, holding=2)
        assert np.array_equal(kept, np.broadcast_to([0, 0, 0, 0, 1, 1, 0, 1, 0, 0], mask.shape))
    # Where no part holds it, it decides nothing; shares are of those that stay.
    assert np.array_equal(keep_largest(row, count=None, holding=3), row > 0)
    assert keep_largest(row, count=None, min_share=0.6, holding=2).sum() == 2
