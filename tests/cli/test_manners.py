"""What people bring from other programs, and what each of them hopes to read."""

import ast
import json
import re
from pathlib import Path
from unicodedata import east_asian_width

import numpy as np
import pytest
import typer

import lungunet
from lungunet.cli import console, wording
from lungunet.cli.app import app

PACKAGE = Path(lungunet.__file__).parent
VERBS = typer.main.get_command(app).commands
# Commands of ours and others are quoted whole; these are options of torchrun, containers and pip.
_QUOTED = re.compile(
    r"'(?:lungunet|pip|hf|dicomweb_client) [^']*'|--nproc-per-node|--shm-size|--index-url"
)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if "cli" not in path.parts],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_messages_of_the_library_name_no_option(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    about = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    texts, parts = [], set()
    for node in ast.walk(tree):  # what joins parts comes before them
        if isinstance(node, ast.JoinedStr):
            parts |= {id(each) for each in node.values}
            words = [each.value if isinstance(each, ast.Constant) else "X" for each in node.values]
            texts.append("".join(words))
        elif isinstance(getattr(node, "value", None), str) and id(node) not in about | parts:
            texts.append(node.value)
    for text in texts:
        assert not re.search(r"--[a-z]", _QUOTED.sub("", text)), text


class TestWording:
    @pytest.fixture(autouse=True)
    def _typed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.argv", ["lungunet", "train", "data"])

    @pytest.mark.parametrize(
        ("said", "read"),
        [
            ("Add overwrite=True to replace, or go.", "Add --overwrite to replace, or go."),
            ("pass flip=True; flip=False leaves it.", "pass --flip; --no-flip leaves it."),
            ("Lower batch_size, or size.", "Lower --batch-size, or size."),
            ("batch_size=0: must be at least 1.", "--batch-size 0: must be at least 1."),
            ("it (codec=LabelCodec.parse('0,3=1')), or", "it (--labels 0,3=1), or"),
            ("Pass codec=LabelCodec.parse('>=128').", "Pass --labels '>=128'."),
            ("window='LEVEL,WIDTH' (a window", "--window LEVEL,WIDTH (a window"),
            ("workers=0 reads here.", "--workers 0 reads here."),
            ("run.toml: unknown setting 'batch_size'", "run.toml: unknown setting 'batch_size'"),
            ("runs/batch_size=8/best: damaged", "runs/batch_size=8/best: damaged"),
            ("the size of the device", "the size of the device"),
            ("nothing=True of ours", "nothing=True of ours"),
        ],
    )
    def test_arguments_become_options(self, said: str, read: str) -> None:
        assert wording.in_options(said) == read

    def test_what_is_called_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.argv", ["lungunet", "predict", "m", "x"])
        assert wording.in_options("keep it with refine=False.") == "keep it with --raw."
        both = "with resample=True ('lungunet ... --resample'), or"
        assert wording.in_options(both) == "with --resample, or"
        both = "as series='4e5a' ('lungunet ... --series 4e5a')."
        assert wording.in_options(both) == "as --series 4e5a."
        said = "it (codec=LabelCodec.parse('0,2,1')), or"
        assert wording.in_options(said) == said
        monkeypatch.setattr("sys.argv", ["lungunet", "evaluate", "m", "x"])
        assert wording.in_options(said) == "it (--labels 0,2,1), or"
        assert wording.in_options(f"{said[:4]}mask_{said[4:]}") == "it (--mask-labels 0,2,1), or"
        monkeypatch.setattr("sys.argv", ["lungunet"])
        assert wording.in_options("Add overwrite=True") == "Add overwrite=True"

    def test_both_sides_read_their_own(self, run_cli, phantoms, tmp_path: Path) -> None:
        (tmp_path / "measurements.csv").write_text("mine")
        with pytest.raises(lungunet.ConfigError, match=r"Add overwrite=True to replace"):
            list(
                lungunet.predict_slices(lungunet.Predictor.load("threshold"), phantoms[0], tmp_path)
            )
        done = run_cli("predict", "threshold", phantoms[0], "-o", tmp_path)
        assert (done.code, "Add --overwrite to replace" in done.err) == (1, True)


class TestOptions:
    @pytest.mark.parametrize(
        ("typed", "suggested"),
        [
            ("--otu", "--out"),
            ("--epoch", "--epochs"),
            ("--output-dir", "--out"),
            ("--img_size", "--size"),
            ("--lr0", "--lr"),
            ("--force", "--overwrite"),
            ("--nonsense", None),
            ("--model", None),
            ("--tt", None),
        ],
    )
    def test_what_is_near_is_suggested_or_nothing(self, run_cli, typed, suggested) -> None:
        done = run_cli("train", "data", typed, "x")
        assert done.code == 2
        assert f"No such option: {typed}" in done.err
        said = re.search(r"Possible options: (.*?)\)", done.err)
        assert (said and said[1]) == suggested

    @pytest.mark.parametrize("verb", [name for name in VERBS if name not in ("encoders", "doctor")])
    def test_out_is_o(self, verb: str) -> None:
        for option in VERBS[verb].params:
            if "--out" in option.opts:
                assert "-o" in option.opts

    @pytest.mark.parametrize("verb", VERBS)
    def test_each_example_has_a_line(self, run_cli, verb: str) -> None:
        shown = run_cli(verb, "--help").out.split("Example")[1].split("\n\n╭")[0].split("╭")[0]
        lines = [line for line in shown.splitlines() if "lungunet " in line]
        assert lines
        assert all(
            line.count(f"lungunet {verb}") + line.count("lungunet predict") <= 2 for line in lines
        )
        assert " | " not in shown

    def test_devices_by_number_and_by_kind(self, run_cli, run, phantoms, tmp_path: Path) -> None:
        for device in ("0", "gpu"):  # the suite hides GPUs
            done = run_cli("predict", run, phantoms[0], "-o", tmp_path / "m", "--device", device)
            assert (done.code, "this machine has none" in done.err) == (1, True)
        assert lungunet.RunConfig(data="d", device=1).device == "1"
        with pytest.raises(lungunet.ConfigError, match="this machine has none"):
            lungunet.Predictor.load(run, device=0)


class TestJson:
    def test_train_and_report(self, run_cli, data: Path, tmp_path: Path) -> None:
        out = tmp_path / "a"
        small = ("--epochs", "1", "--size", "32", "--batch-size", "2", "--workers", "0")
        done = run_cli("train", data, "-o", out, *small, "--json")
        said = json.loads(done.out)
        assert (said["run"], said["model"]) == (str(out), str(out / "best"))
        assert [epoch["epoch"] for epoch in said["epochs"]] == [1]
        assert Path(json.loads(run_cli("report", out, "--json").out)["report"]).exists()
        again = run_cli("train", "--resume", out, "--json")
        assert json.loads(again.out)["epochs"] == []

    def test_predict(self, run_cli, phantoms, tmp_path: Path) -> None:
        bad = tmp_path / "bad.png"
        bad.write_bytes(b"")
        done = run_cli("predict", "threshold", phantoms[0], bad, "-o", tmp_path / "m", "--json")
        said = json.loads(done.out)
        assert done.code == 1
        assert len(said["masks"]) == 12
        assert Path(said["masks"][0]["mask"]).exists()
        assert {each["light"] for each in said["masks"]} <= {"red", "amber", "green"}
        assert len(said["skipped"]) == 1
        assert str(bad) in done.err

    def test_export(self, run_cli, run: Path, tmp_path: Path) -> None:
        done = run_cli("export", run, "-o", tmp_path / "a.onnx", "--json")
        said = json.loads(done.out)
        assert said["bytes"] == (tmp_path / "a.onnx").stat().st_size
        assert said["slices"] == 3


class TestQuiet:
    def test_prints_warnings_and_errors_alone(self, run_cli, phantoms, tmp_path: Path) -> None:
        bad = tmp_path / "bad.png"
        bad.write_bytes(b"")
        done = run_cli("predict", "threshold", phantoms[0], bad, "-o", tmp_path / "m", "-q")
        assert (done.code, done.out) == (1, "")
        assert "bad.png" in done.err
        assert "12 masks" in run_cli("predict", "threshold", phantoms[0], "-o", tmp_path / "n").out

    def test_json_is_an_answer_all_the_same(self, run_cli, data: Path) -> None:
        args = ("evaluate", "threshold", data, "--no-baselines", "--quiet")
        assert run_cli(*args).out == ""
        assert json.loads(run_cli(*args, "--json").out)["slices"] == 3


def test_predict_takes_what_people_have(phantoms, tmp_path: Path) -> None:
    predictor = lungunet.Predictor.load("lungs", device="cpu")
    paths = sorted(phantoms[0].iterdir())[:2]
    image = lungunet.read_image(paths[0])
    mask = predictor(image)
    np.testing.assert_array_equal(predictor(paths[0]), mask)
    np.testing.assert_array_equal(predictor(str(paths[0])), mask)
    several = predictor([paths[0], image, str(paths[1])])
    assert [each.shape for each in several] == [image.shape] * 3
    np.testing.assert_array_equal(several[1], mask)
    assert [each.tolist() for each in predictor(iter(paths))] == [
        several[0].tolist(),
        several[2].tolist(),
    ]
    assert predictor([]) == []


def test_evaluate_of_two_models_says_how_they_are_compared(run_cli) -> None:
    done = run_cli("evaluate", "runs/a", "runs/b", "data")
    assert done.code == 2
    assert "--against OTHER" in done.err


class TestTables:
    def test_columns_end_together_where_letters_are_wide(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [("病例一_3", 0.9131, "甲"), ("case-0002", None, "é")]
        console.show_table(("name", "IoU", "类"), rows)
        lines = capsys.readouterr().out.splitlines()
        assert lines[1:] == ["病例一_3   0.9131  甲", "case-0002       -   é"]
        widths = [len(line) + sum(east_asian_width(c) == "W" for c in line) for line in lines]
        assert len({*widths}) == 1

    def test_all_columns_are_made_there(self) -> None:
        for path in (PACKAGE / "cli").glob("*.py"):
            assert not re.search(r"\.[lr]just\(|:[<>]\{", path.read_text()), path
