"""``lungunet audit`` and ``split --guard``: what they print, write and exit with."""

import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import lungunet
from lungunet.cli.audit import _show_ranking as show_ranking
from lungunet.evaluation import audit as audit_module
from lungunet.inference.predictor import Prediction
from lungunet.phantom.phantom import phantom_slice


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Six patients with two neighbouring slices each, named without a word of who is who."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for number in range(6):
        for index, z in enumerate((0.45, 0.455)):
            made = phantom_slice(number, z, size=128)
            name = f"{index}-{number}"
            lungunet.write_image(images / f"{name}.tif", made.image)
            lungunet.write_mask(masks / f"{name}.png", made.mask)
    return images, masks


def patients_of(data: Path) -> dict[str, set[str]]:
    """The last digit of a name is the patient, which the tool is not told."""
    lists = lungunet.read_split(data)
    return {
        name: {pair.name[-1] for pair in getattr(lists, name)} for name in ("train", "val", "test")
    }


def test_no_score_below_the_bound_is_shown_as_the_bound(capsys) -> None:
    scores = (0.2, 0.1996, 0.196, 0.287, 0.0)
    pair = lungunet.Pair("a.tif")
    show_ranking([SimpleNamespace(pair=pair, score=s, list="val", reasons=()) for s in scores])
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["0.20", "0.19", "0.19", "0.29", "0.00"]


class TestGuard:
    def test_keeps_neighbours_in_one_list(self, run_cli, folders, tmp_path: Path) -> None:
        args = ("split", *folders, "--val", 0.17, "--test", 0.34)
        plain, guarded = tmp_path / "plain", tmp_path / "guarded"
        run_cli(*args[:3], plain, *args[3:])
        apart = patients_of(plain)
        assert apart["train"] & apart["test"]  # else this test would show nothing
        done = run_cli(*args[:3], guarded, *args[3:], "--guard")
        assert (done.code, done.err) == (0, "")
        together = patients_of(guarded)
        assert not together["train"] & together["test"]
        assert not together["val"] & (together["train"] | together["test"])
        assert json.loads((guarded / "split.json").read_text())["guard"] is True

    def test_adds_to_the_groups(self, run_cli, folders, tmp_path: Path) -> None:
        images, _ = folders
        table = ["name,patient"]
        for path in sorted(images.iterdir()):
            # a wrong table: every slice a patient of its own, but 0 and 1 are said to be one
            table.append(f"{path.stem},{'x' if path.stem[-1] in '01' else path.stem}")
        (tmp_path / "who.csv").write_text("\n".join(table) + "\n")
        args = ("--group", tmp_path / "who.csv", "--guard", "--val", 0.2, "--test", 0.4)
        assert run_cli("split", *folders, tmp_path / "data", *args).code == 0
        lists = patients_of(tmp_path / "data")
        assert sum(len(found) for found in lists.values()) == 6
        assert any({"0", "1"} <= found for found in lists.values())

    def test_prepare_has_it_too(self, run_cli, folders, tmp_path: Path) -> None:
        args = ("--guard", "--size", 96, "--val", 0.17, "--test", 0.34)
        assert run_cli("prepare", *folders, tmp_path / "data", *args).code == 0
        assert sum(len(found) for found in patients_of(tmp_path / "data").values()) == 6


@pytest.fixture
def data(run_cli, folders, tmp_path: Path) -> Path:
    run_cli("split", *folders, tmp_path / "data", "--guard", "--val", 0.17, "--test", 0.34)
    return tmp_path / "data"


class TestAudit:
    def test_says_that_all_is_well(self, run_cli, data: Path, tmp_path: Path) -> None:
        done = run_cli("audit", data, "--out", tmp_path / "out", "--pictures", 2)
        assert (done.code, done.err) == (0, "")
        assert "12 pairs: 6 train, 2 val, 4 test" in done.out
        assert "files: 0 errors, 0 warnings" in done.out
        assert "a score of 0.5 stands for 5 % of the lung in dispute" in done.out
        assert "does not see dense lung that a mask leaves out" in done.out
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["audit.json", "findings.csv", "pictures", "ranking.csv"]
        # Of those alone that have a score.
        assert len(list((tmp_path / "out" / "pictures").glob("worst-*.png"))) == 1

    def test_errors_exit_with_1_and_are_written_all_the_same(
        self, run_cli, data: Path, tmp_path: Path
    ) -> None:
        bad = lungunet.read_split(data).train[0]
        bad.image.write_bytes(bad.image.read_bytes()[:300])
        done = run_cli("audit", data, "--out", tmp_path / "out")
        assert (done.code, done.err) == (1, "")
        assert "error: truncated, 1 file\n" in done.out
        assert bad.image.name in done.out
        assert (tmp_path / "out" / "audit.json").exists()

    def test_warnings_exit_with_0(self, run_cli, data: Path, tmp_path: Path) -> None:
        lists = lungunet.read_split(data)
        for kind in ("image", "mask"):
            shutil.copy(getattr(lists.train[0], kind), getattr(lists.train[4], kind))
        done = run_cli("audit", data, "--out", tmp_path / "out")
        assert done.code == 0
        assert "warning: duplicate" in done.out

    def test_a_wrong_mask_leads_the_table(self, run_cli, data: Path, tmp_path: Path) -> None:
        wrong = lungunet.read_split(data).test[1]
        lungunet.write_mask(wrong.mask, np.roll(lungunet.read_mask(wrong.mask), 12, axis=0))
        done = run_cli("audit", data, "--out", tmp_path / "out")
        rows = done.out.split("most doubtful first")[1].splitlines()
        assert rows[1].split()[1:3] == ["test", wrong.name]
        assert "fits better" in rows[1]
        assert "--labels" not in done.out
        done = run_cli("audit", data, "--out", tmp_path / "again", "--labels", "0,255")
        assert re.search(r"NEW_DATA --like .* --labels 0,255\n", done.out)

    def test_its_way_to_drop_slices_keeps_the_others_where_they_are(
        self, run_cli, folders, data: Path, tmp_path: Path
    ) -> None:
        """Who the patients are is said in the first split alone."""
        lists = lungunet.read_split(data)
        wrong = lists.test[1]
        lungunet.write_mask(wrong.mask, np.roll(lungunet.read_mask(wrong.mask), 12, axis=0))
        done = run_cli("audit", data, "--out", tmp_path / "out")
        again = re.search(r"lungunet (split IMAGES MASKS NEW_DATA .*)", done.out)[1]
        given = dict(zip(("IMAGES", "MASKS", "NEW_DATA"), (*folders, tmp_path / "e"), strict=True))
        done = run_cli(*(given.get(word, word) for word in shlex.split(again)))
        assert (done.code, done.err) == (0, "")
        new = lungunet.read_split(tmp_path / "e")
        gone = set(json.loads((tmp_path / "e" / "split.json").read_text())["excluded"])
        assert wrong.name in gone
        for name in ("train", "val", "test"):
            kept = [pair for pair in getattr(lists, name) if pair.name not in gone]
            assert getattr(new, name) == kept
        assert lungunet.read_patients(tmp_path / "e") == lungunet.read_patients(data)

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda mask: np.roll(mask, 64, axis=1)[::-1].copy(), "by the threshold rule"),
            (lambda mask: 255 - mask, "mask-inverted, 12 files\n"),
        ],
        ids=["where no lung is", "the wrong way round"],
    )
    def test_of_masks_that_all_are_doubtful_none_is_to_be_dropped(
        self, run_cli, data: Path, tmp_path: Path, spoil, said: str
    ) -> None:
        for path in (data.parent / "masks").iterdir():
            lungunet.write_mask(path, spoil(lungunet.read_mask(path)))
        done = run_cli("audit", data, "--out", tmp_path / "out")
        assert said in done.out
        assert "drop all of these" not in done.out
        assert "12 with 0.2 and above, more than half" in done.out

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    def test_without_patients_that_are_known(self, run_cli, folders, tmp_path: Path) -> None:
        (tmp_path / "bad.txt").write_text("0-0\n")
        done = run_cli("split", *folders, tmp_path / "e", "--exclude", tmp_path / "bad.txt")
        assert done.code == 0
        assert done.err.count("\n") == 1
        assert "patients are not known here" in done.err
        assert "--like DATA" in done.err

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    @pytest.mark.parametrize("taught", [True, False])
    def test_says_how_good_the_models_of_the_folds_are(
        self, run_cli, data: Path, tmp_path: Path, monkeypatch, taught: bool
    ) -> None:
        def models(pairs, **rest):
            for pair in pairs:
                seen = (lungunet.read_mask(pair.mask) > 0).astype(np.uint8)
                seen[:: 3 - 2 * taught] *= taught  # a third of the rows is lost
                yield pair, Prediction(pair.image, segmented=lungunet.Segmented(seen))

        monkeypatch.setattr(audit_module, "predict_out_of_fold", models)
        done = run_cli("audit", data, "--out", tmp_path / "out", "--folds", 2)
        said = "with masks that they never saw, the median of 12 slices with lung"
        if taught:
            assert (done.code, done.err) == (0, "")
            assert "by 2 models and the threshold rule:" in done.out
            assert f"the models reach IoU 1.00 {said}" in done.out
        else:
            assert "the models of the folds have no say. They reach IoU 0." in done.err
            assert said in done.err
            assert "or with --folds 0" in done.err
            assert "most doubtful first, by the threshold rule:" in done.out
        stored = json.loads((tmp_path / "out" / "audit.json").read_text())["agreement"]
        assert (stored["slices"], stored["models_iou"] == 1.0) == (12, taught)

    def test_json_is_alone_on_stdout(self, run_cli, data: Path, tmp_path: Path) -> None:
        done = run_cli("audit", data, "--out", tmp_path / "out", "--json")
        found = json.loads(done.out)
        assert found == json.loads((tmp_path / "out" / "audit.json").read_text())
        assert found["pairs"] == {"train": 6, "val": 2, "test": 4}
        assert len(found["ranking"]) == 12
        assert set(found["ranking"][0]) == {
            *("name", "list", "score", "kind", "reasons", "image", "mask")
        }

    def test_labels_are_those_of_the_flag(self, run_cli, data: Path, tmp_path: Path) -> None:
        for path in (data.parent / "masks").iterdir():
            lungunet.write_mask(path, lungunet.read_mask(path) // 255)
        done = run_cli("audit", data, "--out", tmp_path / "a")
        assert done.code == 1
        assert "error: mask-coding, 12 files" in done.out
        assert "and 4 more" in done.out
        done = run_cli("audit", data, "--out", tmp_path / "b", "--labels", "0,1")
        assert (done.code, done.err) == (0, "")

    def test_existing_output_is_refused_before_any_work(
        self, run_cli, data: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "audit.json").write_text("mine")
        done = run_cli("audit", data, "--out", out)
        assert done.code == 1
        assert "--overwrite" in done.err
        assert (out / "audit.json").read_text() == "mine"
        assert run_cli("audit", data, "--out", out, "--overwrite").code == 0
        assert (out / "audit.json").read_text() != "mine"

    @pytest.mark.parametrize(
        "args", [("--folds", "1"), ("--folds", "-2"), ("--pictures", "-1"), ()]
    )
    def test_usage_errors_are_2(self, run_cli, data: Path, tmp_path: Path, args) -> None:
        out = ("--out", tmp_path / "out") if args else ()
        assert run_cli("audit", data, *out, *args).code == 2
        assert not (tmp_path / "out").exists()

    def test_a_missing_folder_is_said_in_one_line(self, run_cli, tmp_path: Path) -> None:
        done = run_cli("audit", tmp_path / "none", "--out", tmp_path / "out")
        assert done.code == 1
        assert "no such folder" in done.err
        assert "Traceback" not in done.err

    @pytest.mark.parametrize("there", [False, True])
    def test_a_missing_file_leaves_no_empty_folder(
        self, run_cli, data: Path, tmp_path: Path, there: bool
    ) -> None:
        lungunet.read_split(data).train[0].image.unlink()
        out = tmp_path / "out"
        if there:
            out.mkdir()
        done = run_cli("audit", data, "--out", out)
        assert (done.code, "1 file missing" in done.err) == (1, True)
        assert out.exists() == there

    def test_the_help_has_an_example(self, run_cli) -> None:
        done = run_cli("audit", "--help")
        assert "lungunet audit data --out audit" in done.out.split("Example")[1]
