"""The one way lungunet writes a file: whole or not at all.

Owns nothing but that promise; knows no format.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lungunet.errors import DataError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` when the block succeeds.

    The bytes are on disk before the name changes, so a kill at any instant leaves the old file or
    the new one. On an error the temporary file is removed and ``path`` is as it was.

    Raises
    ------
    DataError
        When the folder cannot be made or written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as err:
        full = err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "Make room; what was there before is kept." if full else "Choose another place."
        raise DataError(f"{path}: cannot be written ({err.strerror or err}). {fix}") from err
    finally:
        with suppress(
            OSError
        ):  # where the folder could not be made, nor can this name be looked up
            temporary.unlink()


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path``, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8 without touching its line ends, atomically.

    What is no text, as in names of files from other systems, is written as hexadecimal codes.
    """
    write_bytes(path, content.encode("utf-8", "backslashreplace"))
