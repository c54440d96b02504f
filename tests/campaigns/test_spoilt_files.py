"""A share of the campaign of spoilt files, and the campaign itself: it sees what is wrong."""

import numpy as np
import pytest
from files import FAULTS, differs, judge, read
from peers import Reading
from peers import read as read_otherwise
from spoiling import HU, KINDS, spoil, whole, write

VOLUMES = ("dicom", "nifti", "nrrd", "metaimage")


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_dozen_of_each(tmp_path, kind):
    verdicts = [judge(kind, number, 1, tmp_path / "now") for number in range(36)]
    assert [one for one in verdicts if one.verdict in FAULTS] == []
    assert {"refused", "same"} <= {one.verdict for one in verdicts}


@pytest.mark.parametrize("kind", VOLUMES)
def test_what_is_not_spoilt_is_read_the_same(tmp_path, kind):
    for number, files in enumerate(whole(kind)):
        path = write(files, tmp_path / str(number))
        ours, theirs = read(kind, path), read_otherwise(kind, path)
        assert differs(ours, theirs) is None, sorted(files)


def test_a_number_says_how_a_file_is_spoilt():
    for kind in KINDS:
        (before, after), (_, again) = spoil(kind, 5, 0), spoil(kind, 5, 0)
        assert after == again != before


def test_differences_are_seen():
    steps, origin = np.diag([0.7, 0.8, 2.5]), np.zeros(3)
    one = Reading(HU, steps, origin)
    assert differs(one, Reading(HU, steps, origin + 0.01)) is None
    assert differs(one, Reading(HU, steps, origin + 0.2)) == "0.2 mm apart"
    assert differs(one, Reading(HU, steps * 1.1, origin)) is not None
    assert differs(one, Reading(HU[1:], steps, origin)) is not None
    other = HU.copy()
    other[1, 2, 3] += 1
    assert differs(one, Reading(other, steps, origin)) == "1 values"
