"""Which window made a slice of 8 bits."""

import numpy as np
import pytest

import lungunet
from lungunet.data.grey import tell_window
from lungunet.data.hu import guess_hu, tells_hu
from lungunet.phantom.phantom import phantom_slice


def slice_of(seed: int = 3, height: float = 0.5) -> np.ndarray:
    return phantom_slice(seed, height, size=256).image


@pytest.mark.parametrize(
    ("level", "width"),
    [
        *[(-600, 1500), (-500, 1500), (-700, 1000), (-600, 1200), (-450, 1100)],
        *[(-300, 1400), (-300, 1700), (0, 2000), (1024, 4095)],
    ],
)
@pytest.mark.parametrize("height", [0.35, 0.5, 0.65])
def test_the_window_is_told_by_tissue_and_air(level: int, width: int, height: float) -> None:
    window = lungunet.Window(level, width)
    told = tell_window(window.to_grey(slice_of(height=height)))
    assert told is not None
    lung, edge, tissue = told.to_hu(window.apply(np.array([-850, -400, 0])) * 255)
    assert -1000 < lung < -700
    assert -550 < edge < -100  # tissue of the third window is white
    assert -150 < tissue < 200


def test_the_usual_window_is_taken_as_it_is() -> None:
    assert tell_window(lungunet.LUNG_WINDOW.to_grey(slice_of())) is lungunet.LUNG_WINDOW


@pytest.mark.parametrize(
    "grey",
    [
        lungunet.Window(40, 400).to_grey(slice_of()),
        np.zeros((64, 48), np.uint8),
        np.full((64, 48), 200, np.uint8),
        np.zeros((1, 1), np.uint8),
    ],
    ids=["lung and air are one black", "black", "grey", "a pixel"],
)
def test_none_is_told_where_none_shows(grey: np.ndarray) -> None:
    assert tell_window(grey) is None
    assert not tells_hu(grey)


def test_without_a_window_black_is_air_and_the_rest_tissue() -> None:
    grey = lungunet.Window(40, 400).to_grey(slice_of())
    hu = guess_hu(grey)
    assert (hu[grey == 0] == -850).all()
    assert (hu[grey > 10] > 0).all()


def test_values_of_more_bits_are_not_grey() -> None:
    assert tells_hu(slice_of())
