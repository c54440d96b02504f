"""last.ckpt: written whole or not at all, read without unpickling, and put back exactly."""

import random
import re
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lungunet.data.dataset import LungCTDataset
from lungunet.data.files import replacing
from lungunet.errors import DataError, LungUNetWarning, ModelError, listed
from lungunet.models.weights import read_torch
from lungunet.training.config import TrainConfig
from lungunet.training.optimizer import Stepper

T = TypeVar("T")

FORMAT = 2  # 1 knew no place in the middle of an epoch
_PARTS = {
    **dict.fromkeys(
        ("model", "optimizer", "scaler", "position", "settings", "contract", "codec", "data"), dict
    ),
    **dict.fromkeys(("history", "rng"), list),
    "threads": int,
}


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, atomically."""
    with replacing(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as err:  # of torch's own file writer
            raise DataError(
                f"cannot be written ({str(err).splitlines()[0]}). The checkpoint before "
                "is kept: make room on the disk, then resume.",
                where=path,
            ) from err


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; tensors land on the CPU."""
    path = Path(path)
    try:
        content = read_torch(path)
    except FileNotFoundError as err:
        raise ModelError(
            "nothing to resume: the run stopped before its first checkpoint. Start it again.",
            where=path,
        ) from err
    except Exception as err:  # torch's reader raises whatever the bytes provoke, KeyError too
        raise ModelError(
            "no checkpoint of lungunet, damaged, or holds more than tensors and plain "
            "values, which is not loaded because it could run code. Start the run again.",
            where=path,
        ) from err
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        written = content.get("format") if isinstance(content, dict) else None
        fix = (
            "Go on with the version that wrote it, or start again."
            if written == 1
            else "Upgrade lungunet."
        )
        raise ModelError(f"format {written}, this lungunet reads {FORMAT}. {fix}", where=path)
    missing = [key for key, kind in _PARTS.items() if not isinstance(content.get(key), kind)]
    if missing:
        raise ModelError(
            f"incomplete, without {', '.join(missing)}. Start the run again.", where=path
        )
    return content


def check_same_run(
    state: Mapping[str, Any],
    train: LungCTDataset,
    names: Mapping[str, list[str]],
    config: TrainConfig,
    *,
    where: Path,
) -> None:
    """Refuse to go on with other data or settings than the run began with."""
    if state["data"] != names:
        fix = "Resume with the lists that it began with, or start a new run."
        raise ModelError(f"was trained on other lists. {fix}", where=where)
    for name, now in (("contract", train.contract.to_dict()), ("codec", train.codec.to_dict())):
        if state[name] != now:
            raise ModelError(
                f"was trained with {name} {state[name]}, now it is {now}. "
                "Resume with the same data and settings, or start a new run.",
                where=where,
            )
    # What a run was not asked for when it began, it began with as it stands by default.
    before, now = {**type(config).defaults(), **state["settings"]}, config.fixed()
    changed = [
        f"{name} {before.get(name)}, now {now.get(name)}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if changed:
        free = ", ".join(sorted(config.MAY_CHANGE))
        raise ModelError(
            f"was trained with {listed(changed, separator='; ')}. Resume with the same "
            f"settings (only {free} may differ), or start a new run.",
            where=where,
        )


def made_with(
    train: LungCTDataset, val: LungCTDataset, loss: object, *, name: str | None
) -> dict[str, Any]:
    """Say what a run is made with beside its settings, in words that another process says too.

    Parameters
    ----------
    name : that of the loss in the settings; None for one of the user's own
    """
    tensors = loss.state_dict() if isinstance(loss, nn.Module) else {}
    numbers = [
        f"{key} {','.join(f'{number:.4g}' for number in tensor.flatten()[:16].tolist())}"
        for key, tensor in tensors.items()
    ]
    return {
        "loss": " ".join([name or _in_words(loss), *numbers]),
        "train of the class": type(train).__qualname__,
        "val of the class": type(val).__qualname__,
        "seed of train": train.seed,
        "transform": _in_words(train.transform),
    }


def _in_words(value: object) -> str:
    """Return what a value is called or says of itself, without its place in memory."""
    name = getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def check_made_with(state: Mapping[str, Any], now: Mapping[str, Any], *, where: Path) -> None:
    """Refuse to go on with another loss or other datasets; runs of older versions do not say.

    Of a transform that is there in both, the words may be others with a new version of its library:
    it warns.
    """
    before = {**now, **state.get("made_with", {})}
    moved = before["transform"], now["transform"]
    alike = {"transform"} if "None" not in moved else set()
    changed = [
        f"{name} {before[name]}, now {now[name]}"
        for name in now
        if before[name] != now[name] and name not in alike
    ]
    if changed:
        raise ModelError(
            f"was trained with {listed(changed, separator='; ')}. Resume with the same loss and "
            "datasets, or start a new run.",
            where=where,
        )
    if moved[0] != moved[1]:
        old, new = ([line.strip(" ,") for line in text.splitlines()] for text in moved)
        gone = [line for line in old if line not in new]
        come = [line for line in new if line not in old]
        warnings.warn(
            f"{where}: the augmentation is another than the run began with: before "
            f"{', '.join(gone) or 'less'}, now "
            f"{', '.join(come) or 'less'}. Resume with the same transform, unless "
            "these are other words for it.",
            LungUNetWarning,
            stacklevel=2,
        )


def load_into(state: Mapping[str, Any], model: nn.Module, stepper: Stepper, *, where: Path) -> None:
    """Put weights, optimizer and scaler back."""
    try:
        model.load_state_dict(state["model"])
        stepper.load_state_dict({name: state[name] for name in ("optimizer", "scaler")})
    except (RuntimeError, ValueError, KeyError) as err:
        raise ModelError(
            "belongs to another model. Resume with the same architecture and encoder.", where=where
        ) from err


def seed_everything(seed: int) -> None:
    """Seed every generator that training draws from."""
    random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def kept_globals(device: torch.device) -> Iterator[None]:
    """Put generators and torch's number of threads back after the block: they are the caller's."""
    state, threads = rng_state(device), torch.get_num_threads()
    try:
        yield
    finally:
        set_rng_state(state, device)
        torch.set_num_threads(threads)


def apart(results: Generator[T, None, None], device: torch.device) -> Iterator[T]:
    """Yield what a generator does, which has the global ones and the threads for itself.

    What others draw or set between two results does not reach it, nor does it reach them.
    """
    state, threads = rng_state(device), torch.get_num_threads()
    with closing(results):
        while True:
            with kept_globals(device):
                set_rng_state(state, device)
                torch.set_num_threads(threads)
                try:
                    result = next(results)
                except StopIteration:
                    return
                state, threads = rng_state(device), torch.get_num_threads()
            yield result


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
