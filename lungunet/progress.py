"""How long work reports that it moves: one callable, shaped like ``tqdm.tqdm``.

Functions that can last take ``progress=`` and wrap their loop in it; the default says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np

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
    work: Callable[..., R],
    *items: Sequence[Any] | np.ndarray,
    threads: int,
    desc: str = "",
    progress: Progress = silent,
) -> list[R]:
    """Return ``work(*each)`` for each of the items, in order, computed in threads.

    Threads: OpenCV and zlib let go of the interpreter, and nothing has to be pickled.
    """
    from concurrent.futures import ThreadPoolExecutor

    threads = min(threads, len(items[0]))
    if threads < 2:
        return list(progress(map(work, *items), desc=desc, total=len(items[0])))
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(progress(pool.map(work, *items), desc=desc, total=len(items[0])))
        except BaseException:  # as Ctrl-C, which should not wait for what nobody wants any more
            pool.shutdown(cancel_futures=True)
            raise
