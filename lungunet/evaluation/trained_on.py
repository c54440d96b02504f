"""What a model has seen of the slices and scans that shall judge it.

Knows runs by their folders.
"""

import hashlib
import re
import warnings
from collections.abc import Sequence
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np

from lungunet.data.files import read_json
from lungunet.data.manifest import Pair
from lungunet.data.seen import Seen, digest_hu, find_seen, holds_hu, read_seen
from lungunet.data.split import read_split
from lungunet.errors import ConfigError, DataError, LungUNetWarning
from lungunet.models.members import find_members, find_run_folders
from lungunet.training.config import read_toml

_SLICED = re.compile(r"(.+)_z-[0-9]+")


def seen_by(model: str | Path, pairs: Sequence[Pair]) -> Seen:
    """Tell which pairs a model was trained on, or its epoch chosen on.

    A run knows, by its folder or that of its best model, and of the runs that its weights come from
    too; others have seen nothing that anybody could tell. An ensemble has seen what any of its
    models has. Warns (:class:`LungUNetWarning`) where a run is too old to have kept its lists, and
    they are not what they were.

    Raises
    ------
    DataError
        When what a run says of it is damaged.
    """
    members = find_members(model)
    if len(members) > 1:
        return reduce(or_, (seen_by(member, pairs) for member in members))
    for table in _tables(model):
        return find_seen(read_seen(table), pairs)
    for run in find_run_folders(model):
        if (run / "environment.json").is_file():
            return _by_lists(run, pairs)
    return Seen()


def trained_with(run: str | Path, data: str | Path) -> bool:
    """Tell whether a data folder is that of a run, wherever it lies by now; True if nobody knows.

    It is where its train.txt and val.txt are as they were.
    """
    try:
        hashes = read_json(Path(run) / "environment.json", fix="").get("manifests") or {}
    except DataError:
        return True
    try:
        return all(_hash_list(data, name) == digest for name, digest in hashes.items())
    except OSError:
        return False


def _hash_list(data: str | Path, name: str) -> str:
    return hashlib.sha256(Path(data, f"{name}.txt").read_bytes()).hexdigest()


class SeenScans:
    """Which scans a model was trained on slices of, or its epoch chosen on.

    Parameters
    ----------
    model : as :func:`seen_by` takes it

    Raises
    ------
    DataError
        When what a run says of it is damaged.
    """

    def __init__(self, model: str | Path) -> None:
        rows = [
            row
            for member in find_members(model)
            for table in _tables(member)
            for row in read_seen(table)
        ]
        names = {Path(row["name"]).name for row in rows}
        self._sliced = {found[1] for name in names if (found := _SLICED.fullmatch(name))}
        self._digests = {row["digest"] for row in rows if holds_hu([row["digest"]])}
        self.known: list[str] = []
        self.alike: list[str] = []

    def look(self, name: str, hu: np.ndarray) -> None:
        """Add a scan to those whose HU are ``known``, or that are called ``alike`` (or to none).

        The second are called as :func:`slice_files` calls them, and may be others of that name.

        Parameters
        ----------
        hu : (D, H, W)
        """
        if self._digests and any(digest_hu(plane) in self._digests for plane in hu):
            self.known.append(name)
        elif name in self._sliced:
            self.alike.append(name)


def _tables(model: str | Path) -> list[Path]:
    tables = (run / "slices.csv" for run in find_run_folders(model))
    return [table for table in tables if table.is_file()][:1]


def _by_lists(run: Path, pairs: Sequence[Pair]) -> Seen:
    """Ask the lists that a run of an older version was trained on, where they are as they were."""
    hashes = read_json(run / "environment.json", fix="Copy the run folder again.").get("manifests")
    if not hashes:  # made in Python, with lists that only its program knows
        return Seen()
    try:
        data = Path(str(read_toml(run / "config.toml")["data"]))
        for name, digest in hashes.items():
            if _hash_list(data, name) != digest:
                raise DataError("is another list by now.", where=data / f"{name}.txt")
        lists = read_split(data, "train", "val")
    except (ConfigError, DataError, KeyError, OSError):
        warnings.warn(
            f"{run}: the lists that it was trained on are gone or changed, so nobody can tell "
            "whether it has seen these slices.",
            LungUNetWarning,
            stacklevel=4,
        )
        return Seen()
    known = {
        name: {pair.image.resolve() for pair in getattr(lists, name)} for name in ("train", "val")
    }
    train, val = (
        frozenset(pair.name for pair in pairs if pair.image.resolve() in known[name])
        for name in ("train", "val")
    )
    return Seen(train, val - train)
