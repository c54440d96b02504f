"""Pairs to review, and one Chromium for all tests of a file."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Page, Tab, browser
from slices import lungs, write_case

import lungunet


@pytest.fixture
def pairs(tmp_path: Path) -> list[lungunet.Pair]:
    """Three slices: without one lung, right, and empty."""
    right = lungs().astype(np.uint8) * 255
    lost = right.copy()
    lost[:, 48:] = 0
    masks = {"lost": lost, "right": right, "void": np.zeros_like(right)}
    return [
        write_case(tmp_path, name, mask, seed) for seed, (name, mask) in enumerate(masks.items())
    ]


@pytest.fixture(scope="module")
def new_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Tab]]:
    """Open a tab of one browser."""
    if not CHROMIUM:
        pytest.skip("no Chromium (Debian: apt-get install chromium)")
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def page(new_tab: Callable[[], Tab]) -> Iterator[Page]:
    """A tab that must not say a word on its console."""
    page = Page(new_tab())
    yield page
    page.tab.call("Page.navigate", url="about:blank")
    assert page.tab.said == []
