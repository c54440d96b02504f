"""``lungunet demo``: the whole chain on made-up patients."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("demo"),
) -> None:
    """Make chest-CT phantoms, split, train, evaluate and predict."""
