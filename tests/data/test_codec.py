import pickle
import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import one_to_one_codecs, views

from lungunet.data.codec import (
    IGNORE,
    LUNG_CODEC,
    LabelCodec,
    is_lung,
    looks_inverted,
    tell_inverted,
)
from lungunet.errors import ConfigError, DataError, LabelError, counted

MERGING = {0: 0, 3: 1, 4: 1, 5: 2}
MERGED = LabelCodec(MERGING, {0: 0, 1: 3, 2: 5})


def by_pixel_loop(raw):
    return [1 if pixel == 255 else 0 for pixel in raw.ravel().tolist()]


def by_pixel_loop_back(classes):
    return [255 if pixel == 1 else 0 for pixel in classes.ravel().tolist()]


class TestEncode:
    @given(views(st.sampled_from([0, 255])))
    def test_is_the_pixel_loop(self, raw):
        classes = LUNG_CODEC.encode(raw)
        assert classes.dtype == np.uint8
        assert classes.shape == raw.shape
        assert classes.ravel().tolist() == by_pixel_loop(raw)

    @given(views(st.sampled_from([0, 1]), dtypes=("uint8", "int64", "bool", ">i2")))
    def test_and_back(self, classes):
        raw = LUNG_CODEC.decode(classes)
        assert raw.dtype == np.uint8
        assert raw.shape == classes.shape
        assert raw.ravel().tolist() == by_pixel_loop_back(classes)

    def test_merges(self):
        classes = MERGED.encode(np.array([[0, 3, 4], [5, 4, 0]], np.int16))
        assert classes.tolist() == [[0, 1, 1], [2, 1, 0]]

    def test_a_bool_mask_holds_0_and_1(self):
        raw = np.array([[False, True]])
        assert LabelCodec({0: 0, 1: 1}).encode(raw).tolist() == [[0, 1]]
        with pytest.raises(LabelError, match="mask value 1 "):
            LUNG_CODEC.encode(raw)

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
    def test_leaves_the_mask_as_it_was(self, dtype):
        raw = np.array([[0, 255], [255, 0]], dtype)
        before = raw.copy()
        LUNG_CODEC.encode(raw)
        assert np.array_equal(raw, before)

    @pytest.mark.parametrize("raw", [np.zeros((0, 5), np.uint8), np.zeros((3, 0), np.int32)])
    def test_nothing_stays_nothing(self, raw):
        assert LUNG_CODEC.encode(raw).shape == raw.shape
        assert LUNG_CODEC.encode(raw).dtype == np.uint8
        assert LUNG_CODEC.decode(raw).shape == raw.shape


class TestStrictness:
    def test_the_message(self):
        raw = np.zeros((512, 512), np.uint8)
        raw[40, 212:243] = 7
        with pytest.raises(LabelError) as caught:
            LUNG_CODEC.encode(raw, "ID_0012.tif")
        assert str(caught.value) == (
            "ID_0012.tif: mask value 7 (31 pixels, first at row 40, column 212) is not one of "
            "0 (background), 255 (lung). Pass a codec that maps it "
            "(codec=LabelCodec.parse('0,7')), or fix the file."
        )

    @pytest.mark.parametrize("value", [1, 254, 256, -1, 511, 65535 - 256, 2**31 - 1, -(2**31)])
    def test_one_pixel_is_enough(self, value):
        raw = np.full((5, 48, 64), 255, np.int64)
        raw[3, 47, 63] = value
        with pytest.raises(LabelError) as caught:
            LUNG_CODEC.encode(raw)
        assert f"mask value {value} (1 pixel, first at index (3, 47, 63)) " in str(caught.value)

    @given(views(st.integers(0, 7), dtypes=("uint8", "int16", "int64")))
    def test_value_count_and_first_position(self, raw):
        wrong = [
            (at, value) for at, value in enumerate(raw.ravel().tolist()) if value not in MERGING
        ]
        if not wrong:
            assert MERGED.encode(raw).ravel().tolist() == [MERGING[v] for v in raw.ravel().tolist()]
            return
        at, value = wrong[0]
        count = [v for _, v in wrong].count(value)
        where = tuple(int(i) for i in np.unravel_index(at, raw.shape))
        named = f"row {where[0]}, column {where[1]}" if raw.ndim == 2 else f"index {where}"
        with pytest.raises(LabelError) as caught:
            MERGED.encode(raw)
        pixels = counted(count, "pixel")
        assert f"mask value {value} ({pixels}, first at {named}" in str(caught.value)
        others = len(wrong) - count
        told = f"; other unknown values in {counted(others, 'pixel')}"
        assert (told in str(caught.value)) == (others > 0)

    def test_many_known_values_are_capped(self):
        codec = LabelCodec({index: index for index in range(40)})
        with pytest.raises(LabelError, match=r"7 \(class 7\), and 32 more\. Pass"):
            codec.encode(np.array([[99]]))

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
    def test_labels_are_integers(self, dtype):
        with pytest.raises(LabelError, match=rf"ID_1: dtype {dtype}, labels are integers"):
            LUNG_CODEC.encode(np.zeros((2, 2), dtype), "ID_1")
        with pytest.raises(LabelError, match=rf"prediction: dtype {dtype}, labels are integers"):
            LUNG_CODEC.decode(np.zeros((2, 2), dtype))


class TestProposals:
    """What a message proposes reads the mask at hand, and lung as lung."""

    LUNG = np.kron([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.ones((20, 20)))

    @pytest.mark.parametrize(
        ("codec", "values", "says"),
        [
            ("0,255", [0, 1], "'0,1'"),
            ("0,255", [1, 2], "'1,2'"),
            ("0,255", [0, 1, 2], "'0,1=1,2=1'"),
            ("0,10=1,12=1", [0, 1], "'0,1'"),
            ("0,1,2", [0, 255], "'0,255'"),
            ("0,1,2", [0, 1, 2, 7], "'0,1,2,*=0'"),
            ("10,12", [0], "'0,1'"),
        ],
    )
    def test_by_values(self, codec, values, says):
        raw = np.array([values], np.uint8)
        codec = LabelCodec.parse(codec)
        with pytest.raises(LabelError) as caught:
            codec.encode(raw, argument="mask_codec")
        proposed = f"mask_codec=LabelCodec.parse({says})"
        assert f"Pass a codec that maps it ({proposed}), or" in str(caught.value)
        read = LabelCodec.parse(says.strip("'")).encode(raw)
        assert is_lung(read).any() == (len(values) > 1)

    @pytest.mark.parametrize(("ksize", "scale"), [(5, 255), (9, 255), (5, 100)])
    def test_smeared_masks_get_a_threshold(self, ksize, scale):
        raw = cv2.GaussianBlur(self.LUNG, (ksize, ksize), 0) * scale
        raw = np.rint(raw).astype(np.uint8)
        with pytest.raises(LabelError) as caught:
            LUNG_CODEC.encode(raw)
        proposed = re.search(r"\(codec=LabelCodec\.parse\('(>=\d+)'\)\)", str(caught.value))[1]
        assert (proposed == ">=128") == (scale == 255)
        read = LabelCodec.parse(proposed).encode(raw).sum()
        assert read == pytest.approx(self.LUNG.sum(), rel=0.1)

    def test_many_structures_are_no_smear(self):
        raw = np.kron(np.arange(100).reshape(10, 10), np.ones((6, 6))).astype(np.uint8)
        with pytest.raises(LabelError) as caught:
            LUNG_CODEC.encode(raw)
        said = str(caught.value)
        assert "parse('0,1=1,2=1,*=0') with =1 for each of 1, 2, 3, 4, 5, 6, 7, 8, and 91" in said

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ([0, 10, 12, 51], "'0,10=1,12=1,*=0') with =1 for each of 10, 12, 51 that is lung)"),
            ([0, 10, 51], "'0,10=1,*=0') with =1 for each of 10, 51 that is lung)"),
        ],
    )
    def test_structures_are_not_all_called_lung(self, values, says):
        with pytest.raises(LabelError) as caught:
            LUNG_CODEC.encode(np.array([values], np.uint8))
        assert f"(codec=LabelCodec.parse({says}, or" in str(caught.value)


class TestCt:
    """A slice or a scan in the place of a mask is called what it is."""

    HU = np.random.default_rng(0).normal(-600, 60, (5, 48, 64)).astype(np.int16)

    @pytest.mark.parametrize("text", ["0,255", "0,1", "0,3=1,4=1", "0,1=1,*=0"])
    def test_is_told(self, text):
        for ct in (self.HU, self.HU[0], (self.HU[0] // 6 + 225).astype(np.uint8)):
            codec = LabelCodec.parse(text)
            if ct.dtype == np.uint8 and codec.other is not None:
                continue  # declared so: any value is a label
            with pytest.raises(
                DataError, match=r"^a: values from -?\d+ to -?\d+, as CT has"
            ) as told:
                codec.encode(ct, "a")
            assert not isinstance(told.value, LabelError)

    def test_a_threshold_takes_no_hu(self):
        with pytest.raises(DataError, match="as CT has and no mask"):
            LabelCodec.parse("0,255", threshold=128).encode(self.HU, "a")

    def test_smeared_masks_and_many_organs_are_none(self):
        lung = np.zeros((64, 64), np.uint8)
        lung[20:40, 10:50] = 255
        smeared = cv2.GaussianBlur(lung, (5, 5), 0)
        organs = np.kron(np.arange(36).reshape(6, 6), np.ones((11, 11))).astype(np.int16) * 9
        for mask in (smeared, organs, organs * -1):
            with pytest.raises(LabelError, match="mask value"):
                LUNG_CODEC.encode(mask, "a")
        wide = smeared.astype(np.uint16) * 257
        assert LabelCodec.parse("0,255", threshold=2**15).encode(wide, "a").sum() == 796


class TestDecode:
    @given(one_to_one_codecs(), st.data())
    def test_a_one_to_one_map_loses_nothing(self, codec, data):
        known = np.array(list(codec.classes))
        dtype = np.min_scalar_type(known.min()) if known.min() < 0 else known.dtype
        dtype = np.promote_types(np.promote_types(dtype, np.min_scalar_type(known.max())), np.int16)
        raw = data.draw(views(st.sampled_from(known.tolist()), dtypes=(dtype,)))
        classes = codec.encode(raw)
        assert classes.ravel().tolist() == [codec.classes[v] for v in raw.ravel().tolist()]
        back = codec.decode(classes)
        assert back.dtype in (np.uint8, np.uint16, np.int32)
        assert np.array_equal(back, raw)

    @given(views(st.sampled_from(list(MERGING))))
    def test_merged_values_come_back_as_the_declared_one(self, raw):
        expected = [{0: 0, 3: 3, 4: 3, 5: 5}[value] for value in raw.ravel().tolist()]
        assert MERGED.decode(MERGED.encode(raw)).ravel().tolist() == expected

    def test_undeclared(self):
        codec = LabelCodec(MERGING)
        assert not codec.can_decode
        with pytest.raises(ConfigError) as caught:
            codec.decode(np.array([[0, 1]]))
        assert str(caught.value).endswith("Declare one value per class: '0=0,3=1,4=1,5=2:0,3,5'.")
        assert LabelCodec.parse("0=0,3=1,4=1,5=2:0,3,5") == MERGED

    @pytest.mark.parametrize(
        ("values", "dtype"),
        [((0, 255), "uint8"), ((0, 256), "uint16"), ((0, 65536), "int32"), ((-1, 1), "int32")],
    )
    def test_takes_the_narrowest_dtype(self, values, dtype):
        codec = LabelCodec({raw: index for index, raw in enumerate(values)})
        assert codec.decode(np.array([1, 0])).dtype == dtype
        assert codec.decode(np.array([1, 0])).tolist() == [values[1], values[0]]

    @pytest.mark.parametrize("index", [-1, 2, 255, 256])
    def test_an_index_that_is_no_class(self, index):
        classes = np.array([[0, 1], [index, index]], np.int64)
        with pytest.raises(LabelError) as caught:
            LUNG_CODEC.decode(classes, "ID_7")
        assert str(caught.value) == (
            f"ID_7: class index {index} (2 pixels) is not one of 0 to 1. "
            "Use the codec that the classes were made with."
        )

    def test_predictions_of_lung_are_0_and_255(self):
        assert LabelCodec({1: 0, 2: 1}).for_prediction is LUNG_CODEC
        assert MERGED.for_prediction is MERGED


class TestThreshold:
    @given(views(st.integers(0, 255)), st.integers(-1, 300))
    def test_from_there_on_is_lung(self, raw, threshold):
        codec = LabelCodec({0: 0, 255: 1}, threshold=threshold)
        expected = [int(value >= threshold) for value in raw.ravel().tolist()]
        classes = codec.encode(raw)
        assert classes.dtype == np.uint8
        assert classes.ravel().tolist() == expected

    def test_a_bool_mask_is_classes_already(self):
        codec = LabelCodec.parse("0,255", threshold=128)
        assert codec.encode(np.array([[True, False]])).tolist() == [[1, 0]]

    @pytest.mark.parametrize("text", [">=128", " >= 128 "])
    def test_is_a_word_of_the_notation(self, text):
        codec = LabelCodec.parse(text, names=("a", "b"))
        assert codec == LabelCodec.parse("0,255", threshold=128, names=("a", "b"))
        assert str(codec) == ">=128"

    @pytest.mark.parametrize("text", [">=", ">=x", ">=1.5"])
    def test_a_word_without_a_number(self, text):
        with pytest.raises(ConfigError, match=rf"^labels '{text}': no whole number behind >="):
            LabelCodec.parse(text)

    def test_is_said_once(self):
        with pytest.raises(ConfigError, match="labels '>=128' and threshold 9: give one"):
            LabelCodec.parse(">=128", threshold=9)

    def test_writes_clean_values(self):
        codec = LabelCodec.parse("0,255", threshold=128)
        raw = np.array([[0, 127, 128, 251]], np.uint8)
        assert codec.decode(codec.encode(raw)).tolist() == [[0, 0, 255, 255]]


class TestNotation:
    @pytest.mark.parametrize(
        ("text", "classes"),
        [
            ("0,255", {0: 0, 255: 1}),
            (" 0, 1 ", {0: 0, 1: 1}),
            ("0,3=1,4=1", {0: 0, 3: 1, 4: 1}),
            ("0,3,4=1,5", {0: 0, 3: 1, 4: 1, 5: 2}),
            ("255=0,0=1", {255: 0, 0: 1}),
            ("-1000,400", {-1000: 0, 400: 1}),
        ],
    )
    def test_parse(self, text, classes):
        assert LabelCodec.parse(text).classes == classes

    def test_parse_takes_the_threshold(self):
        assert LabelCodec.parse("0,255", threshold=9) == LabelCodec({0: 0, 255: 1}, threshold=9)

    @pytest.mark.parametrize("text", ["0,255", "0=1,255=0:255,0", "0=0,3=1,4=1", "0=0,3=1,4=1:0,4"])
    def test_str_is_the_notation(self, text):
        assert str(LabelCodec.parse(text)) == text

    @given(one_to_one_codecs())
    def test_round_trips(self, codec):
        assert LabelCodec.parse(str(codec)) == codec
        assert LabelCodec.from_dict(codec.to_dict()) == codec

    @pytest.mark.parametrize(
        "codec",
        [
            MERGED,
            LabelCodec(MERGING),
            LabelCodec({0: 0, 255: 1}, names=("other", "lung"), threshold=200),
        ],
    )
    def test_to_dict_and_pickle_keep_everything(self, codec):
        codec.encode(np.zeros((2, 2), np.uint8))  # fills the look-up table
        assert LabelCodec.from_dict(codec.to_dict()) == codec
        again = pickle.loads(pickle.dumps(codec))
        assert again == codec
        assert again.encode(np.zeros((2, 2), np.uint8)).tolist() == [[0, 0], [0, 0]]

    def test_names(self):
        assert LUNG_CODEC.names == ("background", "lung")
        assert MERGED.names == ("background", "class 1", "class 2")
        assert MERGED.n_classes == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"classes": {0: 0, 9: 2}}, r"class indices are 0, 2\. Use every index from 0"),
            ({"classes": {0: 1, 9: 2}}, r"class indices are 1, 2\. Use every index from 0"),
            ({"classes": {0: 0}}, r"class indices are 0\. .* 2 to 255 of them"),
            ({"classes": {}}, r"class indices are "),
            (
                {"classes": {i: i + (i > 254) for i in range(256)}},
                r"class indices are 0, 1, .* and 248 more\. .* 2 to 255",
            ),
            (
                {"classes": MERGING, "raw_values": {0: 0, 1: 3}},
                r"2 raw values are declared for 3 classes\. Declare one value per class",
            ),
            (
                {"classes": MERGING, "raw_values": {0: 0, 1: 5, 2: 3}},
                r"class 1 is to be written as 5, but the map reads 5 as class 2\. Declare",
            ),
            (
                {"classes": {0: 0, 255: 1}, "raw_values": {0: 0, 1: 7}},
                r"class 1 is to be written as 7, but the map reads 7 as class None",
            ),
            ({"classes": {0: 0, 1: 1}, "names": ("a",)}, r"1 names for 2 classes\. Name each"),
            ({"classes": MERGING, "threshold": 3}, r"a threshold parts two classes, the map has 3"),
            ({"classes": {0: 0, 2**31: 1}}, r"raw value 2147483648 .* 32 bits"),
            ({"classes": {0: 0, -(2**70): 1}}, r"raw value -1180591620717411303424 .* 32 bits"),
        ],
    )
    def test_maps(self, kwargs, message):
        with pytest.raises(ConfigError, match=f"^label codec: {message}"):
            LabelCodec(**kwargs)

    @pytest.mark.parametrize("text", ["", "0,", "lung", "0,255,x", "0=a,1", "0,1:0,x", "0.5,1"])
    def test_text_that_is_no_list(self, text):
        with pytest.raises(ConfigError, match=rf"^labels '{text}': not a list of whole numbers\."):
            LabelCodec.parse(text)

    def test_text_with_a_value_twice(self):
        with pytest.raises(ConfigError, match=r"labels '0,255,0': 0 appears twice\. Name it once"):
            LabelCodec.parse("0,255,0")

    def test_text_with_one_class(self):
        with pytest.raises(ConfigError, match="class indices are 0"):
            LabelCodec.parse("255")

    def test_text_with_too_few_values_to_write(self):
        with pytest.raises(ConfigError, match="1 raw values are declared for 2 classes"):
            LabelCodec.parse("0,3=1,4=1:0")

    @pytest.mark.parametrize("key", ["classes", "raw_values", "names", "threshold"])
    def test_a_stored_codec_that_lacks_a_part(self, key):
        stored = MERGED.to_dict()
        del stored[key]
        with pytest.raises(ConfigError, match=r"label codec: stored as .* incomplete"):
            LabelCodec.from_dict(stored)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("classes", {"lung": 1}), ("classes", [0, 1]), ("names", None), ("threshold", "many")],
    )
    def test_a_stored_codec_of_the_wrong_kind(self, key, value):
        with pytest.raises(ConfigError, match=r"label codec: stored as .* incomplete"):
            LabelCodec.from_dict({**MERGED.to_dict(), key: value})

    def test_a_stored_codec_that_contradicts_itself_says_how(self):
        with pytest.raises(ConfigError, match="1 names for 3 classes"):
            LabelCodec.from_dict({**MERGED.to_dict(), "names": ["a"]})


class TestOtherValues:
    """Masks of 117 structures, of which five are lung: the rest is background."""

    LOBES = LabelCodec.parse("0,10=1,11=1,12=1,13=1,14=1,*=0")

    @given(views(st.integers(0, 255), dtypes=("uint8", "int16", "int64")))
    def test_is_the_pixel_loop(self, raw):
        expected = [1 if 10 <= value <= 14 else 0 for value in raw.ravel().tolist()]
        assert self.LOBES.encode(raw).ravel().tolist() == expected

    def test_far_values_too(self):
        raw = np.array([-7, 10, 300, 70_000, 2**31 - 1, 14])
        assert self.LOBES.encode(raw).tolist() == [0, 1, 0, 0, 0, 1]
        assert self.LOBES.encode(raw).dtype == np.uint8

    def test_they_may_all_be_lung(self):
        codec = LabelCodec.parse("0,*=1")
        assert codec.encode(np.array([[0, 1, 5, 255]])).tolist() == [[0, 1, 1, 1]]
        assert (codec.n_classes, codec.names) == (2, ("background", "lung"))
        assert codec.for_prediction == LUNG_CODEC

    @pytest.mark.parametrize("text", ["0,10=1,11=1,*=0", "10=1,*=0", "0=0,*=1", "0,1,2,*=0"])
    def test_is_written_and_read_back(self, text):
        codec = LabelCodec.parse(text)
        assert codec.other in (0, 1)
        assert LabelCodec.parse(str(codec)) == codec
        assert LabelCodec.from_dict(codec.to_dict()) == codec

    def test_is_left_out_where_there_is_none(self):
        assert "other" not in LUNG_CODEC.to_dict()

    @pytest.mark.parametrize(
        ("text", "says"),
        [("0,1,*", "not a list"), ("*=0,1=1,*=1", "not a list"), ("0,1,*=5", "are 0, 1, 5. Use")],
    )
    def test_refuses_what_says_nothing(self, text, says):
        with pytest.raises(ConfigError, match=says):
            LabelCodec.parse(text)

    def test_is_what_a_message_proposes(self):
        raw = np.array([[0, 10, 90, 117]])
        with pytest.raises(LabelError, match=r"parse\('0=0,10=1,11=1,\*=0'\)\), or fix the file"):
            LabelCodec.parse("0,10=1,11=1").encode(raw)

    def test_knows_no_threshold(self):
        with pytest.raises(ConfigError, match=r"and a class for other values\. Leave one out"):
            LabelCodec.parse("0,1,*=0", threshold=3)


class TestIgnored:
    """Pixels that count nowhere: neither class nor mistake."""

    CODEC = LabelCodec.parse("0,1,255=ignore")

    @given(views(st.sampled_from([0, 1, 255]), dtypes=("uint8", "int16", "int64")))
    def test_is_the_pixel_loop_and_back(self, raw):
        classes = self.CODEC.encode(raw)
        assert classes.dtype == np.uint8
        assert classes.ravel().tolist() == [
            {0: 0, 1: 1, 255: IGNORE}[value] for value in raw.ravel().tolist()
        ]
        assert np.array_equal(self.CODEC.decode(classes), raw)
        assert np.array_equal(is_lung(classes), raw == 1)

    @pytest.mark.parametrize("dtype", ["uint8", "int32"])
    def test_other_values_are_refused_still(self, dtype):
        raw = np.array([[0, 255, 7], [1, 255, 255]], dtype)
        with pytest.raises(LabelError, match=r"value 7 \(1 pixel, first at row 0, column 2\)"):
            self.CODEC.encode(raw)
        with pytest.raises(LabelError, match=r"1 \(lung\), 255 \(ignored\)"):
            self.CODEC.encode(raw)

    def test_is_no_class(self):
        assert (self.CODEC.n_classes, self.CODEC.names) == (2, ("background", "lung"))
        assert self.CODEC.ignores
        assert not LUNG_CODEC.ignores
        assert not LabelCodec.parse("0,1,*=0").ignores

    def test_all_other_values_may_be_ignored(self):
        codec = LabelCodec.parse("0,1,*=ignore")
        assert codec.encode(np.array([[0, 1, 9, 255, 300]])).tolist() == [[0, 1, *[IGNORE] * 3]]
        assert codec.decode(np.array([[0, 1, IGNORE]])).tolist() == [[0, 1, 255]]
        assert codec.ignores

    @pytest.mark.parametrize(
        "text",
        [
            "0,1,255=ignore",
            "0,128=ignore,255",
            "0,1,2,9=ignore,255=ignore",
            "0,1,*=ignore",
            "0=0,3=1,4=1,7=ignore:0,4",
            "-5=ignore,0,1,70000=ignore",
        ],
    )
    def test_is_written_and_read_back(self, text):
        codec = LabelCodec.parse(text)
        assert str(codec) == text
        assert LabelCodec.parse(str(codec)) == codec
        assert LabelCodec.from_dict(codec.to_dict()) == codec
        assert pickle.loads(pickle.dumps(codec)) == codec

    def test_a_prediction_ignores_nothing(self):
        assert self.CODEC.for_prediction is LUNG_CODEC
        sides = LabelCodec.parse("0,1,2,255=ignore", names=("rest", "left", "right"))
        assert sides.for_prediction == LabelCodec.parse("0,1,2", names=sides.names)
        assert not LabelCodec.parse("0,1,2,*=ignore").for_prediction.ignores
        with pytest.raises(LabelError, match="class index 255"):
            sides.for_prediction.decode(np.array([[0, IGNORE]]))

    @pytest.mark.parametrize(
        ("text", "raw"),
        [
            ("0,1,255=ignore", [0, 255, 128]),
            ("0,1,*=ignore", [0, 255, 128]),
            ("0,1,2,9=ignore", [0, 1, 9]),
            ("0,1,2,*=ignore", [0, 1, 255]),
            ("0,1", [0, 255]),
        ],
    )
    def test_masks_written_anew_keep_it(self, text, raw):
        codec = LabelCodec.parse(text)
        classes = np.array([[0, 1, IGNORE][: len(raw)]])
        assert codec.for_truth.decode(classes).tolist() == [raw]
        assert codec.for_truth.encode(np.array([raw])).tolist() == classes.tolist()

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("0,255=ignore", "class indices are 0. Use every"),
            ("0,1,255=255", "255 is no class. Write ignore"),
            ("0,1,255=ignored", "not a list of whole numbers"),
        ],
    )
    def test_refusals(self, text, says):
        with pytest.raises(ConfigError, match=says):
            LabelCodec.parse(text)

    def test_knows_no_threshold(self):
        with pytest.raises(ConfigError, match="and values to ignore"):
            LabelCodec.parse("0,255,7=ignore", threshold=128)

    def test_names_are_kept(self):
        codec = LabelCodec.parse("0,1,255=ignore", names=("rest", "lungs"))
        assert codec.for_prediction.names == codec.for_truth.names == ("rest", "lungs")
        assert codec.for_prediction.classes == LUNG_CODEC.classes


def test_equal_codecs_have_one_hash():
    codecs = {
        LabelCodec({0: 0, 255: 1}),
        LUNG_CODEC,
        MERGED,
        LabelCodec.parse("0,255", threshold=9),
    }
    assert len(codecs) == 3


class TestInverted:
    def test_lung_where_background_lies(self) -> None:
        classes = np.ones((6, 8), np.uint8)
        classes[2:4, 2:6] = 0
        assert looks_inverted(classes)
        assert not looks_inverted(1 - classes)

    def test_lung_to_the_margin_of_a_picture_cut_to_it_is_none(self) -> None:
        classes = np.ones((6, 8), np.uint8)
        classes[:, 4] = classes[:, 0] = classes[0] = classes[-1] = 0
        assert not looks_inverted(classes)

    @pytest.mark.parametrize(
        ("labels", "threshold", "fix"),
        [
            ("0,255", None, "pass codec=LabelCodec.parse('255,0')."),
            ("0,1", None, "pass codec=LabelCodec.parse('1,0')."),
            ("0,255", 128, "turn the masks around."),
            ("0,1,2", None, "turn the masks around."),
        ],
    )
    def test_says_how_to_read_them(self, labels: str, threshold: int | None, fix: str) -> None:
        codec = LabelCodec.parse(labels, threshold=threshold)
        assert tell_inverted(5, 10, codec) == ""
        assert tell_inverted(6, 10, codec).startswith("6 of 10 masks with lung")
        assert tell_inverted(6, 10, codec).endswith(fix)
