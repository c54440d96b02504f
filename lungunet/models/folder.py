"""The model folder: weights with everything that is needed to use them rightly.

``config.json`` and ``model.safetensors`` are smp's own format; ``lungunet.json`` adds the input
contract, the label codec and what the model scored. Nothing is unpickled.
"""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import nn

from lungunet._version import __version__
from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.files import json_text, read_json, write_bytes, write_text
from lungunet.errors import ModelError
from lungunet.models.builtin import named_folder
from lungunet.models.card import model_card
from lungunet.models.members import ABOUT as _ABOUT
from lungunet.models.members import WEIGHTS as _WEIGHTS
from lungunet.models.unet import Architecture, architecture_of, build_from
from lungunet.models.weights import load_weights

FORMAT = 1
_CONFIG, _CARD = "config.json", "README.md"


@dataclass(frozen=True)
class SavedModel:
    """What a model folder holds.

    Parameters
    ----------
    model : on the CPU, in eval mode
    scores : what the model scored on val when it was saved, how many slices it was made with, and
        what ``lungunet evaluate`` found since; empty where that is not known
    folder : where it was read
    """

    model: nn.Module
    contract: InputContract
    codec: LabelCodec
    scores: dict[str, Any]
    folder: Path


def save_model(
    folder: str | Path,
    model: nn.Module,
    *,
    contract: InputContract,
    codec: LabelCodec,
    scores: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder, file by file, each one atomically.

    Parameters
    ----------
    model : made by :func:`build_unet`, or any module: then only :func:`load_model` with
        ``model=`` can read it
    scores : JSON-able facts about the model, such as its epoch and metrics on val
    """
    folder = Path(folder)
    model = getattr(model, "_orig_mod", model)  # a compiled model has a prefix before each name
    weights = encode_weights(model)
    architecture = architecture_of(model)
    about = {
        "format": FORMAT,
        "architecture": architecture and architecture.to_dict(),
        **describe(weights, contract=contract, codec=codec, scores=scores or {}),
    }
    texts = {_CONFIG: _json(_smp_config(model)), _ABOUT: _json(about), _CARD: model_card(about)}
    # The hash ties the scores to the weights: after a kill between the two writes the new weights
    # are read without scores instead of with those of the old ones.
    write_text(folder / _CONFIG, texts[_CONFIG])
    write_bytes(folder / _WEIGHTS, weights)
    write_text(folder / _ABOUT, texts[_ABOUT])
    write_text(folder / _CARD, texts[_CARD])


def add_scores(path: str | Path, scores: Mapping[str, Any], *, weights_sha256: str) -> None:
    """Add what a model scored since it was saved to its lungunet.json and its card.

    Parameters
    ----------
    path : a run folder or a model folder
    weights_sha256 : as :func:`weights_hash` gave it before scoring; nothing is written when the
        folder holds other weights by now, as where a training goes on meanwhile
    """
    folder = find_model_folder(path)
    about = _read_about(folder)
    if about.get("weights_sha256") == weights_sha256:
        about["scores"] = {**about.get("scores", {}), **scores}
        write_text(folder / _ABOUT, _json(about))
        write_text(folder / _CARD, model_card(about))


def weights_hash(path: str | Path) -> str:
    """Return the SHA-256 of a model folder's weights, as its lungunet.json says it."""
    return str(_read_about(find_model_folder(path)).get("weights_sha256"))


def describe(
    weights: bytes, *, contract: InputContract, codec: LabelCodec, scores: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a model folder and an exported file both say of a model."""
    return {
        "contract": contract.to_dict(),
        "codec": codec.to_dict(),
        "scores": dict(scores),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {
            "lungunet": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def encode_weights(model: nn.Module) -> bytes:
    """Return the weights as the bytes of a safetensors file: the same for equal weights."""
    # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
    state = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    return save_tensors(state)


def _smp_config(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    # encoder_weights would make smp ask the hub for weights that this folder holds already.
    stored = {**config, "encoder_weights": None} if isinstance(config, Mapping) else {}
    return {**stored, "_model_class": type(model).__name__}


def _read_about(folder: Path) -> dict[str, Any]:
    return read_json(folder / _ABOUT, error=ModelError, fix="Copy the folder again.")


def _json(content: Mapping[str, Any]) -> str:
    return json_text(content, sort_keys=True, default=str)


def find_model_folder(path: str | Path) -> Path:
    """Find the model folder behind a path: the folder itself, or ``best`` in a run folder."""
    path = named_folder(path)
    for folder in (path, path / "best"):
        if (folder / _ABOUT).is_file():
            return folder
    if not path.exists():
        raise ModelError(
            "no such folder. Give a run folder, a model folder, an .onnx file, or a word: "
            "lungs (built in) or threshold.",
            where=path,
        )
    for folder in (path, path / "best"):
        if (folder / _WEIGHTS).is_file():  # smp's save_pretrained leaves no more than this
            raise ModelError(
                f"weights without {_ABOUT}, which says the window, size and labels that "
                "they were trained with. Copy it from the model folder that they came from, or "
                "write both with lungunet.save_model(folder, model, contract=..., codec=...).",
                where=folder,
            )
    raise ModelError(
        f"no model in it ({_ABOUT} is missing). Give the folder that 'lungunet train' made.",
        where=path,
    )


def load_model(path: str | Path, *, model: nn.Module | None = None) -> SavedModel:
    """Read a model folder; no network, no unpickling.

    Parameters
    ----------
    path : a run folder, a model folder, or the word ``"lungs"`` for the built-in model
    model : a module to load the weights into, for models that :func:`build_unet` did not make

    Raises
    ------
    ModelError
        When a file is missing or damaged, the format is newer, or weights and model disagree.
    """
    folder = find_model_folder(path)
    about = _read_about(folder)
    if not isinstance(about.get("format"), int) or not 1 <= about["format"] <= FORMAT:
        raise ModelError(
            f"format {about.get('format')} is not one that this lungunet reads "
            f"(1 to {FORMAT}). Upgrade lungunet.",
            where=folder,
        )
    try:
        contract = InputContract.from_dict(about["contract"])
        codec = LabelCodec.from_dict(about["codec"])
        stored = about["architecture"]
        if model is None and stored is None:
            raise ModelError(
                "holds a model that build_unet did not make. Build it and pass it: "
                "load_model(path, model=...).",
                where=folder,
            )
        if model is None:
            model = build_from(Architecture.from_dict(stored))
        scores = dict(about.get("scores") or {})
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as err:
        reason = str(err).rstrip(".")
        raise ModelError(
            f"damaged ({reason}). Copy the folder again.", where=folder / _ABOUT
        ) from err
    if stored and stored["classes"] != codec.n_classes:
        raise ModelError(
            f"the model has {stored['classes']} classes, its label codec "
            f"{codec.n_classes}. Save it again with the codec that it was trained with.",
            where=folder / _ABOUT,
        )
    load_weights(model, folder / _WEIGHTS)
    digest = hashlib.sha256(_read_bytes(folder / _WEIGHTS)).hexdigest()
    known = digest == about.get("weights_sha256")
    return SavedModel(model.eval(), contract, codec, scores if known else {}, folder)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise ModelError(
            f"cannot be read ({err.strerror}). Copy the folder again.", where=path
        ) from err
