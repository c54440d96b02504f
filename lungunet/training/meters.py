"""Loss, pixel counts and clock of one pass over one list."""

import time

import torch

from lungunet.metrics.overlap import ConfusionMeter, Mean
from lungunet.training.tracking import Measured


class PassMeter:
    """Starts its clock when it is made; waits for the device only when it is read."""

    def __init__(self, n_classes: int) -> None:
        self.counts = ConfusionMeter(n_classes)
        self.loss = Mean()
        self.images = 0
        self.start = time.perf_counter()

    def update(self, loss: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor) -> None:
        """Count one batch; waits for nothing."""
        self.loss.update(loss, len(mask))
        self.counts.update(logits.detach().argmax(1), mask)
        self.images += len(mask)

    def measured(self) -> Measured:
        """Read the meters: the one place per pass that waits for the device."""
        overlap, loss = self.counts.compute(), self.loss.compute()
        seconds = time.perf_counter() - self.start
        return Measured(
            loss=loss,
            accuracy=overlap.accuracy,
            iou=overlap.iou,
            miou=overlap.miou,
            dice=overlap.dice,
            seconds=seconds,
            images_per_second=self.images / seconds,
            class_iou=overlap.class_iou,
        )
