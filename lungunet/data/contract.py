"""How a CT slice becomes what a model sees, decided once: window, size, normalisation.

The dataset, the predictor and everything after them go through :class:`InputContract`, so a model
is never asked about pictures made differently from those it learned on. Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from lungunet.data.codec import IGNORE
from lungunet.data.hu import refuse_no_numbers
from lungunet.data.kinds import check_kind, is_number, make_plain, native_order
from lungunet.data.window import LUNG_WINDOW, Window
from lungunet.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

_HU_DTYPES = ("int16", "int32", "float32")

# What arrays often come as, and what holds the same values.
_PLAIN = {"float64": "float32", "float16": "float32", "int64": "int32", "int8": "int16"}

# One grey channel into a stem that was trained on RGB: smp sums the stem's weights over RGB, so
# grey gets the mean of the ImageNet figures.
_IMAGENET_MEAN = 0.449
_IMAGENET_STD = 0.226

_LARGEST_PX = 16384  # larger pictures fit no memory, and OpenCV moves none above 32767


@dataclass(frozen=True)
class InputContract:
    """What a model expects of a CT slice.

    Parameters
    ----------
    size : side of the square that the model sees, px
    window : None for eight-bit pictures, which are taken as they are
    dtypes : dtypes that are accepted; anything else is refused rather than guessed at
    mean, std : of the grey values in [0, 1], subtracted and divided last
    """

    size: int
    window: Window | None = LUNG_WINDOW
    dtypes: tuple[str, ...] = _HU_DTYPES
    mean: float = _IMAGENET_MEAN
    std: float = _IMAGENET_STD

    def __post_init__(self) -> None:
        """Refuse sizes and spreads that no model can work with."""
        make_plain(self)
        fix = "Give a tuple of names, as ('int16', 'float32')."
        check_kind("dtypes", self.dtypes, tuple | list, fix)  # not text: it holds other names
        for dtype in self.dtypes:
            check_kind("dtypes", dtype, str, fix)
        object.__setattr__(self, "dtypes", tuple(self.dtypes))
        if not is_number(self.size, whole=True):
            raise ConfigError(
                "must be a whole number, the side of a square in px. 256 is usual.",
                where=f"size {self.size!r}",
            )
        check_kind("window", self.window, Window | None, "Give Window(level=-600, width=1500).")
        if not 16 <= self.size <= _LARGEST_PX:
            raise ConfigError(
                f"must be 16 to {_LARGEST_PX} px. 256 is usual.", where=f"size {self.size}"
            )
        if not (0 <= self.mean <= 1 and 1e-6 <= self.std < np.inf):
            raise ConfigError(
                f"the mean of grey values is in [0, 1], and std "
                f"must be above 0. {_IMAGENET_MEAN} and {_IMAGENET_STD} are usual.",
                where=f"mean {self.mean}, std {self.std}",
            )
        if self.window is None and self.dtypes != ("uint8",):
            raise ConfigError(
                "only uint8 is grey already. Give a window.",
                where=f"slices of {' and '.join(self.dtypes)} without a window",
            )

    @classmethod
    def for_dtypes(
        cls, dtypes: Iterable[str], *, size: int, window: Window | None = None
    ) -> InputContract:
        """Decide the contract from the dtypes of a whole training set.

        Parameters
        ----------
        dtypes : of every slice of the training set
        window : None decides: uint8 is grey already; int16, int32 and float32 hold HU

        Raises
        ------
        ConfigError
            When slices of uint8, of uint16 and of HU are mixed, whatever the window; when they are
            of uint16 without a window, so that nobody can know what the values mean; or when 8-bit
            slices have a window of HU.
        """
        check_kind("window", window, Window | None, "Give Window(level=-600, width=1500).")
        given = tuple(sorted(set(dtypes)))
        if "uint8" in given and len(given) > 1:
            raise ConfigError(
                "8-bit grey and HU do not go through one window. Use the files that the 8-bit "
                "slices were exported from, or leave them out.",
                where=f"slices of dtype {' and '.join(given)}",
            )
        if "uint16" in given and len(given) > 1:
            raise ConfigError(
                "values with an offset and HU do not go through one window. Save all alike: take "
                "the offset, mostly 1024, from those of uint16 and write them as int16, or leave "
                "them out.",
                where=f"slices of dtype {' and '.join(given)}",
            )
        if given == ("uint8",) and window is not None and window.level < window.width / 2:
            raise ConfigError(
                f"window {window.level:g},{window.width:g}: begins below 0, and slices of uint8 "
                "hold 0 to 255: they are grey already. Leave the window out."
            )
        if window is not None:
            hu = given if not set(given) <= set(_HU_DTYPES) else _HU_DTYPES
            return cls(size, window, hu)
        if given == ("uint8",):
            return cls(size, None, given)
        if given and set(given) <= set(_HU_DTYPES):
            return cls(size, LUNG_WINDOW, _HU_DTYPES)
        raise ConfigError(
            "the values can mean anything. "
            "Say which range to show, in the values of the files: window='LEVEL,WIDTH' "
            "(a HU window of -600,1500 in files stored with an offset of 1024 is 424,1500).",
            where=f"slices of dtype {' and '.join(given) or 'unknown'}",
        )

    def to_grey(self, image: np.ndarray, where: str = "slice") -> np.ndarray:
        """Window a slice to eight-bit grey at its own size.

        Parameters
        ----------
        image : (H, W) of a dtype in ``dtypes``
        where : what a message calls this slice

        Returns
        -------
        (H, W) uint8

        Raises
        ------
        DataError
            When the dtype is not one that the contract was made for.
        """
        self.check(image, where)
        return image if self.window is None else self.window.to_grey(image)

    def check(self, image: np.ndarray, where: str = "slice") -> None:
        """Refuse what is no slice, or not of a dtype that the contract was made for.

        Raises
        ------
        DataError
            Says what was expected.
        """
        if not isinstance(image, np.ndarray):
            raise DataError(
                f"a {type(image).__name__}, no array. Pass what read_image(path) returns.",
                where=where,
            )
        if image.ndim != 2 or not image.size:
            raise DataError(
                f"shape {image.shape}, a slice is (H, W) with H, W above 0.", where=where
            )
        self.check_dtype(image.dtype.name, where)
        refuse_no_numbers(image, where)

    def check_dtype(self, dtype: str, where: str = "slice", *, model: str = "the model") -> None:
        """Refuse slices of a dtype that the contract was not made for; ``model`` is its name.

        Raises
        ------
        DataError
            Says what was expected.
        """
        if dtype not in self.dtypes:
            plain = _PLAIN.get(dtype)
            if plain in self.dtypes:
                raise DataError(
                    f"a slice of {dtype}, slices are {self._wanted()}. If it holds HU, pass "
                    f"image.astype('{plain}').",
                    where=where,
                )
            fix = "Use the files that the slices were exported from, or"
            if self.window is None:
                fix = "Export them through the window of those that it was trained on, or use"
            other = "HU, such as lungs" if dtype in _HU_DTYPES else dtype
            raise DataError(
                f"a slice of {dtype}, {model} expects {self._wanted()}. {fix} a model "
                f"trained on {other}.",
                where=where,
            )

    def _wanted(self) -> str:
        names = " or ".join(self.dtypes)
        if self.window is None:
            return f"{names} grey values"
        return f"{names} seen at window {self.window.level:g},{self.window.width:g}"

    def fit(self, grey: np.ndarray) -> np.ndarray:
        """Scale to ``size`` keeping proportions, and pad with black to a square (letterbox).

        Parameters
        ----------
        grey : (H, W) uint8

        Returns
        -------
        (size, size) uint8
        """
        top, left, height, width = self._box(*grey.shape)
        shrinks = height < grey.shape[0] or width < grey.shape[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR_EXACT
        return self._pad(cv2.resize(grey, (width, height), interpolation=method), top, left)

    def fit_mask(self, classes: np.ndarray) -> np.ndarray:
        """Scale and pad class indices the way :meth:`fit` does the slice.

        Shrinking gives each pixel the class that covers most of it. Picking the nearest raw pixel
        instead would move edges by up to half a raw pixel, always to the same side (on real masks
        512 -> 256 -> 512: IoU 0.988 against 0.990).

        Parameters
        ----------
        classes : (H, W) uint8

        Returns
        -------
        (size, size) uint8
            Padding is class 0.
        """
        top, left, height, width = self._box(*classes.shape)
        return self._pad(resize_classes(classes, height, width), top, left)

    def normalise(self, grey: np.ndarray) -> np.ndarray:
        """Turn eight-bit grey into what the network is fed.

        Parameters
        ----------
        grey : (H, W) uint8

        Returns
        -------
        (1, H, W) float32
            ``(grey / 255 - mean) / std``
        """
        table = (np.arange(256, dtype=np.float32) / 255 - np.float32(self.mean)) / np.float32(
            self.std
        )
        return np.asarray(cv2.LUT(grey, table))[None]

    def normalise_batch(self, grey: torch.Tensor) -> torch.Tensor:
        """Do what :meth:`normalise` does, bit for bit, on whatever device the batch is.

        Never waits for a CUDA device.

        Parameters
        ----------
        grey : (N, H, W) uint8

        Returns
        -------
        (N, 1, H, W) float32

        Raises
        ------
        DataError
            When the batch is of another shape or dtype.
        """
        import torch  # the contract itself serves without it

        if grey.ndim != 3 or grey.dtype != torch.uint8:
            raise DataError(
                f"batch: {grey.dtype} {tuple(grey.shape)}; only (N, H, W) uint8 is still to be "
                "normalised. Make the loader with eight_bit=True, or leave this call out."
            )
        # Tensors, since CUDA multiplies by the reciprocal of a number; filled on the device, since
        # a copy to it would wait.
        scale, mean, std = (
            torch.full((), value, dtype=torch.float32, device=grey.device)
            for value in (255, self.mean, self.std)
        )
        return grey[:, None].float().div_(scale).sub_(mean).div_(std)

    def prepare(self, image: np.ndarray, where: str = "slice") -> np.ndarray:
        """Take one slice all the way: window, fit, normalise.

        Returns
        -------
        (1, size, size) float32
        """
        return self.normalise(self.fit(self.to_grey(image, where)))

    def unfit(self, logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Bring logits back to the size of the slice: cut the padding off, scale bilinearly.

        Parameters
        ----------
        logits : (N, C, size, size) float
        height, width : of the slice, px

        Returns
        -------
        (N, C, height, width) float32
        """
        import torch.nn.functional as F  # the contract itself serves without torch

        top, left, inner_height, inner_width = self._box(height, width)
        inner = logits[..., top : top + inner_height, left : left + inner_width].float()
        if (inner_height, inner_width) == (height, width):
            return inner
        # Shrinking needs a low-pass, growing must not have one.
        shrinks = height < inner_height
        return F.interpolate(inner, (height, width), mode="bilinear", antialias=shrinks)

    def _box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, left, height, width of the slice inside the square."""
        scale = self.size / max(height, width)
        inner_height = max(1, round(height * scale))
        inner_width = max(1, round(width * scale))
        top, left = (self.size - inner_height) // 2, (self.size - inner_width) // 2
        return top, left, inner_height, inner_width

    def _pad(self, inner: np.ndarray, top: int, left: int) -> np.ndarray:
        if inner.shape == (self.size, self.size):
            return np.ascontiguousarray(inner)
        square = np.zeros((self.size, self.size), np.uint8)
        square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return square

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; :meth:`from_dict` reads them."""
        return {**asdict(self), "dtypes": list(self.dtypes)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> InputContract:
        """Rebuild a contract from :meth:`to_dict`.

        Raises
        ------
        ConfigError
            When something is missing or of the wrong kind.
        """
        try:
            seen = stored["window"]
            edges = None if seen is None else (float(seen["level"]), float(seen["width"]))
            size, mean, std = int(stored["size"]), float(stored["mean"]), float(stored["std"])
            dtypes = tuple(str(name) for name in _list(stored["dtypes"]))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as err:
            raise ConfigError(
                f"stored as {stored!r}, which is incomplete. Store what to_dict gives.",
                where="input contract",
            ) from err
        return cls(size, edges and Window(*edges), dtypes, mean, std)

    def __str__(self) -> str:
        """Say it in one line, for tables and messages."""
        window = self.window
        seen = f"window {window.level:g},{window.width:g}" if window else "8-bit grey"
        return f"{self.size}x{self.size}, {seen}"


def _list(value: object) -> list[Any]:
    """Refuse text, which would come apart into letters."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def resize_classes(classes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale class indices: what covers most of a pixel where they shrink, else the nearest."""
    if (height, width) == classes.shape:
        return classes
    if height < classes.shape[0] or width < classes.shape[1]:
        return _majority(classes, (width, height))
    # EXACT: the plain nearest of OpenCV is shifted by half a pixel.
    nearest = cv2.resize(
        native_order(classes), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return np.asarray(nearest, np.uint8)


def _majority(classes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    indices = _occurring(classes)
    shares = [
        cv2.resize((classes == index).view(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
        for index in indices
    ]
    if not shares:
        return np.zeros(size[::-1], np.uint8)
    if len(shares) == 1:
        return np.asarray((shares[0] > 127).view(np.uint8) * np.uint8(indices[0]))
    covered = np.sum(shares, axis=0, dtype=np.int32)
    stack = np.stack([np.maximum(255 - covered, 0), *shares])
    return np.asarray(np.array([0, *indices], np.uint8)[stack.argmax(axis=0)])


def _occurring(classes: np.ndarray) -> list[int]:
    """List the indices above 0 that a mask may hold, what is ignored last."""
    highest = int(classes.max())
    if highest != IGNORE:
        return [*range(1, highest + 1)]
    return [*range(1, int(classes[classes != IGNORE].max(initial=0)) + 1), IGNORE]
