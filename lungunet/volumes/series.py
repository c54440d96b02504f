"""Which DICOM files are one scan: grouped by series, joined by position, and what is left out.

A series is not a folder: it may lie in two, and beside others in one. No file passes in silence;
each is part of a scan, of one that is refused, or named in a warning.
"""

import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lungunet.errors import ConfigError, DataError, LungUNetWarning, counted, listed
from lungunet.volumes.dicom import (
    SUFFIXES,
    Damaged,
    Other,
    Slice,
    begins_as_dicom,
    examine,
    first_bytes,
    is_packed,
    reading_headers,
    said_of,
    same_pixels,
)
from lungunet.volumes.grid import Grid
from lungunet.volumes.scan import Scan, short_id
from lungunet.volumes.stack import SAME_MM, are_even, differ, read_stack
from lungunet.volumes.tree import Tree

_UPRIGHT = 0.7  # cosine between the way from slice to slice and the body's axis: axial slices


@dataclass
class _Found:
    """What the files of some folders are."""

    slices: list[Slice] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)


def find_series(folders: Mapping[Path, Sequence[Path]], *, series: str | None = None) -> list[Scan]:
    """Group the files of folders to scans; warn of what is left out, one line each.

    Parameters
    ----------
    folders : each with those of its files that are meant
    series : short id or SeriesInstanceUID of the only one that counts

    Returns
    -------
    list of Scan
        In the order of the folders. One that lacks a file, or may, has an error.

    Raises
    ------
    ConfigError
        When none is the series asked for.
    """
    found = _examine_all(folders)
    if series is not None:
        found = _only(found, series)
    groups = defaultdict(list)
    for item in found.slices:
        groups[item.study, item.series].append(item)
    if series is None:
        _leave_out(groups, found.others)
    clusters = [cluster for slices in groups.values() for cluster in _join(slices, found.others)]
    scans = [_scan(cluster) for cluster in clusters]
    scans = _with_damage(scans, found.damaged)
    if scans:  # else whoever asked says what there is
        _warn_of(found.others)
    order = {folder: index for index, folder in enumerate(folders)}
    return sorted(scans, key=lambda scan: min(order[at] for at in _folders(scan) & order.keys()))


def read_dicom(
    path: Path, series: str | None = None, *, resample: bool = False
) -> tuple[np.ndarray, Grid]:
    """Read what :func:`the_scan` finds; ``resample`` as :func:`read_stack` takes it."""
    return read_scan(the_scan(path, series), resample=resample)


def the_scan(path: Path, series: str | None = None) -> Scan:
    """Find one DICOM file, or one series in a folder, whatever the names of its files.

    Parameters
    ----------
    series : short id or SeriesInstanceUID; None where there is one
    """
    tree = Tree.of(path) if path.is_dir() else Tree({path.parent: [path]})
    for folder, reason in tree.unread.items():
        raise DataError(f"cannot be opened ({reason}). Mend it, or remove it.", where=folder)
    folders = tree.slice_folders() if path.is_dir() else tree.files
    if not folders:
        raise DataError("holds no DICOM file. Check the path.", where=path)
    scans = find_series(folders, series=series)
    if not scans and path.is_dir():
        raise no_ct(folders, where=path)
    if not scans:
        what, fix = _what_else(folders, "Leave it out.")
        raise DataError(f"is {what}, no slice of CT. {fix}", where=path)
    return replace(choose(scans, path), path=path)


def read_scan(scan: Scan, *, resample: bool = False) -> tuple[np.ndarray, Grid]:
    """Read the slices of one series."""
    if scan.error is not None:
        raise scan.error
    return read_stack(scan.slices, scan.path, resample=resample)


def no_ct(folders: Mapping[Path, Sequence[Path]], *, where: object) -> DataError:
    """Return the error that says what files are, none of which is a slice of CT."""
    what, fix = _what_else(folders, "Check the path.")
    return DataError(f"holds no slice of CT, only: {what}. {fix}", where=where)


def _what_else(folders: Mapping[Path, Sequence[Path]], fix: str) -> tuple[str, str]:
    """Say what files are, and what to do: for masks in DICOM another thing than ``fix``."""
    kinds = sorted({item.what for item in _examine_all(folders).others})
    if {said_of("SEG"), said_of("RTSTRUCT")} & {*kinds}:
        fix = (
            "Masks in DICOM are written and not read: give NIfTI or NRRD, as "
            "'lungunet predict ... --format nifti' writes it."
        )
    return listed(kinds, separator=", "), fix


def choose(scans: Sequence[Scan], where: Path) -> Scan:
    """Return the only scan; where there are several, one with an error that tells them apart."""
    return scans[0] if len(scans) == 1 else several(scans, where, "")


def several(scans: Sequence[Scan], where: Path, name: str) -> Scan:
    """Return what stands for series of which one must be chosen: a scan with that error."""
    return Scan(where, name, (), ConfigError(_listing(scans, ""), where=where))


def _listing(scans: Iterable[Scan], wrong: str) -> str:
    ordered = sorted((scan for scan in scans if scan.slices), key=lambda scan: -len(scan.slices))
    rows = [scan.describe() for scan in ordered]
    way = ""
    if ordered:
        first = ordered[0].id
        way = f"Say which one, as series='{first}' ('lungunet ... --series {first}')."
    if len({scan.id for scan in ordered}) < len(ordered):
        way = "Some share their UID, so give the folder of one."
    return f"{len(rows)} series{wrong}:\n  {listed(rows)}\n{way}"


def _examine_all(folders: Mapping[Path, Sequence[Path]]) -> _Found:
    found = _Found()
    seen: set[tuple[int, int]] = set()
    with reading_headers():
        for files in folders.values():
            starts: dict[Path, bytes] = {}
            for path in files:
                try:
                    state = path.stat()
                    if (state.st_dev, state.st_ino) not in seen:  # else a link to one of them
                        starts[path] = first_bytes(path)
                        seen.add((state.st_dev, state.st_ino))
                except OSError as err:
                    found.damaged.append(_unread(path, err))
            _examine(starts, found)
    return found


def _unread(path: Path, err: OSError) -> Damaged:
    if isinstance(err, FileNotFoundError):
        why = "a link to nothing" if path.is_symlink() else "no such file"
    else:
        why = f"cannot be read ({err.strerror})"
    return Damaged(path, DataError(f"{why}. Check the path.", where=path))


def _examine(starts: Mapping[Path, bytes], found: _Found) -> None:
    """Look at the files of one folder, each with its first bytes."""
    slices = [path for path, start in starts.items() if begins_as_dicom(start)]
    endings = {*SUFFIXES, *(path.suffix.lower() for path in slices)}
    for path, start in starts.items():
        if not begins_as_dicom(start) and _is_foreign(path, start, endings):
            found.others.append(Other(path, "no DICOM"))
            continue
        item = examine(path, start)
        if isinstance(item, list):
            found.slices += item
        elif isinstance(item, Other):
            found.others.append(item)
        else:
            found.damaged.append(item)


def _is_foreign(path: Path, start: bytes, endings: set[str]) -> bool:
    """Whether a file says that it is no slice: by an ending that no slice has, or as plain text."""
    if endings & {end.lower() for end in path.suffixes} or is_packed(path):  # as a.dcm.bz2 too
        return False
    if any(letter.isalpha() for letter in path.suffix):
        return True
    try:
        text = start.decode()
    except UnicodeDecodeError:
        return False
    return bool(text) and all(letter.isprintable() or letter.isspace() for letter in text)


def _only(found: _Found, series: str) -> _Found:
    """Keep what is of one series, and what may be."""

    def is_meant(uid: str) -> bool:
        return series in (uid, short_id(uid))

    slices = [item for item in found.slices if is_meant(item.series)]
    damaged = [item for item in found.damaged if is_meant(item.series)]
    if not slices and not damaged:
        meant = next((item for item in found.others if is_meant(item.series)), None)
        if meant is not None:
            raise ConfigError(
                f"series {series} is {meant.what}, no CT. Take another one, or leave it out."
            )
        groups = defaultdict(list)
        for item in found.slices:
            groups[item.series].append(item)
        scans = [_scan(members) for members in groups.values()]
        raise ConfigError(_listing(scans, f", none is '{series}'"))
    folders = {item.path.parent for item in slices}
    damaged += [one for one in found.damaged if not one.series and one.path.parent in folders]
    return _Found(slices, [], damaged)


def _is_copy(item: Slice, of: Slice) -> bool:
    """Whether two files are one object: at the same place, with the same pixels."""
    same = (of.position, of.axes, of.size) == (item.position, item.axes, item.size)
    return same and same_pixels(of, item)


def _leave_out(groups: dict[tuple[str, str], list[Slice]], others: list[Other]) -> None:
    """Leave out series that show again what an axial series of their study shows."""
    axial = {
        (study, item.owner)
        for (study, _), slices in groups.items()
        if not _is_second(slices)
        for item in slices
    }
    for (study, series), slices in list(groups.items()):
        why = _is_second(slices)
        if why and (study, slices[0].owner) in axial:
            paths = dict.fromkeys(item.path for item in slices)
            others += [Other(path, why, series) for path in paths]
            del groups[study, series]


def _is_second(slices: list[Slice]) -> str:
    """Say why a series is no first choice; nothing where it is one."""
    if all(item.projection for item in slices):
        return "a projection (MIP)"
    if all(abs(item.normal[2]) < _UPRIGHT for item in slices):
        return "a coronal or sagittal series"
    heights = [item.height_mm for item in slices]
    if len(slices) > 1 and max(heights) - min(heights) <= SAME_MM:
        return "one place again and again"
    return ""


def _join(slices: list[Slice], others: list[Other]) -> list[list[Slice]]:
    """Join the parts of one series that lie in several folders, where they fit together.

    What is there twice is left out, but never a slice of a part that is a scan by itself. Where
    UIDs are empty or repeat themselves each folder is one, for its neighbour may be of any patient.
    """
    by_folder = defaultdict(list)
    for item in slices:
        by_folder[item.path.parent].append(item)
    clusters: list[_Cluster] = []
    lone: set[Path] = set()
    for members in by_folder.values():
        part = _Cluster()
        others += part.add(members)
        for cluster in clusters:
            fresh = cluster.without_copies(part.slices)
            fits = not fresh or _fits(cluster.slices, fresh)
            if fits and (not fresh or _have_uids(cluster.slices + fresh)):
                others += cluster.add(part.slices)
                break
            lone |= {item.path.parent for item in (cluster.slices[0], fresh[0]) if fits}
        else:
            clusters.append(part)
    if lone:
        warnings.warn(
            f"{listed(sorted(map(str, lone)), separator=', ')}: UIDs are empty or repeat "
            "themselves, so each folder is taken for a scan. Put the parts of one into one folder.",
            LungUNetWarning,
            stacklevel=4,
        )
    return [cluster.slices for cluster in clusters]


class _Cluster:
    """Slices of one scan, each once."""

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self._known: dict[tuple[str, int], Slice] = {}

    def add(self, slices: list[Slice]) -> list[Other]:
        """Take slices; return the files that are copies of what is there, or of each other."""
        copies = {}
        for item in slices:
            before = self._known.setdefault((item.instance or str(item.path), item.frame), item)
            if before is item or not _is_copy(item, before):
                self.slices.append(item)
            else:
                copies[item.path] = Other(item.path, "a copy", item.series)
        return list(copies.values())

    def without_copies(self, slices: list[Slice]) -> list[Slice]:
        """Return the slices that are not there."""
        return [item for item in slices if not self._has(item)]

    def _has(self, item: Slice) -> bool:
        before = self._known.get((item.instance, item.frame))
        return before is not None and _is_copy(item, before)


def _fits(one: list[Slice], other: list[Slice]) -> bool:
    """Whether one part of a series goes on where the other ends, or fills its gaps."""
    if differ(one[0], other[0]):
        return False
    first, second = (
        np.sort([np.asarray(item.position) @ one[0].normal for item in part])
        for part in (one, other)
    )
    apart = first[-1] < second[0] - SAME_MM or second[-1] < first[0] - SAME_MM
    return bool(apart) or are_even(one + other)


def _have_uids(slices: list[Slice]) -> bool:
    """Whether slices say which series they are of, and each which object it is."""
    objects = {(item.instance, item.frame) for item in slices if item.instance}
    return bool(slices[0].series) and len(objects) == len(slices)


def _scan(slices: list[Slice]) -> Scan:
    folders = sorted({item.path.parent for item in slices})
    path = folders[0] if len(folders) == 1 else Path(os.path.commonpath(folders))
    return Scan(path, "", tuple(slices))


def _folders(scan: Scan) -> set[Path]:
    return {item.path.parent for item in scan.slices} or {scan.path, scan.path.parent}


def _with_damage(scans: list[Scan], damaged: list[Damaged]) -> list[Scan]:
    """Give damaged files to the scans that they may be slices of; each is said of one at least."""
    by_scan: dict[int, list[Damaged]] = defaultdict(list)
    alone: dict[Path, list[Damaged]] = defaultdict(list)
    for item in damaged:
        folder = item.path.parent
        meant = [
            index
            for index, scan in enumerate(scans)
            if folder in _folders(scan) and item.series in ("", scan.slices[0].series)
        ]
        for index in meant:
            by_scan[index].append(item)
        if not meant:
            alone[folder].append(item)
    done = [
        replace(scan, error=_error(by_scan[index])) if index in by_scan else scan
        for index, scan in enumerate(scans)
    ]
    taken = {scan.path for scan in scans}
    for folder, items in alone.items():
        path = items[0].path if folder in taken else folder
        done.append(Scan(path, "", (), _error(items)))
    return done


def _error(damaged: list[Damaged]) -> DataError:
    first, others = damaged[0].error, len(damaged) - 1
    more = f" {counted(others, 'file')} beside it cannot be used either." if others else ""
    return type(first)(f"{first.message}{more}", where=first.where)


def _warn_of(others: list[Other]) -> None:
    by_kind = defaultdict(list)
    for item in others:
        by_kind[item.path.parent, item.series, item.what].append(item.path.name)
    for (folder, _, what), names in by_kind.items():
        warnings.warn(
            f"{folder}: {listed(names, separator=', ')} left out: {what}.",
            LungUNetWarning,
            stacklevel=4,
        )
