"""last.ckpt: all that an interrupted run needs to go on, written whole, read without unpickling."""

import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lungunet.data.atomic import replacing
from lungunet.errors import ModelError

FORMAT = 1
_KEYS = ("model", "optimizer", "scaler", "history", "rng", "threads", "contract", "codec", "data")


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, atomically."""
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; tensors land on the CPU.

    Raises
    ------
    ModelError
        When the file is missing or damaged, of a newer format, or holds anything but tensors and
        plain values.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as err:
        raise ModelError(
            f"{path}: nothing to resume: the run did not finish an epoch. Start it again."
        ) from err
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as err:
        reason = str(err).splitlines()[0][:200] if str(err) else type(err).__name__
        raise ModelError(f"{path}: not a checkpoint of lungunet, or damaged ({reason}).") from err
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise ModelError(f"{path}: format {found}, this lungunet reads {FORMAT}. Upgrade lungunet.")
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise ModelError(f"{path}: incomplete, without {', '.join(missing)}. Start the run again.")
    return content


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the state of every generator that training draws from, as plain values."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
    }


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the generators back to where :func:`rng_state` found them."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
