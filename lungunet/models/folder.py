"""The model folder: weights with everything that is needed to use them rightly.

``config.json`` and ``model.safetensors`` are smp's own format; ``lungunet.json`` adds the input
contract, the label codec and what the model scored. Nothing is unpickled.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import nn

from lungunet._version import __version__
from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.files import json_text, read_json, refuse_existing, write_bytes, write_text
from lungunet.data.kinds import check_kind
from lungunet.errors import ConfigError, ModelError
from lungunet.models.architectures import Architecture
from lungunet.models.card import model_card
from lungunet.models.members import ABOUT as _ABOUT
from lungunet.models.members import WEIGHTS as _WEIGHTS
from lungunet.models.members import is_model_folder, named_folder
from lungunet.models.unet import (
    architecture_in,
    architecture_of,
    build_from,
    check_fits,
    mark_source,
)
from lungunet.models.weights import load_weights

FORMAT = 2  # 1 knows no architecture beside the U-Net, and still holds those that are
_CONFIG, _CARD = "config.json", "README.md"
FILES = (_CONFIG, _WEIGHTS, _ABOUT, _CARD)
"""What :func:`save_model` writes."""


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

    def __repr__(self) -> str:
        """Say in two lines which model this is, what it sees and what it gives."""
        network = architecture_of(self.model) or type(self.model).__name__
        parameters = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        return (
            f"<SavedModel: {network}, {parameters:.1f} M parameters, of {self.folder},\n"
            f" sees {self.contract}, gives {self.codec}>"
        )


def save_model(
    folder: str | Path,
    model: nn.Module,
    *,
    contract: InputContract,
    codec: LabelCodec,
    scores: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model folder, file by file, each one atomically; a model that is there is replaced.

    Parameters
    ----------
    model : of :func:`build_model` or of a class of segmentation-models-pytorch, which is built
        again when the folder is read; or any other module, which must be passed to
        :func:`load_model` as ``model=``
    scores : JSON-able facts about the model, such as its epoch and metrics on val
    overwrite : replace files of its names too that are of no model folder, such as a project's
        README.md

    Raises
    ------
    ConfigError
        When such files are there already, or contract or codec are none.
    DataError
        When it cannot be written.
    """
    check_kind("contract", contract, InputContract, "Give that of a dataset, as train.contract.")
    check_kind("codec", codec, LabelCodec, "Give that of a dataset, as train.codec.")
    folder = Path(folder)
    if not (folder / _ABOUT).is_file():
        refuse_existing([folder / name for name in FILES], overwrite)
    model = getattr(model, "_orig_mod", model)  # a compiled model has a prefix before each name
    weights = encode_weights(model)
    architecture = architecture_of(model)
    about = {
        "format": FORMAT if architecture and architecture.has_name else 1,
        "architecture": architecture and architecture.to_dict(),
        **describe(weights, contract=contract, codec=codec, scores=scores or {}),
    }
    texts = {_CONFIG: _json(_smp_config(model)), _ABOUT: _json(about), _CARD: model_card(about)}
    # A kill between two writes must leave nothing that reads wrongly. Where contract, labels or
    # network were others, the new weights stand without any. Where they are the same, the hash ties
    # the scores to the weights, and the new ones are read without scores.
    if not _says_the_same(folder, texts[_ABOUT]):
        (folder / _ABOUT).unlink(missing_ok=True)
    write_text(folder / _CONFIG, texts[_CONFIG])
    write_bytes(folder / _WEIGHTS, weights)
    write_text(folder / _ABOUT, texts[_ABOUT])
    write_text(folder / _CARD, texts[_CARD])


def _says_the_same(folder: Path, about: str) -> bool:
    """Tell whether the lungunet.json of a folder holds for new weights too, but for scores."""
    with suppress(ModelError):
        old, new = _read_about(folder), json.loads(about)
        return all(old.get(name) == new[name] for name in ("architecture", "contract", "codec"))
    return False


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


def began_with(path: str | Path) -> list[str]:
    """Return what a model's training began with, then what that began with, as far as it says."""
    try:
        scores = _read_about(find_model_folder(path)).get("scores") or {}
    except ModelError:  # a file of weights alone
        return []
    return [str(each) for each in (scores.get("began_with"), *scores.get("ancestors", ())) if each]


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
    return json_text(content, sort_keys=True)


def find_model_folder(path: str | Path) -> Path:
    """Find the model folder behind a path: the folder itself, or ``best`` in a run folder."""
    path = named_folder(path)
    for folder in (path, path / "best"):
        if (folder / _ABOUT).is_file():
            return folder
    if not path.exists():
        raise ModelError(
            "no such folder. Give a run folder, a model folder, an .onnx file, a model of the hub "
            "(hf://OWNER/NAME@REVISION), or a word: lungs (built in) or threshold.",
            where=path,
        )
    for folder in (path, path / "best"):
        if (folder / _WEIGHTS).is_file():  # smp's save_pretrained leaves no more than this
            raise ModelError(
                f"weights without {_ABOUT}, which says the window, size and labels that "
                "they were trained with. Copy it from the model folder that they came from; or, in "
                "Python, load_model(path, contract=..., codec=...) says it, and "
                "save_model(folder, model, contract=..., codec=...) writes both.",
                where=folder,
            )
    raise ModelError(
        f"no model in it ({_ABOUT} is missing). Give the folder that 'lungunet train' made.",
        where=path,
    )


def load_model(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    contract: InputContract | None = None,
    codec: LabelCodec | None = None,
) -> SavedModel:
    """Read a model folder; no unpickling, no class that is not on our list, no network but for hf://.

    Parameters
    ----------
    path : a run folder, a model folder, the word ``"lungs"`` for the built-in model,
        ``"hf://OWNER/NAME@REVISION"`` for one of the hub, or with ``contract`` a folder that
        ``save_pretrained`` of segmentation-models-pytorch wrote
    model : a module to load the weights into, for one that :func:`list_architectures` does not
        have
    contract : what a folder of ``save_pretrained`` was trained on, which it does not say. A model
        of three channels is read as one of one channel that gets the same slice in each; one of
        one logit as one of two classes
    codec : of the masks it was trained on; None takes 0 for background and 255 for lung

    Raises
    ------
    ModelError
        When a file is missing or damaged, the format is newer, or weights and model disagree.
    ConfigError
        When contract or codec are given for a folder that holds its own.
    """
    if contract is not None or codec is not None:
        saved = _load_of_smp(named_folder(path), model, contract, codec)
    else:
        saved = _load(path, model)
    mark_source(saved.model, path)
    return saved


def _load(path: str | Path, model: nn.Module | None) -> SavedModel:
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
        network = Architecture.from_dict(stored) if stored else None
        if model is None:
            model = build_from(network or _network_of_smp(folder))
        scores = dict(about.get("scores") or {})
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as err:
        reason = str(err).rstrip(".")
        raise ModelError(
            f"damaged ({reason}). Copy the folder again.", where=folder / _ABOUT
        ) from err
    saved = _filled(folder, model, contract, codec)
    digest = hashlib.sha256(_read_bytes(folder / _WEIGHTS)).hexdigest()
    return replace(saved, scores=scores) if digest == about.get("weights_sha256") else saved


def _load_of_smp(
    path: Path, model: nn.Module | None, contract: InputContract | None, codec: LabelCodec | None
) -> SavedModel:
    """Read a folder that says nothing of what its model was trained on."""
    if is_model_folder(path) and not (path / _WEIGHTS).is_file():
        path = path / "best"
    if (path / _ABOUT).is_file():
        raise ConfigError(f"holds its own, in {_ABOUT}. Leave contract and codec out.", where=path)
    if contract is None:
        raise ConfigError("a codec alone does not say what the model sees. Pass contract too.")
    if model is None:
        model = build_from(_network_of_smp(path))
    check_fits(model, contract.size)
    return _filled(path, model, contract, codec or LUNG_CODEC)


def _network_of_smp(folder: Path) -> Architecture:
    """Read from smp's config.json how its model was built; nothing that it names is imported."""
    config = read_json(folder / _CONFIG, error=ModelError, fix="Copy the folder again.")
    # Slices have one channel, and a logit of one class is that of lung: load_weights knows both.
    changes = {"in_channels": 1} if config.get("in_channels") == 3 else {}
    changes |= {"classes": 2} if config.get("classes") == 1 else {}
    network = architecture_in({**config, **changes})
    if network is None:
        raise ModelError(
            f"holds a model of your own ({config.get('_model_class', 'of no known class')}), which "
            "only your code can build. Build it as net, then: "
            "Predictor.load(load_model(path, model=net)); or Predictor(net, contract, codec); or "
            "once export_onnx(load_model(path, model=net), 'model.onnx'), which every verb reads.",
            where=folder,
        )
    return network


def _filled(
    folder: Path, model: nn.Module, contract: InputContract, codec: LabelCodec
) -> SavedModel:
    """Put the weights of a folder into ``model``."""
    network = architecture_of(model)
    if network and network.classes != codec.n_classes:
        raise ModelError(
            f"the model has {network.classes} classes, its label codec "
            f"{codec.n_classes}. Save it again with the codec that it was trained with.",
            where=folder / _ABOUT,
        )
    load_weights(model, folder / _WEIGHTS)
    return SavedModel(model.eval(), contract, codec, {}, folder)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise ModelError(
            f"cannot be read ({err.strerror}). Copy the folder again.", where=path
        ) from err
