"""What one sample costs, stage by stage, and what the loader delivers per second.

Beside it the data set of the common tutorials (Pillow, RandomRotation, ToTensor) on the same files,
made-up int16 TIFFs of 512x512 in a temporary folder. All in turns, each process on one thread.
Times are those of the processor, rates those of the clock. Prints tables; ``--out`` writes them as
JSON too.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import Compose, RandomRotation, ToTensor

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
from lungunet.data.files import write_text
from lungunet.data.manifest import Pair
from lungunet.data.transforms import seed_transform

SIDE = 512
BATCH = 8
GOAL = 250  # augmented samples a second at 512x512, from the cache, by one core


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


class TutorialDataset(Dataset):
    """What a tutorial would write: it reads every file every time and turns the image alone."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs
        self.transform = Compose([RandomRotation(12), ToTensor()])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.pairs[index]
        image = self.transform(Image.open(pair.image)).float()
        mask = torch.from_numpy(np.array(Image.open(pair.mask)) // 255).long()
        return image, mask


def stages(pairs: list[Pair], size: int, cache: Path) -> dict[str, float]:
    """Return milliseconds of processor time per sample, the mean over the slices."""
    plain = LungCTDataset(pairs, size=size)
    cached = LungCTDataset(pairs, size=size, cache=cache)
    contract, transform = plain.contract, train_transform()
    seconds: dict[str, float] = {}

    def timed(name, call, *arguments, **named):
        start = time.process_time()
        result = call(*arguments, **named)
        seconds[name] = seconds.get(name, 0) + time.process_time() - start
        return result

    def steps(data):
        for step in transform.transforms:
            data = timed(f"  {type(step).__name__.strip('_')}", step, **data)

    for number, pair in enumerate(pairs):
        image = timed("decode image", read_image, pair.image)
        raw = timed("decode mask", read_mask, pair.mask)
        classes = timed("codec", LUNG_CODEC.encode, raw)
        grey = timed("window", contract.to_grey, image)
        grey = timed("fit image", contract.fit, grey)
        classes = timed("fit mask", contract.fit_mask, classes)
        timed("into the cache", cached._fetch, number)
        timed("from the cache", cached._fetch, number)
        timed("seeding", seed_transform, transform, (0, 0, number))
        moved = timed("augment", transform, image=grey, mask=classes)
        image = timed("normalise", contract.normalise, moved["image"])
        timed("mask to int64", moved["mask"].astype, np.int64)
        seed_transform(transform, (0, 0, number))
        steps({"image": grey, "mask": classes})
    sample = torch.from_numpy(image), torch.from_numpy(classes.astype(np.int64))
    for _ in range(len(pairs) // BATCH):
        timed("collate", default_collate, [sample] * BATCH)
    return {name: total / len(pairs) * 1e3 for name, total in seconds.items()}


def loaders(pairs: list[Pair], size: int, workers: int, cache: Path) -> dict[str, DataLoader]:
    """Return what is compared; the first pass over each starts workers and fills the cache."""

    def ours(folder: Path | None, *, eight_bit: bool = False) -> DataLoader:
        dataset = LungCTDataset(pairs, transform=train_transform(), size=size, cache=folder)
        return make_loader(
            dataset, batch_size=BATCH, shuffle=True, workers=workers, eight_bit=eight_bit
        )

    made = {"files": ours(None), "cache": ours(cache), "8 bit": ours(cache, eight_bit=True)}
    if size == SIDE:  # it does not resize
        made["tutorial"] = DataLoader(
            TutorialDataset(pairs),
            BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
    for loader in made.values():
        for _ in loader:
            pass
    return made


def rates(made: dict[str, DataLoader], rounds: int) -> dict[str, dict[str, float]]:
    """Return samples per second by the clock, and per second of this process's processor time."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for _ in range(rounds):  # in turns, so that a busy machine slows all
        for name, loader in made.items():
            clock, processor = time.perf_counter(), time.process_time()
            n = sum(len(image) for image, _ in loader)
            spent = time.perf_counter() - clock, time.process_time() - processor
            measured[name].append((n / spent[0], n / spent[1]))
    return {
        name: {
            "per_second": statistics.median(clock for clock, _ in values),
            "per_cpu_second": statistics.median(processor for _, processor in values),
        }
        for name, values in measured.items()
    }


def show_stages(cost: dict[int, dict[str, float]]) -> None:
    print(f"{'ms per sample':<24}" + "".join(f"{f'{size}x{size}':>10}" for size in cost))
    for name in next(iter(cost.values())):
        print(f"{name:<24}" + "".join(f"{row[name]:>10.3f}" for row in cost.values()))


def show_rates(speed: dict[int, dict[int, dict[str, dict[str, float]]]]) -> None:
    print(f"\n{'samples per second':<24}{'tutorial':>10}{'files':>10}{'cache':>10}{'8 bit':>10}")
    for size, by_workers in speed.items():
        for workers, row in by_workers.items():
            cells = [row.get(name, {}) for name in ("tutorial", "files", "cache", "8 bit")]
            name = f"{size}x{size}, {workers} workers"
            print(f"{name:<24}" + "".join(f"{c.get('per_second', np.nan):>10.0f}" for c in cells))
            if not workers:
                name = f"{size}x{size}, by CPU time"
                busy = "".join(f"{c.get('per_cpu_second', np.nan):>10.0f}" for c in cells)
                print(f"{name:<24}{busy}")
    print("8 bit: from the cache, normalised where it arrives, as the Trainer reads")
    print(f"goal: {GOAL} at 512x512 from the cache, by one core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--slices", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    sizes = (512, 256)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = write_slices(folder, options.slices)
        time.sleep(2.1)  # younger files are not kept
        cost = {size: stages(pairs, size, folder / f"cache-{size}") for size in sizes}
        speed = {
            size: {
                workers: rates(loaders(pairs, size, workers, folder / "cache"), options.rounds)
                for workers in (0, 1, 2)
            }
            for size in sizes
        }
    show_stages(cost)
    show_rates(speed)
    if options.out:
        table = {"ms_per_sample": cost, "samples_per_second": speed}
        write_text(options.out, json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
