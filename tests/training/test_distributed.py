"""Two processes that train one model, over gloo on the CPU."""

import csv
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lungunet
from lungunet import LungCTDataset, TrainConfig, Trainer, build_unet
from lungunet.data.loader import EpochSampler, make_loader
from lungunet.errors import ConfigError
from lungunet.models.device import share_batch_norm
from lungunet.training.distributed import Ranks


def in_ranks(work: Callable[[Ranks], object], count: int = 2) -> None:
    """Run ``work`` in forked processes that find what torchrun would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def begin(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ["LOCAL_WORLD_SIZE"] = str(count)
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ["TORCHELASTIC_RUN_ID"] = "test"
        work(Ranks.from_environment())

    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=begin, args=(rank,)) for rank in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * count


@pytest.fixture(scope="module")
def train(phantoms: tuple[Path, Path]) -> LungCTDataset:
    pairs = lungunet.find_pairs(*phantoms)[:11]  # batches of 6: the last one is shared as 3 and 2
    return LungCTDataset(pairs, transform=lungunet.train_transform(), size=32)


@pytest.fixture(scope="module")
def val(phantoms: tuple[Path, Path], train: LungCTDataset) -> LungCTDataset:
    return LungCTDataset(lungunet.find_pairs(*phantoms)[1:6], contract=train.contract)


def no_batch_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1, bias=False)
    )


def config(**changes: Any) -> TrainConfig:
    fixed = {"batch_size": 6, "lr": 1e-3, "device": "cpu", "precision": "fp32"}
    return TrainConfig(**{"epochs": 5, **fixed, **changes})


def measures(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k in ("split", "accuracy", "iou")} for row in rows]


@pytest.mark.filterwarnings("ignore:val IoU has been 0")
def test_ten_steps_equal_one_process_with_the_same_global_batch(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset
) -> None:
    def work(ranks: Ranks) -> None:
        trainer = Trainer(no_batch_norm(), config(), out=tmp_path / "two")
        trainer.fit(train, val)
        torch.save(trainer.model.state_dict(), tmp_path / f"{ranks.rank}.pt")

    in_ranks(work)
    one = Trainer(no_batch_norm(), config(), out=tmp_path / "one")
    one.fit(train, val)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, weight in one.model.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight, atol=1e-5, rtol=0)
        assert not torch.equal(weight, no_batch_norm().state_dict()[name])  # it did learn
    # Every val sample once, none padded: with the weights equal to 1e-5, so are the counted pixels.
    for a, b in zip(measures(tmp_path / "one"), measures(tmp_path / "two"), strict=True):
        assert float(a["accuracy"]) == pytest.approx(float(b["accuracy"]), abs=1e-3)
    names = {path.name.split(".tfevents")[0] for path in (tmp_path / "two").iterdir()}
    assert names == {
        *("config.toml", "environment.json", "slices.csv", "history.csv"),
        *("events.out", "last.ckpt", "best"),
    }
    assert len(list((tmp_path / "two").glob("events*"))) == 1


def test_an_interrupted_run_of_two_goes_on_exactly_with_two_and_at_all_with_one(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset
) -> None:
    def trainer(name: str, epochs: int) -> Trainer:
        model = build_unet("unet2015", width=2, seed=0)  # dropout: each rank has its generator
        return Trainer(model, config(epochs=epochs), out=tmp_path / name)

    def whole(ranks: Ranks) -> None:
        trainer("whole", 3).fit(train, val)

    def cut(ranks: Ranks) -> None:
        for _ in trainer("cut", 3).epochs(train, val):
            break

    def rest(ranks: Ranks) -> None:
        torch.rand(3)
        trainer("cut", 3).fit(train, val, resume=True)

    for work in (whole, cut, rest):
        in_ranks(work)
    a, b = (torch.load(tmp_path / name / "last.ckpt") for name in ("whole", "cut"))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    assert len(trainer("whole", 4).fit(train, val, resume=True)) == 4


def test_all_ranks_stop_when_one_is_asked_to(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset
) -> None:
    longer = LungCTDataset(train.pairs * 5, contract=train.contract)  # 27 steps

    def work(ranks: Ranks) -> None:
        trainer = Trainer(
            no_batch_norm(),
            config(batch_size=2),
            out=tmp_path,
            should_stop=lambda: ranks.rank == 1,
        )
        assert trainer.fit(longer, val) == []

    in_ranks(work)
    assert torch.load(tmp_path / "last.ckpt")["position"]["step"] == 20  # they ask so often


@pytest.mark.parametrize("accumulate", [2, 5, 20])
def test_all_ranks_stop_at_the_end_of_an_epoch_at_the_latest(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset, accumulate: int
) -> None:
    def work(ranks: Ranks) -> None:
        trainer = Trainer(
            no_batch_norm(),
            config(batch_size=2, accumulate=accumulate),
            out=tmp_path,
            should_stop=lambda: True,
        )
        assert trainer.fit(train, val) == []

    in_ranks(work)
    assert torch.load(tmp_path / "last.ckpt")["position"]["step"] == 5


def test_accumulating_over_ranks_equals_one_batch(
    tmp_path: Path, phantoms: tuple[Path, Path], train: LungCTDataset, val: LungCTDataset
) -> None:
    """One step over 12 slices: as one batch, and as batches of 8 and 4 divided among two ranks."""
    whole = LungCTDataset(lungunet.find_pairs(*phantoms), contract=train.contract)

    def work(ranks: Ranks) -> None:
        settings = config(epochs=1, batch_size=8, accumulate=2)
        Trainer(no_batch_norm(), settings, out=tmp_path / "two").fit(whole, val)

    in_ranks(work)
    Trainer(no_batch_norm(), config(epochs=1, batch_size=12), out=tmp_path / "one").fit(whole, val)
    # The optimizer's first moment is the gradient; AdamW's first step hides its length.
    two, one = (torch.load(tmp_path / name / "last.ckpt")["optimizer"] for name in ("two", "one"))
    for index, state in one["state"].items():
        torch.testing.assert_close(two["state"][index]["exp_avg"], state["exp_avg"])


def test_saved_statistics_are_those_that_val_was_measured_with(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset
) -> None:
    def work(ranks: Ranks) -> None:
        model = build_unet("resnet18", seed=0)
        Trainer(model, config(epochs=1), out=tmp_path).fit(train, val)

    in_ranks(work)
    saved = lungunet.load_model(tmp_path)
    meter = lungunet.ConfusionMeter(2)
    with torch.no_grad():
        for image, mask in make_loader(val, batch_size=5):
            meter.update(truth=mask, pred=saved.model(image).argmax(1))
    assert meter.compute().accuracy == saved.scores["val_accuracy"]


@pytest.mark.parametrize("encoder", ["tu-mobilenetv3_small_100", "resnet18", "efficientnet-b0"])
def test_batch_norm_over_gpus_keeps_what_the_model_does(encoder: str) -> None:
    model = build_unet(encoder, seed=0).eval()
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        before = model(image)
        after = share_batch_norm(model)(image)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    torch.testing.assert_close(before, after)


class TestShares:
    @pytest.mark.parametrize("ranks", [1, 2, 3])
    def test_the_ranks_together_see_each_batch_once(self, ranks: int) -> None:
        samplers = [
            EpochSampler(17, seed=4, batch_size=6, rank=rank, ranks=ranks) for rank in range(ranks)
        ]
        whole = [int(index) for index in samplers[0].order(0)]
        seen: list[list[int]] = [[i for _, i in sampler] for sampler in samplers]
        assert sorted(index for part in seen for index in part) == list(range(17))
        assert [len(sampler) for sampler in samplers] == [len(part) for part in seen]
        share = 6 // ranks
        for rank, part in enumerate(seen):
            assert part[:share] == whole[rank * share : (rank + 1) * share]

    def test_a_rest_that_gives_a_rank_one_sample_is_left_out(self, train: LungCTDataset) -> None:
        # 11 pairs in batches of 4: a rest of 3 would be shared as 2 and 1
        counts = [
            [
                len(mask)
                for _, mask in make_loader(train, batch_size=4, shuffle=True, rank=rank, ranks=2)
            ]
            for rank in range(2)
        ]
        assert counts == [[2, 2], [2, 2]]

    def test_a_batch_that_cannot_be_shared(self, train: LungCTDataset) -> None:
        with pytest.raises(ConfigError, match=r"batch_size 5: .* must divide by 2. Choose 4"):
            make_loader(train, batch_size=5, rank=0, ranks=2)


def test_torchrun_runs_the_command_line(data: Path, tmp_path: Path) -> None:
    arguments = ["--epochs", "1", "--size", "32", "--batch-size", "4", "--out", tmp_path / "run"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            "--standalone",
            *("-m", "lungunet", "train", data, *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best val IoU") == 1
    assert lungunet.load_model(tmp_path / "run").scores["epoch"] == 1


class TestDevice:
    def test_each_process_has_the_gpu_of_its_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        second = Ranks(rank=3, count=4, local=1, near=2)
        assert second.device(torch.device("cuda")) == torch.device("cuda", 1)
        assert second.device(torch.device("cpu")) == torch.device("cpu")
        assert Ranks().device(torch.device("cuda", 1)) == torch.device("cuda", 1)

    def test_one_gpu_for_all_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"device 'cuda:1': of 2 processes each takes"):
            Ranks(rank=1, count=2, local=1, near=2).device(torch.device("cuda:1"))

    def test_fewer_gpus_than_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(ConfigError, match=r"2 processes on this machine, and 1 GPU"):
            Ranks(rank=1, count=2, local=1, near=2).device(torch.device("cuda"))


def test_processes_together_need_a_name_for_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_cli: Callable[..., Any], data: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    done = run_cli("train", data)
    assert done.code == 1
    assert "out: each process would take a number of its own" in done.err
    assert not list(tmp_path.iterdir())


def test_on_epoch_is_called_in_the_first_process_alone(
    tmp_path: Path, train: LungCTDataset, val: LungCTDataset
) -> None:
    def work(ranks: Ranks) -> None:
        trainer = Trainer(no_batch_norm(), config(epochs=1), out=tmp_path / "run")
        trainer.fit(train, val, on_epoch=lambda _: (tmp_path / str(ranks.rank)).touch())

    in_ranks(work)
    assert [name for name in ("0", "1") if (tmp_path / name).exists()] == ["0"]
