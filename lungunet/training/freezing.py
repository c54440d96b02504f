"""Holding the encoder still for the first epochs, while the new decoder learns to use it."""

from torch import nn

from lungunet.errors import ConfigError


class Encoder:
    """The encoder of a model, which can be frozen and thawed.

    Parameters
    ----------
    model : with an ``encoder``, as all of smp have
    epochs : stays frozen so long; 0 never freezes

    Raises
    ------
    ConfigError
        When it shall be frozen and there is none.
    """

    def __init__(self, model: nn.Module, epochs: int) -> None:
        self._module: nn.Module | None = None
        self._epochs = epochs
        if not epochs:
            return
        encoder = getattr(model, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise ConfigError(
                f"{type(model).__name__} has no encoder to freeze. Leave it at 0.",
                where=f"freeze_epochs={epochs}",
            )
        self._module = encoder
        # What the caller froze stays frozen.
        self._movable = [p for p in encoder.parameters() if p.requires_grad]

    def set_epoch(self, epoch: int) -> None:
        """Freeze or thaw for this epoch, statistics of batch norm included; after ``train()``."""
        if self._module is None:
            return
        frozen = epoch <= self._epochs
        for parameter in self._movable:
            parameter.requires_grad_(not frozen)
        self._module.train(not frozen)
