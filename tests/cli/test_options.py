"""What verbs share: the notation of labels, and the loop over what may be skipped."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import typer

import lungunet
from lungunet.cli import console
from lungunet.cli.app import app
from lungunet.cli.options import parse_codec, parse_labels, typed_labels
from lungunet.errors import ConfigError, DataError

VERBS = typer.main.get_command(app).commands


class TestLabels:
    def test_auto(self) -> None:
        assert parse_codec("auto", -1) is None
        assert parse_codec("auto", 99) == lungunet.LabelCodec({0: 0, 255: 1}, threshold=99)
        with pytest.raises(ConfigError, match="labels 'auto': not a list of whole numbers"):
            parse_labels("auto", -1)

    @pytest.mark.parametrize("parse", [parse_codec, parse_labels])
    def test_notation(self, parse) -> None:
        assert parse("0,3=1,4=1", -1) == lungunet.LabelCodec.parse("0,3=1,4=1")
        assert parse("0,1", 0) == lungunet.LabelCodec({0: 0, 1: 1}, threshold=0)

    def test_names_alone_are_of_0_and_255(self) -> None:
        assert parse_codec("auto", -1, "a,b") == lungunet.LabelCodec(
            {0: 0, 255: 1}, names=("a", "b")
        )

    def test_what_was_typed_goes_on(self) -> None:
        assert typed_labels("auto", -1) == ()
        assert typed_labels("0,1", -1) == ("--labels", "0,1")
        assert typed_labels("auto", 128) == ("--label-threshold", 128)


@dataclass(frozen=True)
class Item:
    name: str
    error: DataError | None = None


def test_what_is_skipped_is_named_at_once_and_the_loop_goes_on(capsys) -> None:
    said: list[str] = []

    def results() -> Iterator[Item]:
        yield Item("a")
        yield Item("b", DataError("the file is empty. Copy it again.", where="b.tif"))
        said.append(capsys.readouterr().err)
        yield Item("c")

    failed: list[str] = []
    assert [item.name for item in console.going_on(results(), failed)] == ["a", "b", "c"]
    assert said == ["lungunet: skipped b.tif: the file is empty. Copy it again.\n"]
    assert failed == ["b.tif: the file is empty. Copy it again."]


def test_what_is_alike_is_said_thrice_and_counted(capsys) -> None:
    empty = [Item(f"{n}", DataError("the file is empty.", where=f"{n}.tif")) for n in range(70)]
    other = Item("x", DataError("no such file.", where="x.tif"))
    failed: list[str] = []
    assert len(list(console.going_on([*empty, other], failed))) == len(failed) == 71
    assert capsys.readouterr().err.splitlines() == [
        *(f"lungunet: skipped {n}.tif: the file is empty." for n in range(3)),
        "lungunet: skipped x.tif: no such file.",
        "lungunet: skipped 67 more, all alike: the file is empty.",
    ]


def test_warnings_that_are_alike_are_counted_too(capsys) -> None:
    for n in range(5):
        console.show_warning(f"scan-{n}: values are no HU.")
    console.show_warning("alone")
    console.close_warnings()
    console.close_warnings()  # nothing is said twice
    assert capsys.readouterr().err.splitlines() == [
        *(f"lungunet: scan-{n}: values are no HU." for n in range(3)),
        "lungunet: alone",
        "lungunet: 2 more, all alike: values are no HU.",
    ]


def test_help_shows_no_type_where_no_value_is_taken(run_cli) -> None:
    for words in (("--help",), ("train", "--help"), ("predict", "--help")):
        assert "<bool>" not in run_cli(*words).out


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_keeps_its_stars(run_cli, verb: str) -> None:
    """Markdown takes two of them on a line for emphasis."""
    params = VERBS[verb].params
    written = "".join(param.help or "" for param in params if hasattr(param, "help"))
    required = sum(param.required for param in params)  # each is marked with one
    assert run_cli(verb, "--help").out.count("*") >= written.count("*") + required
