"""Several encoders on the same data: lung IoU, size and speed in one table and one picture.

    python examples/swap_encoders.py --images 2d_images --masks 2d_masks

The name is all that changes: `lungunet encoders` lists 59, and with "tu-*" 908 more.
"""

import statistics
import time
from pathlib import Path

import typer

import lungunet

NAMES = ("tu-mobilenetv3_small_100", "resnet18", "efficientnet-b0", "unet2015")


def main(
    images: Path = Path("2d_images"),
    masks: Path = Path("2d_masks"),
    out: Path = Path("runs/encoders"),
    encoders: str = ",".join(NAMES),
    size: int = 256,
    epochs: int = 20,
) -> None:
    # Several slices of a patient? groups=lungunet.read_groups(...) keeps them in one list.
    split = lungunet.split_pairs(lungunet.find_pairs(images, masks), val=0.1, test=0.2)
    rows = []
    print(f"{'encoder':<26}  lung IoU  parameters  ms per slice")
    for name in encoders.split(","):
        # A dataset of its own for each: the same seed gives each the same augmented slices.
        train = lungunet.LungCTDataset(split.train, transform=lungunet.train_transform(), size=size)
        val = lungunet.LungCTDataset(split.val, contract=train.contract)
        model = lungunet.build_unet(name, weights=None, seed=0)
        trainer = lungunet.Trainer(model, lungunet.TrainConfig(epochs=epochs), out=out / name)
        trainer.fit(train, val, overwrite=True)

        predictor = lungunet.Predictor.load(out / name)
        # baselines=False: the threshold scores the same each time. Compare encoders on val, and
        # take only the one you choose to the test list.
        card = lungunet.evaluate(predictor, split.val, baselines=False)
        million = sum(p.numel() for p in model.parameters()) / 1e6
        ms = milliseconds(predictor, split.val[0].image)
        rows.append((name, card.pooled.iou, million, ms))
        print(f"{name:<26}  {card.pooled.iou:8.4f}  {million:8.1f} M  {ms:12.1f}")
    (out / "encoders.svg").write_text(draw(rows), encoding="utf-8")
    print(f"picture: {out / 'encoders.svg'}")


def milliseconds(predictor: lungunet.Predictor, path: Path, repeats: int = 5) -> float:
    """Time one slice from array to mask, without the first call, which warms up."""
    image, times = lungunet.read_image(path), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        predictor.predict(image)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def draw(rows: list[tuple[str, float, float, float]]) -> str:
    """IoU over milliseconds, a dot per encoder, as SVG: any browser opens it."""
    slowest = max(ms for *_, ms in rows)
    low, high = min(row[1] for row in rows), max(row[1] for row in rows)
    dots = ""
    for name, iou, million, ms in rows:
        x = 60 + 300 * ms / slowest
        y = 230 - 180 * (iou - low) / (high - low or 1)
        dots += f'<circle cx="{x:.0f}" cy="{y:.0f}" r="5" fill="#1f77b4"/>'
        dots += f'<text x="{x + 9:.0f}" y="{y + 4:.0f}">{name}, {iou:.3f}, {million:.1f} M</text>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 290" font-size="13" '
        'font-family="sans-serif"><rect width="620" height="290" fill="white"/>'
        '<path d="M50 30V250H400" fill="none" stroke="gray"/><text x="14" y="20">lung IoU</text>'
        f'<text x="340" y="272">{slowest:.0f} ms per slice</text>{dots}</svg>'
    )


if __name__ == "__main__":
    typer.run(main)
