"""Stopping, going on, extending, and the learning rate test, from the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import lungunet
from lungunet import LRRange, TrainConfig
from lungunet.cli.stopping import StopSignal
from lungunet.evaluation.lr_range import lr_chart_svg
from lungunet.training.run import load_datasets

QUICK = ("--size", 32, "--batch-size", 2, "--workers", 0, "--device", "cpu")


class TestStopSignal:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_asks_and_the_second_would_kill(
        self, number: signal.Signals, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = signal.getsignal(number)
        with StopSignal() as stop:
            assert stop() is False
            os.kill(os.getpid(), number)
            assert stop() is True
            assert stop.exit_code == 128 + number
            assert signal.getsignal(number) == signal.SIG_DFL
        assert signal.getsignal(number) == before
        assert "once more quits at once" in capsys.readouterr().err

    def test_before_training_began_it_ends_at_once(self) -> None:
        with StopSignal() as stop, pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.exit_code == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_real_signal_saves_and_names_the_command(
    data: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    words = [sys.executable, "-m", "lungunet", "train", data, "--out", run, *QUICK]
    words += ["--epochs", 10_000, "--encoder", "unet2015"]
    process = subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 100
    while not (run / "history.csv").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert process.returncode == code
    assert f"Stopped. Go on with: lungunet train --resume {run}" in err
    assert (run / "last.ckpt").exists()


class TestExtending:
    def test_says_what_becomes_of_the_learning_rate(self, run_cli, own_run: Path) -> None:
        done = run_cli("train", "--resume", own_run, "--epochs", 4)
        assert done.code == 0
        lr = TrainConfig(epochs=4).learning_rate(2, steps_per_epoch=1)
        assert "2 -> 4 epochs: from epoch 3 on the learning rate is that of a run of 4" in done.out
        assert f"from 0.0e+00 to {lr:.1e} and falls to 0 at epoch 4" in done.out
        assert done.out.count("\n    3  ") == done.out.count("\n    4  ") == 1

    def test_a_run_of_a_version_that_knew_fewer_settings_goes_on(
        self, run_cli, own_run: Path
    ) -> None:
        checkpoint = torch.load(own_run / "last.ckpt", weights_only=True)
        for name in ("architecture", "smp_arguments"):
            del checkpoint["settings"][name]
        torch.save(checkpoint, own_run / "last.ckpt")
        settings = own_run / "config.toml"
        before = settings.read_text(encoding="utf-8").partition("architecture =")[0]
        settings.write_text(f'{before}\narchitecture = "fpn"\n', encoding="utf-8")
        done = run_cli("train", "--resume", own_run, "--epochs", 3)
        assert done.code == 1
        assert "was trained with architecture unet, now fpn" in done.err
        settings.write_text(before, encoding="utf-8")
        assert run_cli("train", "--resume", own_run, "--epochs", 3).code == 0

    def test_a_finished_run_has_nothing_left(self, run_cli, own_run: Path) -> None:
        done = run_cli("train", "--resume", own_run)
        assert done.code == 0
        assert "nothing left to do" in done.out

    @pytest.mark.parametrize(
        ("name", "content"), [("history.csv", None), ("config.toml", 'epochs = "two"')]
    )
    def test_damaged_files_are_no_traceback(self, run_cli, own_run, name, content) -> None:
        path = own_run / name
        text = "" if content is None else path.read_text().replace("epochs = 2", content)
        path.write_text(text)
        done = run_cli("train", "--resume", own_run, "--epochs", 3)
        assert (done.code, done.err) == (0, "") or done.err.startswith("lungunet: ")


class TestFindLr:
    def test_writes_curve_and_picture_and_no_run(self, run_cli, data: Path, tmp_path: Path) -> None:
        out = tmp_path / "lr"
        done = run_cli("train", data, "--find-lr", "--out", out, *QUICK)
        assert (done.code, done.err) == (0, "")
        assert sorted(path.name for path in out.iterdir()) == ["find_lr.csv", "find_lr.svg"]
        assert "fell fastest at a learning rate of" in done.out
        again = run_cli("train", data, "--find-lr", "--out", out, *QUICK)
        assert (again.code, "already there" in again.err) == (1, True)

    def test_does_not_go_with_resume(self, run_cli, run: Path) -> None:
        done = run_cli("train", "--resume", run, "--find-lr")
        assert (done.code, "--find-lr: a resumed run keeps" in done.err) == (1, True)

    def test_the_mark_lies_on_the_curve(self) -> None:
        lrs = tuple(10.0**power for power in range(-5, 1))
        found = LRRange(lrs, (1.0, 0.9, 0.5, 0.2, 0.3, 3.0), suggestion=1e-3)
        drawn = ElementTree.fromstring(lr_chart_svg(found))
        name = "{http://www.w3.org/2000/svg}"
        circle, line = drawn.find(f"{name}circle"), drawn.find(f"{name}polyline")
        assert circle is not None
        assert line is not None
        points = line.attrib["points"].split()
        assert points[2] == f"{circle.attrib['cx']},{circle.attrib['cy']}"
        assert len(points) == 5  # the explosion is left out


class TestEvaluatingHonestly:
    def test_slices_that_the_run_was_trained_on_are_named(self, run_cli, own_run, data) -> None:
        args = ("evaluate", own_run, data, "--split", "train", "--no-baselines")
        done = run_cli(*args)
        assert (done.code, done.out) == (1, "")
        assert f"6 of these 6 slices are among those that {own_run} was trained on" in done.err
        done = run_cli(*args, "--allow-seen")
        assert (done.code, done.err) == (0, "")
        tables = [part for part in done.out.split("\n\n") if "IoU" in part]
        assert all("6 of 6 slices seen" in table for table in tables)
        assert run_cli(*args, "--allow-seen").code == 1  # scores are there

    def test_unseen_slices_are_not(self, run_cli, own_run: Path, data: Path) -> None:
        done = run_cli("evaluate", own_run, data, "--no-baselines")
        assert (done.code, done.err) == (0, "")


def test_predictions_stay_out_of_a_folder_of_masks_in_another_format(
    run_cli, phantoms: tuple[Path, Path], tmp_path: Path
) -> None:
    images, masks = phantoms
    first = sorted(masks.iterdir())[0]
    truth = tmp_path / "masks" / f"{first.stem}.tif"
    truth.parent.mkdir()
    truth.write_bytes(b"mine")
    done = run_cli("predict", "threshold", images, "--out", tmp_path / "masks", "--overwrite")
    assert done.code == 1
    assert f"{truth}: of the same names as the masks to be written" in done.err
    assert [path.name for path in truth.parent.iterdir()] == [truth.name]


def test_an_audit_in_the_run_folder_is_in_its_report_at_once(run_cli, own_run, data) -> None:
    run_cli("report", own_run)
    before = (own_run / "report.html").read_text()
    done = run_cli("audit", data, "--out", own_run / "audit")
    assert done.code == 0
    assert "Files and labels were not audited" in before
    assert "Files and labels were not audited" not in (own_run / "report.html").read_text()


@pytest.mark.filterwarnings("default::lungunet.LungUNetWarning")  # what the verb shows
class TestLungEverywhere:
    SETTINGS = ("--epochs", 1, "--size", 32, "--batch-size", 2, "--workers", 0)

    @pytest.mark.parametrize(("empty", "disease"), [(0, 0), (0, 0.5), (2, 0), (None, 0)])
    def test_lists_without_an_empty_slice_are_named(
        self, run_cli, split: lungunet.Split, tmp_path: Path, empty: int | None, disease: float
    ) -> None:
        data = tmp_path / "data"
        lungunet.write_split(data, split, lungunet.SplitRecord(empty_masks=empty))
        done = run_cli("train", data, "--out", tmp_path / "a", "--disease", disease, *self.SETTINGS)
        assert done.code == 0
        assert ("no slice is without lung" in done.err) == (empty == 0)
        assert ("painted lung is solid" in done.err) == (empty == 0 and disease > 0)
        again = run_cli("train", "--resume", tmp_path / "a", "--epochs", 2)
        assert again.code == 0
        assert "without lung" not in again.err


@pytest.mark.filterwarnings("default::lungunet.LungUNetWarning")
class TestSidesInTheMirror:
    """A left lung that is mirrored is a right one, and its label says left."""

    @pytest.fixture
    def sided(self, data: Path, tmp_path: Path) -> Path:
        pairs = {}
        for name in ("train", "val"):
            pairs[name] = []
            for pair in lungunet.read_manifest(data / f"{name}.txt"):
                mask = tmp_path / "masks" / f"{pair.name}.png"
                lungunet.write_mask(mask, lungunet.split_sides(lungunet.read_mask(pair.mask)))
                pairs[name].append(lungunet.Pair(pair.image, mask))
        folder = tmp_path / "sided"
        lists = lungunet.Split(**pairs, test=[])
        codec = lungunet.LabelCodec.parse("0,1,2")
        lungunet.write_split(folder, lists, {"labels": codec.to_dict()})
        return folder

    def test_is_not_done_and_said(self, run_cli, sided: Path, tmp_path: Path) -> None:
        done = run_cli("train", sided, "--out", tmp_path / "run", *QUICK, "--epochs", 1)
        assert done.code == 0
        assert "3 classes, which may tell left from right, so slices are not mirrored" in done.err
        header, row = done.out.splitlines()[2:4]
        assert header.endswith("val class 1  val class 2")
        assert len(row.split("best")[0].split()) == 11
        assert re.search(r"best val IoU \S+ \(class 1 \S+, class 2 \S+\) in epoch 1", done.out)

    @pytest.mark.parametrize(
        ("option", "labels", "mirrored"),
        [
            ("auto", "0,255", True),
            ("auto", "0,1,2", False),
            (True, "0,1,2", True),
            (False, "0,255", False),
        ],
    )
    def test_the_recipe(self, sided: Path, data: Path, option, labels, mirrored) -> None:
        folder = sided if labels == "0,1,2" else data
        config = lungunet.RunConfig(data=str(folder), flip=option, size=32)
        train, _ = load_datasets(config)
        steps = [type(step).__name__ for step in train.transform.transforms]
        assert ("HorizontalFlip" in steps) is mirrored

    def test_no_word_where_it_was_asked_for(self, run_cli, sided: Path, tmp_path: Path) -> None:
        for option in ("--flip", "--no-flip"):
            words = ("train", sided, "--out", tmp_path / option, *QUICK, "--epochs", 1, option)
            assert "mirrored" not in run_cli(*words).err


class TestArchitecture:
    def test_trains_goes_on_and_starts_another(self, run_cli, data: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        named = ("--architecture", "PSPNet", "--encoder", "resnet18")
        done = run_cli("train", data, "--out", run, *QUICK, "--epochs", 1, *named)
        assert done.code == 0, done.err
        assert "pspnet of resnet18, 32x32" in done.out
        about = json.loads((run / "best" / "lungunet.json").read_text(encoding="utf-8"))
        assert about["architecture"]["name"] == "pspnet"
        assert 'architecture = "pspnet"' in (run / "config.toml").read_text(encoding="utf-8")
        assert ">pspnet<" in (run / "report.html").read_text(encoding="utf-8")
        assert run_cli("train", "--resume", run, "--epochs", 2).code == 0
        more = (*QUICK, "--epochs", 1, *named, "--weights", run)
        assert run_cli("train", data, "--out", tmp_path / "other", *more).code == 0

    def test_arguments_of_smp(self, run_cli, data: Path, tmp_path: Path) -> None:
        words = ("--encoder", "resnet18", "--smp", "decoder_attention_type=scse", "--smp")
        words = (*words, "decoder_channels=[32,32,16,16,16]", *QUICK, "--epochs", 1)
        assert run_cli("train", data, "--out", tmp_path / "run", *words).code == 0
        about = json.loads((tmp_path / "run/best/lungunet.json").read_text(encoding="utf-8"))
        given = {"decoder_attention_type": "scse", "decoder_channels": [32, 32, 16, 16, 16]}
        assert about["architecture"]["smp_arguments"] == given
        settings = lungunet.RunConfig.from_toml(tmp_path / "run" / "config.toml")
        assert settings.smp_arguments == given
        done = run_cli("train", "--resume", tmp_path / "run", "--smp", "decoder_channels=1")
        assert done.code == 1
        assert "--smp: a resumed run keeps its settings" in done.err

    def test_an_encoder_of_one_size_is_built_for_that_of_the_run(
        self, run_cli, data: Path, tmp_path: Path
    ) -> None:
        words = ("--architecture", "dpt", "--encoder", "tu-test_vit", *QUICK, "--epochs", 1)
        done = run_cli("train", data, "--out", tmp_path / "run", *words)
        assert done.code == 0, done.err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--architecture", "fpn", "--size", 250), "The nearest are 224 and 256."),
            (("--architecture", "pan", "--encoder", "vgg11"), "and vgg11 cannot"),
            (("--architecture", "unett"), "Unknown architecture 'unett'. Closest: 'unet'"),
            (("--smp", "width"), "--smp width: Write NAME=VALUE"),
            (("--encoder", "resnet18", "--smp", "widht=3"), "unknown argument 'widht'"),
            (("--weights", "imagnet"), "Did you mean 'imagenet'?"),
        ],
    )
    def test_is_refused_before_anything_is_written(
        self, run_cli, data: Path, tmp_path: Path, words: tuple[object, ...], message: str
    ) -> None:
        done = run_cli("train", data, "--out", tmp_path / "run", *words)
        assert done.code == 1
        assert message in done.err
        assert not (tmp_path / "run").exists()
