"""What others read in a file: voxels and where they lie, none of it by code of lungunet.

Each raises where the reader refuses. For NRRD and MetaImage there are short readers of their own,
written from the formats' definitions; pynrrd is asked too where it is installed.
"""

import gzip
import importlib.util
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image


@dataclass(frozen=True, eq=False)
class Reading:
    """Values as (k, j, i) or (row, column).

    ``steps`` holds the step in mm along i, j and k in its columns; LPS, and so is ``origin``, the
    centre of the first voxel. None where there is no geometry.
    """

    values: np.ndarray
    steps: np.ndarray | None = None
    origin: np.ndarray | None = None


def read(kind: str, path: Path) -> Reading:
    """Read a file, or the folder of a series, by its kind."""
    return {
        "dicom": _dicom,
        "nifti": _nifti,
        "nrrd": _nrrd,
        "metaimage": _metaimage,
        "tiff": _tiff,
        "png": _png,
    }[kind](path)


def _dicom(path: Path) -> Reading:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    slices = [pydicom.dcmread(file, force=True) for file in files]
    along, down = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(along, down)
    slices.sort(key=lambda ds: float(np.array(ds.ImagePositionPatient, float) @ normal))
    planes = [
        ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
        for ds in slices
    ]
    first, last = (np.array(slices[i].ImagePositionPatient, float) for i in (0, -1))
    thickness = float(slices[0].get("SliceThickness") or 1)
    step = normal * (thickness if thickness > 0 else 1)
    if len(slices) > 1:
        step = (last - first) / (len(slices) - 1)
    row_mm, column_mm = map(float, slices[0].PixelSpacing)
    return Reading(
        np.stack(planes), np.column_stack([along * column_mm, down * row_mm, step]), first
    )


def _nifti(path: Path) -> Reading:
    image = nibabel.load(path)
    values = np.asanyarray(image.dataobj)
    values = values.reshape(values.shape[:3])
    lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
        raise ValueError("no orientation")
    return Reading(values.T, lps[:3, :3], lps[:3, 3])


_NRRD_TYPES = {
    **dict.fromkeys(("short", "short int", "signed short", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("unsigned short", "ushort", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("unsigned char", "uchar", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("char", "signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("unsigned int", "uint", "uint32", "uint32_t"), "u4"),
    **{"float": "f4", "double": "f8"},
}


def _nrrd(path: Path) -> Reading:
    content = path.read_bytes()
    head, _, voxels = content.partition(b"\n\n")
    fields = {}
    for line in head.decode("latin-1").splitlines()[1:]:
        if line.startswith("#") or ":=" in line or not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or fields.get(name.lower(), value.strip()) != value.strip():
            raise ValueError(f"line {line!r}")
        fields[name.lower()] = value.strip()
    name = fields.get("data file", fields.get("datafile"))
    if name is not None:
        voxels = (path.parent / name).read_bytes()
    if "line skip" in fields or "byte skip" in fields:
        raise ValueError("skips")
    sizes = [int(word) for word in fields["sizes"].split()]
    kind = _NRRD_TYPES[fields["type"].lower()]
    if len(sizes) != int(fields["dimension"]):
        raise ValueError("sizes")
    if fields["encoding"].lower() in ("gzip", "gz"):
        voxels = gzip.decompress(voxels)
    if fields["encoding"].lower() in ("ascii", "text", "txt"):
        values = np.array(voxels.split(), float)
    else:
        if fields["encoding"].lower() not in ("raw", "gzip", "gz"):
            raise ValueError("encoding")
        order = {"little": "<", "big": ">"}[fields["endian"].lower()] if kind[1] != "1" else ""
        values = np.frombuffer(voxels, order + kind, int(np.prod(sizes)))
    vectors = re.findall(r"\(([^)]*)\)", fields["space directions"])
    steps = np.array([[float(word) for word in vector.split(",")] for vector in vectors]).T
    words = fields.get("space origin", "(0,0,0)").strip("()").split(",")
    origin = np.array([float(word) for word in words])
    right, front, _ = _sides(fields["space"])
    signs = np.array([-1 if right[0] in "rR" else 1, -1 if front[0] in "aA" else 1, 1])
    reading = Reading(values.reshape(sizes[::-1]), signs[:, None] * steps, signs * origin)
    if importlib.util.find_spec("nrrd"):
        import nrrd

        other, _ = nrrd.read(str(path), index_order="C")
        if other.shape != reading.values.shape or not np.array_equal(other, reading.values, True):
            raise ValueError("pynrrd reads something else")
    return reading


def _sides(space: str) -> list[str]:
    short = {"ras": "r a s", "las": "l a s", "lps": "l p s"}
    words = short.get(space.lower(), space.replace("-", " ")).split()
    if len(words) != 3:
        raise ValueError("space")
    return words


_MET_TYPES = {
    **{"MET_SHORT": "i2", "MET_USHORT": "u2", "MET_CHAR": "i1", "MET_UCHAR": "u1"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
    **{"MET_LONG": "i4", "MET_ULONG": "u4"},
}


def _metaimage(path: Path) -> Reading:
    content = path.read_bytes()
    fields: dict[str, str] = {}
    at = 0
    while "ElementDataFile" not in fields:
        end = content.index(b"\n", at)
        name, _, value = content[at:end].decode("latin-1").partition("=")
        if fields.get(name.strip(), value.strip()) != value.strip() or not _:
            raise ValueError("fields")
        fields[name.strip()] = value.strip()
        at = end + 1
    local = fields["ElementDataFile"] == "LOCAL"
    voxels = content[at:] if local else (path.parent / fields["ElementDataFile"]).read_bytes()
    if fields.get("CompressedData", "False") == "True":
        voxels = zlib.decompress(voxels[: int(fields["CompressedDataSize"])])
    elif fields.get("CompressedData", "False") != "False":
        raise ValueError("CompressedData")
    size = [int(word) for word in fields["DimSize"].split()]
    order = {"True": ">", "False": "<"}[fields["BinaryDataByteOrderMSB"]]
    values = np.frombuffer(voxels, order + _MET_TYPES[fields["ElementType"]], int(np.prod(size)))
    matrix = np.array(fields.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split(), float)
    steps = matrix.reshape(3, 3).T * np.array(fields["ElementSpacing"].split(), float)
    origin = np.array(fields.get("Offset", "0 0 0").split(), float)
    if fields["BinaryData"] != "True" or int(fields["NDims"]) != len(size):
        raise ValueError("fields")
    return Reading(values.reshape(size[::-1]), steps, origin)


def _tiff(path: Path) -> Reading:
    try:
        values = tifffile.imread(path)
    except Exception:
        with Image.open(path) as image:
            if image.mode not in ("L", "1", "I", "F", "I;16", "I;16B"):
                raise
            image.load()
            values = np.asarray(image)
    return Reading(_grey(values))


def _png(path: Path) -> Reading:
    head = path.read_bytes()[:29]
    with Image.open(path) as image:
        if head[24] == 16 and head[25] != 0:
            raise ValueError("Pillow makes 8 bits of 16")
        image.load()
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        return Reading(_grey(np.asarray(image)))


def _grey(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool:
        values = values * np.uint8(255)
    if values.ndim == 3 and values.shape[-1] in (1, 2, 3, 4):
        colours = values[..., :3] if values.shape[-1] > 2 else values[..., :1]
        if (colours != colours[..., :1]).any():
            raise ValueError("colours")
        values = colours[..., 0]
    if values.ndim != 2:
        raise ValueError(f"shape {values.shape}")
    return values
