"""Optimizer, learning rate, gradient scale and clipping: how a loss moves the weights."""

import math
from typing import Any

import torch
from torch import nn

from lungunet.training.config import TrainConfig


class Stepper:
    """Takes losses, moves weights of a model on ``device``.

    Where the forward pass is of float16 losses are scaled, so that gradients do not vanish.
    """

    def __init__(
        self, model: nn.Module, config: TrainConfig, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._model = model
        self._config = config
        self.optimizer = _make_optimizer(model, config)
        # Disabled, it passes everything through: one loop for all precisions.
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    @property
    def lr(self) -> float:
        """The learning rate of the step being taken."""
        return float(self.optimizer.param_groups[0]["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    @property
    def overflows(self) -> bool:
        """Whether fp16 fails in nearly every step; waits for the device."""
        return bool(self.scaler.is_enabled() and self.scaler.get_scale() < 1)

    def follow_schedule(self, epoch: int, step: int, steps: int) -> None:
        """Set the learning rate of a forward pass of an epoch of ``steps``."""
        per_epoch = math.ceil(steps / self._config.accumulate)
        done = (epoch - 1) * per_epoch + step // self._config.accumulate
        self.lr = self._config.learning_rate(done, steps_per_epoch=per_epoch)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Move the weights by the gradients collected, and forget those."""
        if self._config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values; :meth:`load_state_dict` takes them back."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored state; one of another precision than fp16 holds no scale."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def _make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    parameters, lr, decay = model.parameters(), config.lr, config.weight_decay
    # fused: one kernel for all parameters, and no device sync in fp16's scaler.
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=lr,
            weight_decay=decay,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            fused=True,
        )
    adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return adam(parameters, lr=lr, weight_decay=decay, fused=True)
