"""``lungunet report``: what it prints and writes."""

import shutil
from pathlib import Path


def test_prints_the_path_of_the_page(run_cli, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    done = run_cli("report", copy)
    assert (done.code, done.out, done.err) == (0, f"{copy / 'report.html'}\n", "")
    assert (copy / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_no_run_is_one_line_on_stderr(run_cli, tmp_path: Path) -> None:
    done = run_cli("report", tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"lungunet: {tmp_path}: no run (config.toml is missing). "
        "Give the folder that 'lungunet train' made.\n"
    )


def test_a_cross_validation_names_its_runs(run_cli, run: Path, tmp_path: Path) -> None:
    for name in ("fold-1", "fold-2"):
        shutil.copytree(run, tmp_path / name)
    said = (
        f"lungunet: {tmp_path}: holds the runs of a cross-validation. Give one of them: "
        f"{tmp_path / 'fold-1'}, {tmp_path / 'fold-2'}. 'lungunet evaluate {tmp_path} DATA' scores "
        "them as one model.\n"
    )
    for verb in (("report",), ("train", "--resume")):
        done = run_cli(*verb, tmp_path)
        assert (done.code, done.out, done.err) == (1, "", said)
    assert run_cli("report", tmp_path / "fold-1").code == 0


def test_help_has_an_example(run_cli) -> None:
    assert "lungunet report" in run_cli("report", "--help").out.split("Example")[1]
