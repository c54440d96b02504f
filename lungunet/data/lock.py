"""A folder that one job alone writes into, for as long as it does.

Knows nothing of what is written there.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TextIO

from lungunet.errors import ConfigError, DataError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_held: set[Path] = set()  # by this process, whose threads the lock of a file does not tell apart
_holding = Lock()


@contextmanager
def claimed(folder: Path, *, doing: str) -> Iterator[None]:
    """Keep others from claiming a folder inside the block; it goes again if nothing came of it.

    Parameters
    ----------
    doing : what is said of another that has it, as "another process trains in it"

    Raises
    ------
    ConfigError
        When another has it.
    DataError
        When it cannot be written.
    """
    place = folder.resolve()
    with _holding:
        if place in _held:
            raise _taken(folder, doing)
        _held.add(place)
    try:
        with _locked(folder, doing):
            yield
    finally:
        _held.discard(place)


@contextmanager
def _locked(folder: Path, doing: str) -> Iterator[None]:
    path = folder / ".lock"
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError as err:
        raise DataError(
            f"cannot be written ({err.strerror}). Choose another folder.", where=folder
        ) from err
    with file:
        if not _is_free(file):
            raise _taken(folder, doing)
        try:
            yield
        finally:
            if fcntl is None:  # Windows removes no file that is open
                file.close()
            with suppress(OSError):
                path.unlink()
            with suppress(OSError):
                for each in made:
                    each.rmdir()


def _taken(folder: Path, doing: str) -> ConfigError:
    return ConfigError(f"{doing}. Wait for it, or choose another folder.", where=folder)


def _is_free(file: TextIO) -> bool:
    """Lock a file for this process: that ends with it, even by a kill, and workers have none."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        pass
    return True
