"""What one DICOM file holds: slices of CT with their place, something else, or damage.

The only door to pydicom, which reads headers; voxels are read by ``itk``. Of the patient's tags it
looks at name and number alone, to keep the name out of what is written, and patients apart.
"""

import math
import operator
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lungunet.errors import DataError, GeometryError, MissingExtraError
from lungunet.process_wide import across_threads, ignored_warnings
from lungunet.volumes.itk import read_values
from lungunet.volumes.nesting import TOO_DEEP
from lungunet.volumes.signatures import foreign
from lungunet.volumes.voxels import read_head

SUFFIXES = (".dcm", ".ima")
"""Endings that mean DICOM; most files of it have none, and go by their content."""

PACKED = tuple(f"{suffix}.gz" for suffix in SUFFIXES)
"""Endings of slices in gzip, which are known and refused."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_FRAMED = {_STORAGE + "2.1", _STORAGE + "2.2"}  # CT of many frames; the same, converted
_STANDARD = "1.2.840.10008."
_CT = {_STORAGE + "2"} | _FRAMED
_CAPTURE = _STORAGE + "7"  # and longer: what was on a screen
_DIRECTORY = "1.2.840.10008.1.3.10"

_KINDS = {
    "SR": "a report",
    "DOC": "a document",
    "PR": "how to show pictures",
    "KO": "a list of pictures",
    "SEG": "a segmentation",
    "RTSTRUCT": "contours",
    "RTDOSE": "a dose",
    "RTPLAN": "a plan",
    "REG": "a registration",
    "PT": "PET",
}

_ANNOUNCED = 0x00020002  # the class, before the data set
_IMAGE_TYPE, _CLASS, _INSTANCE, _MODALITY = 0x00080008, 0x00080016, 0x00080018, 0x00080060
_DESCRIPTION, _KERNEL, _THICKNESS = 0x0008103E, 0x00181210, 0x00180050
_PATIENT, _PATIENT_ID, _STUDY, _SERIES = 0x00100010, 0x00100020, 0x0020000D, 0x0020000E
_POSITION, _ORIENTATION, _SPACING = 0x00200032, 0x00200037, 0x00280030
_SAMPLES, _PHOTOMETRIC, _FRAMES = 0x00280002, 0x00280004, 0x00280008
_ROWS, _COLUMNS, _INTERCEPT, _SLOPE = 0x00280010, 0x00280011, 0x00281052, 0x00281053
_TAGS = [
    *(_IMAGE_TYPE, _CLASS, _INSTANCE, _MODALITY, _DESCRIPTION, _KERNEL, _THICKNESS, _PATIENT),
    *(_PATIENT_ID, _STUDY, _SERIES, _POSITION, _ORIENTATION, _SPACING, _SAMPLES, _PHOTOMETRIC),
    *(_FRAMES, _ROWS, _COLUMNS, _INTERCEPT, _SLOPE),
]
HEADER_TAGS = [*_TAGS, 0x52009229, 0x52009230]
"""All that is looked at in a header, what is said of each frame too."""

_PIXELS = 0x7FE00010
_SHARED_GROUPS, _FRAME_GROUPS = 0x52009229, 0x52009230
_GROUPS = {  # where what a slice says of itself is in a file of frames
    _POSITION: 0x00209113,
    _ORIENTATION: 0x00209116,
    _SPACING: 0x00289110,
    _THICKNESS: 0x00289110,
    _INTERCEPT: 0x00289145,
    _SLOPE: 0x00289145,
    0x00089007: 0x00189329,  # Frame Type, in CT Image Frame Type
}
_FRAME_TYPE = 0x00089007

_COLOURS = ("RGB", "YBR", "PALETTE", "ARGB", "CMYK", "HSV")
_INVERTED, _PLAIN = b"MONOCHROME1", b"MONOCHROME2"


@dataclass(frozen=True, slots=True)
class Slice:
    """One plane of a CT series, as its header has it.

    Parameters
    ----------
    path, frame : the file, and which of its planes
    instance : SOPInstanceUID, the same in copies
    size, spacing : (x, y); columns and rows, mm
    position : mm, centre of the first voxel
    axes : directions along a row, and down a column
    thickness_mm : None where it is not stated
    rescale : slope and intercept; None where they are not stated
    inverted : MONOCHROME1, which is about display alone
    projection : of several planes into one, as a MIP
    description, kernel : of the series, in words
    patient : words of the patient's name
    owner : tells patients apart: a hash of PatientID, or of the name where that is empty, which is
        another one in every process
    """

    path: Path
    frame: int
    study: str
    series: str
    instance: str
    size: tuple[int, int]
    spacing: tuple[float, float]
    position: tuple[float, float, float]
    axes: tuple[float, ...]
    thickness_mm: float | None
    rescale: tuple[float, float] | None
    inverted: bool
    projection: bool
    description: str
    kernel: str
    patient: frozenset[str]
    owner: int

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.path.name} (frame {self.frame + 1})" if self.frame else self.path.name

    @property
    def normal(self) -> tuple[float, float, float]:
        """Direction from slice to slice."""
        a, b, c, d, e, f = self.axes  # a thousand slices: faster than numpy
        return b * f - c * e, c * d - a * f, a * e - b * d

    @property
    def height_mm(self) -> float:
        """Where it lies along its normal."""
        return float(sum(map(operator.mul, self.position, self.normal)))


@dataclass(frozen=True, slots=True)
class Other:
    """A file among slices that is none."""

    path: Path
    what: str
    series: str = ""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file that may be a slice, and cannot be used; the series is empty where it is not known."""

    path: Path
    error: DataError
    series: str = ""


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its ending or first bytes; DICOMDIR holds no slice."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    return path.suffix.lower() in SUFFIXES or _begins_as_dicom(path) or is_packed(path)


def is_packed(path: Path) -> bool:
    """Whether a file is a slice of DICOM in gzip."""
    name = path.name.lower()
    if name.endswith(PACKED) or not name.endswith(".gz") or not path.is_file():
        return name.endswith(PACKED)
    try:
        return begins_as_dicom(read_head(path, 132)[0])
    except DataError:
        return False


def _begins_as_dicom(path: Path) -> bool:
    try:
        return begins_as_dicom(first_bytes(path))
    except OSError:
        return False


def first_bytes(path: Path) -> bytes:
    """Return as many bytes as tell what a file is."""
    with path.open("rb") as file:
        return file.read(512)


def begins_as_dicom(start: bytes) -> bool:
    """Whether bytes begin a DICOM file, with its preamble or without."""
    return start[128:132] == b"DICM" or _is_element(start)


def _is_element(start: bytes) -> bool:
    """Whether bytes begin as a data set does where the preamble is left out: tag, VR or length."""
    if len(start) < 132 or start[:4] == bytes(4):
        return False
    little = start[:2] in (b"\2\0", b"\x08\0") and start[3] == 0
    big = start[:2] in (b"\0\2", b"\0\x08") and start[2] == 0
    named = start[4:6].isalpha() and start[4:6].isupper()
    short = int.from_bytes(start[4:8], "little" if little else "big") < 1 << 10
    return (little or big) and (named or short)


def examine(path: Path, start: bytes) -> list[Slice] | Other | Damaged:
    """Say what a file is that lies among slices; call it within :func:`reading_headers`.

    Parameters
    ----------
    start : its :func:`first_bytes`
    """
    if path.name.upper() == "DICOMDIR":
        return Other(path, "an index")
    if not begins_as_dicom(start):
        return _no_dicom(path, start)
    try:
        return _judge(_Header(path))
    except RecursionError:
        return Damaged(path, DataError(TOO_DEEP, where=path))
    except Exception:  # pydicom raises whatever its parts do
        return _damaged(path)


def _no_dicom(path: Path, start: bytes) -> Damaged:
    other = "does not begin as a DICOM file does. Copy it again, or remove it."
    return Damaged(path, DataError(foreign(start) or other, where=path))


def _damaged(path: Path, series: str = "") -> Damaged:
    why = "not a readable slice: damaged or truncated. Copy or export it again."
    return Damaged(path, DataError(why, where=path), series)


def _judge(header: "_Header") -> list[Slice] | Other | Damaged:
    """Modality first: what is no CT has other tags."""
    path, series = header.path, header.text(_SERIES)
    modality, kind = header.text(_MODALITY), header.kind
    # A bit flipped, or text was cut.
    if (kind.startswith(_STANDARD) and not _is_registered(kind)) or header.announces_ct:
        return _damaged(path, series)
    if kind == _DIRECTORY:
        return Other(path, "an index")
    if modality not in ("", "CT") and kind not in _CT:
        return Other(path, said_of(modality), series)
    if kind and not kind.startswith((_STORAGE + "2", _CAPTURE)) and not header.has(_ROWS):
        return Other(path, "no picture", series)
    if kind and not modality and kind not in _CT and not kind.startswith(_CAPTURE):
        return Other(path, "no CT", series)
    if header.text(_PHOTOMETRIC).startswith(_COLOURS):
        return Other(path, "a picture in colour", series)
    if "LOCALIZER" in header.text(_IMAGE_TYPE):
        return Other(path, "a localizer", series)
    if kind.startswith(_CAPTURE) and not header.has(_POSITION, _ORIENTATION):
        return Other(path, "a secondary capture", series)
    is_whole = header.has(_ROWS, _COLUMNS) and header.integer(_SAMPLES, 1) == 1
    is_grey = header.text(_PHOTOMETRIC) in ("", "MONOCHROME1", "MONOCHROME2")
    if not is_whole or not is_grey or modality not in ("", "CT"):  # for a CT image
        return _damaged(path, series)
    return _slices(header)


def _is_registered(kind: str) -> bool:
    from pydicom.uid import UID

    return UID(kind).name != kind  # the name of what is not known is itself


def said_of(modality: str) -> str:
    """Call what has another modality; what is no code of one may be anything, a name too."""
    if modality in _KINDS:
        return f"{_KINDS[modality]} ({modality})"
    return f"modality {modality}" if re.fullmatch("[A-Z]{2,8}", modality) else "no CT"


def _slices(header: "_Header") -> list[Slice] | Other | Damaged:
    frames = header.frames() if header.kind in _FRAMED else [header]
    series, path = header.text(_SERIES), header.path
    count = header.integer(_FRAMES, 1)
    if count != len(frames) or not frames:
        why = f"{count} frames in one file, {len(frames)} with a place. Export a file per slice."
        return Damaged(path, DataError(why, where=path), series)
    if len(frames) > 1 and len({frame.rescale for frame in frames}) > 1:
        why = "its frames are rescaled each in its own way. Export a file per slice."
        return Damaged(path, DataError(why, where=path), series)
    for tag, name in ((_INTERCEPT, "RescaleIntercept"), (_SLOPE, "RescaleSlope")):
        if any(frame.has(tag) and not frame.numbers(tag) for frame in frames):
            why = f"its {name} is no number, so its values are no HU. Export it again."
            return Damaged(path, DataError(why, where=path), series)
    found = [_slice(header, frame, index) for index, frame in enumerate(frames)]
    slices = [item for item in found if item is not None]
    if len(slices) < len(found):
        why = "states no position, orientation or pixel spacing. Export it again with them."
        return Damaged(path, GeometryError(why, where=path), series)
    return slices


def _slice(header: "_Header", frame: "_Header", index: int) -> Slice | None:
    position, axes, spacing = map(frame.numbers, (_POSITION, _ORIENTATION, _SPACING))
    if [len(position), len(axes), len(spacing)] != [3, 6, 2]:
        return None
    if not all(map(math.isfinite, (*position, *axes, *spacing))):
        return None
    thickness = frame.numbers(_THICKNESS)
    words = re.split(r"[\\ _]", f"{header.text(_IMAGE_TYPE)}\\{frame.text(_FRAME_TYPE)}")
    return Slice(
        *(header.path, index, header.shared(_STUDY), header.shared(_SERIES)),
        header.text(_INSTANCE),
        (header.integer(_COLUMNS, 0), header.integer(_ROWS, 0)),
        (spacing[1], spacing[0]),  # the file names rows first
        (position[0], position[1], position[2]),
        axes,
        thickness[0] if len(thickness) == 1 and thickness[0] > 0 else None,
        frame.rescale,
        header.text(_PHOTOMETRIC) == "MONOCHROME1",
        bool({"MIP", "MINIP", "MAXIMUM", "MINIMUM"} & set(words)),
        *(header.shared(_DESCRIPTION), header.shared(_KERNEL)),
        header.patient,
        header.owner,
    )


class _Header:
    """The tags of a file, or of one of its frames, as text and numbers."""

    def __init__(self, path: Path, dataset: Any = None) -> None:
        self.path = path
        dataset = _read(path, _TAGS) if dataset is None else dataset
        meta: Any = getattr(dataset, "file_meta", {})
        element = meta.get_item(_ANNOUNCED) if _ANNOUNCED in meta else None
        self._announced = "" if element is None else _text(element.value)
        self._elements = {int(tag): dataset.get_item(tag) for tag in dataset.keys()}  # noqa: SIM118

    @property
    def kind(self) -> str:
        """SOP class UID."""
        return self.text(_CLASS)

    @property
    def announces_ct(self) -> bool:
        """Whether the file begins as one of CT and then is another."""
        return self._announced in _CT and self.kind not in ("", self._announced)

    @property
    def rescale(self) -> tuple[float, float] | None:
        slope, intercept = self.numbers(_SLOPE), self.numbers(_INTERCEPT)
        return (slope[0] if slope else 1.0, intercept[0]) if intercept else None

    @property
    def patient(self) -> frozenset[str]:
        """Words of the patient's name; none where it is a pseudonym, the same as the number."""
        name = self.text(_PATIENT)
        if name == self.text(_PATIENT_ID):
            return frozenset()
        return frozenset(word for word in words_of(name) if len(word) > 2)

    @property
    def owner(self) -> int:
        return hash(self.text(_PATIENT_ID) or self.text(_PATIENT))

    def has(self, *tags: int) -> bool:
        return all(self._raw(tag) for tag in tags)

    def text(self, tag: int) -> str:
        return _text(self._raw(tag))

    def shared(self, tag: int) -> str:
        """Return a text that many slices have, once for all."""
        return sys.intern(self.text(tag))

    def numbers(self, tag: int) -> tuple[float, ...]:
        try:
            # Not from text, which leaves out what cannot be shown: -2\0.25 is no -2.25.
            return tuple(float(part) for part in self._raw(tag).strip(b"\0 ").split(b"\\"))
        except ValueError:
            return ()

    def integer(self, tag: int, default: int) -> int:
        raw = self._raw(tag)
        if tag == _FRAMES:  # of the integers the one that is text
            return int(raw) if raw.strip().isdigit() else default
        order = "little" if getattr(self._elements.get(tag), "is_little_endian", True) else "big"
        return int.from_bytes(raw[:2], order) if raw else default  # type: ignore[arg-type]

    def frames(self) -> list["_Header"]:
        """Return the frames of a file of many, each with what is said of it or of all."""
        groups = _read(self.path, [_SHARED_GROUPS, _FRAME_GROUPS])
        frames, shared = [], _items(groups, _SHARED_GROUPS)
        for own in _items(groups, _FRAME_GROUPS):
            merged = type(own)()
            for tag, group in _GROUPS.items():
                holders = [item for part in (own, *shared) for item in _items(part, group)]
                said = next((holder for holder in holders if tag in holder), None)
                if said is not None:
                    merged[tag] = said.get_item(tag)
            frames.append(_Header(self.path, merged))
        return frames

    def _raw(self, tag: int) -> bytes:
        element = self._elements.get(tag)  # as read, and not made to what its type wants
        value = None if element is None else element.value
        return value if isinstance(value, bytes) else str(value or "").encode()


def _text(raw: Any) -> str:
    try:
        text = raw.decode() if isinstance(raw, bytes) else str(raw)
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    text = text.strip("\0 ")
    return text if text.isprintable() else "".join(filter(str.isprintable, text)).strip()


def _items(dataset: Any, tag: int) -> list[Any]:
    return list(dataset[tag].value) if tag in dataset else []


def words_of(text: str) -> set[str]:
    """Return the words of a name, of a person or a folder, to compare them."""
    return set(re.findall(r"[^\W\d_]+", text.lower()))


def _read(path: Path, tags: list[int]) -> Any:
    return _pydicom().dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as err:
        raise MissingExtraError(
            "pydicom is not installed. pip install 'lungunet[volumes]'", where="volumes"
        ) from err
    return pydicom


@contextmanager
def reading_headers() -> Iterator[None]:
    """Keep pydicom from judging values, and from warning: what matters is checked and said here."""
    _pydicom()
    with _unchecked(), ignored_warnings():
        yield


@across_threads
@contextmanager
def _unchecked() -> Iterator[None]:
    from pydicom.config import disable_value_validation

    with disable_value_validation():
        yield


def read_planes(slices: list[Slice]) -> Iterator[np.ndarray]:
    """Yield the planes of slices, (y, x) int16 or float32: as stored, times slope, plus intercept.

    A file of many frames is read once where its frames follow each other.
    """
    path, values = None, np.empty((0, 0, 0))
    for item in slices:
        if item.path != path:
            path, values = item.path, _read_file(item)
        if values.shape[1:] != item.size[::-1] or item.frame >= len(values):
            sides = "x".join(map(str, values.shape))
            raise DataError(f"its pixels are {sides}, other than its header says.", where=path)
        yield values[item.frame]


def same_pixels(one: Slice, other: Slice) -> bool:
    """Whether two files hold the same pixels, as stored, whatever else they say."""
    try:
        with reading_headers():
            pixels = [
                _pydicom().dcmread(item.path, force=True, specific_tags=[_PIXELS]).get_item(_PIXELS)
                for item in (one, other)
            ]
    except RecursionError:  # behind the pixels; refused when it is read
        return False
    return all(pixels) and pixels[0].value == pixels[1].value


def _read_file(item: Slice) -> np.ndarray:
    """Read a file; what SimpleITK would read otherwise than it is meant, it gets as a copy."""
    bare = first_bytes(item.path)[:2] == b"\2\0"
    if not item.inverted and not bare:
        return read_values(item.path)
    content = bytearray(item.path.read_bytes())
    if item.inverted:  # it turns the values round, as a display would
        with reading_headers():
            at = _read(item.path, [_PHOTOMETRIC]).get_item(_PHOTOMETRIC).value_tell
        if content[at : at + len(_INVERTED)] != _INVERTED:
            raise DataError("inverted and packed as a whole. Export it again.", where=item.path)
        content[at : at + len(_PLAIN)] = _PLAIN
    if bare:  # it takes one without its preamble for something else
        content = bytearray(128) + b"DICM" + content
    with tempfile.TemporaryDirectory(prefix="lungunet-") as folder:
        copy = Path(folder, "slice.dcm")
        copy.write_bytes(content)
        try:
            return read_values(copy)
        except DataError as err:
            raise type(err)(err.message, where=item.path) from err
