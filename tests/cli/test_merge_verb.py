"""``predict --part`` and ``merge``: what they say, and how they end."""

import json
import re
from pathlib import Path

import pytest

import lungunet
from lungunet.phantom.phantom import phantom_slice


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    for number in range(4):
        image = phantom_slice(number, 0.5, size=48).image
        lungunet.write_image(tmp_path / "slices" / f"{number}.tif", image)
    return tmp_path / "slices"


def test_parts_are_joined(run_cli, slices, tmp_path) -> None:
    out = tmp_path / "out"
    predict = ("predict", "threshold", slices, "--out", out)
    for part in ("1/2", "2/2"):
        if part == "2/2":
            done = run_cli("merge", out)
            assert done.code == 1
            assert "part 2/2: not begun" in done.err
            assert "1 part not done. Run each again with --skip-existing, then merge." in done.err
        done = run_cli(*predict, "--part", part)
        assert done.code == 0
        assert f" in {out}, part {part}\n" in done.out
        assert f"When all parts are done: lungunet merge {out}\n" in done.out
    done = run_cli("merge", out)
    assert done.code == 0
    masks, lights = done.out.splitlines()[:2]
    assert masks == f"4 masks in {out}"
    assert re.fullmatch(r"\d red, \d amber, \d green: (.*)", lights)[1] == str(out / "triage.csv")
    assert sum(map(int, re.findall(r"(\d) (?:red|amber|green)", lights))) == 4
    assert run_cli("merge", out, "--quiet").out == ""
    (slices / "bad.tif").write_bytes(b"junk")
    assert run_cli(*predict, "--skip-existing").code == 1
    done = run_cli("merge", out)
    said = f"4 masks in {out}; it holds no parts, there was nothing to join\n"
    assert (done.code, done.out) == (1, said)
    done = run_cli("merge", out, "--json")
    assert done.code == 1
    assert json.loads(done.out) == {"out": str(out), "masks": 4, "skipped": ["bad"], "missing": []}
    assert "1 of 5 items skipped" in done.err


def test_what_cannot_be(run_cli, slices, tmp_path) -> None:
    predict = ("predict", "threshold", slices, "--out", tmp_path / "out")
    done = run_cli(*predict, "--part", "3/2")
    assert (done.code, "--part 3/2: write the number of a part" in done.err) == (1, True)
    done = run_cli(*predict, "--ray", "auto", "--device", "cpu")
    assert (done.code, "Ray says itself which devices" in done.err) == (1, True)
    done = run_cli("merge", tmp_path)
    assert (done.code, f"{tmp_path}: holds no parts" in done.err) == (1, True)


def test_several_devices(run_cli, slices, tmp_path) -> None:
    done = run_cli("predict", "threshold", slices, "--out", tmp_path / "out", "--device", "cpu,cpu")
    assert (done.code, f"4 masks in {tmp_path / 'out'}\n" in done.out) == (0, True)
