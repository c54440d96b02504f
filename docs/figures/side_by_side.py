"""Train twice on the same pictures: once the masks move with them, once they stay behind."""

from pathlib import Path

import albumentations as A
import torch

import lungunet

PATIENTS, SLICES, SIZE_PX, EPOCHS = 24, 4, 96, 16


class MasksStayBehind(lungunet.LungCTDataset):
    """The mistake of a common recipe: the slice is moved, its mask is not."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the augmented slice with the mask as it was."""
        image, _ = super().__getitem__(key)
        _, classes = self.read(key[1])
        return image, torch.from_numpy(classes).long()


def curves(folder: Path) -> dict[str, list[lungunet.EpochResult]]:
    """Return the epochs of both runs. Seeds, pictures and batches are the same in both."""
    images, masks = lungunet.write_phantoms(folder, patients=PATIENTS, slices=SLICES, size=128)
    pairs = lungunet.find_pairs(images, masks)
    groups = lungunet.read_groups(pairs, r"patient-\d+")
    split = lungunet.split_pairs(pairs, val=0.25, test=0.0, groups=groups)
    return {
        name: _train(kind, split, folder / name)
        for name, kind in (("both", lungunet.LungCTDataset), ("image only", MasksStayBehind))
    }


def _train(
    kind: type[lungunet.LungCTDataset], split: lungunet.Split, out: Path
) -> list[lungunet.EpochResult]:
    transform = A.Compose([A.HorizontalFlip(p=0.5), A.Rotate(limit=20, p=0.5)])
    train = kind(split.train, transform=transform, size=SIZE_PX)
    val = lungunet.LungCTDataset(split.val, contract=train.contract)
    model = lungunet.build_unet("tu-mobilenetv3_small_100", seed=0)
    config = lungunet.TrainConfig(
        epochs=EPOCHS, batch_size=8, device="cpu", precision="fp32", workers=0
    )
    return lungunet.Trainer(model, config, out=out).fit(train, val, overwrite=True)
