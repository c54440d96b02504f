"""A bad input and what must come of it, and what a folder holds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Row:
    """One bad input, and what must come of it.

    Parameters
    ----------
    args : the command line; W/ stands for the world
    err : all of stderr; W stands for the world
    spoil : makes the input bad
    writes : what is new afterwards, for commands that go on
    """

    args: str
    err: str
    spoil: Spoil = bool  # nothing
    code: int = 1
    writes: tuple[str, ...] = ()


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return every file with its bytes, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
