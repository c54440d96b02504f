"""The built-in model: by onnxruntime on the CPU, by torch on a GPU, the same masks by both.

Imports no torch where that is not asked for.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from lungunet.data.files import read_json
from lungunet.data.hu import clear_padding
from lungunet.errors import MissingExtraError, ModelError
from lungunet.inference.body import close_cut_lungs, find_open_air, look_into_body, part_air
from lungunet.inference.prefetch import map_side_by_side
from lungunet.inference.segmenter import Segmented, Segmenter
from lungunet.inference.shapes import Box, grow, keep_large, label_parts, look_up
from lungunet.inference.threshold import segment_lungs
from lungunet.models.builtin import BUILTIN, GRAPH
from lungunet.models.members import ABOUT

if TYPE_CHECKING:
    from lungunet.models.device import Precision

# A body as large as most that the network has seen is looked at as it is.
_SMALL_BODY = 0.7  # of the picture, with the air around
_AROUND_BODY = 1.1
_LEAST_BODY = 0.1  # is none
_PART_OF_BODY = 0.1  # of the largest part
_LOOK_PX = 128

_LITTLE = 0.02  # of a slice
_SPECK = 0.001  # of a slice: no lung by itself, dense or not
_AIRY_HU = -400  # on average
_OPEN_AIR_HU = -950
_POCKET = 0.003  # of a slice; less is not looked for
_RIM_PX = 3
_COARSE = 4


class _Framed(NamedTuple):
    """A slice, or what of it the network sees.

    Parameters
    ----------
    prepared : what the network takes
    image : (h, w), the part in ``box``
    shape : of the slice
    box : rows and columns of the part; None of a whole slice
    """

    prepared: Any
    image: np.ndarray
    shape: tuple[int, ...]
    box: Box | None


class LungsSegmenter:
    """The built-in model; a slice with no more than gas of the bowel stays without lung.

    It has seen few bellies. Where it marks little, parts of that go that are no lung to the
    threshold rule, and full of air or specks; what is dense stays, for the rule sees no dense lung.
    And it has seen no air that arms close in: parts go that are like the air around the patient.

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

    def prepare(self, image: np.ndarray, where: str = "slice") -> _Framed:
        """Look at the body alone where it is small in the picture; see ``Segmenter``."""
        self.contract.check(image, where)
        image = clear_padding(image)
        box = _frame(image)
        part = image if box is None else image[box]
        return _Framed(self.network.prepare(part, where), part, image.shape, box)

    def __call__(self, prepared: Sequence[_Framed]) -> list[Segmented]:
        """Segment slices; see ``Segmenter``."""
        said = self.network([framed.prepared for framed in prepared])
        return map_side_by_side(_mend, prepared, said)


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


def _frame(image: np.ndarray) -> Box | None:
    """Return the rows and columns of a body that is small in its picture, and some air around."""
    step = max(1, max(image.shape) // _LOOK_PX)
    labels, sizes = label_parts((image[::step, ::step] > _AIRY_HU).view(np.uint8))
    # Arms may be by themselves.
    large = np.concatenate([[False], sizes >= _PART_OF_BODY * sizes.max(initial=0)])
    body = look_up(large.view(np.uint8), labels)
    # Where the picture cuts through the chest, the walls may be by themselves: lung lies beyond.
    if body[0].any() or body[-1].any() or body[:, 0].any() or body[:, -1].any():
        return None
    left, top, width, height = (step * n for n in cv2.boundingRect(body))
    side = round(max(width, height) * _AROUND_BODY)
    if not _LEAST_BODY * max(image.shape) < side < _SMALL_BODY * max(image.shape):
        return None
    rows, columns = (
        slice(max(0, at + size // 2 - side // 2), at + size // 2 + side // 2 + 1)
        for at, size in ((top, height), (left, width))
    )
    return rows, columns


def _mend(framed: _Framed, part: Segmented) -> Segmented:
    """Clear what the network takes for lung in the part of a slice that it saw, in place."""
    _clear_open_air(framed.image, part)
    if 0 < np.count_nonzero(part.classes) < _LITTLE * part.classes.size:
        _clear_gas(framed.image, part)
    return _unframe(framed, part)


def _unframe(framed: _Framed, part: Segmented) -> Segmented:
    """Put what is said of a part of a slice where it belongs."""
    if framed.box is None or part.probabilities is None:
        return part
    both = np.zeros((2, *framed.shape), np.float32)
    both[0] = 1
    both[:, *framed.box] = part.probabilities
    return Segmented.likeliest(both)


def _clear_open_air(image: np.ndarray, segmented: Segmented) -> None:
    size = tuple(max(1, n // _COARSE) for n in image.shape[::-1])  # blurred, as noise is dark too
    coarse = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    marked = cv2.resize(segmented.classes, size, interpolation=cv2.INTER_NEAREST) > 0
    if np.count_nonzero(marked & (coarse < _OPEN_AIR_HU)) < _POCKET * marked.size:
        return
    seen = close_cut_lungs(look_into_body(image, None))
    parts = keep_large(seen.air, _SPECK * seen.air.size)
    closed_in = np.zeros_like(seen.air)
    for part in find_open_air(part_air(parts, seen), seen):
        closed_in[part.box] |= part.bits.view(np.uint8)
    _clear(segmented, closed_in > 0)
    around = ((seen.body == 0) & (seen.smoother < _OPEN_AIR_HU)).view(np.uint8)
    # With the blurred edge of air, along which something may be marked too.
    air = grow(closed_in | around, _RIM_PX) > 0
    labels, sizes = label_parts(segmented.classes)
    mostly = 2 * np.bincount(labels[air], minlength=len(sizes) + 1)[1:] > sizes
    _clear(segmented, look_up(_chosen(mostly), labels) > 0)


def _clear_gas(image: np.ndarray, segmented: Segmented) -> None:
    rule = segment_lungs(image) > 0
    labels, sizes = label_parts(segmented.classes)
    seen = np.bincount(labels[rule], minlength=len(sizes) + 1)[1:] > 0
    airy = _mean(image, labels, sizes) < _AIRY_HU
    gone = ~seen & (airy | (sizes < _SPECK * labels.size))
    _clear(segmented, look_up(_chosen(gone), labels) > 0)


def _mean(image: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the mean of each part of an image."""
    total = np.bincount(labels.ravel(), image.ravel(), minlength=len(sizes) + 1)[1:]
    return np.asarray(total / sizes)


def _chosen(parts: np.ndarray) -> np.ndarray:
    """Return a look-up table of labels, 0 for what is no part."""
    return np.concatenate([[False], parts]).view(np.uint8)


def _clear(segmented: Segmented, gone: np.ndarray) -> None:
    """Take lung out where ``gone``, (H, W) bool, says so."""
    segmented.classes[gone] = 0
    if segmented.probabilities is not None:
        segmented.probabilities[:, gone] = [[1], [0]]
