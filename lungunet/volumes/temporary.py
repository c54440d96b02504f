"""Temporary folders for what patients' files hold: private, and gone in any case."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lungunet.errors import SHOWN_AS, LungUNetError

# Waits until nobody holds the other end of its input: whatever ended the process, a kill too.
_SWEEP = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


@contextmanager
def private_folder(shown: object, *, name: str) -> Iterator[Path]:
    """Yield a path in a new temporary folder, which goes with the block, or with the process.

    Another process waits for the end of this one and removes the folder where a kill left it.

    Parameters
    ----------
    shown : what errors and warnings about files in it name in place of the path
    name : last part of the path; nothing is there yet
    """
    with tempfile.TemporaryDirectory(prefix="lungunet-") as temporary, _swept(temporary):
        folder = Path(temporary, name)
        with _renamed(str(folder), str(shown)):
            yield folder


@contextmanager
def _swept(folder: str) -> Iterator[None]:
    sweeper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SWEEP, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is not meant for it
    )
    try:
        yield
    finally:
        sweeper.communicate()


@contextmanager
def _renamed(folder: str, shown: str) -> Iterator[None]:
    SHOWN_AS[folder] = shown  # in warnings
    try:
        yield
    except LungUNetError as err:
        err.message = err.message.replace(folder, shown)
        err.where = err.where and err.where.replace(folder, shown)
        raise
    finally:
        del SHOWN_AS[folder]
