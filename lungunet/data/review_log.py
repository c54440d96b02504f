"""The log that a review leaves, review.jsonl: what was decided and changed, one line at a time.

Owns the format, its reading and its writing. Knows no pixels and no page.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from lungunet._version import __version__
from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.errors import ConfigError, DataError

LOG = "review.jsonl"
"""What the log is called."""

KEPT = ".review"
"""Folder beside masks for their first versions."""

FORMAT = 1

Decision = Literal["right", "mended", "drop", "unsure"]
DECISIONS: tuple[str, ...] = get_args(Decision)


@dataclass(frozen=True)
class Reviewed:
    """What a review has come to for one mask.

    Parameters
    ----------
    name : of the pair
    decision : right, mended, drop or unsure; None where nothing was decided
    note, who : as last given
    changes : how many times the mask was changed
    first, last : SHA-256 of the mask before the first change and after the last; None where there
        was none. Of a slice's file; of a scan's, see ``slices``
    slices : of a scan: number of the slice to the SHA-256 of its classes after the last change
    mask : the mask, as seen from the log's folder; None where it was not changed
    """

    name: str
    decision: Decision | None = None
    note: str = ""
    who: str = ""
    changes: int = 0
    first: str | None = None
    last: str | None = None
    slices: Mapping[int, str] | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class ReviewLog:
    """What a review has come to.

    Parameters
    ----------
    path : of the log
    cases : name of a pair to what was decided and changed; those that nobody touched are not there
    codec : of the masks
    """

    path: Path
    cases: Mapping[str, Reviewed]
    codec: LabelCodec = LUNG_CODEC

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the pairs to be left out, sorted."""
        return tuple(sorted(c.name for c in self.cases.values() if c.decision == "drop"))

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs were decided each way."""
        count = Counter(case.decision for case in self.cases.values())
        return {decision: count[decision] for decision in get_args(Decision)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        changed = sum(case.changes > 0 for case in self.cases.values())
        return {"log": str(self.path), "decisions": self.counts, "changed": changed}


def read_review(path: str | Path) -> ReviewLog:
    """Read the log of a review.

    Parameters
    ----------
    path : review.jsonl, or the folder that holds it

    Returns
    -------
    ReviewLog
        Of several decisions about a pair the last one counts. A last line that was cut off, as by a
        power failure, is passed over: what it tells was not done.

    Raises
    ------
    DataError
        When there is no such file, or a line of it is no record of a review.

    Examples
    --------
    >>> log = read_review("mended/review.jsonl")  # doctest: +SKIP
    >>> log.dropped  # doctest: +SKIP
    ('ID_0007', 'ID_0112')
    """
    path = Path(path)
    path = path / LOG if path.is_dir() else path
    cases: dict[str, Reviewed] = {}
    codec = LUNG_CODEC
    for number, record in enumerate(_records(path), start=1):
        try:
            if number == 1:
                codec = _read_head(record, path)
                continue
            name = record["name"]
            cases[name] = _after(cases.get(name, Reviewed(name)), record, path.parent)
        except (KeyError, TypeError, ValueError) as err:
            if isinstance(err, DataError):  # of a newer format
                raise
            raise DataError(
                "no record of a review. Give the review.jsonl that 'lungunet review' wrote.",
                where=f"{path}, line {number}",
            ) from err
    return ReviewLog(path, cases, codec)


def _records(path: Path) -> list[Any]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError as err:
        raise DataError("no such log. 'lungunet review' writes it.", where=path) from err
    except OSError as err:
        raise DataError(f"cannot be read ({err.strerror}). Check the path.", where=path) from err
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end is cut off
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as err:
            raise DataError(
                "not JSON. Give the review.jsonl that 'lungunet review' wrote.",
                where=f"{path}, line {number}",
            ) from err
    if not records:
        raise DataError("empty. Give the review.jsonl that 'lungunet review' wrote.", where=path)
    return records


def _read_head(record: Mapping[str, Any], path: Path) -> LabelCodec:
    found = int(record["format"])
    if found > FORMAT:
        raise DataError(
            f"format {found} is newer than this lungunet reads ({FORMAT}). Upgrade lungunet.",
            where=path,
        )
    return LabelCodec.from_dict(record["labels"])


def _after(case: Reviewed, record: Mapping[str, Any], folder: Path) -> Reviewed:
    """Return what a case has come to after one more record."""
    who = str(record.get("who") or case.who)
    if "decision" in record:
        decision = record["decision"]
        if decision is not None and decision not in DECISIONS:
            raise ValueError(decision)
        note = str(record.get("note", ""))
        return replace(case, decision=decision, note=note, who=who)
    before, after = str(record["before"]), str(record["after"])
    step = replace(
        case,
        who=who,
        changes=case.changes + (before != after),
        mask=folder / str(record["mask"]),
    )
    if "slice" in record:
        return replace(step, slices={**(case.slices or {}), int(record["slice"]): after})
    return replace(step, first=case.first or before, last=after)


def first_version(mask: Path) -> Path:
    """Return where the first version of a mask is kept: hidden, so that nothing pairs with it."""
    ending = "".join(mask.suffixes[-2:]) if mask.name.lower().endswith(".gz") else mask.suffix
    stem = mask.name.removesuffix(ending)
    return mask.parent / KEPT / f"{stem}.orig{ending}"


class LogWriter:
    """Adds records to a log; each is on disk when :meth:`append` returns.

    Parameters
    ----------
    path : of the log; made where it is not there. A last line that was cut off is removed
    codec : of the masks

    Raises
    ------
    ConfigError
        When the log that is there is of masks with another codec.
    """

    def __init__(self, path: Path, codec: LabelCodec) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            if content and not content.endswith(b"\n"):
                os.truncate(path, content.rfind(b"\n") + 1)
        except OSError as err:
            raise _unwritable(path, err) from err
        logged = read_review(path) if b"\n" in content else None
        if logged is not None and logged.codec != codec and not logged.cases:
            logged = None
            path.unlink()  # nothing was decided under another coding
        if logged is None:
            head = {"format": FORMAT, "lungunet": __version__, "labels": codec.to_dict()}
            self.append(head)
        elif logged.codec != codec:
            raise ConfigError(
                f"is of masks coded {logged.codec}, these are {codec}. Choose another folder: "
                "out='FOLDER'.",
                where=path,
            )

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, stamped with the time, UTC."""
        stamped = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **record}
        line = json.dumps(stamped, ensure_ascii=False, allow_nan=False) + "\n"
        size = None
        try:
            with self.path.open("ab") as file:
                size = file.tell()
                file.write(line.encode("utf-8", "backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            if size is not None:
                os.truncate(self.path, size)  # a full disk took half of the line
            raise _unwritable(self.path, err) from err


def _unwritable(path: Path, err: OSError) -> DataError:
    return DataError(
        f"cannot be written ({err.strerror}). Make room, or choose another place.", where=path
    )
