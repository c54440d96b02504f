"""What a model has seen of the slices that shall judge it. Knows runs by their folders."""

import hashlib
import re
import warnings
from collections.abc import Sequence
from functools import reduce
from operator import or_
from pathlib import Path

from lungunet.data.files import read_json
from lungunet.data.manifest import Pair
from lungunet.data.seen import Seen, find_seen, names_seen
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
    for run in find_run_folders(model):
        if (run / "slices.csv").is_file():
            return find_seen(run / "slices.csv", pairs)
        if (run / "environment.json").is_file():
            return _by_lists(run, pairs)
    return Seen()


def sliced_from(model: str | Path, names: Sequence[str]) -> list[str]:
    """Return the names of scans that a model was trained on slices of, or its epoch chosen on.

    By what :func:`slice_files` calls them, so that another scan of that name is among them too.
    """
    seen: set[str] = set()
    for member in find_members(model):
        for run in find_run_folders(member):
            if (run / "slices.csv").is_file():
                seen |= names_seen(run / "slices.csv")
    scans = {found[1] for name in seen if (found := _SLICED.fullmatch(Path(name).name))}
    return [name for name in names if name in scans]


def _by_lists(run: Path, pairs: Sequence[Pair]) -> Seen:
    """Ask the lists that a run of an older version was trained on, where they are as they were."""
    hashes = read_json(run / "environment.json", fix="Copy the run folder again.").get("manifests")
    if not hashes:  # made in Python, with lists that only its program knows
        return Seen()
    try:
        data = Path(str(read_toml(run / "config.toml")["data"]))
        for name, digest in hashes.items():
            if hashlib.sha256((data / f"{name}.txt").read_bytes()).hexdigest() != digest:
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
