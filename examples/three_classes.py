"""Left lung, right lung, background: any number of classes with a codec that names them.

    python examples/three_classes.py

Draws made-up patients, writes 1 into the left lung and 2 into the right one, trains on that, and
predicts masks that hold 1 and 2 again.
"""

from pathlib import Path

import numpy as np
import typer

import lungunet

# Raw value on disk -> class in the network. Any other value in a mask is an error with its place.
CODEC = lungunet.LabelCodec({0: 0, 1: 1, 2: 2}, names=("background", "left lung", "right lung"))


def main(
    folder: Path = Path("three-classes"), patients: int = 24, size: int = 128, epochs: int = 15
) -> None:
    images, masks = make_data(folder, patients, size)
    pairs = lungunet.find_pairs(images, masks)
    groups = lungunet.read_groups(pairs, r"patient-\d+")
    split = lungunet.split_pairs(pairs, val=0.15, test=0.2, groups=groups)

    # flip=False: a mirrored chest has its heart on the other side, and its labels would be wrong.
    train = lungunet.LungCTDataset(
        split.train, codec=CODEC, size=size, transform=lungunet.train_transform(flip=False)
    )
    val = lungunet.LungCTDataset(split.val, codec=CODEC, contract=train.contract)
    model = lungunet.build_unet("tu-mobilenetv3_small_100", n_classes=CODEC.n_classes, seed=0)
    run = folder / "run"
    trainer = lungunet.Trainer(model, lungunet.TrainConfig(epochs=epochs), out=run)
    for epoch in trainer.epochs(train, val, overwrite=True):
        print(f"epoch {epoch.epoch:2d}  mIoU {epoch.val.miou:.4f}  lung IoU {epoch.val.iou:.4f}")

    predictor = lungunet.Predictor.load(run)
    card = lungunet.evaluate(predictor, split.test, codec=CODEC, patients=groups)
    print("on test, pooled over all pixels:")
    for name, iou in zip(card.class_names, card.pooled.class_iou, strict=True):
        print(f"  {name:<10}  IoU {iou:.4f}")
    print(f"  either lung IoU {card.pooled.iou:.4f}: left and right merged")

    mask = predictor.predict(lungunet.read_image(split.test[0].image))
    lungunet.write_mask(folder / "predicted.png", mask)
    print(f"{folder / 'predicted.png'} holds the raw values {np.unique(mask).tolist()}")


def make_data(folder: Path, patients: int, size: int) -> tuple[Path, Path]:
    """Write phantoms, and their masks anew with a value for each side."""
    images, lungs = lungunet.write_phantoms(folder, patients=patients, slices=5, size=size)
    masks = folder / "masks-by-side"
    masks.mkdir(exist_ok=True)
    for path in sorted(lungs.glob("*.png")):
        lungunet.write_mask(masks / path.name, lungunet.split_sides(lungunet.read_mask(path)))
    return images, masks


if __name__ == "__main__":
    typer.run(main)
