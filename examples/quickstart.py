"""Two folders in, a trained model and masks out: the library on one page.

    python examples/quickstart.py --images 2d_images --masks 2d_masks

Leave both out, and made-up patients are drawn for you: about three minutes on two CPU cores.
"""

from pathlib import Path

import typer

import lungunet


def main(
    images: Path | None = None,
    masks: Path | None = None,
    patient: str = "",  # finds who it is in a file name, as 'patient-\d+': keeps slices together
    out: Path = Path("runs/quickstart"),
    encoder: str = "tu-mobilenetv3_small_100",
    size: int = 256,
    epochs: int = 20,
) -> None:
    if images is None or masks is None:
        images, masks = lungunet.write_phantoms(Path("phantoms"), patients=24, slices=5)
        patient = r"patient-\d+"

    # 1. Pair slices with masks by file name, and decide who trains, who chooses, who judges.
    pairs = lungunet.find_pairs(images, masks)
    groups = lungunet.read_groups(pairs, patient) if patient else None
    split = lungunet.split_pairs(pairs, val=0.15, test=0.2, groups=groups)
    print(f"slices: {len(split.train)} train, {len(split.val)} val, {len(split.test)} test")

    # 2. Files become tensors. Slice and mask are augmented together; val is left as it is, and
    #    sees its slices through the same window, at the same size, as train does.
    train = lungunet.LungCTDataset(
        split.train, transform=lungunet.train_transform(), size=size, seed=0
    )
    val = lungunet.LungCTDataset(split.val, contract=train.contract)
    image, mask = train[0]
    print(f"one sample: image {tuple(image.shape)} {image.dtype}, mask with {mask.unique()}")

    # 3. Any encoder of smp or timm. Nothing is downloaded unless you name weights.
    model = lungunet.build_unet(encoder, weights=None, seed=0)

    # 4. Train. Your own code goes into the body of this loop; `break` stops early.
    trainer = lungunet.Trainer(model, lungunet.TrainConfig(epochs=epochs), out=out)
    for epoch in trainer.epochs(train, val, overwrite=True):
        star = "  best so far" if epoch.is_best else ""
        print(f"epoch {epoch.epoch:2d}  lung IoU on val {epoch.val.iou:.4f}{star}")

    # 5. Judge the best epoch once, on slices that neither training nor choosing has seen.
    predictor = lungunet.Predictor.load(out)
    card = lungunet.evaluate(predictor, split.test, patients=groups)
    print(f"lung IoU on test {card.pooled.iou:.4f}, by a threshold without any weights ", end="")
    print(f"{card.baselines['threshold'].pooled.iou:.4f}")

    # 6. A mask for a slice: 0 and 255, at the size of the slice.
    slice_path = split.test[0].image
    mask255 = predictor.predict(lungunet.read_image(slice_path))
    lungunet.write_mask(out / f"{slice_path.stem}.png", mask255)
    print(f"a mask: {out / slice_path.stem}.png    curves: tensorboard --logdir {out}")


if __name__ == "__main__":
    typer.run(main)
