"""Kill `lungunet train` at random instants until enough kills; every run must end the same.

By hand, minutes long: ``python tests/campaigns/kills.py --kills 50``. Each run is started, killed
with SIGKILL after a random time, gone on with, killed again, until it gets through; then weights,
history and best model are compared with those of a run that nobody disturbed.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import lungunet

EPOCHS = 12
SETTINGS = (
    *("--epochs", EPOCHS, "--size", 64, "--batch-size", 2, "--workers", 1, "--device", "cpu"),
    *("--precision", "fp32", "--save-every-minutes", 0.002),
)


def make_data(folder: Path) -> Path:
    pairs = lungunet.find_pairs(*lungunet.write_phantoms(folder, patients=6, slices=4, size=64))
    groups = lungunet.read_groups(pairs, r"patient-\d+")
    lungunet.write_split(folder / "data", lungunet.split_pairs(pairs, groups=groups), {})
    return folder / "data"


def start(data: Path, run: Path) -> "subprocess.Popen[str]":
    resume = (run / "last.ckpt").exists()
    what = ["--resume", run] if resume else [data, "--out", run, *SETTINGS, "--overwrite"]
    return subprocess.Popen(
        [sys.executable, "-m", "lungunet", "train", *map(str, what)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def contents(run: Path) -> tuple[Any, ...]:
    with (run / "history.csv").open() as file:
        rows = [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in csv.DictReader(file)
        ]
    state = torch.load(run / "last.ckpt", weights_only=True)
    weights = {name: tensor.tolist() for name, tensor in state["model"].items()}
    moments = {
        key: {name: value.tolist() for name, value in entry.items()}
        for key, entry in state["optimizer"]["state"].items()
    }
    return rows, weights, moments, (run / "best" / "model.safetensors").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp())
    data = make_data(folder)
    begin = time.monotonic()
    whole = start(data, folder / "whole")
    text, _ = whole.communicate()
    assert whole.returncode == 0, text
    alone = time.monotonic() - begin
    wanted = contents(folder / "whole")
    kills, started, runs, spent = 0, 0, 0, 0.0
    while kills < options.kills:
        runs += 1
        run = folder / f"run-{runs}"
        while True:
            begin = time.monotonic()
            process = start(data, run)
            try:
                process.communicate(timeout=rng.uniform(0, 0.6 * alone))
            except subprocess.TimeoutExpired:
                before = (run / "last.ckpt").stat().st_mtime if (run / "last.ckpt").exists() else 0
                process.kill()
                process.communicate()
                spent += time.monotonic() - begin
                kills += 1
                started += before <= time.time() - (time.monotonic() - begin)
                continue
            spent += time.monotonic() - begin
            assert process.returncode == 0
            break
        assert contents(run) == wanted, f"{run} differs"
        print(f"run {runs}: the same after {kills} kills in all", flush=True)
    lost = (spent - runs * alone) / kills
    print(
        json.dumps(
            {
                "kills": kills,
                "of them before the first checkpoint of their process": started,
                "runs": runs,
                "seconds lost per kill": round(lost, 1),
                "seconds undisturbed": round(alone, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
