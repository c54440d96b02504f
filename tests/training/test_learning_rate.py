"""The learning rate of each step."""

import math

from hypothesis import given
from hypothesis import strategies as st

from lungunet import TrainConfig


def learning_rate(step: int, *, total: int, warmup: int, peak: float) -> float:
    """Of a run of one step per epoch, so that ``total`` and ``warmup`` count both."""
    config = TrainConfig(epochs=total, warmup_epochs=warmup, lr=peak)
    return config.learning_rate(step, steps_per_epoch=1)


def test_warm_up_rises_in_equal_steps_to_the_peak() -> None:
    rates = [learning_rate(step, total=100, warmup=4, peak=0.8) for step in range(4)]
    assert rates == [0.2, 0.4, 0.6000000000000001, 0.8]


def test_half_way_down_is_half_the_peak() -> None:
    assert math.isclose(learning_rate(60, total=100, warmup=20, peak=2.0), 1.0)


@given(total=st.integers(1, 500), warmup=st.integers(0, 50), peak=st.floats(1e-6, 1))
def test_positive_and_never_above_the_peak(total: int, warmup: int, peak: float) -> None:
    rates = [learning_rate(step, total=total, warmup=warmup, peak=peak) for step in range(total)]
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    down = rates[warmup:]
    assert down == sorted(down, reverse=True)


def test_a_fraction_of_an_epoch_warms_up() -> None:
    config = TrainConfig(epochs=3, warmup_epochs=0.5, lr=1.0)
    rates = [config.learning_rate(step, steps_per_epoch=4) for step in range(3)]
    assert rates == [0.5, 1.0, 1.0]


def test_poly_is_that_of_nnu_net() -> None:
    config = TrainConfig(epochs=10, warmup_epochs=0, lr=0.01, schedule="poly")
    rates = [config.learning_rate(step, steps_per_epoch=1) for step in range(11)]
    assert rates == [0.01 * (1 - step / 10) ** 0.9 for step in range(11)]


def test_constant_stays_after_the_warm_up() -> None:
    config = TrainConfig(epochs=4, warmup_epochs=1, lr=1.0, schedule="constant")
    rates = [config.learning_rate(step, steps_per_epoch=2) for step in range(9)]
    assert rates == [0.5, *[1.0] * 8]


def test_after_the_last_epoch_it_stays_at_zero() -> None:
    config = TrainConfig(epochs=3, warmup_epochs=0, lr=1.0)
    assert config.learning_rate(12, steps_per_epoch=4) == 0
    assert config.learning_rate(99, steps_per_epoch=4) == 0
