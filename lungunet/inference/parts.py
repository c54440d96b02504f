"""A job divided: which part an item belongs to, and how the tables of parts become one.

Masks of all parts lie in one folder, tables and record of each in ``parts/03-of-16`` below it.
"""

import glob
import hashlib
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lungunet.data.made_by import FILE, read_head
from lungunet.data.manifest import PARTS, list_records
from lungunet.errors import ConfigError, DataError
from lungunet.inference.record import Listing, Rows, refuse_mixed


@dataclass(frozen=True, order=True)
class Part:
    """One part of so many.

    Examples
    --------
    >>> str(Part.parse("3/16")), Part.parse("3/16").folder(Path("masks")).as_posix()
    ('3/16', 'masks/parts/03-of-16')
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``3/16``.

        Raises
        ------
        ConfigError
            When it is none.
        """
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise ConfigError(
                "write the number of a part and of all, from 1/16 to 16/16.", where=f"part={text!r}"
            )
        return cls(number, count)

    def __str__(self) -> str:
        """Write it as it is typed."""
        return f"{self.number}/{self.count}"

    def folder(self, out: Path) -> Path:
        """Return where tables and record of this part go."""
        return out / PARTS / f"{self.number:0{len(str(self.count))}}-of-{self.count}"

    def takes(self, key: str) -> bool:
        """Whether an item is of this part; its key alone decides, and no other item."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1


def keys_of(paths: Iterable[Path], inputs: Iterable[str]) -> list[str]:
    """Return what items are called below the inputs that they come from, wherever those lie.

    Examples
    --------
    >>> keys_of([Path("/mnt/a/scans/p1/ct.mha")], ["/mnt/a/scans/*/ct.mha"])
    ['p1/ct.mha']
    """
    bases = {_base_of(source) for source in inputs}
    keys = []
    for path in paths:
        base = next((each for each in reversed(path.parents) if each in bases), None)
        keys.append((path.relative_to(base) if base else path).as_posix())
    return keys


def _base_of(source: str) -> Path:
    path = Path(source)
    while glob.has_magic(str(path)) and not path.exists():
        path = path.parent
        if not glob.has_magic(str(path)):
            return path
    return path if path.is_dir() else path.parent


def list_of(names: Sequence[str], *, own: Iterable[str]) -> Listing:
    """Return what a part is given to do: of all names its own."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    mine = set(own)
    places = {name: place for place, name in enumerate(names) if name in mine}
    return Listing(digest.hexdigest()[:16], len(names), places)


def refuse_divided_otherwise(
    out: Path, part: Part | None, made_by: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Stop where a folder holds parts of another division, or of another model.

    Raises
    ------
    ConfigError
        When it does, or when what is no part would go between parts.
    """
    for other, records in _find_parts(out).items():
        if part is None or other.count != part.count:
            what = "a job that is divided" if part is None else f"a job divided by {other.count}"
            raise ConfigError(
                f"holds parts of {what}. Join them with merge_parts, or remove {out / PARTS}.",
                where=out,
            )
        for record in records if not overwrite else ():
            if said := read_head(record):
                refuse_mixed(made_by, said, out)


@dataclass(frozen=True)
class Merged:
    """What came of joining parts.

    Parameters
    ----------
    masks : how many are there
    failed : names of what has no mask, as ``errors.csv`` says why
    missing : what has to be done before all is there; empty where all is
    """

    masks: int
    failed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def merge_parts(out: str | Path) -> Merged:
    """Join the tables of a job that was divided by ``part``.

    They are what one process would have written, in its order. While parts are missing the tables
    are of what is there, and can be joined again later; when none is, the folder becomes as if one
    process had made it, and what was kept of each part goes.

    Parameters
    ----------
    out : folder of the masks

    Returns
    -------
    Merged

    Raises
    ------
    DataError
        When the folder holds no parts, or a damaged record.
    ConfigError
        When parts are of different models, or were made with different settings.
    """
    out = Path(out)
    parts = _find_parts(out)
    whole = out / FILE
    if not parts and not whole.exists():
        raise DataError("holds no parts. Give the folder that they were predicted to.", where=out)
    if len({part.count for part in parts}) > 1:
        raise ConfigError(
            f"holds parts of different divisions. Remove those of one from {out / PARTS}.",
            where=out,
        )
    rows = Rows()
    lists: dict[Part, Listing] = {}
    for record in [whole] if whole.exists() else []:
        rows.take_over(record)
    for part, records in parts.items():
        for record in records:
            rows.take_over(record)
            if record in rows.listed:
                lists[part] = rows.listed[record]
    places = {name: at for each in lists.values() for name, at in each.places.items()}
    order = sorted(places, key=lambda name: (places[name], name))
    missing = _find_missing(lists, parts, rows)
    rows.write_tables(out, order)
    if parts and not missing:
        rows.write(whole, order)
        _remove(out / PARTS)
    return Merged(len(rows.masks), tuple(rows.errors), tuple(missing))


def _find_parts(out: Path) -> dict[Part, list[Path]]:
    found = {}
    for folder in (out / PARTS).glob("*-of-*"):
        number, _, count = folder.name.partition("-of-")
        if number.isdecimal() and count.isdecimal() and (records := list_records(folder)):
            found[Part(int(number), int(count))] = records
    return dict(sorted(found.items()))


def _find_missing(lists: Mapping[Part, Listing], parts: Iterable[Part], rows: Rows) -> list[str]:
    """Say which parts are not there, not done, or of a list that has grown since."""
    count = next((part.count for part in parts), 0)
    digests = [each.list for each in lists.values()]
    newest = max(
        lists.values(), key=lambda one: (one.length, digests.count(one.list)), default=None
    )
    said = []
    for part in (Part(number, count) for number in range(1, count + 1)):
        if part not in lists:
            said.append(f"part {part}: not begun")
            continue
        left = [n for n in lists[part].places if n not in rows.masks and n not in rows.errors]
        if left:
            said.append(f"part {part}: {len(left)} of {len(lists[part].places)} to do")
        elif newest and lists[part].list != newest.list:
            said.append(f"part {part}: was done when the list was another, do it again")
    return said


def _remove(folder: Path) -> None:
    """Remove a folder, all at once for whoever looks."""
    gone = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    folder.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)
