"""Reads a zip of DICOM as its folder would be read: unpacked to a temporary folder for so long.

To disk and not to memory: SimpleITK opens paths, and a scan is half a gigabyte. No name in an
archive leads out of that folder, and what it may grow to has bounds.
"""

import shutil
import stat
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import NoReturn

import numpy as np

from lungunet.errors import DataError, LungUNetWarning, listed
from lungunet.volumes import dicom
from lungunet.volumes.grid import Grid
from lungunet.volumes.scan import Scan
from lungunet.volumes.series import read_dicom, the_scan
from lungunet.volumes.temporary import private_folder

SUFFIXES = (".zip",)

_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha")  # not read from archives, but told of

_MOST_FILES = 100_000
_SMALL, _MOST_TIMES = 1 << 30, 200  # bytes; beyond them so many times as large as the archive
_SPARE = 1 << 28  # bytes that stay free
_MAC = "__MACOSX"  # copies of attributes, in archives from a Mac
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError)
_ENCRYPTED = 1  # bit of a file's flags


def read_zip(
    path: Path, series: str | None = None, *, resample: bool = False
) -> tuple[np.ndarray, Grid]:
    """Read a zip, as :attr:`Format.read` does.

    Parameters
    ----------
    series, resample : as :func:`read_dicom` takes them
    """
    with unpacked(path) as folder:
        if not any(map(dicom.is_dicom, folder.rglob("*"))):
            raise DataError("holds no DICOM. Unpack it, and name what is meant.", where=path)
        return read_dicom(folder, series, resample=resample)


@contextmanager
def slices_at_hand(scan: Scan) -> Iterator[Scan]:
    """Yield the series of a zip with its slices, unpacked for as long as the block runs."""
    with unpacked(scan.path) as folder:
        yield replace(the_scan(folder, scan.series), path=scan.path, name=scan.name)


def holds_scans(path: Path) -> bool:
    """Whether a file is a zip with scans in it, which for all one knows a damaged one has."""
    if not path.name.lower().endswith(SUFFIXES) or path.is_dir():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_is_scan(archive, member) for member in _members(archive))
    except (*_DAMAGE, OSError, NotImplementedError):
        return True


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Unpack a zip to a temporary folder for as long as the block runs.

    Errors and warnings about files in it name the archive in place of that folder.

    Raises
    ------
    DataError
        When the archive is damaged, encrypted or too large, or a name leads out of it, stands
        twice, or is no file's.
    """
    with private_folder(path, name=path.name) as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, path, folder)
        except FileNotFoundError as err:
            raise DataError("no such file. Check the path.", where=path) from err
        except NotImplementedError as err:
            raise DataError(
                f"packed in a way that is not read ({err}). Unpack it.", where=path
            ) from err
        except (*_DAMAGE, OSError) as err:
            raise DataError(f"damaged ({err}). Copy it again, or unpack it.", where=path) from err
        yield folder


def _unpack(archive: zipfile.ZipFile, path: Path, folder: Path) -> None:
    members = _members(archive)
    _check_sizes(members, path, folder.parent)
    targets = [(member, folder.joinpath(*_parts(member, path))) for member in members]
    folder.mkdir()
    for member, target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with archive.open(member) as packed, target.open("xb") as file:
                shutil.copyfileobj(packed, file)
        except FileExistsError:
            _refuse(path, f"holds '{member.filename}' twice. Unpack it, and look which is right.")
    inner = [member.filename for member in members if member.filename.lower().endswith(SUFFIXES)]
    if inner:
        warnings.warn(
            f"{path}: archives in it left out ({listed(inner, separator=', ')}). Unpack them.",
            LungUNetWarning,
            stacklevel=4,
        )


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """List the files, without what is hidden."""
    return [
        member
        for member in archive.infolist()
        if not member.is_dir() and not any(map(_is_hidden, PureWindowsPath(member.filename).parts))
    ]


def _is_hidden(part: str) -> bool:
    return part == _MAC or (part.startswith(".") and part != "..")


def _is_scan(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    telling = (*dicom.SUFFIXES, *dicom.PACKED, *_VOLUMES)
    if member.flag_bits & _ENCRYPTED or member.filename.lower().endswith(telling):
        return True
    with archive.open(member) as file:
        return file.read(132)[128:] == b"DICM"


def _check_sizes(members: list[zipfile.ZipInfo], path: Path, where: Path) -> None:
    """Refuse what would fill the disk; no member unpacks to more than it states here."""
    total = sum(member.file_size for member in members)
    free = shutil.disk_usage(where).free - _SPARE
    if len(members) > _MOST_FILES:
        _refuse(path, f"holds {len(members)} files. Unpack it, and name the folder that is meant.")
    if total > max(_SMALL, _MOST_TIMES * path.stat().st_size):
        _refuse(path, f"would unpack to {_gib(total)}, which no scan does. Leave it out.")
    if total > free:
        _refuse(
            path,
            f"unpacks to {_gib(total)}, {_gib(max(0, free))} are free in {where.parent}. Make "
            "room, or let TMPDIR name another folder.",
        )


def _parts(member: zipfile.ZipInfo, path: Path) -> tuple[str, ...]:
    """Return the way to a file in an archive; refuse one that leads out of it."""
    name = PureWindowsPath(member.filename)  # takes both kinds of slashes
    mode = member.external_attr >> 16
    if name.anchor or ".." in name.parts or not name.parts:
        _refuse(path, f"holds '{member.filename}', which leads out of it. Do not trust it.")
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        _refuse(path, f"holds '{member.filename}', which is no file. Unpack it, if you trust it.")
    if member.flag_bits & _ENCRYPTED:
        _refuse(path, "is encrypted. Unpack it with its password.")
    return name.parts


def _refuse(path: Path, message: str) -> NoReturn:
    raise DataError(message, where=path)


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
