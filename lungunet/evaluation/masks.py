"""What can be scored: a model, or the masks that any other tool made, in its place."""

from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.data.ct import read_mask
from lungunet.data.manifest import find_images, image_names
from lungunet.data.names import NameRule
from lungunet.data.overlay import show_grey
from lungunet.errors import ConfigError, DataError, listed
from lungunet.inference.predictor import Prediction
from lungunet.inference.segmenter import Segmented


@runtime_checkable
class Predicts(Protocol):
    """What can be scored: a :class:`Predictor`, or a :class:`MaskFolder`."""

    @property
    def codec(self) -> LabelCodec:
        """Of the masks that come out."""
        ...

    @property
    def word(self) -> str:
        """Which baseline it is itself; empty where it is none."""
        ...

    def predict_files(self, paths: Iterable[Path], *, batch_size: int = 8) -> Iterator[Prediction]:
        """Yield one prediction per path, in order."""
        ...

    def to_grey(self, image: np.ndarray) -> np.ndarray:
        """Return a slice as (H, W) uint8, the way it should be looked at."""
        ...


class MaskFolder:
    """Answers for a slice with the mask in a folder that belongs to it by name.

    Parameters
    ----------
    folder : masks as PNG, TIFF, JPEG or BMP
    codec : how they are coded
    mask_names : how the stems of slice and mask differ, as ``names`` of :func:`find_pairs`

    Raises
    ------
    DataError
        When the folder is missing or empty, or two masks share a stem.
    ConfigError
        When the codec ignores pixels: a mask that is scored answers for all of them. When the rule
        for names is none.
    """

    word = ""

    def __init__(
        self,
        folder: str | Path,
        codec: LabelCodec = LUNG_CODEC,
        *,
        mask_names: str | None = None,
    ) -> None:
        if mask_names is not None:
            NameRule.parse(mask_names)
        self.folder = Path(folder)
        self.codec = codec
        self.mask_names = mask_names
        if codec.ignores:
            raise ConfigError(
                "a mask that is scored answers for every pixel. Ignore pixels of the truth, and "
                "name a class here.",
                where=f"labels {codec}",
            )
        files = find_images(folder)
        self._by_stem = {file.stem: file for file in files}
        self._mask_of: dict[str, Path] = {}  # stem of a slice -> mask, as they are asked for
        if len(self._by_stem) < len(files):
            twice = [
                f"{file} and {self._by_stem[file.stem]}"
                for file in files
                if self._by_stem[file.stem] != file
            ]
            raise DataError(
                f"of one stem are {listed(twice, separator=', ')}. Move one of each elsewhere.",
                where=folder,
            )

    def to_grey(self, image: np.ndarray) -> np.ndarray:
        """Return a slice as (H, W) uint8 for eyes; slices without HU are stretched to fit."""
        return show_grey(image)

    def predict_files(self, paths: Iterable[Path], *, batch_size: int = 8) -> Iterator[Prediction]:
        """Yield the mask of each file, in order, as classes alone."""
        paths = list(paths)
        self._find_masks({path.stem for path in paths} - self._mask_of.keys())
        for path in paths:
            mask = self._mask_of.get(path.stem)
            if mask is None:
                error = (
                    f"{self.folder}: no mask of stem {path.stem}. Predict it, drop the pair, or "
                    "say how masks are called, as mask_names='*=*_seg' where a.tif has a_seg.png."
                )
                yield Prediction(path, error=error)
                continue
            classes = self.codec.encode(read_mask(mask), str(mask))
            yield Prediction(path, segmented=Segmented(classes))

    def _find_masks(self, stems: Set[str]) -> None:
        if stems:
            found = image_names(
                sorted(stems), self._by_stem, names=self.mask_names, argument="mask_names"
            )
            self._mask_of |= {image: self._by_stem[mask] for mask, image in found.items()}
