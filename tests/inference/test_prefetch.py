"""Work in threads, ahead of who needs it."""

import threading
import time

import pytest

from lungunet.inference.prefetch import map_ahead


def test_results_come_in_order_whoever_is_quicker() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(map_ahead(slow_first, range(20), depth=5)) == [n * n for n in range(20)]
    assert list(map_ahead(slow_first, [], depth=5)) == []


@pytest.mark.parametrize("depth", [1, 4])
def test_items_are_drawn_as_they_are_needed(depth: int) -> None:
    drawn = []

    def items():
        for number in range(100):
            drawn.append(number)
            yield number

    results = map_ahead(lambda number: number, items(), depth=depth)
    for n in range(1, 10):
        next(results)
        assert len(drawn) == n + depth
    results.close()
    assert len(drawn) == 9 + depth


def test_work_is_done_in_other_threads() -> None:
    here = threading.get_ident()
    assert here not in set(map_ahead(lambda _: threading.get_ident(), range(9), depth=3))


def test_errors_come_where_their_item_was() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = map_ahead(work, range(9), depth=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_stopping_early_finishes_what_has_begun_and_drops_the_rest() -> None:
    begun, done = [], []
    gate = threading.Event()

    def work(number: int) -> int:
        if number:
            begun.append(number)
            gate.wait(5)
            done.append(number)
        return number

    results = map_ahead(work, range(100), depth=50)
    next(results)
    threading.Timer(0.05, gate.set).start()
    results.close()
    assert done
    assert sorted(done) == sorted(begun)
    assert len(done) < 50
