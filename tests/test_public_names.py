"""The public API: exactly these names, lazily, and typed."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import lungunet


@pytest.mark.parametrize("name", lungunet.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(lungunet, name)
    if callable(value):
        assert value.__doc__


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'build_vnet'"):
        _ = lungunet.build_vnet


def test_every_name_lives_where_the_stub_says() -> None:
    """What type checkers read is what __getattr__ delivers; dir() and __all__ are the same list."""
    stub = Path(lungunet.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    homes = {alias.asname: node.module for node in imports for alias in node.names}
    assert dir(lungunet) == lungunet.__all__ == sorted(homes)
    for name, home in homes.items():
        assert getattr(importlib.import_module(home), name) is getattr(lungunet, name)


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_lungunet_imports_the_standard_library_alone() -> None:
    loaded = in_fresh_python(
        "import sys; before = set(sys.modules); import lungunet;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'lungunet'}))"
    )
    assert loaded == "[]"


def test_help_needs_no_torch() -> None:
    loaded = in_fresh_python(
        "import sys, contextlib; from lungunet.cli import main; sys.argv = ['lungunet', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None): main()\n"
        "print({'torch', 'numpy', 'cv2', 'albumentations'} & set(sys.modules))"
    )
    assert loaded == "set()"
