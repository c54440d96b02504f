"""Every error that lungunet raises for a reason the caller can mend.

::

    LungUNetError(Exception)
    +-- ConfigError(ValueError)          a bad setting, an unknown encoder, contracts that disagree
    +-- DataError(ValueError)            unreadable, empty, wrong dtype or shape, missing pair
    |   +-- LabelError                   a raw mask value outside the codec
    |   +-- GeometryError                image and mask disagree
    |   +-- SplitError                   a leaking split, or an empty list
    +-- ModelError                       a missing, damaged, newer or foreign model folder
    |   +-- WeightsUnavailableError      pretrained weights could not be fetched
    +-- MissingExtraError(ImportError)   an optional dependency is not installed

``LungUNetWarning(UserWarning)`` marks what the caller should know and may go on with.

Errors read ``{where}: {what, with the value}. {how to fix}``. This module imports nothing.
"""

SHOWN_AS: dict[str, str] = {}
"""What warnings call temporary folders, for as long as these exist."""

_LISTED = 8  # an error names this many offenders, then counts the rest


class LungUNetError(Exception):
    """The root of all errors that lungunet raises on purpose.

    Parameters
    ----------
    message : what is wrong, with the value, and how to fix it
    where : the file, setting or argument that it is about; None where there is none by itself

    Examples
    --------
    >>> print(DataError("the file is empty. Copy it again.", where="a.tif"))
    a.tif: the file is empty. Copy it again.
    """

    def __init__(self, message: str, *, where: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = None if where is None else str(where)

    def __str__(self) -> str:
        """Join where and message."""
        return self.message if self.where is None else f"{self.where}: {self.message}"


class ConfigError(LungUNetError, ValueError):
    """A setting is wrong, unknown, or disagrees with another one."""


class DataError(LungUNetError, ValueError):
    """A file or array is unreadable, empty, of a wrong dtype or shape, or missing."""


class LabelError(DataError):
    """A raw mask holds a value that the label codec does not map."""


class GeometryError(DataError):
    """An image and its mask do not lie on the same grid."""


class SplitError(DataError):
    """A split leaks, or a list that must hold pairs is empty."""


class ModelError(LungUNetError):
    """A model folder or checkpoint is missing, damaged, too new, or of another model."""


class WeightsUnavailableError(ModelError):
    """Pretrained weights could not be fetched."""


class MissingExtraError(LungUNetError, ImportError):
    """An optional dependency is not installed."""


class LungUNetWarning(UserWarning):
    """Something looks wrong, and work goes on."""

    def __init__(self, message: str = "") -> None:
        for folder, shown in SHOWN_AS.copy().items():  # threads add to it
            message = message.replace(folder, shown)
        super().__init__(message)


def counted(n: int, noun: str) -> str:
    """Count for a message.

    Examples
    --------
    >>> counted(1, "pixel"), counted(0, "pixel")
    ('1 pixel', '0 pixels')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"


def listed(items: list[str], *, separator: str = "\n  ") -> str:
    """Join ``items`` for a message: at most eight, then "and N more".

    Examples
    --------
    >>> listed(["a", "b"], separator=", ")
    'a, b'
    >>> listed([str(i) for i in range(11)], separator=" ")
    '0 1 2 3 4 5 6 7 and 3 more'
    """
    rest = len(items) - _LISTED
    return separator.join(items[:_LISTED] + ([f"and {rest} more"] if rest > 0 else []))
