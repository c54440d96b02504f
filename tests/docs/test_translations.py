"""Pages in other languages show what the English ones show."""

import io
import os
import tokenize
from pathlib import Path

import pytest
from pages import ROOT, commands, read_blocks

PAGES = [
    (ROOT / "README.md", ROOT / "README.zh-CN.md"),
    (ROOT / "docs" / "tutorial.md", ROOT / "docs" / "zh" / "tutorial.md"),
]


def shown(page: Path) -> list[object]:
    """Return the blocks of a page as kind and content, without what is said in comments."""
    blocks: list[object] = []
    for block in read_blocks(page):
        if block.kind == "python":
            tokens = tokenize.generate_tokens(io.StringIO(block.text).readline)
            code = [each.string for each in tokens if each.type != tokenize.COMMENT]
            blocks.append((block.kind, code))
        else:
            text = list(commands(block.text)) if block.kind == "sh" else block.text
            blocks.append((block.kind, text))
    return blocks


@pytest.mark.parametrize(("english", "other"), PAGES, ids=lambda page: page.name)
def test_both_show_the_same_commands_code_and_output(english: Path, other: Path) -> None:
    assert shown(english) == shown(other)


@pytest.mark.parametrize(("english", "other"), PAGES, ids=lambda page: page.name)
def test_both_have_the_same_parts(english: Path, other: Path) -> None:
    levels = [
        [line.split(" ")[0] for line in page.read_text("utf-8").splitlines() if line[:1] == "#"]
        for page in (english, other)
    ]
    assert levels[0] == levels[1]


@pytest.mark.parametrize(("english", "other"), PAGES, ids=lambda page: page.name)
def test_each_leads_to_the_other(english: Path, other: Path) -> None:
    for page, target in ((english, other), (other, english)):
        link = Path(os.path.relpath(target, page.parent)).as_posix()
        assert f"]({link})" in page.read_text("utf-8")
