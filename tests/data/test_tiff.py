"""TIFF: to the bit what another reader reads, or refused."""

import io
import random
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lungunet.data.ct import decode_image, read_header, read_image, read_mask
from lungunet.data.tiff import decode_tiff, ends_early, tiff_header
from lungunet.errors import DataError

SHAPE = (45, 38)
HERE = Path("a.tif")


def values(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(4)
    if dtype == "bool":
        return rng.random(shape) > 0.5
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 500, shape).astype(dtype)
    low = -100 if np.dtype(dtype).kind == "i" else 0
    return rng.integers(low, 100 if np.dtype(dtype).itemsize == 1 else 3000, shape).astype(dtype)


def written(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    options = {"photometric": "minisblack", "metadata": None, **options}
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def by_pillow(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "TIFF", **options)
    return buffer.getvalue()


LAYOUTS = [
    {"byteorder": order, "bigtiff": big, **blocks}
    for order, big, blocks in product(
        "<>", (False, True), ({}, {"rowsperstrip": 7}, {"tile": (32, 16)})
    )
]
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")


class TestWhatIsRead:
    @pytest.mark.parametrize("dtype", ["bool", *INTEGERS, "float16", "float32", "float64"])
    @pytest.mark.parametrize("compression", [None, "deflate", "adobe_deflate", "packbits"])
    def test_is_exact(self, dtype, compression):
        array = values(dtype)
        if compression == "packbits":  # tifffile alone does not write it
            if dtype not in ("bool", "uint8", "uint16", "int32", "float32"):
                pytest.skip("nor does Pillow")
            contents = [by_pillow(array, compression="packbits")]
        else:
            contents = [written(array, compression=compression, **more) for more in LAYOUTS]
        for content in contents:
            expected = array.astype(np.uint8) * 255 if dtype == "bool" else array
            found = decode_tiff(content, HERE)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
            assert tiff_header(content, HERE) == (*SHAPE, found.dtype.name)
            assert found.flags.writeable

    @pytest.mark.parametrize("dtype", INTEGERS)
    def test_undoes_the_predictor(self, dtype):
        for more in LAYOUTS:
            content = written(values(dtype), compression="deflate", predictor=True, **more)
            assert np.array_equal(decode_tiff(content, HERE), values(dtype))

    @pytest.mark.parametrize("order", "<>")
    def test_undoes_the_predictor_of_floats(self, order):
        """Adobe's TIFF Technical Note 3: bytes in planes, highest first, then differences."""
        array = values("float32")
        planes = array.astype(">f4").view(np.uint8).reshape(45, 38, 4).swapaxes(1, 2)
        steps = np.diff(planes.reshape(45, -1), axis=1, prepend=np.uint8(0))
        packed = zlib.compress(steps.tobytes())
        content = written(array, compression="deflate", byteorder=order)
        page = tifffile.TiffFile(io.BytesIO(content)).pages[0]
        places = {name: page.tags[name].valueoffset for name in ("StripOffsets", "StripByteCounts")}
        extra = bytearray(content + packed)
        for name, value in (("StripOffsets", len(content)), ("StripByteCounts", len(packed))):
            width = 2 if page.tags[name].dtype == 3 else 4
            assert value < 2 ** (8 * width)
            way = "little" if order == "<" else "big"
            extra[places[name] : places[name] + width] = value.to_bytes(width, way)
        spare = page.tags["XResolution"]  # which nobody needs makes room for the predictor
        fields = [317, 3]
        way = "little" if order == "<" else "big"
        entry = b"".join(n.to_bytes(2, way) for n in fields) + (1).to_bytes(4, way)
        entry += (3).to_bytes(2, way) + b"\0\0"
        extra[spare.offset : spare.offset + 12] = entry
        assert np.array_equal(decode_tiff(bytes(extra), HERE), array)

    @pytest.mark.parametrize("width", [38, 37])  # even and odd numbers of bytes in a row
    @pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "float32"])
    @pytest.mark.parametrize("predictor", [1, 2])
    def test_undoes_lzw(self, dtype, predictor, width):
        array = values(dtype, (45, width))
        if predictor == 2 and dtype in ("bool", "float32"):
            pytest.skip("libtiff writes none")
        content = by_pillow(array, compression="tiff_lzw", tiffinfo={317: predictor, 278: 11})
        expected = array.astype(np.uint8) * 255 if dtype == "bool" else array
        assert np.array_equal(decode_tiff(content, HERE), expected)

    @pytest.mark.parametrize("planar", ["contig", "separate"])
    @pytest.mark.parametrize("more", [{}, {"compression": "deflate", "predictor": True}])
    @pytest.mark.parametrize("tile", [None, (16, 32)])
    def test_colours_side_by_side_and_in_planes(self, planar, more, tile):
        rgb = values("uint8", (*SHAPE, 3))
        stored = np.moveaxis(rgb, -1, 0) if planar == "separate" else rgb
        content = written(stored, photometric="rgb", planarconfig=planar, tile=tile, **more)
        assert np.array_equal(decode_tiff(content, HERE), rgb)

    def test_sixteen_bits_to_be_shown_inverted_are_as_stored(self):
        hu = values("int16")
        content = written(hu, photometric="miniswhite")
        assert np.array_equal(decode_tiff(content, HERE), hu)
        assert np.array_equal(tifffile.imread(io.BytesIO(content)), hu)


def spoilt(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) == 1
    return content.replace(old, new)


def tag(number: int, value: int) -> bytes:
    """An entry of a small-endian directory: one SHORT."""
    return number.to_bytes(2, "little") + b"\3\0\1\0\0\0" + value.to_bytes(4, "little")


MASK = (values("bool") * 255).astype(np.uint8)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("number", "name"),
        [
            (34712, "JPEG 2000"),
            (50002, "JPEG XL"),
            (34933, "PNG"),
            (50000, "Zstandard"),
            (4, "fax"),
            (7, "JPEG"),
            (999, "a method of number 999"),
        ],
    )
    def test_other_compressions(self, number, name):
        content = spoilt(written(MASK), tag(259, 1), tag(259, number))
        with pytest.raises(DataError, match=f"compressed by .*{name}.*, which is not read. Save"):
            decode_tiff(content, HERE)

    @pytest.mark.parametrize("array", [values("bool"), MASK])
    def test_what_is_to_be_shown_inverted(self, array, tmp_path):
        (tmp_path / "a.tif").write_bytes(written(array, photometric="miniswhite"))
        for read in (read_mask, read_image, read_header):
            with pytest.raises(DataError, match=r"shown white .*mask\.astype\('uint8'\) \* 255"):
                read(tmp_path / "a.tif")

    def test_palettes(self):
        content = by_pillow(np.asarray(Image.fromarray(MASK)))
        content = spoilt(content, tag(262, 1), tag(262, 3))
        with pytest.raises(DataError, match=r"palette colours\. Save the indices as plain grey"):
            decode_tiff(content, HERE)

    @pytest.mark.parametrize(
        ("entry", "instead", "says"),
        [
            (tag(258, 8), tag(258, 12), "unsigned numbers of 12 bits. Save it as 8 or 16 bits"),
            (tag(262, 1), tag(262, 6), "unusual colours"),
            (tag(258, 8), tag(266, 2), "unusual colours|1 bit|damaged"),
            (tag(258, 8), tag(317, 2), "predictor 2|damaged"),
        ],
    )
    def test_what_no_slice_needs(self, entry, instead, says):
        content = spoilt(by_pillow(MASK), entry, instead)
        with pytest.raises(DataError, match=says):
            decode_tiff(content, HERE)

    def test_a_picture_that_no_memory_holds(self):
        content = written(MASK, compression="deflate")
        for number, side in ((256, 38), (257, 45)):
            entry = number.to_bytes(2, "little") + b"\4\0\1\0\0\0"
            wide = entry + (65535).to_bytes(4, "little")
            content = spoilt(content, entry + side.to_bytes(4, "little"), wide)
        with pytest.raises(DataError, match="a damaged TIFF"):
            decode_tiff(content, HERE)

    def test_directories_in_a_circle(self):
        content = bytearray(written(MASK))
        entries = int.from_bytes(content[8:10], "little")
        content[10 + 12 * entries : 14 + 12 * entries] = (8).to_bytes(4, "little")
        with pytest.raises(DataError, match="a damaged TIFF"):
            decode_tiff(bytes(content), HERE)


class TestDamage:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
    def test_a_checksum_that_does_not_fit(self, dtype):
        """libtiff stops before the checksum: bits that fell over would be pixels."""
        array = values(dtype)
        content = written(array, compression="deflate", rowsperstrip=45)
        strip = tifffile.TiffFile(io.BytesIO(content)).pages[0]
        start, size = strip.dataoffsets[0], strip.databytecounts[0]
        wrong = zlib.compress(values(dtype)[::-1].tobytes(), 6)[:-4] + content[: start + size][-4:]
        end = content[start + size :]
        content = content[:start] + wrong[: size - 4] + content[start + size - 4 : start + size]
        with pytest.raises(DataError, match="a damaged TIFF"):
            decode_tiff(content + end, HERE)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
    @pytest.mark.parametrize("array", [MASK, values("uint16")])
    def test_a_strip_of_zeros(self, compression, array):
        content = bytearray(by_pillow(array, compression=compression, tiffinfo={278: 9}))
        page = tifffile.TiffFile(io.BytesIO(bytes(content))).pages[0]
        start, size = page.dataoffsets[2], page.databytecounts[2]
        content[start : start + size] = bytes(size)
        with pytest.raises(DataError, match="a damaged TIFF"):
            decode_tiff(bytes(content), HERE)

    @pytest.mark.parametrize(("number", "value"), [(273, 0), (273, 4), (279, 0)])
    def test_a_strip_where_no_pixels_lie(self, number, value):
        content = bytearray(written(MASK))
        at = next(
            place
            for place in range(10, len(content), 12)
            if int.from_bytes(content[place : place + 2], "little") == number
        )
        content[at + 8 : at + 12] = value.to_bytes(4, "little")
        with pytest.raises(DataError, match="a damaged TIFF"):
            decode_tiff(bytes(content), HERE)

    def test_more_bytes_than_pixels(self):
        """A run made longer by a bit that fell over shifts all that follows, to behind the end."""
        content = bytearray(by_pillow(MASK, compression="packbits"))
        page = tifffile.TiffFile(io.BytesIO(bytes(content))).pages[0]
        at, size = page.dataoffsets[0], page.databytecounts[0]
        packed = content[at : at + size]
        whole = bytes(packed) + bytes([1, 7, 7])
        moved = content + whole
        offset, count = (
            page.tags[name].valueoffset for name in ("StripOffsets", "StripByteCounts")
        )
        for place, value in ((offset, len(content)), (count, len(whole))):
            moved[place : place + 2] = value.to_bytes(2, "little")
        with pytest.raises(DataError, match="a damaged TIFF"):
            decode_tiff(bytes(moved), HERE)

    def test_never_pixels_that_no_other_reader_sees(self):
        """Bits over, zeros, cuts and insertions: what is read, tifffile or Pillow reads alike."""
        draw = random.Random(3)
        lung = np.zeros((48, 42), np.uint8)
        lung[9:40, 5:18] = lung[9:40, 24:38] = 255
        noise = np.random.default_rng(5).normal(0, 12, lung.shape)
        hu = np.where(lung, -850, 40) + noise
        read = 0
        for _ in range(400):
            array = draw.choice([lung, hu.astype(np.int32), (hu + 1024).astype(np.uint16)])
            packing = draw.choice([None, "tiff_lzw", "packbits", "tiff_adobe_deflate"])
            content = bytearray(by_pillow(array, compression=packing, tiffinfo={278: 16}))
            at, length = draw.randrange(8, len(content)), draw.randint(1, 60)
            how = draw.choice(["bit", "zeros", "cut", "insert"])
            if how == "bit":
                content[at] ^= 1 << draw.randrange(8)
            elif how == "zeros":
                content[at : at + length] = bytes(len(content[at : at + length]))
            elif how == "cut":
                del content[at : at + length]
            else:
                content[at:at] = draw.randbytes(length)
            try:
                found = decode_tiff(bytes(content), HERE)
            except DataError:
                continue
            read += 1
            if found.shape == array.shape and np.array_equal(found, array):
                continue
            assert any(_agrees(found, reader, bytes(content)) for reader in (_tifffile, _pillow))
        assert 50 < read < 300

    def test_knows_a_file_that_ends_early(self):
        for content in (written(MASK), by_pillow(MASK), written(MASK, bigtiff=True)):
            assert not ends_early(content)
            for kept in (9, len(content) // 2, len(content) - 300):
                assert ends_early(content[:kept])


def _tifffile(content: bytes) -> np.ndarray:
    return tifffile.imread(io.BytesIO(content))


def _pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def _agrees(found: np.ndarray, reader, content: bytes) -> bool:
    try:
        other = reader(content)
    except Exception:  # whatever a reader raises is a refusal
        return False
    return other.shape == found.shape and np.array_equal(other, found)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_exif_turns_a_picture_as_the_tag_of_a_tiff_does(ending, tmp_path):
    grey = np.kron(values("uint8", (6, 5)), np.ones((8, 8), np.uint8))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(grey).save(tmp_path / f"a.{ending}", exif=exif, quality=95)
        Image.fromarray(grey).save(tmp_path / "a.tif", tiffinfo={274: orientation})
        turned = read_image(tmp_path / "a.tif")
        found = read_image(tmp_path / f"a.{ending}")
        assert np.abs(found.astype(int) - turned).max() < 9  # JPEG
        header = read_header(tmp_path / f"a.{ending}")
        assert (header.height, header.width) == found.shape


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (bytes(128) + b"DICM" + bytes(99), "a DICOM file. Give its folder as a scan"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Run git lfs pull"),
        (b"\x93NUMPY\1\0", "a numpy array"),
        (b"<!DOCTYPE html>", "Download it again"),
        (b"PK\3\4 and more", "is a zip. Unpack it first"),
        (b"\x1f\x8b and more", "is packed with gzip. Unpack it first"),
        (b"%PDF-1.7", "is a PDF"),
        (bytes(5000), "begins with zeros alone"),
        (b"<?xml version='1.0'?><Error>", "is a web page"),
        (b"\0\0\0\x0cjP  and more", "a JPEG 2000"),
        (b"P5 3 3 255 \n123456789", "not a readable image"),  # which OpenCV would read
    ],
)
def test_what_lies_in_the_place_of_an_image_is_named(content: bytes, says: str):
    with pytest.raises(DataError) as caught:
        decode_image(content, "a.png")
    assert str(caught.value).startswith("a.png: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(("kind", "says"), [("WEBP", "a WebP"), ("GIF", "a GIF")])
def test_other_formats_under_our_names_are_refused(kind: str, says: str):
    buffer = io.BytesIO()
    Image.fromarray(MASK).save(buffer, kind)
    with pytest.raises(DataError, match=says):
        decode_image(buffer.getvalue(), "a.png")
