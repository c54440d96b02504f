"""Truth that a model made: what the record beside masks, and the review of them, say of it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from lungunet.data.made_by import read_head
from lungunet.data.manifest import find_records
from lungunet.data.review_log import LOG, read_review
from lungunet.errors import DataError
from lungunet.inference.record import names_of


def count_predicted(truth: Mapping[str, Path], *, data: Path | None = None) -> Counter[str]:
    """Count true masks that a model predicted and no person mended, by the hash of the model.

    Parameters
    ----------
    truth : name of a slice or scan to its mask
    data : a folder whose review may have mended them too, as that of the masks
    """
    maker, reviewed = cache(read_maker), cache(_reviewed)
    found: Counter[str] = Counter()
    for name, mask in truth.items():
        by = maker(mask.parent)
        logs = (reviewed(folder) for folder in {mask.parent, data or mask.parent})
        if by and all(log.isdisjoint({name, *names_of(mask)}) for log in logs):
            found[by] += 1
    return found


def say_predicted(found: Mapping[str, int], models: Mapping[str, str], *, of: int) -> list[str]:
    """Say how many of the true masks a model made, and whose scores that flatters.

    Parameters
    ----------
    models : what is scored, by name, with its hash
    of : true masks
    """
    remarks = []
    for by, count in found.items():
        own = [name for name, model in models.items() if model == by]
        who = " and ".join(own) or "a model"
        what = "they cannot judge it" if own else "scores tell how near one comes to that model"
        remarks.append(
            f"{count} of these {of} true masks were predicted by {who} and mended in no review: "
            f"{what}"
        )
    return remarks


def read_maker(masks: str | Path) -> str:
    """Return the hash of the model that predicted masks into a folder; '' where nobody knows."""
    with suppress(DataError):
        heads: Iterable[dict[str, object] | None] = map(read_head, find_records(Path(masks)))
        return next((str(head.get("model") or "") for head in heads if head), "")
    return ""


def _reviewed(folder: Path) -> set[str]:
    """Return the names of masks that a person mended, or found right."""
    with suppress(DataError):
        if (folder / LOG).exists():
            cases = read_review(folder).cases.values()
            return {c.name for c in cases if c.changes or c.decision in ("right", "mended")}
    return set()
