"""review.jsonl: what counts of it, and what is refused."""

import json
from pathlib import Path

import pytest

import lungunet
from lungunet.data.review_log import LogWriter, first_version
from lungunet.errors import ConfigError, DataError


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path / "review.jsonl", lungunet.LUNG_CODEC)


def test_the_last_decision_counts(log: LogWriter) -> None:
    for name, decision in (
        ("b", "drop"),
        ("a", "drop"),
        ("c", "drop"),
        ("c", None),
        ("b", "right"),
    ):
        log.append({"name": name, "decision": decision, "note": "", "who": "anna"})
    read = lungunet.read_review(log.path)
    assert read.dropped == ("a",)
    assert read.counts == {"right": 1, "mended": 0, "drop": 1, "unsure": 0}
    assert read.cases["c"].decision is None
    assert lungunet.read_review(log.path.parent).dropped == ("a",)  # the folder will do


def test_changes_are_counted_from_the_first_version_to_the_last(log: LogWriter) -> None:
    for before, after in (("h1", "h2"), ("h2", "h3")):
        record = {"name": "a", "did": "brush", "pixels": 3, "before": before, "after": after}
        log.append({**record, "mask": "a.png"})
    case = lungunet.read_review(log.path).cases["a"]
    assert (case.first, case.last, case.changes) == ("h1", "h3", 2)
    assert case.mask == log.path.parent / "a.png"


def test_a_line_that_was_cut_off_is_passed_over_and_goes_with_the_next_review(
    log: LogWriter,
) -> None:
    log.append({"name": "a", "decision": "drop", "note": "", "who": ""})
    with log.path.open("a") as file:
        file.write('{"name": "b", "deci')
    assert lungunet.read_review(log.path).dropped == ("a",)
    LogWriter(log.path, lungunet.LUNG_CODEC).append(
        {"name": "c", "decision": "drop", "note": "", "who": ""}
    )
    assert lungunet.read_review(log.path).dropped == ("a", "c")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: no record of a review"),
        ('{"name": "a"}', "line 2: no record"),
        ('{"name": "a", "decision": "maybe"}', "line 2: no record"),
    ],
)
def test_what_is_no_log_is_named_by_line(log: LogWriter, line: str, text: str) -> None:
    with log.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=text):
        lungunet.read_review(log.path)
    with pytest.raises(DataError, match=text):  # nothing is added to it either
        LogWriter(log.path, lungunet.LUNG_CODEC)


def test_other_files_newer_formats_and_other_codecs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    with pytest.raises(DataError, match="no such log"):
        lungunet.read_review(path)
    path.write_text("name,decision\n")
    with pytest.raises(DataError, match="not JSON"):
        lungunet.read_review(path)
    path.write_text(json.dumps({"format": 2}) + "\n")
    with pytest.raises(DataError, match="newer than this lungunet reads"):
        lungunet.read_review(path)
    path.unlink()
    LogWriter(path, lungunet.LUNG_CODEC)
    other = lungunet.LabelCodec.parse("0,1")
    log = LogWriter(path, other)  # nothing was decided under the first
    assert lungunet.read_review(path).codec == other
    log.append({"name": "a", "decision": "drop", "note": "", "who": ""})
    with pytest.raises(ConfigError, match="masks coded 0,1, these are 0,255"):
        LogWriter(path, lungunet.LUNG_CODEC)


def test_first_versions_are_hidden_from_pairing() -> None:
    assert first_version(Path("m/a.b.png")) == Path("m/.review/a.b.orig.png")
    assert first_version(Path("m/ct.1.nii.gz")) == Path("m/.review/ct.1.orig.nii.gz")
