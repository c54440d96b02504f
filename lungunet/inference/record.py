"""What was predicted into a folder, by which model and how: a file beside the masks, line by line.

Who stops half-way goes on from it, and the tables are made of it: memory does not grow with the
number of masks. Knows no model but by its hash, and nothing of what a mask looks like.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import IO, Any

from lungunet.data.files import plain, write_csv
from lungunet.errors import ConfigError, DataError
from lungunet.inference.measure import COLUMNS, Measurement
from lungunet.inference.quality import TRIAGE_COLUMNS, Plausibility, triage_row

FILE = "predicted.jsonl"
_MEASUREMENTS, _TRIAGE = "measurements.csv", "triage.csv"
_FORMAT = 1
_REMARKS = ("address",)  # where the model was found: the same one, from elsewhere, goes on
_PROBED = 16 * 1024  # bytes of a file, at its start, its middle and its end, tell it from others


class Record:
    """The record of one folder of masks.

    Parameters
    ----------
    out : the folder; nothing is written before the first mask is
    made_by : model and settings, plain values
    going_on : take over what is there, if anything is, and if it was made by the same

    Raises
    ------
    ConfigError
        When what is there is of another model, or of other settings.
    DataError
        When it is damaged.
    """

    def __init__(self, out: Path, made_by: Mapping[str, Any], *, going_on: bool) -> None:
        self.path = out / FILE
        self._made_by = dict(made_by)
        self._lock = Lock()
        self._file: IO[bytes] | None = None
        self._rows: dict[str, tuple[int, float, str]] = {}  # name: place in the file, worry, source
        self._unwritten = 0
        self._end = 0
        self.goes_on = going_on and self.path.exists()
        if self.goes_on:
            self._take_over()

    @property
    def files(self) -> list[Path]:
        """What is written besides masks."""
        return [self.path, *(self.path.with_name(name) for name in (_MEASUREMENTS, _TRIAGE))]

    def count(self, names: Iterable[str]) -> int:
        """Count the masks of these names that are recorded."""
        return sum(name in self._rows for name in names)

    def holds(self, name: str, source: str, files: Iterable[Path]) -> bool:
        """Whether a mask and all that belongs to it is there, of this source.

        Raises
        ------
        DataError
            When it is of another one.
        """
        if name not in self._rows or not all(path.exists() for path in files):
            return False
        if self._rows[name][2] != source:
            raise DataError(
                "a mask of this name is there, of another scan or of another state of it. Choose "
                "another folder, or predict all again with overwrite=True.",
                where=self.path.with_name(name),
            )
        return True

    def add(
        self, name: str, source: str, rows: Sequence[Measurement], checked: Plausibility | None
    ) -> None:
        """Record a mask that is written; from any thread."""
        row = {
            "name": name,
            "source": source,
            "measurements": [asdict(one) for one in rows],
            "triage": triage_row(name, checked) if checked else None,
        }
        with self._lock:
            if self._file is None:
                self._start()
            place = self._append(row)
            self._rows[name] = (place, checked.worry if checked else 0.0, source)
            self._unwritten += 1

    def write_tables(self, names: Sequence[str] = (), *, now: bool = True) -> None:
        """Write both tables of all masks: those of ``names`` first, in their order.

        Without ``now`` only where a twentieth of the masks or more is new, for each time all are
        written.
        """
        if not self._unwritten or not (now or 20 * self._unwritten >= len(self._rows)):
            return
        order = list(dict.fromkeys([*(name for name in names if name in self._rows), *self._rows]))
        judged = sorted(self._rows, key=lambda name: (-self._rows[name][1], name))
        measured = (line for row in self._read(order) for line in row["measurements"])
        write_csv(self.path.with_name(_MEASUREMENTS), measured, COLUMNS)
        triage = [row["triage"] for row in self._read(order[:1]) if row["triage"]]
        if triage:
            rows = (row["triage"] for row in self._read(judged) if row["triage"])
            write_csv(self.path.with_name(_TRIAGE), rows, TRIAGE_COLUMNS)
        self._unwritten = 0

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _start(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("r+b" if self._rows else "w+b")
        except OSError as err:
            raise DataError(
                f"cannot be written ({err.strerror}). Choose another place.", where=self.path
            ) from err
        if self._rows:
            self._file.seek(self._end)
            self._file.truncate()  # a line that was cut short
        else:
            self._append({"format": _FORMAT, "made_by": self._made_by})

    def _append(self, content: Mapping[str, Any]) -> int:
        assert self._file is not None
        place = self._file.seek(0, 2)
        self._file.write(json.dumps(plain(content), allow_nan=False).encode() + b"\n")
        self._file.flush()
        return place

    def _read(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            for name in names:
                file.seek(self._rows[name][0])
                yield json.loads(file.readline())

    def _take_over(self) -> None:
        """Read what is there, but for a last line that was cut short."""
        with self.path.open("rb") as file:
            self._refuse_others(file.readline())
            self._end = file.tell()
            while (line := file.readline()).endswith(b"\n"):
                try:
                    row = json.loads(line)
                    worry = row["triage"]["worry"] if row["triage"] else 0.0
                    self._rows[row["name"]] = (self._end, worry, row["source"])
                except (ValueError, KeyError, TypeError) as err:
                    raise DataError(
                        f"damaged at byte {self._end}. Predict all again with overwrite=True.",
                        where=self.path,
                    ) from err
                self._end = file.tell()
        self._unwritten = len(self._rows)  # tables may be behind

    def _refuse_others(self, line: bytes) -> None:
        try:
            head = json.loads(line)
            made_by = head["made_by"] if head["format"] == _FORMAT else None
        except (ValueError, KeyError, TypeError):
            made_by = None
        if not isinstance(made_by, dict):
            raise DataError(
                "no record that this version reads. Predict all again with overwrite=True.",
                where=self.path,
            )
        ours = plain(self._made_by)
        keys = [key for key in {**made_by, **ours} if key not in _REMARKS]
        other = [key for key in keys if made_by.get(key) != ours.get(key)]
        if other:
            what = ", ".join(
                "another model"
                if key == "model"
                else f"{key} {_short(made_by.get(key))}, not {_short(ours.get(key))}"
                for key in other
            )
            raise ConfigError(
                f"its masks were made with {what}. Predict as before, or choose another folder.",
                where=self.path.parent,
            )


def _short(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def identify_source(path: Path, slices: Sequence[Path] = ()) -> str:
    """Return what tells a slice or a scan from others, wherever it lies, without reading it all."""
    found = hashlib.sha256()
    for file in slices or [path]:
        try:
            size = file.stat().st_size
            found.update(f"{size} ".encode())
            with file.open("rb") as opened:
                for place in (0, size // 2, max(0, size - _PROBED)):
                    opened.seek(place)
                    found.update(opened.read(_PROBED))
        except OSError:  # said where it is read
            found.update(b"?")
    return found.hexdigest()[:16]
