"""What is declared to pip is what is tested."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def bounds() -> dict[str, Version]:
    """Return the lowest version of each package that the library uses, as pyproject.toml says."""
    extras = PROJECT["optional-dependencies"]
    found = {}
    optional = [line for extra in ("volumes", "dicom", "pacs", "onnx") for line in extras[extra]]
    for line in [*PROJECT["dependencies"], *optional]:
        wanted = Requirement(line)
        if wanted.name == "lungunet":  # another extra of ours
            continue
        lowest = [each.version for each in wanted.specifier if each.operator == ">="]
        assert len(lowest) == 1, line
        found[canonicalize_name(wanted.name)] = Version(lowest[0])
    return found


def test_the_oldest_that_is_tested_is_the_oldest_that_is_allowed() -> None:
    lines = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {canonicalize_name(name): Version(pin) for name, pin in pins.items()} == bounds()


def test_pythons_that_are_named_are_those_of_the_contributing_page() -> None:
    named = {
        found[1]
        for line in PROJECT["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    }
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tested = re.search(r"Tested Pythons: ([\d., ]+)\.\s", page)
    assert tested is not None
    assert named == set(tested[1].split(", "))
    assert min(named, key=Version) in PROJECT["requires-python"]


def test_the_package_sends_nobody_to_pages_that_are_not_installed() -> None:
    texts = {".py", ".html", ".js", ".css", ".md"}
    files = [path for path in (ROOT / "lungunet").rglob("*") if path.suffix in texts]
    assert len(files) > 100
    naming = [path for path in files if re.search(r"\b(docs|howto)/", path.read_text("utf-8"))]
    assert not naming
