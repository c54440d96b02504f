"""Files of every format that is read, and ways to spoil them: what a campaign and a test feed on.

Written by others than lungunet (pydicom, nibabel, tifffile, Pillow) or byte by byte from the
format's definition. A spoilt file follows from its number alone.
"""

import gzip
import io
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

Rng = np.random.Generator
Files = dict[str, bytes]
"""One scan: names and contents of its files; the first is the one that is read, or all of them."""

SHAPE = (4, 16, 22)  # (z, y, x), lopsided
HU = np.random.default_rng(7).integers(-1024, 900, SHAPE).astype(np.int16)
SPACING = (2.5, 0.8, 0.7)
NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 4096, 32767, 65535, 2**31 - 1, 2**32 - 1)
WORDS = (b"", b"0", b"-1", b"1", b"1e9", b"1e-9", b"nan", b"inf", b"99999999999999999999", b"x")


# Whole files


def _dicom(plane: np.ndarray, z_mm: float, syntax: str) -> bytes:
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.3.{int(z_mm * 10)}"
    ds.ImageType, ds.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    code = pydicom.Dataset()
    code.CodeValue, code.CodeMeaning = "T-28000", "Lung"
    ds.AnatomicRegionSequence = [code]
    ds.Rows, ds.Columns = plane.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.PixelSpacing, ds.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
    ds.ImagePositionPatient = [-30.5, -20.25, z_mm]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    ds.PixelData = (plane.astype(np.int32) + 1024).astype(f"{order}i2").tobytes()
    ds["PixelData"].VR = "OW"
    if syntax == RLELossless:
        ds.compress(RLELossless)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _nifti(**how: Any) -> bytes:
    steps = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    steps[:3, 3] = 30.5, 20.25, 100
    image = nibabel.Nifti1Image(HU.T.astype(how.get("dtype", "<i2")), steps)
    if "order" in how:
        image = nibabel.Nifti1Image(HU.T, steps, image.header.as_byteswapped(how["order"]))
    image.set_sform(steps, how.get("sform", 1))
    image.set_qform(steps, how.get("qform", 1))
    if "slope" in how:
        image.header.set_slope_inter(how["slope"], -1024)
    buffer = io.BytesIO()
    image.to_file_map({"image": nibabel.FileHolder(fileobj=buffer)})
    return buffer.getvalue()


def _pair() -> Files:
    image = nibabel.Nifti1Pair(HU.T, np.diag([-0.7, -0.8, 2.5, 1.0]))
    image.set_sform(image.affine, 1)
    holders = {name: nibabel.FileHolder(fileobj=io.BytesIO()) for name in ("header", "image")}
    image.to_file_map(holders)
    return {
        "a.hdr": holders["header"].fileobj.getvalue(),
        "a.img": holders["image"].fileobj.getvalue(),
    }


def _nrrd(
    encoding: str, endian: str = "little", kind: str = "<i2", *, detached: bool = False
) -> Files:
    names = {"<i2": "short", ">i2": "short", "<f4": "float", "<u2": "unsigned short"}
    header = (
        f"NRRD0004\n# made by hand\ntype: {names[kind]}\ndimension: 3\n"
        f"space: left-posterior-superior\nsizes: 22 16 4\n"
        f"space directions: (0.7,0,0) (0,0.8,0) (0,0,2.5)\nkinds: domain domain domain\n"
        f"endian: {endian}\nencoding: {encoding}\nspace origin: (-30.5,-20.25,100)\n"
    ).encode()
    values = HU + 1024 if kind == "<u2" else HU
    voxels = values.astype(kind).tobytes()
    if encoding == "gzip":
        voxels = gzip.compress(voxels, mtime=0)
    if encoding == "ascii":
        voxels = " ".join(map(str, HU.ravel())).encode()
    if detached:
        return {"a.nhdr": header + b"data file: a.raw\n", "a.raw": voxels}
    return {"a.nrrd": header + b"\n" + voxels}


def _metaimage(*, packed: bool = False, swapped: bool = False, detached: bool = False) -> Files:
    voxels = HU.astype(">i2" if swapped else "<i2").tobytes()
    lines = [
        *("ObjectType = Image", "NDims = 3", "BinaryData = True"),
        *(f"BinaryDataByteOrderMSB = {swapped}", f"CompressedData = {packed}"),
    ]
    if packed:
        voxels = zlib.compress(voxels)
        lines.append(f"CompressedDataSize = {len(voxels)}")
    lines += [
        *("TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = -30.5 -20.25 100"),
        *("ElementSpacing = 0.7 0.8 2.5", "DimSize = 22 16 4", "ElementType = MET_SHORT"),
    ]
    where = "a.raw" if detached else "LOCAL"
    header = "\n".join([*lines, f"ElementDataFile = {where}\n"]).encode()
    return {"a.mhd": header, "a.raw": voxels} if detached else {"a.mha": header + voxels}


def _tiff(values: np.ndarray, **how: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric=how.pop("photometric", "minisblack"), **how)
    return buffer.getvalue()


def _pillow(values: np.ndarray, mode: str | None = None, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(buffer, **how)
    return buffer.getvalue()


def _tiffs() -> list[bytes]:
    rng = np.random.default_rng(5)
    hu = rng.integers(-1024, 900, (40, 33)).astype(np.int16)
    grey = rng.integers(0, 255, (40, 33)).astype(np.uint8)
    smooth = np.add.outer(np.arange(40), np.arange(33)).astype(np.uint8)
    return [
        _tiff(hu),
        _tiff(hu, byteorder=">", rowsperstrip=7),
        _tiff(hu, compression="zlib", rowsperstrip=8),
        _tiff(hu.astype(np.float32), rowsperstrip=16),
        _tiff(hu.astype(np.int32), tile=(16, 16)),
        _tiff((hu + 1024).astype(np.uint16), tile=(16, 32), compression="zlib"),
        _tiff(grey, rowsperstrip=8),
        _tiff(grey, photometric="miniswhite"),
        _tiff(np.stack([grey] * 3, axis=-1), photometric="rgb", compression="zlib"),
        _tiff(grey, compression="zlib"),
        *(
            _pillow(pixels, format="TIFF", compression=packing)
            for packing in ("tiff_lzw", "packbits", "tiff_adobe_deflate")
            for pixels in (smooth, grey)
        ),
        _pillow(grey > 99, format="TIFF"),
    ]


def _pngs() -> list[bytes]:
    rng = np.random.default_rng(6)
    grey = rng.integers(0, 255, (40, 33)).astype(np.uint8)
    wide = rng.integers(0, 65535, (40, 33)).astype(np.uint16)
    mask = np.where(grey > 99, 255, 0).astype(np.uint8)
    kept = {"format": "PNG"}
    return [
        _pillow(grey, **kept),
        _pillow(wide, **kept),
        _pillow(mask, **kept),
        _pillow(mask, "1", **kept),
        _pillow(mask, "P", **kept),
        _pillow(grey, "RGB", **kept),
        _pillow(grey, "LA", **kept),
        _pillow(grey, "RGBA", **kept),
    ]


@cache
def whole(kind: str) -> list[Files]:
    """Return the files that are spoilt, of one format."""
    if kind == "dicom":
        syntaxes = (
            *(ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian),
            *(DeflatedExplicitVRLittleEndian, RLELossless),
        )
        alone = [{"a.dcm": _dicom(HU[0], 100, syntax)} for syntax in syntaxes]
        series = [
            {f"{i}.dcm": _dicom(HU[i], 100 + i * SPACING[0], syntax) for i in range(len(HU))}
            for syntax in syntaxes[:2]
        ]
        return [*alone, *series]
    if kind == "nifti":
        plain = [
            *(_nifti(), _nifti(order=">"), _nifti(dtype="<f4"), _nifti(dtype="u1")),
            *(_nifti(slope=0.5), _nifti(qform=0), _nifti(sform=0), _nifti(dtype="<i4")),
        ]
        packed = [{"a.nii.gz": gzip.compress(one, mtime=0)} for one in plain]
        return [*({"a.nii": one} for one in plain), *packed, _pair()]
    if kind == "nrrd":
        return [
            *(_nrrd("raw"), _nrrd("gzip"), _nrrd("ascii"), _nrrd("raw", "big", ">i2")),
            *(_nrrd("raw", kind="<f4"), _nrrd("gzip", kind="<u2"), _nrrd("raw", detached=True)),
        ]
    if kind == "metaimage":
        return [
            *(_metaimage(), _metaimage(packed=True), _metaimage(swapped=True)),
            *(_metaimage(detached=True), _metaimage(packed=True, detached=True)),
        ]
    return [{f"a.{kind}": one} for one in (_tiffs() if kind == "tiff" else _pngs())]


# Spoiling


def _bytes(content: bytes, rng: Rng) -> bytes:
    """Change, cut out, put in, double, wipe or leave off some; sooner in the first 600."""
    spoilt = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        reach = len(spoilt) if rng.random() < 0.5 else min(len(spoilt), 600)
        at, length = int(rng.integers(0, max(1, reach))), int(rng.integers(1, 40))
        match rng.integers(0, 6):
            case 0 | 1:
                new = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])
                spoilt[at : at + 1] = bytes([new])
            case 2:
                del spoilt[at : at + length]
            case 3:
                spoilt[at:at] = spoilt[at : at + length]
            case 4:  # a sector that was never written
                spoilt[at : at + 16 * length] = bytes(len(spoilt[at : at + 16 * length]))
            case 5:
                if rng.random() < 0.3:
                    del spoilt[at:]
    return bytes(spoilt)


def _number(content: bytes, rng: Rng, *, first: int, last: int) -> bytes:
    """Put a telling number over two or four aligned bytes."""
    spoilt = bytearray(content)
    size, order = int(rng.choice([2, 4])), str(rng.choice(["little", "big"]))
    at = int(rng.integers(first, max(first + 1, min(last, len(content) - size)))) & ~1
    number = int(rng.choice(NUMBERS)) % (1 << 8 * size)
    spoilt[at : at + size] = number.to_bytes(size, order)  # type: ignore[arg-type]
    return bytes(spoilt)


def _dicom_element(content: bytes, rng: Rng) -> bytes:
    """Give an element another value, another kind, or take it away, with pydicom."""
    ds = pydicom.dcmread(io.BytesIO(content))
    elements = [element for element in ds if element.VR != "SQ"]
    element = elements[rng.integers(len(elements))]
    number = int(rng.choice(NUMBERS))
    match rng.integers(0, 4):
        case 0:
            del ds[element.tag]
        case 1 if element.VR in ("US", "SS", "UL"):
            element.value = number % 65536
        case 1 | 2 if element.VR in ("DS", "IS", "CS", "LO", "UI"):
            old = element.value if isinstance(element.value, pydicom.multival.MultiValue) else [0]
            new = [bytes(rng.choice(WORDS)).decode() for _ in old]
            element._value = new if len(new) > 1 else new[0]
        case _:
            ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(
                str(
                    rng.choice(
                        [ExplicitVRBigEndian, ImplicitVRLittleEndian, "1.2.840.10008.1.2.4.70"]
                    )
                )
            )
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=False)
    return buffer.getvalue()


def _nifti_field(content: bytes, rng: Rng) -> bytes:
    dtype = nibabel.nifti1.header_dtype
    if int.from_bytes(content[:4], "little") != 348:
        dtype = dtype.newbyteorder()
    header = np.frombuffer(content[:348], dtype).copy()
    field = header[str(rng.choice(dtype.names))]
    flat = field.reshape(-1).view()
    at = int(rng.integers(flat.size))
    if flat.dtype.kind == "f":
        flat[at] = rng.choice([0, 1, -1, 1e-9, 1e9, np.nan, np.inf, rng.normal()])
    elif flat.dtype.kind in "iu":
        low, high = np.iinfo(flat.dtype).min, np.iinfo(flat.dtype).max
        flat[at] = min(max(int(rng.choice([*NUMBERS, -1])), low), high)
    return header.tobytes() + content[348:]


def _text_header(content: bytes, rng: Rng) -> bytes:
    """Change a line of the header: a number, a word, the line as a whole."""
    at = content.find(b"LOCAL\n") + 6 if b"LOCAL\n" in content else content.find(b"\n\n") + 1
    header, rest = (content[:at], content[at:]) if at > 5 else (content, b"")
    lines = header.split(b"\n")
    at = int(rng.integers(len(lines)))
    match rng.integers(0, 6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(int(rng.integers(len(lines))), lines[at])
        case 2 | 3:
            numbers = list(re.finditer(rb"-?\d+\.?\d*", lines[at]))
            if numbers:
                one = numbers[rng.integers(len(numbers))]
                new = bytes(rng.choice([*WORDS, b"-" + one.group(), b"2", b"5", b"1000"]))
                lines[at] = lines[at][: one.start()] + new + lines[at][one.end() :]
        case 4:
            words = [word for line in lines for word in re.findall(rb"[A-Za-z_-]{2,}", line)]
            words += [b"MET_UCHAR", b"MET_FLOAT", b"double", b"unsigned char", b"big", b"gzip"]
            words += [b"right-anterior-superior", b"True", b"False", b"line skip: 1", b"-1"]
            mine = list(re.finditer(rb"[A-Za-z_-]{2,}", lines[at]))
            if mine:
                one = mine[rng.integers(len(mine))]
                new = words[rng.integers(len(words))]
                lines[at] = lines[at][: one.start()] + new + lines[at][one.end() :]
        case 5:
            lines[at] = lines[at].replace(b" ", b"", 1) if rng.random() < 0.5 else lines[at] + b" 1"
    return b"\n".join(lines) + rest


def _tiff_entry(content: bytes, rng: Rng) -> bytes:
    """Change kind, count or value of an entry of the directory."""
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack(f"{order}I", content[4:8])
    (count,) = struct.unpack(f"{order}H", content[start : start + 2])
    at = start + 2 + 12 * int(rng.integers(count))
    spoilt = bytearray(content)
    tag, kind, number, value = struct.unpack(f"{order}HHII", content[at : at + 12])
    short = order == ">" and kind == 3 and number == 1  # it lies in the upper half
    new = int(rng.choice([*NUMBERS[:10], value ^ (1 << int(rng.integers(16))), 5, 32773, 32946]))
    match rng.integers(0, 6):
        case 0:
            tag = int(rng.choice([256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 339, 322]))
        case 1:
            kind = int(rng.integers(1, 13))
        case 2:
            number = new
        case _:
            value = new << 16 & 0xFFFFFFFF if short else new
    spoilt[at : at + 12] = struct.pack(f"{order}HHII", tag, kind, number, value)
    return bytes(spoilt)


def _png_chunk(content: bytes, rng: Rng) -> bytes:
    """Change a chunk and mend its checksum, mostly; drop or double it."""
    chunks, at = [], 8
    while at + 8 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    one = int(rng.integers(len(chunks)))
    name, body = chunks[one]
    match rng.integers(0, 6):
        case 0:
            del chunks[one]
        case 1:
            chunks.insert(int(rng.integers(len(chunks))), chunks[one])
        case 2 if name == b"IDAT":
            raw = _bytes(zlib.decompress(body), rng)
            chunks[one] = (name, zlib.compress(raw))
        case 3 if name == b"IDAT":
            chunks[one : one + 1] = [(name, body[: len(body) // 2]), (name, body[len(body) // 2 :])]
        case 4:
            new = b"tRNS" if rng.random() < 0.5 else b"gAMA"
            chunks.insert(
                1, (new, int(rng.choice(NUMBERS)).to_bytes(4, "big")[: 2 if new == b"tRNS" else 4])
            )
        case _ if body:
            changed = bytearray(body)
            changed[rng.integers(len(body))] = int(rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255]))
            chunks[one] = (name, bytes(changed))
    spoilt = bytearray(content[:8])
    for name, body in chunks:
        check = zlib.crc32(name + body) if rng.random() < 0.95 else 0
        spoilt += struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)
    return bytes(spoilt)


_SPOILERS: dict[str, Callable[[bytes, Rng], bytes]] = {
    "dicom": _dicom_element,
    "nifti": _nifti_field,
    "nrrd": _text_header,
    "metaimage": _text_header,
    "tiff": _tiff_entry,
    "png": _png_chunk,
}
KINDS = tuple(_SPOILERS)


def spoil(kind: str, number: int, seed: int) -> tuple[Files, Files]:
    """Return a whole scan of one format, and the same with one of its files spoilt."""
    rng = np.random.default_rng([KINDS.index(kind), seed, number])
    scans = whole(kind)
    scan = scans[number % len(scans)]
    names = sorted(scan)
    name = names[rng.integers(len(names))] if rng.random() < 0.5 else names[0]
    if not name.endswith(".gz"):
        return scan, {
            **scan,
            name: _spoilt(kind, scan[name], rng, voxels=name.endswith((".raw", ".img"))),
        }
    if rng.random() < 0.3:
        return scan, {**scan, name: _bytes(scan[name], rng)}
    inner = _spoilt(kind, gzip.decompress(scan[name]), rng)
    return scan, {**scan, name: gzip.compress(inner, mtime=0)}


def _spoilt(kind: str, content: bytes, rng: Rng, *, voxels: bool = False) -> bytes:
    how = rng.integers(0, 4)
    if how == 0 or voxels:
        return _bytes(content, rng)
    if how == 1:
        return _number(content, rng, first=0, last=1200)
    for _ in range(rng.integers(1, 3)):
        try:
            content = _SPOILERS[kind](content, rng)
        except Exception:  # the tool does not write such a thing: then byte by byte
            content = _bytes(content, rng)
    return content


def write(files: Files, folder: Path) -> Path:
    """Write the files of a scan; return what is read: the file, or the folder of a series."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    series = len(files) > 1 and all(name.endswith(".dcm") for name in files)
    return folder if series else folder / next(iter(files))
