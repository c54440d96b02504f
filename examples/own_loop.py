"""Your loop, our pieces: dataset, model, loss and meters in plain PyTorch, no Trainer anywhere.

    python examples/own_loop.py --images 2d_images --masks 2d_masks

Take what you need. Each piece stands alone: the dataset feeds any DataLoader, the model is a plain
nn.Module, the meter takes class indices from any model.
"""

from pathlib import Path

import torch
import typer

import lungunet


def main(
    images: Path = Path("2d_images"),
    masks: Path = Path("2d_masks"),
    out: Path = Path("own-model"),
    size: int = 256,
    epochs: int = 20,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Several slices of a patient? groups=lungunet.read_groups(...) keeps them in one list.
    split = lungunet.split_pairs(lungunet.find_pairs(images, masks), val=0.2, test=0.0)
    train = lungunet.LungCTDataset(split.train, transform=lungunet.train_transform(), size=size)
    val = lungunet.LungCTDataset(split.val, contract=train.contract)

    # make_loader seeds the augmentation by (seed, epoch, index): the same batches with any number
    # of workers. torch.utils.data.DataLoader(train, batch_size=8, shuffle=True) works as well.
    train_batches = lungunet.make_loader(train, batch_size=8, shuffle=True)
    val_batches = lungunet.make_loader(val, batch_size=8)

    model = lungunet.build_unet("tu-mobilenetv3_small_100", seed=0).to(device)
    loss_of = lungunet.CrossEntropyDiceLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    best = -1.0
    for epoch in range(1, epochs + 1):
        # Meters add on the device and wait for it only in compute(): no .item() every step.
        losses, pixels = lungunet.Mean(), lungunet.ConfusionMeter(n_classes=2)
        model.train()
        for image, mask in train_batches:
            image, mask = image.to(device), mask.to(device)  # (N, 1, H, W) and (N, H, W)
            logits = model(image)
            loss = loss_of(logits, mask)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss, weight=len(image))
            pixels.update(truth=mask, pred=logits.argmax(1))

        scores = validate(model, val_batches, device)
        print(
            f"epoch {epoch:2d}  loss {losses.compute():.4f}  "
            f"lung IoU train {pixels.compute().iou:.4f}, val {scores.iou:.4f}"
        )
        if scores.iou > best:
            best = scores.iou
            # The contract and the codec travel with the weights, so that whoever loads them sees
            # slices as this loop did: lungunet predict own-model slices/ --out masks
            lungunet.save_model(out, model, contract=train.contract, codec=train.codec)
    print(f"best model, lung IoU {best:.4f} on val: {out}")


@torch.no_grad()
def validate(model: torch.nn.Module, batches, device: torch.device) -> lungunet.Overlap:
    model.eval()
    pixels = lungunet.ConfusionMeter(n_classes=2)
    for image, mask in batches:
        pixels.update(truth=mask.to(device), pred=model(image.to(device)).argmax(1))
    return pixels.compute()


if __name__ == "__main__":
    typer.run(main)
