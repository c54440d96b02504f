"""What a run begins with: which slices that has seen, and what it began with itself.

Read once, at the start, and kept in the new run: the folder of the older one may be gone by the
time that somebody asks.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lungunet.data.manifest import Pair
from lungunet.data.seen import find_seen, inherit_seen
from lungunet.errors import LungUNetWarning
from lungunet.models.folder import began_with
from lungunet.models.members import find_run_folders


@dataclass(frozen=True)
class Lineage:
    """Where weights come from.

    Parameters
    ----------
    seen : slices that they were trained on or chosen by, as :func:`write_seen` takes them
    ancestors : what their training began with, then what that began with, and so on
    """

    seen: tuple[Mapping[str, str], ...] = ()
    ancestors: tuple[str, ...] = ()


def read_lineage(weights: str) -> Lineage:
    """Ask the run or model folder that training begins with; others have nothing to tell.

    Warns (:class:`LungUNetWarning`) where a run is too old to have kept a list of its slices, or
    is gone by now.

    Raises
    ------
    DataError
        When what the run says of them is damaged.
    """
    folders = find_run_folders(weights)
    tables = [folder / "slices.csv" for folder in folders if (folder / "slices.csv").is_file()]
    if Path(weights).is_absolute() and not Path(weights).exists():
        warnings.warn(
            f"{weights}: is gone, so nobody will be able to tell which slices the weights of this "
            "run were trained on. Judge it by slices of other patients.",
            LungUNetWarning,
            stacklevel=2,
        )
    if not tables and any((folder / "environment.json").is_file() for folder in folders):
        warnings.warn(
            f"{weights}: keeps no list of the slices that it was trained on (slices.csv), so "
            "nobody will be able to tell that the new run has seen them. Judge it by slices of "
            "patients that neither was trained on.",
            LungUNetWarning,
            stacklevel=2,
        )
    seen = inherit_seen(tables[0]) if tables else ()
    return Lineage(tuple(seen), tuple(began_with(folders[0])))


def warn_of_seen(lineage: Lineage, val: Sequence[Pair], *, weights: str) -> None:
    """Say where val shall choose the epoch by slices that the weights were trained on."""
    count = len(find_seen(lineage.seen, val).train) if lineage.seen else 0
    if count:
        warnings.warn(
            f"{count} of the {len(val)} slices of val were trained on by {weights}, which this run "
            "begins with: its scores on val will be too good, and choose the epoch. Begin with "
            "other weights, or split again.",
            LungUNetWarning,
            stacklevel=2,
        )
