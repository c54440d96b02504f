"""Work in threads that reports how far it is."""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from lungunet.progress import map_in_threads


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_however_long_each_takes(threads: int) -> None:
    def late(number: int, factor: int) -> int:
        time.sleep(0.01 if number == 0 else 0)
        return number * factor

    assert map_in_threads(late, range(9), [2] * 9, threads=threads) == list(range(0, 18, 2))
    assert map_in_threads(late, [], [], threads=threads) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_is_told_of_each(threads: int) -> None:
    seen: list[Any] = []

    def progress(iterable: Iterable[Any], *, desc: str, total: int) -> Iterator[Any]:
        seen.append((desc, total))
        for item in iterable:
            seen.append(item)
            yield item

    map_in_threads(abs, [-1, 2], threads=threads, desc="look", progress=progress)
    assert seen == [("look", 2), 1, 2]


def test_who_is_stopped_does_not_wait_for_the_rest() -> None:
    begun = []
    gate = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number:
            gate.wait(5)

    def progress(iterable: Iterable[Any], *, desc: str, total: int) -> Iterator[Any]:
        for _ in iterable:
            threading.Timer(0.05, gate.set).start()
            raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        map_in_threads(work, range(100), threads=2, progress=progress)
    assert len(begun) < 10
