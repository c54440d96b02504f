"""The only reader and writer of image files: CT slices and label images, one axial plane each.

Values come back in the dtype of the file and are never scaled. Knows no window and no label map.
"""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lungunet.data import tiff
from lungunet.data.files import write_bytes
from lungunet.data.heads import JPEG, PNG, read_head, read_orientation, scaled_bits
from lungunet.data.hu import refuse_labels
from lungunet.data.kinds import native_order
from lungunet.data.signatures import describe_foreign
from lungunet.errors import DataError, LabelError, counted

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
"""File endings that are read, lower case."""

SLICE_DTYPES = ("uint8", "int16", "uint16", "int32", "float32")
"""What a CT slice may hold."""

_LOSSLESS = {
    ".tif": SLICE_DTYPES,
    ".tiff": SLICE_DTYPES,
    ".png": ("uint8", "uint16"),
    ".bmp": ("uint8",),
}


_MAGIC = (PNG, JPEG, b"BM")  # of PNG, JPEG and BMP
_OTHERS = {
    b"GIF8": "is a GIF. Save it as .png.",
    b"RIFF": "is a WebP. Save it as .png.",
    b"\0\0\0\x0cjP": "is a JPEG 2000. Save it as .png, or as .tif where it holds HU.",
    b"\x93NUMPY": "is a numpy array. Save it with write_image, as .tif where it holds HU.",
}
_HEAD = 4096  # bytes that tell what a file is
_LARGEST_LABEL = 2**31 - 1
_EXIF_BY = 2**17  # segments before the pixels of a JPEG


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded."""

    height: int
    width: int
    dtype: str


def read_image(path: str | Path) -> np.ndarray:
    """Read one CT slice with its own dtype.

    Parameters
    ----------
    path : PNG, TIFF, JPEG or BMP; grey, or colour with equal channels

    Returns
    -------
    (H, W) uint8, int16, uint16, int32 or float32
        The stored values: HU where the file holds HU.

    Raises
    ------
    DataError
        When the file is missing, empty, damaged, coloured, of another dtype, a PNG of 2 or 4 bits,
        or holds NaN or inf; and when it is a mask: 0 and 255, or labels up to 5, and nothing else.
    """
    path = Path(path)
    return _checked_slice(_decode_bytes(_content(path), path), path)


def decode_image(content: bytes, name: str = "slice") -> np.ndarray:
    """Read one CT slice from the bytes of a file, as a service receives them.

    Parameters
    ----------
    content : of a PNG, TIFF, JPEG or BMP file
    name : what a message calls it

    Returns
    -------
    (H, W) uint8, int16, uint16, int32 or float32
        As :func:`read_image` gives it.

    Raises
    ------
    DataError
        As for :func:`read_image`.
    """
    return _checked_slice(_decode_bytes(content, Path(name)), Path(name))


def _checked_slice(pixels: np.ndarray, path: Path) -> np.ndarray:
    image = _one_channel(pixels, path, DataError)
    if image.dtype.name not in SLICE_DTYPES:
        raise DataError(
            f"dtype {image.dtype}, a CT slice is one of {', '.join(SLICE_DTYPES)}. Convert it.",
            where=path,
        )
    _refuse_not_finite(image, path)
    if image.dtype != np.float32:  # a map of probabilities may hold 0 and 1 alone
        refuse_labels(image, path, "slice")
    return image


def _refuse_not_finite(image: np.ndarray, path: Path) -> None:
    if image.dtype.kind == "f" and (count := int(np.count_nonzero(~np.isfinite(image)))):
        raise DataError(
            f"NaN or infinity in {counted(count, 'pixel')}. Replace them by -1000, the HU of air.",
            where=path,
        )


def read_mask(path: str | Path) -> np.ndarray:
    """Read one label image: raw mask values, not yet classes.

    Returns
    -------
    (H, W) of an integer dtype
        The stored values; a 1-bit file gives 0 and 255, floats that are whole numbers int32.

    Raises
    ------
    LabelError
        When the colour channels differ.
    DataError
        When the file is missing, empty, damaged, a PNG of 2 or 4 bits, or holds fractions.
    """
    path = Path(path)
    mask = _one_channel(_decode_bytes(_content(path), path), path, LabelError)
    return mask if np.issubdtype(mask.dtype, np.integer) else _whole_numbers(mask, path)


def _whole_numbers(mask: np.ndarray, path: Path) -> np.ndarray:
    """Return as integers what a program wrote as floats; refuse what is between them."""
    between = ~np.isfinite(mask) | (mask != np.floor(mask)) | (np.abs(mask) > _LARGEST_LABEL)
    if not between.any():
        return mask.astype(np.int32)
    row, column = np.argwhere(between)[0]
    advice = (
        "Maybe slices and masks are swapped."
        if mask.min() < 0
        else "Write probabilities as masks first: (p >= 0.5) * 255, in 8 bits."
    )
    raise DataError(
        f"mask value {mask[row, column]:g} ({counted(int(between.sum()), 'pixel')}, first at row "
        f"{row}, column {column}) is no whole number, labels are. {advice}",
        where=path,
    )


def read_header(path: str | Path) -> Header:
    """Read size and dtype without decoding the pixels; of a TIFF its directory alone is read."""
    path = Path(path)
    mapped = _map(path)
    if mapped[:4] in tiff.MAGIC:
        return Header(*tiff.tiff_header(mapped, path))
    content = mapped[:]
    head = read_head(content)
    if head is not None and not _holds_exif(content):
        return Header(*head)
    # Unusual or damaged: the decoder knows more formats, and says what is wrong.
    pixels = _decode_bytes(content, path)
    return Header(pixels.shape[0], pixels.shape[1], pixels.dtype.name)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write one CT slice with its own dtype, atomically.

    Parameters
    ----------
    path : the ending decides the format; only TIFF holds int16, int32 and float32
    image : (H, W) of a dtype in :data:`SLICE_DTYPES`

    Raises
    ------
    DataError
        When the format cannot hold the dtype, the shape is not (H, W), values are NaN or inf, or
        the folder cannot be written.
    """
    path = Path(path)
    if image.dtype.name not in _LOSSLESS.get(path.suffix.lower(), ()):
        raise DataError(
            f"a {path.suffix or 'nameless'} file does not keep {image.dtype} values. "
            f"Write one of {', '.join(SLICE_DTYPES)} as .tif.",
            where=path,
        )
    _refuse_not_finite(_plane(image, path), path)
    write_bytes(path, _encode(path, image))


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write raw mask values as a PNG, atomically.

    Parameters
    ----------
    path : ends with .png
    mask : (H, W) uint8 or uint16

    Raises
    ------
    DataError
        When the ending is not .png, dtype or shape do not fit, or the folder cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise DataError("masks are written as .png. Change the ending.", where=path)
    write_bytes(path, encode_mask(mask, str(path)))


def encode_mask(mask: np.ndarray, name: str = "mask") -> bytes:
    """Return raw mask values as the bytes of a PNG file, for a service to send.

    Parameters
    ----------
    mask : (H, W) uint8 or uint16
    name : what a message calls it

    Raises
    ------
    DataError
        When dtype or shape do not fit.
    """
    if mask.dtype.name not in ("uint8", "uint16"):
        raise DataError(f"masks are written as 8 or 16 bit .png, this is {mask.dtype}.", where=name)
    return _encode(Path("mask.png"), _plane(mask, Path(name)))


def encode_labels(path: str | Path, mask: np.ndarray) -> bytes:
    """Return raw mask values as the bytes of a file of the format that ``path`` ends with.

    Parameters
    ----------
    mask : (H, W) integer

    Raises
    ------
    DataError
        When the format does not keep these values, as a JPEG keeps none.
    """
    path = Path(path)
    if mask.dtype.name not in _LOSSLESS.get(path.suffix.lower(), ()):
        raise DataError(
            f"a {path.suffix or 'nameless'} file does not keep labels of {mask.dtype}. "
            "Write them as .png.",
            where=path,
        )
    return _encode(path, _plane(mask, path))


def write_picture(path: str | Path, rgb: np.ndarray) -> None:
    """Write a picture for eyes, such as an overlay, as PNG, atomically.

    Parameters
    ----------
    rgb : (H, W, 3) uint8

    Raises
    ------
    DataError
        When it is no such array, or the folder cannot be written.
    """
    path = Path(path)
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise DataError(
            f"{rgb.dtype} of shape {rgb.shape}, a picture is (H, W, 3) uint8. "
            "Draw it with draw_overlay.",
            where=path,
        )
    write_bytes(path, _encode(path, np.ascontiguousarray(rgb[..., ::-1])))  # OpenCV writes BGR


def _plane(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.ndim != 2 or not pixels.size:
        raise DataError(f"shape {pixels.shape}, an image is (H, W) with H, W above 0.", where=path)
    return pixels


def _encode(path: Path, pixels: np.ndarray) -> bytes:
    # OpenCV's own choice, LZW, saves a third of noisy HU and takes twenty times as long to read.
    plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if path.suffix.lower() in (".tif", ".tiff") else []
    values = np.ascontiguousarray(native_order(pixels))
    done, buffer = cv2.imencode(path.suffix.lower(), values, plain)
    if not done:
        raise DataError(f"OpenCV cannot write {pixels.dtype} as {path.suffix}.", where=path)
    return buffer.tobytes()


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as err:
        raise DataError(
            "no such file. Check the path, or the list that names it.", where=path
        ) from err
    except OSError as err:
        raise DataError(f"cannot be read ({err.strerror}). Check the path.", where=path) from err
    if not content:
        raise DataError("the file is empty. Copy or export it again.", where=path)
    return content


def _map(path: Path) -> bytes | mmap.mmap:
    """Return the content of a file, of which no more is read than is looked at."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # missing or empty; or a file system that maps none
        return _content(path)


def _decode_bytes(content: bytes, path: Path) -> np.ndarray:
    if not content:
        raise DataError("the file is empty. Copy or export it again.", where=path)
    if content.startswith(tiff.MAGIC):
        return tiff.decode_tiff(content, path)
    if bits := scaled_bits(content):
        step = 255 // (2**bits - 1)
        raise DataError(
            f"a PNG of {bits}-bit grey, from which most programs read 0, {step}, {2 * step} where "
            "0, 1, 2 are stored. Save the values that are meant in 8 bits.",
            where=path,
        )
    pages: Sequence[np.ndarray] = ()
    if content.startswith(_MAGIC):  # OpenCV knows more formats, some of which it reads wrongly
        # imdecode, not imread: it refuses truncated files (imread returns half a JPEG) and opens
        # names that are not ASCII on Windows.
        with tiff.opencv_log_silenced(), suppress(cv2.error):
            # Of several pages imdecode returns the first without a word.
            _, pages = cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if len(pages) > 1:
        raise DataError(f"{len(pages)} pages. Save each slice in a file of its own.", where=path)
    pixels = pages[0] if pages else None
    if pixels is None or not pixels.size:
        raise _known(content, path) or DataError(
            f"not a readable image: damaged, truncated, or not one of "
            f"{', '.join(SUFFIXES)}. Export it again.",
            where=path,
        )
    pixels = np.asarray(pixels)
    return tiff.turn(pixels, read_orientation(content)) if _holds_exif(content) else pixels


def _known(content: bytes, path: Path) -> DataError | None:
    """Name what is often found in the place of an image, and what to do with it."""
    if content[128:132] == b"DICM":
        fix = "a DICOM file. Give its folder as a scan: 'predict' and 'slices' take scans"
        return DataError(f"{fix}.", where=path)
    ours = next((why for magic, why in _OTHERS.items() if content.startswith(magic)), None)
    why = ours or describe_foreign(content[:_HEAD])
    return DataError(why, where=path) if why else None


def _holds_exif(content: bytes) -> bool:
    return b"Exif" in content[:_EXIF_BY] or (content.startswith(PNG) and b"eXIf" in content)


def _one_channel(pixels: np.ndarray, path: Path, error: type[DataError]) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
    opaque = pixels.shape[2] in (1, 3) or bool((pixels[..., -1] == pixels[..., -1].max()).all())
    if opaque and all(
        np.array_equal(colours[..., 0], colours[..., i]) for i in range(1, colours.shape[2])
    ):
        return np.ascontiguousarray(colours[..., 0])
    kind = "mask" if error is LabelError else "slice"
    fix = (
        "Convert it to one channel with one integer per class, "
        "e.g. 255 where the lung's colour is and 0 elsewhere."
        if error is LabelError
        else "Convert it to one grey channel."
    )
    raise error(f"a {kind} with {pixels.shape[2]} channels that differ. {fix}", where=path)
