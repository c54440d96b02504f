"""How long work reports that it moves: one callable, shaped like ``tqdm.tqdm``.

Functions that can last take ``progress=`` and wrap their loop in it; the default says nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Progress(Protocol):
    """Wraps an iterable and shows how far the loop over it is; ``tqdm.tqdm`` is one."""

    def __call__(self, iterable: Iterable[T], *, desc: str, total: int) -> Iterable[T]:
        """Yield the items of ``iterable`` unchanged.

        Parameters
        ----------
        desc : what is being done, as a short noun
        total : how many items will come
        """
        ...


def silent(iterable: Iterable[T], *, desc: str, total: int) -> Iterable[T]:
    """Show nothing: the default ``progress``."""
    return iterable


def map_in_threads(
    work: Callable[[T], R],
    items: Sequence[T],
    *,
    threads: int,
    desc: str,
    progress: Progress = silent,
) -> list[R]:
    """Return ``work(item)`` for each item, in order, computed in threads.

    Threads: OpenCV and zlib let go of the interpreter, and nothing has to be pickled.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(progress(pool.map(work, items), desc=desc, total=len(items)))
