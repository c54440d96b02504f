"""The command line: what each verb prints, writes and exits with."""

import csv
import dataclasses
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import lungunet
from lungunet.cli import demo
from lungunet.cli import train as cli_train
from lungunet.phantom.phantom import phantom_slice

VERBS = (
    *("demo", "split", "prepare", "audit", "train", "evaluate", "report", "predict", "encoders"),
    *("export", "merge", "doctor"),
)
QUICK = ("--size", "32", "--epochs", "1", "--batch-size", "2", "--workers", "0")


class TestHelp:
    def test_lists_every_verb(self, run_cli) -> None:
        done = run_cli("--help")
        assert done.code == 0
        assert all(verb in done.out for verb in VERBS)

    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_has_an_example(self, run_cli, verb: str) -> None:
        done = run_cli(verb, "--help")
        assert done.code == 0
        assert f"lungunet {verb}" in done.out.split("Example")[1]

    def test_version(self, run_cli) -> None:
        assert run_cli("--version").out == f"{lungunet.__version__}\n"

    @pytest.mark.parametrize(
        "args",
        [("splitt",), ("train",), ("split", "a"), ("train", "d", "--epochs", "x"), ("predict",)],
    )
    def test_usage_errors_are_2(self, run_cli, args: tuple[str, ...]) -> None:
        done = run_cli(*args)
        assert done.code == 2
        assert done.err
        assert "Traceback" not in done.err


def test_the_defaults_in_the_help_are_those_of_the_config() -> None:
    """Written out there because reading them from the config would import torch for --help."""
    hints = inspect.signature(cli_train.train).parameters
    for field in dataclasses.fields(lungunet.RunConfig):
        by_words = ("data", "labels", "label_names", "flip", "compile", "encoder")
        if field.name in (*by_words, "lr", "weight_decay") or field.name not in hints:
            continue
        option = hints[field.name].annotation.__metadata__[0]
        found = re.search(r"\[default: (.*)\]", option.help)
        assert found, field.name
        assert type(field.default)(found[1]) == field.default, field.name


class TestSplit:
    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    def test_masks_of_other_names(self, run_cli, phantoms, tmp_path: Path) -> None:
        masks = tmp_path / "masks"
        masks.mkdir()
        for mask in phantoms[1].iterdir():
            shutil.copy(mask, masks / f"{mask.stem}_mask.png")
        done = run_cli("split", phantoms[0], masks, tmp_path / "told")
        assert done.code == 0
        assert done.err == (
            "lungunet: masks pair with images as by --names '*=*_mask'; give another where that is "
            "wrong.\n"
        )
        done = run_cli("split", phantoms[0], masks, tmp_path / "said", "--names", "*=*_mask")
        assert (done.code, done.err) == (0, "")
        done = run_cli("split", phantoms[0], masks, tmp_path / "wrong", "--names", "*=*_seg")
        assert done.code == 1
        assert "_mask.png: not called *_seg" in done.err

    def test_a_set_of_others_that_only_judges(self, run_cli, phantoms, tmp_path: Path) -> None:
        out, scores = tmp_path / "theirs", tmp_path / "scores"
        done = run_cli("evaluate", "threshold", phantoms[0], "--truth", phantoms[1])
        assert done.code == 1
        assert "which are scored by a list. 'lungunet split IMAGES MASKS DATA --val 0" in done.err
        done = run_cli("split", *phantoms, out, "--val", 0, "--test", 1)
        assert (done.code, done.err) == (0, "")
        assert done.out.endswith(f"then:   lungunet evaluate MODEL {out} --out {out / 'scores'}\n")
        done = run_cli("evaluate", "threshold", out, "--no-baselines", "--out", scores)
        assert done.code == 0
        assert "threshold on 12 slices of test" in done.out
        assert run_cli("audit", out, "--out", tmp_path / "audit").code == 0

    @pytest.mark.parametrize(
        ("options", "then"),
        [
            (("--val", 0), "evaluate MODEL {0} --out {0}/scores"),
            (("--val", 0, "--folds", 2), "train {0} --cross-validate"),
            (("--val", 0, "--test", 0), None),
        ],
    )
    def test_what_comes_next_can_be_done(
        self, run_cli, phantoms, options: tuple[object, ...], then: str | None, tmp_path: Path
    ) -> None:
        done = run_cli("split", *phantoms, tmp_path, *options)
        told = [line for line in done.out.splitlines() if line.startswith("then:")]
        assert told == ([] if then is None else [f"then:   lungunet {then.format(tmp_path)}"])

    def test_one_folder_twice(self, run_cli, phantoms, tmp_path: Path) -> None:
        done = run_cli("split", phantoms[1], phantoms[1], tmp_path / "data")
        assert done.code == 1
        assert "is the folder of the images and that of the masks" in done.err
        assert not (tmp_path / "data").exists()

    def test_writes_lists_and_says_what_is_in_them(self, run_cli, phantoms, tmp_path: Path) -> None:
        out = tmp_path / "data"
        done = run_cli("split", *phantoms, out, "--val", 0.25, "--test", 0.25)
        assert (done.code, done.err) == (0, "")
        assert "train      6" in done.out
        assert f"lungunet train {out}" in done.out
        facts = json.loads((out / "split.json").read_text())
        assert facts["counts"] == {"train": 6, "val": 3, "test": 3}
        assert facts["dtypes"] == {"int16": 12}
        assert facts["labels"]["classes"] == {"0": 0, "255": 1}
        for line in (out / "train.txt").read_text().splitlines():
            image, label = line.strip().split("\t")
            assert (out / image).is_file()
            assert (out / label).is_file()

    def test_again_is_fine_and_identical_another_split_is_refused(
        self, run_cli, phantoms, tmp_path: Path
    ) -> None:
        out = tmp_path / "data"
        run_cli("split", *phantoms, out)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        assert run_cli("split", *phantoms, out).code == 0
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        refused = run_cli("split", *phantoms, out, "--seed", 5)
        assert refused.code == 1
        assert "already there. Add --overwrite" in refused.err
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        assert run_cli("split", *phantoms, out, "--seed", 5, "--overwrite").code == 0
        assert {path.name: path.read_bytes() for path in out.iterdir()} != before

    def test_folds_keep_the_test_list(self, run_cli, phantoms, tmp_path: Path) -> None:
        out = tmp_path / "data"
        args = ("--test", 0.25, "--folds", 3, "--group", r"patient-\d+", "--json")
        done = run_cli("split", *phantoms, out, *args)
        assert json.loads(done.out)["counts"]["test"] == 3
        val: list[str] = []
        for number in (1, 2, 3):
            fold = lungunet.read_split(out / f"fold-{number}")
            assert [p.name for p in fold.test] == [p.name for p in lungunet.read_split(out).test]
            val += [pair.name for pair in fold.val]
            assert not {p.name[:11] for p in fold.val} & {p.name[:11] for p in fold.train}
        assert len(val) == len(set(val)) == 9

    def test_folds_of_another_split_do_not_stay(self, run_cli, phantoms, tmp_path: Path) -> None:
        out = tmp_path / "data"
        run_cli("split", *phantoms, out, "--folds", 3)
        done = run_cli("split", *phantoms, out, "--seed", 3, "--folds", 2)
        assert (done.code, "fold-3" in done.err or "more" in done.err) == (1, True)
        assert run_cli("split", *phantoms, out, "--seed", 3, "--folds", 2, "--overwrite").code == 0
        assert [fold.name for fold in lungunet.find_folds(out)] == ["fold-1", "fold-2"]
        assert not (out / "fold-3").exists()

    def test_wrong_masks_are_named_before_anything_is_written(
        self, run_cli, phantoms, tmp_path: Path
    ) -> None:
        done = run_cli("split", *phantoms, tmp_path / "data", "--labels", "0,1")
        assert done.code == 1
        assert "mask value 255" in done.err
        assert "is not one of 0 (background), 1 (lung)" in done.err
        assert not (tmp_path / "data").exists()

    def test_missing_folder(self, run_cli, tmp_path: Path) -> None:
        done = run_cli("split", tmp_path / "a", tmp_path / "b", tmp_path / "c")
        assert (done.code, done.out) == (1, "")
        assert done.err == f"lungunet: {tmp_path / 'a'}: no such folder. Check the path.\n"


class TestPrepare:
    def test_labels_become_classes_and_train_needs_no_flag(
        self, run_cli, phantoms, tmp_path: Path
    ) -> None:
        out = tmp_path / "prepared"
        assert run_cli("prepare", *phantoms, out, "--size", 40).code == 0
        split = lungunet.read_split(out)
        values = {int(v) for p in split.train for v in np.unique(lungunet.read_mask(p.mask))}
        assert values == {0, 1}
        image = lungunet.read_image(split.train[0].image)
        assert (image.shape, image.dtype) == ((40, 40), np.int16)
        assert run_cli("train", out, "--out", tmp_path / "run", *QUICK).code == 0
        scores = run_cli("evaluate", tmp_path / "run", out, "--json")
        assert json.loads(scores.out)["slices"] == len(split.test)

    def test_inputs_are_never_written_over(self, run_cli, phantoms, tmp_path: Path) -> None:
        for folder in phantoms:
            shutil.copytree(folder, tmp_path / folder.name)
        before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*.*"))
        folders = [tmp_path / folder.name for folder in phantoms]
        done = run_cli("prepare", *folders, tmp_path, "--size", 32, "--overwrite")
        assert (done.code, "while it is read" in done.err) == (1, True)
        assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*.*")) == before

    def test_raw_keeps_the_values(self, run_cli, phantoms, tmp_path: Path) -> None:
        run_cli("prepare", *phantoms, tmp_path / "p", "--size", 40, "--raw")
        masks = sorted((tmp_path / "p" / "masks").iterdir())
        assert {int(v) for mask in masks for v in np.unique(lungunet.read_mask(mask))} == {0, 255}
        assert run_cli("prepare", *phantoms, tmp_path / "p", "--size", 40).code == 1


class TestTrain:
    def test_a_row_per_epoch_and_the_next_command(
        self, run_cli, data: Path, tmp_path: Path
    ) -> None:
        done = run_cli("train", data, "--out", tmp_path / "r", *QUICK, "--epochs", 2)
        assert (done.code, done.err) == (0, "")
        rows = [line.split() for line in done.out.splitlines() if line[:5].strip().isdigit()]
        assert [row[0] for row in rows] == ["1", "2"]
        assert f"lungunet evaluate {tmp_path / 'r'} {data}" in done.out

    def test_without_out_takes_the_next_free_number(
        self, run_cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for _ in range(2):
            assert run_cli("train", data, *QUICK).code == 0
        assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["001", "002"]

    def test_config_repeats_a_run_and_options_win(self, run_cli, run: Path, tmp_path: Path) -> None:
        again = tmp_path / "again"
        assert run_cli("train", "--config", run / "config.toml", "--out", again).code == 0
        name = "best/model.safetensors"
        assert (again / name).read_bytes() == (run / name).read_bytes()
        other = tmp_path / "other"
        done = run_cli("train", "--config", run / "config.toml", "--out", other, "--epochs", 1)
        assert done.code == 0
        assert lungunet.RunConfig.from_toml(other / "config.toml").epochs == 1

    def test_the_test_list_is_never_opened(self, run_cli, data: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(data, tmp_path / "data"))
        for name in ("train.txt", "val.txt"):
            pairs = lungunet.read_manifest(data / name)
            lungunet.write_manifest(copy / name, pairs)
        (copy / "test.txt").write_bytes(b"\xff no list at all, and no file either")
        assert run_cli("train", copy, "--out", tmp_path / "r", *QUICK).code == 0

    def test_resume_says_when_nothing_is_left_and_goes_on_with_more_epochs(
        self, run_cli, run: Path, tmp_path: Path
    ) -> None:
        copy = Path(shutil.copytree(run, tmp_path / "copy"))
        done = run_cli("train", "--resume", copy)
        assert done.code == 0
        assert "nothing left to do" in done.out
        assert "epochs ->" not in done.out
        done = run_cli("train", "--resume", copy, "--epochs", 3)
        assert done.code == 0
        assert done.out.count("3 epochs ->") == 1
        with (copy / "history.csv").open() as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == list("112233")
        assert lungunet.RunConfig.from_toml(copy / "config.toml").epochs == 3

    def test_a_run_that_stopped_early_goes_on_when_told_to(
        self, run_cli, data: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "r"
        lr = ("--lr", 1e-12, "--epochs", 6, "--patience", 1)
        run_cli("train", data, "--out", run, *QUICK, *lr)
        rows = len((run / "history.csv").read_text().splitlines())
        assert rows < 13
        done = run_cli("train", "--resume", run)
        assert "none was better for 1 epoch." in done.out
        assert run_cli("train", "--resume", run, "--patience", 0).code == 0
        assert len((run / "history.csv").read_text().splitlines()) == 13

    def test_a_run_made_in_python_is_resumed_there(self, run_cli, tmp_path: Path) -> None:
        lungunet.TrainConfig().save(tmp_path / "config.toml")
        done = run_cli("train", "--resume", tmp_path)
        assert (done.code, "was made in Python" in done.err) == (1, True)
        done = run_cli("train", "--config", tmp_path / "config.toml")
        assert (done.code, "config.toml: data is missing" in done.err) == (1, True)
        (tmp_path / "config.toml").write_text("epochs = ")
        done = run_cli("train", "--resume", tmp_path)
        assert (done.code, "cannot be read as TOML" in done.err) == (1, True)

    def test_cross_validation_scores_every_slice_once(
        self, run_cli, phantoms, tmp_path: Path
    ) -> None:
        out = tmp_path / "data"
        run_cli("split", *phantoms, out, "--test", 0, "--folds", 2)
        done = run_cli("train", out, "--out", tmp_path / "cv", *QUICK, "--cross-validate")
        assert (done.code, done.err) == (0, "")
        assert "standard deviation" in done.out
        scores = json.loads((tmp_path / "cv" / "scores.json").read_text())
        assert scores["slices"] == len({case["name"] for case in scores["cases"]}) == 12
        assert (tmp_path / "cv" / "fold-2" / "best").is_dir()
        done = run_cli("train", tmp_path / "none", "--cross-validate")
        assert (done.code, "has no folds" in done.err) == (1, True)

    def test_cross_validation_of_slices_without_hu(
        self, run_cli, grey_phantoms: tuple[Path, Path], tmp_path: Path
    ) -> None:
        out = tmp_path / "data"
        run_cli("split", *grey_phantoms, out, "--test", 0, "--folds", 2)
        done = run_cli("train", out, "--out", tmp_path / "cv", *QUICK, "--cross-validate")
        assert (done.code, done.err) == (0, "")
        table = [line.split() for line in done.out.splitlines() if "  " in line]
        rows = {words[0]: words[-1] for words in table[-4:]}
        assert rows == {"fold-1": "-", "fold-2": "-", "mean": "-", "standard": "-"}
        assert done.out.count("not scored: threshold and lungs. Slices of uint8 hold no HU") == 1

    def test_resume_keeps_its_settings(self, run_cli, run: Path) -> None:
        done = run_cli("train", "--resume", run, "--lr", 0.1, "--out", "x")
        assert done.code == 1
        assert "--lr, --out: a resumed run keeps its settings" in done.err

    def test_ctrl_c_exits_130_with_the_command_to_go_on(
        self, run_cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*args, **kwargs):
            raise KeyboardInterrupt

        run = tmp_path / "r"
        with monkeypatch.context() as patch:
            patch.setattr("lungunet.training.trainer.Trainer._val_epoch", interrupted)
            done = run_cli("train", data, "--out", run, *QUICK)
        assert done.code == 130
        assert "there is nothing to resume" in done.err
        assert run_cli("train", data, "--out", run, *QUICK).code == 0
        monkeypatch.setattr("lungunet.training.trainer.Trainer._val_epoch", interrupted)
        done = run_cli("train", "--resume", run, "--epochs", 2)
        assert done.code == 130
        assert f"lungunet train --resume {run}" in done.err

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("--encoder", "resnet3x"), "Unknown encoder 'resnet3x'. Closest: 'resnet34'"),
            (("--lr", -1), "--lr -1.0: must be above 0"),
            (("--precision", "fp8"), "precision = 'fp8' is of the wrong kind"),
            (("--window", "x"), "window 'x': write LEVEL,WIDTH"),
            (("--size", 8), "size 8: must be 16 to 16384 px"),
            (("--labels", "0,1"), "mask value 255"),
            (("--weights", "no/such/file.pt"), "no such file of weights"),
        ],
    )
    def test_bad_settings_are_one_line_and_exit_1(
        self, run_cli, data: Path, tmp_path: Path, args, message: str
    ) -> None:
        done = run_cli("train", data, "--out", tmp_path / "r", *QUICK, *args)
        assert done.code == 1
        assert message in done.err
        assert "Traceback" not in done.err

    def test_a_run_is_refused_then_overwritten(self, run_cli, run: Path, data: Path) -> None:
        done = run_cli("train", data, "--out", run, *QUICK)
        assert done.code == 1
        assert "holds a run already" in done.err

    def test_an_empty_val_list_says_so(self, run_cli, phantoms, tmp_path: Path) -> None:
        run_cli("split", *phantoms, tmp_path / "d", "--val", 0)
        done = run_cli("train", tmp_path / "d", "--out", tmp_path / "r")
        assert done.code == 1
        assert "val.txt: no pairs" in done.err


class TestEvaluate:
    def test_a_lung_that_was_missed_is_infinitely_far_in_table_and_file(
        self, run_cli, tmp_path: Path
    ) -> None:
        for number, z in enumerate((0.5, 0.55, 0.0)):
            made = phantom_slice(1, z, size=64)
            mask = made.mask if number < 2 else 0 * made.mask
            lungunet.write_image(tmp_path / "ct" / f"{number}.tif", made.image)
            lungunet.write_mask(tmp_path / "truth" / f"{number}.png", mask)
            lungunet.write_mask(tmp_path / "masks" / f"{number}.png", mask if number else 0 * mask)
        data, out = tmp_path / "data", tmp_path / "scores"
        args = ("--val", 0, "--test", 1)
        assert run_cli("split", tmp_path / "ct", tmp_path / "truth", data, *args).code == 0
        done = run_cli("evaluate", tmp_path / "masks", data, "--out", out, "--no-baselines")
        assert done.code == 0, done.err
        worst = done.out.split("worst slices\n")[1].splitlines()[1].split()
        with (out / "cases.csv").open(newline="") as file:
            (row, *_) = csv.DictReader(file)
        assert (worst[:3], row["hd95_px"]) == (["0", "0.0000", "inf"], "inf")
        assert "\n1 slice holds no lung; on 0 of them" in done.out

    def test_table_json_and_files_agree(
        self, run_cli, own_run: Path, data: Path, tmp_path: Path
    ) -> None:
        table = run_cli("evaluate", own_run, data, "--out", tmp_path / "s")
        assert table.code == 0
        assert "--group); of 3 slices they are too narrow (fewer than 20)\n" in table.out
        scores = json.loads(run_cli("evaluate", own_run, data, "--json").out)
        stored = json.loads((tmp_path / "s" / "scores.json").read_text())
        assert scores["pooled"] == stored["pooled"]
        row = next(line for line in table.out.splitlines() if line.startswith("lung IoU"))
        assert f"{scores['pooled']['iou']:.4f}" in row
        assert run_cli("evaluate", own_run, data, "--out", tmp_path / "s").code == 1

    def test_other_lists(self, run_cli, own_run: Path, data: Path) -> None:
        done = run_cli("evaluate", own_run, data, "--split", "train", "--json", "--allow-seen")
        scores = json.loads(done.out)
        count = len(lungunet.read_split(data).train)
        assert (scores["slices"], scores["seen_slices"]) == (count, count)
        assert run_cli("evaluate", own_run, data, "--split", "dev").code == 2

    def test_a_test_set_travels_alone_but_its_names_are_still_checked(
        self, run_cli, own_run: Path, data: Path, tmp_path: Path
    ) -> None:
        alone = tmp_path / "alone"
        lungunet.write_manifest(alone / "test.txt", lungunet.read_split(data).test)
        (alone / "train.txt").write_text("not/here.tif\tnot/here.png\n")
        assert run_cli("evaluate", own_run, alone).code == 0
        (alone / "train.txt").write_text((alone / "test.txt").read_text().splitlines()[0])
        done = run_cli("evaluate", own_run, alone, "--overwrite")
        assert done.code == 1
        assert "in train and test" in done.err

    def test_threshold_and_masks_of_another_tool(
        self, run_cli, data: Path, phantoms, tmp_path: Path
    ) -> None:
        done = run_cli("evaluate", "threshold", data, "--no-baselines")
        assert done.code == 0
        assert "lung IoU" in done.out
        done = run_cli("evaluate", phantoms[1], data, "--json", "--no-baselines")
        assert json.loads(done.out)["pooled"]["iou"] == 1.0
        assert not list(phantoms[1].glob("*.json"))

    def test_what_stands_in_the_way_of_a_verdict(self, run_cli, own_run: Path, data: Path) -> None:
        done = run_cli("evaluate", own_run, data)
        assert "all background" in done.out
        assert "threshold" in done.out
        assert (own_run / "evaluation" / "test" / "scores.json").exists()
        assert list((own_run / "evaluation" / "test" / "pictures").glob("worst-01_*.png"))


class TestPredict:
    def test_inputs_are_never_written_over(self, run_cli, run: Path, tmp_path: Path) -> None:
        slice_ = tmp_path / "s.png"
        lungunet.write_mask(slice_, np.full((40, 40), 9, np.uint8))
        before = slice_.read_bytes()
        done = run_cli("predict", run, slice_, "--out", tmp_path, "--overwrite")
        assert done.code == 1
        assert "would be written over while it is read" in done.err
        done = run_cli("predict", run, tmp_path, "--out", tmp_path, "--overwrite")
        assert (done.code, "is the folder that is read" in done.err) == (1, True)
        assert slice_.read_bytes() == before

    def test_threshold_needs_no_model(self, run_cli, phantoms, tmp_path: Path) -> None:
        done = run_cli("predict", "threshold", phantoms[0], "--out", tmp_path, "--overlay")
        assert (done.code, done.err) == (0, "")
        assert len(list(tmp_path.glob("*.png"))) == 12

    def test_a_list_may_name_what_is_not_there(
        self, run_cli, run: Path, data: Path, tmp_path: Path
    ) -> None:
        first = lungunet.read_split(data).test[0].image
        (tmp_path / "some.txt").write_text(f"{first}\tno/mask.png\nno/slice.tif\n")
        done = run_cli("predict", run, tmp_path / "some.txt", "--out", tmp_path / "o")
        assert done.code == 1
        assert "slice.tif: no such file" in done.err
        assert len(list((tmp_path / "o").glob("*.png"))) == 1
        (tmp_path / "none.txt").write_text("\n")
        done = run_cli("predict", run, tmp_path / "none.txt", "--out", tmp_path / "p")
        assert (done.code, "names no image" in done.err) == (1, True)

    def test_a_file_named_twice_is_predicted_once(
        self, run_cli, run: Path, phantoms, tmp_path: Path
    ) -> None:
        one = sorted(phantoms[0].iterdir())[0]
        assert run_cli("predict", run, one, phantoms[0], "--out", tmp_path).code == 0

    def test_one_mask_per_slice_with_overlays_and_probabilities(
        self, run_cli, run: Path, phantoms, tmp_path: Path
    ) -> None:
        out = tmp_path / "masks"
        done = run_cli("predict", run, phantoms[0], "--out", out, "--overlay", "--probabilities")
        assert (done.code, done.err) == (0, "")
        stems = {path.stem for path in phantoms[0].iterdir()}
        for folder, suffix in ((out, ".png"), (out / "overlays", ".png")):
            assert {path.stem for path in folder.glob(f"*{suffix}")} == stems
        for stem in stems:
            mask = lungunet.read_mask(out / f"{stem}.png")
            probs = lungunet.read_image(out / "probabilities" / f"{stem}.tif")
            assert mask.shape == probs.shape == (48, 48)
            assert set(np.unique(mask)) <= {0, 255}
            np.testing.assert_array_equal(mask == 255, probs > 0.5)
            overlay = cv2.imread(str(out / "overlays" / f"{stem}.png"))
            assert overlay.shape[1] == 48
            assert overlay.shape[0] > 48  # light and reason stand below

    def test_files_globs_and_lists(
        self, run_cli, run: Path, phantoms, data: Path, tmp_path: Path
    ) -> None:
        one = sorted(phantoms[0].iterdir())[0]
        for number, source in enumerate((one, phantoms[0] / "patient-000*.tif", data / "test.txt")):
            out = tmp_path / str(number)
            assert run_cli("predict", run, source, "--out", out).code == 0
            assert len(list(out.glob("*.png"))) == (1, 3, 3)[number]

    def test_a_bad_file_is_skipped_and_the_exit_code_says_so(
        self, run_cli, run: Path, phantoms, tmp_path: Path
    ) -> None:
        folder = Path(shutil.copytree(phantoms[0], tmp_path / "in"))
        (folder / "bad.tif").write_bytes(b"II*\x00")
        done = run_cli("predict", run, folder, "--out", tmp_path / "out")
        assert done.code == 1
        assert "skipped" in done.err
        assert "bad.tif: truncated" in done.err
        assert "1 of 13 files skipped" in done.err
        assert len(list((tmp_path / "out").glob("*.png"))) == 12

    def test_existing_masks_and_equal_stems_are_refused_before_any_work(
        self, run_cli, run: Path, phantoms, tmp_path: Path
    ) -> None:
        one = sorted(phantoms[0].iterdir())[0]
        assert run_cli("predict", run, one, "--out", tmp_path).code == 0
        done = run_cli("predict", run, one, "--out", tmp_path)
        assert done.code == 1
        assert "already there" in done.err
        assert run_cli("predict", run, one, "--out", tmp_path, "--overwrite").code == 0
        two = [shutil.copy(one, tmp_path / f"{one.stem}{end}") for end in (".tif", ".tiff")]
        done = run_cli("predict", run, *two, "--out", tmp_path / "x")
        assert done.code == 1
        assert "files that would write the same mask" in done.err
        assert not (tmp_path / "x").exists()


class TestEncoders:
    def test_table_and_json(self, run_cli) -> None:
        table = run_cli("encoders", "resnet1[0-9]")
        assert table.code == 0
        assert table.out.splitlines()[1].split() == [
            "resnet18",
            "11.2",
            "M",
            "imagenet,",
            "ssl,",
            "swsl",
        ]
        listed = json.loads(run_cli("encoders", "resnet1[0-9]", "--json").out)
        assert listed == [
            {"name": "resnet18", "parameters": 11170240, "weights": ["imagenet", "ssl", "swsl"]}
        ]

    def test_architectures(self, run_cli) -> None:
        table = run_cli("encoders", "--architectures")
        assert table.code == 0
        rows = {line.split()[0]: line for line in table.out.splitlines()}
        assert "multiples of 16 from 128  https://arxiv.org/abs/1805.10180" in rows["pan"]
        assert "  any  " in rows["unet"]
        listed = json.loads(run_cli("encoders", "--architectures", "--json").out)
        assert [each["name"] for each in listed] == list(rows)[1:]
        assert {each["name"]: each["multiple"] for each in listed}["pspnet"] == 8
        done = run_cli("encoders", "x*", "--architectures")
        assert done.code == 1
        assert "--architectures: lists all" in done.err

    def test_no_match(self, run_cli) -> None:
        for more in ((), ("--json",)):
            done = run_cli("encoders", "nothing*", *more)
            assert (done.code, done.out) == (1, "")
            assert "no name matches" in done.err


def test_demo_runs_the_whole_chain_and_prints_its_commands(
    run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_PATIENTS", 6)
    monkeypatch.setattr(demo, "_SLICES", 2)
    monkeypatch.setattr(demo, "_SIZE_PX", 48)
    monkeypatch.setattr(demo, "_EPOCHS", 1)
    out = tmp_path / "demo"
    done = run_cli("demo", "--out", out)
    assert (done.code, done.err) == (0, "")
    typed = [line.split()[2] for line in done.out.splitlines() if line.startswith("$ lungunet")]
    assert typed == ["split", "train", "evaluate", "predict"]
    assert (out / "overlay.png").is_file()
    seen = re.findall(r"of (\d) patients\): the network finds \d+% of the lung, the th", done.out)
    assert seen in (["1"], ["2", "2"])
    assert "\n  lungunet split IMAGES MASKS data\n" in done.out
    assert list((out / "predicted").glob("*.png"))
    again = run_cli("demo", "--out", out)
    assert again.code == 1
    assert f"{out / 'data'}, {out / 'run'}: already there. Add --overwrite to" in again.err
    assert "made-up patients" not in again.out
    assert run_cli("demo", "--out", out, "--overwrite").code == 0


def test_export_replaces_nothing_unasked(run_cli, tmp_path: Path) -> None:
    (tmp_path / "lung.onnx").write_text("mine")
    done = run_cli("export", tmp_path / "no-run", "--out", tmp_path / "lung.onnx")
    assert (done.code, done.out) == (1, "")
    assert f"{tmp_path / 'lung.onnx'}: already there. Add --overwrite to replace" in done.err
    assert (tmp_path / "lung.onnx").read_text() == "mine"
    done = run_cli("export", tmp_path / "no-run", "--out", tmp_path / "lung.onnx", "--overwrite")
    assert "already there" not in done.err


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "20000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_waiting_threads_sleep_soon_unless_told_otherwise(given: dict[str, str], spins: str):
    code = (
        "import os, sys\n"
        "from lungunet.cli import main\n"
        "sys.argv = ['lungunet', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)\n"
    )
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    env = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{spins} False"


@pytest.mark.parametrize(("given", "threads"), [({}, 1), ({"OPENCV_FOR_THREADS_NUM": "2"}, 2)])
def test_opencv_computes_in_the_thread_that_asks_unless_told_otherwise(
    given: dict[str, str], threads: int
) -> None:
    code = (
        "import sys\n"
        "from lungunet.cli import main\n"
        "sys.argv = ['lungunet', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('cv2' in sys.modules)\n"
        "import cv2\n"
        "print(cv2.getNumThreads())\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "OPENCV_FOR_THREADS_NUM"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["False", str(threads)]
