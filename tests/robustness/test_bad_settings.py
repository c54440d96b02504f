"""Settings that no run can work with, and output that must not be replaced or cannot be written."""

import os
from pathlib import Path

import pytest
from bad_rows import Row

import lungunet

FROM_FILE = "train --config W/c.toml --out W/run"
KNOWN = ", ".join(lungunet.RunConfig.__dataclass_fields__)


def settings(text: str):
    def spoil(world: Path) -> None:
        (world / "c.toml").write_text(text.replace("W/", f"{world}/"), encoding="utf-8")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bool, "W/c.toml: cannot be read (No such file or directory). Check the path."),
        (
            lambda w: (w / "c.toml").mkdir(),
            "W/c.toml: cannot be read (Is a directory). Check the path.",
        ),
        (
            lambda w: (w / "c.toml").write_bytes(b"lr = \xff"),
            "W/c.toml: cannot be read as TOML ('utf-8' codec can't decode byte 0xff in position 5: "
            "invalid start byte). Write one setting a line, as in lr = 0.001.",
        ),
        (
            settings("lr: 0.1"),
            "W/c.toml: cannot be read as TOML (Expected '=' after a key in a key/value pair (at "
            "line 1, column 3)). Write one setting a line, as in lr = 0.001.",
        ),
        (settings("epochs = 3"), "c.toml: data is missing. Add it."),
        (
            settings('data = "W/data"\nlearning_rate = 1'),
            f"c.toml: unknown setting 'learning_rate'. Known: {KNOWN}.",
        ),
        (
            settings('data = "W/data"\nepoch = 1'),
            "c.toml: unknown setting 'epoch'. Did you mean 'epochs'?",
        ),
        (
            settings('data = "W/data"\nlr = -1'),
            "c.toml: lr=-1: must be above 0 and finite. 0.001 is a safe start.",
        ),
        (
            settings('data = "W/data"\nlr = inf'),
            "c.toml: lr=inf: must be above 0 and finite. 0.001 is a safe start.",
        ),
        (
            settings('data = "W/data"\nbatch_size = 0'),
            "c.toml: batch_size=0: must be at least 1. 4 is usual.",
        ),
        (
            settings(f'data = "W/data"\nbatch_size = {2**63}'),
            f"c.toml: batch_size={2**63}: must be below 2**63. Lower it.",
        ),
        (
            settings('data = "W/data"\nepochs = "3"'),
            "c.toml: epochs = '3' is of the wrong kind. Write a whole number.",
        ),
        (
            settings('data = "W/data"\nsize = 1'),
            "size 1: must be 16 to 16384 px. 256 is usual.",
        ),
        (
            settings('data = "W/data"\nsize = 1000000'),
            "size 1000000: must be 16 to 16384 px. 256 is usual.",
        ),
        (
            settings('data = "W/data"\nwindow = "1,0"'),
            "window 1,0: the width must be above 0, and neither beyond 1e+09. Lungs are seen at "
            "-600,1500.",
        ),
        (
            settings('data = "W/data"\nlabels = "0,1"'),
            "W/masks/patient-000_slice-00.png: mask value 255 (572 pixels, first at row 9, "
            "column 16) is not one of 0 (background), 1 (lung). Pass a codec that maps it "
            "(--labels 0,255), or fix the file.",
        ),
        (
            settings('data = "W/data"\nencoder = "resnet3x"'),
            "Unknown encoder 'resnet3x'. Closest: 'resnet34', 'resnet18', 'resnet50'. "
            "'lungunet encoders' lists all.",
        ),
        (
            settings('data = "W/data"\ndevice = "cuda:99"'),
            "device 'cuda:99': this machine has none. Leave it out, or use cpu.",
        ),
    ],
)
def test_a_config_file(check, spoil, message: str) -> None:
    check(Row(FROM_FILE, f"lungunet: {message}\n", spoil))


def test_a_config_file_nested_without_end(run_cli, world: Path) -> None:
    (world / "c.toml").write_text("a = " + "[" * 5000)
    done = run_cli("train", "--config", world / "c.toml")
    assert done.code == 1
    assert "c.toml: cannot be read as TOML (maximum recursion depth exceeded" in done.err


def only(name: str, *, pairs: slice):
    """Leave some pairs of a list."""

    def spoil(world: Path) -> None:
        path = world / "data" / f"{name}.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[pairs]))

    return spoil


QUICK = "--epochs 1 --workers 0 --device cpu --precision fp32"


class TestBatchNorm:
    """It cannot train on one value per channel: a batch of one, at the smallest level."""

    def test_one_slice_is_too_few(self, check) -> None:
        err = (
            "lungunet: the model does not take a batch of 1 of shape (1, 32, 32): Expected more "
            "than 1 value per channel when training, got input size torch.Size([1, 288, 1, 1]). "
            "Change size or --batch-size, add pairs, or take another encoder.\n"
        )
        args = f"train W/data --out W/run --size 32 --batch-size 2 {QUICK}"
        check(Row(args, err, only("train", pairs=slice(1))))

    def test_a_last_batch_of_one_is_left_out(self, run_cli, world: Path) -> None:
        only("train", pairs=slice(3))(world)
        args = f"train {world}/data --out {world}/run --size 32 --batch-size 2 {QUICK}"
        done = run_cli(*args.split())
        assert (done.code, done.err) == (0, "")

    def test_val_of_one_slice_is_enough(self, run_cli, world: Path) -> None:
        only("val", pairs=slice(1, 2))(world)
        args = f"train {world}/data --out {world}/run --size 32 --batch-size 2 {QUICK}"
        done = run_cli(*args.split())
        assert (done.code, done.err) == (0, "")


def test_a_size_that_32_does_not_divide(run_cli, world: Path) -> None:
    args = f"train {world}/data --out {world}/run --size 45 --batch-size 3 {QUICK}"
    assert run_cli(*args.split()).code == 0
    done = run_cli("predict", world / "run", world / "images", "--out", world / "out")
    assert (done.code, done.err) == (0, "")
    assert lungunet.read_mask(world / "out" / "patient-000_slice-00.png").shape == (48, 48)


def file_at(name: str):
    return lambda world: (world / name).write_bytes(b"mine")


TAKEN = "cannot be written (File exists). Choose another place."


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("split W/images W/masks W/new", f"W/new/train.txt: {TAKEN}"),
        (
            "prepare W/images W/masks W/new",
            "W/new/images/patient-000_slice-00.tif: cannot be written (Not a directory). Choose "
            "another place.",
        ),
        (
            f"train W/data --out W/new --size 32 --batch-size 2 {QUICK}",
            "W/new: cannot be written (File exists). Choose another folder.",
        ),
        (
            "predict threshold W/images --out W/new",
            "W/new: cannot be written (File exists). Choose another folder.",
        ),
        (
            "evaluate threshold W/data --out W/new --no-baselines",
            f"W/new/scores.json: {TAKEN}",
        ),
        ("audit W/data --out W/new", "W/new: cannot be made (File exists). Choose another place."),
        (
            "demo --out W/new",
            "W/new/images: Not a directory. Check the path and who may use it.",
        ),
    ],
)
def test_output_where_a_file_is(check, args: str, message: str) -> None:
    check(Row(args, f"lungunet: {message}\n", file_at("new")))


@pytest.mark.parametrize(
    ("args", "spoil", "message"),
    [
        (
            "split W/images W/masks W/data --seed 9",
            bool,
            "W/data/train.txt, W/data/val.txt, W/data/test.txt, W/data/split.json: already there. "
            "Add --overwrite to replace, or choose another folder.",
        ),
        (
            "prepare W/images W/masks W/data",
            bool,
            "W/data/train.txt, W/data/val.txt, W/data/test.txt: already there. "
            "Add --overwrite to replace, or choose another folder.",
        ),
        (
            "predict threshold W/images --out W/out",
            lambda w: lungunet.write_mask(
                w / "out" / "patient-001_slice-01.png", lungunet.read_mask(next(w.glob("masks/*")))
            ),
            "W/out/patient-001_slice-01.png: already there. "
            "Add --overwrite to replace, or choose another folder.",
        ),
        (
            "evaluate threshold W/data --out W/data",
            file_at("data/scores.json"),
            "W/data/scores.json: already there. "
            "Add --overwrite to replace, or choose another folder.",
        ),
        (
            "audit W/data --out W/data",
            file_at("data/ranking.csv"),
            "W/data/ranking.csv: already there. "
            "Add --overwrite to replace, or choose another folder.",
        ),
    ],
)
def test_output_that_is_there(check, args: str, spoil, message: str) -> None:
    check(Row(args, f"lungunet: {message}\n", spoil))


def second_of_a_stem(world: Path) -> None:
    slice_ = world / "images" / "patient-000_slice-00.tif"
    slice_.with_suffix(".tiff").write_bytes(slice_.read_bytes())


TWO = "W/images/patient-000_slice-00.tif and W/images/patient-000_slice-00.tiff"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "predict threshold W/images --out W/out",
            f"files that would write the same mask:\n  {TWO}\nPredict them into different folders.",
        ),
        (
            "split W/images W/masks W/new",
            f"W/images and W/masks do not pair up, 1 problem:\n  patient-000_slice-00: {TWO} share "
            "a stem\nRename, re-export or remove them; nothing was written.",
        ),
    ],
)
def test_two_slices_of_one_stem(check, args: str, message: str) -> None:
    check(Row(args, f"lungunet: {message}\n", second_of_a_stem))


def not_utf8(world: Path) -> None:
    """A name of bytes that are no UTF-8, as old archives hold them."""
    for folder, end in (("images", b"tif"), ("masks", b"png")):
        old = world / folder / f"patient-003_slice-02.{end.decode()}"
        old.rename(os.fsdecode(os.fsencode(world / folder) + b"/K\xf6ln." + end))


@pytest.mark.parametrize("verb", ["split", "prepare"])
def test_a_name_that_no_list_can_hold(run_cli, world: Path, verb: str) -> None:
    not_utf8(world)
    done = run_cli(verb, world / "images", world / "masks", world / "new")
    assert done.code == 1
    assert "K\\udcf6ln.tif': a tab, a line break, a blank at either end or a byte that" in done.err
    assert not (world / "new").exists()


@pytest.mark.parametrize("args", ["--out W/{long}", "{long} --out W/out"])
def test_a_name_longer_than_the_disk_takes(run_cli, world: Path, args: str) -> None:
    args = args.format(long="x" * 300).replace("W/", f"{world}/")
    done = run_cli("predict", "threshold", f"{world}/images", *args.split())
    assert done.code == 1
    assert "xxx" in done.err
    assert "File name too long" in done.err


def test_a_disk_that_is_full(check, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    err = (
        "W/new/train.txt: cannot be written (No space left on device). Make room; what was there "
        "before is kept."
    )
    check(Row("split W/images W/masks W/new", f"lungunet: {err}\n", writes=("new",)))
