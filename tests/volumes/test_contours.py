"""Outlines of planes, against another program that fills them, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.draw import polygon2mask

from lungunet.volumes.contours import outline

PLANES = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 11)))


def filled(lines, shape):
    """What skimage says lies in each line; a pixel in two lines is in none, as XOR has it."""
    inside = np.zeros(shape, bool)
    for line in lines:
        inside ^= polygon2mask(shape, line[:, ::-1])
    return inside


@given(PLANES)
def test_lines_hold_the_pixels_that_are_set_and_no_others(plane):
    assert np.array_equal(filled(outline(plane), plane.shape), plane)


def test_each_part_has_a_line_and_its_holes_are_cut_out():
    plane = np.zeros((9, 14), bool)
    plane[1:8, 1:9] = True
    plane[3, 3] = plane[3:6, 5:7] = plane[6, 2] = False  # three holes, two of them in one row
    plane[4, 11:13] = True
    lines = outline(plane)
    assert len(lines) == 2
    assert np.array_equal(filled(lines, plane.shape), plane)


def test_pixels_that_meet_at_a_corner_alone_are_two_parts():
    assert len(outline(np.eye(2, dtype=bool))) == 2


def test_nothing_has_no_line():
    assert outline(np.zeros((4, 5), bool)) == []


def test_straight_ways_have_no_points_on_them():
    plane = np.zeros((30, 40), bool)
    plane[2:28, 3:37] = True
    (line,) = outline(plane)
    assert len(line) == 8  # corners are cut by half a pixel
    x, y = line.T
    area = abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
    assert area == pytest.approx(26 * 34 - 0.5)
