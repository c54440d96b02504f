"""The learning rate range test: which rates make the loss fall, and which make it explode.

Owns the rates tried and what follows from the losses; the trainer takes the steps.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungunet.data.files import write_csv
from lungunet.errors import ConfigError
from lungunet.training.checkpoint import rng_state, set_rng_state
from lungunet.training.learner import Batch, Learner

_SMOOTHING = 0.9  # of the losses, which jump from batch to batch
_EXPLODED = 4  # times the best loss: nothing is learned from here on


@dataclass(frozen=True)
class LRRange:
    """What a range test found.

    Parameters
    ----------
    lrs : tried, rising by a constant factor
    losses : smoothed over steps; where they exploded the test ended
    suggestion : the rate at which the loss fell fastest, a good ``lr`` for the training
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float

    def save(self, path: str | Path) -> None:
        """Write both columns as CSV, full precision."""
        pairs = zip(self.lrs, self.losses, strict=True)
        write_csv(path, [{"lr": lr, "loss": loss} for lr, loss in pairs], ("lr", "loss"))


class RangeTest:
    """Gives the rate of each step, from the lowest to the highest, and takes its loss.

    References
    ----------
    Smith 2017, Cyclical learning rates, DOI 10.1109/WACV.2017.58, section 3.3.

    Examples
    --------
    >>> test = RangeTest(lowest=0.001, highest=1.0, steps=10)
    >>> [round(test.lr(step), 3) for step in (0, 3, 9)]
    [0.001, 0.01, 1.0]
    """

    def __init__(self, *, lowest: float, highest: float, steps: int) -> None:
        if not 0 < lowest < highest < math.inf or steps < 10:
            raise ConfigError(
                f"range test from {lowest:g} to {highest:g} in {steps} steps: the rates must rise "
                "from above 0, in 10 steps or more. 1e-6 to 1 in 100 is usual."
            )
        self._lowest, self._factor = lowest, (highest / lowest) ** (1 / (steps - 1))
        self.steps = steps
        self._mean = 0.0
        self._losses: list[float] = []

    def lr(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        return float(self._lowest * self._factor**step)

    def add(self, loss: float) -> bool:
        """Take the loss of the next step; return whether it exploded, so that the test ends."""
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        # The mean begins at 0: divided by the weight that real losses have in it so far.
        smooth = self._mean / (1 - _SMOOTHING ** (len(self._losses) + 1))
        if not math.isfinite(smooth) or smooth > _EXPLODED * min([*self._losses, smooth]):
            return True
        self._losses.append(smooth)
        return False

    def result(self) -> LRRange:
        """Return what was found."""
        losses = np.array(self._losses)
        lrs = tuple(self.lr(step) for step in range(len(losses)))
        best = int(losses.argmin()) if len(losses) else 0
        if best < 2:
            raise ConfigError(
                f"range test from {self._lowest:g}: the loss rose from the first steps on. "
                "Begin lower, or look at masks and labels."
            )
        slope = np.gradient(losses[: best + 1], np.log(lrs[: best + 1]))
        return LRRange(lrs, tuple(losses.tolist()), lrs[int(slope.argmin())])


def run_range_test(test: RangeTest, learner: Learner, batches: Iterable[Batch]) -> LRRange:
    """Take a step per batch, then put weights, optimizer and generators back."""
    model, stepper = learner.model, learner.stepper
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(stepper.state_dict())
    rng, training = rng_state(learner.device), model.training
    try:
        net = learner.net.train()
        for step, (image, mask) in enumerate(batches):
            stepper.lr = test.lr(step)
            logits, mask = learner.forward(net, image, mask)
            loss = learner.loss(logits, mask)
            stepper.backward(loss)
            stepper.step()
            if test.add(float(loss.detach())):
                break
    finally:
        model.load_state_dict(weights)
        model.train(training)
        stepper.load_state_dict(state)
        set_rng_state(rng, learner.device)
    return test.result()
