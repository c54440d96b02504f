"""From slices to masks: arrays and files, through one protocol, images to probabilities.

Imports no torch: a network is fetched with what it needs when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lungunet.data.codec import LabelCodec
from lungunet.data.ct import read_image
from lungunet.errors import ConfigError, DataError
from lungunet.inference.prefetch import ahead
from lungunet.inference.threshold import ThresholdSegmenter

if TYPE_CHECKING:
    from lungunet.models.device import Precision


class Segmenter(Protocol):
    """Anything that turns slices into probabilities: a network, or a rule without weights."""

    codec: LabelCodec

    def prepare(self, image: np.ndarray) -> Any:
        """Check a slice and make of it what the call takes; threads do this ahead of the model.

        Parameters
        ----------
        image : (H, W), HU or what the file holds

        Raises
        ------
        DataError
            When the slice is not of the kind that the model knows.
        """
        ...

    def __call__(self, prepared: Sequence[Any], /) -> list[np.ndarray]:
        """Segment what :meth:`prepare` returned for slices of any sizes, at least one.

        Returns
        -------
        list of (C, H, W) float32
            Probabilities that sum to 1 over C, at the size of each slice.
        """
        ...

    def to_grey(self, image: np.ndarray) -> np.ndarray:
        """Return the slice as (H, W) uint8, the way it should be looked at."""
        ...


@dataclass(frozen=True)
class Segmented:
    """What a model says of one slice.

    Parameters
    ----------
    probabilities : (C, H, W) float32, sum to 1 over C
    disagreement : in [0, 1]; 1 - IoU of the lung found in the slice and in its left-right mirror, 0
        where there is none in both; None without ``tta``
    """

    probabilities: np.ndarray
    disagreement: float | None = None

    @cached_property
    def classes(self) -> np.ndarray:
        """(H, W) uint8, the likeliest class of each pixel; of equal ones the first."""
        return _likeliest(self.probabilities)


@dataclass(frozen=True)
class Prediction:
    """What became of one file: a mask, or the reason why there is none.

    Parameters
    ----------
    path : the file
    image : (H, W) as read; None where reading failed
    probabilities : (C, H, W) float32; None where there is an error
    error : what was wrong with this file; None where all went well
    disagreement : see :class:`Segmented`
    """

    path: Path
    image: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    error: str | None = None
    disagreement: float | None = None

    @cached_property
    def classes(self) -> np.ndarray:
        """(H, W) uint8, the likeliest class of each pixel.

        Raises
        ------
        DataError
            When the file could not be predicted.
        """
        if self.probabilities is None:
            raise DataError(self.error or f"{self.path}: was not predicted.")
        return _likeliest(self.probabilities)


class Predictor:
    """Segments slices with a trained model.

    Parameters
    ----------
    segmenter : what does it, usually by :meth:`load`
    tta : average the probabilities of each slice and of its left-right mirror; takes twice as long

    Raises
    ------
    ConfigError
        When ``tta`` is asked for and there are more than two classes.
    """

    def __init__(self, segmenter: Segmenter, *, tta: bool = False) -> None:
        if tta and segmenter.codec.n_classes > 2:
            raise ConfigError(
                f"the model has {segmenter.codec.n_classes} classes, and one that means left "
                "or right would swap sides in the mirror. Predict without tta.",
                where="tta",
            )
        self.segmenter = segmenter
        self.tta = tta

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        tta: bool = False,
    ) -> Predictor:
        """Read a model; no network, no unpickling.

        Parameters
        ----------
        path : a run folder, a model folder, an ``.onnx`` file that :func:`export_onnx` wrote, or
            the word ``"threshold"`` for the baseline by HU, which needs no weights; a folder of
            that name is ``"./threshold"`` or a Path. The last two need no torch
        device, precision : of a network; the others compute on the CPU in fp32
        tta : see :class:`Predictor`

        Raises
        ------
        ModelError
            When there is no usable model.
        ConfigError
            When the device is not there, or the model cannot use it.
        MissingExtraError
            When an ``.onnx`` file is given and onnxruntime is not installed.
        """
        segmenter: Segmenter
        if path == "threshold":
            _refuse_device(path, device, precision)
            segmenter = ThresholdSegmenter()
        elif Path(path).suffix.lower() == ".onnx" and not Path(path).is_dir():
            from lungunet.inference.onnx import OnnxSegmenter

            _refuse_device(path, device, precision)
            segmenter = OnnxSegmenter(path)
        else:
            from lungunet.inference.network import TorchSegmenter
            from lungunet.models.folder import load_model

            saved = load_model(path)
            segmenter = TorchSegmenter(
                saved.model, saved.contract, saved.codec, device=device, precision=precision
            )
        return cls(segmenter, tta=tta)

    @property
    def codec(self) -> LabelCodec:
        """The codec of the masks that come out: 0/255 for lung against background."""
        return self.segmenter.codec.for_prediction

    def to_grey(self, image: np.ndarray) -> np.ndarray:
        """Return a slice as (H, W) uint8, the way the model's window shows it.

        Raises
        ------
        DataError
            As for :meth:`probabilities`.
        """
        return self.segmenter.to_grey(image)

    def segment(self, images: Iterable[np.ndarray]) -> list[Segmented]:
        """Segment slices of any sizes at once, as one batch.

        Parameters
        ----------
        images : (H, W) each, as :func:`read_image` gives them

        Returns
        -------
        list of Segmented
            One for each slice, in order.

        Raises
        ------
        DataError
            As for :meth:`probabilities`.
        """
        return self._segment([self._views(image) for image in images])

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Segment one slice.

        Parameters
        ----------
        image : (H, W) as :func:`read_image` gives it

        Returns
        -------
        (C, H, W) float32
            Probability of each class, at the size of the slice.

        Raises
        ------
        DataError
            When the slice is not what the model was trained on, such as 8-bit grey for HU.
        """
        return self.segment([image])[0].probabilities

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Segment one slice.

        Parameters
        ----------
        image : (H, W) as :func:`read_image` gives it

        Returns
        -------
        (H, W) uint8
            Raw mask values: 0 and 255 for lung against background.

        Raises
        ------
        DataError
            As for :meth:`probabilities`.
        """
        return self.codec.decode(self.segment([image])[0].classes)

    def predict_files(self, paths: Iterable[Path], *, batch_size: int = 8) -> Iterator[Prediction]:
        """Segment files, in order; a bad file becomes a :class:`Prediction` with an error.

        Files are read ahead in threads; memory does not grow with their number.

        Raises
        ------
        ConfigError
            When the batch size is below 1.
        """
        if batch_size < 1:
            raise ConfigError("must be at least 1.", where=f"batch_size={batch_size}")
        reads = ahead(self._read, paths, depth=2 * batch_size)
        while batch := list(islice(reads, batch_size)):
            found = iter(self._segment([views for read, views in batch if not read.error]))
            for read, _ in batch:
                yield read if read.error else _joined(read, next(found))

    def _read(self, path: Path) -> tuple[Prediction, list[Any]]:
        """Return a file without its mask yet, and what the segmenter takes; runs in a thread."""
        try:
            image = read_image(path)
        except DataError as err:
            return Prediction(path, error=str(err)), []
        try:
            return Prediction(path, image), self._views(image)
        except DataError as err:
            reason = str(err).removeprefix("slice: ")
            return Prediction(path, image, error=f"{path}: {reason}"), []

    def _views(self, image: np.ndarray) -> list[Any]:
        """Prepare a slice and, with tta, its left-right mirror."""
        views = [image, np.ascontiguousarray(image[..., ::-1])] if self.tta else [image]
        return [self.segmenter.prepare(view) for view in views]

    def _segment(self, slices: Sequence[list[Any]]) -> list[Segmented]:
        prepared = [view for views in slices for view in views]
        found = iter(self.segmenter(prepared) if prepared else [])
        return [_merged([next(found) for _ in views]) for views in slices]


def _merged(found: list[np.ndarray]) -> Segmented:
    """Join the probabilities of a slice with those of its mirror, where there are any."""
    if len(found) == 1:
        return Segmented(found[0])
    plain, mirrored = found[0], found[1][..., ::-1]
    lung, again = (_likeliest(probabilities) > 0 for probabilities in (plain, mirrored))
    either = int(np.count_nonzero(lung | again))
    both = int(np.count_nonzero(lung & again))
    disagreement = 1 - both / either if either else 0.0
    return Segmented((plain + mirrored) / np.float32(2), disagreement)


def _likeliest(probabilities: np.ndarray) -> np.ndarray:
    if len(probabilities) == 2:  # much faster than argmax along the first axis
        return np.asarray((probabilities[1] > probabilities[0]).view(np.uint8))
    return np.asarray(probabilities.argmax(axis=0), np.uint8)


def _joined(read: Prediction, found: Segmented) -> Prediction:
    return Prediction(read.path, read.image, found.probabilities, disagreement=found.disagreement)


def _refuse_device(path: str | Path, device: str, precision: str) -> None:
    if device not in ("auto", "cpu") or precision not in ("auto", "fp32"):
        raise ConfigError(
            f"computes on the CPU in fp32, not on '{device}' in '{precision}'. "
            "Leave out device and precision, or give a run folder.",
            where=path,
        )
