"""``lungunet export``: a model as one ONNX file."""

from pathlib import Path
from typing import Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import Json, Overwrite, Quiet
from lungunet.errors import ConfigError


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="Run folder, model folder, the word lungs, or hf://OWNER/NAME@REVISION. Averaged: "
            "the folder of a cross-validation, or A+B.",
            metavar="MODEL",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, ends with .onnx.")],
    check: Annotated[
        str | None,
        typer.Option(
            help="Slices to compare with torch on: a file, folder, glob or list. Default: phantoms."
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a model as one ONNX file, from CT values to masks, that runs without torch.

    It is compared with torch first, and written only when masks agree wherever the probability is
    more than 0.0001 from a half.

    Examples
    --------
    - `lungunet export lungs --out lungs.onnx`
    - `lungunet predict lungs.onnx slices/ --out masks --tta`
    """
    from dataclasses import asdict

    from lungunet import export_onnx

    if out.exists() and not overwrite:
        raise ConfigError(
            "already there. Add --overwrite to replace, or choose another folder.", where=out
        )
    parity = export_onnx(model, out, slices=check)
    if as_json:
        console.say_json({"file": str(out), "bytes": out.stat().st_size, **asdict(parity)})
        return
    console.say(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB; compared with torch on "
        f"{parity.slices} {'phantoms' if check is None else 'slices'}: {parity.differing_px} of "
        f"{parity.pixels} pixels differ, probabilities by {parity.furthest:.1g} at most"
    )
