"""``lungunet doctor``: aligned, quiet, and 1 where something is broken."""

import json

import pytest

import lungunet
from lungunet import doctor as health

HEALTH = health.Health(
    versions={"python": "3.11.7", "torch": "2.15.0", "onnxruntime": None},
    missing_extras={"onnxruntime": "onnx"},
    choices={"device": health.Choice("cuda", "a GPU, 70.0 GiB free of 79.0")},
    threads=4,
    cores=8,
    memory_bytes=16 * 2**30,
    memory_free_bytes=3 * 2**29,
    disk_free_bytes=2**30,
    weights_cached={"resnet34": False},
    builtin_s=0.0213,
    step_s=0.0123,
    problems=(),
)
SHOWN = """\
python       3.11.7
torch        2.15.0
onnxruntime  not installed (optional: pip install 'lungunet[onnx]')

device       cuda (a GPU, 70.0 GiB free of 79.0)
threads      4, on 8 cores
memory       1.5 GiB free of 16.0 GiB
disk         1.0 GiB free in this folder

pretrained   resnet34: not in the cache, --weights imagenet downloads them
built-in     0.021 s for a slice of 256x256
one step     0.012 s, 2 slices of 64x64
"""


def sick(*problems: str) -> health.Health:
    return health.Health(**{**vars(HEALTH), "problems": problems})


@pytest.mark.parametrize(
    ("found", "code", "end"),
    [
        (HEALTH, 0, "\nnothing is broken\n"),
        (
            sick("torch is old. Upgrade it.", "opencv is there twice. Remove one."),
            1,
            "\nbroken 1 of 2: torch is old. Upgrade it.\n"
            "\nbroken 2 of 2: opencv is there twice. Remove one.\n",
        ),
    ],
)
def test_table(run_cli, monkeypatch: pytest.MonkeyPatch, found, code: int, end: str) -> None:
    monkeypatch.setattr(lungunet, "check_installation", lambda: found)
    done = run_cli("doctor")
    assert (done.code, done.err) == (code, "")
    assert done.out == SHOWN + end


@pytest.mark.parametrize(("found", "code"), [(HEALTH, 0), (sick("a. b."), 1)])
def test_json(run_cli, monkeypatch: pytest.MonkeyPatch, found, code: int) -> None:
    monkeypatch.setattr(lungunet, "check_installation", lambda: found)
    done = run_cli("doctor", "--json")
    assert (done.code, done.err) == (code, "")
    assert json.loads(done.out) == found.to_dict()


def test_what_is_not_known_is_left_out(run_cli, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {"threads": None, "cores": None, "memory_bytes": None, "memory_free_bytes": None}
    broken = {**unknown, "choices": {}, "weights_cached": {}, "step_s": None}
    monkeypatch.setattr(
        lungunet, "check_installation", lambda: health.Health(**{**vars(sick("x. y.")), **broken})
    )
    done = run_cli("doctor")
    assert "None" not in done.out
    assert "threads" not in done.out
