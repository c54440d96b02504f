"""The built-in model: by onnxruntime on the CPU, by torch on a GPU, the same masks by both.

Imports no torch where that is not asked for.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungunet.data.files import read_json
from lungunet.errors import MissingExtraError, ModelError
from lungunet.inference.segmenter import Segmented, Segmenter
from lungunet.inference.shapes import label_parts, look_up
from lungunet.inference.threshold import segment_lungs
from lungunet.models.builtin import BUILTIN, GRAPH
from lungunet.models.members import ABOUT

if TYPE_CHECKING:
    from lungunet.models.device import Precision

_LITTLE = 0.02  # of a slice
_SPECK = 0.001  # of a slice: no lung by itself, dense or not
_AIRY_HU = -400  # on average


class LungsSegmenter:
    """The built-in model; a slice with no more than gas of the bowel stays without lung.

    It has seen few bellies. Where it marks little, parts of that go that are no lung to the
    threshold rule, and full of air or specks; what is dense stays, for the rule sees no dense lung.

    Parameters
    ----------
    network : the model without that
    weights_sha256 : hash of the weights, the same for whatever computes with them
    """

    word = "lungs"
    segment_volume = None

    def __init__(self, network: Segmenter, weights_sha256: str = "") -> None:
        self.network, self.weights_sha256 = network, weights_sha256
        self.contract, self.codec = network.contract, network.codec

    def prepare(self, image: np.ndarray, where: str = "slice") -> tuple[np.ndarray, Any]:
        """Return the slice, and what the network takes."""
        return image, self.network.prepare(image, where)

    def __call__(self, prepared: Sequence[tuple[np.ndarray, Any]]) -> list[Segmented]:
        """Segment slices; see ``Segmenter``."""
        said = self.network([seen for _, seen in prepared])
        for (image, _), segmented in zip(prepared, said, strict=True):
            if 0 < np.count_nonzero(segmented.classes) < _LITTLE * segmented.classes.size:
                _clear_gas(image, segmented)
        return said


def load_lungs(*, device: str | int = "auto", precision: Precision = "auto") -> LungsSegmenter:
    """Read the built-in model; see :meth:`Predictor.load`.

    onnxruntime computes it on the CPU in fp32, where it is installed: it starts in a fraction of
    the time that torch takes. All else is torch's.
    """
    folder = BUILTIN["lungs"]
    weights_sha256 = read_json(folder / ABOUT, error=ModelError, fix="Install lungunet again.")[
        "weights_sha256"
    ]
    if precision in ("auto", "fp32") and (device == "cpu" or (device == "auto" and not _has_gpu())):
        from lungunet.inference.onnx import OnnxSegmenter

        try:
            return LungsSegmenter(OnnxSegmenter(folder / GRAPH), weights_sha256)
        except MissingExtraError:
            pass
    from lungunet.inference.network import TorchSegmenter
    from lungunet.models.folder import load_model

    saved = load_model(folder)
    network = TorchSegmenter(
        saved.model, saved.contract, saved.codec, device=device, precision=precision
    )
    return LungsSegmenter(network, weights_sha256)


def _has_gpu() -> bool:
    """Tell whether torch would compute on a GPU by itself; imports it only where it may."""
    try:
        if not Path("/dev/kfd").exists():  # AMD's, to which torch says CUDA too
            ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        from lungunet.models.device import pick_device
    except (ImportError, OSError):  # no driver, or no torch
        return False
    return pick_device().type != "cpu"


def _clear_gas(image: np.ndarray, segmented: Segmented) -> None:
    rule = segment_lungs(image) > 0
    labels, sizes = label_parts(segmented.classes)
    seen = np.bincount(labels[rule], minlength=len(sizes) + 1)[1:] > 0
    mean_hu = np.bincount(labels.ravel(), image.ravel(), minlength=len(sizes) + 1)[1:] / sizes
    gone = ~seen & ((mean_hu < _AIRY_HU) | (sizes < _SPECK * labels.size))
    gas = look_up(np.concatenate([[False], gone]).view(np.uint8), labels)
    segmented.classes[gas > 0] = 0
    if segmented.probabilities is not None:
        segmented.probabilities[:, gas > 0] = [[1], [0]]
