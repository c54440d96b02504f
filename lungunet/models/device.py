"""Which device and precision to compute on, how many processes read, and what many GPUs share.

Knows no model by name.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, get_args

import torch
from torch import nn

from lungunet.errors import ConfigError
from lungunet.models.cores import count_cores
from lungunet.process_wide import across_threads

_MOST_WORKERS = 14

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def pick_device(name: str | int = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into a device.

    ``auto`` is CUDA where there is one, else the CPU. A number is that CUDA device, and ``gpu`` the
    first GPU of either kind.
    """
    if str(name).isdecimal():
        name = f"cuda:{name}"
    if name == "gpu":
        name = "mps" if torch.backends.mps.is_available() else "cuda"
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = f"device '{name}'"
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise ConfigError("write auto, cpu, gpu, cuda, cuda:1, 1 or mps.", where=where) from err
    present = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise ConfigError("this machine has none. Leave it out, or use cpu.", where=where)
    return device


def pick_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype that forward passes compute in.

    ``auto`` is bf16 where the hardware multiplies it fast (CUDA from Ampere on, CPUs with AMX:
    twice the speed of fp32, the same IoU), fp16 on older CUDA, fp32 elsewhere.
    """
    where = f"precision '{precision}'"
    if precision not in get_args(Precision):
        raise ConfigError(f"write {', '.join(get_args(Precision))}.", where=where)
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if _has_bf16(device) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and _has_amx() else torch.float32
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError("needs CUDA. Use bf16 or fp32.", where=where)
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def fast_products(device: torch.device) -> AbstractContextManager[None]:
    """Compute float32 products in TF32 inside the block, of ten bits and several times as fast.

    CUDA alone has it; other programs in this process find their own setting again.
    """
    return _tf32() if device.type == "cuda" else nullcontext()


@across_threads
@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def pick_workers(wanted: int, device: torch.device, *, sharing: int = 1) -> int:
    """Return how many processes read ahead; -1 decides from device and cores.

    0 on a CPU: one that trains has no core to spare, and reading takes it a tenth of the time.
    With CUDA one for each core that this process may use, 14 at most; one feeds about 430 augmented
    slices of 512x512 a second from the cache. Train and val have as many each, of which one set
    works at a time.

    Parameters
    ----------
    sharing : processes that train on this machine, and share its cores
    """
    if wanted >= 0:
        return wanted
    if device.type != "cuda":
        return 0
    return max(1, min(_MOST_WORKERS, count_cores() // sharing))


def share_batch_norm(model: nn.Module) -> nn.Module:
    """Make batch norm use the batches of all processes together; the model is changed in place.

    timm's own conversion, because torch's drops the activation that timm's layers hold within.
    """
    from lungunet.models.outside import timm

    shared: nn.Module = timm.layers.convert_sync_batchnorm(model)  # type: ignore[attr-defined, no-untyped-call]
    return shared


def _has_amx() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch does not tell
        return False
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def _has_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):  # it asks the current one
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
