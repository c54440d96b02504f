"""Files of weights into a model: read without unpickling, refused where they do not fit.

Knows names and tensors; nothing of encoders, tags or the network.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lungunet.errors import ModelError, listed
from lungunet.process_wide import ignored_warnings

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")
"""Endings of the files that :func:`load_weights` reads."""

# What gives the logits in smp: in all of its models, and in DPT.
_HEADS = ("segmentation_head.0", "segmentation_head.head.4")


def load_weights(model: nn.Module, path: Path, *, encoder_only: bool = False) -> None:
    """Fill ``model`` from a file, or from the file in a model folder or run folder.

    It holds the state dict of the whole model, or of its ``encoder`` alone.

    Parameters
    ----------
    encoder_only : take the encoder out of a whole model, and leave the rest as it is
    """
    file = _weights_file(path)
    state = _read_state(file)
    spoilt = [name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if spoilt:
        raise ModelError(
            f"NaN or infinite numbers in {listed(spoilt, separator=', ')}. The training "
            "went wrong: take an earlier model, or train again with a lower lr.",
            where=file,
        )
    if encoder_only:
        state = {n[8:]: tensor for n, tensor in state.items() if n.startswith("encoder.")}
    target, what = model, "model"
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, nn.Module) and not state.keys() & model.state_dict().keys():
        target, what = encoder, "encoder"
        state = _fit_first_layer(state, encoder.state_dict())
    else:
        wanted = model.state_dict()
        state = _fit_last_layer(_fit_first_layer(state, wanted), wanted)
    try:
        target.load_state_dict(dict(state))  # a copy: smp's loaders take keys out of what they get
    except RuntimeError as err:
        raise ModelError(
            f"does not fit the {what}:\n  "
            f"{listed(_misfits(state, target.state_dict()))}\n"
            "Build the model that the weights came from, or give other weights.",
            where=file,
        ) from err


def _weights_file(path: Path) -> Path:
    names = ("model.safetensors", "best/model.safetensors")  # a model folder, a run folder
    file = next((path / name for name in names if (path / name).is_file()), path)
    if file.is_dir():
        raise ModelError(
            f"holds neither {names[0]} nor {names[1]}. Give a model folder, a run folder "
            "or a file of weights.",
            where=path,
        )
    if not file.is_file():
        raise ModelError("there is no such file of weights. Check the path.", where=path)
    if file.suffix not in WEIGHT_SUFFIXES:
        raise ModelError(
            f"cannot read '{file.suffix}' as weights. Give one of {', '.join(WEIGHT_SUFFIXES)}.",
            where=path,
        )
    return file


def read_torch(file: Path) -> Any:
    """Read a file of ``torch.save`` to the CPU; nothing is run, and torch raises what it likes."""
    # torch warns of other pickle protocols before it refuses what is in them.
    with ignored_warnings():
        return torch.load(file, map_location="cpu", weights_only=True)


def _read_state(file: Path) -> dict[str, Tensor]:
    try:
        state = load_file(file) if file.suffix == ".safetensors" else read_torch(file)
    except Exception as err:  # torch's reader raises whatever the bytes provoke, KeyError too
        if file.suffix == ".safetensors":
            raise ModelError("damaged, or no safetensors file. Copy it again.", where=file) from err
        raise ModelError(
            "damaged, or holds more than tensors, which is not loaded because it could "
            "run code. Save it again with torch.save(model.state_dict(), ...).",
            where=file,
        ) from err
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ModelError(
            "holds no state dict (names and tensors). Save model.state_dict() alone.", where=file
        )
    return state


def _fit_first_layer(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn weights over RGB into weights over the model's channels, as smp and timm do.

    One channel gets the sum over RGB; several get R, G, B, R, ... in turn, times 3 / n, which keeps
    the size of the response.
    """
    fitted = dict(state)
    for name, weight in state.items():
        shape = wanted[name].shape if name in wanted else weight.shape
        if weight.ndim != 4 or weight.shape[1] != 3 or shape[1] == 3:
            continue
        n = shape[1]
        turns = weight[:, torch.arange(n) % 3] * (3 / n)
        fitted[name] = weight.sum(dim=1, keepdim=True) if n == 1 else turns
    return fitted


def _fit_last_layer(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn one logit into two, and let every class of lung begin as what was lung.

    Softmax over 0 and a logit is its sigmoid, so a model of one logit stays what it was.
    """
    names = [f"{head}.{part}" for head in _HEADS for part in ("weight", "bias")]
    fitted = dict(state)
    for name in [name for name in names if name in state and name in wanted]:
        if len(state[name]) == 1:
            fitted[name] = torch.cat([torch.zeros_like(state[name]), state[name]])
        if len(fitted[name]) == 2:
            fitted[name] = fitted[name][[0, *[1] * (len(wanted[name]) - 1)]]
    return fitted


def _misfits(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    shapes = [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(wanted[name].shape)} in the model"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    missing = [f"{name}: missing in the file" for name in wanted if name not in state]
    return shapes + missing + [f"{name}: not in the model" for name in state if name not in wanted]
