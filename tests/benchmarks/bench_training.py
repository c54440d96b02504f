"""Seconds until val lung IoU reaches a goal: the Trainer against a loop as one writes it by hand.

Both have the same encoder, size, batch and data, start from random weights, and are stopped at the
goal or at their last epoch. By hand means: smp and Albumentations used plainly, Adam at a constant
rate, float32, each slice read anew. ``--data`` takes a folder with train.txt and val.txt; without
it phantoms are made. Prints a table; ``--out`` writes it as JSON too.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader, Dataset

import lungunet
from lungunet.data.files import write_text


class ByHand(Dataset):
    """A data set as tutorials write it, without their faults."""

    def __init__(self, pairs: list[lungunet.Pair], size: int, *, augment: bool) -> None:
        self.pairs = pairs
        moves = [A.HorizontalFlip(), A.Affine(rotate=(-15, 15), scale=(0.85, 1.15))]
        self.transform = A.Compose([A.Resize(size, size), *(moves if augment else [])])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.pairs[index]
        hu = cv2.imread(str(pair.image), cv2.IMREAD_UNCHANGED).astype(np.float32)
        mask = (cv2.imread(str(pair.mask), cv2.IMREAD_UNCHANGED) > 0).astype(np.uint8)
        grey = np.clip((hu + 1350) / 1500, 0, 1)
        moved = self.transform(image=grey, mask=mask)
        image = (moved["image"][None] - 0.449) / 0.226
        return torch.from_numpy(image), torch.from_numpy(moved["mask"]).long()


def by_hand(split: lungunet.Split, options: argparse.Namespace) -> Iterator[float]:
    torch.manual_seed(options.seed)
    model = smp.Unet(options.encoder, encoder_weights=None, in_channels=1, classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sets = [ByHand(split.train, options.size, augment=True)]
    sets.append(ByHand(split.val, options.size, augment=False))
    train, val = (DataLoader(each, options.batch, shuffle=i == 0) for i, each in enumerate(sets))
    dice = smp.losses.DiceLoss("multiclass", classes=[1])
    for _ in range(options.epochs):
        model.train()
        for image, mask in train:
            logits = model(image)
            loss = torch.nn.functional.cross_entropy(logits, mask) + dice(logits, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        meter = lungunet.ConfusionMeter(2)
        with torch.no_grad():
            for image, mask in val:
                meter.update(truth=mask, pred=model(image).argmax(1))
        yield meter.compute().iou


def ours(split: lungunet.Split, options: argparse.Namespace) -> Iterator[float]:
    train = lungunet.LungCTDataset(
        split.train, transform=lungunet.train_transform(), size=options.size, seed=options.seed
    )
    val = lungunet.LungCTDataset(split.val, contract=train.contract)
    model = lungunet.build_unet(options.encoder, seed=options.seed)
    config = lungunet.TrainConfig(
        epochs=options.epochs, batch_size=options.batch, seed=options.seed
    )
    with tempfile.TemporaryDirectory() as folder:
        for epoch in lungunet.Trainer(model, config, out=folder).epochs(train, val):
            yield epoch.val.iou


def until(goal: float, ious: Iterator[float]) -> dict[str, float]:
    start = time.perf_counter()
    reached, best, epochs = float("nan"), 0.0, 0
    for iou in ious:
        epochs += 1
        best = max(best, iou)
        if best >= goal and np.isnan(reached):
            reached = time.perf_counter() - start
            break
    return {"seconds_to_goal": reached, "best_iou": best, "epochs": epochs}


def load(data: Path | None) -> lungunet.Split:
    if data is not None:
        return lungunet.read_split(data, "train", "val")
    folder = Path(tempfile.mkdtemp())
    pairs = lungunet.find_pairs(*lungunet.write_phantoms(folder, patients=12, slices=5, size=256))
    groups = lungunet.read_groups(pairs, r"patient-\d+")
    return lungunet.split_pairs(pairs, val=0.2, test=0.0, groups=groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--encoder", default="tu-mobilenetv3_small_100")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--goal", type=float, default=0.97)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    split = load(options.data)
    table = {}
    for name, run in (("Trainer", ours), ("by hand", by_hand)):
        table[name] = row = until(options.goal, run(split, options))
        print(
            f"{name:<10} IoU {options.goal} after {row['seconds_to_goal']:.0f} s, "
            f"{row['epochs']} epochs; best {row['best_iou']:.4f}",
            flush=True,
        )
    if options.out:
        plain = {
            who: {key: None if np.isnan(value) else value for key, value in row.items()}
            for who, row in table.items()
        }
        write_text(options.out, json.dumps(plain, indent=2) + "\n")


if __name__ == "__main__":
    main()
