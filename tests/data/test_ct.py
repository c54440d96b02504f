import re
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lungunet.data.ct import (
    Header,
    decode_image,
    encode_labels,
    encode_mask,
    read_header,
    read_image,
    read_mask,
    write_image,
    write_mask,
    write_picture,
)
from lungunet.errors import DataError, LabelError

SHAPE = (48, 63)  # lopsided, and odd so that rows do not end on a word


def pixels(dtype, shape=SHAPE):
    """Values over the whole range of the dtype, the extremes among them."""
    rng = np.random.default_rng(7)
    if dtype == "float32":
        return (rng.normal(0, 1000, shape)).astype(np.float32)
    span = np.iinfo(dtype)
    values = rng.integers(span.min, span.max, shape, dtype, endpoint=True)
    values.flat[:2] = span.min, span.max
    return values


GREY = pixels("uint8")
LUNG = np.where(GREY > 128, 255, 0).astype(np.uint8)


def save(path, array, mode=None, **options):
    image = Image.frombytes(mode, array.shape[1::-1], array.tobytes()) if mode else None
    (image or Image.fromarray(array)).save(path, **options)
    return path


def png(path, array, *, bits, colour=0):
    """A PNG by hand: no library between the values and the file."""
    raw = array.astype(">u2") if bits == 16 else array.astype(np.uint8)
    if bits < 8:
        used = np.unpackbits(raw[..., None], axis=2)[..., -bits:]
        raw = np.packbits(used.reshape(len(raw), -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in raw)

    def chunk(name, content):
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], bits, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def tiff(path, array, *, order="<"):
    """A TIFF of one strip by hand, in either byte order."""
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    tags = [
        (256, array.shape[1]),
        (257, array.shape[0]),
        (258, array.dtype.itemsize * 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, array.shape[0]),
        (279, len(data)),
        (339, kind),
    ]
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(data))
    path.write_bytes(
        head + data + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)
    )
    return path


TIFF_DTYPES = ("uint8", "int16", "uint16", "int32", "float32")

FILES = {
    **{
        f"{dtype} tiff by hand {order}": lambda path, d=dtype, o=order: (
            tiff(path / "a.tif", pixels(d), order=o),
            pixels(d),
        )
        for dtype in TIFF_DTYPES
        for order in "<>"
    },
    **{
        f"{dtype} tiff in strips, deflated {order}": lambda path, d=dtype, o=order: (
            _tifffile(
                path,
                pixels(d),
                byteorder=o,
                rowsperstrip=7,
                compression="zlib",
                predictor=d != "float32",  # tifffile needs another package for that
            ),
            pixels(d),
        )
        for dtype in TIFF_DTYPES
        for order in "<>"
    },
    **{
        f"{dtype} tiff by Pillow {way}": lambda path, d=dtype, w=way: (
            save(path / "a.tiff", pixels(d), compression=w),
            pixels(d),
        )
        for dtype in ("uint8", "uint16", "int32", "float32")
        for way in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate")
    },
    "int16 tiff in tiles": lambda path: (
        _tifffile(path, pixels("int16"), tile=(16, 16)),
        pixels("int16"),
    ),
    "int16 bigtiff": lambda path: (_tifffile(path, pixels("int16"), bigtiff=True), pixels("int16")),
    "uint16 tiff by Pillow, big-endian": lambda path: (
        save(path / "a.tif", pixels("uint16").astype(">u2"), "I;16B"),
        pixels("uint16"),
    ),
    "uint8 png by hand": lambda path: (png(path / "a.png", GREY, bits=8), GREY),
    "uint16 png by hand": lambda path: (
        png(path / "a.png", pixels("uint16"), bits=16),
        pixels("uint16"),
    ),
    "uint8 png": lambda path: (save(path / "a.png", GREY), GREY),
    "uint8 upper-case png": lambda path: (save(path / "A.PNG", GREY), GREY),
    "uint8 bmp": lambda path: (save(path / "a.bmp", GREY), GREY),
    "uint8 jpeg": lambda path: (
        save(path / "a.jpg", GREY, quality=90),
        np.asarray(Image.open(path / "a.jpg")),
    ),
    "one-bit png": lambda path: (_one_bit(path / "a.png"), LUNG),
    "one-bit tiff": lambda path: (_one_bit(path / "a.tif"), LUNG),
    "one-bit bmp": lambda path: (_one_bit(path / "a.bmp"), LUNG),
    **{
        f"{mode} of equal channels {end}": lambda path, m=mode, e=end: (
            _equal_channels(path / f"a{e}", m),
            GREY,
        )
        for mode in ("RGB", "RGBA", "LA")
        for end in (".png", ".tif", ".bmp")
        if (mode, end) != ("LA", ".bmp")
    },
    "16-bit rgb tiff": lambda path: (
        _tifffile(path, np.stack([pixels("uint16")] * 3, -1), photometric="rgb"),
        pixels("uint16"),
    ),
    **{
        f"grey palette {end}": lambda path, e=end: (_palette(path / f"a{e}", (255,) * 3), LUNG)
        for end in (".png", ".bmp")
    },
}


def _tifffile(folder, array, **options):
    tifffile.imwrite(folder / "a.tif", array, **{"photometric": "minisblack", **options})
    return folder / "a.tif"


def _one_bit(path, **options):
    Image.fromarray(LUNG).convert("1").save(path, **options)
    return path


def _palette(path, colour):
    image = Image.frombytes("P", SHAPE[::-1], (LUNG // 255).tobytes())
    image.putpalette([0, 0, 0, *colour])
    image.save(path)
    return path


def _equal_channels(path, mode):
    channels = [Image.fromarray(GREY)] * (1 if mode == "LA" else 3)
    opaque = [Image.new("L", SHAPE[::-1], 255)] * mode.endswith("A")
    Image.merge(mode, channels + opaque).save(path)
    return path


class TestReading:
    @pytest.mark.parametrize("kind", FILES)
    def test_is_exact_and_the_header_agrees(self, tmp_path, kind):
        path, expected = FILES[kind](tmp_path)
        is_mask = set(np.unique(expected)) == {0, 255}
        if is_mask:
            with pytest.raises(DataError, match="holds 0, 255 and nothing else: a mask, no CT"):
                read_image(path)
        image = (read_mask if is_mask else read_image)(path)
        assert image.dtype == expected.dtype
        assert np.array_equal(image, expected)
        assert read_header(path) == Header(*image.shape, image.dtype.name)
        if image.dtype != np.float32:
            assert np.array_equal(read_mask(path), expected)

    def test_the_orientation_tag_of_a_tiff(self, tmp_path):
        turned = [GREY, GREY[:, ::-1], GREY[::-1, ::-1], GREY[::-1]]  # TIFF 6.0, section 8
        turned += [GREY.T, np.rot90(GREY, -1), GREY.T[::-1, ::-1], np.rot90(GREY)]
        for tag, expected in enumerate(turned, start=1):
            path = save(tmp_path / "a.tif", GREY, tiffinfo={274: tag})
            assert np.array_equal(read_image(path), expected)
            assert read_header(path) == Header(*expected.shape, "uint8")

    @pytest.mark.parametrize("name", ["two words.png", "Lunge ü 肺.png", "a.b.c.png", "#1%20.png"])
    def test_any_name(self, tmp_path, name):
        path = save(tmp_path / name, GREY)
        assert np.array_equal(read_image(str(path)), GREY)
        assert read_header(path) == Header(*SHAPE, "uint8")

    def test_the_ending_does_not_decide_the_format(self, tmp_path):
        path = save(tmp_path / "a.tif", GREY, format="PNG")
        assert np.array_equal(read_image(path), GREY)

    def test_leaves_the_log_of_opencv_as_it_was(self, tmp_path):
        before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        (tmp_path / "a.png").write_bytes(b"no image")
        with pytest.raises(DataError):
            read_image(tmp_path / "a.png")
        assert cv2.utils.logging.setLogLevel(before) == cv2.utils.logging.LOG_LEVEL_ERROR

    def test_threads_leave_the_log_and_the_warnings_as_they_were(self, tmp_path):
        exif = Image.Exif()
        exif[274] = 3
        path = save(tmp_path / "a.jpg", GREY, exif=exif)
        home = getattr(cv2.utils, "logging", cv2)
        before, filters = home.getLogLevel(), list(warnings.filters)
        home.setLogLevel(2)
        try:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(read_image, [path] * 800))
                list(pool.map(read_header, [path] * 400))
            assert home.getLogLevel() == 2
            assert list(warnings.filters) == filters
        finally:
            home.setLogLevel(before)

    @pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
    def test_the_head_of_a_damaged_file_is_read_or_refused(self, tmp_path, name):
        exif = Image.Exif()
        exif[274] = 6
        whole = save(tmp_path / name, GREY, exif=exif).read_bytes()
        for kept in range(1, min(400, len(whole))):
            (tmp_path / name).write_bytes(whole[:kept] + bytes(9))
            for read in (read_header, read_image):
                with suppress(DataError):
                    read(tmp_path / name)

    def test_a_header_reads_the_directory_of_a_tiff_alone(self, tmp_path, monkeypatch):
        write_image(tmp_path / "a.tif", pixels("int16"))

        def read_bytes(path):
            raise AssertionError("the whole file was read")

        monkeypatch.setattr("pathlib.Path.read_bytes", read_bytes)
        assert read_header(tmp_path / "a.tif") == Header(*SHAPE, "int16")

    def test_says_nothing_on_stderr_for_a_damaged_tiff(self, tmp_path, capfd):
        content = tiff(tmp_path / "a.tif", pixels("int16")).read_bytes()
        (tmp_path / "a.tif").write_bytes(content[:100] + content[200:])
        with pytest.raises(DataError):
            read_image(tmp_path / "a.tif")
        assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("bits", "seen"), [(2, "0, 85, 170"), (4, "0, 17, 34")])
def test_grey_of_a_few_bits_is_refused_as_slice_and_as_mask(tmp_path, bits, seen):
    path = png(tmp_path / "a.png", LUNG > 0, bits=bits)
    for read in (read_image, read_mask, read_header):
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path}: a PNG of {bits}-bit grey, from which most programs read {seen} where 0, 1, 2 "
            "are stored. Save the values that are meant in 8 bits."
        )


def test_one_bit_and_indexed_masks_are_read(tmp_path):
    path = png(tmp_path / "a.png", LUNG > 0, bits=1)
    assert np.array_equal(read_mask(path), (LUNG > 0) * 255)
    assert read_header(path) == Header(*SHAPE, "uint8")
    indexed = Image.frombytes("P", SHAPE[::-1], (LUNG > 0).tobytes())
    indexed.putpalette([value for value in range(256) for _ in range(3)])
    indexed.save(path, bits=2)
    assert np.array_equal(read_mask(path), LUNG > 0)


class TestColour:
    @pytest.mark.parametrize("end", [".png", ".bmp"])
    def test_a_coloured_palette_is_no_mask(self, tmp_path, end):
        path = _palette(tmp_path / f"a{end}", (0, 0, 255))
        with pytest.raises(LabelError) as caught:
            read_mask(path)
        assert str(caught.value) == (
            f"{path}: a mask with 3 channels that differ. Convert it to one channel with one "
            "integer per class, e.g. 255 where the lung's colour is and 0 elsewhere."
        )

    def test_a_coloured_slice(self, tmp_path):
        path = save(tmp_path / "a.png", np.stack([GREY, GREY, LUNG], -1))
        with pytest.raises(
            DataError, match=r"a slice with 3 channels that differ. Convert it to o"
        ):
            read_image(path)
        with pytest.raises(LabelError, match="a mask with 3 channels that differ"):
            read_mask(path)

    @pytest.mark.parametrize("changed", [0, 1, 2])
    def test_one_pixel_of_colour_is_enough(self, tmp_path, changed):
        rgb = np.stack([GREY] * 3, -1)
        rgb[-1, -1, changed] ^= 1
        with pytest.raises(LabelError, match="3 channels that differ"):
            read_mask(save(tmp_path / "a.png", rgb))

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_transparency_may_hold_the_mask(self, tmp_path, mode):
        channels = [Image.fromarray(GREY)] * (1 if mode == "LA" else 3)
        Image.merge(mode, [*channels, Image.fromarray(LUNG)]).save(tmp_path / "a.png")
        with pytest.raises(LabelError, match="channels that differ"):
            read_mask(tmp_path / "a.png")


TRUNCATED = r"truncated: a TIFF that ends before its pixels do\. Copy or export it again"
DAMAGED = "not a readable image: damaged, truncated, or not one of .png, .tif, .tiff, .jpg, .jpeg"


class TestRefusals:
    @pytest.mark.parametrize("read", [read_image, read_mask, read_header])
    def test_missing_empty_folder_text(self, tmp_path, read):
        with pytest.raises(DataError, match=r"a\.png: no such file\. Check the path, or the list"):
            read(tmp_path / "a.png")
        (tmp_path / "a.png").touch()
        with pytest.raises(DataError, match=r"a\.png: the file is empty\. Copy or export it ag"):
            read(tmp_path / "a.png")
        with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)\. Check the path"):
            read(tmp_path)
        (tmp_path / "a.png").write_text("image,mask\n" * 30)
        with pytest.raises(DataError, match=DAMAGED):
            read(tmp_path / "a.png")

    @pytest.mark.parametrize(
        "kind",
        [
            "uint8 png by hand",
            "uint16 png by hand",
            "uint8 jpeg",
            "uint8 bmp",
            "int16 tiff by hand <",
            "int16 tiff in strips, deflated >",
            "int32 tiff by Pillow tiff_lzw",
        ],
    )
    @settings(
        max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
    )
    @given(kept=st.floats(0.01, 0.999))
    def test_a_truncated_file_is_refused_or_whole(self, tmp_path, kind, kept):
        path, expected = FILES[kind](tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[: max(1, int(len(content) * kept))])
        try:
            image = read_image(path)
        except DataError as err:
            assert re.search(f"{TRUNCATED}|{DAMAGED}", str(err))  # noqa: PT017 - the other way out is an exact image
        else:
            assert kept > 0.9
            assert np.array_equal(image, expected)

    @pytest.mark.parametrize("kind", ["uint8 jpeg", "uint8 bmp", "uint8 png by hand"])
    def test_half_a_file_is_refused(self, tmp_path, kind):
        path, _ = FILES[kind](tmp_path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataError, match=DAMAGED):
            read_image(path)

    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
    def test_the_header_of_half_a_tiff_warns_of_nothing(self, tmp_path, kept):
        path = save(tmp_path / "a.tif", pixels("float32"), compression="tiff_lzw")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
        with pytest.raises(DataError, match=TRUNCATED):
            read_header(path)  # warnings are errors here

    def test_a_header_that_claims_a_huge_picture(self, tmp_path):
        path = png(tmp_path / "a.png", GREY, bits=8)
        head = b"IHDR" + struct.pack(">IIBBBBB", 10**5, 10**5, 8, 0, 0, 0, 0)
        content = path.read_bytes()
        path.write_bytes(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:])
        with pytest.raises(DataError, match=DAMAGED):
            read_header(path)

    @pytest.mark.parametrize("dtype", ["float64", "uint32", "int8", "int64"])
    def test_other_dtypes(self, tmp_path, dtype):
        path = _tifffile(tmp_path, np.ones(SHAPE, dtype))
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert str(caught.value) == (
            f"{path}: dtype {dtype}, a CT slice is one of uint8, int16, uint16, int32, float32. "
            "Convert it."
        )
        assert read_header(path) == Header(*SHAPE, dtype)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_a_mask_of_floats_that_are_whole_numbers(self, tmp_path, dtype):
        values = np.zeros(SHAPE, dtype)
        values[3, 4] = 255
        mask = read_mask(_tifffile(tmp_path, values))
        assert mask.dtype == np.int32
        np.testing.assert_array_equal(mask, values)

    @pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e12])
    def test_a_mask_of_fractions(self, tmp_path, value):
        values = np.ones(SHAPE, "float64")
        values[3, 4] = value
        expected = r"mask value \S+ \(1 pixel, first at row 3, column 4\) is no whole number"
        with pytest.raises(DataError, match=expected):
            read_mask(_tifffile(tmp_path, values))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_nan_and_inf(self, tmp_path, value):
        image = pixels("float32")
        image[2, 3] = image[40, 60] = value
        with pytest.raises(DataError, match=r"NaN or infinity in 2 pixels\. Replace them by"):
            read_image(_tifffile(tmp_path, image))


class TestWriting:
    @pytest.mark.parametrize("dtype", TIFF_DTYPES)
    @pytest.mark.parametrize("end", [".tif", ".TIFF"])
    def test_tiff_keeps_every_dtype(self, tmp_path, dtype, end):
        path = tmp_path / "new" / f"a{end}"
        write_image(path, pixels(dtype))
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), pixels(dtype))
        assert read_image(path).dtype == dtype

    @pytest.mark.parametrize("dtype", TIFF_DTYPES)
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_values_of_either_byte_order(self, tmp_path, dtype, order):
        values = pixels(dtype).astype(np.dtype(dtype).newbyteorder(order))
        write_image(tmp_path / "a.tif", values)
        assert np.array_equal(read_image(tmp_path / "a.tif"), pixels(dtype))
        assert read_image(tmp_path / "a.tif").dtype == dtype
        if dtype in ("uint8", "uint16"):
            write_mask(tmp_path / "a.png", values)
            assert np.array_equal(read_mask(tmp_path / "a.png"), pixels(dtype))
        if dtype != "float32":
            content = encode_labels("a.tif", values)
            assert content == encode_labels("a.tif", pixels(dtype))

    @pytest.mark.parametrize(
        ("end", "dtype"), [(".png", "uint8"), (".png", "uint16"), (".bmp", "uint8")]
    )
    def test_png_and_bmp_keep_what_they_can(self, tmp_path, end, dtype):
        write_image(tmp_path / f"a{end}", pixels(dtype))
        with Image.open(tmp_path / f"a{end}") as image:
            assert np.array_equal(np.asarray(image), pixels(dtype))

    @pytest.mark.parametrize(
        ("name", "dtype", "message"),
        [
            ("a.png", "int16", "a .png file does not keep int16 values. Write one of uint8, "),
            ("a.png", "float32", "a .png file does not keep float32 values. Write one of uint8, "),
            ("a.bmp", "uint16", "a .bmp file does not keep uint16 values. Write one of uint8, "),
            ("a.jpg", "uint8", "a .jpg file does not keep uint8 values. Write one of uint8, "),
            ("a.npy", "uint8", "a .npy file does not keep uint8 values. Write one of uint8, "),
            ("a", "uint8", "a nameless file does not keep uint8 values. Write one of uint8, "),
            ("a.tif", "float64", "a .tif file does not keep float64 values"),
            ("a.tif", "int64", "a .tif file does not keep int64 values"),
            ("a.tif", "bool", "a .tif file does not keep bool values"),
            ("a.tif", "uint32", "a .tif file does not keep uint32 values"),
        ],
    )
    def test_what_would_lose_values(self, tmp_path, name, dtype, message):
        with pytest.raises(DataError) as caught:
            write_image(tmp_path / name, np.ones(SHAPE, dtype))
        assert message in str(caught.value)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_could_not_be_read_again(self, tmp_path, value):
        image = pixels("float32").copy()
        image[2, 3] = image[4, 6] = value
        with pytest.raises(DataError, match=r"a\.tif: NaN or infinity in 2 pixels\. Replace"):
            write_image(tmp_path / "a.tif", image)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("shape", [(4, 5, 3), (7,), (0, 5)])
    def test_what_is_no_slice(self, tmp_path, shape):
        with pytest.raises(DataError, match=r"an image is \(H, W\)"):
            write_image(tmp_path / "a.tif", np.zeros(shape, np.int16))
        with pytest.raises(DataError, match=r"an image is \(H, W\)"):
            write_mask(tmp_path / "a.png", np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_masks(self, tmp_path, dtype):
        write_mask(tmp_path / "a.PNG", pixels(dtype)[::-1, ::2])  # not contiguous
        with Image.open(tmp_path / "a.PNG") as image:
            assert np.array_equal(np.asarray(image), pixels(dtype)[::-1, ::2])

    @pytest.mark.parametrize(
        ("name", "dtype", "message"),
        [
            ("a.tif", "uint8", "masks are written as .png. Change the ending."),
            ("a.png", "int32", "masks are written as 8 or 16 bit .png, this is int32."),
        ],
    )
    def test_masks_in_other_formats(self, tmp_path, name, dtype, message):
        with pytest.raises(DataError) as caught:
            write_mask(tmp_path / name, np.zeros(SHAPE, dtype))
        assert str(caught.value) == f"{tmp_path / name}: {message}"

    def test_bytes_there_and_back_without_a_file(self, tmp_path):
        mask = (pixels("uint8") > 99).astype(np.uint8) * 255
        with pytest.raises(DataError, match="slice: holds 0, 255 and nothing else"):
            decode_image(encode_mask(mask))
        grey = pixels("uint8")
        assert np.array_equal(decode_image(encode_mask(grey)), grey)
        write_mask(tmp_path / "a.png", mask)
        assert (tmp_path / "a.png").read_bytes() == encode_mask(mask)
        with pytest.raises(DataError, match=r"upload\.tif: not a readable image"):
            decode_image(b"no image", "upload.tif")
        with pytest.raises(DataError, match="slice: the file is empty"):
            decode_image(b"")

    def test_a_picture_keeps_red_red(self, tmp_path):
        rgb = np.zeros((5, 9, 3), np.uint8)
        rgb[1:3, 4] = 255, 140, 7
        write_picture(tmp_path / "a.png", rgb)
        with Image.open(tmp_path / "a.png") as image:
            assert np.array_equal(np.asarray(image), rgb)

    def test_replaces_and_leaves_nothing_beside(self, tmp_path):
        write_image(tmp_path / "a.tif", pixels("int16"))
        write_image(tmp_path / "a.tif", pixels("float32"))
        assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
        assert read_image(tmp_path / "a.tif").dtype == np.float32


def test_several_pages_are_refused(tmp_path):
    pages = [Image.fromarray(np.full((4, 6), n, np.uint8)) for n in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"stack\.tif: 3 pages"):
        read_image(tmp_path / "stack.tif")


@pytest.mark.parametrize("rgb", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8)])
def test_a_picture_is_rgb_of_eight_bits(rgb, tmp_path, capfd):
    with pytest.raises(DataError, match=r"a\.png: .* a picture is \(H, W, 3\) uint8"):
        write_picture(tmp_path / "a.png", rgb)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "a.png").exists()
