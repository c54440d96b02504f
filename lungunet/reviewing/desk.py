"""The work of a review: its cases in order of doubt, what is changed and decided, on disk at once.

Owns the order of log and mask, so that a kill between any two leaves both whole and agreeing. Knows
no network.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from lungunet.data.codec import LabelCodec
from lungunet.data.review_log import DECISIONS, LogWriter, Reviewed, ReviewLog, read_review
from lungunet.errors import ConfigError, DataError
from lungunet.reviewing.cases import Case, Plane

_NOTE, _WHO, _DID = 2000, 80, 40  # letters that are kept


class StaleError(DataError):
    """The mask on disk is not the one that was mended: someone else changed it meanwhile."""


@dataclass(frozen=True)
class Entry:
    """A case in the list.

    Parameters
    ----------
    group : the list or the light that it comes from: train, red
    score : in [0, 1], the most doubtful 1; None where nobody judged it
    reasons : in words
    """

    case: Case
    group: str = ""
    score: float | None = None
    reasons: tuple[str, ...] = ()


class Desk:
    """A review that goes on.

    Parameters
    ----------
    entries : in the order of the list
    log : path of the log
    codec : of the masks
    """

    def __init__(self, entries: Sequence[Entry], log: Path, codec: LabelCodec) -> None:
        self.entries = tuple(entries)
        self.codec = codec
        self._writer = LogWriter(log, codec)
        self._lock = RLock()
        self._states = dict(read_review(log).cases)
        self.changes = 0  # what other windows look at, to know that there is news
        self._settle()

    @property
    def log(self) -> ReviewLog:
        """What the review has come to."""
        return read_review(self._writer.path)

    def _settle(self) -> None:
        """Tell of the last change of each mask whether it was made: a kill may have come between.

        The log is written first, then the mask. What the log tells and the mask does not hold is
        taken back by another record.
        """
        cases = {entry.case.name: entry.case for entry in self.entries}
        for name, state in tuple(self._states.items()):
            if name not in cases:
                continue
            logged = dict(state.slices or {}) if state.last is None else {0: state.last}
            for z, version in logged.items():
                found = cases[name].version(z)
                if found != version:
                    self._note(cases[name], "not as logged", 0, (version, found), z, "")

    def listing(self) -> dict[str, Any]:
        """Return the list with what was done, as plain values."""
        with self._lock:
            rows = [
                {
                    "name": entry.case.name,
                    "group": entry.group,
                    "score": entry.score,
                    "reasons": list(entry.reasons),
                    "scan": entry.case.is_scan,
                    **self._done(entry.case),
                }
                for entry in self.entries
            ]
            return {"cases": rows, "classes": list(self.codec.names), "changes": self.changes}

    def _done(self, case: Case) -> dict[str, Any]:
        state = self._states.get(case.name, Reviewed(case.name))
        return {
            "decision": state.decision,
            "note": state.note,
            "who": state.who,
            "changed": state.changes > 0,
        }

    def plane(self, index: int, z: int) -> Plane:
        """Return a slice of a case with its mask."""
        with self._lock:
            return self.entries[index].case.plane(z)

    def save(
        self, index: int, z: int, classes: np.ndarray, *, base: str, did: str, who: str
    ) -> str:
        """Write a mask; return its new version.

        Parameters
        ----------
        classes : (H, W) uint8
        base : version of the mask that was changed
        did, who : a word on what was done, and by whom

        Raises
        ------
        StaleError
            When the mask on disk is another one by now.
        """
        case = self.entries[index].case
        with self._lock:
            change = case.change(z, classes)
            if change.before != base:
                raise StaleError("was changed elsewhere. Look at it again.", where=case.name)
            if not change.pixels:
                return change.before
            versions = (change.before, change.after)
            self._note(case, did[:_DID], change.pixels, versions, z, who)
            change.write()
            return change.after

    def _note(
        self, case: Case, did: str, pixels: int, versions: tuple[str, str], z: int | None, who: str
    ) -> None:
        record: dict[str, Any] = {
            "name": case.name,
            "did": did,
            "pixels": pixels,
            "before": versions[0],
            "after": versions[1],
            "mask": _relative(case.mask, self._writer.path.parent),
        }
        if case.is_scan:
            record["slice"] = z
        if who:
            record["who"] = who[:_WHO]
        self._writer.append(record)
        state = self._states.get(case.name, Reviewed(case.name))
        self._states[case.name] = replace(state, changes=state.changes + 1)
        self.changes += 1

    def decide(self, index: int, decision: str | None, *, note: str, who: str) -> None:
        """Write down what was decided about a case; None takes a decision back.

        Raises
        ------
        LungUNetError
            When its mask cannot be shown: then it can only be unsure, or dropped.
        """
        if decision is not None and decision not in DECISIONS:
            raise ConfigError(f"not one of {', '.join(DECISIONS)}.", where=f"decision '{decision}'")
        case = self.entries[index].case
        if decision in ("right", "mended"):
            case.plane(case.start)  # nobody has seen what cannot be shown
        note, who = note[:_NOTE], who[:_WHO]
        with self._lock:
            record = {"name": case.name, "decision": decision, "note": note, "who": who}
            self._writer.append(record)
            state = self._states.get(case.name, Reviewed(case.name))
            self._states[case.name] = replace(state, decision=decision, note=note, who=who)  # type: ignore[arg-type]
            self.changes += 1


def _relative(path: Path, folder: Path) -> str:
    path = path.parent.resolve() / path.name  # of a mask that is a link the first version lies here
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()
