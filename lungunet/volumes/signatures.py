"""What a file is by its first bytes, and what to do with one that is no volume for SimpleITK.

Names say what a file should be; a download that failed, or a wrong ending, shows in the bytes alone.
"""

import gzip
import zlib
from pathlib import Path

_HEAD_BYTES = 4096
_NIFTI1, _NIFTI2 = 348, 540  # a NIfTI header begins with its own length
_MAGIC_AT = {_NIFTI1: 344, _NIFTI2: 4}
_PAIRS, _SINGLES = (b"ni1\0", b"ni2\0"), (b"n+1\0", b"n+2\0")

_UNPACK = "Unpack it first."
_BEGINS = {
    b"BZh": f"is packed with bzip2. {_UNPACK}",
    b"\xfd7zXZ\0": f"is packed with xz. {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"is packed with zstd. {_UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"is a 7z archive. {_UNPACK}",
    b"Rar!": f"is a RAR archive. {_UNPACK}",
    b"PK\x03\x04": "is a zip, which its name does not say. Rename it to end with .zip.",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself. Run git lfs pull.",
    b"\x89PNG": "is a PNG picture. Take the scan that it was made of.",
    b"\xff\xd8\xff": "is a JPEG picture. Take the scan that it was made of.",
    b"GIF8": "is a GIF picture. Take the scan that it was made of.",
    b"II*\0": "is a TIFF. Name it .tif if it is a slice.",
    b"MM\0*": "is a TIFF. Name it .tif if it is a slice.",
    b"%PDF": "is a PDF. Leave it out.",
    b"\x89HDF\r\n": "is HDF5 (MINC2 is), which is not read. Convert it to NIfTI.",
}
_GZIP = b"\x1f\x8b"
_WEB_PAGES = (b"<!doctype html", b"<html")


def kind_of(path: Path) -> str | None:
    """Return NIfTI, NIfTI-2, Analyze, NRRD, MetaImage or DICOM; None for what is none of them.

    Looks into gzip where NIfTI may be in it.
    """
    head = _head(path)
    if head.startswith(_GZIP):
        return _nifti(_unpacked(path))
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith(b"NRRD"):
        return "NRRD"
    if b"DimSize" in head and (b"=" in head or b":" in head):
        return "MetaImage"
    return _nifti(head)


def why_unread(path: Path) -> str | None:
    """Say why a file is nothing that SimpleITK should open, and what helps; None where it may."""
    head = _head(path)
    if not head:
        return "empty (0 bytes). Copy it again, or remove it."
    if not any(head):
        return "begins with zeroes alone: a copy that did not end. Copy it again."
    if head.lstrip()[:20].lower().startswith(_WEB_PAGES):
        return "is a web page: a download that failed. Download it again, signed in."
    for magic, why in _BEGINS.items():
        if head.startswith(magic):
            return why
    if head[257:262] == b"ustar":
        return f"is a tar archive. {_UNPACK}"
    if head.startswith(_GZIP):
        return _why_packed(path)
    return _why_nifti(head, path)


def _why_packed(path: Path) -> str | None:
    inner = _unpacked(path)
    if not inner:
        return "begins as gzip and is damaged or truncated. Copy it again."
    if _nifti(inner) is None:
        return f"is packed with gzip, and not NIfTI. {_UNPACK}"
    if not path.name.lower().endswith(".gz"):
        return f"is packed with gzip, which its name does not say. Rename it to {path.name}.gz."
    return _why_nifti(inner, path)


def _why_nifti(head: bytes, path: Path) -> str | None:
    kind = _nifti(head)
    if kind == "NIfTI-2":
        return (
            "is NIfTI-2, which is not read. Save it as NIfTI-1, in Python with "
            "nibabel.Nifti1Image.from_image(nibabel.load(path)).to_filename(new)."
        )
    if kind == "Analyze":
        return (
            "is Analyze 7.5, which states no orientation, so left and right are a guess. "
            "Export it again from the DICOM series."
        )
    return None


def _nifti(head: bytes) -> str | None:
    for order in ("little", "big"):
        size = int.from_bytes(head[:4], order)  # type: ignore[arg-type]
        if size in _MAGIC_AT:
            at = _MAGIC_AT[size]
            magic = head[at : at + 4]
            if magic not in (*_PAIRS, *_SINGLES):
                return "Analyze" if size == _NIFTI1 else None
            return "NIfTI-2" if size == _NIFTI2 else "NIfTI"
    return None


def _head(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(_HEAD_BYTES)


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(_HEAD_BYTES)
    except (OSError, EOFError, zlib.error):
        return b""
