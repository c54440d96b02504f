"""Notices a loss that is no number without making the device wait: it is looked at steps later.

Knows scalars and step numbers; what to tell the user is the caller's.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

_LAG = 16  # steps; by then a GPU has long finished the copy


@dataclass(frozen=True)
class _Watched:
    step: int
    lr: float
    value: torch.Tensor  # () on the CPU; on its way there until `copied` has happened
    copied: torch.cuda.Event | None


class LossGuard:
    """Watches the losses of one pass.

    Parameters
    ----------
    explain : takes step, learning rate and loss; returns the error to raise
    """

    def __init__(self, explain: Callable[[int, float, float], Exception]) -> None:
        self._explain = explain
        self._watched: deque[_Watched] = deque()

    def watch(self, step: int, lr: float, loss: torch.Tensor) -> None:
        """Take note of a loss; raise about one of some steps ago.

        On a CPU the loss is there already and is looked at now.
        """
        loss = loss.detach()
        if loss.device.type != "cuda":
            self._watched.append(_Watched(step, lr, loss, None))
            self.check()
            return
        host = torch.empty((), dtype=loss.dtype, pin_memory=True)
        host.copy_(loss, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # Of the loss's device, which need not be the current one.
        copied.record(torch.cuda.current_stream(loss.device))
        self._watched.append(_Watched(step, lr, host, copied))
        while len(self._watched) > _LAG:
            self._look()

    def check(self) -> None:
        """Look at every loss there is, and wait for those on their way."""
        while self._watched:
            self._look()

    def _look(self) -> None:
        seen = self._watched.popleft()
        if seen.copied is not None:
            seen.copied.synchronize()
        value = float(seen.value)
        if not math.isfinite(value):
            raise self._explain(seen.step, seen.lr, value)
