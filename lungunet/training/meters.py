"""Loss, pixel counts and clock of one pass over one list."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from lungunet.metrics.overlap import ConfusionMeter, Mean, overlap
from lungunet.training.distributed import Ranks
from lungunet.training.tracking import Measured


class PassMeter:
    """Starts its clock when it is made; waits for the device only when it is read."""

    def __init__(self, n_classes: int) -> None:
        self.counts = ConfusionMeter(n_classes)
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
