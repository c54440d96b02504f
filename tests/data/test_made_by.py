import json
from pathlib import Path

import pytest

from lungunet.data.codec import LabelCodec
from lungunet.data.made_by import FILE, SIDES_CODEC, read_codec
from lungunet.data.review_log import LOG, LogWriter
from lungunet.errors import DataError

LOBES = LabelCodec({0: 0, 10: 1, 11: 2}, names=("background", "upper", "lower"))


@pytest.mark.parametrize(
    ("made_by", "codec"),
    [
        ({"labels": LOBES.to_dict(), "sides": True}, LOBES),
        ({"sides": True}, SIDES_CODEC),
        ({"sides": False}, None),
    ],
)
def test_a_folder_and_a_mask_in_it_say_it(
    tmp_path: Path, made_by: dict[str, object], codec: LabelCodec | None
) -> None:
    (tmp_path / FILE).write_text(json.dumps({"format": 1, "made_by": made_by}) + "\n{}\n")
    assert read_codec(tmp_path) == codec
    assert read_codec(tmp_path / "a.nii.gz") == codec


@pytest.mark.parametrize("codec", [LOBES, SIDES_CODEC])
def test_so_does_a_review_that_mended_copies(tmp_path: Path, codec: LabelCodec) -> None:
    LogWriter(tmp_path / LOG, codec)
    assert read_codec(tmp_path) == codec
    assert read_codec(tmp_path / "a.nii.gz") == codec


def test_what_predicted_masks_say_counts_where_they_were_mended_in_place(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"format": 1, "made_by": {"sides": True}}) + "\n")
    LogWriter(tmp_path / LOG, LOBES)
    assert read_codec(tmp_path) == SIDES_CODEC


@pytest.mark.parametrize("line", ["", '{"format": 1, "made_by": {"sides": true}}'])
def test_a_record_that_just_begins_says_nothing(tmp_path: Path, line: str) -> None:
    (tmp_path / FILE).write_text(line)
    assert read_codec(tmp_path) is None
    assert read_codec(tmp_path / "empty") is None


@pytest.mark.parametrize("line", ["junk", "[]", '{"format": 2, "made_by": {}}', '{"format": 1}'])
def test_what_is_no_record_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / FILE).write_text(line + "\n")
    with pytest.raises(DataError, match=rf"{FILE}: no record that this version reads"):
        read_codec(tmp_path)
