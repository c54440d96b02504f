"""What was predicted into a folder, by which model and how: a file beside the masks, line by line.

Who stops half-way goes on from it, and the tables are made of it: memory does not grow with the
number of masks. Knows no model but by its hash, and nothing of what a mask looks like.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple, Self

from lungunet.data.files import plain, replacing, write_csv
from lungunet.data.made_by import FILE, FORMAT, parse_head
from lungunet.data.manifest import find_records, list_records
from lungunet.errors import ConfigError, DataError, listed
from lungunet.inference.measure import COLUMNS, Measurement
from lungunet.inference.quality import TRIAGE_COLUMNS, Plausibility, triage_row

TABLES = _MEASUREMENTS, _TRIAGE, _ERRORS = "measurements.csv", "triage.csv", "errors.csv"
# Where the model was found: the same one, from elsewhere, goes on. And what model and settings say
# already: how masks are coded, for those who read them.
_REMARKS = ("address", "labels")
_PROBED = 16 * 1024  # bytes of a file, at its start, its middle and its end, tell it from others
_OPEN = 64  # files at once


class Listing(NamedTuple):
    """What a part of a job was given to do.

    Parameters
    ----------
    list : a hash of the whole list
    length : of the whole list
    places : in it of the part's own, by name
    """

    list: str
    length: int
    places: dict[str, int]


class _Row(NamedTuple):
    """Where it stands what is said of one mask, or why there is none."""

    file: Path
    at: int
    source: str
    worry: float | None = None  # without triage


class Rows:
    """What records say: for each name the last row of its mask, and of its error.

    Attributes
    ----------
    made_by : model and settings; None before any record was read
    listed : of parts the last list of each record
    """

    def __init__(self) -> None:
        self.made_by: dict[str, Any] | None = None
        self.masks: dict[str, _Row] = {}
        self.errors: dict[str, _Row] = {}
        self.listed: dict[Path, Listing] = {}

    def take_over(self, path: Path) -> int:
        """Read a record but for a last line that is cut short; return where that begins.

        Raises
        ------
        DataError
            When it is damaged.
        ConfigError
            When it is of another model, or of other settings.
        """
        with path.open("rb") as file:
            made_by = parse_head(path, file.readline())
            if made_by is None:
                return 0
            refuse_mixed(self.made_by or made_by, made_by, path.parent)
            self.made_by = made_by
            end = file.tell()
            while (line := file.readline()).endswith(b"\n"):
                try:
                    self._keep(path, end, json.loads(line))
                except (ValueError, KeyError, TypeError) as err:
                    raise DataError(
                        f"damaged at byte {end}. Predict all again with overwrite=True.", where=path
                    ) from err
                end = file.tell()
        return end

    def _keep(self, path: Path, at: int, row: Mapping[str, Any]) -> None:
        if "listed" in row:
            self.listed[path] = Listing(row["list"], row["length"], row["listed"])
        else:
            failed = "error" in row
            worry = None if failed or not row["triage"] else row["triage"]["worry"]
            self.put(row["name"], _Row(path, at, row["source"], worry), failed=failed)

    def put(self, name: str, row: _Row, *, failed: bool) -> None:
        """Keep what is said of a mask; that there is one now outdates an error."""
        if failed:
            self.errors[name] = row
        else:
            self.masks[name] = row
            self.errors.pop(name, None)

    def copy(self) -> Self:
        """Return what there is now of masks and errors."""
        copied = type(self)()
        copied.masks, copied.errors = dict(self.masks), dict(self.errors)
        return copied

    def leave(self, names: Collection[str]) -> None:
        """Forget all but these."""
        for rows in (self.masks, self.errors):
            for name in [name for name in rows if name not in names]:
                del rows[name]

    def in_order(self, first: Iterable[str], rows: Mapping[str, _Row]) -> list[_Row]:
        """Return rows, those of some names first, in their order."""
        names = dict.fromkeys([*(name for name in first if name in rows), *rows])
        return [rows[name] for name in names]

    def write_tables(
        self, folder: Path, first: Sequence[str], own: tuple[Path, IO[bytes], Lock] | None = None
    ) -> None:
        """Write the tables; ``own`` is a record that is being written, and may have lost its name.

        Those of triage and of errors go where they would be empty.
        """
        order = self.in_order(first, self.masks)
        measured = (line for row in read_rows(order, own) for line in row["measurements"])
        write_csv(folder / _MEASUREMENTS, measured, COLUMNS)
        judged = [(-row.worry, name) for name, row in self.masks.items() if row.worry is not None]
        if judged:
            worst_first = [self.masks[name] for _, name in sorted(judged)]
            triage = (row["triage"] for row in read_rows(worst_first, own))
            write_csv(folder / _TRIAGE, triage, TRIAGE_COLUMNS)
        else:
            (folder / _TRIAGE).unlink(missing_ok=True)
        if self.errors:
            failed = read_rows(self.in_order(first, self.errors), own)
            said = ({"name": row["name"], "error": row["error"]} for row in failed)
            write_csv(folder / _ERRORS, said, ("name", "error"))
        else:
            (folder / _ERRORS).unlink(missing_ok=True)

    def write(self, path: Path, order: Iterable[str] = ()) -> None:
        """Write one record of what these say."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(head(self.made_by or {}))
            for kept in (self.masks, self.errors):
                for row in read_rows(self.in_order(order, kept)):
                    file.write(as_line(row))


def read_rows(
    rows: Iterable[_Row], own: tuple[Path, IO[bytes], Lock] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield what rows say; see :meth:`Rows.write_tables`."""
    opened: dict[Path, IO[bytes]] = {}
    with ExitStack() as stack:
        for row in rows:
            if own and row.file == own[0]:
                with own[2]:
                    own[1].seek(row.at)
                    line = own[1].readline()
            else:
                if len(opened) == _OPEN and row.file not in opened:
                    stack.close()
                    opened.clear()
                if row.file not in opened:
                    opened[row.file] = stack.enter_context(row.file.open("rb"))
                opened[row.file].seek(row.at)
                line = opened[row.file].readline()
            yield json.loads(line)


def as_line(content: Mapping[str, Any]) -> bytes:
    """Return a line of a record."""
    return json.dumps(plain(content), allow_nan=False).encode() + b"\n"


def head(made_by: Mapping[str, Any]) -> bytes:
    """Return the first line of a record."""
    return as_line({"format": FORMAT, "made_by": made_by})


class Record:
    """The record of one folder of masks, or of a part of it.

    Parameters
    ----------
    out : the folder; nothing is written before the first mask is
    made_by : model and settings, plain values
    going_on : take over what is there, if anything is, and if it was made by the same
    part : folder of the part that this process does. Each process writes a file of its own there,
        for another may have been given the same part
    again : of masks that are made again, whatever is there, all files that may belong to each.
        Masks beside them stay, with their rows, where they were made alike

    Raises
    ------
    ConfigError
        When what is there, and stays, is of another model, or of other settings.
    DataError
        When it is damaged.
    """

    def __init__(
        self,
        out: Path,
        made_by: Mapping[str, Any],
        *,
        going_on: bool,
        part: Path | None = None,
        again: Mapping[str, Sequence[Path]] | None = None,
    ) -> None:
        self.folder = part or out
        self.path = self.folder / FILE
        self._is_part = part is not None
        self._made_by = dict(made_by)
        self._lock = Lock()
        self._file: IO[bytes] | None = None
        self._rows = Rows()
        self._early: list[dict[str, Any]] = []  # errors before the first mask
        self._unwritten = 0
        self._end = 0
        records = [out / FILE, *(list_records(part) if part else [])]
        self._before = [path for path in records if path.exists()]
        self._again = again or {}
        self.goes_on = going_on and bool(self._before)
        if self._again and self._before:
            self.goes_on = self._keeps_others(out)
        if self.goes_on:
            self._rows.made_by = plain(self._made_by)
            for path in self._before:
                self._end = self._rows.take_over(path)
            self._unwritten = len(self._rows.masks)  # tables may be behind

    @property
    def files(self) -> list[Path]:
        """What is written besides masks, or stands in its way."""
        return [self.path, *(self.folder / name for name in TABLES), *self._before]

    def _keeps_others(self, out: Path) -> bool:
        """Whether masks that are not made again may stay with their rows.

        Raises
        ------
        ConfigError
            When they may not, and are there: who reads the folder would take them for others.
        """
        names: set[str] = set()
        other = "" if self._made_by.get("model") else "a model that nobody can tell from others"
        for path in self._before:
            rows = Rows()
            try:
                rows.take_over(path)
            except DataError:
                other = "what nobody knows, for their record is damaged"
            other = other or _differences(plain(self._made_by), rows.made_by or {})
            names |= rows.masks.keys()
        if not other and not self._is_part:
            return True
        planned = set(chain.from_iterable(self._again.values()))
        files = (path for path in sorted(out.iterdir()) if path not in planned)
        stay = [str(path) for path in files if not names.isdisjoint(names_of(path))]
        if stay:
            why = f"made with {other}" if other else "without a row in the tables of the parts"
            raise ConfigError(
                f"would stay, {why}. Predict all again, move elsewhere what is named here, or "
                "choose another folder.",
                where=listed(stay, separator=", "),
            )
        return False

    def begin(self, names: Iterable[str], listing: Listing | None = None) -> None:
        """Make room for the masks of these names, where they are made again.

        Where others stay as they are, so do files until there are new ones; else all goes first.
        Of a part, say what it was given to do.
        """
        if self._again and self.goes_on:
            self._forget(names)
        elif self._again:
            _remove(chain.from_iterable(self._again[name] for name in names))
            folders = {self.folder, *(path.parent for path in self._before)}
            _remove([folder / name for folder in folders for name in TABLES])
            _remove(self._before)
        if listing:
            self._list(listing)

    def _forget(self, names: Iterable[str]) -> None:
        self._rows.leave({*self._rows.masks, *self._rows.errors}.difference(names))
        self._rows.write(self.path)
        self._rows = Rows()
        self._end = self._rows.take_over(self.path)
        self._unwritten = 1

    def _list(self, listing: Listing) -> None:
        self._rows.leave(listing.places)
        with self._lock:
            known = {"list": listing.list, "length": listing.length}
            self._append({**known, "listed": listing.places})
        self._unwritten += 1

    def count(self, names: Iterable[str]) -> int:
        """Count the masks of these names that are recorded."""
        return sum(name in self._rows.masks for name in names)

    def holds(self, name: str, source: str, files: Iterable[Path]) -> bool:
        """Whether a mask and all that belongs to it is there, of this source.

        Raises
        ------
        DataError
            When it is of another one.
        """
        row = self._rows.masks.get(name)
        if row is None or not all(path.exists() for path in files):
            return False
        if row.source != source:
            raise DataError(
                "a mask of this name is there, of another scan or of another state of it. Choose "
                "another folder, or predict all again with overwrite=True.",
                where=self.path.with_name(name),
            )
        if name in self._rows.errors:  # of a scan that was there and has gone
            self._put(next(read_rows([row], self._own)), row.worry)
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
        self._put(row, checked.worry if checked else None)

    def fail(self, name: str, source: str, error: str) -> None:
        """Record why there is no mask; from any thread. Written with the first mask, if any.

        One that was to be made again goes.
        """
        row = {"name": name, "source": source, "error": error}
        if name not in self._rows.masks:
            _remove(self._again.get(name, ()))
        with self._lock:
            if self._file is None and not self.goes_on:
                self._early.append(row)
                return
        self._put(row, None)

    def write_tables(self, names: Sequence[str] = (), *, now: bool = True) -> None:
        """Write the tables of all masks: those of ``names`` first, in their order.

        Without ``now`` only where a twentieth of the masks or more is new, for each time all are
        written.
        """
        with self._lock:  # meanwhile others add
            rows = self._rows.copy()
            there = len(rows.masks) + len(rows.errors)
            new = self._unwritten
        if new and (now or 20 * new >= there):
            rows.write_tables(self.folder, names, self._own)
            with self._lock:
                self._unwritten -= new

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    @property
    def _own(self) -> tuple[Path, IO[bytes], Lock] | None:
        return (self.path, self._file, self._lock) if self._file else None

    def _put(self, row: Mapping[str, Any], worry: float | None) -> None:
        with self._lock:
            for each, its_worry in [*((early, None) for early in self._early), (row, worry)]:
                at = self._append(each)
                written = _Row(self.path, at, each["source"], its_worry)
                self._rows.put(each["name"], written, failed="error" in each)
                self._unwritten += 1
            self._early.clear()

    def _start(self) -> IO[bytes]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            mode = "r+b" if self._end else "w+b"
            file = self._open_own() if self._is_part else self.path.open(mode)
        except OSError as err:
            raise DataError(
                f"cannot be written ({err.strerror}). Choose another place.", where=self.path
            ) from err
        if self._end and not self._is_part:
            file.seek(self._end)
            file.truncate()  # a line that was cut short
        else:
            file.write(head(self._made_by))
        return file

    def _open_own(self) -> IO[bytes]:
        """Open a new file that no other process writes."""
        number = 1
        while True:
            try:
                return self.path.open("x+b")
            except FileExistsError:
                number += 1
                self.path = self.path.with_name(f"{Path(FILE).stem}-{number}.jsonl")

    def _append(self, content: Mapping[str, Any]) -> int:
        if self._file is None:
            self._file = self._start()
        at = self._file.seek(0, 2)
        self._file.write(as_line(content))
        self._file.flush()
        return at


def refuse_mixed(ours: Mapping[str, Any], theirs: Mapping[str, Any], folder: Path) -> None:
    """Stop where a folder's masks are of another model, or were made with other settings."""
    if other := _differences(ours, theirs):
        before = "Predict as before"
        version = theirs.get("lungunet")
        if version and version != ours.get("lungunet"):
            before += f" (pip install lungunet=={version})"
        raise ConfigError(
            f"its masks were made with {other}. {before}, or choose another folder.", where=folder
        )


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Say how masks were made otherwise than ours are; nothing where they were not."""
    keys = [key for key in {**theirs, **ours} if key not in _REMARKS]
    return ", ".join(
        "another model"
        if key == "model"
        else f"{key} {_short(theirs.get(key))}, not {_short(ours.get(key))}"
        for key in keys
        if theirs.get(key) != ours.get(key)
    )


def names_of(file: Path) -> list[str]:
    """Return what a mask may be called that lies in a file: all before one of its dots."""
    parts = file.name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as err:
            raise DataError(
                f"cannot be removed ({err.strerror}). Choose another folder.", where=file
            ) from err


def _short(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unknown" if value is None else str(value)


def identify_source(files: Sequence[Path]) -> str:
    """Return what tells the files of a slice or a scan from others, without reading them whole."""
    found = hashlib.sha256()
    for file in files:
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


def masks_by_source(folder: Path) -> dict[str, str]:
    """Return the names of masks in a folder by what :func:`identify_source` says of their images.

    None of files that are alike, and none where nothing was predicted into the folder.
    """
    rows = Rows()
    for path in find_records(folder):
        rows.take_over(path)
    sources = Counter(row.source for row in rows.masks.values())
    return {row.source: name for name, row in rows.masks.items() if sources[row.source] == 1}
