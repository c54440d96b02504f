"""Surface distances on pairs of masks against distance maps of the whole array by scipy.

Both run in one process, in turns, on one core, and must agree. Prints a table; ``--out`` writes it
as JSON too.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

from lungunet.data.files import write_text
from lungunet.metrics.surface import surface_distances


def ellipsoid(shape, centre, radii) -> np.ndarray:
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


def lungs(shape, shift=0) -> np.ndarray:
    """Two ellipses (of a volume: ellipsoids) with the size and place of lungs in a chest CT."""
    *rest, rows, columns = shape
    masks = [
        ellipsoid(
            shape,
            [n / 2 + shift for n in rest] + [rows * row + shift, columns * column + shift],
            [n * 0.45 for n in rest] + [rows * 0.27, columns * 0.15],
        )
        for row, column in ((0.50, 0.32), (0.51, 0.68))
    ]
    return masks[0] | masks[1]


def by_distance_maps(truth, pred, spacing) -> float:
    borders = [mask & ~binary_erosion(mask) for mask in (truth, pred)]
    maps = [distance_transform_edt(~border, sampling=spacing) for border in borders]
    there, back = maps[1][borders[0]], maps[0][borders[1]]
    return max(np.percentile(there, 95), np.percentile(back, 95))


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, ...] | None]]:
    plane, block = (512, 512), (48, 256, 256)
    noise = np.random.default_rng(0).random(plane) > 0.5
    left = lungs(plane) & (np.arange(512) < 256)
    return {
        "slice, 3 px apart": (lungs(plane), lungs(plane, 3), None),
        "slice, 0.8 x 0.7 mm": (lungs(plane), lungs(plane, 3), (0.8, 0.7)),
        "slice, one lung missed": (lungs(plane), left, None),
        "slice, against noise": (lungs(plane), noise, None),
        "volume 48 x 256 x 256": (lungs(block), lungs(block, 2), (2.5, 0.8, 0.7)),
    }


def timed(call) -> tuple[float, float]:
    start = time.perf_counter()
    value = call()
    return value, 1e3 * (time.perf_counter() - start)


def measure(truth, pred, spacing, *, rounds: int) -> dict[str, float]:
    ours, maps = [], []
    for turn in range(rounds + 1):
        mine, mine_ms = timed(lambda: surface_distances(truth, pred, spacing_mm=spacing).hd95)
        theirs, maps_ms = timed(lambda: by_distance_maps(truth, pred, spacing))
        if turn:  # the first warms up
            ours.append(mine_ms)
            maps.append(maps_ms)
    if abs(mine - theirs) > 1e-9:
        raise SystemExit(f"HD95 {mine}, by distance maps {theirs}: they must agree.")
    return {
        "hd95": mine,
        "ours_ms": statistics.median(ours),
        "lowest_ms": min(ours),
        "highest_ms": max(ours),
        "distance_maps_ms": statistics.median(maps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    table = {}
    print(f"{'pair':<26}{'hd95':>8}{'ms':>9}{'lowest':>9}{'highest':>9}{'maps ms':>10}")
    for name, (truth, pred, spacing) in pairs().items():
        row = measure(truth, pred, spacing, rounds=options.rounds)
        table[name] = row
        hd95, ours, low, high, maps = row.values()
        print(f"{name:<26}{hd95:>8.2f}{ours:>9.2f}{low:>9.2f}{high:>9.2f}{maps:>10.1f}")
    if options.out:
        write_text(options.out, json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
