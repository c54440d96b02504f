"""What one sample costs, stage by stage, and what the loader delivers per second.

Runs on made-up int16 TIFFs of 512x512 in a temporary folder, each stage on one thread. Prints
tables; ``--out`` writes them as JSON too.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from lungunet import (
    LUNG_CODEC,
    LungCTDataset,
    make_loader,
    read_image,
    read_mask,
    train_transform,
    write_image,
    write_mask,
)
from lungunet.data.atomic import write_text
from lungunet.data.manifest import Pair
from lungunet.data.transforms import seed_transform

SIDE = 512


def write_slices(folder: Path, n: int) -> list[Pair]:
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    pairs = []
    for number in range(n):
        image = np.full((SIDE, SIDE), -1000.0)
        lung = np.zeros((SIDE, SIDE), bool)
        image[(rows - 256) ** 2 / 180**2 + (columns - 256) ** 2 / 230**2 < 1] = 40
        for centre in (160, 350):
            lung |= (rows - 250) ** 2 / 120**2 + (columns - centre) ** 2 / 75**2 < 1
        image[lung] = -830
        image += rng.normal(0, 25, image.shape)
        pair = Pair(folder / "images" / f"{number}.tif", folder / "masks" / f"{number}.png")
        write_image(pair.image, image.astype(np.int16))
        write_mask(pair.mask, np.where(lung, 255, 0).astype(np.uint8))
        pairs.append(pair)
    return pairs


def stages(pairs: list[Pair], size: int) -> dict[str, float]:
    """Return milliseconds per sample, the median over the slices."""
    contract = LungCTDataset(pairs, size=size).contract
    transform = train_transform()
    seconds: dict[str, list[float]] = {}

    def timed(name, call, *arguments, **named):
        start = time.perf_counter()
        result = call(*arguments, **named)
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    for number, pair in enumerate(pairs):
        image = timed("decode image", read_image, pair.image)
        raw = timed("decode mask", read_mask, pair.mask)
        classes = timed("codec", LUNG_CODEC.encode, raw)
        grey = timed("window", contract.to_grey, image)
        grey = timed("fit image", contract.fit, grey)
        classes = timed("fit mask", contract.fit_mask, classes)
        timed("seeding", seed_transform, transform, (0, 0, number))
        moved = timed("augment", transform, image=grey, mask=classes)
        timed("normalise", contract.normalise, moved["image"])
        timed("mask to int64", moved["mask"].astype, np.int64)
    # The mean of augment: its steps fire by chance.
    return {
        name: (statistics.mean if name == "augment" else statistics.median)(values) * 1e3
        for name, values in seconds.items()
    }


def samples_per_second(pairs: list[Pair], size: int, workers: int) -> float:
    dataset = LungCTDataset(pairs, transform=train_transform(), size=size)
    loader = make_loader(dataset, batch_size=8, shuffle=True, workers=workers)
    for _ in loader:  # starts the workers
        pass
    start = time.perf_counter()
    n = sum(len(image) for _ in range(3) for image, _ in loader)
    return n / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--slices", type=int, default=96)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    sizes = (512, 256)
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_slices(Path(folder), options.slices)
        cost = {size: stages(pairs, size) for size in sizes}
        speed = {
            size: {workers: samples_per_second(pairs, size, workers) for workers in (0, 1, 2)}
            for size in sizes
        }
    print(f"{'ms per sample':<16}" + "".join(f"{f'{size}x{size}':>10}" for size in sizes))
    for name in cost[sizes[0]]:
        print(f"{name:<16}" + "".join(f"{cost[size][name]:>10.3f}" for size in sizes))
    print(f"{'all':<16}" + "".join(f"{sum(cost[size].values()):>10.3f}" for size in sizes))
    print(f"\n{'samples/s':<16}" + "".join(f"{f'{size}x{size}':>10}" for size in sizes))
    for workers in (0, 1, 2):
        row = "".join(f"{speed[size][workers]:>10.0f}" for size in sizes)
        print(f"{f'{workers} workers':<16}{row}")
    if options.out:
        table = {"ms_per_sample": cost, "samples_per_second": speed}
        write_text(options.out, json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
