"""Which slices a run has seen: the list it leaves, and whether other slices are among them.

A slice is known by what its file holds, wherever that lies and however it is called. Slices of the
built-in model are known by their HU, so that who has them from elsewhere, in files of their own, is
told too: only then are pixels read.
"""

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungunet.data.ct import read_image
from lungunet.data.files import write_csv
from lungunet.data.hu import can_hold_hu
from lungunet.data.manifest import Pair
from lungunet.errors import DataError
from lungunet.progress import map_in_threads, silent

_SAMPLE = 65536  # bytes, from the middle: no two slices share them, and a disk reads them at once
_COLUMNS = ("list", "name", "digest", "generation")
_THREADS = 8  # they wait for the disk
_HU = "hu:"  # what digests of values begin with
_AIR_HU, _METAL_HU = -1000, 2000  # neither is counted: padding, cropping and clipping change them
_FEW_PX = 1000  # an empty slice is like others


@dataclass(frozen=True)
class Seen:
    """Names of slices that a model has seen.

    Parameters
    ----------
    train : it was trained on them
    val : its epoch was chosen on them
    alike : called like slices of either, and other files: the same slices written anew, or others
    """

    train: frozenset[str] = frozenset()
    val: frozenset[str] = frozenset()
    alike: frozenset[str] = frozenset()

    def __or__(self, other: "Seen") -> "Seen":
        """Join what two models have seen."""
        train = self.train | other.train
        val = (self.val | other.val) - train
        return Seen(train, val, (self.alike | other.alike) - train - val)


def digest_file(path: str | Path) -> str:
    """Return 16 hexadecimal digits of a file: of its length, and of what lies in its middle.

    Empty where the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            length = file.seek(0, 2)
            file.seek(max(0, (length - _SAMPLE) // 2))
            sample = file.read(_SAMPLE)
    except OSError:
        return ""
    return hashlib.blake2b(b"%d " % length + sample, digest_size=8).hexdigest()


def digest_hu(image: np.ndarray) -> str:
    """Return 16 hexadecimal digits, after a mark, of how often a slice holds each HU.

    The same for a slice that was turned, mirrored, cropped to what is not air, or written in
    another format or kind of number. Empty where it is of 8 bits or holds next to nothing.

    Parameters
    ----------
    image : (H, W)
    """
    if not can_hold_hu(image.dtype):
        return ""
    inside = image[(image > _AIR_HU) & (image < _METAL_HU)]
    if inside.size < _FEW_PX:
        return ""
    counts = np.bincount(np.rint(inside).astype(np.int64) - _AIR_HU, minlength=_METAL_HU - _AIR_HU)
    return _HU + hashlib.blake2b(counts.astype("<i4").tobytes(), digest_size=8).hexdigest()


def holds_hu(digests: Iterable[str]) -> bool:
    """Tell whether some of the digests are of HU; others are of files."""
    return any(digest.startswith(_HU) for digest in digests)


def _digest_pairs(pairs: Sequence[Pair], *, hu: bool = False) -> list[frozenset[str]]:
    """Return the digests of each image: of its file, and with ``hu`` of its values."""

    def look(pair: Pair) -> frozenset[str]:
        digests = {digest_file(pair.image)}
        if hu:
            with suppress(DataError):  # whoever scores or trains on it says so
                digests.add(digest_hu(read_image(pair.image)))
        return frozenset(digests - {""})

    return map_in_threads(look, pairs, threads=_THREADS, desc="look", progress=silent)


def write_seen(
    path: str | Path,
    lists: Mapping[str, Sequence[Pair]],
    inherited: Sequence[Mapping[str, str]] = (),
) -> None:
    """Write a table of the slices that a run sees: list (train or val), name, digest, generation.

    Parameters
    ----------
    inherited : what the run that this one begins with has seen, as :func:`inherit_seen` gives it.
        Generation 0 are the lists of the run itself, 1 those of that run, and so on
    """
    rows = [
        {"list": name, "name": pair.name, "digest": "".join(digests), "generation": "0"}
        for name, pairs in lists.items()
        for pair, digests in zip(pairs, _digest_pairs(pairs), strict=True)
    ]
    own = {(row["list"], row["name"], row["digest"]) for row in rows}
    rows += [dict(row) for row in inherited if (row["list"], row["name"], row["digest"]) not in own]
    write_csv(path, rows, _COLUMNS)


def inherit_seen(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a run's table for the table of one that begins with it.

    Raises
    ------
    DataError
        When the table is damaged.
    """
    try:
        return [{**row, "generation": str(int(row["generation"]) + 1)} for row in read_seen(path)]
    except (ValueError, TypeError) as err:
        raise _damaged(path, err) from err


def read_seen(path: str | Path) -> list[dict[str, str]]:
    """Return the rows that :func:`write_seen` wrote.

    Raises
    ------
    DataError
        When the table is damaged.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = [{"generation": "0", **row} for row in csv.DictReader(file)]
        return [{name: row[name] for name in _COLUMNS} for row in rows]
    except (OSError, ValueError, KeyError, csv.Error) as err:
        raise _damaged(path, err) from err


def _damaged(path: str | Path, err: Exception) -> DataError:
    return DataError(f"damaged ({err}). Copy the run folder again.", where=path)


def find_seen(rows: Sequence[Mapping[str, str]], pairs: Sequence[Pair]) -> Seen:
    """Compare pairs with the rows that :func:`write_seen` wrote."""
    # Train wins where a slice stands in both.
    by_list = {
        name: {row["digest"] for row in rows if row["list"] == name and row["digest"]}
        for name in ("train", "val")
    }
    names = {row["name"] for row in rows}
    known: dict[str, set[str]] = {"train": set(), "val": set(), "alike": set()}
    hu = holds_hu(row["digest"] for row in rows)
    for pair, digests in zip(pairs, _digest_pairs(pairs, hu=hu), strict=True):
        of = next((name for name, seen in by_list.items() if digests & seen), None)
        if of or pair.name in names:
            known[of or "alike"].add(pair.name)
    return Seen(*(frozenset(known[name]) for name in ("train", "val", "alike")))
