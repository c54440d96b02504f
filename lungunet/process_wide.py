"""What is one for the whole process, changed for a block that several threads may run at once.

``warnings.catch_warnings`` is not for threads: it takes the warnings of all, and where two overlap,
the filters of one stay for good. Log levels and settings of other libraries go the same way.
"""

import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # no child begins with the lock held by a thread it lacks
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release
    )


@dataclass
class _Held(Generic[T]):
    """A manager that was entered, what it gave, and how many are in its block."""

    value: T
    leave: Callable[[], None]
    inside: int = 0


def across_threads(
    manager: Callable[P, AbstractContextManager[T]],
) -> Callable[P, AbstractContextManager[T]]:
    """Make a manager one for all threads: the first in enters it, and the last out leaves it.

    Those with other arguments are apart. What goes wrong in the block, the manager is not told.
    """
    held: dict[Any, _Held[T]] = {}

    @contextmanager
    def together(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        key = (args, *sorted(kwargs.items()))
        with _LOCK:
            if key not in held:
                stack = ExitStack()
                held[key] = _Held(stack.enter_context(manager(*args, **kwargs)), stack.close)
            ours = held[key]
            ours.inside += 1
        try:
            yield ours.value
        finally:
            with _LOCK:
                ours.inside -= 1
                if not ours.inside:
                    del held[key]
                    ours.leave()

    return together


@across_threads
@contextmanager
def muted_logger(name: str, level: int) -> Iterator[None]:
    """Let a logger, and those below it, tell of nothing less than a level."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


_NONE = "(?!)"  # as no text begins


class _Ignored(threading.local):
    """Stands in a filter for the pattern of its messages, of which each thread has its own.

    There is no Python in it on purpose: other threads cannot run, and change the list of filters,
    while one goes through it.
    """

    match: Callable[[str], object] = re.compile(_NONE).match

    def __reduce__(self) -> tuple[Any, ...]:  # some send the filters to their processes
        return re.compile, (_NONE,)


_IGNORED = _Ignored()
_FILTER = ("ignore", _IGNORED, Warning, None, 0)


@contextmanager
def ignored_warnings(begin: str = "") -> Iterator[None]:
    """Ignore the warnings that this thread gives, of any library; those of others are seen.

    Parameters
    ----------
    begin : how their text begins, a regular expression; of nested blocks the inner one counts
    """
    outer = _IGNORED.match
    _IGNORED.match = re.compile(begin).match
    try:
        with _filtering():
            yield
    finally:
        _IGNORED.match = outer


@across_threads
@contextmanager
def _filtering() -> Iterator[None]:
    filters: Any = warnings.filters
    filters.insert(0, _FILTER)
    try:
        yield
    finally:
        now: Any = warnings.filters  # a copy, where someone came in between
        for each in (filters, now):
            if _FILTER in each:
                each.remove(_FILTER)
