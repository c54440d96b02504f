"""Slices are known again by their values, whatever file they come in."""

import numpy as np
import pytest

from lungunet.data.seen import digest_hu
from lungunet.phantom.phantom import phantom_slice

SLICE = phantom_slice(3, 0.5).image


@pytest.mark.parametrize(
    "other",
    [
        SLICE[::-1],
        np.rot90(SLICE),
        SLICE.astype(np.float32),
        SLICE.astype(">i4"),
        np.pad(SLICE, 9, constant_values=-3024),
        np.where(SLICE <= -1000, np.nan, SLICE.astype(np.float64)),
    ],
)
def test_the_same_values_in_another_file(other: np.ndarray) -> None:
    assert digest_hu(other) == digest_hu(SLICE)
    assert digest_hu(SLICE).startswith("hu:")


def test_one_hu_more_is_another_slice() -> None:
    other = SLICE.copy()
    other[tuple(np.argwhere(SLICE > -900)[0])] += 1
    assert digest_hu(other) != digest_hu(SLICE)


def test_what_cannot_be_told_is_like_no_other() -> None:
    assert digest_hu(np.full((64, 64), -1024, np.int16)) == ""
    assert digest_hu(np.full((64, 64), 40, np.uint8)) == ""
