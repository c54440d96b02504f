"""The label codec against the pixel loop it replaces, on one 512x512 mask.

Both run in one process, in turns, on one thread. Prints a table; ``--out`` writes it as JSON too.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import cv2
import numpy as np

from lungunet import LUNG_CODEC
from lungunet.data.files import write_text

GOAL = 900


def loop_encode(raw: np.ndarray) -> np.ndarray:
    classes = np.zeros(raw.shape, np.uint8)
    for row in range(raw.shape[0]):
        for column in range(raw.shape[1]):
            classes[row, column] = 1 if raw[row, column] == 255 else 0
    return classes


def loop_decode(classes: np.ndarray) -> np.ndarray:
    raw = np.zeros(classes.shape, np.uint8)
    for row in range(classes.shape[0]):
        for column in range(classes.shape[1]):
            raw[row, column] = 255 if classes[row, column] == 1 else 0
    return raw


def timed(call, argument: np.ndarray, repeats: int) -> float:
    start = time.process_time()  # of one thread: who else is at work does not count
    for _ in range(repeats):
        call(argument)
    return (time.process_time() - start) / repeats


def measure(raw: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    classes = LUNG_CODEC.encode(raw)
    steps = {
        "encode": (LUNG_CODEC.encode, loop_encode, raw),
        "decode": (LUNG_CODEC.decode, loop_decode, classes),
    }
    table = {}
    for name, (ours, loop, argument) in steps.items():
        assert np.array_equal(ours(argument), loop(argument))
        # In turns, so that a busy machine slows both.
        times = [(timed(ours, argument, 100), timed(loop, argument, 1)) for _ in range(rounds)]
        table[name] = {
            "codec_ms": statistics.median(ours for ours, _ in times) * 1e3,
            "loop_ms": statistics.median(loop for _, loop in times) * 1e3,
            "ratio": statistics.median(loop / ours for ours, loop in times),
        }
    both = {key: sum(row[key] for row in table.values()) for key in ("codec_ms", "loop_ms")}
    table["both"] = {**both, "ratio": both["loop_ms"] / both["codec_ms"]}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    raw = np.zeros((512, 512), np.uint8)
    raw[100:400, 60:220] = raw[120:390, 290:450] = 255
    table = measure(raw, options.rounds)
    print(f"{'512x512':<10}{'codec ms':>10}{'loop ms':>10}{'ratio':>8}")
    for name, (codec, loop, ratio) in ((name, row.values()) for name, row in table.items()):
        print(f"{name:<10}{codec:>10.4f}{loop:>10.1f}{ratio:>8.0f}")
    print(f"goal: {GOAL} times the loop, there and back")
    if options.out:
        write_text(options.out, json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
