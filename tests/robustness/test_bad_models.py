"""Model folders and checkpoints that are missing, damaged or of another model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from bad_rows import Row

COPY = "Copy the folder again."
PREDICT = "predict W/run W/images --out W/out --device cpu"
RESUME = "train --resume W/run --epochs 3"
ABOUT, WEIGHTS = "W/run/best/lungunet.json", "W/run/best/model.safetensors"
NOT_TENSORS = "damaged, or no safetensors file. Copy it again."
NO_CHECKPOINT = (
    "no checkpoint of lungunet, damaged, or holds more than tensors and plain values, which is not "
    "loaded because it could run code. Start the run again."
)


@pytest.fixture(autouse=True)
def run_in_world(world: Path, run: Path) -> None:
    shutil.copytree(run, world / "run")


def file(name: str, change):
    """Spoil the bytes of a file of the run; None removes it."""

    def spoil(world: Path) -> None:
        path = world / "run" / name
        path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))

    return spoil


def about(**changes: object):
    return file(
        "best/lungunet.json", lambda old: json.dumps({**json.loads(old), **changes}).encode()
    )


def architecture(**changes: object):
    stored = {
        "encoder": "tu-mobilenetv3_small_100",
        "in_channels": 1,
        "classes": 2,
        "smp_arguments": {},
    }
    return about(architecture={**stored, **changes})


def contract(**changes: object):
    window = {"level": -600, "width": 1500}
    stored = {"size": 32, "window": window, "dtypes": ["int16"], "mean": 0.4, "std": 0.2}
    return about(contract={**stored, **changes})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda w: shutil.rmtree(w / "run"),
            "W/run: no such folder. Give a run folder, a model folder, an .onnx file, a model of "
            "the hub (hf://OWNER/NAME@REVISION), or a word: lungs (built in) or threshold.",
        ),
        (
            file("best/lungunet.json", None),
            "W/run/best: weights without lungunet.json, which says the window, size and labels "
            "that they were trained with. Copy it from the model folder that they came from; or, "
            "in Python, load_model(path, contract=..., codec=...) says it, and save_model(folder, "
            "model, contract=..., codec=...) writes both.",
        ),
        (
            file("best/model.safetensors", None),
            f"{WEIGHTS}: there is no such file of weights. Check the path.",
        ),
        (file("best/model.safetensors", lambda b: b[:-9]), f"{WEIGHTS}: {NOT_TENSORS}"),
        (file("best/model.safetensors", lambda _: b""), f"{WEIGHTS}: {NOT_TENSORS}"),
        (file("best/model.safetensors", lambda _: b"\x80\x04."), f"{WEIGHTS}: {NOT_TENSORS}"),
        (
            file("best/lungunet.json", lambda _: b"{\n  "),
            f"{ABOUT}: damaged (Expecting property name enclosed in double quotes: line 2 column 3 "
            f"(char 4)). {COPY}",
        ),
        (file("best/lungunet.json", lambda _: b"[]"), f"{ABOUT}: not a JSON object. {COPY}"),
        (
            about(format=3),
            "W/run/best: format 3 is not one that this lungunet reads (1 to 2). Upgrade lungunet.",
        ),
        (
            about(contract={}),
            f"{ABOUT}: damaged (input contract: stored as {{}}, which is incomplete. Store what "
            f"to_dict gives). {COPY}",
        ),
        (
            contract(mean=float("nan")),
            f"{ABOUT}: damaged (mean nan, std 0.2: the mean of grey values is in [0, 1], and std "
            f"must be above 0. 0.449 and 0.226 are usual). {COPY}",
        ),
        (
            contract(window=None),
            f"{ABOUT}: damaged (slices of int16 without a window: only uint8 is grey already. Give "
            f"a window). {COPY}",
        ),
        (
            architecture(encoder="resnet3x"),
            f"{ABOUT}: damaged (Unknown encoder 'resnet3x'. Closest: 'resnet34', 'resnet18', "
            f"'resnet50'. 'lungunet encoders' lists all). {COPY}",
        ),
        (
            architecture(smp_arguments={"decoder_channels": [-1, 1, 1, 1, 1]}),
            f"{ABOUT}: damaged (Trying to create tensor with negative dimension -1: [-1]). {COPY}",
        ),
        (
            architecture(classes=3),
            f"{ABOUT}: the model has 3 classes, its label codec 2. Save it again with the codec "
            "that it was trained with.",
        ),
        (
            architecture(in_channels=3),
            f"{WEIGHTS}: does not fit the model:\n  encoder.model.conv_stem.weight: (16, 1, 3, 3) "
            "in the file, (16, 3, 3, 3) in the model\nBuild the model that the weights came from, "
            "or give other weights.",
        ),
    ],
)
def test_a_model_folder(check, spoil, message: str) -> None:
    check(Row(PREDICT, f"lungunet: {message}\n", spoil))


@pytest.mark.parametrize("name", ["best/lungunet.json", "history"])
def test_json_nested_without_end(run_cli, world: Path, name: str) -> None:
    verb = ("predict", world / "run", world / "images", "--out", world / "out")
    if name == "history":
        name = "evaluation/test/scores.json"
        (world / "run" / "evaluation" / "test").mkdir(parents=True, exist_ok=True)
        verb = ("report", world / "run")
    (world / "run" / name).write_bytes(b"[" * 100_000)
    done = run_cli(*verb)
    assert done.code == 1
    assert f"{name}: damaged (maximum recursion depth exceeded" in done.err


def test_weights_of_another_encoder(check, world: Path) -> None:
    """The message lists eight of the tensors that do not fit, not all."""
    torch.save({"conv1.weight": torch.zeros(4, 1, 3, 3)}, world / "w.pt")
    args = "train W/data --out W/new --weights W/w.pt --encoder resnet18 --size 32"
    from lungunet.models.unet import build_unet

    wanted = build_unet("resnet18").encoder.state_dict()
    lines = ["conv1.weight: (4, 1, 3, 3) in the file, (64, 1, 7, 7) in the model"]
    lines += [f"{name}: missing in the file" for name in wanted if name != "conv1.weight"]
    rest = f"\n  and {len(lines) - 8} more\n"
    err = (
        "lungunet: W/w.pt: does not fit the encoder:\n  "
        + "\n  ".join(lines[:8])
        + rest
        + "Build the model that the weights came from, or give other weights.\n"
    )
    check(Row(args, err))


def checkpoint(**changes: object):
    def spoil(world: Path) -> None:
        path = world / "run" / "last.ckpt"
        torch.save({**torch.load(path, weights_only=True), **changes}, path)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            file("last.ckpt", None),
            "W/run/last.ckpt: nothing to resume: the run stopped before its first checkpoint. "
            "Start it again.",
        ),
        (file("last.ckpt", lambda _: b""), f"W/run/last.ckpt: {NO_CHECKPOINT}"),
        (file("last.ckpt", lambda _: b"hello"), f"W/run/last.ckpt: {NO_CHECKPOINT}"),
        (file("last.ckpt", lambda b: b[: len(b) // 2]), f"W/run/last.ckpt: {NO_CHECKPOINT}"),
        (
            checkpoint(format=9),
            "W/run/last.ckpt: format 9, this lungunet reads 2. Upgrade lungunet.",
        ),
        (
            checkpoint(threads="two", rng=None),
            "W/run/last.ckpt: incomplete, without rng, threads. Start the run again.",
        ),
        (
            checkpoint(model={}),
            "W/run: belongs to another model. Resume with the same architecture and encoder.",
        ),
    ],
)
def test_a_checkpoint(check, spoil, message: str) -> None:
    check(Row(RESUME, f"lungunet: {message}\n", spoil))
