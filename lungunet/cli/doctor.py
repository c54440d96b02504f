"""``lungunet doctor``: what is installed here, what would be chosen, and what is broken."""

from typing import TYPE_CHECKING

import typer

from lungunet.cli import console
from lungunet.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lungunet import Health


def doctor(as_json: Json = False) -> None:
    """Look at the installation and this machine; segment a slice and train one small step.

    Uses no network and writes nothing. Exits with 1 when something is broken, with advice. Names no
    user, host or folder, so that its output can go into a report of a fault.

    Example: `lungunet doctor`
    """
    from lungunet import check_installation

    health = check_installation()
    if as_json:
        console.say_json(health.to_dict())
    else:
        _show(health)
    if health.problems:
        raise typer.Exit(1)


def _show(health: "Health") -> None:
    console.show_columns(
        [*_versions(health), ("", ""), *_machine(health), ("", ""), *_training(health)]
    )
    if not health.problems:
        console.say("\nnothing is broken")
        return
    for number, problem in enumerate(health.problems, start=1):
        console.say(f"\nbroken {number} of {len(health.problems)}: {problem}")


def _versions(health: "Health") -> "Iterator[tuple[str, str]]":
    for name, version in health.versions.items():
        extra = health.missing_extras.get(name)
        hint = f" (optional: pip install 'lungunet[{extra}]')" if extra else ""
        yield name, version or f"not installed{hint}"


def _machine(health: "Health") -> "Iterator[tuple[str, str]]":
    for name, choice in health.choices.items():
        yield name, f"{choice.value} ({choice.reason})"
    if health.threads is not None:
        yield "threads", f"{health.threads}, on {health.cores} cores"
    if health.memory_bytes is not None:
        yield "memory", f"{_gib(health.memory_free_bytes)} free of {_gib(health.memory_bytes)}"
    yield "disk", f"{_gib(health.disk_free_bytes)} free in this folder"


def _training(health: "Health") -> "Iterator[tuple[str, str]]":
    for encoder, cached in health.weights_cached.items():
        where = "in the cache" if cached else "not in the cache, --weights imagenet downloads them"
        yield "pretrained", f"{encoder}: {where}"
    if health.builtin_s is not None:
        yield "built-in", f"{health.builtin_s:.3f} s for a slice of 256x256"
    if health.step_s is not None:
        yield "one step", f"{health.step_s:.3f} s, 2 slices of 64x64"


def _gib(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"
