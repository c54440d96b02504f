"""Pages in other languages show what the English ones show."""

import io
import os
import re
import tokenize
from itertools import zip_longest
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


def paragraphs(page: Path) -> list[str]:
    """Return what stands between empty lines, headings too, without the fenced blocks."""
    text = re.sub(r"^```\w+\n.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    return re.split(r"\n\s*\n", text.strip())


def told(paragraph: str, page: Path) -> dict[str, set[str]]:
    """Return what a paragraph says alike in every language."""
    code = {" ".join(words.split()) for words in re.findall(r"`([^`]+)`", paragraph)}
    links = {
        os.path.relpath(page.parent / target, ROOT)
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", paragraph)
    }
    prose = re.sub(r"`[^`]+`|\]\([^)]*\)", "", paragraph)
    return {
        "level": set(re.findall(r"^#+", paragraph)),
        "code": code,
        "links": links - {os.path.relpath(each, ROOT) for pages in PAGES for each in pages},
        "numbers": set(re.findall(r"\d+(?:\.\d+)?", prose)),
    }


@pytest.mark.parametrize(("english", "other"), PAGES, ids=lambda page: page.name)
def test_both_have_the_same_paragraphs(english: Path, other: Path) -> None:
    """Each in its place, with the same code, links and numbers."""
    for ours, theirs in zip_longest(paragraphs(english), paragraphs(other), fillvalue=""):
        assert told(ours, english) == told(theirs, other), f"{ours[:80]!r} and {theirs[:40]!r}"


@pytest.mark.parametrize(("english", "other"), PAGES, ids=lambda page: page.name)
def test_each_leads_to_the_other(english: Path, other: Path) -> None:
    for page, target in ((english, other), (other, english)):
        link = Path(os.path.relpath(target, page.parent)).as_posix()
        assert f"]({link})" in page.read_text("utf-8")
