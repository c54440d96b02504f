"""Run folders by number: runs/001, runs/002 and so on."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path


@contextmanager
def run_folder(out: Path | None) -> Iterator[Path]:
    """Give ``out``, or the next free number, made at once: two that start together get one each."""
    if out is not None:
        yield out
        return
    runs = Path("runs")
    runs.mkdir(exist_ok=True)
    for number in count(1):
        folder = runs / f"{number:03d}"
        with suppress(FileExistsError):
            folder.mkdir()
            break
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()  # empty: nothing came of it
