"""How long an audit of 1,000 slices takes, and what the guard against leaks catches.

Reads phantoms at 512x512 with 1 and 2 threads and in 2 processes, then counts twins among
neighbours of one patient and among different patients. Prints a table; ``--out`` writes JSON too.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

import lungunet
from lungunet.data.files import write_text
from lungunet.data.twins import COPY, TWIN, find_twins, fingerprint, fingerprint_pairs
from lungunet.evaluation.audit import _look, audit
from lungunet.phantom.phantom import phantom_slice


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_processes(pairs: Sequence[lungunet.Pair]) -> None:
    look = partial(_look, list_name="train", codec=lungunet.LUNG_CODEC)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(look, pairs, chunksize=16)


def time_audit(folder: Path, patients: int) -> dict[str, float]:
    images, masks = folder / "images", folder / "masks"
    if not images.exists():
        lungunet.write_phantoms(folder, patients=patients, slices=4, size=512)
    pairs = lungunet.find_pairs(images, masks)
    lists = lungunet.split_pairs(pairs, groups=lungunet.read_groups(pairs, r"patient-\d+"))
    lungunet.write_split(folder, lists, {"labels": lungunet.LUNG_CODEC.to_dict()})
    return {
        "slices": len(pairs),
        "one_thread_s": seconds(lambda: audit(folder, workers=1)),
        "two_threads_s": seconds(lambda: audit(folder, workers=2)),
        "two_processes_s": seconds(lambda: in_processes(pairs)),
    }


def count_false_twins(folder: Path) -> dict[str, float]:
    pairs = lungunet.find_pairs(folder / "images", folder / "masks")
    patients = [pair.name.split("_")[0] for pair in pairs]
    found = find_twins(fingerprint_pairs(pairs), at_least=0.5)
    others = [t.similarity for t in found if patients[t.first] != patients[t.second]]
    return {
        "false_twins": sum(value >= TWIN for value in others),
        "most_alike_of_two_patients": max(others, default=0.0),
    }


def count_true_twins(patients: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    shares: dict[str, float] = {}
    starts = [rng.uniform(0.25, 0.75) for _ in range(patients)]
    first = [fingerprint(phantom_slice(n, z, size=256).image) for n, z in enumerate(starts)]
    for mm in (1, 2, 4, 8, 16):
        moved = [
            fingerprint(phantom_slice(n, z + mm / 340, size=256).image)
            for n, z in enumerate(starts)
        ]
        alike = np.array([float(a @ b) for a, b in zip(first, moved, strict=True)])
        shares[f"twins_at_{mm}_mm"] = float((alike >= TWIN).mean())
        shares[f"copies_at_{mm}_mm"] = float((alike >= COPY).mean())
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=250, help="four slices each")
    parser.add_argument("--folder", type=Path, help="keeps the phantoms for another run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        found = time_audit(folder, options.patients)
        found |= count_false_twins(folder) | count_true_twins(60)
    for name, value in found.items():
        print(f"{name:<28}{value:>10.3f}")
    if options.out:
        write_text(options.out, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
