"""Runs the code blocks of a Markdown page in order, as its reader would, but on small data.

What readers see is what runs; only numbers that cost time are made smaller on the way (SMALLER, and
the options in ``_shorten``). Blocks are told by their language:

- ``python``: runs; the blocks of a page share their names, as in one session
- ``sh``: ``lungunet`` lines run in this process; other programs must be known, see ``_OTHERS``
- ``text``, ``toml``, ``csv``, ``json``: shown, not run

A page begins with the folders ``2d_images`` and ``2d_masks``. One that needs more, or less, says so
in a comment that readers do not see: ``<!-- given: data runs/a -->``, see ``GIVEN``.
"""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RUN, SHOWN = ("python", "sh"), ("text", "toml", "csv", "json")
GIVEN = {
    "nothing": "not even the two folders",
    "data": "lists of train, val and test, as `lungunet split` writes them",
    "runs/a": "a finished run of two epochs at 32x32 on that data",
    "study": "a series of DICOM in study/, of one patient",
    "scans": "four scans as NIfTI in scans/, and their masks of 0 and 1 in scan-masks/",
}

# Any number for these keywords becomes this one.
SMALLER = {"size": 32, "epochs": 2, "steps": 20, "patients": 4, "slices": 2, "folds": 2}

# Programs beside lungunet that pages name; what they take is checked where it can be.
_OTHERS = ("tensorboard", "curl", "uvicorn", "make", "cd", "hf")
_TOO_LONG = ("demo",)  # has a test of its own


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    kind: str
    text: str
    line: int


def read_blocks(page: Path) -> list[Block]:
    """List the fenced blocks of a page; directives, which begin with a brace, are no code."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text[: found.start()].count("\n") + 1)
        for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    ]


def read_given(page: Path) -> list[str]:
    """List what a page takes for granted beside the two folders."""
    if page.parent == ROOT and page.name.startswith("README"):
        return ["scans"]  # such comments are shown where READMEs are not rendered
    found = re.search(r"<!-- given: (.*?) -->", page.read_text(encoding="utf-8"))
    return found[1].split() if found else []


def run_page(page: Path, run_cli: Callable[..., Any]) -> None:
    """Run every block of a page in the current folder; the first that fails names its line."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in read_blocks(page):
        where = f"{page.name}, line {block.line}"
        assert block.kind in RUN + SHOWN, f"{where}: a block of {block.kind}"
        if block.kind == "python":
            # The page's own line numbers, so that a failure points at them.
            code = "\n" * block.line + shorten_python(block.text)
            exec(compile(code, str(page), "exec"), names)
        elif block.kind == "sh":
            for words in commands(block.text):
                _run(words, where, run_cli)


def shorten_python(code: str) -> str:
    """Make the numbers smaller that decide how long a block takes."""
    for name, value in SMALLER.items():
        code = re.sub(rf"\b{name}=\d+", f"{name}={value}", code)
    return code


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block, joined over ``\\``."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]  # variables that are set for one command
        if words:
            yield words


def _run(words: list[str], where: str, run_cli: Callable[..., Any]) -> None:
    program, *rest = words
    if program == "torchrun":  # one process here: what follows the module is ours
        program, rest = "lungunet", rest[rest.index("lungunet") + 1 :]
    if program == "lungunet":
        if rest[0] in _TOO_LONG:
            rest = [rest[0], "--help"]
        done = run_cli(*_shorten(rest))
        assert done.code == 0, f"{where}: lungunet {shlex.join(rest)}: {done.err}"
    elif program == "pip":
        _check_extras(rest[-1], where)
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), f"{where}: {rest[0]}"
    else:
        assert program in _OTHERS, f"{where}: {program} is not known to these tests"


def _shorten(words: list[str]) -> list[str]:
    """Make a command cheap: few epochs of few pixels, in one process, on the CPU."""
    verb, resumes = words[0], "--resume" in words
    words = _without(words, "--workers", "--device", "--precision")
    if verb in ("split", "prepare", "audit") and "--folds" in words:
        words = [*_without(words, "--folds"), "--folds", "2"]
    if verb == "train":
        words = _without(words, "--size", "--epochs")
        words += ["--epochs", "3"] if resumes else ["--size", "32", "--epochs", "1"]
    return words


def _without(words: list[str], *options: str) -> list[str]:
    kept = list(words)
    for option in options:
        while option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return kept


def _check_extras(requirement: str, where: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = re.fullmatch(r"(?:lungunet|\.)(?:\[([\w,]+)\])?", requirement)
    if found and found[1]:
        assert set(found[1].split(",")) <= set(project["optional-dependencies"]), where
