"""The site builds without a warning and without network, and its reference leaves nothing out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

import lungunet
from lungunet.cli.app import app

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    strict = ("-W", "--keep-going", "-q", "-E", "-d", str(folder / "doctrees"))
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *strict, str(DOCS), str(folder / "html")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("reference/*.md"))
    named = re.findall(r"^\.\. auto(?:class|function|data|exception):: (\w+)$", text, re.M)
    assert sorted(named) == sorted(set(lungunet.__all__) - {"__version__"})


def test_public_names_have_a_place_to_link_to(site: Path) -> None:
    html = "".join(page.read_text(encoding="utf-8") for page in site.glob("reference/*.html"))
    for name in set(lungunet.__all__) - {"__version__"}:
        assert f'id="lungunet.{name}"' in html, name


def test_types_are_links(site: Path) -> None:
    html = (site / "reference" / "data.html").read_text(encoding="utf-8")
    signature = html[html.index('id="lungunet.find_pairs"') :].split("</dt>")[0]
    assert 'href="#lungunet.Pair"' in signature


def test_shapes_and_units_of_docstrings_are_shown(site: Path) -> None:
    html = (site / "reference" / "data.html").read_text(encoding="utf-8")
    window = html[html.index('id="lungunet.Window.apply"') :].split("</dd></dl>")[0]
    assert "<strong>hu</strong> : (…, H, W) int16, int32 or float32, HU" in window


def test_formulas_need_no_script(site: Path) -> None:
    html = (site / "concepts" / "accuracy.html").read_text(encoding="utf-8")
    assert "<mfrac>" in html


def test_the_command_line_reference_is_that_of_the_application(site: Path) -> None:
    html = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for command in app.registered_commands:
        name = command.callback.__name__
        assert f'id="{name}"' in html, name
    assert "--label-threshold" in html
    assert "--help" not in re.sub(r"<[^>]*>", "", html).replace("COMMAND --help", "")


def test_pages_ask_no_other_server(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|link)[^>]*(?:src|href)="(https?:[^"]*)', text)
        assert not loaded, page.name
