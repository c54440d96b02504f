"""No verb reaches for the network, but for pretrained weights that were asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

import lungunet
from lungunet.cli.app import app
from lungunet.data.review_log import LogWriter

# Runs command lines one after the other and says, for each, whom it tried to reach. Everything that
# Python can look up or connect to is refused but for this machine.
WATCHED = """
import json, os, socket, sys

tried = []

def watch(name):
    original = getattr(socket.socket, name)
    def refuse(self, *args):
        address = args[-1]
        host = address[0] if isinstance(address, tuple) else address
        if self.family == socket.AF_UNIX or host in ("127.0.0.1", "::1", "localhost"):
            return original(self, *args)
        tried.append(f"{name} {address}")
        raise OSError(f"{name} {address}")
    setattr(socket.socket, name, refuse)

for name in ("connect", "connect_ex", "sendto", "sendmsg"):
    watch(name)

def refuse_lookup(host, *args, **kwargs):
    tried.append(f"lookup {host}")
    raise socket.gaierror(f"lookup {host}")

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
    setattr(socket, name, refuse_lookup)

import time
time.sleep = lambda seconds: None  # huggingface_hub tries again and again for 20 s

sys.stdout, report = open(os.devnull, "w"), sys.stdout
found = []
for line in json.loads(sys.argv[1]):
    del tried[:]
    sys.argv = ["lungunet", *line]
    from lungunet.cli import main
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    found.append({"verb": line[0], "code": code, "tried": list(tried)})
json.dump(found, report)
"""


def watch(lines: list[list[object]], cwd: Path, **environment: str) -> tuple[list[dict], str]:
    """Run command lines in a process of their own, without what keeps the test suite quiet."""
    quiet = ("NO_ALBUMENTATIONS_UPDATE", "ORT_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "CI")
    caches = ("HF_HOME", "XDG_CACHE_HOME")  # they go to the home folder, which is a new one
    clean = {name: value for name, value in os.environ.items() if name not in (*quiet, *caches)}
    typed = json.dumps([[str(word) for word in line] for line in lines])
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, typed],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**clean, "HOME": str(cwd / "home"), "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_no_verb_reaches_for_the_network(world: Path, run: Path) -> None:
    scan = np.zeros((24, 20, 5), np.int16)
    for name, content in (("scans", scan - 900), ("labels", (scan > 0).astype(np.uint8))):
        (world / name).mkdir()
        nibabel.save(nibabel.Nifti1Image(content, np.eye(4)), world / name / "a.nii.gz")
    images, masks, data = (world / name for name in ("images", "masks", "data"))
    logs = [world / who / "review.jsonl" for who in ("anna", "ben")]
    for log in logs:
        said = {"name": "patient-000_slice-00", "decision": "right", "note": "", "who": ""}
        LogWriter(log, lungunet.LUNG_CODEC).append(said)
    quick = ["--size", 32, "--epochs", 1, "--batch-size", 2, "--workers", 0]
    lines = [
        ["split", images, masks, world / "new"],
        ["prepare", images, masks, world / "prepared", "--size", 32],
        ["slices", world / "scans", world / "labels", world / "sliced"],
        ["audit", data, "--out", world / "audit"],
        ["train", data, "--out", world / "run", *quick],
        ["evaluate", world / "run", data],
        ["predict", world / "run", images, "--out", world / "out", "--overlay"],
        ["predict", world / "run", images, "--out", world / "parts", "--part", "1/1"],
        ["merge", world / "parts"],
        ["measure", images, masks, "--out", world / "measures.csv"],
        ["review", "--compare", *logs],  # the server itself: tests/reviewing
        ["report", world / "run"],
        ["export", world / "run", "--out", world / "lung.onnx"],
        ["predict", world / "lung.onnx", images, "--out", world / "out-onnx"],
        ["encoders", "resnet*"],
        ["encoders", "tu-resnet1*"],
        ["doctor"],
    ]
    found, stderr = watch(lines, world)
    assert [(result["code"], result["tried"]) for result in found] == [(0, [])] * len(lines), stderr
    # Telemetry of compiled libraries is not seen by the watch; this one begins with an identifier.
    assert not list((world / "home").rglob("Microsoft"))
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    # demo is split, train, evaluate and predict; tests/cli runs it with sockets blocked.
    assert {result["verb"] for result in found} == verbs - {"demo"}


@pytest.mark.parametrize("offline", ["0", "1"])
def test_weights_that_were_asked_for_are_looked_up_unless_offline(
    world: Path, offline: str
) -> None:
    encoders = ("resnet18", "tu-mobilenetv3_small_100")
    start = ["train", world / "data", "--out", world / "run", "--weights", "imagenet", "--encoder"]
    lines = [[*start, encoder] for encoder in encoders]
    found, stderr = watch(lines, world, HF_HUB_OFFLINE=offline)
    assert [result["code"] for result in found] == [1, 1]
    assert [bool(result["tried"]) for result in found] == [offline == "0"] * 2
    for encoder in encoders:
        assert f"lungunet: {encoder}: the weights 'imagenet' could not be fetched (" in stderr
    advice = (
        "Go on without (--weights none), or from a file or model folder "
        "(--weights path/to/model.safetensors), or copy the Hugging Face cache of a machine that "
        "has them and point HF_HOME to it.\n"
    )
    assert stderr.count(advice) == 2
    assert not (world / "run").exists()


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_model_of_the_hub_that_was_asked_for_is_looked_up_unless_offline(
    world: Path, offline: str
) -> None:
    address, images = "hf://me/lungs", world / "images"
    lines = [
        ["predict", address, images, "--out", world / "out"],
        ["train", world / "data", "--out", world / "run", "--weights", address],
    ]
    found, stderr = watch(lines, world, HF_HUB_OFFLINE=offline)
    assert [result["code"] for result in found] == [1, 1]
    assert [bool(result["tried"]) for result in found] == [offline == "0"] * 2
    assert stderr.count("lungunet: hf://me/lungs: the hub cannot be reached (") == 2
