"""Which slices a run has seen: the list it leaves, and whether other slices are among them.

A slice is known by what its file holds, wherever that lies and however it is called. Reads no
pixel.
"""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lungunet.data.files import write_csv
from lungunet.data.manifest import Pair
from lungunet.errors import DataError
from lungunet.progress import map_in_threads, silent

_SAMPLE = 65536  # bytes, from the middle: no two slices share them, and a disk reads them at once
_COLUMNS = ("list", "name", "digest", "generation")
_THREADS = 8  # they wait for the disk


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


def digest_pairs(pairs: Sequence[Pair]) -> list[str]:
    """Return the digest of each image; see :func:`digest_file`."""
    return map_in_threads(
        lambda pair: digest_file(pair.image),
        pairs,
        threads=_THREADS,
        desc="look",
        progress=silent,
    )


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
        {"list": name, "name": pair.name, "digest": digest, "generation": "0"}
        for name, pairs in lists.items()
        for pair, digest in zip(pairs, digest_pairs(pairs), strict=True)
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
        return [{**row, "generation": str(int(row["generation"]) + 1)} for row in _read_rows(path)]
    except (ValueError, TypeError) as err:
        raise _damaged(path, err) from err


def names_seen(path: str | Path) -> set[str]:
    """Return the names of the slices in the table that :func:`write_seen` wrote.

    Raises
    ------
    DataError
        When the table is damaged.
    """
    return {row["name"] for row in _read_rows(path)}


def _read_rows(path: str | Path) -> list[dict[str, str]]:
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = [{"generation": "0", **row} for row in csv.DictReader(file)]
        return [{name: row[name] for name in _COLUMNS} for row in rows]
    except (OSError, ValueError, KeyError, csv.Error) as err:
        raise _damaged(path, err) from err


def _damaged(path: str | Path, err: Exception) -> DataError:
    return DataError(f"damaged ({err}). Copy the run folder again.", where=path)


def find_seen(path: str | Path, pairs: Sequence[Pair]) -> Seen:
    """Compare pairs with the table that :func:`write_seen` wrote.

    Raises
    ------
    DataError
        When the table is damaged.
    """
    rows = _read_rows(path)
    # Train wins where a slice stands in both.
    by_list = {
        name: {row["digest"] for row in rows if row["list"] == name and row["digest"]}
        for name in ("train", "val")
    }
    names = {row["name"] for row in rows}
    known: dict[str, set[str]] = {"train": set(), "val": set(), "alike": set()}
    for pair, digest in zip(pairs, digest_pairs(pairs), strict=True):
        of = next((name for name, digests in by_list.items() if digest in digests), None)
        if of or pair.name in names:
            known[of or "alike"].add(pair.name)
    return Seen(*(frozenset(known[name]) for name in ("train", "val", "alike")))
