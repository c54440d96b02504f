"""What must hold before the first step, so that a run fails at once or not at all."""

import torch
from torch import nn

from lungunet.data.dataset import LungCTDataset
from lungunet.errors import ConfigError


def check_same_contract(train: LungCTDataset, val: LungCTDataset) -> None:
    """Refuse a val set whose slices or labels are made into tensors otherwise than train's.

    Raises
    ------
    ConfigError
        Shows both.
    """
    for name, ours, theirs in (
        ("input contract", train.contract, val.contract),
        ("label codec", train.codec, val.codec),
    ):
        if ours != theirs:
            raise ConfigError(
                f"val has another {name} ({theirs}) than train ({ours}). "
                "Build it with contract=train.contract, codec=train.codec."
            )


def case_names(train: LungCTDataset, val: LungCTDataset) -> dict[str, list[str]]:
    """Return what the data are known by, wherever the files lie."""
    return {
        "train": [pair.name for pair in train.pairs],
        "val": [pair.name for pair in val.pairs],
    }


def try_out(model: nn.Module, train: LungCTDataset, *, batch_size: int, dtype: torch.dtype) -> None:
    """Run the smallest batch there will be through the model, and look at what comes out.

    Leaves weights, statistics and generators as they are.

    Raises
    ------
    ConfigError
        When the model does not take the batch, or gives another number of classes than the codec.
    """
    rest = len(train) % batch_size
    count = rest if rest > 1 or len(train) < batch_size else batch_size
    image = torch.stack([train[0, index][0] for index in range(count)])
    device = next(model.parameters()).device
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices), autocast:
            channels = model.train()(image.to(device)).shape[1]
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError, AssertionError) as err:
        raise ConfigError(
            f"the model does not take a batch of {count} of shape {tuple(image.shape[1:])}: "
            f"{str(err).splitlines()[0]} "
            "Change --size or --batch-size, add pairs, or take another encoder."
        ) from err
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
    if channels != train.codec.n_classes:
        raise ConfigError(
            f"the model gives {channels} classes, the label codec has {train.codec.n_classes}. "
            "Build it with classes=train.codec.n_classes."
        )
