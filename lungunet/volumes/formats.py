"""The formats of CT volumes, one row each, and which files and folders are volumes.

A new format is one row and one reader. Finding looks at names and first bytes, opens no volume and
needs no SimpleITK.
"""

import glob
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from lungunet.data.ct import SUFFIXES as IMAGE_SUFFIXES
from lungunet.data.kinds import as_list
from lungunet.data.manifest import is_beside_masks
from lungunet.errors import ConfigError, DataError, LungUNetWarning, counted, listed
from lungunet.volumes import archive, dicom
from lungunet.volumes.grid import Grid
from lungunet.volumes.metaimage import metaimage_voxels, read_metaimage
from lungunet.volumes.nifti import header_of, is_pair, nifti_voxels, read_nifti
from lungunet.volumes.nrrd import nrrd_voxels, read_nrrd
from lungunet.volumes.pacs import find_remote, is_pacs
from lungunet.volumes.scan import Scan
from lungunet.volumes.series import find_series, no_ct, read_dicom
from lungunet.volumes.signatures import refuse_unknown
from lungunet.volumes.tree import Tree, is_slice, walk

_MASKS = ".nii.gz"  # what masks of scans are written as whose own format is not written


@dataclass(frozen=True)
class Format:
    """One format of CT volumes.

    Parameters
    ----------
    name : what messages call it
    suffixes : endings of its files, lower case
    read : path, and series or None, to voxels as (k, j, i) int16 or float32 in the order of the
        file, and the grid they lie on. Refuses a file that leaves open where that is. Of slices it
        takes ``resample`` too
    written : endings that volumes are written with, a mask of such a scan with the first; none
        where the format is read alone
    tells : whether a file is of this format, where its ending does not say
    is_folder : a folder of such files is one scan, and each of them a slice
    deep : one file is a scan at any depth, as a folder of slices is, for no mask is written so
    voxels : path of a file to that of its voxels, which may lie beside a header; None where not
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[..., tuple[np.ndarray, Grid]]
    written: tuple[str, ...] = ()
    tells: Callable[[Path], bool] | None = None
    is_folder: bool = False
    deep: bool = False
    voxels: Callable[[Path], Path] | None = None

    @property
    def holds_slices(self) -> bool:
        """Whether a scan of this format is put together of slices."""
        return self.is_folder or self.deep

    def names(self, path: Path) -> bool:
        """Whether a file is called as those of this format are."""
        return path.name.lower().endswith(self.suffixes)

    def holds(self, path: Path) -> bool:
        """Whether a file is of this format."""
        return self.names(path) if self.tells is None else self.tells(path)


FORMATS = (
    Format("NIfTI", (".nii.gz", ".nii"), read_nifti, written=(".nii.gz", ".nii")),
    Format("NIfTI pair", (".hdr", ".img"), read_nifti, tells=is_pair, voxels=nifti_voxels),
    Format(
        "NRRD",
        (".seg.nrrd", ".nrrd", ".nhdr"),
        read_nrrd,
        written=(".seg.nrrd", ".nrrd"),
        voxels=nrrd_voxels,
    ),
    Format(
        "MetaImage",
        (".mha", ".mhd"),
        read_metaimage,
        written=(".mha",),
        voxels=metaimage_voxels,
    ),
    Format(
        "DICOM", (*dicom.PACKED, *dicom.SUFFIXES), read_dicom, tells=dicom.is_dicom, is_folder=True
    ),
    Format("zip", archive.SUFFIXES, archive.read_zip, tells=archive.holds_scans, deep=True),
)
"""Every format that is read."""

WRITTEN = tuple(suffix for row in FORMATS for suffix in row.written)
"""Every ending that volumes are written with."""

_OTHER = Format("other", (), refuse_unknown)


def format_of(path: Path) -> Format:
    """Return the row of a file or folder: by what it holds, then by its ending.

    What no row knows is refused when it is read; an empty folder is the first format of folders.
    """
    if path.is_dir():
        rows = [row for row in FORMATS if row.is_folder]
        return next((row for row in rows if any(map(row.holds, path.iterdir()))), rows[0])
    rows = sorted(FORMATS, key=lambda row: row.tells is None)
    return next((row for row in rows if row.holds(path)), _OTHER)


def files_of(path: Path) -> list[Path]:
    """Return the file of a scan, and that of its voxels where they lie beside a header."""
    row = format_of(path)
    if row.voxels is None:
        return [path]
    try:
        return list(dict.fromkeys([path, row.voxels(path)]))
    except DataError:  # said where it is read
        return [path]


def written_suffix(path: str | Path) -> str:
    """Return the ending that a mask of this scan gets: its own kind, NIfTI for DICOM."""
    row = next((row for row in FORMATS if row.names(Path(path))), _OTHER)
    return (*row.written, _MASKS)[0]


def volume_name(path: str | Path) -> str:
    """Return the name without folder and ending; dots within stay, DICOM names are full of them.

    Examples
    --------
    >>> volume_name("scans/ct.2.nii.gz"), volume_name("series/CT.1.3.12"), volume_name("a/0.dcm")
    ('ct.2', 'CT.1.3.12', '0')
    """
    name = Path(path).name if Path(path).name not in ("", "..") else Path(path).resolve().name
    endings = [suffix for row in FORMATS for suffix in row.suffixes]
    ending = next((end for end in endings if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def is_volume_source(source: str | Path) -> bool:
    """Whether a file, folder or glob means volumes and not slices.

    A folder does when it holds volume or DICOM files, itself or deeper. Hidden files do not count,
    nor do images in a folder where there are more slices of DICOM than these.

    Raises
    ------
    ConfigError
        When it holds images too, or a glob finds both: one of the two kinds would be passed over.
    """
    if is_pacs(source):
        return True
    path = Path(source)
    if path.is_dir():
        files = sorted(path.iterdir())
        images = [file for file in files if _is_image(file)]
        volume = next((file for file in files if _is_named(file) and _is_visible_file(file)), None)
        if volume is None:
            volume = next((file for _, below in walk(path, {}) for file in _archives(below)), None)
        slices = list(islice(_slices_below(path), len(images) + 1))
        if volume is None and not images and not slices:
            volume = next(_deeper_files(Tree.of(path), path), None)
    elif glob.has_magic(str(source)) and not path.exists():
        matches = [Path(match) for match in _matches(source)]
        images = [match for match in matches if _is_image(match)]
        slices = [match for match in matches if not match.is_dir() and is_slice(match)]
        others = (match for match in matches if match not in slices and match not in images)
        volume = next(filter(is_volume_source, others), None)
    else:
        return any(row.holds(path) for row in FORMATS)
    if images and (volume is not None or 0 < len(slices) <= len(images)):
        scan = volume or slices[0].parent
        called = format_of(scan).name if scan.is_dir() else scan.name
        raise ConfigError(
            f"holds slices ({images[0].name}) and scans ({called}). Put them into different "
            "folders, or name those that are meant, as in "
            f"'{images[0].parent / '*'}{images[0].suffix}'.",
            where=source,
        )
    return volume is not None or bool(slices)


def _slices_below(folder: Path) -> Iterator[Path]:
    for _, files in walk(folder, {}):
        yield from filter(is_slice, files)


@dataclass
class _Found:
    """What sources mean: volume files, and folders with those of their files that may be slices.

    Parameters
    ----------
    deeper : volume files that lie deeper in a source, with the source
    given : files that were named one by one
    unknown : of these the ones that are nothing by themselves
    """

    volumes: dict[Path, Path] = field(default_factory=dict)
    folders: dict[Path, list[Path]] = field(default_factory=dict)
    unread: dict[Path, str] = field(default_factory=dict)
    deeper: list[tuple[Path, Path]] = field(default_factory=list)
    given: set[Path] = field(default_factory=set)
    unknown: list[Path] = field(default_factory=list)
    order: dict[Path, int] = field(default_factory=dict)
    remote: list[Scan] = field(default_factory=list)

    def add_remote(self, scans: Iterable[Scan]) -> None:
        for scan in scans:
            if scan.path not in self.order:
                self.order[scan.path] = len(self.order)
                self.remote.append(scan)

    def add_volume(self, path: Path) -> None:
        path = header_of(path) if is_pair(path) else path
        self.order.setdefault(self.volumes.setdefault(path.resolve(), path), len(self.order))

    def add_slices(self, folder: Path, files: Iterable[Path]) -> None:
        known = dict.fromkeys(self.folders.get(folder, ()))
        known |= dict.fromkeys(file for file in files if not _is_whole(file))
        self.folders[folder] = list(known)
        self.order.setdefault(folder, len(self.order))

    def place(self, scan: Scan) -> int:
        """Say where a scan comes in the order of the sources."""
        if scan.remote is not None:
            return self.order[scan.path]
        folders = {item.path.parent for item in scan.slices} or {scan.path, scan.path.parent}
        return min(self.order[path] for path in folders if path in self.order)


def find_volumes(
    sources: str | Path | Iterable[str | Path], *, series: str | None = None
) -> list[Scan]:
    """List the scans that a person means: volume files, and series of DICOM.

    A DICOM series is one scan whether it lies in one folder or in several, by itself or beside
    others, whether a folder or its files are named. What is no axial CT is left out, and so are
    copies; a warning names each. Links are followed.

    Parameters
    ----------
    sources : one or several: files, globs, and folders of volume files, or with DICOM at any depth;
        or studies of a PACS, ``dicomweb+https://HOST/PATH/studies/UID``
    series : short id or SeriesInstanceUID: of DICOM this one alone

    Returns
    -------
    list of Scan
        Each once, in order, with names of their own. One that a damaged file may belong to has an
        error. Volume files that lie deeper in a folder are left out, with a warning, for beside a
        scan there are often masks; a glob such as ``scans/*/ct.nii.gz`` says which are meant.

    Raises
    ------
    DataError
        When a source holds no volume, or all of them no CT.
    ConfigError
        When there is no such series.
    """
    named, found = as_list(sources), _Found()
    for source in named:
        if is_pacs(source):
            found.add_remote(find_remote(source, series=series))
        else:
            _look_at(source, found)
    for path in found.unknown:  # among files of DICOM one that does not look like it
        if path.parent not in found.folders:
            raise _holds_none(path)
        found.add_slices(path.parent, [path])
    scans = [
        Scan(path, "", series=series if format_of(path).deep else None)
        for path in found.volumes.values()
    ]
    scans += found.remote + _find_series(found, series)
    if not scans:
        raise no_ct(found.folders, where=listed(named, separator=", "))
    _warn_of_deeper(found)
    scans.sort(key=found.place)
    return [replace(scan, name=name) for scan, name in zip(scans, unique_names(scans), strict=True)]


def _look_at(source: str, found: _Found) -> None:
    """Add what one source means."""
    path, before = Path(source), len(found.order)
    if path.is_dir():
        _look_into(path, found)
    elif glob.has_magic(source) and not path.exists():
        matches = [Path(match) for match in _matches(source)]
        for folder in filter(Path.is_dir, matches):
            _look_into(folder, found)
        _look_at_files([match for match in matches if not match.is_dir()], found)
    elif any(row.holds(path) for row in FORMATS):
        found.given.add(path)
        _look_at_files([path], found)
    elif path.is_file():
        found.unknown.append(path)
        return
    if len(found.order) == before and not _is_known(path, found):
        raise _holds_none(source)


def _is_known(path: Path, found: _Found) -> bool:
    """Whether a source brings nothing new because all of it was there before."""
    places = [*found.folders, *found.volumes]
    return any(place.resolve().is_relative_to(path.resolve()) for place in places) or (
        path.parent in found.folders
    )


def _look_into(folder: Path, found: _Found) -> None:
    tree = Tree.of(folder)
    files = tree.files.get(folder, [])
    volumes = [file for file in files if _is_named(file) and _is_visible_file(file)]
    slices = tree.slice_folders()
    deeper = list(_deeper_files(tree, folder))
    archives = [file for below in tree.files.values() for file in _archives(below)]
    if deeper and not volumes and not slices and not archives:
        raise DataError(
            f"its scans lie deeper ({deeper[0]}). "
            f"Say which are meant, as '{_like(deeper, folder)}'.",
            where=folder,
        )
    found.deeper += [(folder, file) for file in deeper]
    volumes += archives
    if volumes or slices:
        found.unread |= tree.unread
    for volume in volumes:
        found.add_volume(volume)
    for where, members in slices.items():
        found.add_slices(where, members)
    if slices and folder not in slices:  # beside folders of slices, to be named
        found.add_slices(folder, filter(_is_image, files))


def _look_at_files(files: Iterable[Path], found: _Found) -> None:
    """Add files that were named; where one of a folder is a slice, all that were may be."""
    by_folder = defaultdict(list)
    for file in files:
        if _is_whole(file):
            found.add_volume(file)
        elif not file.name.startswith("."):
            by_folder[file.parent].append(file)
    for folder, members in by_folder.items():
        if any(map(is_slice, members)):
            found.add_slices(folder, members)


def _find_series(found: _Found, series: str | None) -> list[Scan]:
    scans = find_series(found.folders, series=series) if found.folders else []
    named = []
    for scan in scans:
        files = {item.path for item in scan.slices} or set(found.folders.get(scan.path, ()))
        given = files & found.given if len(files) == 1 else set()
        named.append(replace(scan, path=given.pop()) if given else scan)
    for folder, reason in found.unread.items() if series is None else ():
        error = DataError(f"cannot be opened ({reason}). Mend it, or remove it.", where=folder)
        named.append(Scan(folder, "", (), error))
        found.order.setdefault(folder, len(found.order))
    return named


def _warn_of_deeper(found: _Found) -> None:
    left_out = [
        (source, path) for source, path in found.deeper if path.resolve() not in found.volumes
    ]
    if left_out:
        source, path = left_out[0]
        beside = [other for place, other in left_out if place == source]
        warnings.warn(
            f"{source}: {counted(len(left_out), 'volume file')} deeper in it left out ({path}). "
            f"To have them too, add '{_like(beside, source)}'.",
            LungUNetWarning,
            stacklevel=3,
        )


def _holds_none(source: str | Path) -> DataError:
    rows = (row.suffixes if not row.is_folder else (row.name,) for row in FORMATS)
    known = ", ".join(chain(*rows))
    return DataError(f"holds no CT volume ({known}). Check the path.", where=source)


def unique_names(scans: Sequence[Scan]) -> list[str]:
    """Name scans apart: series of one folder by their ids, others by the folders before them.

    Only folders below the one that holds them all count, for above it patients may have their
    names; instead of one that is called as its patient stands the id of the series.

    Examples
    --------
    >>> paths = [Path("a/ct.nii.gz"), Path("b/ct.nii.gz"), Path("b/other.mha")]
    >>> unique_names([Scan(path, "") for path in paths])
    ['a_ct', 'b_ct', 'other']
    """
    shared = Counter(scan.path for scan in scans)
    own = [
        f"{volume_name(scan.path)}_{scan.id}" if shared[scan.path] > 1 else volume_name(scan.path)
        for scan in scans
    ]
    folders = _folders_apart(scans)
    names = own
    for depth in range(1, 1 + max(map(len, folders), default=0)):
        often = Counter(names)
        names = [
            "_".join([*above[-depth:], last]) if often[name] > 1 else name
            for last, above, name in zip(own, folders, names, strict=True)
        ]
    doubled = next((name for name, count in Counter(names).items() if count > 1), None)
    if doubled is not None:
        both = [str(scan) for scan, name in zip(scans, names, strict=True) if name == doubled]
        raise DataError("have one name. Rename one of them.", where=" and ".join(both))
    return names


def _folders_apart(scans: Sequence[Scan]) -> list[tuple[str, ...]]:
    """Return the folders of each scan, from below the one that holds all of them."""
    parents = [Path(os.path.abspath(scan.path)).parent for scan in scans]  # noqa: PTH100 - links stay
    if len({parent.anchor for parent in parents}) != 1:  # on drives of their own, or none
        return [parent.parts[1:] for parent in parents]
    top = len(Path(os.path.commonpath(parents)).parts)
    return [
        tuple(scan.id if _is_called_as_patient(part, scan) else part for part in parent.parts[top:])
        for scan, parent in zip(scans, parents, strict=True)
    ]


def _is_called_as_patient(folder: str, scan: Scan) -> bool:
    return bool(scan.slices) and bool(dicom.words_of(folder) & scan.slices[0].patient)


def _deeper_files(tree: Tree, folder: Path) -> Iterator[Path]:
    """Yield volume files of folders in a folder."""
    for where, files in tree.files.items():
        if where != folder and not is_beside_masks(where):
            yield from (path for path in files if _is_named(path) and _is_visible_file(path))


def _archives(files: Iterable[Path]) -> Iterator[Path]:
    """Yield files that are scans at any depth, by their ending first."""
    rows = [row for row in FORMATS if row.deep]
    yield from (
        path
        for path in files
        if any(row.names(path) and row.holds(path) for row in rows) and _is_visible_file(path)
    )


def _like(files: Sequence[Path], folder: str | Path) -> Path:
    """Return the pattern for files like the first: by name where that recurs, else by ending."""
    first = files[0]
    depth = len(first.relative_to(folder).parts) - 1
    alone = len(files) > 1 and sum(file.name == first.name for file in files) == 1
    ending = first.name.removeprefix(volume_name(first))
    return Path(folder, *["*"] * depth, f"*{ending}" if alone else first.name)


def _is_named(path: Path) -> bool:
    """Whether a file is a whole volume by its ending; of a pair the header is."""
    rows = [row for row in FORMATS if not row.holds_slices]
    return path == header_of(path) and any(row.names(path) and row.holds(path) for row in rows)


def _is_whole(path: Path) -> bool:
    """Whether a file is a whole scan, or of a pair that is one."""
    return any(row.holds(path) for row in FORMATS if not row.is_folder)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and _is_visible_file(path)


def _is_visible_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _matches(pattern: str | Path) -> list[str]:
    # glob.glob takes absolute patterns, Path.glob does not.
    return sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207
