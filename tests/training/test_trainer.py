"""The loop and the run folder it leaves behind."""

import csv
import json
import math
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

import lungunet
from lungunet import (
    ConfigError,
    LungCTDataset,
    LungUNetWarning,
    ModelError,
    RunConfig,
    TrainConfig,
    Trainer,
    Window,
    build_unet,
)
from lungunet.training.checks import try_out
from lungunet.training.learner import Learner
from lungunet.training.lr_finder import RangeTest
from lungunet.training.optimizer import Stepper
from lungunet.training.run_folder import RunFolder
from lungunet.training.tracking import HISTORY_COLUMNS

SIZE = 32


def tiny(seed: int = 0) -> nn.Module:
    return build_unet("unet2015", width=4, seed=seed)


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"epochs": 2, "batch_size": 2, "workers": 0, **_FP32, **changes})


_FP32 = {"device": "cpu", "precision": "fp32"}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestRunFolder:
    def test_holds_what_the_design_lists_and_one_event_file(self, run: Path) -> None:
        names = {path.name.split(".tfevents")[0] for path in run.iterdir()}
        assert names == {
            *("config.toml", "environment.json", "slices.csv", "history.csv"),
            *("events.out", "last.ckpt", "best"),
        }
        assert len(list(run.rglob("*tfevents*"))) == 1
        best = {path.name for path in (run / "best").iterdir()}
        assert best == {"config.json", "model.safetensors", "lungunet.json", "README.md"}

    def test_history_has_two_rows_per_epoch_and_the_columns(self, run: Path) -> None:
        with (run / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert tuple(rows[0]) == HISTORY_COLUMNS
        assert [(row["epoch"], row["split"]) for row in rows] == [
            *(("1", "train"), ("1", "val"), ("2", "train"), ("2", "val")),
        ]
        assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)

    def test_config_repeats_the_run(self, run: Path, data: Path) -> None:
        stored = RunConfig.from_toml(run / "config.toml")
        assert stored == RunConfig(data=str(data), epochs=2, size=32, batch_size=2, workers=0)

    def test_environment_has_versions_and_manifest_hashes(self, run: Path) -> None:
        environment = json.loads((run / "environment.json").read_text())
        assert environment["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
        assert set(environment["manifests"]) == {"train", "val"}  # test is never opened
        assert environment["threads"] == torch.get_num_threads()

    def test_smp_reads_the_model_folder_and_gives_identical_logits(self, run: Path) -> None:
        ours = lungunet.load_model(run).model
        theirs = smp.from_pretrained(run / "best", encoder_weights=None).eval()
        image = torch.randn(2, 1, 64, 96)
        with torch.no_grad():
            assert torch.equal(ours(image), theirs(image))

    def test_a_used_folder_is_refused_then_overwritten_when_asked(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
        before = (tmp_path / "last.ckpt").read_bytes()
        with pytest.raises(ConfigError, match="holds a run already"):
            Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
        assert (tmp_path / "last.ckpt").read_bytes() == before
        Trainer(tiny(1), config(epochs=1), out=tmp_path).fit(train, val, overwrite=True)
        assert (tmp_path / "last.ckpt").read_bytes() != before
        assert len(list(tmp_path.glob("events*"))) == 1


class TestTensorBoard:
    def test_its_own_reader_finds_the_curves(self, run: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        tags = set(events.Tags()["scalars"])
        wanted = {f"{m}/{s}" for m in ("loss", "accuracy", "iou") for s in ("train", "val")}
        assert wanted | {"lr"} <= tags
        with (run / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            found = {e.step: e.value for e in events.Scalars(f"loss/{row['split']}")}
            assert math.isclose(found[int(row["epoch"])], float(row["loss"]), rel_tol=1e-6)
        assert any("val/patient" in tag for tag in events.Tags()["images"])
        assert "custom_scalars__config__" in events.Tags()["tensors"]

    @pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")  # of bleach
    def test_the_real_server_serves_them(self, run: Path) -> None:
        from tensorboard import program

        board = program.TensorBoard()
        board.configure(
            argv=[
                None,
                "--logdir",
                str(run),
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--load_fast",
                "false",
            ]
        )
        url = board.launch()
        address = f"{url}data/plugin/scalars/scalars?tag=iou/val&run=."
        for _ in range(100):  # the server loads its data in the background
            try:
                with urllib.request.urlopen(address) as answer:
                    points = json.load(answer)
                break
            except urllib.error.HTTPError as err:
                said = str(err)
                time.sleep(0.1)
        else:
            pytest.fail(f"TensorBoard has not loaded the run in 10 s: {said}")
        assert [point[1] for point in points] == [1, 2]


class TestLoop:
    def test_leaves_generators_and_threads_as_they_were(self, tmp_path: Path, train, val) -> None:
        Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)  # with one thread
        try:
            torch.set_num_threads(2)
            torch.manual_seed(123)
            random.seed(123)
            before = torch.get_rng_state(), random.getstate()
            Trainer(tiny(), config(), out=tmp_path).fit(train, val, resume=True)
            assert torch.get_num_threads() == 2
            assert torch.load(tmp_path / "last.ckpt")["threads"] == 1
            for _ in Trainer(tiny(), config(), out=tmp_path / "b").epochs(train, val):
                assert torch.equal(torch.get_rng_state(), before[0])
                break
            assert torch.equal(torch.get_rng_state(), before[0])
            assert random.getstate() == before[1]
        finally:
            torch.set_num_threads(1)

    def test_numbers_of_numpy_are_resumed(self, tmp_path: Path, split: lungunet.Split) -> None:
        window = Window(np.float32(-600), np.float32(1500))
        train = LungCTDataset(split.train, size=np.int64(SIZE), window=window)
        val = LungCTDataset(split.val, contract=train.contract)
        for epochs in (1, 2):
            settings = config(epochs=np.int64(epochs), lr=np.logspace(-4, -2, 3)[1])
            trainer = Trainer(tiny(), settings, out=tmp_path)
            trainer.fit(train, val, resume=epochs == 2)
        assert len(trainer.history) == 2
        about = json.loads((tmp_path / "best" / "lungunet.json").read_text())
        assert about["contract"] == train.contract.to_dict()
        assert about["contract"]["window"] == {"level": -600, "width": 1500}

    def test_other_kinds_are_told_at_once(self, tmp_path: Path, train, val) -> None:
        with pytest.raises(ConfigError, match=r"^config: \{'epochs': 1\} is of the wrong kind"):
            Trainer(tiny(), {"epochs": 1}, out=tmp_path)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"^model: 'unet' is of the wrong kind"):
            Trainer("unet", out=tmp_path)  # type: ignore[arg-type]
        parts = torch.utils.data.random_split(train, [len(train) - 2, 2])
        with pytest.raises(ConfigError, match=r"^train: .* part the pairs for some of them"):
            Trainer(tiny(), config(), out=tmp_path).fit(*parts)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"^val: .* Give a LungCTDataset"):
            Trainer(tiny(), config(), out=tmp_path).fit(train, parts[1])  # type: ignore[arg-type]

    @pytest.mark.filterwarnings("ignore:val IoU has been 0")  # few slices: lung comes late
    def test_the_loss_falls_and_best_is_the_best_epoch(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        trainer = Trainer(tiny(), config(epochs=12, lr=5e-3), out=tmp_path)
        history = trainer.fit(train, val)
        assert history[-1].train.loss < 0.7 * history[0].train.loss
        ious = [-1 if math.isnan(r.val.iou) else r.val.iou for r in history]
        about = json.loads((tmp_path / "best" / "lungunet.json").read_text())
        assert about["scores"]["epoch"] == ious.index(max(ious)) + 1
        assert [r.is_best for r in history] == [
            iou > max([-2, *ious[:i]]) for i, iou in enumerate(ious)
        ]

    def test_same_seed_same_weights_another_seed_others(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        found = []
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            trainer = Trainer(tiny(), config(seed=seed), out=tmp_path / name)
            torch.rand(7), random.random()  # whatever ran before must not matter
            trainer.fit(train, val)
            found.append(weights(trainer.model))
        assert same(found[0], found[1])
        assert not same(found[0], found[2])

    def test_workers_do_not_change_the_weights(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        found = []
        for workers in (0, 2):
            trainer = Trainer(tiny(), config(workers=workers), out=tmp_path / str(workers))
            trainer.fit(train, val)
            found.append(weights(trainer.model))
        assert same(*found)

    def test_resumed_run_equals_the_uninterrupted_one(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        whole = Trainer(tiny(), config(epochs=4), out=tmp_path / "whole")
        whole.fit(train, val)
        for _ in Trainer(tiny(), config(epochs=4), out=tmp_path / "cut").epochs(train, val):
            break
        torch.rand(3)
        resumed = Trainer(tiny(5), config(epochs=4), out=tmp_path / "cut")
        assert len(resumed.fit(train, val, resume=True)) == 4
        assert same(weights(whole.model), weights(resumed.model))
        for name in ("whole", "cut"):
            assert len((tmp_path / name / "history.csv").read_text().splitlines()) == 9
        a, b = (
            (tmp_path / name / "best" / "model.safetensors").read_bytes()
            for name in ("whole", "cut")
        )
        assert a == b
        environment = json.loads((tmp_path / "cut" / "environment.json").read_text())
        assert [each["command"] for each in environment["resumed"]] == [sys.argv]

    def test_a_finished_run_has_nothing_left(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        Trainer(tiny(), config(), out=tmp_path).fit(train, val)
        files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("events*")}
        assert list(Trainer(tiny(), config(), out=tmp_path).epochs(train, val, resume=True)) == []
        assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("events*")} == files

    def test_resuming_another_model_or_contract_is_refused(
        self, tmp_path: Path, split: lungunet.Split, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
        wider = build_unet("unet2015", width=6)
        with pytest.raises(ModelError, match="belongs to another model"):
            Trainer(wider, config(), out=tmp_path).fit(train, val, resume=True)
        other = LungCTDataset(split.train, size=48)
        with pytest.raises(ModelError, match="was trained with contract"):
            Trainer(tiny(), config(), out=tmp_path).fit(
                other, LungCTDataset(split.val, contract=other.contract), resume=True
            )
        with pytest.raises(ModelError, match="nothing to resume"):
            Trainer(tiny(), config(), out=tmp_path / "none").fit(train, val, resume=True)

    def test_val_with_another_contract_or_codec_is_refused(
        self, tmp_path: Path, split: lungunet.Split, train: LungCTDataset
    ) -> None:
        other = LungCTDataset(split.val, size=SIZE, window=Window(40, 400))
        with pytest.raises(ConfigError, match="val has another input contract"):
            Trainer(tiny(), config(), out=tmp_path).fit(train, other)
        codec = lungunet.LabelCodec({0: 0, 255: 1}, names=("air", "lung"))
        with pytest.raises(ConfigError, match="val has another label codec"):
            Trainer(tiny(), config(), out=tmp_path).fit(
                train, LungCTDataset(split.val, contract=train.contract, codec=codec)
            )
        assert not list(tmp_path.iterdir())

    def test_patience_stops_early(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        model = tiny()
        for parameter in model.parameters():
            nn.init.zeros_(parameter)  # equal logits: background for good, IoU stays 0
        trainer = Trainer(model, config(epochs=9, patience=2), out=tmp_path, loss=constant_loss)
        assert len(trainer.fit(train, val)) == 3

    def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        calls = iter(range(100))

        def explodes(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return logits.mean() * (math.nan if next(calls) > 6 else 1.0)

        trainer = Trainer(tiny(), config(epochs=3), out=tmp_path, loss=explodes)
        with pytest.raises(
            ConfigError,
            match=r"loss is nan in epoch 2, step 3 of 3, at a .* batch of pat",
        ):
            trainer.fit(train, val)
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert len(saved["history"]) == 1
        assert all(torch.isfinite(tensor).all() for tensor in saved["model"].values())

    @pytest.mark.parametrize("batch", [3, 4])  # of 6 slices: 3 and 3, 4 and 2
    def test_accumulating_batches_equals_one_large_batch(
        self, tmp_path: Path, split: lungunet.Split, batch: int
    ) -> None:
        train = LungCTDataset(split.train, size=SIZE)
        found = []
        for name, size, accumulate in (("one", 6, 1), ("two", batch, 2)):
            model = build_unet("unet2015", width=4, seed=0)
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            settings = config(epochs=1, batch_size=size, accumulate=accumulate)
            trainer = Trainer(model, settings, out=tmp_path / name)
            trainer.fit(train, train)
            # AdamW's first step hides the length of a gradient; its first moment shows it.
            found.append([s["exp_avg"] for s in trainer.optimizer.state.values()])
        for one, two in zip(*found, strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-3)

    def test_clipping_bounds_the_gradient(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        norms = []
        model = tiny()
        trainer = Trainer(model, config(epochs=1, clip_norm=1e-3), out=tmp_path)
        trainer.optimizer.register_step_pre_hook(
            lambda *_: norms.append(
                math.hypot(
                    *(float(p.grad.norm()) for p in model.parameters() if p.grad is not None)
                )
            )
        )
        trainer.fit(train, val)
        assert norms
        assert max(norms) <= 1.001e-3

    def test_lr_follows_the_schedule(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        seen: list[float] = []
        trainer = Trainer(tiny(), config(epochs=2, lr=0.01), out=tmp_path)
        trainer.optimizer.register_step_pre_hook(
            lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])
        )
        history = trainer.fit(train, val)
        n = math.ceil(len(train) / 2)
        wanted = [trainer.config.learning_rate(step, steps_per_epoch=n) for step in range(2 * n)]
        assert seen == wanted
        assert [result.lr for result in history] == [wanted[n - 1], wanted[-1]]

    def test_val_metrics_equal_a_plain_loop(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        trainer = Trainer(tiny(), config(epochs=1), out=tmp_path)
        result = trainer.fit(train, val)[0]
        model = trainer.model.eval()
        tp = fp = fn = right = total = 0
        with torch.no_grad():
            for image, mask in (val[i] for i in range(len(val))):
                pred = model(image[None])[0].argmax(0)
                tp += int(((pred == 1) & (mask == 1)).sum())
                fp += int(((pred == 1) & (mask == 0)).sum())
                fn += int(((pred == 0) & (mask == 1)).sum())
                right += int((pred == mask).sum())
                total += mask.numel()
        assert result.val.accuracy == right / total
        assert result.val.iou == tp / (tp + fp + fn)

    def test_progress_sees_every_batch(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        seen: list[tuple[str, int, int]] = []

        def progress(iterable: Iterable[Any], *, desc: str, total: int) -> Iterator[Any]:
            count = 0
            for item in iterable:
                count += 1
                yield item
            seen.append((desc, total, count))

        Trainer(tiny(), config(epochs=2), out=tmp_path, progress=progress).fit(train, val)
        batches = {name: math.ceil(len(of) / 2) for name, of in (("train", train), ("val", val))}
        assert seen == [
            (f"epoch {epoch}/2 {name}{to_go}", count, count)
            for epoch, to_go in ((1, ""), (2, ", 1 min to go"))
            for name, count in batches.items()
        ]

    def test_valid_convolutions_train_on_the_centre_of_the_mask(
        self, tmp_path: Path, split: lungunet.Split
    ) -> None:
        train = LungCTDataset(split.train, size=188)
        model = build_unet("unet2015", width=2, valid=True, seed=0)
        shapes = []

        def loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            shapes.append((tuple(logits.shape[-2:]), tuple(mask.shape[-2:])))
            return lungunet.CrossEntropyDiceLoss()(logits, mask)

        Trainer(model, config(epochs=1), out=tmp_path, loss=loss).fit(
            train, LungCTDataset(split.val, contract=train.contract)
        )
        assert set(shapes) == {((4, 4), (4, 4))}
        predictor = lungunet.Predictor.load(tmp_path)
        image = lungunet.read_image(split.val[0].image)
        assert predictor.predict(image).shape == image.shape

    def test_a_model_of_the_users_own_trains_and_loads(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        model = nn.Conv2d(1, 2, 3, padding=1)
        Trainer(model, config(epochs=1), out=tmp_path).fit(train, val)
        with pytest.raises(ModelError, match="a model of your own"):
            lungunet.load_model(tmp_path)
        again = lungunet.load_model(tmp_path, model=nn.Conv2d(1, 2, 3, padding=1))
        assert again.contract == train.contract

    def test_bf16_trains(self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset) -> None:
        history = Trainer(tiny(), config(precision="bf16"), out=tmp_path).fit(train, val)
        assert math.isfinite(history[-1].val.loss)

    def test_unknown_device_and_precision(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="device 'tpu': write auto"):
            Trainer(tiny(), config(device="tpu"), out=tmp_path)
        with pytest.raises(ConfigError, match="precision 'fp16': needs CUDA"):
            Trainer(tiny(), config(precision="fp16"), out=tmp_path)


def batches_of(train: LungCTDataset) -> list[tuple[torch.Tensor, torch.Tensor]]:
    seen = []

    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append([image.clone()])
            return self.net(image)

    def loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen[-1].append(mask.clone())
        return logits.mean()

    with tempfile.TemporaryDirectory() as folder:
        Trainer(Recorder(), config(epochs=1), out=folder, loss=loss).fit(train, train)
    return [tuple(batch) for batch in seen if len(batch) == 2]


class TestWhatTheModelIsFed:
    def test_is_what_the_loader_gives(self, train: LungCTDataset) -> None:
        expected = lungunet.make_loader(train, batch_size=2, shuffle=True)
        expected.sampler.set_epoch(1)
        fed_in_training = batches_of(train)[: len(expected)]  # val comes after
        for fed, wanted in zip(fed_in_training, expected, strict=True):
            assert [tensor.dtype for tensor in fed] == [torch.float32, torch.int64]
            assert torch.equal(fed[0], wanted[0])
            assert torch.equal(fed[1], wanted[1])

    def test_is_what_a_subclass_makes(self, split: lungunet.Split) -> None:
        class Sevens(LungCTDataset):
            def __getitem__(self, key: Any) -> tuple[torch.Tensor, torch.Tensor]:
                image, mask = super().__getitem__(key)
                return torch.full_like(image, 7), mask

        with pytest.warns(LungUNetWarning, match="val: Sevens makes slices in its own way"):
            fed = batches_of(Sevens(split.train, size=SIZE))
        assert fed
        assert all((image == 7).all() for image, _ in fed)


def constant_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.ones((), requires_grad=True)


def test_scores_of_an_earlier_best_model_do_not_stay(own_run: Path, split: lungunet.Split) -> None:
    scores = own_run / "evaluation" / "test" / "scores.json"
    scores.parent.mkdir(parents=True, exist_ok=True)
    scores.write_text("{}")
    settings = RunConfig.from_toml(own_run / "config.toml", epochs=12)
    with pytest.warns(LungUNetWarning, match="gone with it. Evaluate again"):
        epochs = list(lungunet.train_run(settings, own_run, resume=True))
    assert scores.exists() != any(epoch.is_best for epoch in epochs)
    assert any(epoch.is_best for epoch in epochs)


class TestBeforeTheFirstStep:
    """What cannot work fails before a run folder is made or replaced."""

    @pytest.mark.parametrize(
        ("model", "changes", "message"),
        [
            (lambda: build_unet("resnet18"), {"batch_size": 1}, "does not take a batch of 1"),
            (lambda: build_unet("unet2015", width=2, in_channels=3), {}, "takes 3 channels"),
            (lambda: build_unet("unet2015", width=2, n_classes=3), {}, "the model gives 3 classes"),
        ],
    )
    def test_models_and_batches_that_do_not_fit(
        self, tmp_path: Path, run: Path, train, val, model, changes, message: str
    ) -> None:
        own = Path(shutil.copytree(run, tmp_path / "run"))
        before = sorted(path.name for path in own.rglob("*"))
        with pytest.raises(ConfigError, match=message):
            Trainer(model(), config(**changes), out=own).fit(train, val, overwrite=True)
        assert sorted(path.name for path in own.rglob("*")) == before

    def test_trying_out_changes_nothing(self, train: LungCTDataset) -> None:
        model = build_unet("resnet18", seed=0)
        before, state = weights(model), torch.get_rng_state()
        settings = config(batch_size=4)
        try_out(Learner(model, settings, None), train, settings)
        assert same(before, weights(model))
        assert torch.equal(state, torch.get_rng_state())

    def test_a_trainer_trains_once(self, tmp_path: Path, train, val) -> None:
        trainer = Trainer(tiny(), config(epochs=1), out=tmp_path)
        trainer.fit(train, val)
        with pytest.raises(ConfigError, match="this Trainer has trained already"):
            trainer.fit(train, val, overwrite=True)
        assert (tmp_path / "last.ckpt").exists()

    def test_other_settings_are_not_resumed(self, tmp_path: Path, train, val) -> None:
        Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
        before = (tmp_path / "config.toml").read_bytes()
        with pytest.raises(ModelError, match=r"trained with batch_size 2, now 3; lr 0.002, now 1"):
            Trainer(tiny(), config(epochs=2, batch_size=3, lr=1.0), out=tmp_path).fit(
                train, val, resume=True
            )
        assert (tmp_path / "config.toml").read_bytes() == before
        more = config(epochs=2, workers=1, patience=9, save_every_minutes=1)
        assert len(Trainer(tiny(), more, out=tmp_path).fit(train, val, resume=True)) == 2

    def test_a_best_model_alone_is_a_run_too(self, tmp_path: Path, train, val) -> None:
        Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
        for name in ("last.ckpt", "history.csv"):
            (tmp_path / name).unlink()
        with pytest.raises(ConfigError, match="holds a run already"):
            Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
        assert lungunet.load_model(tmp_path)

    def test_a_folder_in_which_another_process_trains_is_refused(
        self, tmp_path: Path, train, val
    ) -> None:
        others = multiprocessing.get_context("fork")
        holds, done = others.Event(), others.Event()

        def hold() -> None:
            with RunFolder(tmp_path).claimed():
                holds.set()
                done.wait(60)

        other = others.Process(target=hold)
        other.start()
        assert holds.wait(60)
        with pytest.raises(ConfigError, match="another process trains in it"):
            Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
        done.set()
        other.join()
        Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
        assert not (tmp_path / ".lock").exists()

    def test_a_val_loss_that_is_no_number_stops(self, tmp_path: Path, train, val) -> None:
        def breaks_in_val(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return logits.mean() * (1.0 if logits.requires_grad else math.inf)

        trainer = Trainer(tiny(), config(epochs=1), out=tmp_path, loss=breaks_in_val)
        with pytest.raises(ConfigError, match=r"the loss is -?inf on val after epoch 1. Lower lr"):
            trainer.fit(train, val)
        assert not (tmp_path / "last.ckpt").exists()

    def test_an_encoder_that_is_no_module_does_not_matter(self, tmp_path: Path) -> None:
        class WithMethod(nn.Conv2d):
            def encoder(self) -> None: ...

        Trainer(WithMethod(1, 2, 3), config(), out=tmp_path)

    def test_other_lists_are_not_resumed(self, tmp_path: Path, split, train, val) -> None:
        Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
        fewer = LungCTDataset(split.train[1:], contract=train.contract)
        with pytest.raises(ModelError, match="was trained on other lists"):
            Trainer(tiny(), config(), out=tmp_path).fit(fewer, val, resume=True)


def test_a_run_is_gone_on_with_from_another_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    settings = RunConfig(data=Path(data.name), epochs=1, size=32, batch_size=2)
    list(lungunet.train_run(settings, tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    again = RunConfig.from_toml("run/config.toml", epochs=2)
    assert len(list(lungunet.train_run(again, "run", resume=True))) == 1


def test_compiled_and_tied_models_are_saved_as_they_are(tmp_path: Path) -> None:
    contract = lungunet.InputContract(32)
    compiled = torch.compile(tiny(), backend="eager")
    lungunet.save_model(tmp_path / "a", compiled, contract=contract, codec=lungunet.LUNG_CODEC)
    assert same(weights(lungunet.load_model(tmp_path / "a").model), weights(tiny()))
    tied = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))
    tied[1].weight = tied[0].weight
    lungunet.save_model(tmp_path / "b", tied, contract=contract, codec=lungunet.LUNG_CODEC)


def test_three_classes_have_a_column_each(phantoms, tmp_path: Path) -> None:
    pairs = lungunet.find_pairs(*phantoms)
    three = []
    for pair in pairs:
        mask = lungunet.read_mask(pair.mask)
        mask[:, : mask.shape[1] // 2] //= 255  # left 1, right 255
        path = tmp_path / "masks" / f"{pair.name}.png"
        lungunet.write_mask(path, mask)
        three.append(lungunet.Pair(pair.image, path))
    codec = lungunet.LabelCodec.parse("0,1,255")
    train = LungCTDataset(three, size=32, codec=codec)
    model = build_unet("unet2015", width=4, n_classes=3)
    Trainer(model, config(epochs=1), out=tmp_path / "run").fit(train, train)
    with (tmp_path / "run" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"iou_background", "iou_class 1", "iou_class 2"} <= set(rows[1])
    predictor = lungunet.Predictor.load(tmp_path / "run")
    card = lungunet.evaluate(predictor, three, codec=codec)
    card.save(tmp_path / "scores")
    with (tmp_path / "scores" / "cases.csv").open() as file:
        assert {"iou_background", "iou_class 1", "iou_class 2"} <= set(next(csv.DictReader(file)))
    assert "values 0, 1, 255" in (tmp_path / "run" / "best" / "README.md").read_text()


class TestRangeTest:
    def test_suggests_where_the_loss_falls_fastest(self) -> None:
        test = RangeTest(lowest=1e-5, highest=1.0, steps=51)
        # a sigmoid in log lr with its middle at 1e-2, then an explosion
        for step in range(51):
            lr = test.lr(step)
            loss = 1 / (1 + lr / 1e-2) if lr < 0.3 else 50.0
            if test.add(loss):
                break
        found = test.result()
        assert 0.005 < found.suggestion < 0.05  # smoothing lags behind by a few steps
        assert len(found.lrs) == len(found.losses) == step

    def test_refuses_what_shows_nothing(self) -> None:
        with pytest.raises(ConfigError, match="the rates must rise from above 0"):
            RangeTest(lowest=1.0, highest=0.1, steps=100)
        rises = RangeTest(lowest=1e-5, highest=1.0, steps=10)
        for step in range(10):
            rises.add(1.0 + step)
        with pytest.raises(ConfigError, match="the loss rose from the first steps on"):
            rises.result()

    def test_leaves_the_trainer_as_it_was(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        tested, plain = (
            Trainer(tiny(), config(epochs=1), out=tmp_path / name) for name in ("tested", "plain")
        )
        before = torch.get_rng_state()
        tested.model.eval()
        found = tested.find_lr(train, steps=12, lowest=1e-4, highest=0.01)
        assert not tested.model.training
        assert torch.equal(before, torch.get_rng_state())
        assert not (tmp_path / "tested").exists()
        assert found.lrs[0] < found.suggestion <= found.lrs[-1]
        for trainer in (tested, plain):
            trainer.fit(train, val)
        assert same(weights(tested.model), weights(plain.model))


class TestFreezing:
    def test_the_encoder_stays_as_it_is_for_so_many_epochs(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        model = build_unet("resnet18", seed=0)
        first, *_ = model.encoder.parameters()
        first.requires_grad_(False)  # by the caller: for good
        states = [weights(model.encoder)]
        trainer = Trainer(model, config(epochs=2, freeze_epochs=1), out=tmp_path)
        for _ in trainer.epochs(train, val):
            states.append(weights(model.encoder))
        assert same(states[0], states[1])
        assert not same(states[1], states[2])
        assert torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])
        assert lungunet.load_model(tmp_path)

    def test_needs_an_encoder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="freeze_epochs=1: UNet2015 has no encoder"):
            Trainer(tiny(), config(freeze_epochs=1), out=tmp_path)


def test_compiling_changes_the_speed_alone(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    compile_model = torch.compile

    def eager(model: Any) -> Any:
        compiled.append(model)
        return compile_model(model, backend="eager")  # no compiler is needed on the machine

    monkeypatch.setattr(torch, "compile", eager)
    for name, settings in (("a", config(epochs=1)), ("b", config(epochs=1, compile=True))):
        Trainer(tiny(), settings, out=tmp_path / name).fit(train, val)
    assert sum(isinstance(each, nn.Module) for each in compiled) == 1
    a, b = ((tmp_path / name / "best" / "model.safetensors").read_bytes() for name in "ab")
    assert a == b


def test_without_a_compiler_the_run_before_is_kept(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
    before = (tmp_path / "last.ckpt").read_bytes()
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    compiling = Trainer(tiny(), config(epochs=1, compile=True), out=tmp_path)
    with pytest.raises(ConfigError, match=r"compile: does not work .*pass compile=False"):
        compiling.fit(train, val, overwrite=True)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_checkpoint_without_a_scale_serves_fp16(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset
) -> None:
    """As of a run that began on a device whose precision is another."""
    Trainer(tiny(), config(epochs=1), out=tmp_path).fit(train, val)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["scaler"] == {}
    fp16 = Stepper(tiny(), config(), torch.device("cpu"), torch.float16)
    fp16.load_state_dict(state)
    assert fp16.scaler.get_scale() > 1
