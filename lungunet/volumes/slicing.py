"""Slices to train on, cut from scans and their masks."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lungunet.data.codec import LabelCodec
from lungunet.data.ct import write_image, write_mask
from lungunet.data.files import write_text
from lungunet.data.manifest import Pair, pair_by_name
from lungunet.errors import ConfigError, DataError, counted, listed
from lungunet.volumes.formats import find_volumes, unique_names
from lungunet.volumes.volume import Volume, put_on_grid, require_hu

_INT16 = np.iinfo(np.int16)


def find_volume_pairs(scans: str | Path, masks: str | Path) -> dict[str, Pair]:
    """Pair scans with masks by name, as :func:`find_pairs` does slices; one with one in any case.

    Parameters
    ----------
    scans : a volume file, a DICOM folder, or a folder of these
    masks : a volume file, or a folder of them

    Returns
    -------
    dict
        Name of each scan to the paths of scan and mask, sorted.

    Raises
    ------
    DataError
        When a folder holds no volume, or one error that lists all that do not pair up.
    """
    images, labels = find_volumes([scans]), find_volumes([masks])
    names = unique_names(images)
    if len(images) == len(labels) == 1:
        return {names[0]: Pair(images[0], labels[0])}
    pairs, problems = pair_by_name(
        zip(names, images, strict=True), zip(unique_names(labels), labels, strict=True)
    )
    if problems:
        raise DataError(
            f"{scans} and {masks} do not pair up, "
            f"{counted(len(problems), 'problem')}:\n  {listed(problems)}\n"
            "Rename or remove them; nothing was written."
        )
    name_of = dict(zip(images, names, strict=True))
    return {name_of[pair.image]: pair for pair in pairs}


def slice_volume(
    scan: Volume,
    mask: Volume,
    folder: str | Path,
    *,
    codec: LabelCodec,
    every: int = 1,
    max_empty: float = 0.1,
) -> list[Pair]:
    """Write axial slices of a scan and its mask as ``images/NAME.tif`` and ``masks/NAME.png``.

    Slices are int16, HU; masks 0 and 255 for lung against background, else as ``codec`` has them.
    NAME is the name of the scan and the number of the slice, from 0 at the feet. A mask on another
    grid is put on the scan's, see :func:`put_on_grid`.

    Parameters
    ----------
    codec : of the mask's values
    every : takes one slice of so many
    max_empty : in [0, 1]; at most this share of what is written is without lung, spread evenly.
        0 leaves them all out, 1 keeps them all

    Returns
    -------
    list of Pair
        The new files; empty where the mask is and ``max_empty`` is below 1.

    Raises
    ------
    GeometryError
        When the mask lies elsewhere than the scan.
    LabelError
        When the mask holds a value outside the codec.
    DataError
        When the scan holds no HU.
    ConfigError
        When a number is out of range, or the codec cannot write a class back.
    """
    check_settings(codec, every=every, max_empty=max_empty)
    classes, indices = choose_slices(scan, mask, codec=codec, every=every, max_empty=max_empty)
    return write_slices(scan, classes, indices, folder, codec=codec)


def check_settings(codec: LabelCodec, *, every: int, max_empty: float) -> None:
    """Refuse what :func:`slice_volume` could not do with any scan.

    Raises
    ------
    ConfigError
        When a number is out of range, or the codec cannot write a class back.
    """
    if every < 1:
        raise ConfigError("must be at least 1. 1 takes all slices.", where=f"every={every}")
    if not 0 <= max_empty <= 1:
        raise ConfigError(f"max_empty={max_empty:g}: a share is in [0, 1]. 0.1 is usual.")
    codec.for_prediction.decode(np.empty((0, 0), np.uint8))  # says which labels share a class


def choose_slices(
    scan: Volume, mask: Volume, *, codec: LabelCodec, every: int, max_empty: float
) -> tuple[np.ndarray, Sequence[int]]:
    """Return what :func:`slice_volume` writes, before it writes: it raises the same.

    Returns
    -------
    classes : (D, H, W) uint8, on the scan's grid
    indices : the slices to write, in order
    """
    require_hu(scan)
    classes = codec.encode(put_on_grid(mask, scan), str(mask.path))
    return classes, _choose(classes, every=every, max_empty=max_empty)


def write_slices(
    scan: Volume,
    classes: np.ndarray,
    indices: Sequence[int],
    folder: str | Path,
    *,
    codec: LabelCodec,
) -> list[Pair]:
    """Write what :func:`choose_slices` chose, as :func:`slice_volume` says."""
    written = []
    for index in indices:
        name = f"{scan.name}_z-{index:04d}"
        pair = Pair(Path(folder, "images", f"{name}.tif"), Path(folder, "masks", f"{name}.png"))
        write_image(pair.image, _as_int16(scan.array[index]))
        assert pair.mask is not None
        write_mask(pair.mask, codec.for_prediction.decode(classes[index]))
        written.append(pair)
    return written


def write_groups(path: str | Path, groups: Mapping[str, str]) -> None:
    """Write who is whose as a CSV with the columns name and patient, for :func:`read_groups`.

    Parameters
    ----------
    groups : file stem to patient
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("name", "patient"))
    table.writerows(sorted(groups.items()))
    write_text(path, text.getvalue())


def _choose(classes: np.ndarray, *, every: int, max_empty: float) -> Sequence[int]:
    """Return the numbers of the slices to write, in order."""
    candidates = np.arange(0, len(classes), every)
    has_lung = classes[candidates].any(axis=(1, 2))
    empty = candidates[~has_lung]
    if max_empty < 1:
        room = int(max_empty / (1 - max_empty) * has_lung.sum() + 1e-9)  # 0.1 is a little less
        if room < len(empty):
            empty = empty[np.linspace(0, len(empty) - 1, room).round().astype(int)]
    return [int(index) for index in np.sort(np.concatenate([candidates[has_lung], empty]))]


def _as_int16(hu: np.ndarray) -> np.ndarray:
    if hu.dtype == np.int16:
        return hu
    return np.asarray(np.clip(np.rint(hu), _INT16.min, _INT16.max).astype(np.int16))
