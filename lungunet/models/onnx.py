"""One ONNX file with all of a model in it, from CT values to masks, compared with torch.

Needs the ``[onnx]`` extra, which is imported when it is used.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from lungunet._version import __version__
from lungunet.data.contract import InputContract
from lungunet.data.ct import read_image
from lungunet.data.files import json_text, replacing
from lungunet.data.manifest import list_images
from lungunet.data.window import LUNG_WINDOW
from lungunet.errors import ConfigError, DataError, MissingExtraError, ModelError
from lungunet.models.builtin import GRAPH
from lungunet.models.folder import SavedModel, describe, encode_weights, load_model
from lungunet.models.members import WEIGHTS, find_members
from lungunet.models.onnx_file import ABOUT, FORMAT, OnnxFile, onnxruntime, open_onnx
from lungunet.models.original import padding
from lungunet.phantom.phantom import phantom_slice

_SURE = 1e-4  # from 0.5: where the probability is nearer, rounding may decide


@dataclass(frozen=True)
class Parity:
    """How an exported file compares with the model it came from.

    Parameters
    ----------
    slices, pixels : compared
    differing_px : pixels of another class; all of them undecided, within 1e-4 of even odds
    furthest : the largest difference of a probability
    """

    slices: int
    pixels: int
    differing_px: int
    furthest: float


def export_onnx(
    model: str | Path | SavedModel,
    path: str | Path,
    *,
    slices: Iterable[np.ndarray] | str | Path | None = None,
) -> Parity:
    """Write a model as one ONNX file that takes CT values and gives masks, and check it.

    Window, fit, normalisation, network and the way back are all inside. The input ``image`` is
    float32 (N, H, W): HU, or whatever the slices of training held, of any N, H and W; 8-bit models
    take grey values. Outputs are what a service stores and what it may want to doubt: ``mask``,
    uint8 (N, H, W) with 0 and 255 (for more classes the codec's raw values, in a wider dtype where
    they need one), and ``probability``, float32 (N, C, H, W). Slices of one batch share a size.
    The metadata hold contract, codec, scores, versions and the hash of the weights; written
    atomically, and only when masks agree with those of torch.

    Parameters
    ----------
    model : as :func:`load_model` takes it, or what that returned; or several that are averaged, the
        folder of a cross-validation or ``"runs/a+runs/b"``: one file holds them all
    path : ends with .onnx; replaced where it exists
    slices : to compare on, (H, W) each and as the model expects them, or the file, folder, glob or
        list (.txt) that they are read from; None takes phantoms that are larger than the model's
        size, of its size, and smaller

    Returns
    -------
    Parity

    Raises
    ------
    ConfigError
        When the path does not end with .onnx, the codec cannot write classes back, or several
        models do not see and say the same.
    DataError
        When a slice is not what the model expects, there is none to compare on, or the file cannot
        be written.
    ModelError
        When there is no usable model, torch cannot export it, or the file gives other masks.
    MissingExtraError
        When onnx, onnxscript or onnxruntime is not installed.

    References
    ----------
    ONNX operators, opset 18 and later, https://onnx.ai/onnx/operators.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ConfigError("does not end with .onnx. Add the ending.", where=path)
    onnxruntime()  # before minutes of work
    if isinstance(model, SavedModel):
        members = [model]
    else:
        members = [load_model(member) for member in find_members(model)]
    saved = members[0] if len(members) == 1 else _joined(members)
    network = _Members([member.model for member in members]).eval()
    content = _encode(network, saved)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        if isinstance(slices, str | Path):
            slices = map(read_image, list_images(slices))
        compared = _phantoms(saved.contract) if slices is None else slices
        return _compare(network, open_onnx(temporary), compared, path)


def write_graph(folder: str | Path) -> Parity:
    """Write the graph of a model folder beside its weights, of which it holds none, and check it.

    It is what :func:`export_onnx` writes, but its weights are those in ``model.safetensors``, which
    it names by their place in the file: the two belong together.

    Parameters
    ----------
    folder : a model folder whose weights are in half precision, as the built-in one

    Raises
    ------
    ModelError, MissingExtraError
        As for :func:`export_onnx`.
    """
    _need_exporter()
    from lungunet.models.onnx_graph import leave_weights, surround

    saved = load_model(folder)
    network = _Members([saved.model]).eval()
    traced = _trace(network, saved, optimize=False)  # or batch norm would change the weights
    leave_weights(traced, saved.folder / WEIGHTS, prefix="models.0.")
    graph = surround(traced, saved.contract, saved.codec)
    weights = (saved.folder / WEIGHTS).read_bytes()
    _sign(graph, describe(weights, contract=saved.contract, codec=saved.codec, scores={}))
    path = saved.folder / GRAPH
    with replacing(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        return _compare(network, open_onnx(temporary), _phantoms(saved.contract), path)


class _Members(nn.Module):
    """Networks that see the same: gives the logits of one after the other."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        # Copies that predict as the predictor lets them.
        copies = (copy.deepcopy(getattr(model, "_orig_mod", model)) for model in models)
        self.models = nn.ModuleList(padding(each.cpu().float().eval()) for each in copies)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return (N, members * C, H, W)."""
        logits = [model(batch) for model in self.models]
        return torch.cat(logits, 1) if len(logits) > 1 else logits[0]


def _joined(members: Sequence[SavedModel]) -> SavedModel:
    """Return several models as one, of which nobody knows scores."""
    first = members[0]
    for other in members[1:]:
        if (other.contract, other.codec) != (first.contract, first.codec):
            raise ConfigError(
                f"sees {other.contract} and gives {other.codec}, {first.folder} {first.contract} "
                f"and {first.codec}. Join models that were trained alike: window, size and labels.",
                where=other.folder,
            )
    networks = nn.ModuleList(member.model for member in members)
    return SavedModel(networks, first.contract, first.codec, {}, first.folder)


def _encode(network: _Members, saved: SavedModel) -> bytes:
    _need_exporter()
    from lungunet.models.onnx_graph import surround

    whole = surround(
        _trace(network, saved), saved.contract, saved.codec, members=len(network.models)
    )
    weights = encode_weights(saved.model)
    facts = describe(weights, contract=saved.contract, codec=saved.codec, scores=saved.scores)
    _sign(whole, facts)
    try:
        return bytes(whole.SerializeToString())
    except ValueError as err:
        raise ModelError(
            f"too large for an ONNX file ({err}). Train a smaller encoder.", where=saved.folder
        ) from err


def _need_exporter() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 - torch's exporter writes with it
    except ImportError as err:
        raise MissingExtraError(
            f"{err.name} is not installed. pip install 'lungunet[onnx]'", where="onnx"
        ) from err


def _sign(graph: Any, facts: Mapping[str, Any]) -> None:
    """Let a file say what it is."""
    about = {"format": FORMAT, **facts}
    entry = graph.metadata_props.add()
    entry.key, entry.value = ABOUT, json_text(about, sort_keys=True, indent=None)
    graph.producer_name, graph.producer_version = "lungunet", __version__


def _trace(network: nn.Module, saved: SavedModel, *, optimize: bool = True) -> Any:
    size = saved.contract.size
    try:
        # Of a batch of one the exporter would fix the batch to one.
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 1, size, size),),
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            verbose=False,
            optimize=optimize,
        )
    except torch.onnx.OnnxExporterError as err:
        reason = str(err.__cause__ or err).strip().partition("\n")[0]
        raise ModelError(
            f"torch {torch.__version__} cannot export this encoder ({reason}). "
            "Train another one, or try a newer torch.",
            where=saved.folder,
        ) from err
    return program.model_proto  # type: ignore[union-attr]


def _compare(
    network: _Members, exported: OnnxFile, slices: Iterable[np.ndarray], path: Path
) -> Parity:
    """Compare masks slice by slice, as they were read back from disk."""
    codec = exported.codec
    n = pixels = differing = wrong = 0
    furthest = 0.0
    for image in slices:
        n += 1
        expected = _probabilities(network, exported.contract, image, f"slice {n}")
        mask, probability = exported.run(image.astype(np.float32)[None])
        differs = mask[0] != codec.for_prediction.decode(expected.argmax(axis=0))
        second, first = np.partition(expected, -2, axis=0)[-2:]
        sure = first - second > 2 * _SURE
        pixels += differs.size
        differing += int(differs.sum())
        wrong += int((differs & sure).sum())
        furthest = max(furthest, float(np.abs(probability[0] - expected).max()))
    if not n:
        raise DataError(
            "none to compare on; nothing was written. Give some, or leave it out.", where="slices"
        )
    if wrong:
        size = exported.contract.size
        raise ModelError(
            f"{wrong} of {pixels} pixels get another class than from torch, probabilities "
            f"differ by up to {furthest:.2g}; nothing was written. Compare slices of "
            f"{size}x{size}: others are scaled, and a grey value that lies halfway may be rounded "
            "the other way. If those differ too, try another version of torch or onnxruntime.",
            where=path,
        )
    return Parity(n, pixels, differing, furthest)


@torch.inference_mode()
def _probabilities(
    network: _Members, contract: InputContract, image: np.ndarray, where: str
) -> np.ndarray:
    batch = torch.from_numpy(contract.prepare(image, where))[None]
    each = [contract.unfit(model(batch), *image.shape)[0].softmax(0) for model in network.models]
    return np.asarray(torch.stack(each).mean(0))


def _phantoms(contract: InputContract) -> list[np.ndarray]:
    """Make slices that shrink by half, that fit, and that grow: OpenCV scales these exactly."""
    size = contract.size
    shapes = ((2 * size, 2 * size), (size, size * 3 // 4), (size * 5 // 8, size // 2 + 1))
    return [_phantom(contract, number, shape) for number, shape in enumerate(shapes)]


def _phantom(contract: InputContract, number: int, shape: tuple[int, int]) -> np.ndarray:
    """Make a slice in the values of training: seen through the model's window, it shows lungs."""
    hu = phantom_slice(number, 0.5).image.astype(np.float32)
    hu = np.asarray(cv2.resize(hu, shape[::-1], interpolation=cv2.INTER_AREA))
    if contract.window is None:
        return LUNG_WINDOW.to_grey(hu)
    seen = (hu - LUNG_WINDOW.level) / LUNG_WINDOW.width
    values = seen * contract.window.width + contract.window.level
    dtype = np.dtype(contract.dtypes[0])
    if dtype.kind == "f":
        return np.asarray(values, dtype)
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(values), limits.min, limits.max), dtype)
