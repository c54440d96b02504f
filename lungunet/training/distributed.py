"""Several processes that train one model: who is who, and what they tell each other.

``torchrun`` starts them. Knows tensors and plain values; with one process every method is free.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
import torch.distributed as dist

from lungunet.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which process among those that train together is this one.

    Parameters
    ----------
    rank : 0 is the one that writes and prints
    count : how many there are on all machines
    local : number of this process on its machine, which is the number of its GPU
    near : how many there are on its machine
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    near: int = 1

    @classmethod
    def from_environment(cls) -> Self:
        """Read what ``torchrun`` set; without it there is one process."""
        if not dist.is_available() or not dist.is_torchelastic_launched():
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def is_first(self) -> bool:
        """Whether this one writes the run folder."""
        return self.rank == 0

    def device(self, wanted: torch.device) -> torch.device:
        """Return the GPU of this process where several share the work, else what is wanted."""
        if self.count == 1 or wanted.type != "cuda":
            return wanted
        if wanted.index is not None:
            raise ConfigError(
                f"of {self.count} processes each takes a GPU of its own. "
                "Leave device out, or use cpu.",
                where=f"device '{wanted}'",
            )
        gpus = torch.cuda.device_count()
        if self.local >= gpus:
            raise ConfigError(
                f"{self.near} processes on this machine, and {gpus} GPU(s) to see: each needs one "
                f"of its own. Start {gpus} (--nproc-per-node {gpus}), or use device='cpu'."
            )
        return torch.device("cuda", self.local)

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Be connected with the others inside the block: NCCL between GPUs, else gloo."""
        if self.count == 1 or dist.is_initialized():  # a caller's own group stays theirs
            yield
            return
        if device.type == "cuda":
            dist.init_process_group("nccl", device_id=device)
        else:
            dist.init_process_group("gloo")
        try:
            yield
            dist.barrier()  # nobody hangs up while another still talks; not after an error
        finally:
            dist.destroy_process_group()

    def wait(self) -> None:
        """Go on when all are here."""
        if self.count > 1:
            dist.barrier()

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over all ranks."""
        if self.count > 1:
            # NCCL takes none of the CPU, where a rank that saw no batch still has its counts.
            tensor = tensor.cuda() if dist.get_backend() == "nccl" else tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def share_buffers(self, model: torch.nn.Module) -> None:
        """Give all ranks the statistics of the first one, which are those that are saved."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def any(self, *claims: bool) -> tuple[bool, ...]:
        """Return for each claim whether it holds on at least one rank."""
        if self.count == 1:
            return claims
        flags = self.total(torch.tensor(claims, dtype=torch.int32))
        return tuple(bool(flag) for flag in flags.tolist())

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return [each for each in values if each is not None]


def data_parallel(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Wrap a model so that its gradients are the mean over the ranks."""
    ids = [device.index] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(
        model, device_ids=ids, gradient_as_bucket_view=True
    )


def is_first_process() -> bool:
    """Return whether this process is the one that prints; under ``torchrun`` the others are not."""
    return Ranks.from_environment().is_first


def refuse_torchrun(work: str) -> None:
    """Refuse work that each of several processes would do whole."""
    if Ranks.from_environment().count > 1:
        raise ConfigError("runs in one process. Start it without torchrun.", where=work)
