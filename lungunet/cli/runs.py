"""Run folders by number: runs/001, runs/002 and so on."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from lungunet.errors import ConfigError


@contextmanager
def run_folder(out: Path | None) -> Iterator[Path]:
    """Give ``out``, or the next free number, made at once: two that start together get one each.

    Raises
    ------
    ConfigError
        When several processes train together and ``out`` is None.
    """
    from lungunet.training.distributed import Ranks

    if out is not None:
        yield out
        return
    if Ranks.from_environment().count > 1:
        raise ConfigError(
            "each process would take a number of its own. Give --out RUN.", where="--out"
        )
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
