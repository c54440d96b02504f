import numpy as np
import pytest
import tifffile
from PIL import Image

import lungunet
from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.ct import read_image, read_mask
from lungunet.data.manifest import Pair
from lungunet.data.prepare import prepare_pairs
from lungunet.errors import ConfigError, DataError, GeometryError, LabelError

MERGED = LabelCodec.parse("0,3=1,4=1,5=2:0,3,5")


def write_pair(folder, image, mask, name="ID 1"):
    for part in ("in", "in_masks"):
        (folder / part).mkdir(exist_ok=True)
    tifffile.imwrite(folder / "in" / f"{name}.tif", image)
    Image.fromarray(mask).save(folder / "in_masks" / f"{name}.png")
    return Pair(folder / "in" / f"{name}.tif", folder / "in_masks" / f"{name}.png")


def slice_and_mask(shape=(96, 128), dtype="int16"):
    rng = np.random.default_rng(0)
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] * 3 // 4] = 255
    return (rng.normal(100, 30, shape) - mask * (2.0 if dtype[0] != "u" else 0.2)).astype(
        dtype
    ), mask


class TestOutputs:
    def test_files(self, tmp_path):
        pairs = [write_pair(tmp_path, *slice_and_mask(), name=name) for name in ("b", "a ü.v2")]
        written, _ = prepare_pairs(pairs, str(tmp_path / "data"), codec=LUNG_CODEC, size=64)
        assert written == [
            Pair(tmp_path / "data/images" / f"{name}.tif", tmp_path / "data/masks" / f"{name}.png")
            for name in ("b", "a ü.v2")
        ]
        files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert sorted(files) == sorted(f for pair in written for f in (pair.image, pair.mask))

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
    @pytest.mark.parametrize("size", [64, 128, 150])
    def test_keeps_the_dtype(self, tmp_path, dtype, size):
        pair = write_pair(tmp_path, *slice_and_mask(dtype=dtype))
        (new,), _ = prepare_pairs([pair], tmp_path / "data", codec=LUNG_CODEC, size=size)
        image = read_image(new.image)
        assert image.dtype == dtype
        assert image.shape == read_mask(new.mask).shape == (size * 3 // 4, size)
        assert image.mean() == pytest.approx(read_image(pair.image).mean(), abs=0.8)

    @pytest.mark.parametrize(
        ("shape", "size", "expected"),
        [
            ((96, 128), 64, (48, 64)),
            ((128, 96), 64, (64, 48)),
            ((33, 100), 50, (16, 50)),
            ((200, 1), 50, (50, 1)),
            ((1, 1), 3, (3, 3)),
        ],
    )
    def test_the_longer_side(self, tmp_path, shape, size, expected):
        pair = write_pair(tmp_path, np.zeros(shape, np.int16), np.zeros(shape, np.uint8))
        (new,), _ = prepare_pairs([pair], tmp_path / "data", codec=LUNG_CODEC, size=size)
        assert read_image(new.image).shape == read_mask(new.mask).shape == expected

    @pytest.mark.parametrize("factor", [2, 4])
    def test_shrinking_averages_the_slice(self, tmp_path, factor):
        image, mask = slice_and_mask(dtype="int32")
        # More than float32 holds exactly, and means that are no whole numbers.
        image = image * 3_000_000 + np.arange(image.size, dtype=np.int32).reshape(image.shape) % 7
        pair = write_pair(tmp_path, image, mask)
        size = 128 // factor
        (new,), _ = prepare_pairs([pair], tmp_path / "data", codec=LUNG_CODEC, size=size)
        blocks = image.reshape(96 // factor, factor, size, factor).astype(np.float64)
        assert np.abs(read_image(new.image) - blocks.mean((1, 3))).max() <= 0.5

    def test_the_same_size_changes_no_pixel(self, tmp_path):
        image, mask = slice_and_mask(dtype="float32")
        pair = write_pair(tmp_path, image, mask)
        (new,), _ = prepare_pairs([pair], tmp_path / "d", codec=LUNG_CODEC, size=128, raw=True)
        assert np.array_equal(read_image(new.image), image)
        assert np.array_equal(read_mask(new.mask), mask)


class TestLabels:
    def test_classes_or_raw_values(self, tmp_path):
        image, mask = slice_and_mask()
        pair = write_pair(tmp_path, image, mask)
        for raw, lung in ((False, 1), (True, 255)):
            (new,), codec = prepare_pairs(
                [pair], tmp_path / str(raw), codec=LUNG_CODEC, size=64, raw=raw
            )
            labels = read_mask(new.mask)
            assert np.array_equal(labels, mask[1::2, 1::2] // 255 * lung)
            assert codec.classes == {0: 0, lung: 1}
            assert codec.names == ("background", "lung")
            assert np.array_equal(codec.encode(labels), mask[::2, ::2] // 255)

    @pytest.mark.parametrize("size", [99, 50])  # an odd side: no centre lies on an edge
    def test_grown_are_the_pixel_under_the_centre_and_not_a_mix(self, tmp_path, size):
        rng = np.random.default_rng(0)
        mask = rng.choice(np.array([0, 3, 4, 5], np.uint8), (33, 33))
        pair = write_pair(tmp_path, np.zeros((33, 33), np.int16), mask)
        (new,), codec = prepare_pairs([pair], tmp_path / "d", codec=MERGED, size=size)
        nearest = ((np.arange(size) + 0.5) * 33 / size).astype(int)
        assert np.array_equal(read_mask(new.mask), MERGED.encode(mask)[np.ix_(nearest, nearest)])
        assert codec == LabelCodec({0: 0, 1: 1, 2: 2}, names=MERGED.names)

    @pytest.mark.parametrize("size", [11, 3])
    def test_shrunk_are_what_covers_most_of_a_pixel_and_not_a_mix(self, tmp_path, size):
        rng = np.random.default_rng(0)
        mask = rng.choice(np.array([0, 3, 4, 5], np.uint8), (33, 33))
        pair = write_pair(tmp_path, np.zeros((33, 33), np.int16), mask)
        (new,), _ = prepare_pairs([pair], tmp_path / "d", codec=MERGED, size=size)
        classes, n = MERGED.encode(mask), 33 // size
        most = np.zeros((size, size), np.uint8)
        for row, column in np.ndindex(size, size):
            block = classes[n * row : n * (row + 1), n * column : n * (column + 1)]
            most[row, column] = np.bincount(block.ravel()).argmax()
        assert np.array_equal(read_mask(new.mask), most)

    @pytest.mark.parametrize("size", [32, 40, 96])
    def test_are_those_that_a_model_is_trained_on(self, tmp_path, size):
        made = lungunet.phantom_slice(2, 0.5, size=96)
        pair = write_pair(tmp_path, made.image, made.mask)
        (new,), codec = prepare_pairs([pair], tmp_path / "d", codec=LUNG_CODEC, size=size)
        fitted = InputContract(size).fit_mask(LUNG_CODEC.encode(made.mask))
        assert np.array_equal(codec.encode(read_mask(new.mask)), fitted)

    def test_merged_values_become_the_declared_one(self, tmp_path):
        mask = np.array([[0, 3], [4, 5]], np.uint8)
        pair = write_pair(tmp_path, np.zeros((2, 2), np.int16), mask)
        (new,), codec = prepare_pairs([pair], tmp_path / "d", codec=MERGED, size=2, raw=True)
        assert read_mask(new.mask).tolist() == [[0, 3], [3, 5]]
        assert codec.classes == {0: 0, 3: 1, 5: 2}

    def test_smeared_values_come_out_clean(self, tmp_path):
        mask = np.array([[0, 20], [200, 251]], np.uint8)
        pair = write_pair(tmp_path, np.zeros((2, 2), np.int16), mask)
        smeared = LabelCodec.parse("0,255", threshold=128)
        (new,), codec = prepare_pairs([pair], tmp_path / "d", codec=smeared, size=2, raw=True)
        assert read_mask(new.mask).tolist() == [[0, 0], [255, 255]]
        assert codec == LUNG_CODEC

    @pytest.mark.parametrize("size", [64, 96, 256])
    def test_stay_on_the_slice(self, tmp_path, size):
        # The slice shows the mask: after resizing, the edges still meet.
        _, mask = slice_and_mask()
        pair = write_pair(tmp_path, (mask * 4.0).astype(np.float32), mask)
        (new,), codec = prepare_pairs([pair], tmp_path / "d", codec=LUNG_CODEC, size=size)
        drawn = read_image(new.image) > 510
        labelled = codec.encode(read_mask(new.mask)) > 0
        assert (drawn & labelled).sum() / (drawn | labelled).sum() > 0.93


class TestRefusals:
    def test_size(self, tmp_path):
        with pytest.raises(ConfigError, match=r"^size 0: must be at least 1 px"):
            prepare_pairs([], tmp_path, codec=LUNG_CODEC, size=0)

    def test_equal_stems_before_one_file_replaces_another(self, tmp_path):
        pairs = []
        for patient in ("p1", "p2"):
            (tmp_path / patient).mkdir()
            pairs.append(write_pair(tmp_path / patient, *slice_and_mask(), name="003"))
        with pytest.raises(DataError, match=r"^names that occur twice:\n  003 \(.*p2.*\)\n"):
            prepare_pairs(pairs, tmp_path / "out", codec=LUNG_CODEC)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("linked", [False, True])
    def test_the_files_that_are_read(self, tmp_path, linked):
        lungunet.write_phantoms(tmp_path / "data", patients=2, slices=1, size=32)
        pairs = lungunet.find_pairs(tmp_path / "data/images", tmp_path / "data/masks")
        folder = tmp_path / "data"
        if linked:
            folder = tmp_path / "link"
            folder.symlink_to(tmp_path / "data", target_is_directory=True)
        before = [pair.image.read_bytes() for pair in pairs]
        for some in (pairs, [Pair("other.tif", pairs[0].mask, pairs[0].name)]):
            with pytest.raises(ConfigError, match="would be written over while it is read"):
                prepare_pairs(some, folder, codec=LUNG_CODEC, size=16)
        assert [pair.image.read_bytes() for pair in pairs] == before

    def test_raw_values_that_were_merged(self, tmp_path):
        codec = LabelCodec.parse("0,3=1,4=1")
        message = r"^labels 0=0,3=1,4=1: merged values cannot be kept\. Leave out raw=True"
        with pytest.raises(ConfigError, match=message):
            prepare_pairs([], tmp_path, codec=codec, raw=True)
        assert prepare_pairs([], tmp_path, codec=codec) == ([], LabelCodec.parse("0,1"))

    def test_raw_values_that_no_png_holds(self, tmp_path):
        image, mask = np.zeros((2, 2), np.int16), np.array([[0, 1], [0, 0]], np.uint8)
        pair = write_pair(tmp_path, image, mask)
        codec = LabelCodec({0: 0, 1: 1, -1: 2})
        with pytest.raises(DataError, match=r"masks are written as 8 or 16 bit \.png, this is int"):
            prepare_pairs([pair], tmp_path / "d", codec=codec, size=2, raw=True)

    def test_bad_files_are_named(self, tmp_path):
        image, mask = slice_and_mask()
        pair = write_pair(tmp_path, image, mask[:, 1:])
        with pytest.raises(GeometryError, match="ID 1: mask is 96x127, image is 96x128"):
            prepare_pairs([pair], tmp_path / "d", codec=LUNG_CODEC)
        pair = write_pair(tmp_path, image, mask // 255 * 254)
        with pytest.raises(LabelError, match=r"ID 1\.png: mask value 254"):
            prepare_pairs([pair], tmp_path / "d", codec=LUNG_CODEC)
        with pytest.raises(DataError, match=r"gone\.tif: no such file"):
            prepare_pairs([Pair(tmp_path / "gone.tif", pair.mask)], tmp_path, codec=LUNG_CODEC)
        assert not (tmp_path / "d").exists()
