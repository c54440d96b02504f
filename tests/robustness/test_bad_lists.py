"""Lists, split.json, groups and label codings that are wrong, or only look so."""

import json
from pathlib import Path

import pytest
from bad_rows import Row

import lungunet

FIRST = "../images/patient-000_slice-00.tif\t../masks/patient-000_slice-00.png"
NOT_TWO = "Write image, one tab, mask; then a tab and a name if it has one."
WHERE = (
    "Paths are taken from W/data, then from the current folder. Mend the paths, put the files "
    "there, or run 'lungunet split' again."
)
SCORE = "evaluate threshold W/data --split train --no-baselines --json"
TRAIN = "train W/data --out W/run --size 32 --epochs 1 --batch-size 2 --workers 0"


def rewritten(name: str, change):
    """Spoil the bytes of a file in data/."""

    def spoil(world: Path) -> None:
        path = world / "data" / name
        path.write_bytes(change(path.read_bytes()))

    return spoil


LINES = {
    "one column": (
        lambda b: b.replace(b"\t../masks", b"", 1),
        f"W/data/train.txt, line 1: 1 column. {NOT_TWO}",
    ),
    "four columns": (
        lambda b: b.replace(b"\n", b"\tlung\t1\n", 1),
        f"W/data/train.txt, line 1: 4 columns. {NOT_TWO}",
    ),
    "one name for two": (
        lambda b: b.replace(b"\n", b"\tlung\n", 2),
        "names that occur twice:\n  lung (W/images/patient-000_slice-00.tif, "
        "W/images/patient-000_slice-01.tif)\nRename them, so that each has its own.",
    ),
    "a tab in a name": (
        lambda b: b.replace(b"_slice-00.tif", b"\tslice-00.tif", 1),
        "W/data/train.txt: 2 files missing:\n  line 1: ../images/patient-000\n"
        f"  line 1: slice-00.tif\n{WHERE}",
    ),
    "blanks for the tab": (
        lambda b: b.replace(b"\t", b"    "),
        f"W/data/train.txt, line 1: 1 column. {NOT_TWO}",
    ),
    "not UTF-8": (
        lambda b: b.replace(b"000_slice-01", b"000_slice-\xfc1"),
        "W/data/train.txt: byte 97 is not UTF-8. Save the list as UTF-8 text.",
    ),
    "UTF-16": (
        lambda b: b.decode().encode("utf-16"),
        "W/data/train.txt: byte 0 is not UTF-8. Save the list as UTF-8 text.",
    ),
    "a header line": (
        lambda b: b"image\tmask\n" + b,
        f"W/data/train.txt: 2 files missing:\n  line 1: image\n  line 1: mask\n{WHERE}",
    ),
    "a line twice": (
        lambda b: b + b.splitlines(keepends=True)[0],
        "W/data/train.txt, line 7: W/images/patient-000_slice-00.tif stands in line 1 "
        "already. Remove one of the lines.",
    ),
    "a line twice, spelt otherwise": (
        lambda b: b + b.splitlines(keepends=True)[0].replace(b"/", b"\\"),
        "W/data/train.txt, line 7: W/images/patient-000_slice-00.tif stands in line 1 "
        "already. Remove one of the lines.",
    ),
    "empty": (
        lambda _: b"",
        "no pairs to evaluate on. Choose another list.",
    ),
    "blank": (
        lambda _: b"\xef\xbb\xbf\r\n \n\t\n",
        "no pairs to evaluate on. Choose another list.",
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_wrong_list_names_its_line(check, kind: str) -> None:
    change, message = LINES[kind]
    check(Row(SCORE, f"lungunet: {message}\n", rewritten("train.txt", change)))


UNUSUAL = {
    "CRLF": lambda b: b.replace(b"\n", b"\r\n"),
    "CR": lambda b: b.replace(b"\n", b"\r"),
    "a BOM": lambda b: b"\xef\xbb\xbf" + b,
    "Windows paths": lambda b: b.replace(b"/", b"\\"),
    "no final newline": lambda b: b.rstrip(),
    "blank lines": lambda b: b.replace(b"\n", b"\n\n \n"),
    "blanks around": lambda b: b.replace(b"\t", b" \t ").replace(b"\n", b" \n"),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_list_is_read(run_cli, world: Path, kind: str) -> None:
    expected = run_cli(*SCORE.replace("W/", f"{world}/").split())
    rewritten("train.txt", UNUSUAL[kind])(world)
    done = run_cli(*SCORE.replace("W/", f"{world}/").split())
    assert (done.code, done.err) == (0, "")
    assert done.out == expected.out


def test_a_list_of_ten_thousand_lines(world: Path) -> None:
    slices = world / "images" / "patient-000_slice-00.tif"
    for number in range(10_000):
        (world / f"{number}.tif").hardlink_to(slices)
    lines = [f"{number}.tif\tmasks/patient-000_slice-00.png\n" for number in range(10_000)]
    (world / "all.txt").write_text("".join(lines))
    pairs = lungunet.read_manifest(world / "all.txt")
    assert [pair.name for pair in pairs] == [str(number) for number in range(10_000)]
    (world / "all.txt").write_text("".join([*lines, lines[4711]]))
    with pytest.raises(lungunet.DataError, match=r"line 10001: .*/4711\.tif stands in line 4712"):
        lungunet.read_manifest(world / "all.txt")


EMPTY_TRAIN = "no pairs. Training needs train: split again with a larger share for it."
EMPTY_VAL = "no pairs. Training needs val: split again with a larger share for it."
NAMES = [f"patient-00{p}_slice-0{s}" for p in range(2) for s in range(3)]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rewritten("train.txt", lambda _: b""), f"W/data/train.txt: {EMPTY_TRAIN}"),
        (rewritten("val.txt", lambda _: b" \n"), f"W/data/val.txt: {EMPTY_VAL}"),
        (lambda w: (w / "data/val.txt").unlink(), f"W/data/val.txt: {EMPTY_VAL}"),
        (
            lambda w: (w / "data/val.txt").write_bytes((w / "data/train.txt").read_bytes()),
            "W/data: 6 slices stand in two lists:\n"
            + "".join(f"  {name}: in train and val\n" for name in NAMES)
            + "A score on slices the model has seen means nothing: run 'lungunet split' again.",
        ),
        (
            lambda w: [path.unlink() for path in (w / "data").iterdir()],
            "W/data: no train.txt, val.txt or test.txt. 'lungunet split' makes them.",
        ),
    ],
)
def test_lists_that_cannot_train(check, spoil, message: str) -> None:
    check(Row(TRAIN, f"lungunet: {message}\n", spoil))


def codec(**changes: object) -> bytes:
    stored = {**lungunet.LUNG_CODEC.to_dict(), **changes}
    return json.dumps({"labels": stored}).encode()


AGAIN = "Run 'lungunet split' again."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"null", f"not a JSON object. {AGAIN}"),
        (b'{"labels": ', f"damaged (Expecting value: line 1 column 12 (char 11)). {AGAIN}"),
        (
            b"\xff",
            "damaged ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte). "
            + AGAIN,
        ),
        (b'{"patients": ["Ann"]}', f"patients is no JSON object. {AGAIN}"),
        (
            b'{"labels": "0,255"}',
            "label codec: stored as '0,255', which is incomplete. Store what to_dict gives. "
            "Or run 'lungunet split' again.",
        ),
        (
            codec(classes={"0": 0, "255": 2}),
            "label codec: class indices are 0, 2. Use every index from 0 upwards, 2 to 255 of "
            "them. Or run 'lungunet split' again.",
        ),
        (
            codec(names=["background", "../../lung"]),
            "label codec: class name '../../lung' is empty or cannot be part of a file name. Leave "
            'out slashes, control characters and any of : * ? " < > |. '
            "Or run 'lungunet split' again.",
        ),
    ],
)
def test_split_json(check, content: bytes, message: str) -> None:
    err = f"lungunet: W/data/split.json: {message}\n"
    check(Row(SCORE, err, rewritten("split.json", lambda _: content)))


def test_split_json_nested_without_end(run_cli, world: Path) -> None:
    (world / "data" / "split.json").write_bytes(b"[" * 100_000)
    done = run_cli(*SCORE.replace("W/", f"{world}/").split())
    assert done.code == 1
    assert "split.json: damaged (maximum recursion depth exceeded" in done.err


MISSING = "patient-000_slice-00, patient-000_slice-01, patient-000_slice-02"
SPLIT = "split W/images W/masks W/new"


def table(content: bytes):
    return lambda world: (world / "g.csv").write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "rule", "message"),
    [
        (
            bool,
            "(",
            "group '(': not a regular expression (missing ), unterminated subpattern at position "
            "0). Write one such as '^(patient-[0-9]+)', or the path of a .csv file.",
        ),
        (
            bool,
            "W/g.csv",
            "W/g.csv: cannot be read (No such file or directory). Check the path.",
        ),
        (
            bool,
            "patient-00[^0]",
            f"group 'patient-00[^0]': no patient for 3 pairs: {MISSING}. Extend the rule to cover "
            "them.",
        ),
        (
            table(b"slice,patient\n"),
            "W/g.csv",
            "W/g.csv: no columns name and patient. Begin it with the line 'name,patient', then a "
            "line for each slice.",
        ),
        (
            table(b"name,patient\n\xff,1\n"),
            "W/g.csv",
            "W/g.csv: cannot be read as CSV ('utf-8' codec can't decode byte 0xff in position 13: "
            "invalid start byte). Save it as UTF-8.",
        ),
        (
            table(b"name,patient\na,Ann Smith\n\na,Bob Jones\n"),
            "W/g.csv",
            "W/g.csv, line 4: a has another patient in a line above. Keep one.",
        ),
    ],
)
def test_groups(check, spoil, rule: str, message: str) -> None:
    check(Row(f"{SPLIT} --group {rule}", f"lungunet: {message}\n", spoil))


SHARE = "not a share of the pairs. Write 0 or more and less than 1; 0.1 is usual."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--val 1", f"--val 1: {SHARE}"),
        ("--test nan", f"--test nan: {SHARE}"),
        (
            "--val 0.5 --test 0.5",
            "--val 0.5 and --test 0.5 leave nothing for train. Lower them; a test list alone is "
            "--val 0 with --test 1.",
        ),
        (
            "--val 0.01",
            "12 pairs of 12 patients cannot fill train, val and test at --val 0.01, --test 0.2: "
            "val is empty. Add pairs or change the ratios.",
        ),
        ("--folds 99", "10 patients cannot fill 99 folds. Use fewer folds."),
        ("--seed -1", "seed -1: must be 0 or more."),
        (
            "--labels a,b",
            "labels 'a,b': not a list of whole numbers. Write raw values in class order, as in "
            "0,255 or 0,3=1,4=1 or 0,10=1,*=0 or 0,1,255=ignore, or "
            "'>=128' alone.",
        ),
        ("--labels 0,0", "labels '0,0': 0 appears twice. Name it once."),
        (
            "--labels 0,255=7",
            "label codec: class indices are 0, 7. Use every index from 0 upwards, 2 to 255 of "
            "them.",
        ),
        (
            "--labels 0,99999999999",
            "label codec: raw value 99999999999 does not fit 32 bits, no mask can hold it. Check "
            "the map.",
        ),
        (
            "--labels 0,1,2 --label-threshold 5",
            "label codec: a threshold parts two classes, the map has 3. Leave one out.",
        ),
    ],
)
def test_options_of_split(check, options: str, message: str) -> None:
    check(Row(f"{SPLIT} {options}", f"lungunet: {message}\n"))
