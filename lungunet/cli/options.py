"""Options that mean the same in every verb that has them."""

from pathlib import Path
from typing import Annotated

import typer

from lungunet.errors import ConfigError, listed

Labels = Annotated[
    str,
    typer.Option(help="Raw mask values in class order: 0,255 or 0,1 or 0,3=1,4=1."),
]
LabelThreshold = Annotated[
    int,
    typer.Option(help="For smeared masks: raw values from here on are lung. -1 is off."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Series = Annotated[
    str | None,
    typer.Option(help="Which series of a DICOM folder, where it holds several."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]


def refuse_inputs(outputs: list[Path], inputs: list[Path]) -> None:
    """Stop where output would replace what is read, whatever may be overwritten.

    Raises
    ------
    ConfigError
        Names the paths.
    """
    read = {path.resolve() for path in inputs}
    found = [str(path) for path in outputs if path.resolve() in read]
    if found:
        raise ConfigError(
            "would be written over while it is read. Choose another output folder.",
            where=listed(found, separator=", "),
        )


def refuse_existing(paths: list[Path], overwrite: bool) -> None:
    """Stop before any work where output would replace files.

    Raises
    ------
    ConfigError
        When a path exists and overwriting was not asked for.
    """
    found = [str(path) for path in paths if path.exists()]
    if found and not overwrite:
        raise ConfigError(
            "already there. Add --overwrite to replace, or choose another folder.",
            where=listed(found, separator=", "),
        )
