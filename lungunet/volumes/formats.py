"""The formats of CT volumes, one row each, and which files and folders are volumes.

A new format is one row and one reader. Finding looks at names and first bytes, opens no volume and
needs no SimpleITK.
"""

import glob
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from lungunet.data.ct import SUFFIXES as IMAGE_SUFFIXES
from lungunet.errors import ConfigError, DataError, LungUNetWarning, counted
from lungunet.volumes import archive, dicom
from lungunet.volumes.grid import Grid
from lungunet.volumes.metaimage import read_metaimage
from lungunet.volumes.nifti import header_of, is_pair, read_nifti
from lungunet.volumes.nrrd import read_nrrd

_MASKS = ".nii.gz"  # what masks of scans are written as whose own format is not written


@dataclass(frozen=True)
class Format:
    """One format of CT volumes.

    Parameters
    ----------
    name : what messages call it
    suffixes : endings of its files, lower case
    read : path, and series or None, to voxels as (k, j, i) int16 or float32 in the order of the
        file, and the grid they lie on. Refuses a file that leaves open where that is
    written : endings that volumes are written with, a mask of such a scan with the first; none
        where the format is read alone
    tells : whether a file is of this format, where its ending does not say
    is_folder : a folder of such files is one scan, and each of them a slice
    deep : one file is a scan at any depth, as a folder of slices is, for no mask is written so
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, str | None], tuple[np.ndarray, Grid]]
    written: tuple[str, ...] = ()
    tells: Callable[[Path], bool] | None = None
    is_folder: bool = False
    deep: bool = False

    def names(self, path: Path) -> bool:
        """Whether a file is called as those of this format are."""
        return path.name.lower().endswith(self.suffixes)

    def holds(self, path: Path) -> bool:
        """Whether a file is of this format."""
        return self.names(path) if self.tells is None else self.tells(path)


FORMATS = (
    Format("NIfTI", (".nii.gz", ".nii"), read_nifti, written=(".nii.gz", ".nii")),
    Format("NIfTI pair", (".hdr", ".img"), read_nifti, tells=is_pair),
    Format("NRRD", (".nrrd", ".nhdr"), read_nrrd, written=(".nrrd",)),
    Format("MetaImage", (".mha", ".mhd"), read_metaimage, written=(".mha",)),
    Format(
        "DICOM in gzip", archive.GZIPPED, archive.refuse_gzip, tells=archive.is_gzip, is_folder=True
    ),
    Format("DICOM", dicom.SUFFIXES, dicom.read_dicom, tells=dicom.is_dicom, is_folder=True),
    Format("zip", archive.SUFFIXES, archive.read_zip, tells=archive.holds_scans, deep=True),
)
"""Every format that is read."""

_OTHER = Format("other", (), dicom.read_dicom)  # it may lack the mark of DICOM


def format_of(path: Path) -> Format:
    """Return the row of a file or folder: by what it holds, then by its ending.

    What no row knows is left to SimpleITK, and an empty folder to the last format of folders.
    """
    if path.is_dir():
        rows = [row for row in FORMATS if row.is_folder]
        return next((row for row in rows if any(map(row.holds, path.iterdir()))), rows[-1])
    rows = sorted(FORMATS, key=lambda row: row.tells is None)
    return next((row for row in rows if row.holds(path)), _OTHER)


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

    A folder does when it holds volume or DICOM files, itself or deeper. Hidden files do not count.

    Raises
    ------
    ConfigError
        When it holds images too, or a glob finds both: one of the two kinds would be passed over.
    """
    path = Path(source)
    if path.is_dir():
        volume = next(_volumes_of(path), None)
        image = next((file for file in sorted(path.iterdir()) if _is_image(file)), None)
        volume = next(_deeper_files(path), None) if volume is None and image is None else volume
    elif glob.has_magic(str(source)) and not path.exists():
        matches = [Path(match) for match in _matches(source)]
        volume = next((match for match in matches if is_volume_source(match)), None)
        image = next((match for match in matches if _is_image(match)), None)
    else:
        return any(row.holds(path) for row in FORMATS)
    if volume is not None and image is not None:
        scan = format_of(volume).name if volume.is_dir() else volume.name
        raise ConfigError(
            f"holds slices ({image.name}) and scans ({scan}). Put them into different "
            f"folders, or name those that are meant, as in '{image.parent / '*'}{image.suffix}'.",
            where=source,
        )
    return volume is not None


def find_volumes(sources: Iterable[str | Path]) -> list[Path]:
    """List the scans that a person means: each a volume file, a DICOM file or a DICOM folder.

    Parameters
    ----------
    sources : files, globs, and folders: of volume files, or of one DICOM series, or with folders of
        DICOM series at any depth

    Returns
    -------
    list of Path
        Each once, in order. Volume files that lie deeper in a folder are left out, with a warning,
        for beside a scan there are often masks; a glob such as ``scans/*/ct.nii.gz`` says which
        are meant.

    Raises
    ------
    DataError
        When a source holds no volume.
    """
    found: dict[Path, Path] = {}
    deeper: list[tuple[Path, Path]] = []
    for source in sources:
        volumes, below = list(_volumes_of(source)), list(_deeper_files(Path(source)))
        if below and not volumes:
            raise DataError(
                f"its scans lie deeper ({below[0]}). "
                f"Say which are meant, as '{_like(below[0], source)}'.",
                where=source,
            )
        if not volumes:
            rows = (row.suffixes if not row.is_folder else (row.name,) for row in FORMATS)
            known = ", ".join(chain(*rows))
            raise DataError(f"holds no CT volume ({known}). Check the path.", where=source)
        for path in volumes:
            found.setdefault(path.resolve(), path)
        deeper += [(Path(source), path) for path in below]
    left_out = [(source, path) for source, path in deeper if path.resolve() not in found]
    if left_out:
        source, path = left_out[0]
        warnings.warn(
            f"{source}: {counted(len(left_out), 'volume file')} deeper in it left out ({path}). "
            f"To have them too, add '{_like(path, source)}'.",
            LungUNetWarning,
            stacklevel=2,
        )
    return list(found.values())


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name volumes apart: where names collide, folders go before them.

    Examples
    --------
    >>> unique_names([Path("a/ct.nii.gz"), Path("b/ct.nii.gz"), Path("b/other.mha")])
    ['a_ct', 'b_ct', 'other']
    """
    names = [volume_name(path) for path in paths]
    folders = [path.resolve().parts[1:-1] for path in paths]  # the first is the root
    for depth in range(1, 1 + max(map(len, folders), default=0)):
        often = Counter(names)
        names = [
            "_".join([*above[-depth:], volume_name(path)]) if often[name] > 1 else name
            for path, above, name in zip(paths, folders, names, strict=True)
        ]
    doubled = next((name for name, count in Counter(names).items() if count > 1), None)
    if doubled is not None:
        both = [str(path) for path, name in zip(paths, names, strict=True) if name == doubled]
        raise DataError("have one name. Rename one of them.", where=" and ".join(both))
    return names


def _volumes_of(source: str | Path) -> Iterator[Path]:
    path = Path(source)
    if path.is_dir():
        files = sorted(path.iterdir())
        yield from (file for file in files if _is_named(file) and _is_visible_file(file))
        yield from _archives_below(path)
        yield from _series_folders(path)
    elif glob.has_magic(str(source)) and not path.exists():
        for match in _matches(source):
            yield from _volumes_of(match)
    elif any(row.holds(path) for row in FORMATS):
        yield header_of(path) if is_pair(path) else path


def _deeper_files(folder: Path) -> Iterator[Path]:
    """Yield volume files of folders in a folder."""
    for where, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        paths = [Path(where, name) for name in sorted(files) if Path(where) != folder]
        yield from (path for path in paths if _is_named(path) and _is_visible_file(path))


def _archives_below(folder: Path) -> Iterator[Path]:
    """Yield files that are scans at any depth, by their ending first."""
    rows = [row for row in FORMATS if row.deep]
    for where, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        paths = [Path(where, name) for name in sorted(files)]
        yield from (
            path
            for path in paths
            if _is_visible_file(path) and any(row.names(path) and row.holds(path) for row in rows)
        )


def _like(file: Path, folder: str | Path) -> Path:
    """Return the pattern for files of this name in folders beside."""
    depth = len(file.relative_to(folder).parts) - 1
    return Path(folder, *["*"] * depth, file.name)


def _is_named(path: Path) -> bool:
    """Whether a file is a whole volume by its ending; of a pair the header is."""
    rows = [row for row in FORMATS if not row.is_folder and not row.deep]
    return path == header_of(path) and any(
        row.names(path) and (row.tells is None or row.tells(path)) for row in rows
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and _is_visible_file(path)


def _is_visible_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _series_folders(folder: Path) -> Iterator[Path]:
    series = [row for row in FORMATS if row.is_folder]
    for where, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        paths = [Path(where, name) for name in files]
        # Images are not opened: there may be thousands.
        others = [path for path in paths if path.suffix.lower() not in IMAGE_SUFFIXES]
        if any(row.holds(path) for path in others for row in series):
            yield Path(where)


def _matches(pattern: str | Path) -> list[str]:
    # glob.glob takes absolute patterns, Path.glob does not.
    return sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207
