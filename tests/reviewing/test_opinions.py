"""Who else is asked about a slice under review, and when nobody is."""

import numpy as np
import pytest

import lungunet
from lungunet.phantom.phantom import phantom_slice
from lungunet.reviewing.opinions import Opinions


def test_grey_is_seen_through_the_window_it_tells() -> None:
    made = phantom_slice(4, 0.5, size=128)
    grey = lungunet.Window(-300, 1700).to_grey(made.image)
    opinions = Opinions("threshold")
    for said in (opinions.of_rule("a", grey), opinions.of_model("a", grey)):
        assert (said.classes > 0)[made.mask > 0].mean() > 0.9


def test_nobody_is_asked_about_grey_without_a_window() -> None:
    grey = lungunet.Window(40, 400).to_grey(phantom_slice(4, 0.5, size=128).image)
    opinions = Opinions("threshold")
    for ask in (opinions.of_rule, opinions.of_model):
        with pytest.raises(lungunet.DataError, match="window that cannot be told"):
            ask("a", grey)
    assert np.any(opinions.outside("a", grey))
