"""Pairs to tensors: the dataset.

Everything here runs on the CPU and pickles, so that any DataLoader can take it.
"""

import operator
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from lungunet.data.cache import Sample, SliceCache
from lungunet.data.codec import IGNORE, LUNG_CODEC, LabelCodec, is_lung
from lungunet.data.contract import InputContract
from lungunet.data.ct import read_header, read_image, read_mask
from lungunet.data.disease import paint_disease
from lungunet.data.kinds import check_kind, check_whole
from lungunet.data.manifest import Pair, read_manifest, require_same_size
from lungunet.data.split import choose_codec
from lungunet.data.transforms import Transform, seed_transform
from lungunet.data.window import Window
from lungunet.errors import ConfigError, DataError, GeometryError, LabelError, SplitError

DEFAULT_SIZE = 256

Key = int | tuple[int, int]
"""An index, or (epoch, index) as :class:`EpochSampler` yields it."""


class LungCTDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """CT slices with their masks, as tensors.

    Parameters
    ----------
    pairs : pairs with masks, or the path of a manifest
    transform : augmentation on slice and mask together, such as :func:`train_transform`: called
        with ``image=`` and ``mask=``, (size, size) uint8 each. Normalisation comes after it. One of
        Albumentations is seeded, see :meth:`__getitem__`.
    size : side of the square that slices are fitted to, px; 256 where neither it nor a contract
        is given
    window : how HU become grey; None decides from the dtypes of all slices
    codec : raw mask values to classes; None means what split.json beside a manifest says, else
        0/255
    contract : take over the input contract of another dataset (val must carry train's) instead of
        ``size`` and ``window``
    seed : of the augmentation, see :meth:`__getitem__`
    cache : folder that keeps slices and masks as :meth:`read` returns them, to be read ten times as
        fast from then on, by other datasets and runs too; None keeps nothing

    Raises
    ------
    SplitError
        When there are no pairs.
    DataError
        When a pair lacks its mask, a file is no image or not of the contract's dtypes, or the
        folder of the cache cannot be written.
    ConfigError
        When both a contract and a size or window are given, dtypes are mixed or leave the window
        open, or the seed is negative.
    """

    def __init__(
        self,
        pairs: Sequence[Pair] | str | Path,
        *,
        transform: Transform | None = None,
        size: int | None = None,
        window: Window | None = None,
        codec: LabelCodec | None = None,
        contract: InputContract | None = None,
        seed: int = 0,
        cache: str | Path | None = None,
    ) -> None:
        if isinstance(pairs, str | Path) and Path(pairs).is_dir():
            raise DataError(
                f"a folder. Give one of its lists, as {Path(pairs, 'train.txt')}.", where=pairs
            )
        self.pairs = read_manifest(pairs) if isinstance(pairs, str | Path) else list(pairs)
        if not self.pairs:
            raise SplitError("no pairs.", where=pairs if isinstance(pairs, str | Path) else "pairs")
        for pair in self.pairs:
            if not isinstance(pair, Pair):
                raise DataError(
                    f"pairs: {pair!r} is no Pair. Give what find_pairs(images, masks) returns, or "
                    "the path of a list."
                )
            if pair.mask is None:
                raise DataError("no mask. A dataset needs one for every image.", where=pair.image)
        seed = check_whole("seed", seed)
        fix = "Give Window(level=-600, width=1500)."
        check_kind("window", window, Window | None, fix)
        fix = "Give LabelCodec.parse('0,255')."
        check_kind("codec", codec, LabelCodec | None, fix)
        fix = "Give that of a dataset, as train.contract."
        check_kind("contract", contract, InputContract | None, fix)
        if contract is not None and (size is not None or window is not None):
            raise ConfigError("A contract holds size and window already: give one or the other.")
        headers = {pair.image: read_header(pair.image).dtype for pair in self.pairs}
        self.contract = contract or InputContract.for_dtypes(
            headers.values(), size=DEFAULT_SIZE if size is None else size, window=window
        )
        for path, dtype in headers.items():
            self.contract.check_dtype(dtype, str(path))
        folder = Path(pairs).parent if isinstance(pairs, str | Path) else None
        self.codec = codec or (choose_codec(folder) if folder else LUNG_CODEC)
        self.transform = transform
        self.seed = seed
        self._draws = 0
        self._cache = (
            None if cache is None else SliceCache(cache, contract=self.contract, codec=self.codec)
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one sample.

        Parameters
        ----------
        key : (epoch, index) draws an augmentation that depends on (seed, epoch, index) alone,
            whatever the worker, if the transform is an object of Albumentations, a Compose or one
            step, that draws from its own generators. Any other callable, such as a function around
            a Compose, is called as it is: what it draws is not seeded here. A plain index, as
            foreign samplers yield it, draws another augmentation at every call.

        Returns
        -------
        image : (1, size, size) float32, normalised; smaller where the transform crops
        mask : (size, size) int64, classes 0..C-1, and :data:`IGNORE` where the codec ignores pixels

        Raises
        ------
        DataError
            When a file is unreadable, of a wrong dtype, or the transform broke the sample.
        GeometryError
            When image and mask differ in size.
        LabelError
            When the mask holds a value outside the codec, or gets one from the transform.
        """
        grey, classes = self.augment(key)
        image = torch.from_numpy(self.contract.normalise(grey))
        return image, torch.from_numpy(classes.astype(np.int64))

    def augment(self, key: Key) -> tuple[np.ndarray, np.ndarray]:
        """Return one sample before normalisation: a sixth of the bytes of :meth:`__getitem__`.

        Parameters
        ----------
        key : as for :meth:`__getitem__`

        Returns
        -------
        grey : (size, size) uint8
        classes : (size, size) uint8

        Raises
        ------
        DataError, GeometryError, LabelError
            As for :meth:`__getitem__`.
        """
        epoch, index = key if isinstance(key, tuple) else (None, operator.index(key))
        index = range(len(self))[index]  # -1 is the last one
        grey, classes = self.read(index)
        if self.transform is None:
            return grey, classes
        seed_transform(self.transform, self._entropy(epoch, index))
        moved: object = self.transform(image=grey, mask=classes)
        if not isinstance(moved, Mapping):
            raise DataError(
                f"the transform returned a {type(moved).__name__}; it "
                "must return a dict of image and mask, as those of Albumentations do.",
                where=self.pairs[index].name,
            )
        grey, classes = self._checked(moved.get("image"), moved.get("mask"), self.pairs[index])
        # Copies: what a transform returns may be a view, or its own to write over.
        return np.array(grey, order="C"), np.array(classes, np.uint8, order="C")

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one sample before augmentation and normalisation.

        A subclass may change it: all samples begin here, with a transform and without.

        Returns
        -------
        grey : (size, size) uint8
        classes : (size, size) uint8
        """
        grey, classes = self._fetch(index)
        return grey.copy(), classes.copy()  # a mapped sample that is kept keeps its file open

    def _fetch(self, index: int) -> Sample:
        pair = self.pairs[index]
        if self._cache is None:
            return self._make(pair)
        return self._cache.fetch(pair, partial(self._make, pair))

    def _make(self, pair: Pair) -> Sample:
        image, classes = read_pair(pair, self.codec)
        grey = self.contract.to_grey(image, str(pair.image))
        return self.contract.fit(grey), self.contract.fit_mask(classes)

    def _entropy(self, epoch: int | None, index: int) -> tuple[int, ...]:
        if epoch is not None:
            return (self.seed, epoch, index)
        # No epoch is named: count calls. Workers that are started anew each epoch count from 0
        # again, but torch seeds them from a number that it draws per epoch.
        self._draws += 1
        worker = get_worker_info()
        return (self.seed, index, self._draws, worker.seed if worker else 0)

    def _checked(self, grey: object, classes: object, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        if not (
            isinstance(grey, np.ndarray) and grey.dtype == np.uint8 and grey.ndim == 2 and grey.size
        ):
            raise DataError(
                f"the transform made {_kind(grey)} of the image; it must stay "
                "(H, W) uint8. Leave out Normalize and ToTensorV2: the dataset does both after it.",
                where=pair.name,
            )
        if not (isinstance(classes, np.ndarray) and classes.dtype.kind in "iub"):
            raise DataError(
                f"the transform made {_kind(classes)} of the mask; it must stay "
                "(H, W) of whole numbers, the classes. Leave out what makes shares of them.",
                where=pair.name,
            )
        if classes.shape != grey.shape:
            raise GeometryError(
                f"after the transform the mask is {classes.shape}, the image "
                f"{grey.shape}. Use transforms that move both.",
                where=pair.name,
            )
        known = classes[classes != IGNORE] if self.codec.ignores else classes
        low, high = int(known.min(initial=0)), int(known.max(initial=0))
        if low < 0 or high >= self.codec.n_classes:
            raise LabelError(
                f"after the transform the mask holds class "
                f"{low if low < 0 else high}, there are "
                f"0 to {self.codec.n_classes - 1}. Fill masks with 0 (fill_mask=0).",
                where=pair.name,
            )
        return grey, classes


class IllLungCTDataset(LungCTDataset):
    """The same slices with a disease painted into every one that holds lung, to validate on.

    One lung of a slice falls ill, or both. Each slice is painted in the same way whenever it is
    read, in every run: :func:`disease_slice` with its index as the seed. Masks stay, and so do
    slices without lung.

    Parameters
    ----------
    pairs, size, window, codec, contract, cache : as of :class:`LungCTDataset`; a cache keeps the
        slices as they are without disease
    """

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one sample, painted, before normalisation; see :meth:`LungCTDataset.read`."""
        grey, classes = super().read(index)
        rng = np.random.default_rng(index)
        return paint_disease(grey, is_lung(classes), rng), classes


def check_dataset(name: str, dataset: object) -> None:
    """Refuse what does not know its pairs, contract and codec, as a Subset."""
    check_kind(
        name,
        dataset,
        LungCTDataset,
        "Give a LungCTDataset; part the pairs for some of them: LungCTDataset(pairs[:80]).",
    )


class EightBitSamples(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What :meth:`LungCTDataset.augment` gives, as tensors."""

    def __init__(self, dataset: LungCTDataset) -> None:
        if not self.serve(dataset):
            raise ConfigError(
                f"{type(dataset).__name__} has a __getitem__ of its own: its samples are known as "
                "it returns them alone. Leave eight_bit out."
            )
        self.dataset = dataset

    @staticmethod
    def serve(dataset: LungCTDataset) -> bool:
        """Return whether these are the samples of ``dataset``, and not those of a subclass."""
        return type(dataset).__getitem__ is LungCTDataset.__getitem__

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
        """Return grey and classes, (size, size) uint8 each."""
        grey, classes = self.dataset.augment(key)
        return torch.from_numpy(grey), torch.from_numpy(classes)


def _kind(array: object) -> str:
    if array is None:
        return "nothing"
    return f"{getattr(array, 'dtype', type(array).__name__)} {tuple(getattr(array, 'shape', ()))}"


def read_pair(pair: Pair, codec: LabelCodec) -> tuple[np.ndarray, np.ndarray]:
    """Read a slice and the classes of its mask, both at the size of the files.

    Returns
    -------
    image : (H, W), dtype of the file
    classes : (H, W) uint8, with :data:`IGNORE` where the codec ignores pixels

    Raises
    ------
    DataError, GeometryError, LabelError
        As for :meth:`LungCTDataset.__getitem__`.
    """
    mask = pair.require_mask()
    image, raw = read_image(pair.image), read_mask(mask)
    require_same_size(image.shape, raw.shape, pair.name)
    return image, codec.encode(raw, str(mask))
