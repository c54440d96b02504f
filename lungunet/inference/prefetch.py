"""Work ahead in threads: files are read and written while the model computes.

Knows no files and no models.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

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
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
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
