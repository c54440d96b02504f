"""What verbs share: the notation of labels, and the loop over what may be skipped."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import lungunet
from lungunet.cli import console
from lungunet.cli.options import parse_codec, parse_labels
from lungunet.errors import ConfigError, DataError


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
