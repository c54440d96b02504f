"""A model on its device with its loss and optimizer: batches in, gradients and logits out.

Knows tensors alone; epochs, files and run folders are the trainer's.
"""

from collections.abc import Callable

import torch
from torch import nn

from lungunet.data.codec import IGNORE
from lungunet.data.dataset import LungCTDataset
from lungunet.errors import ConfigError
from lungunet.models.device import pick_device, pick_precision, share_batch_norm
from lungunet.models.losses import make_loss
from lungunet.models.original import crop_centre
from lungunet.training.class_weights import choose_class_weights
from lungunet.training.config import TrainConfig
from lungunet.training.cuda_graph import Recorded, can_be_recorded
from lungunet.training.distributed import Ranks, data_parallel
from lungunet.training.optimizer import Stepper

Batch = tuple[torch.Tensor, torch.Tensor]
"""Image (N, 1, H, W) float32 and mask (N, H, W) int64."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes logits (N, C, H, W) and mask (N, H, W) int64; returns the mean over slices, a scalar.

The mask holds :data:`IGNORE` where the label codec ignores pixels."""


class Learner:
    """What :class:`Trainer` trains with; takes model and loss as that does."""

    def __init__(self, model: nn.Module, config: TrainConfig, loss: Loss | None) -> None:
        self.ranks = Ranks.from_environment()
        self._config, self.is_own_loss = config, loss is not None
        self.loss: Loss = loss or make_loss(config.loss, config.loss_arguments)
        self.device = self.ranks.device(pick_device(config.device))
        if self.ranks.count > 1 and self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            model = share_batch_norm(model)
        self.dtype = pick_precision(config.precision, self.device)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(self.loss, nn.Module):
            self.loss.to(self.device)
        self.stepper = Stepper(self.model, config, self.device, self.dtype)
        self._freeze_epochs = config.freeze_epochs
        self._encoder = _encoder_to_freeze(self.model, config.freeze_epochs)
        # What the caller froze stays frozen.
        self._movable = [p for p in self._encoder.parameters() if p.requires_grad]
        # Compiled or not, self.model holds the weights.
        self.net: nn.Module = torch.compile(self.model) if config.compile else self.model  # type: ignore[assignment]
        self._recorded: Recorded | None = None

    def fit_loss(self, train: LungCTDataset) -> None:
        """Make the loss know what the masks of ``train`` hold; a loss of the user's own stays."""
        if self.is_own_loss:
            return
        loss = make_loss(
            self._config.loss,
            self._config.loss_arguments,
            class_weights=choose_class_weights(self._config.class_weights, train),
            ignore_index=IGNORE if train.codec.ignores else None,
        )
        self.loss = loss.to(self.device)

    def training_net(self, epoch: int) -> nn.Module:
        """Return what to call in a training pass; its gradients are those of all ranks."""
        self.net.train()
        frozen = epoch <= self._freeze_epochs
        for parameter in self._movable:
            parameter.requires_grad_(not frozen)
        self._encoder.train(not frozen)  # statistics of batch norm stay too
        # Anew each epoch: what is frozen may have changed.
        return data_parallel(self.net, self.device) if self.ranks.count > 1 else self._record()

    def _record(self) -> nn.Module:
        """Return the network as CUDA graphs, where it can be; else as it is."""
        config = self._config
        # ROCm calls itself cuda too; its graphs were not tried.
        nvidia = self.device.type == "cuda" and torch.version.hip is None
        graphs = nvidia and config.cuda_graphs and not config.compile
        if not graphs or not can_be_recorded(self.model):
            return self.net
        if self._recorded is None or self._recorded.is_stale:
            self.forget_recorded()  # before the next takes memory too
            self._recorded = Recorded(self.net, adds_up=config.accumulate > 1)
        return self._recorded

    def forget_recorded(self) -> None:
        """Give back the memory that CUDA graphs hold between steps."""
        self._recorded = None

    def forward(
        self, net: nn.Module, image: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits of a :data:`Batch`, and the mask they are compared with, on the device."""
        logits = self.logits(net, image)
        mask = mask.to(self.device, non_blocking=True)
        return logits, crop_centre(mask, *logits.shape[-2:])

    def logits(self, net: nn.Module, image: torch.Tensor) -> torch.Tensor:
        """Return (N, C, h, w) logits of (N, 1, H, W) float32 images."""
        image = image.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return net(image)  # type: ignore[no-any-return]


def _encoder_to_freeze(model: nn.Module, epochs: int) -> nn.Module:
    """Return what is held still for the first epochs; an empty module for none of them."""
    if not epochs:
        return nn.Module()
    encoder = getattr(model, "encoder", None)  # as all of smp have
    if not isinstance(encoder, nn.Module):
        raise ConfigError(
            f"{type(model).__name__} has no encoder to freeze. Leave it at 0.",
            where=f"freeze_epochs={epochs}",
        )
    return encoder
