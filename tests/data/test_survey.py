from dataclasses import asdict

import numpy as np
import pytest
import tifffile
from PIL import Image

from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.data.manifest import Pair
from lungunet.data.prepare import survey_pairs
from lungunet.data.split import SplitRecord
from lungunet.errors import DataError


def write_pair(folder, name, mask, *, dtype="int16", shape=None):
    image = np.zeros(shape or mask.shape, dtype)
    tifffile.imwrite(folder / f"{name}.tif", image)
    Image.fromarray(mask).save(folder / f"{name}.png")
    return Pair(folder / f"{name}.tif", folder / f"{name}.png")


def lung(shape, pixels):
    mask = np.zeros(shape, np.uint8)
    mask.flat[:pixels] = 255
    return mask


class TestSurvey:
    def test_counts(self, tmp_path):
        pairs = [
            write_pair(tmp_path, "a", lung((10, 20), 50)),
            write_pair(tmp_path, "b", lung((10, 20), 0)),
            write_pair(tmp_path, "c", lung((20, 10), 150), dtype="float32"),
            write_pair(tmp_path, "d", lung((10, 20), 0)),
            write_pair(tmp_path, "e", lung((10, 20), 1)),
        ]
        survey = survey_pairs(pairs, codec=LUNG_CODEC)
        assert survey.dtypes == {"float32": 1, "int16": 4}
        assert survey.sizes == {"10x20": 4, "20x10": 1}
        assert survey.empty_masks == 2
        assert survey.lung_share == pytest.approx((0.25 + 0.75 + 0.005) / 5)
        recorded = SplitRecord(**asdict(survey)).to_dict()
        assert {name: value for name, value in recorded.items() if value is not None} == {
            "dtypes": {"float32": 1, "int16": 4},
            "sizes": {"10x20": 4, "20x10": 1},
            "empty_masks": 2,
        }

    def test_every_class_above_zero_is_lung(self, tmp_path):
        mask = np.array([[0, 3, 5, 5]], np.uint8)
        pair = write_pair(tmp_path, "a", mask)
        assert survey_pairs([pair], codec=LabelCodec.parse("0,3,5")).lung_share == 0.75

    def test_reports_progress(self, tmp_path):
        seen = []

        def progress(iterable, *, desc, total):
            seen.append((desc, total))
            for item in iterable:
                seen.append(item)
                yield item

        pairs = [write_pair(tmp_path, name, lung((4, 5), 3)) for name in "abc"]
        survey_pairs(pairs, codec=LUNG_CODEC, progress=progress)
        assert seen == [("read", 3), *pairs]

    def test_one_error_lists_every_bad_pair(self, tmp_path):
        good = write_pair(tmp_path, "good", lung((4, 5), 3))
        bad_label = write_pair(tmp_path, "label", lung((4, 5), 3) // 5)
        bad_size = write_pair(tmp_path, "size", lung((4, 5), 3), shape=(4, 6))
        empty_file = write_pair(tmp_path, "empty", lung((4, 5), 3))
        empty_file.image.write_bytes(b"")
        alone = Pair(good.image)
        with pytest.raises(DataError) as caught:
            survey_pairs([bad_label, good, bad_size, empty_file, alone], codec=LUNG_CODEC)
        lines = str(caught.value).splitlines()
        assert lines[0] == "4 of 5 pairs are wrong:"
        assert "label.png: mask value 51 (3 pixels, first at row 0, column 0)" in lines[1]
        assert "size: mask is 4x5, image is 4x6." in lines[2]
        assert "empty.tif: the file is empty." in lines[3]
        assert "good.tif: no mask" in lines[4]

    @pytest.mark.parametrize(("others", "hint"), [(0, False), (1, True)])
    def test_other_labels_help_no_coloured_mask(self, tmp_path, others, hint):
        red = np.zeros((4, 5, 3), np.uint8)
        red[1, 2, 0] = 255
        pair = write_pair(tmp_path, "a", red, shape=(4, 5))
        ones = [write_pair(tmp_path, "b", np.eye(4, 5, dtype=np.uint8))] * others
        with pytest.raises(DataError, match="Convert it to one channel") as caught:
            survey_pairs([pair, *ones], codec=LUNG_CODEC)
        assert ("codec=" in str(caught.value)) == hint

    @pytest.mark.parametrize(
        ("codec", "masks", "says"),
        [
            ("0,1", [[0, 255], [0, 255]], "'0,255')."),
            ("0,255", [[0, 1], [0, 2]], "'0,1,2') for each as a class of its own, codec="),
            ("0,1=1,3=1", [[0, 1, 2], [0, 2]], "'0=0,1=1,3=1,*=0')."),
            ("0,255", [[0, 255], [0, 7]], "'0,7=1,*=0') with =1 for each of 7, 255 that is lung."),
            ("0,255", [[0, 3, 252, 254, 255], [0, 255]], "'>=128')."),
        ],
    )
    def test_a_coding_is_proposed_from_all_masks(self, tmp_path, codec, masks, says):
        pairs = [
            write_pair(tmp_path, f"m{i}", np.array([values] * 3, np.uint8))
            for i, values in enumerate(masks)
        ]
        with pytest.raises(DataError) as caught:
            survey_pairs(pairs, codec=LabelCodec.parse(codec))
        last = str(caught.value).splitlines()[-1]
        assert last.startswith("If all masks are coded so, say it: codec=LabelCodec.parse(" + says)

    def test_long_lists_are_capped(self, tmp_path):
        pairs = [Pair(tmp_path / f"{i}.tif", tmp_path / "no.png") for i in range(20)]
        with pytest.raises(DataError, match=r"^20 of 20 pairs are wrong:") as caught:
            survey_pairs(pairs, codec=LUNG_CODEC)
        assert str(caught.value).count("no such file") == 8
        assert str(caught.value).endswith("and 12 more")
