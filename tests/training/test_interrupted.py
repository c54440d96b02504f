"""Runs that are stopped, killed or starved at any instant, and gone on with."""

import csv
import itertools
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lungunet
from lungunet import LungCTDataset, TrainConfig, Trainer, build_unet
from lungunet.errors import ConfigError, DataError, LungUNetWarning, SplitError
from lungunet.training.distributed import Ranks
from lungunet.training.meters import PassMeter

EPOCHS, STEPS = 3, 3


@pytest.fixture(autouse=True)
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files are named by the second; here a second lasts a fiftieth of one."""
    clock, start = time.time, time.time()
    monkeypatch.setattr(time, "time", lambda: start + 50 * (clock() - start))


def trainer(out: Path, **options: Any) -> Trainer:
    # A checkpoint after every step.
    settings = TrainConfig(
        epochs=EPOCHS,
        batch_size=2,
        lr=0.02,
        device="cpu",
        precision="fp32",
        save_every_minutes=1e-9,
    )
    model = build_unet("unet2015", width=2, seed=0)  # has dropout, so generators matter
    biases = [p for p in model.parameters() if p.shape == (2,)]
    torch.nn.init.constant_(biases[-1][1], 1.0)  # begins with lung everywhere: IoU above 0
    return Trainer(model, settings, out=out, **options)


@pytest.fixture(scope="module")
def whole(
    train: LungCTDataset, val: LungCTDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The uninterrupted run that all others must equal."""
    out = tmp_path_factory.mktemp("whole")
    history = trainer(out).fit(train, val)
    assert [result.is_best for result in history] == [True, True, False]
    return out


def rows(run: Path) -> list[dict[str, str]]:
    """history.csv without its two columns of time."""
    with (run / "history.csv").open() as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in csv.DictReader(file)
        ]


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def equal(a: Any, b: Any) -> bool:
    """Compare checkpoints, times left out."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        timing = {"seconds", "images_per_second"}
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a.keys() - timing)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def assert_same_run(run: Path, other: Path) -> None:
    assert rows(run) == rows(other)
    assert curves(run) == curves(other)
    for name in ("best/model.safetensors", "best/config.json", "config.toml"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    checkpoints = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (run, other)]
    assert equal(*checkpoints)
    assert not list(run.rglob("*.tmp"))


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process; return its exit code, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam", "schedule": "constant"},
        {"optimizer": "sgd", "schedule": "poly", "loss": "lovasz", "class_weights": "1,3"},
        {"loss": "boundary", "class_weights": "auto", "loss_arguments": {"reach": 5.0}},
    ],
)
def test_every_optimizer_and_schedule_goes_on_as_if_nothing_had_been(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset, changes: dict[str, Any]
) -> None:
    def again(out: Path, **options: Any) -> Trainer:
        settings = {"epochs": 2, "batch_size": 2, "device": "cpu", "precision": "fp32", **changes}
        model = build_unet("unet2015", width=2, seed=0)
        return Trainer(model, TrainConfig.from_dict(settings), out=out, **options)

    again(tmp_path / "whole").fit(train, val)
    asked = itertools.count()
    again(tmp_path / "run", should_stop=lambda: next(asked) >= 2).fit(train, val)
    again(tmp_path / "run").fit(train, val, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_run_that_knew_fewer_settings_goes_on(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset, whole: Path
) -> None:
    asked = itertools.count()
    trainer(tmp_path, should_stop=lambda: next(asked) >= 7).fit(train, val)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["history"]
    for row in state["history"]:
        del row["class_names"]
    for name in ("loss", "loss_arguments", "class_weights", "optimizer", "momentum", "schedule"):
        del state["settings"][name]
    torch.save(state, tmp_path / "last.ckpt")
    trainer(tmp_path).fit(train, val, resume=True)
    assert_same_run(tmp_path, whole)


def test_another_loss_is_another_run(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset
) -> None:
    asked = itertools.count()
    trainer(tmp_path, should_stop=lambda: next(asked) >= 2).fit(train, val)
    other = TrainConfig(epochs=EPOCHS, batch_size=2, lr=0.02, loss="focal", precision="fp32")
    with pytest.raises(lungunet.ModelError, match=r"was trained with loss ce-dice, now focal"):
        Trainer(build_unet("unet2015", width=2), other, out=tmp_path).fit(train, val, resume=True)


class TestAskedToStop:
    def test_stopped_again_and_again_it_is_the_same_run(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset, whole: Path
    ) -> None:
        for resume in (False, *[True] * 9):
            asked = itertools.count()
            some = trainer(tmp_path, should_stop=lambda asked=asked: next(asked) >= 2)
            torch.rand(3)  # whatever ran before must not matter
            if len(some.fit(train, val, resume=resume)) == EPOCHS:
                break
        assert resume
        assert_same_run(tmp_path, whole)

    def test_a_stop_in_val_keeps_the_epoch_that_was_trained(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset, whole: Path
    ) -> None:
        asked = itertools.count()
        stopped = trainer(tmp_path, should_stop=lambda: next(asked) == STEPS)
        assert stopped.fit(train, val) == []
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert saved["position"]["step"] == STEPS
        steps: list[int] = []
        resumed = trainer(tmp_path)
        resumed.optimizer.register_step_pre_hook(lambda *_: steps.append(1))
        resumed.fit(train, val, resume=True)
        assert len(steps) == (EPOCHS - 1) * STEPS
        assert_same_run(tmp_path, whole)

    def test_with_workers_too(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset, whole: Path
    ) -> None:
        from dataclasses import replace

        asked = itertools.count()
        first = trainer(tmp_path, should_stop=lambda: next(asked) == 5)
        first.fit(train, val)
        second = trainer(tmp_path)
        second.config = replace(second.config, workers=2)
        second.fit(train, val, resume=True)
        (tmp_path / "config.toml").write_bytes((whole / "config.toml").read_bytes())
        assert_same_run(tmp_path, whole)


def test_time_before_an_interruption_counts(train: LungCTDataset) -> None:
    meter = PassMeter(lungunet.LUNG_CODEC)
    meter.restore({"counts": torch.eye(2).long(), "loss": torch.ones(2), "seconds": 100.0})
    assert meter.measured(Ranks()).seconds > 100


class Killer:
    """Kills the process at the n-th of the calls by which files come to be."""

    def __init__(self, at: int) -> None:
        self.left = at

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._tick()
            result = call(*args, **kwargs)
            self._tick()
            return result

        return wrapped

    def _tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        from torch.utils.tensorboard import SummaryWriter

        patch.setattr(os, "fsync", self.counted(os.fsync))
        patch.setattr(Path, "replace", self.counted(Path.replace))
        patch.setattr(Path, "unlink", self.counted(Path.unlink))
        patch.setattr(torch, "save", self.counted(torch.save))
        patch.setattr(SummaryWriter, "flush", self.counted(SummaryWriter.flush))


class TestKilled:
    # Every write of the first epoch and the start of the second, then more seldom.
    @pytest.mark.parametrize("at", [*range(1, 70, 3), *range(70, 200, 12)])
    def test_at_any_write_the_run_goes_on_to_the_same_end(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset, whole: Path, at: int
    ) -> None:
        def run() -> None:
            with pytest.MonkeyPatch.context() as patch:
                Killer(at).watch(patch)
                trainer(tmp_path).fit(train, val)

        code = in_child(run)
        if code == 0:
            pytest.fail("was not killed: fewer writes than thought")
        assert code == -signal.SIGKILL
        resume = (tmp_path / "last.ckpt").exists()
        if (tmp_path / "best" / "lungunet.json").exists():  # a best model there is can be used
            lungunet.load_model(tmp_path)
        trainer(tmp_path).fit(train, val, resume=resume, overwrite=not resume)
        assert_same_run(tmp_path, whole)

    def test_while_going_on_again(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset, whole: Path
    ) -> None:
        for at in (60, 7, 23, 31, 55):
            resume = (tmp_path / "last.ckpt").exists()

            def run(at: int = at, resume: bool = resume) -> None:
                with pytest.MonkeyPatch.context() as patch:
                    Killer(at).watch(patch)
                    trainer(tmp_path).fit(train, val, resume=resume)

            assert in_child(run) == -signal.SIGKILL
        trainer(tmp_path).fit(train, val, resume=True)
        assert_same_run(tmp_path, whole)


class TestFullDisk:
    def test_says_so_and_keeps_the_last_good_checkpoint(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset, whole: Path
    ) -> None:
        asked = itertools.count()
        trainer(tmp_path, should_stop=lambda: next(asked) == 5).fit(train, val)
        before = (tmp_path / "last.ckpt").read_bytes()

        def run() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limit = len(before) // 2  # no file may grow beyond it, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with pytest.raises(DataError, match=r"last.ckpt: cannot be written"):
                trainer(tmp_path).fit(train, val, resume=True)

        assert in_child(run) == 0
        assert (tmp_path / "last.ckpt").read_bytes() == before
        trainer(tmp_path).fit(train, val, resume=True)
        assert_same_run(tmp_path, whole)


class TestOutOfMemory:
    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            MemoryError(),
        ],
    )
    def test_says_what_to_lower(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset, error: Exception
    ) -> None:
        def loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            raise error

        with pytest.raises(ConfigError, match=r"out of memory with batch_size 2 at 32x32 .*Lower"):
            trainer(tmp_path, loss=loss).fit(train, val)

    def test_other_errors_stay_what_they_are(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        def loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("a bug")

        with pytest.raises(RuntimeError, match="a bug"):
            trainer(tmp_path, loss=loss).fit(train, val)


class TestTrainingThatGoesWrong:
    def test_a_checkpoint_of_steps_that_went_wrong_is_not_written(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        """Weights that a step made NaN have had a loss that was a number."""
        broken = trainer(tmp_path)

        def spoil(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if next(steps) == 4:
                next(iter(broken.model.parameters())).data.fill_(float("inf"))

        steps = itertools.count()
        broken.optimizer.register_step_post_hook(spoil)
        with pytest.raises(ConfigError, match=r"the weights are no longer numbers. Lower lr; last"):
            broken.fit(train, val)
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert saved["position"]["step"] == 1
        assert all(tensor.isfinite().all() for tensor in saved["model"].values())

    @pytest.mark.parametrize("name", ["train", "val"])
    def test_a_list_without_lung_is_refused(
        self, tmp_path: Path, split: lungunet.Split, name: str
    ) -> None:
        path = tmp_path / "empty.png"
        lungunet.write_mask(path, np.zeros((48, 48), np.uint8))
        empty = [lungunet.Pair(pair.image, path) for pair in split.val]
        lists = {"train": split.train, "val": split.val, name: empty}
        train, val = (LungCTDataset(lists[n], size=32) for n in ("train", "val"))
        with pytest.raises(SplitError, match=rf"{name}: no lung in any of its \d masks"):
            trainer(tmp_path / "run").fit(train, val)
        assert not (tmp_path / "run").exists()

    def test_background_for_many_epochs_is_said(
        self, tmp_path: Path, train: LungCTDataset, val: LungCTDataset
    ) -> None:
        model = build_unet("unet2015", width=2, seed=0)
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        settings = TrainConfig(epochs=6, batch_size=6, device="cpu")
        constant = Trainer(
            model,
            settings,
            out=tmp_path,
            loss=lambda logits, mask: torch.ones((), requires_grad=True),
        )
        with pytest.warns(LungUNetWarning, match="val IoU has been 0 for 5 epochs") as seen:
            constant.fit(train, val)
        assert len(seen) == 1
