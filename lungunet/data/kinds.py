"""What arguments are, seen to where they come in: numpy's numbers become Python's, others are told.

Files, checkpoints and messages then hold plain values alone, arrays bytes that libraries know.
"""

import math
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from lungunet.errors import ConfigError, DataError


def plain_value(value: Any) -> Any:
    """Return numbers and text of numpy as those of Python, in lists and tables too.

    Examples
    --------
    >>> plain_value({"gamma": np.float32(0.5), "channels": (np.int64(8), 4)})
    {'gamma': 0.5, 'channels': (8, 4)}
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {plain_value(key): plain_value(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain_value, value))
    return value


def make_plain(config: Any) -> None:
    """Put plain values into the fields of a frozen dataclass; for its ``__post_init__``."""
    for each in fields(config):
        object.__setattr__(config, each.name, plain_value(getattr(config, each.name)))


def native_order(array: np.ndarray) -> np.ndarray:
    """Return an array in the byte order of this machine, which OpenCV, SimpleITK and PyTorch need.

    OpenCV takes other bytes for values without a word.
    """
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def is_number(value: object, *, whole: bool = False) -> bool:
    """Whether it is a plain number; True and False are none."""
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


def check_kind(name: str, value: object, kind: Any, fix: str) -> None:
    """Refuse an argument of another kind, before something that does not name it does.

    Parameters
    ----------
    kind : what ``isinstance`` takes
    fix : a sentence
    """
    if not isinstance(value, kind):
        shown = repr(value) if len(repr(value)) <= 60 else f"of {type(value).__name__}"
        raise ConfigError(f"{shown} is of the wrong kind. {fix}", where=name)


def check_whole(name: str, value: Any, *, least: int = 0) -> int:
    """Return a whole number as Python's, and refuse what is none, or below ``least``."""
    value = plain_value(value)
    check_kind(name, value, int, f"Give a whole number, {least} or more.")
    if value < least:
        raise ConfigError(f"must be {least} or more.", where=f"{name} {value}")
    return int(value)


def check_spacing(spacing_mm: Any, ndim: int) -> tuple[float, ...]:
    """Return the spacing of a slice or a volume, in mm, as plain numbers.

    Raises
    ------
    DataError
        When it is not one finite length above 0 for each of the two or three axes.
    """
    try:
        spacing = tuple(float(mm) for mm in spacing_mm)
    except (TypeError, ValueError):
        spacing = ()
    if len(spacing) != ndim or not all(0 < mm < math.inf for mm in spacing):
        count, axes = ("three", "(z, y, x)") if ndim == 3 else ("two", "(y, x)")
        raise DataError(
            f"not {count} lengths above 0. Pass {axes}, mm.",
            where=f"spacing_mm {spacing or spacing_mm}",
        )
    return spacing


def as_list(paths: str | Path | Iterable[str | Path]) -> list[str]:
    """Return one path or many as many: text is one, not its letters."""
    return [str(paths)] if isinstance(paths, str | Path) else [str(path) for path in paths]
