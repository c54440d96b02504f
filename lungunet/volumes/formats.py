"""Which files and folders are CT volumes, and what they are called. Looks at names and first bytes.

Opens no volume and needs no SimpleITK.
"""

import glob
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lungunet.data.ct import SUFFIXES as IMAGE_SUFFIXES
from lungunet.errors import ConfigError, DataError, LungUNetWarning, counted

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Endings of volume files, lower case; DICOM goes by its content."""

_DICOM_SUFFIXES = (".dcm", ".ima")
_WRITTEN_AS = {".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha"}


def volume_suffix(path: str | Path) -> str:
    """Return the ending of a volume file as it stands in :data:`SUFFIXES`, or an empty text."""
    name = Path(path).name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def written_suffix(path: str | Path) -> str:
    """Return the ending that a mask of this scan gets: its own kind, NIfTI for DICOM."""
    return _WRITTEN_AS.get(volume_suffix(path), ".nii.gz")


def volume_name(path: str | Path) -> str:
    """Return the name without folder and ending; dots within stay, DICOM names are full of them.

    Examples
    --------
    >>> volume_name("scans/ct.2.nii.gz"), volume_name("series/CT.1.3.12"), volume_name("a/0.dcm")
    ('ct.2', 'CT.1.3.12', '0')
    """
    name = Path(path).name if Path(path).name not in ("", "..") else Path(path).resolve().name
    endings = (*SUFFIXES, *_DICOM_SUFFIXES)
    ending = next((end for end in endings if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its ending or its first bytes; DICOMDIR holds no slice."""
    path = Path(path)
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in _DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


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
        found = [Path(match) for match in _matches(source)]
        volume = next((match for match in found if is_volume_source(match)), None)
        image = next((match for match in found if _is_image(match)), None)
    else:
        return bool(volume_suffix(path)) or is_dicom(path)
    if volume is not None and image is not None:
        scan = "DICOM" if volume.is_dir() else volume.name
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
            raise DataError(
                f"holds no CT volume ({', '.join(SUFFIXES)}, DICOM). Check the path.", where=source
            )
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

    Raises
    ------
    DataError
        When two volumes lie in one folder and have one name.
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
        yield from (file for file in files if volume_suffix(file) and _is_visible_file(file))
        yield from _series_folders(path)
    elif glob.has_magic(str(source)) and not path.exists():
        for match in _matches(source):
            yield from _volumes_of(match)
    elif volume_suffix(path) or is_dicom(path):
        yield path


def _deeper_files(folder: Path) -> Iterator[Path]:
    """Yield volume files of folders in a folder."""
    for where, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        paths = [Path(where, name) for name in sorted(files) if Path(where) != folder]
        yield from (path for path in paths if volume_suffix(path) and _is_visible_file(path))


def _like(file: Path, folder: str | Path) -> Path:
    """Return the pattern for files of this name in folders beside."""
    depth = len(file.relative_to(folder).parts) - 1
    return Path(folder, *["*"] * depth, file.name)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and _is_visible_file(path)


def _is_visible_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _series_folders(folder: Path) -> Iterator[Path]:
    for where, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        paths = [Path(where, name) for name in files]
        # Images are not opened: there may be thousands.
        if any(path.suffix.lower() not in IMAGE_SUFFIXES and is_dicom(path) for path in paths):
            yield Path(where)


def _matches(pattern: str | Path) -> list[str]:
    # glob.glob takes absolute patterns, Path.glob does not.
    return sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207
