"""Every block of the README runs, on phantoms and cut short."""

import re
import shutil
from pathlib import Path

import pytest
from pages import ROOT, commands, read_blocks, run_page

import lungunet

README = ROOT / "README.md"


@pytest.fixture
def here(phantoms: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the README's reader has it."""
    shutil.copytree(phantoms[0], tmp_path / "2d_images")
    shutil.copytree(phantoms[1], tmp_path / "2d_masks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_blocks_run_in_order(here: Path, run_cli) -> None:
    run_page(README, run_cli)
    assert len(list((here / "masks").glob("*.png"))) == 12


def test_the_four_commands_are_there() -> None:
    words = [found for block in read_blocks(README) for found in commands(block.text)]
    verbs = [found[1] for found in words if found[0] == "lungunet"]
    assert verbs[:4] == ["split", "train", "evaluate", "predict"]


def test_names_in_the_readme_exist() -> None:
    for name in re.findall(r"lungunet\.(\w+)", README.read_text(encoding="utf-8")):
        assert hasattr(lungunet, name), name


def test_the_two_commands_are_there() -> None:
    assert "    make demo\n    make test\n" in README.read_text(encoding="utf-8")
