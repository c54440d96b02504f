"""Which device and precision are chosen."""

import os
from pathlib import Path

import pytest
import torch

from lungunet import ConfigError
from lungunet.models.cores import count_cores, limit_cores
from lungunet.models.device import fast_products, pick_device, pick_precision, pick_workers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lungunet.models.cores._QUOTA", tmp_path / "cpu.max")


def test_auto_is_cuda_where_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ConfigError, match="write auto, cpu, gpu, cuda, cuda:1, 1 or mps"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "meta", "xpu"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match="this machine has none"):
        pick_device(name)


@pytest.mark.parametrize(
    ("capabilities", "dtype"), [({"amx_bf16": True}, torch.bfloat16), ({}, torch.float32)]
)
def test_auto_on_a_cpu_asks_for_amx(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert pick_precision("auto", CPU) == dtype


def test_named_precisions() -> None:
    assert pick_precision("fp32", CPU) == torch.float32
    assert pick_precision("bf16", CPU) == torch.bfloat16
    with pytest.raises(ConfigError, match="needs CUDA"):
        pick_precision("fp16", CPU)
    with pytest.raises(ConfigError, match="write auto, fp32, bf16, fp16"):
        pick_precision("half", CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", [0, 1, 40])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_workers_that_were_asked_for(wanted: int, device: str) -> None:
    assert pick_workers(wanted, torch.device(device)) == wanted


@pytest.mark.parametrize(
    ("device", "cores", "workers"),
    [("cpu", 16, 0), ("mps", 16, 0), ("cuda", 1, 1), ("cuda", 5, 5), ("cuda", 96, 14)],
)
def test_workers_by_device_and_cores(
    monkeypatch: pytest.MonkeyPatch, device: str, cores: int, workers: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert pick_workers(-1, torch.device(device)) == workers


@pytest.mark.parametrize(("sharing", "workers"), [(1, 14), (2, 8), (3, 5), (20, 1)])
def test_processes_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, sharing: int, workers: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert pick_workers(-1, torch.device("cuda"), sharing=sharing) == workers


def test_cores_where_the_system_does_not_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert count_cores() == 6
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert count_cores() == 1


def test_others_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr("lungunet.models.cores._limit", 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("cv2.setNumThreads", lambda _: None)
    limit_cores(2)
    assert count_cores() == 2
    assert os.environ["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000\n", 6), ("150000 100000\n", 2), ("900000 100000\n", 6), ("", 6)],
)
def test_a_container_may_grant_fewer_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert count_cores() == 6
    (tmp_path / "cpu.max").write_text(quota)
    assert count_cores() == cores


def test_fast_products_are_for_the_block_alone() -> None:
    before = torch.get_float32_matmul_precision()
    with fast_products(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before
    with fast_products(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_fast_products_end_with_the_last_of_several_trainings() -> None:
    def now() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = now()
    first, second = (fast_products(torch.device(name)) for name in ("cuda:0", "cuda:1"))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert now() == ("high", True)
    second.__exit__(None, None, None)
    assert now() == before
