"""Batch norm over several GPUs at once."""

import timm.layers
from torch import nn


def share_batch_norm(model: nn.Module) -> nn.Module:
    """Make batch norm use the batches of all processes together; the model is changed in place.

    timm's own conversion, because torch's drops the activation that timm's layers hold within.
    """
    shared: nn.Module = timm.layers.convert_sync_batchnorm(model)  # type: ignore[attr-defined, no-untyped-call]
    return shared
