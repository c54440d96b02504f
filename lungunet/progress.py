"""How long work reports that it moves: one callable, shaped like ``tqdm.tqdm``.

Functions that can last take ``progress=`` and wrap their loop in it; the default says nothing.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


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
