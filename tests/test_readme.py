"""Every block of the README runs, on phantoms and cut short."""

import re
import shlex
from pathlib import Path

import pytest

import lungunet

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)

# What keeps the blocks short: they are otherwise run as they stand.
SMALLER = {"size=256": "size=64", "size=128": "size=64", "epochs=20": "epochs=1"}


@pytest.fixture
def here(phantoms: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the README's reader has it."""
    (tmp_path / "2d_images").symlink_to(phantoms[0])
    (tmp_path / "2d_masks").symlink_to(phantoms[1])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shell_blocks_run_in_order(here: Path, run_cli) -> None:
    lines = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("lungunet ")]
    assert len(commands) == 4
    for words in commands:
        short = ("--size", "32", "--epochs", "1") if words[0] == "train" else ()
        done = run_cli(*words, *short)
        assert done.code == 0, done.err
    assert len(list((here / "masks").glob("*.png"))) == 12


@pytest.mark.parametrize("number", range(sum(kind == "python" for kind, _ in BLOCKS)))
def test_python_blocks_run(here: Path, number: int, run_cli) -> None:
    run_cli("split", "2d_images", "2d_masks", "data")
    code = [text for kind, text in BLOCKS if kind == "python"][number]
    for long, short in SMALLER.items():
        code = code.replace(long, short)
    exec(compile(code, f"README.md python block {number}", "exec"), {})


def test_names_in_the_readme_exist() -> None:
    for name in re.findall(r"lungunet\.(\w+)", README):
        assert hasattr(lungunet, name), name


def test_the_two_commands_are_there() -> None:
    assert "    make demo\n    make test\n" in README
