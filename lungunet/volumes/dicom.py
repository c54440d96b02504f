"""Slices of a DICOM series: which files belong together, in what order, and whether any is missing.

Reads headers through ``itk``; looks at geometry and modality, never at the patient's tags.
"""

import mmap
import re
import warnings
from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np

from lungunet.errors import ConfigError, DataError, GeometryError, LungUNetWarning, listed
from lungunet.volumes.grid import Grid
from lungunet.volumes.itk import read_header, read_values

_MODALITY, _THICKNESS, _SERIES = "0008|0060", "0018|0050", "0020|000e"
_POSITION, _ORIENTATION, _SPACING = "0020|0032", "0020|0037", "0028|0030"
_TAGS = (_MODALITY, _THICKNESS, _SERIES, _POSITION, _ORIENTATION, _SPACING)

_PIXELS = re.compile(rb"\xe0\x7f\x10\x00|\x7f\xe0\x00\x10")  # the tag, in either byte order
_CT_IMAGE = b"1.2.840.10008.5.1.4.1.1.2\0"  # SOP class: CT Image Storage
_META = 400  # bytes in which a file says what it is

SUFFIXES = (".dcm", ".ima")
"""Endings that mean DICOM; most files of it have none, and go by their content."""

_SAME_MM = 1e-3  # two slices so near to each other are at one place
_UNEVEN = 0.1  # of the usual step: scanners round positions
_DRIFT_PX = 0.5  # by which the last slice may lie beside the axis of the first


@dataclass(frozen=True)
class _Slice:
    path: Path
    series: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    position: np.ndarray
    rows_and_columns: np.ndarray  # (2, 3): direction along a row, and down a column
    thickness_mm: float

    @property
    def normal(self) -> np.ndarray:
        return np.cross(*self.rows_and_columns)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its ending or its first bytes; DICOMDIR holds no slice."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: Path, series: str | None) -> tuple[np.ndarray, Grid]:
    """Read one DICOM file, or the slices of one series in a folder, whatever their names.

    Parameters
    ----------
    series : short id or SeriesInstanceUID; None where there is one
    """
    files = sorted(filter(is_dicom, path.iterdir())) if path.is_dir() else [path]
    if not files:
        raise DataError("holds no DICOM file. Check the path.", where=path)
    pictures = _without_reports(files, path)
    slices = _pick([_read_slice(file) for file in pictures], path, series)
    grid, ordered = _stack(slices, path)
    planes = [read_values(item.path)[0] for item in ordered]
    return np.stack(planes, dtype=np.result_type(*{plane.dtype for plane in planes})), grid


def _without_reports(files: list[Path], where: Path) -> list[Path]:
    """Leave out dose reports and the like, which come with every export, and say which."""
    slices, others = [], []
    for path in files:
        if _is_slice(path):
            slices.append(path)
        else:
            others.append(path.name)
    if not slices:  # or compressed as a whole, tags too: the reader knows
        return files
    if others:
        warnings.warn(
            f"{where}: {listed(others, separator=', ')} left out: a report, without pixels.",
            LungUNetWarning,
            stacklevel=2,
        )
    return slices


def _is_slice(path: Path) -> bool:
    if not path.stat().st_size:  # of which there is no map
        raise DataError("empty (0 bytes). Copy it again, or remove it.", where=path)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        # A damaged slice may lack its pixels too: what calls itself a CT image stays, to be
        # refused.
        return bool(_PIXELS.search(content)) or _CT_IMAGE in content[:_META]


def _read_slice(path: Path) -> _Slice:
    grid, components, tags = read_header(path, _TAGS)
    if components != 1:
        raise DataError(f"{components} colours in a pixel. A CT slice is grey.", where=path)
    if len(grid.size) > 3 or (len(grid.size) == 3 and grid.size[2] != 1):
        raise DataError(
            f"{grid.size[-1]} frames in one file. Convert it to NIfTI or to one file per slice.",
            where=path,
        )
    modality = tags.get(_MODALITY, "").strip()
    if modality not in ("", "CT"):
        raise DataError(f"modality {modality}, HU come from CT. Leave it out.", where=path)
    numbers = [_numbers(tags.get(tag, "")) for tag in (_POSITION, _ORIENTATION, _SPACING)]
    if [len(values) for values in numbers] != [3, 6, 2]:
        raise GeometryError(
            "states no position, orientation or pixel spacing. Export it again with them.",
            where=path,
        )
    thickness = _numbers(tags.get(_THICKNESS, ""))
    return _Slice(
        path,
        tags.get(_SERIES, "").strip(),
        grid.size[:2],
        # By rows, then columns; SimpleITK would put 1 mm for 0.
        (float(numbers[2][1]), float(numbers[2][0])),
        numbers[0],
        numbers[1].reshape(2, 3),
        float(thickness[0]) if thickness.size == 1 and thickness[0] > 0 else 1.0,
    )


def _numbers(text: str) -> np.ndarray:
    try:
        return np.array([float(part) for part in text.split("\\")])
    except ValueError:
        return np.empty(0)


def _short(series: str) -> str:
    """Return an id that says nothing of the patient and is the same every time."""
    return sha256(series.encode(errors="surrogateescape")).hexdigest()[:8]


def _pick(slices: list[_Slice], where: Path, series: str | None) -> list[_Slice]:
    by_series = defaultdict(list)
    for item in slices:
        by_series[item.series].append(item)
    for uid, members in by_series.items():
        if series in (uid, _short(uid)) or (series is None and len(by_series) == 1):
            return members
    ordered = sorted(by_series.items(), key=lambda item: -len(item[1]))
    rows = [
        f"{_short(uid)}: {len(members)} slices of {members[0].size[1]}x{members[0].size[0]}"
        for uid, members in ordered
    ]
    wrong = "" if series is None else f", none is '{series}'"
    raise ConfigError(
        f"{len(rows)} series{wrong}:\n  {listed(rows)}\n"
        f"Say which one: --series {_short(ordered[0][0])}, or series= in Python.",
        where=where,
    )


def _stack(slices: list[_Slice], where: Path) -> tuple[Grid, list[_Slice]]:
    first = slices[0]
    for item in slices[1:]:
        _check_alike(first, item, where)
    ordered = sorted(slices, key=lambda item: float(item.position @ first.normal))
    step_mm = first.thickness_mm
    if len(ordered) > 1:
        heights = np.array([float(item.position @ first.normal) for item in ordered])
        step_mm = _even_step(heights, ordered, where)
        _check_straight(ordered, where)
    directions = np.column_stack([*first.rows_and_columns, first.normal])
    grid = Grid(
        (*first.size, len(ordered)),
        (*first.spacing, step_mm),
        tuple(float(mm) for mm in ordered[0].position),
        tuple(float(cosine) for cosine in directions.ravel()),
    )
    grid.check(str(where))
    return grid, ordered


def _check_alike(first: _Slice, item: _Slice, where: Path) -> None:
    for what, same in (
        ("size", first.size == item.size),
        ("pixel spacing", np.allclose(first.spacing, item.spacing, rtol=1e-3)),
        ("orientation", np.allclose(first.rows_and_columns, item.rows_and_columns, atol=1e-3)),
    ):
        if not same:
            raise GeometryError(
                f"{first.path.name} and {item.path.name} are of one series, but differ "
                f"in {what}. Leave out what does not belong (localisers, reformats).",
                where=where,
            )


def _even_step(heights_mm: np.ndarray, ordered: list[_Slice], where: Path) -> float:
    steps = np.diff(heights_mm)
    usual = float(np.median(steps[steps > _SAME_MM])) if (steps > _SAME_MM).any() else 0.0
    doubled, uneven = [], []
    for step, below, (low, high) in zip(steps, heights_mm, pairwise(ordered), strict=False):
        names = f"{low.path.name} and {high.path.name}"
        if step <= _SAME_MM:
            doubled.append(f"{names}, at {below:.2f} mm")
        elif abs(step - usual) > _UNEVEN * usual:
            uneven.append(f"{names}: {below:.2f} mm and {below + step:.2f} mm, {step:.2f} apart")
    if doubled:
        raise GeometryError(
            f"{len(doubled)} slices lie where another one does:\n  {listed(doubled)}\n"
            "Keep one reconstruction and one time point.",
            where=where,
        )
    if uneven:
        raise GeometryError(
            f"slices are {usual:.2f} mm apart, but not between\n  {listed(uneven)}\n"
            "Slices are missing: copy the series again, or leave out the part beyond the gap.",
            where=where,
        )
    return float(steps.mean())


def _check_straight(ordered: list[_Slice], where: Path) -> None:
    first, last = ordered[0], ordered[-1]
    path = last.position - first.position
    across = first.rows_and_columns @ path
    along = np.linspace(0, 1, len(ordered))[:, None] * path
    apart = np.array([item.position for item in ordered]) - first.position - along
    furthest = int(np.abs(apart @ first.rows_and_columns.T).max(axis=1).argmax())
    off_mm = float(np.abs(first.rows_and_columns @ apart[furthest]).max())
    if off_mm > _DRIFT_PX * min(first.spacing):
        raise GeometryError(
            f"{ordered[furthest].path.name} is shifted by {off_mm:.1f} mm against the "
            "slices around it. Export the series again.",
            where=where,
        )
    if np.abs(across).max() > _DRIFT_PX * min(first.spacing):
        tilt = np.degrees(np.arctan2(np.abs(across).max(), path @ first.normal))
        raise GeometryError(
            f"slices are shifted against each other, {tilt:.1f} degrees off right angles "
            "(gantry tilt). Resample the series to a straight grid first.",
            where=where,
        )
