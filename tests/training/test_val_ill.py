"""Val with painted disease: scored beside val, and with a say in which epoch is best."""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lungunet
from lungunet import IllLungCTDataset, LungCTDataset, RunConfig, TrainConfig, Trainer, build_unet
from lungunet.errors import ConfigError
from lungunet.training.run import train_run
from lungunet.training.tracking import EpochResult, Measured

SIZE = 48


@pytest.fixture(scope="module")
def ill(split: lungunet.Split, train: LungCTDataset) -> LungCTDataset:
    return IllLungCTDataset(split.val, contract=train.contract)


def trainer(out: Path, epochs: int = 2, **options: Any) -> Trainer:
    settings = TrainConfig(
        epochs=epochs, batch_size=2, device="cpu", precision="fp32", save_every_minutes=0
    )
    return Trainer(build_unet("unet2015", width=2, seed=0), settings, out=out, **options)


def rows(run: Path) -> list[dict[str, str]]:
    """history.csv without its two columns of time."""
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in csv.DictReader(file)
        ]


def tags(run: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return set(EventAccumulator(str(run)).Reload().Tags()["scalars"])


class TestTheSlices:
    def test_are_painted_in_the_lung_alone_the_same_at_every_look(
        self, val: LungCTDataset, ill: LungCTDataset, split: lungunet.Split
    ) -> None:
        again = IllLungCTDataset(split.val, contract=val.contract)
        changed = 0
        for index in range(len(val)):
            (grey, classes), (painted, same) = val.read(index), ill.read(index)
            assert np.array_equal(classes, same)
            assert np.array_equal(painted[classes == 0], grey[classes == 0])
            assert np.array_equal(painted, ill.augment((7, index))[0])
            assert np.array_equal(painted, again.read(index)[0])
            changed += not np.array_equal(painted, grey)
        assert changed >= len(val) / 2

    def test_are_what_the_model_is_fed(self, ill: LungCTDataset) -> None:
        image, _ = ill[(3, 1)]
        assert torch.equal(image, torch.from_numpy(ill.contract.normalise(ill.read(1)[0])))

    def test_are_painted_before_a_transform(
        self, split: lungunet.Split, ill: LungCTDataset
    ) -> None:
        moved = IllLungCTDataset(
            split.val, contract=ill.contract, transform=lambda **sample: sample
        )
        for index in range(len(ill)):
            assert np.array_equal(moved.augment(index)[0], ill.read(index)[0])

    def test_a_cache_keeps_healthy_ones(
        self, split: lungunet.Split, val: LungCTDataset, ill: LungCTDataset, tmp_path: Path
    ) -> None:
        cached = IllLungCTDataset(split.val, contract=val.contract, cache=tmp_path)
        first, second = cached.read(0), cached.read(0)
        healthy = LungCTDataset(split.val, contract=val.contract, cache=tmp_path).read(0)
        for got, expected in ((first, ill), (second, ill), (healthy, val)):
            assert np.array_equal(got[0], expected.read(0)[0])


@pytest.fixture(scope="module")
def runs(
    train: LungCTDataset,
    val: LungCTDataset,
    ill: LungCTDataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, list[EpochResult]]:
    out = tmp_path_factory.mktemp("runs")
    trainer(out / "plain").fit(train, val)
    history = trainer(out / "ill").fit(train, val, val_ill=ill)
    return out / "plain", out / "ill", history


class TestARun:
    def test_is_scored_on_both(self, runs: tuple[Path, Path, list[EpochResult]]) -> None:
        plain, with_ill, history = runs
        assert [row["split"] for row in rows(with_ill)] == ["train", "val", "val_ill"] * 2
        assert tags(with_ill) - tags(plain) == {
            f"{score}/val_ill" for score in ("loss", "accuracy", "iou", "miou", "dice")
        }
        for result in history:
            assert result.val_ill is not None
            assert result.val_ill.loss != result.val.loss
            assert result.score == (result.val.iou + result.val_ill.iou) / 2
            assert EpochResult.from_dict(result.to_dict()) == result
        scores = json.loads((with_ill / "best/lungunet.json").read_text())["scores"]
        best = history[scores["epoch"] - 1]
        assert best.val_ill is not None
        assert scores["val_ill_iou"] == best.val_ill.iou
        page = lungunet.write_report(with_ill).read_text()
        assert "val_ill (dotted)" in page
        assert page.count('class="val_ill"') == 4  # the legend, loss, accuracy, IoU
        assert "val_ill (dotted)" not in lungunet.write_report(plain).read_text()

    def test_learns_the_same(self, runs: tuple[Path, Path, list[EpochResult]]) -> None:
        plain, with_ill, _ = runs
        weights = [torch.load(run / "last.ckpt", weights_only=True)["model"] for run in runs[:2]]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert rows(plain) == [row for row in rows(with_ill) if row["split"] != "val_ill"]
        kept = torch.load(plain / "last.ckpt", weights_only=True)
        assert "val_ill" not in kept["history"][0]
        assert "val_ill" not in kept["data"]

    @pytest.mark.parametrize("looks", [1, 2, 3, 5, 7])
    def test_stopped_anywhere_it_goes_on_to_the_same(
        self,
        runs: tuple[Path, Path, list[EpochResult]],
        looks: int,
        train: LungCTDataset,
        val: LungCTDataset,
        ill: LungCTDataset,
        tmp_path: Path,
    ) -> None:
        asked = iter(range(1000))
        stopped = trainer(tmp_path, should_stop=lambda: next(asked) >= looks)
        assert len(stopped.fit(train, val, val_ill=ill)) < 2
        trainer(tmp_path).fit(train, val, val_ill=ill, resume=True)
        assert rows(tmp_path) == rows(runs[1])
        one, other = (folder / "best/model.safetensors" for folder in (tmp_path, runs[1]))
        assert one.read_bytes() == other.read_bytes()

    def test_one_that_began_without_goes_on_without(
        self, train: LungCTDataset, val: LungCTDataset, ill: LungCTDataset, tmp_path: Path
    ) -> None:
        trainer(tmp_path, epochs=1).fit(train, val)
        history = trainer(tmp_path, epochs=2).fit(train, val, resume=True, val_ill=ill)
        assert [result.val_ill for result in history] == [None, None]
        assert [row["split"] for row in rows(tmp_path)] == ["train", "val"] * 2

    def test_one_that_began_with_it_wants_it(
        self, train: LungCTDataset, val: LungCTDataset, ill: LungCTDataset, tmp_path: Path
    ) -> None:
        trainer(tmp_path, epochs=1).fit(train, val, val_ill=ill)
        with pytest.raises(lungunet.ModelError, match="other lists"):
            trainer(tmp_path, epochs=2).fit(train, val, resume=True)

    def test_another_contract_is_refused(
        self, split: lungunet.Split, train: LungCTDataset, val: LungCTDataset, tmp_path: Path
    ) -> None:
        other = IllLungCTDataset(split.val, size=64)
        with pytest.raises(ConfigError, match="val_ill has another input contract"):
            trainer(tmp_path).fit(train, val, val_ill=other)


def test_the_best_epoch_is_best_for_both(
    train: LungCTDataset,
    val: LungCTDataset,
    ill: LungCTDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = {"val": [0.9, 0.95, 0.8], "val_ill": [0.5, 0.3, 0.7]}  # means 0.7, 0.625, 0.75
    one = Measured(0.1, 0.9, 0.9, 0.9, 0.9, seconds=1.0, images_per_second=1.0)

    def measure(self: Trainer, position: Any, batches: Any, name: str) -> Measured:
        return replace(one, iou=said[name][position.epoch - 1])

    monkeypatch.setattr(Trainer, "_val_epoch", measure)
    history = trainer(tmp_path / "both", epochs=3).fit(train, val, val_ill=ill)
    assert [result.is_best for result in history] == [True, False, True]
    assert [round(result.score, 3) for result in history] == [0.7, 0.625, 0.75]
    history = trainer(tmp_path / "val", epochs=3).fit(train, val)
    assert [result.is_best for result in history] == [True, True, False]


def test_an_ill_loss_that_is_no_number_stops(
    train: LungCTDataset,
    val: LungCTDataset,
    ill: LungCTDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Measured(0.1, 0.9, 0.9, 0.9, 0.9, seconds=1.0, images_per_second=1.0)

    def measure(self: Trainer, position: Any, batches: Any, name: str) -> Measured:
        return replace(one, loss=math.nan) if name == "val_ill" else one

    monkeypatch.setattr(Trainer, "_val_epoch", measure)
    with pytest.raises(ConfigError, match="the loss is nan on val_ill after epoch 1"):
        trainer(tmp_path).fit(train, val, val_ill=ill)


@pytest.mark.parametrize("disease", [0.0, 0.5])
def test_a_share_of_disease_asks_for_it(data: Path, tmp_path: Path, disease: float) -> None:
    config = RunConfig(data=str(data), size=32, epochs=1, disease=disease, device="cpu", workers=0)
    results: Iterator[EpochResult] = train_run(config, tmp_path / "run")
    assert [result.val_ill is not None for result in results] == [disease > 0]
