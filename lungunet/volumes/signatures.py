"""Says of a file that is no volume what it is, by its first bytes, and what to do with it."""

from pathlib import Path
from typing import NoReturn

from lungunet.data.signatures import describe_foreign
from lungunet.errors import DataError

_HEAD_BYTES = 4096
_PICTURE = "picture, without HU. Take the scan that it was made of."
_BEGINS = {
    b"PK\x03\x04": "is a zip. Let its name end with .zip, or unpack it.",
    b"\x89PNG": f"is a PNG {_PICTURE}",
    b"\xff\xd8\xff": f"is a JPEG {_PICTURE}",
    b"GIF8": f"is a GIF {_PICTURE}",
    b"II*\0": "is a TIFF. Let its name end with .tif.",
    b"MM\0*": "is a TIFF. Let its name end with .tif.",
    b"NRRD000": "is NRRD. Let its name end with .nrrd.",
    b"\x5c\x01\0\0": "is NIfTI or Analyze. Let its name end with .nii, or with .hdr beside .img.",
    b"\0\0\x01\x5c": "is NIfTI or Analyze. Let its name end with .nii, or with .hdr beside .img.",
    b"\x89HDF\r\n": "is HDF5, as MINC is, which is not read. Convert it to NIfTI.",
}


def refuse_foreign(path: Path) -> None:
    """Refuse a file that is missing, empty, or by its first bytes something that is not read."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError as err:
        raise DataError("no such file. Check the path.", where=path) from err
    except OSError as err:
        raise DataError(f"cannot be read ({err.strerror}). Check the path.", where=path) from err
    why = foreign(head)
    if why is not None:
        raise DataError(why, where=path)


def refuse_unknown(path: Path, series: str | None = None) -> NoReturn:
    """Refuse a file that is of no format, by its first bytes where they are known."""
    refuse_foreign(path)
    raise DataError(
        "not a readable volume: damaged, truncated, or of another format. Copy or export it again.",
        where=path,
    )


def foreign(head: bytes) -> str | None:
    """Say what a file is that begins so, where it is nothing that is read, and what helps."""
    if head[128:132] == b"DICM":  # whose first 128 bytes may be anything
        return None
    ours = next((why for magic, why in _BEGINS.items() if head.startswith(magic)), None)
    return ours or describe_foreign(head)
