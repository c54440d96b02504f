"""What the README says is there; its blocks run with those of the docs."""

import re

from pages import ROOT, commands, read_blocks

import lungunet

README = ROOT / "README.md"


def test_the_first_command_and_the_four_are_there() -> None:
    words = [found for block in read_blocks(README) for found in commands(block.text)]
    verbs = [found[1] for found in words if found[0] == "lungunet"]
    assert verbs[:5] == ["predict", "split", "train", "evaluate", "predict"]


def test_names_in_the_readme_exist() -> None:
    for name in re.findall(r"lungunet\.(\w+)", README.read_text(encoding="utf-8")):
        assert hasattr(lungunet, name), name


def test_the_two_commands_are_there() -> None:
    assert "    make demo\n    make test\n" in README.read_text(encoding="utf-8")
