"""A small world that a test may spoil, and the check of what a command did to it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_rows import Row, contents

import lungunet


@pytest.fixture
def world(phantoms: tuple[Path, Path], tmp_path: Path) -> Path:
    """images/, masks/ and data/ with two patients to train, one for val and one for test."""
    for folder in phantoms:
        shutil.copytree(folder, tmp_path / folder.name)
    pairs = lungunet.find_pairs(tmp_path / "images", tmp_path / "masks")
    lists = lungunet.Split(train=pairs[:6], val=pairs[6:9], test=pairs[9:])
    lungunet.write_split(tmp_path / "data", lists, {"labels": lungunet.LUNG_CODEC.to_dict()})
    return tmp_path


@pytest.fixture
def check(run_cli, world: Path) -> Callable[[Row], None]:
    """Run a row in the world: exact message and exit code, nothing lost, nothing left."""

    def run(row: Row) -> None:
        row.spoil(world)
        before = contents(world)
        done = run_cli(*(arg.replace("W/", f"{world}/") for arg in row.args.split()))
        after = contents(world)
        assert done.err.replace(str(world), "W") == row.err
        assert done.code == row.code
        assert {name: after.get(name, "gone") for name in before} == before
        assert sorted(after.keys() - before.keys()) == sorted(row.writes)

    return run
