"""What users type is frozen: every verb's arguments and options, every public signature.

They stand in ``api.txt``; ``python tests/test_api_frozen.py`` writes it anew.
"""

import difflib
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

import lungunet
from lungunet.cli.app import app

FROZEN = Path(__file__).parent / "api.txt"
SPECIAL = {"__call__", "__getitem__", "__iter__", "__len__"}
RENEW = (
    "The public interface is no longer what tests/api.txt says. If that is wanted: what goes away "
    "or changes is deprecated first (CONTRIBUTING.md); then renew the file with "
    "'python tests/test_api_frozen.py' and add a line to CHANGELOG.md.\n"
)


def describe_verbs() -> Iterator[str]:
    root = typer.main.get_command(app)
    for name, verb in {"": root, **root.commands}.items():
        yield f"lungunet {name}".rstrip()
        for parameter in verb.params:
            if parameter.param_type_name == "argument":
                yield f"    {parameter.name.upper()}{' required' if parameter.required else ''}"
            else:
                flags = [*parameter.opts, *parameter.secondary_opts]
                yield f"    {' '.join(flags)}{' required' if parameter.required else ''}"


def describe_library() -> Iterator[str]:
    for name in lungunet.__all__:
        value = getattr(lungunet, name)
        if inspect.isclass(value):
            yield from describe_class(name, value)
        elif callable(value):
            yield name + signature(value)
        else:
            yield f"{name}: {type(value).__name__}"


def describe_class(name: str, kind: type) -> Iterator[str]:
    if issubclass(kind, BaseException):
        yield f"{name}: {', '.join(base.__name__ for base in kind.__bases__)}"
        return
    yield name + ("" if getattr(kind, "_is_protocol", False) else signature(kind))
    ours = [base for base in kind.__mro__ if base.__module__.startswith("lungunet")]
    members = {key: member for base in reversed(ours) for key, member in vars(base).items()}
    for key, member in sorted(members.items()):
        if key.startswith("_") and key not in SPECIAL:
            continue
        if isinstance(member, property | functools.cached_property):
            yield f"{name}.{key}"
        elif inspect.isfunction(member) or isinstance(member, classmethod | staticmethod):
            yield f"{name}.{key}{signature(getattr(kind, key))}"


def signature(function: Callable[..., object]) -> str:
    """Return names, kinds and defaults; annotations read differently from Python to Python."""
    found = inspect.signature(function)
    plain = [
        p.replace(annotation=p.empty, default=p.default if p.default is p.empty else Shown(p))
        for p in found.parameters.values()
    ]
    return str(found.replace(parameters=plain, return_annotation=found.empty))


class Shown:
    """A default as it reads in the source: functions and types by name, without an address."""

    def __init__(self, parameter: inspect.Parameter) -> None:
        self.default = parameter.default

    def __repr__(self) -> str:
        return getattr(self.default, "__name__", None) or repr(self.default)


def describe() -> str:
    lines = [*describe_verbs(), "", *describe_library()]
    wrapped = [
        textwrap.fill(line, 100, subsequent_indent=" " * 8, break_on_hyphens=False)
        if line and not line.startswith(" ")
        else line
        for line in lines
    ]
    return "\n".join(wrapped) + "\n"


def test_the_public_interface_is_as_frozen() -> None:
    frozen, found = FROZEN.read_text(encoding="utf-8"), describe()
    changes = difflib.unified_diff(frozen.splitlines(), found.splitlines(), lineterm="", n=0)
    assert frozen == found, RENEW + "\n".join(changes)


def test_what_is_frozen_holds_verbs_functions_and_methods() -> None:
    lines = FROZEN.read_text(encoding="utf-8").splitlines()
    for line in (
        "lungunet predict",
        "    MODEL required",
        "    --baselines --no-baselines",
        "Predictor.predict(self, image)",
        "list_encoders(pattern='*')",
        "InputContract.prepare(self, image, where='slice')",
        "DataError: LungUNetError, ValueError",
        "ScoreCard.pooled",
    ):
        assert line in lines, line


if __name__ == "__main__":
    FROZEN.write_text(describe(), encoding="utf-8")
