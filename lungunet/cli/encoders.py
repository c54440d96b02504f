"""``lungunet encoders``: what can stand in front of the decoder."""

from typing import Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import Json
from lungunet.errors import ConfigError


def encoders(
    pattern: Annotated[str, typer.Argument(help="As in 'resnet*' or 'tu-convnext*'.")] = "*",
    as_json: Json = False,
) -> None:
    """List encoders with their size and the pretrained weights there are.

    Names that begin with tu- come from timm and are listed when the pattern begins so.

    Example: `lungunet encoders "resnet*"`
    """
    from lungunet import list_encoders

    matching = list_encoders(pattern)
    if not matching:
        raise ConfigError(
            "no name matches. Try '*net*' or 'tu-*net*'.", where=f"encoders '{pattern}'"
        )
    if as_json:
        console.say_json(
            [
                {"name": e.name, "parameters": e.parameters, "weights": list(e.weights)}
                for e in matching
            ]
        )
        return
    rows = [
        (e.name, f"{e.parameters / 1e6:.1f} M" if e.parameters else "-", ", ".join(e.weights))
        for e in matching
    ]
    width = max(len(row[0]) for row in rows)
    console.say(f"{'encoder':<{width}}  parameters  weights")
    for name, parameters, weights in rows:
        console.say(f"{name:<{width}}  {parameters:>10}  {weights or '-'}")
