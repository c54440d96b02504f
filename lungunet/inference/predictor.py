"""From slices to masks: arrays and files, through one protocol, images to probabilities."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.ct import read_image
from lungunet.errors import ConfigError, DataError
from lungunet.inference.threshold import ThresholdSegmenter
from lungunet.models.device import Precision, pick_device, pick_precision
from lungunet.models.folder import load_model


class Segmenter(Protocol):
    """Anything that turns slices into probabilities: a network, or a rule without weights."""

    codec: LabelCodec

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Segment slices as they were read, of any sizes.

        Parameters
        ----------
        images : (H, W) each, HU or what the files hold

        Returns
        -------
        list of (C, H, W) float32
            Probabilities that sum to 1 over C, at the size of each slice.
        """
        ...

    def to_grey(self, image: np.ndarray) -> np.ndarray:
        """Return the slice as (H, W) uint8, the way it should be looked at."""
        ...


class TorchSegmenter:
    """A network behind its input contract.

    Parameters
    ----------
    model : returns logits (N, C, size, size)
    device : auto, cpu, cuda, cuda:1 or mps
    precision : auto, fp32, bf16 or fp16
    """

    def __init__(
        self,
        model: torch.nn.Module,
        contract: InputContract,
        codec: LabelCodec,
        *,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        self.contract = contract
        self.codec = codec
        self.device = pick_device(device)
        self.dtype = pick_precision(precision, self.device)
        if getattr(model, "valid", False):
            # Same weights, mirror-padded: masks of the size of the input.
            setattr(model, "valid", False)  # noqa: B010 - nn.Module types attributes as modules
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Segment slices of any sizes in one forward pass; see :class:`Segmenter`."""
        batch = torch.from_numpy(np.stack([self.contract.prepare(image) for image in images]))
        batch = batch.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(batch)
        return [
            self.contract.unfit(logits[i : i + 1], *image.shape)[0].softmax(0).cpu().numpy()
            for i, image in enumerate(images)
        ]

    def to_grey(self, image: np.ndarray) -> np.ndarray:
        """Return the slice as the model's window shows it."""
        return self.contract.to_grey(image)


@dataclass(frozen=True)
class Prediction:
    """What became of one file: a mask, or the reason why there is none.

    Parameters
    ----------
    path : the file
    image : (H, W) as read; None where reading failed
    probabilities : (C, H, W) float32; None where there is an error
    error : what was wrong with this file; None where all went well
    """

    path: Path
    image: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    error: str | None = None

    @property
    def classes(self) -> np.ndarray:
        """(H, W) uint8, the likeliest class of each pixel.

        Raises
        ------
        DataError
            When the file could not be predicted.
        """
        if self.probabilities is None:
            raise DataError(self.error or f"{self.path}: was not predicted.")
        return np.asarray(self.probabilities.argmax(axis=0), np.uint8)


class Predictor:
    """Segments slices with a trained model.

    Parameters
    ----------
    segmenter : what does it, usually by :meth:`load`
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", precision: Precision = "auto"
    ) -> "Predictor":
        """Read a model; no network, no unpickling.

        Parameters
        ----------
        path : a run folder or a model folder, or the word ``"threshold"`` for the baseline by HU,
            which needs no weights; a folder of that name is ``"./threshold"`` or a Path

        Raises
        ------
        ModelError
            When there is no usable model.
        ConfigError
            When the device is not there.
        """
        if path == "threshold":
            return cls(ThresholdSegmenter())
        saved = load_model(path)
        return cls(
            TorchSegmenter(
                saved.model, saved.contract, saved.codec, device=device, precision=precision
            )
        )

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
        return self.segmenter([image])[0]

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
        return self.codec.decode(self.probabilities(image).argmax(axis=0))

    def predict_files(self, paths: Iterable[Path], *, batch_size: int = 8) -> Iterator[Prediction]:
        """Segment files, in order; a bad file becomes a :class:`Prediction` with an error.

        Files are read ahead in a thread; memory does not grow with their number.

        Raises
        ------
        ConfigError
            When the batch size is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: must be at least 1.")
        paths = iter(paths)
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(_read_batch, list(islice(paths, batch_size)))
            while batch := ahead.result():
                ahead = reader.submit(_read_batch, list(islice(paths, batch_size)))
                yield from self._predict_batch(batch)

    def _predict_batch(self, batch: list[Prediction]) -> Iterator[Prediction]:
        checked = [self._checked(read) for read in batch]
        images = [read.image for read in checked if read.image is not None and not read.error]
        found = iter(self.segmenter(images) if images else [])
        for read in checked:
            yield read if read.error else Prediction(read.path, read.image, next(found))

    def _checked(self, read: Prediction) -> Prediction:
        if read.image is None:
            return read
        try:
            self.segmenter.to_grey(read.image)
        except DataError as err:
            reason = str(err).removeprefix("slice: ")
            return Prediction(read.path, read.image, error=f"{read.path}: {reason}")
        return read


def _read_batch(paths: list[Path]) -> list[Prediction]:
    batch = []
    for path in paths:
        try:
            batch.append(Prediction(path, read_image(path)))
        except DataError as err:
            batch.append(Prediction(path, error=str(err)))
    return batch
