"""Work in threads: files are read and written while the model computes, slices side by side.

Knows no files and no models.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from lungunet.models.cores import count_cores
from lungunet.progress import map_in_threads

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
R = TypeVar("R")

_MOST_LANES = 8
_MOST_THREADS = 4  # decoding and encoding outrun any model long before


def map_ahead(
    work: Callable[[T], R], items: Iterable[T], *, depth: int
) -> Generator[R, None, None]:
    """Yield ``work(item)`` for each item, in order, computed in threads.

    Items are drawn in the calling thread, as they are needed: memory does not grow with their
    number. When the caller stops early, what has not begun is dropped and what has is finished.

    Parameters
    ----------
    work : must be safe to call from several threads; what it raises comes out in order
    depth : how many items are drawn before the first result is asked for, at least 1

    Examples
    --------
    >>> list(map_ahead(abs, [-1, 2, -3], depth=2))
    [1, 2, 3]
    """
    waiting: deque[Future[R]] = deque()
    threads = min(_MOST_THREADS, count_cores())
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def map_side_by_side(work: Callable[..., R], *items: Sequence[Any] | np.ndarray) -> list[R]:
    """Return ``work(*each)`` for each of the items, in order, on as many cores as there are.

    For slices, each a matter of milliseconds: in sixteen threads they wait for the interpreter, and
    take longer than in eight.
    """
    return map_in_threads(work, *items, threads=min(_MOST_LANES, count_cores()))
