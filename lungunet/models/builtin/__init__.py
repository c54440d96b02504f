"""Models that come with the package, each a model folder beside this file. Knows no torch."""

from pathlib import Path

BUILTIN = {"lungs": Path(__file__).parent / "lungs"}
"""Word -> model folder."""


def named_folder(model: str | Path) -> Path:
    """Return the folder of a built-in model for its word, and any other path as it is.

    A folder of the user's that is called like a built-in model is a Path, or ``"./lungs"``.
    """
    return BUILTIN.get(model, Path(model)) if isinstance(model, str) else model
