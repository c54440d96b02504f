"""The one way lungunet writes files, whole or not at all, and its tables and facts: CSV, JSON.

Owns that promise, what is not written over, and how what is undefined or infinite is written. Knows
what no file is about.
"""

import csv
import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lungunet.data.kinds import plain_value
from lungunet.errors import ConfigError, DataError, LungUNetError, listed

_NAME_BYTES = 200


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` when the block succeeds.

    The bytes are on disk before the name changes, so a kill at any instant leaves the old file or
    the new one. On an error the temporary file is removed and ``path`` is as it was. Who may read
    and write a file stays. A link is replaced, and not the file that it leads to, which may be of a
    store that keeps it for others.
    """
    path = Path(path)
    # Of a long name the start: file systems take 255 bytes, and the name itself has most of them.
    start = path.name.encode("utf-8", "surrogateescape")[:_NAME_BYTES].decode("utf-8", "ignore")
    temporary = path.with_name(f".{start}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as written:
            os.fsync(written.fileno())
        _keep_mode(path, temporary)
        temporary.replace(path)
    except OSError as err:
        full = err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "Make room; what was there before is kept." if full else "Choose another place."
        raise DataError(f"cannot be written ({err.strerror or err}). {fix}", where=path) from err
    finally:
        with suppress(OSError):  # where no folder could be made, no name in it can be looked up
            temporary.unlink()


def _keep_mode(old: Path, new: Path) -> None:
    """Give a file the mode of the one that it replaces."""
    with suppress(FileNotFoundError):
        mode = old.lstat().st_mode
        if (
            not stat.S_ISLNK(mode) and mode != new.stat().st_mode
        ):  # some file systems know one mode and refuse to be told
            new.chmod(stat.S_IMODE(mode))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path``, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8 without touching its line ends, atomically.

    What is no text, as in names of files from other systems, is written as hexadecimal codes.
    """
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def plain(value: Any) -> Any:
    """Return what JSON can hold, however deep: None for NaN, "inf" for infinite, lists for tuples.

    Numbers of numpy become those of Python, arrays lists, and paths text.

    Examples
    --------
    >>> plain({"iou": math.nan, "hd95_px": math.inf, "interval": (0.5, 1.0)})
    {'iou': None, 'hd95_px': 'inf', 'interval': [0.5, 1.0]}
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {plain_value(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def json_text(content: Any, *, sort_keys: bool = False, indent: int | None = 2) -> str:
    """Return facts as JSON: full precision, what is undefined or infinite as :func:`plain` says.

    Raises
    ------
    ConfigError
        When it holds what JSON does not know.
    """
    try:
        text = json.dumps(plain(content), indent=indent, sort_keys=sort_keys, allow_nan=False)
    except TypeError as err:
        raise ConfigError(f"{err}. Give numbers, text, lists and tables of them.") from err
    return text + "\n"


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write facts as JSON, atomically; see :func:`json_text`."""
    write_text(path, json_text(content))


def read_json(
    path: str | Path, *, fix: str, error: type[LungUNetError] = DataError
) -> dict[str, Any]:
    """Read the JSON object that a file holds; ``fix`` says in a sentence what to do without one."""
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as err:
        raise error(f"cannot be read ({err.strerror}). {fix}", where=path) from err
    except (ValueError, RecursionError) as err:
        raise error(f"damaged ({err}). {fix}", where=path) from err
    if not isinstance(content, dict):
        raise error(f"not a JSON object. {fix}", where=path)
    return content


def write_csv(
    path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Write a table as CSV: full precision, empty where undefined, ``inf`` where infinite.

    Atomically, and row by row: memory does not grow with their number. Lists are joined by "; ".
    Columns come in their order, by default that of the first row.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        _write_rows(file, rows, columns)


def _write_rows(
    file: TextIO, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None
) -> None:
    rows = iter(rows)
    first = [] if columns is not None else [next(rows)]
    writer = csv.DictWriter(file, list(columns or first[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: _cell(value) for name, value in row.items()} for row in chain(first, rows)
    )


def read_csv(
    path: str | Path, *, fix: str, error: type[LungUNetError] = DataError
) -> list[dict[str, str]]:
    """Read the rows of a table; ``fix`` says in a sentence what to do where that cannot be done."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as err:
        raise error(f"cannot be read ({err.strerror}). {fix}", where=path) from err
    except (UnicodeDecodeError, csv.Error) as err:
        raise error(f"cannot be read as CSV ({err}). {fix}", where=path) from err


def _cell(value: Any) -> Any:
    value = plain(value)
    return "; ".join(map(str, value)) if isinstance(value, list) else value


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Stop where output would replace what is read, whatever may be overwritten."""
    read = {path.resolve() for path in inputs}
    both = [str(path) for path in outputs if path.resolve() in read]
    if both:
        raise ConfigError(
            "would be written over while it is read. Choose another output folder.",
            where=listed(both, separator=", "),
        )


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Stop before any work where output would replace files."""
    existing = [str(path) for path in dict.fromkeys(paths) if path.exists()]
    if existing and not overwrite:
        raise ConfigError(
            "already there. Add overwrite=True to replace, or choose another folder.",
            where=listed(existing, separator=", "),
        )
