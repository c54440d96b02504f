"""From slices to masks: arrays and files, through one protocol, images to probabilities.

Imports no torch: a network is fetched with what it needs when it is loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.ct import read_image
from lungunet.data.hu import HuFault, HuSurvey
from lungunet.data.kinds import check_kind, check_spacing, plain_value
from lungunet.data.window import shows_hu
from lungunet.errors import ConfigError, DataError, LungUNetWarning, ModelError
from lungunet.inference.prefetch import map_ahead, map_side_by_side
from lungunet.inference.segmenter import Segmented, Segmenter, disagree
from lungunet.inference.square import resize_plane, resize_segmented, square_shape
from lungunet.models.hub import hub_address
from lungunet.models.members import find_members
from lungunet.volumes.formats import is_volume_source
from lungunet.volumes.volume import Volume, read_volume

if TYPE_CHECKING:
    from torch import nn

    from lungunet.models.device import Precision
    from lungunet.models.folder import SavedModel


_LOOKED_AT = 24  # slices, to know what values a list holds


@dataclass(frozen=True)
class Loading:
    """How a predictor was loaded, so that other processes can; see :meth:`Predictor.load`."""

    model: str
    precision: Precision
    tta: bool


@dataclass(frozen=True, eq=False)
class Prediction:
    """What became of one file: a mask, or the reason why there is none.

    Parameters
    ----------
    path : the file
    image : (H, W) as read; None where reading failed, or nobody read it
    segmented : None where there is an error
    error : what was wrong with this file; None where all went well
    """

    path: Path
    image: np.ndarray | None = None
    segmented: Segmented | None = None
    error: str | None = None

    @property
    def classes(self) -> np.ndarray:
        """(H, W) uint8, the class of each pixel.

        Raises
        ------
        DataError
            When the file could not be predicted.
        """
        if self.segmented is None:
            raise DataError(self.error or f"{self.path}: was not predicted.")
        return self.segmented.classes


class Predictor:
    """Segments slices and scans with a trained model, usually by :meth:`load`.

    Calling it is :meth:`predict`.

    Parameters
    ----------
    model : a network of your own that returns logits (N, C, size, size), as :class:`Trainer` takes
        it, moved to the device and set to predict in place; or a :class:`Segmenter`, which has
        contract, codec and device of its own
    contract : what the network was trained on, such as ``dataset.contract``
    codec : of the masks it was trained on; None takes 0 for background and 255 for lung
    device, precision : where and in what the network computes, see :class:`TrainConfig`
    tta : average each slice with its left-right mirror; takes twice as long

    Raises
    ------
    ConfigError
        When a network comes without contract or a segmenter with one, the device is not there, or
        ``tta`` is asked for and there are more than two classes.

    Examples
    --------
    >>> import lungunet
    >>> network = lungunet.build_unet("unet2015", width=2, seed=0)
    >>> predictor = lungunet.Predictor(network, lungunet.InputContract(32))
    >>> predictor(np.zeros((40, 30), np.int16)).shape
    (40, 30)
    """

    def __init__(
        self,
        model: nn.Module | Segmenter,
        contract: InputContract | None = None,
        codec: LabelCodec | None = None,
        *,
        device: str | int = "auto",
        precision: Precision = "auto",
        tta: bool = False,
    ) -> None:
        self.segmenter = _as_segmenter(model, contract, codec, device=device, precision=precision)
        self.tta = tta
        self._weights_sha256 = self._address = ""
        self.loading: Loading | None = None
        if tta and self.codec.n_classes > 2:
            raise ConfigError(
                f"tta: the model has {self.codec.n_classes} classes, and one that means left "
                "or right would swap sides in the mirror. Predict without tta."
            )

    @classmethod
    def load(
        cls,
        model: str | Path | SavedModel,
        *,
        device: str | int = "auto",
        precision: Precision = "auto",
        tta: bool | None = None,
    ) -> Predictor:
        """Read a model; no unpickling, and no network but for an address of the hub.

        Parameters
        ----------
        model : a run folder, a model folder, what :func:`load_model` returned, an ``.onnx`` file
            that :func:`export_onnx` wrote, or a word: ``"lungs"`` for the built-in model,
            ``"threshold"`` for the baseline by HU, which needs no weights. A folder of that name
            is ``"./lungs"`` or a Path. An ``.onnx`` file and the threshold need no torch, nor does
            ``"lungs"`` on the CPU where onnxruntime is installed.
            Several are averaged: the folder of a cross-validation, for the models of its folds,
            or ``"runs/a+runs/b"``. ``"hf://OWNER/NAME@REVISION"`` is fetched from the Hugging Face
            Hub where the cache does not hold it; a warning names the commit of a branch
        device, precision : of a network; the others compute on the CPU in fp32
        tta : see :class:`Predictor`; None is True for the built-in model alone, which on patients
            that it has not seen gains by it

        Raises
        ------
        ModelError
            When there is no usable model.
        WeightsUnavailableError
            When the hub cannot be reached.
        ConfigError
            When the device is not there, or the model cannot use it.
        MissingExtraError
            When an ``.onnx`` file is given and onnxruntime is not installed.
        """
        segmenter, saved = _read_segmenter(model, device=device, precision=precision)
        loaded = cls(segmenter, tta=segmenter.word == "lungs" if tta is None else tta)
        if isinstance(model, str | Path):
            loaded._address = hub_address(model)
            # A Path is never a word.
            name = model if isinstance(model, str) else str(model.absolute())
            name = loaded._address or name  # for all processes the same commit
            loaded.loading = Loading(name, precision, loaded.tta)
        if saved is not None:
            from lungunet.models.folder import weights_hash

            with suppress(ModelError):  # put together in Python, it has no folder
                # Of the file, which may hold halves.
                loaded._weights_sha256 = weights_hash(saved.folder)
        return loaded

    def __repr__(self) -> str:
        """Say which model, what it sees and what its masks hold."""
        name = type(self.segmenter).__name__
        sees = "HU" if self.word == "threshold" else self.segmenter.contract
        return f"<Predictor: {name}, sees {sees}, gives {self.codec}, tta={self.tta}>"

    @property
    def codec(self) -> LabelCodec:
        """The codec of the masks that come out: 0/255 for lung against background."""
        return self.segmenter.codec.for_prediction

    @property
    def word(self) -> str:
        """What :meth:`load` knows the model by: threshold or lungs; empty for any other."""
        return self.segmenter.word

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights, as a model folder says it; empty of what has none, as a rule."""
        return self._weights_sha256 or str(getattr(self.segmenter, "weights_sha256", ""))

    @property
    def address(self) -> str:
        """Where on the hub it is from, with its commit; empty of what is from no hub."""
        return self._address

    def to_grey(self, image: np.ndarray) -> np.ndarray:
        """Return a slice as (H, W) uint8, the way the model's window shows it.

        Raises
        ------
        DataError
            As for :meth:`probabilities`.
        """
        return self.segmenter.contract.to_grey(image)

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
        return self._segment([self._views(image, "slice") for image in images])

    def segment_ahead(
        self,
        images: Iterable[np.ndarray],
        *,
        batch_size: int = 8,
        spacing_mm: tuple[float, float] | None = None,
    ) -> Iterator[list[Segmented]]:
        """Segment many slices, a batch at a time; the next ones are prepared in threads.

        Parameters
        ----------
        spacing_mm : (y, x), sides of a pixel. Where one is more than 1.3 times the other, the model
            is shown the slices with square pixels; what it says comes back at their own size
        """
        if spacing_mm is not None:
            check_spacing(spacing_mm, 2)

        def prepare(image: np.ndarray) -> tuple[tuple[int, int], list[Any]]:
            square = resize_plane(image, square_shape(image.shape, spacing_mm))
            return image.shape, self._views(square, "slice")

        prepared = map_ahead(prepare, images, depth=batch_size)
        while batch := list(islice(prepared, batch_size)):
            segmented = self._segment([views for _, views in batch])
            yield [
                resize_segmented(each, shape)
                for each, (shape, _) in zip(segmented, batch, strict=True)
            ]

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Segment one slice.

        Parameters
        ----------
        image : (H, W) as :func:`read_image` gives it

        Returns
        -------
        (C, H, W) float32
            Probability of each class, at the size of the slice; 0 and 1 of a rule.

        Raises
        ------
        DataError
            When the slice is not what the model was trained on, such as 8-bit grey for HU.
        """
        segmented = self.segment([image])[0]
        return np.stack([segmented.probability(index) for index in range(self.codec.n_classes)])

    @overload  # text is an iterable of text, but no list of slices
    def predict(self, image: np.ndarray | str | Path | Volume) -> np.ndarray: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, image: Iterable[np.ndarray | str | Path | Volume]) -> list[np.ndarray]: ...

    def predict(
        self,
        image: np.ndarray | str | Path | Volume | Iterable[np.ndarray | str | Path | Volume],
    ) -> np.ndarray | list[np.ndarray]:
        """Segment one slice, or one scan by :func:`predict_volume`, or several of either.

        Parameters
        ----------
        image : a slice, (H, W) as :func:`read_image` gives it; a scan, as :func:`read_volume` gives
            it; the path of either; or a list of these, one after the other

        Returns
        -------
        list of what follows, of a list
        (H, W) uint8 of a slice, (D, H, W) uint8 of a scan in the order of ``Volume.array``
            Raw mask values: 0 and 255 for lung against background.

        Raises
        ------
        DataError
            As for :meth:`probabilities`, and when a file cannot be read.
        """
        if not isinstance(image, np.ndarray | str | Path | Volume):
            return [self.predict(each) for each in image]
        where = "slice"
        if isinstance(image, str | Path):
            where = str(image)
            image = read_volume(image) if is_volume_source(image) else read_image(image)
        if isinstance(image, Volume):
            from lungunet.inference.scans import predict_volume

            return self.codec.decode(predict_volume(self, image).classes)
        return self.codec.decode(self._segment([self._views(image, where)])[0].classes)

    __call__ = predict

    def predict_files(
        self, paths: str | Path | Iterable[str | Path], *, batch_size: int = 8
    ) -> Iterator[Prediction]:
        """Segment files, in order; a bad file becomes a :class:`Prediction` with an error.

        Files are read ahead in threads; memory does not grow with their number. Where the model
        sees HU and the slices can hardly be, a warning says so in the end.

        Raises
        ------
        ConfigError
            When the batch size is below 1.
        """
        judged = HuSurvey()
        many = [paths] if isinstance(paths, str | Path) else paths
        yield from predict_some(self, map(Path, many), judged, batch_size=batch_size)
        warn_of(self, judged)

    def _read(self, path: Path) -> tuple[Prediction, list[Any]]:
        """Return a file without its mask yet, and what the segmenter takes; runs in a thread."""
        image = None
        try:
            image = read_image(path)
            return Prediction(path, image), self._views(image, str(path))
        except DataError as err:
            return Prediction(path, image, error=str(err)), []

    def _views(self, image: np.ndarray, where: str) -> list[Any]:
        """Prepare a slice and, with tta, its left-right mirror."""
        views = [self.segmenter.prepare(image, where)]  # which refuses what is no array
        if self.tta:
            mirrored = np.ascontiguousarray(image[..., ::-1])
            views.append(self.segmenter.prepare(mirrored, where))
        return views

    def _segment(self, slices: Sequence[list[Any]]) -> list[Segmented]:
        prepared = [view for views in slices for view in views]
        done = iter(self.segmenter(prepared) if prepared else [])
        said = [[next(done) for _ in views] for views in slices]
        return map_side_by_side(lambda views: _merged(*views), said) if said else []


def predict_some(
    predictor: Predictor, paths: Iterable[Path], judged: HuSurvey, *, batch_size: int
) -> Iterator[Prediction]:
    """Do what :meth:`Predictor.predict_files` does, with files that are some of many."""
    check_kind("batch_size", plain_value(batch_size), int, "Give a whole number, 1 or more.")
    if batch_size < 1:
        raise ConfigError("must be at least 1.", where=f"batch_size={batch_size}")
    reads = map_ahead(predictor._read, paths, depth=2 * batch_size)
    while batch := list(islice(reads, batch_size)):
        masks = iter(predictor._segment([views for read, views in batch if not read.error]))
        for read, _ in batch:
            if read.image is not None and not read.error:
                judged.look(read.image, read.path.stem)
            yield read if read.error else replace(read, segmented=next(masks))


def sees_hu(predictor: Predictor) -> bool:
    """Whether a model takes the values of slices for HU."""
    return shows_hu(predictor.segmenter.contract.window)


def find_no_hu(paths: Sequence[Path]) -> HuFault | None:
    """Return why slices cannot be HU, as some of them spread over the list tell; None if they can.

    What cannot be read is left out: it is said where it is predicted.
    """
    survey = HuSurvey()
    for place in np.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_AT)).astype(int):
        with suppress(DataError):
            survey.look(read_image(paths[place]), paths[place].stem)
    fault = survey.fault
    return fault if fault is not None and fault.severity == "error" else None


def warn_of(predictor: Predictor, judged: HuSurvey) -> None:
    """Say it where a model sees HU, and the slices can hardly be."""
    if sees_hu(predictor) and (fault := judged.fault):
        warnings.warn(f"these masks mean little: {fault.text}", LungUNetWarning, stacklevel=3)


def _read_segmenter(
    model: str | Path | SavedModel, *, device: str | int, precision: Precision
) -> tuple[Segmenter, SavedModel | None]:
    """Return what a MODEL is, and of a single network also what its folder says."""
    saved = cast("SavedModel", model)
    if isinstance(model, str | Path):
        members = find_members(model)
        if len(members) > 1:
            from lungunet.inference.ensemble import load_ensemble

            return load_ensemble(members, device=device, precision=precision), None
        word = members[0]
        if word == "threshold":
            from lungunet.inference.threshold import ThresholdSegmenter

            _refuse_device(word, device, precision)
            return ThresholdSegmenter(), None
        if Path(word).suffix.lower() == ".onnx" and not Path(word).is_dir():
            from lungunet.inference.onnx import OnnxSegmenter

            _refuse_device(word, device, precision)
            return OnnxSegmenter(word), None
        if word == "lungs":
            from lungunet.inference.lungs import load_lungs

            return load_lungs(device=device, precision=precision), None
        from lungunet.models.folder import load_model

        saved = load_model(word)
    from lungunet.inference.network import TorchSegmenter

    network = TorchSegmenter(
        saved.model, saved.contract, saved.codec, device=device, precision=precision
    )
    return network, saved


def _as_segmenter(
    model: nn.Module | Segmenter,
    contract: InputContract | None,
    codec: LabelCodec | None,
    *,
    device: str | int,
    precision: Precision,
) -> Segmenter:
    if hasattr(model, "segment_volume"):
        if (contract, codec, device, precision) != (None, None, "auto", "auto"):
            raise ConfigError(
                "contract, codec, device, precision: a segmenter has its own. Leave them out."
            )
        return cast("Segmenter", model)
    if contract is None:
        raise ConfigError(
            "contract: a network needs the one that it was trained with, as dataset.contract. "
            "Pass it."
        )
    from lungunet.inference.network import TorchSegmenter

    fix = "Give the one that it was trained with, as dataset.contract."
    check_kind("contract", contract, InputContract, fix)
    check_kind("codec", codec, LabelCodec | None, "Give LabelCodec.parse('0,255').")
    network = cast("nn.Module", model)
    codec = codec or LUNG_CODEC
    return TorchSegmenter(network, contract, codec, device=device, precision=precision)


def _merged(plain: Segmented, mirrored: Segmented | None = None) -> Segmented:
    """Join what is said of a slice with what is said of its mirror, where there is one."""
    if mirrored is None:
        return plain
    again = mirrored.classes[..., ::-1]
    disagreement = disagree(plain.classes, again)
    if plain.probabilities is None or mirrored.probabilities is None:
        # Of the mean of two such masks the likeliest class is lung where both say so.
        return Segmented(plain.classes & again, disagreement=disagreement)
    mean = (plain.probabilities + mirrored.probabilities[..., ::-1]) / np.float32(2)
    spread = None
    if plain.spread is not None and mirrored.spread is not None:
        spread = (plain.spread + mirrored.spread[..., ::-1]) / np.float32(2)
    return Segmented.likeliest(mean, disagreement=disagreement, spread=spread)


def _refuse_device(path: str | Path, device: str | int, precision: str) -> None:
    if device not in ("auto", "cpu") or precision not in ("auto", "fp32"):
        raise ConfigError(
            f"computes on the CPU in fp32, not on '{device}' in '{precision}'. "
            "Leave out device and precision, or give a run folder.",
            where=path,
        )
