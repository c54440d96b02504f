"""What can be scored: a model, or the masks that any other tool made, in its place."""

from collections.abc import Iterable, Iterator, Set
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from lungunet.data.codec import IGNORE, LUNG_CODEC, LabelCodec
from lungunet.data.ct import read_mask
from lungunet.data.kinds import as_list
from lungunet.data.manifest import (
    Pair,
    find_images,
    image_names,
    name_files,
    refuse_equal_names,
)
from lungunet.data.names import NameRule
from lungunet.data.overlay import show_grey
from lungunet.errors import ConfigError, listed
from lungunet.inference.predictor import Prediction
from lungunet.inference.record import identify_source, masks_by_source
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


def match_classes(classes: np.ndarray, masks: LabelCodec, truth: LabelCodec) -> np.ndarray:
    """Return classes of masks as the truth numbers them, where both name the same ones.

    Parameters
    ----------
    classes : any shape, uint8, as ``masks`` numbers them; what it does not name stays
    """
    if masks.names == truth.names or {*masks.names} != {*truth.names}:
        return classes
    table = np.arange(256, dtype=np.uint8)
    table[: masks.n_classes] = [truth.names.index(name) for name in masks.names]
    return np.asarray(table[classes])


def say_other_names(masks: LabelCodec, truth: LabelCodec) -> list[str]:
    """Say which classes are compared that are called otherwise; of lung alone there is no doubt."""
    named = masks.is_named and truth.is_named and masks.n_classes == truth.n_classes > 2
    if not named or {*masks.names} == {*truth.names}:
        return []
    pairs = zip(truth.names[1:], masks.names[1:], strict=True)
    called = [f"{one} with {other}" for one, other in pairs if one != other]
    return [
        "classes are compared by their order, for truth and masks call them otherwise: "
        f"{listed(called, separator=', ')}"
    ]


def say_other_numbers(truth: LabelCodec, masks: LabelCodec, *, of_model: bool) -> str:
    """Say that truth and masks have not as many classes, and how the one is read as the other."""
    of = "the model" if of_model else "the masks to score"
    if masks.n_classes == 2:
        fix = f"All classes of the truth as lung are codec=LabelCodec.parse('{_as_lung(truth)}')."
    elif truth.n_classes == 2:
        lung = f"mask_codec=LabelCodec.parse('{_as_lung(masks.for_prediction)}')"
        fix = f"All classes of the masks as lung are {lung}."
        if of_model:
            fix = f"Predict masks with it, and score these in its place, with {lung}."
    else:
        fix = "Pass codec for the truth, or mask_codec for masks, to read the one as the other."
    return f"the truth has {truth.n_classes} classes, {of} {masks.n_classes}. {fix}"


def _as_lung(codec: LabelCodec) -> LabelCodec:
    """Return a codec that reads all classes but background as lung."""
    lung = {0: 0, IGNORE: IGNORE}  # and all others 1
    classes = {raw: lung.get(index, 1) for raw, index in codec.classes.items()}
    return LabelCodec(classes, other=None if codec.other is None else lung.get(codec.other, 1))


class MaskFolder:
    """Answers for a slice with the mask in a folder that belongs to it by name.

    Where none does, with the one that was predicted from its file, as the record beside masks says.

    Parameters
    ----------
    folder : masks as PNG, TIFF, JPEG or BMP
    codec : how they are coded
    mask_names : how the names of slice and mask differ, as ``names`` of :func:`find_pairs`
    slices : what is scored, where some are called otherwise than by their stems

    Raises
    ------
    DataError
        When the folder is missing or empty, or two masks share a name.
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
        slices: Iterable[Pair] = (),
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
        named = name_files(find_images(folder))
        refuse_equal_names(Pair(file, None, name) for file, name in named.items())
        self._by_name = {name: file for file, name in named.items()}
        self._called = {pair.image: pair.name for pair in slices}
        self._mask_of: dict[str, Path] = {}  # name of a slice -> mask, as they are asked for

    def to_grey(self, image: np.ndarray) -> np.ndarray:
        """Return a slice as (H, W) uint8 for eyes; slices without HU are stretched to fit."""
        return show_grey(image)

    def predict_files(
        self, paths: str | Path | Iterable[str | Path], *, batch_size: int = 8
    ) -> Iterator[Prediction]:
        """Yield the mask of each file, in order, as classes alone."""
        files = list(map(Path, as_list(paths)))
        names = [self._called.get(path, path.stem) for path in files]
        self._find_masks(set(names) - self._mask_of.keys())
        for path, name in zip(files, names, strict=True):
            mask = self._mask_of.get(name) or self._predicted_from(path)
            if mask is None:
                error = (
                    f"{self.folder}: no mask of {name}. Predict it, drop the pair, or "
                    "say how masks are called, as mask_names='*=*_seg' where a.tif has a_seg.png."
                )
                yield Prediction(path, error=error)
                continue
            classes = self.codec.encode(read_mask(mask), str(mask), argument="mask_codec")
            yield Prediction(path, segmented=Segmented(classes))

    def _predicted_from(self, path: Path) -> Path | None:
        name = self._by_source and self._by_source.get(identify_source([path]))
        return self._by_name.get(name) if name else None

    @cached_property
    def _by_source(self) -> dict[str, str]:
        return masks_by_source(self.folder)

    def _find_masks(self, names: Set[str]) -> None:
        if names:
            found = image_names(
                sorted(names), self._by_name, names=self.mask_names, argument="mask_names"
            )
            self._mask_of |= {image: self._by_name[mask] for mask, image in found.items()}
