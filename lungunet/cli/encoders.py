"""``lungunet encoders``: what a network can be made of, encoders and architectures."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import Json
from lungunet.errors import ConfigError

if TYPE_CHECKING:
    from lungunet import ArchitectureInfo


def encoders(
    pattern: Annotated[str, typer.Argument(help="As in 'resnet*' or 'tu-convnext*'.")] = "*",
    architectures: Annotated[
        bool, typer.Option("--architectures", help="List what 'train --architecture' takes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List encoders with their size and the pretrained weights there are.

    Names that begin with tu- come from timm and are listed when the pattern begins so.

    Examples
    --------
    - `lungunet encoders "resnet*"`
    - `lungunet encoders --architectures`
    """
    if architectures:
        _list_architectures(pattern, as_json=as_json)
        return
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
        (
            e.name,
            f"{e.parameters / 1e6:.1f} M" if e.parameters else "-",
            ", ".join(e.weights) or "-",
        )
        for e in matching
    ]
    _say_columns(("encoder", "parameters", "weights"), rows)


def _list_architectures(pattern: str, *, as_json: bool) -> None:
    from lungunet import list_architectures

    if pattern != "*":
        raise ConfigError(
            "lists all architectures. Leave the pattern out.", where="--architectures"
        )
    if as_json:
        console.say_json([asdict(each) for each in list_architectures()])
        return
    rows = [(a.name, a.title, _sizes(a), _paper(a.paper)) for a in list_architectures()]
    _say_columns(("architecture", "title", "sizes, px", "paper"), rows)


def _say_columns(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print text in columns, numbers to the right."""
    cells = [[cell or "-" for cell in row] for row in (header, *rows)]
    console.show_columns(cells, right=[i for i, name in enumerate(header) if name == "parameters"])


def _sizes(a: "ArchitectureInfo") -> str:
    if a.multiple == 1:
        return "any"
    return f"multiples of {a.multiple}" + (f" from {a.smallest}" * (a.smallest > a.multiple))


def _paper(number: str) -> str:
    return f"https://doi.org/{number}" if "/" in number else f"https://arxiv.org/abs/{number}"
