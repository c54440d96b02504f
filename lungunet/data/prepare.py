"""Write pairs anew, smaller and with class indices as labels, for programs that expect that."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from lungunet.data.codec import LabelCodec
from lungunet.data.ct import write_image, write_mask
from lungunet.data.dataset import read_pair
from lungunet.data.manifest import Pair
from lungunet.errors import ConfigError
from lungunet.progress import Progress, silent


def prepare_pairs(
    pairs: Sequence[Pair],
    folder: str | Path,
    *,
    codec: LabelCodec,
    size: int = 512,
    raw: bool = False,
    progress: Progress = silent,
) -> tuple[list[Pair], LabelCodec]:
    """Write resized slices and label images into ``folder/images`` and ``folder/masks``.

    Parameters
    ----------
    size : the longer side becomes this many px; proportions, and the dtype of slices, are kept
    raw : keep raw mask values (0/255) instead of class indices (0/1)

    Returns
    -------
    pairs : the new files
    codec : how their labels are coded

    Raises
    ------
    DataError, GeometryError, LabelError
        When a file is wrong.
    """
    folder = Path(folder)
    if size < 1:
        raise ConfigError("must be at least 1 px.", where=f"size {size}")
    if raw and not codec.can_decode:
        raise ConfigError("merged values cannot be kept. Leave out --raw.", where=f"labels {codec}")
    written = []
    for pair in progress(pairs, desc="prepare", total=len(pairs)):
        image, classes = read_pair(pair, codec)
        new = Pair(folder / "images" / f"{pair.name}.tif", folder / "masks" / f"{pair.name}.png")
        write_image(new.image, _resize(image, size))
        labels = _resize_labels(classes, size)
        assert new.mask is not None
        write_mask(new.mask, codec.decode(labels) if raw else labels)
        written.append(new)
    kept = {value: index for index, value in codec.raw_values.items()}
    plain = {index: index for index in range(codec.n_classes)}
    return written, LabelCodec(kept if raw else plain, names=codec.names)


def _shape(array: np.ndarray, size: int) -> tuple[int, int]:
    height, width = array.shape
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    height, width = _shape(image, size)
    if (height, width) == image.shape:
        return image
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    # float64 holds every int32; OpenCV resizes no int32 itself.
    values = image.astype(np.float64) if image.dtype == np.int32 else image
    resized = cv2.resize(values, (width, height), interpolation=method)
    return np.asarray(np.rint(resized).astype(np.int32) if image.dtype == np.int32 else resized)


def _resize_labels(classes: np.ndarray, size: int) -> np.ndarray:
    height, width = _shape(classes, size)
    # EXACT: the plain nearest of OpenCV is shifted by half a pixel.
    return np.asarray(
        cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
    )
