"""An exported model in the place of a network: the segmenter that needs onnxruntime alone."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from lungunet.inference.segmenter import Segmented, cut_parts, not_a_number
from lungunet.models.onnx_file import open_onnx


class OnnxSegmenter:
    """A file that ``lungunet export`` wrote, run on the CPU; see ``Segmenter``.

    Parameters
    ----------
    path : the file
    """

    word = ""
    segment_volume = None

    def __init__(self, path: str | Path) -> None:
        self._where, self._file = path, open_onnx(path)
        self.contract = self._file.contract
        self.codec = self._file.codec
        self.weights_sha256 = self._file.weights_sha256

    def prepare(self, image: np.ndarray, where: str = "slice") -> np.ndarray:
        """Refuse a slice that the contract does not know; the graph does the rest."""
        self.contract.check(image, where)
        return image.astype(np.float32)

    def __call__(self, prepared: Sequence[np.ndarray]) -> list[Segmented]:
        """Segment slices, some of one size together; see ``Segmenter``."""
        places = defaultdict(list)
        for place, image in enumerate(prepared):
            places[image.shape].append(place)
        done: dict[int, Segmented] = {}
        parts = (cut_parts(alike, self.contract.size) for alike in places.values())
        for alike in chain.from_iterable(parts):
            _, probabilities = self._file.run(np.stack([prepared[place] for place in alike]))
            if not np.isfinite(probabilities.sum()):
                raise not_a_number(self._where)
            done.update(zip(alike, map(Segmented.likeliest, probabilities), strict=True))
        return [done[place] for place in range(len(prepared))]
