"""Spoil thousands of files of each format; each is read as others read it, or refused in words.

By hand, minutes long: ``python tests/campaigns/files.py --files 5000``. Another process reads, so
that one that ends the process is counted like any other fault. Each spoilt file that is accepted is
also read by pydicom, nibabel, tifffile or Pillow, or a reader of thirty lines written from the
definition of NRRD and MetaImage. Verdicts:

- refused: with an error of lungunet
- same: read, and the other reader finds the same voxels in the same places
- harmless: the other reader refuses it; the voxels are those of the whole file
- alone: the other reader refuses it, and what lungunet reads is not what was there. To be looked at
- told: other voxels, and a warning says that something is wrong
- WRONG, TRACEBACK, CRASH, HANG: faults. The files are kept
"""

import argparse
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import peers
import spoiling

import lungunet

FAULTS = ("WRONG", "TRACEBACK", "CRASH", "HANG")
_SECONDS = 60  # of processor time for one file
_BYTES = 6 << 30


@dataclass(frozen=True)
class Verdict:
    """What became of one spoilt file."""

    number: int
    verdict: str
    text: str = ""


def judge(kind: str, number: int, seed: int, folder: Path) -> Verdict:
    """Spoil a file, read it in two ways, and compare."""
    shutil.rmtree(folder, ignore_errors=True)
    before, after = spoiling.spoil(kind, number, seed)
    path = spoiling.write(after, folder / "spoilt")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            ours = read(kind, path)
    except lungunet.LungUNetError as err:
        return Verdict(number, "refused", err.message)
    except Exception:
        return Verdict(number, "TRACEBACK", traceback.format_exc()[-900:])
    told = [str(one.message) for one in said if issubclass(one.category, lungunet.LungUNetWarning)]
    with warnings.catch_warnings(action="ignore"):
        try:
            theirs = peers.read(kind, path)
        except Exception as err:
            original = read(kind, spoiling.write(before, folder / "whole"))
            why = f"{type(err).__name__}: {err}"[:200]
            same = differs(ours, original) is None
            return Verdict(number, "harmless" if same else "told" if told else "alone", why)
    wrong = differs(ours, theirs)
    if wrong is None:
        return Verdict(number, "same")
    return Verdict(number, "told" if told else "WRONG", f"{wrong} {told}")


def read(kind: str, path: Path) -> peers.Reading:
    """Read with lungunet, in the order of the file."""
    if kind in ("tiff", "png"):
        return peers.Reading(lungunet.read_image(path))
    volume = lungunet.read_volume(path)
    grid = volume.grid
    steps = grid.matrix * np.asarray(grid.spacing)
    return peers.Reading(grid.to_file(volume.array), steps, np.asarray(grid.origin))


def differs(ours: peers.Reading, theirs: peers.Reading) -> str | None:
    """Say how two readings differ."""
    if ours.values.shape != theirs.values.shape:
        return f"shape {ours.values.shape}, theirs {theirs.values.shape}"
    mine, other = ours.values.astype(np.float64), theirs.values.astype(np.float64)
    if not np.allclose(mine, other, rtol=1e-5, atol=1e-3, equal_nan=True):
        return f"{int((~np.isclose(mine, other, rtol=1e-5, atol=1e-3)).sum())} values"
    if ours.steps is None or theirs.steps is None:
        return None
    size = np.array(ours.values.shape[::-1]) - 1
    corners = np.array(np.meshgrid(*((0, n) for n in size))).reshape(3, 8)
    apart = (ours.steps - theirs.steps) @ corners + (ours.origin - theirs.origin)[:, None]
    allowed = 0.11 * np.linalg.norm(ours.steps, axis=0).min()
    return None if np.abs(apart).max() <= allowed else f"{np.abs(apart).max():.3g} mm apart"


def work(kind: str, numbers: range, seed: int, folder: Path) -> None:
    """Judge, and print a line for each: what another process does."""
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    for number in numbers:
        spent = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (spent + _SECONDS, resource.RLIM_INFINITY))
        one = judge(kind, number, seed, folder)
        print(json.dumps(one.__dict__), flush=True)


def watch(kind: str, numbers: range, seed: int, folder: Path) -> Iterator[Verdict]:
    """Yield verdicts; where the process that gives them ends or hangs, that is one too."""
    at = numbers.start
    while at < numbers.stop:
        options = ["--kinds", kind, "--work", f"{at}:{numbers.stop}", "--seed", str(seed)]
        worker = subprocess.Popen(
            [sys.executable, __file__, *options, "--keep", str(folder)], stdout=subprocess.PIPE
        )
        assert worker.stdout is not None
        for line in worker.stdout:
            yield Verdict(**json.loads(line))
            at += 1
        code = worker.wait()
        if at < numbers.stop:
            verdict = "HANG" if code == -signal.SIGXCPU else "CRASH"
            yield Verdict(at, verdict, f"exit code {code}")
            at += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=spoiling.KINDS, choices=spoiling.KINDS)
    parser.add_argument("--files", type=int, default=5000, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first: in pieces")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for what is at fault")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep = options.keep or Path(tempfile.mkdtemp())
    if options.work:
        first, last = map(int, options.work.split(":"))
        work(options.kinds[0], range(first, last), options.seed, keep)
        return
    faults = 0
    for kind in options.kinds:
        counts: Counter[str] = Counter()
        numbers = range(options.first, options.first + options.files)
        with (keep / f"{kind}-{options.first}.jsonl").open("w") as log:
            for one in watch(kind, numbers, options.seed, keep / "now"):
                counts[one.verdict] += 1
                log.write(json.dumps(one.__dict__) + "\n")
                if one.verdict in FAULTS:
                    _, spoilt = spoiling.spoil(kind, one.number, options.seed)
                    spoiling.write(spoilt, keep / f"{kind}-{one.number}")
                    print(kind, one.number, one.verdict, one.text, flush=True)
        print(kind, options.files, dict(counts), flush=True)
        faults += sum(counts[name] for name in FAULTS)
    print("PASS" if not faults else f"{faults} faults, kept in {keep}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
