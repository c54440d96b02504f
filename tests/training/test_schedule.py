"""The learning rate of each step."""

import math

from hypothesis import given
from hypothesis import strategies as st

from lungunet.training.schedule import learning_rate


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
