"""lungunet inside Lightning: its trainer, our data, model, loss and meter. Quiet, and no litter.

    python examples/lightning_module.py --images 2d_images --masks 2d_masks

Needs: pip install lightning
"""

# ruff: noqa: D102 - Lightning's own names for its hooks
import logging
from pathlib import Path

import lightning
import torch
import typer

import lungunet

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no banners and no tips


class LungModule(lightning.LightningModule):
    """A U-Net that counts pixels over a whole epoch, instead of averaging IoU over batches."""

    def __init__(self, encoder: str) -> None:
        super().__init__()
        self.model = lungunet.build_unet(encoder, seed=0)
        self.loss = lungunet.CrossEntropyDiceLoss()
        self.pixels = lungunet.ConfusionMeter(n_classes=2)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        image, mask = batch
        return self.loss(self.model(image), mask)

    def on_validation_epoch_start(self) -> None:
        self.pixels.reset()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        image, mask = batch
        self.pixels.update(truth=mask, pred=self.model(image).argmax(1))

    def on_validation_epoch_end(self) -> None:
        # One number from summed counts. self.log("iou", ...) in validation_step would average the
        # IoU of batches: a small last batch, or one without lung, would then weigh as much.
        # With several processes, sum self.pixels.counts over them first.
        self.log("val_iou", self.pixels.compute().iou)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(
    images: Path = Path("2d_images"),
    masks: Path = Path("2d_masks"),
    out: Path = Path("lightning-model"),
    encoder: str = "tu-mobilenetv3_small_100",
    size: int = 256,
    epochs: int = 20,
) -> None:
    # Several slices of a patient? groups=lungunet.read_groups(...) keeps them in one list.
    split = lungunet.split_pairs(lungunet.find_pairs(images, masks), val=0.2, test=0.0)
    train = lungunet.LungCTDataset(split.train, transform=lungunet.train_transform(), size=size)
    val = lungunet.LungCTDataset(split.val, contract=train.contract)
    module = LungModule(encoder)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        logger=False,  # else lightning_logs/ appears where you stand
        enable_checkpointing=False,  # else checkpoints/ does
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    batches = lungunet.make_loader(train, batch_size=8, shuffle=True)
    trainer.fit(module, batches, lungunet.make_loader(val, batch_size=8))
    iou = trainer.callback_metrics["val_iou"].item()
    lungunet.save_model(out, module.model, contract=train.contract, codec=train.codec)
    print(f"lung IoU on val {iou:.4f}; model: {out}")


if __name__ == "__main__":
    typer.run(main)
