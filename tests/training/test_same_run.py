"""What a run is made with beside its settings stays when it goes on; nothing else reaches it."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lungunet
from lungunet import LungCTDataset, LungUNetWarning, ModelError, TrainConfig, Trainer, build_unet


class Half(nn.Module):
    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return 0.5 * nn.functional.cross_entropy(logits, mask)


class Subclass(LungCTDataset):
    pass


def weighted(*weights: float) -> nn.Module:
    return nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float32))


def trainer(out: Path, *, epochs: int = 2, **options: Any) -> Trainer:
    config = TrainConfig(epochs=epochs, batch_size=2, device="cpu", precision="fp32", workers=0)
    return Trainer(build_unet("unet2015", width=2, seed=0), config, out=out, **options)


def begin(out: Path, train: LungCTDataset, val: LungCTDataset, **options: Any) -> None:
    asked = itertools.count()
    trainer(out, should_stop=lambda: next(asked) >= 1, **options).fit(train, val)


@pytest.fixture
def make(split: lungunet.Split):
    def made(kind: type[LungCTDataset] = LungCTDataset, **options: Any) -> LungCTDataset:
        given = {"size": 32, "transform": lungunet.train_transform(), "seed": 1, **options}
        return kind(split.train, **given)

    return made


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        (Half(), None, r"loss Half\(\), now ce-dice"),
        (None, Half(), r"loss ce-dice, now Half\(\)"),
        (weighted(1, 3), weighted(1, 2), r"loss CrossEntropy.* weight 1,3, now .* weight 1,2"),
    ],
)
def test_another_loss_of_ones_own_is_another_run(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset, before: Any, now: Any, says: str
) -> None:
    begin(tmp_path, train, val, loss=before)
    again = trainer(tmp_path, loss=now)
    first = {name: tensor.clone() for name, tensor in again.model.state_dict().items()}
    with pytest.raises(ModelError, match=rf"was trained with {says}\. Resume with the same loss"):
        again.fit(train, val, resume=True)
    assert all(torch.equal(first[name], t) for name, t in again.model.state_dict().items())
    trainer(tmp_path, loss=before).fit(train, val, resume=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"transform": None}, r"transform Compose\(.*now None"),
        ({"seed": 9}, "seed of train 1, now 9"),
        ({"kind": Subclass}, "train of the class LungCTDataset, now Subclass"),
    ],
)
def test_another_dataset_is_another_run(
    make, val: LungCTDataset, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    begin(tmp_path, make(), val)
    with pytest.raises(ModelError, match=rf"(?s)was trained with {says}"):
        trainer(tmp_path).fit(make(**change), val, resume=True)


def test_another_augmentation_is_said(make, val: LungCTDataset, tmp_path: Path) -> None:
    begin(tmp_path, make(), val)
    other = make(transform=lungunet.train_transform(flip=False))
    with pytest.warns(LungUNetWarning, match=r"before HorizontalFlip\(p=0\.5\), now less\. Resume"):
        trainer(tmp_path).fit(other, val, resume=True)


def test_what_older_versions_did_not_note_is_not_asked(
    make, val: LungCTDataset, tmp_path: Path
) -> None:
    begin(tmp_path, make(), val)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del state["made_with"]
    torch.save(state, tmp_path / "last.ckpt")
    assert len(trainer(tmp_path, loss=Half()).fit(make(seed=9), val, resume=True)) == 2


def test_what_others_draw_between_epochs_changes_nothing(
    make, val: LungCTDataset, tmp_path: Path
) -> None:
    alone, told, one, other = (trainer(tmp_path / name) for name in ("a", "b", "c", "d"))
    alone.fit(make(), val)
    told.fit(make(), val, on_epoch=lambda _: (torch.rand(3), random.random()))
    before = torch.get_rng_state()
    for _ in zip(one.epochs(make(), val), other.epochs(make(), val), strict=True):
        assert torch.equal(torch.get_rng_state(), before)
    want = alone.model.state_dict()
    for each in (told, one, other):
        assert all(torch.equal(want[name], t) for name, t in each.model.state_dict().items())
