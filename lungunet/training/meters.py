"""What one pass over one list measures: loss, pixels, clock, and whether each loss is a number.

Waits for the device only where it must. What to tell the user of a bad loss is the caller's.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lungunet.data.codec import IGNORE, LabelCodec
from lungunet.metrics.overlap import ConfusionMeter, Mean, overlap
from lungunet.training.distributed import Ranks
from lungunet.training.tracking import Measured

_LAG = 16  # steps; by then a GPU has long finished the copy


class PassMeter:
    """Starts its clock when it is made; waits for the device only when it is read."""

    def __init__(self, codec: LabelCodec) -> None:
        ignored = IGNORE if codec.ignores else None
        self.counts = ConfusionMeter(codec.n_classes, ignore_index=ignored)
        self.loss = Mean()
        self.start = time.perf_counter()

    def update(self, loss: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor) -> None:
        """Count one batch; waits for nothing."""
        self.loss.update(loss, len(mask))
        self.counts.update(truth=mask, pred=logits.detach().argmax(1))

    def measured(self, ranks: Ranks) -> Measured:
        """Read the meters of all ranks together: the one place per pass that waits."""
        self.counts.compute()  # raises where this rank met a class that there is not
        state = self.state(ranks)
        pooled = overlap(state["counts"])
        total, images = state["loss"].tolist()
        seconds = time.perf_counter() - self.start
        return Measured(
            loss=total / images if images else float("nan"),
            accuracy=pooled.accuracy,
            iou=pooled.iou,
            miou=pooled.miou,
            dice=pooled.dice,
            seconds=seconds,
            images_per_second=images / seconds,
            class_iou=pooled.class_iou,
        )

    def state(self, ranks: Ranks) -> dict[str, Any]:
        """Return what all ranks counted so far, as :meth:`restore` takes it back."""
        return {
            "counts": ranks.total(self.counts.counts),
            "loss": ranks.total(self.loss.sums),
            "seconds": time.perf_counter() - self.start,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a stored state, with the time that it took."""
        self.counts.merge(state["counts"])
        self.loss.merge(state["loss"])
        self.start -= state["seconds"]


class FiniteLosses:
    """Checks that the losses of one pass are numbers, some steps late so that nothing waits.

    ``explain`` takes step, learning rate and loss, and returns the error to raise.
    """

    def __init__(self, explain: Callable[[int, float, float], Exception]) -> None:
        self._explain = explain
        # Step, rate and loss: () on the CPU, or on its way there until the event has happened.
        self._unchecked: deque[tuple[int, float, torch.Tensor, torch.cuda.Event | None]] = deque()

    def add(self, step: int, lr: float, loss: torch.Tensor) -> None:
        """Take note of a loss; raise about one of some steps ago.

        On a CPU the loss is there already and is checked now.
        """
        loss = loss.detach()
        if loss.device.type != "cuda":
            self._unchecked.append((step, lr, loss, None))
            self.check()
            return
        host = torch.empty((), dtype=loss.dtype, pin_memory=True)
        host.copy_(loss, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # Of the loss's device, which need not be the current one.
        copied.record(torch.cuda.current_stream(loss.device))
        self._unchecked.append((step, lr, host, copied))
        self.check(but=_LAG)

    def check(self, *, but: int = 0) -> None:
        """Check every loss there is but the last few, and wait for those on their way."""
        while len(self._unchecked) > but:
            step, lr, loss, copied = self._unchecked.popleft()
            if copied is not None:
                copied.synchronize()
            if not math.isfinite(loss):
                raise self._explain(step, lr, float(loss))
