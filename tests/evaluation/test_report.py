"""The page: what it says, what it holds, and how a browser shows it. All runs here are made up."""

import csv
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import lungunet
from lungunet import DataError, LungUNetError, ModelError
from lungunet.data.ct import write_picture
from lungunet.evaluation.audit import Audit, Suspect
from lungunet.evaluation.charts import Scale, curve_chart, dot_chart
from lungunet.evaluation.file_checks import Finding
from lungunet.evaluation.report import write_report
from lungunet.evaluation.scorecard import ScoreCard, score_case
from lungunet.training.tracking import EpochResult, Measured, write_history

MINUS, DASH, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
NASTY = '<script>alert(1)</script>&"'
MAGENTA = (255, 0, 255)  # a colour that nothing on the page has but the pictures
VAL, TRAIN, VAL_DARK = (179, 74, 0), (91, 112, 131), (255, 157, 69)


def draw(size: int, width: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A mask that is a rectangle of size x width, or empty."""
    mask = np.zeros(shape, np.uint8)
    mask[5 : 5 + size, 7 : 7 + width] = 1
    return mask


def make_card(*, patients: bool = True) -> ScoreCard:
    """Four slices of three patients: good, bad, empty and right, empty and invented."""
    names = ("good", NASTY, "empty", "invented")
    truths = [draw(20, 30), draw(20, 30), draw(0, 0), draw(0, 0)]
    models = [draw(20, 29), draw(11, 17), draw(0, 0), draw(2, 3)]
    thresholds = [draw(19, 27), draw(10, 11), draw(0, 0), draw(0, 0)]
    owners = ("a", "a", "b", "c") if patients else ("", "", "", "")

    def cases(preds: list[np.ndarray]) -> tuple[Any, ...]:
        rows = zip(names, truths, preds, owners, strict=True)
        return tuple(score_case(n, t, p, patient=owner) for n, t, p, owner in rows)

    classes = ("background", "lung")
    baselines = {
        "threshold": ScoreCard(cases(thresholds), classes),
        "all background": ScoreCard(cases([draw(0, 0)] * 4), classes),
    }
    return ScoreCard(cases(models), classes, baselines, remarks=("slices are <small>",))


def epoch(number: int) -> EpochResult:
    """Curves that rise; epoch 2 has no train accuracy, epoch 3 is the best."""
    iou = (0.3, 0.81234567, 0.95432109, 0.94)[number - 1]
    train = Measured(1 / number, math.nan if number == 2 else 0.9, iou - 0.02, 0.8, 0.9, 1.0, 8.0)
    val = Measured(0.9 / number, 0.9 + number / 100, iou, 0.8, 0.97654321, 1.0, 8.0)
    return EpochResult(number, train, val, lr=0.002 / number, is_best=number < 4)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with everything in it."""
    run, data = tmp_path / "my run", tmp_path / "data"
    data.mkdir()
    (data / "train.txt").write_text("a.tif\ta.png\r\nb.tif\tb.png\r\n\r\n", newline="")
    digest = hashlib.sha256((data / "train.txt").read_bytes()).hexdigest()
    run.mkdir()
    lungunet.RunConfig(data=str(data), epochs=9, size=96, seed=41).save(run / "config.toml")
    write_json(
        run / "environment.json",
        {
            "command": ["/home/me/bin/lungunet", "train", "my data"],
            "resumed": [{"command": ["/bin/lungunet", "train", f"--{word}"]} for word in "aab"],
            "device": "cpu",
            "started": "2026-01-02T03:04:05+01:00",
            "threads": 2,
            "git_commit": "c0ffee",
            "manifests": {"train": digest, "val": "b" * 64},
            "versions": {"lungunet": "9.8.7", "torch": "6.5.4"},
        },
    )
    write_json(
        run / "best" / "lungunet.json",
        {
            "architecture": None,
            "contract": {"size": 96, "window": {"level": -600, "width": 1500}},
            "codec": {"names": ["background", "lung"], "raw_values": {"0": 0, "1": 255}},
            "scores": {"epoch": 3},
            "weights_sha256": "feed",
        },
    )
    write_history(run / "history.csv", [epoch(number) for number in (1, 2, 3, 4)])
    evaluation = run / "evaluation" / "test"
    content = {"model": "my run", "split": "test", **make_card().to_dict()}
    write_json(evaluation / "scores.json", content)
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[10:40, 10:50] = MAGENTA
    for name in ("worst-01_<b>&x", "worst-02_invented", "best-01_good", "other"):
        write_picture(evaluation / "pictures" / f"{name}.png", picture)
    write_json(
        run / "audit" / "audit.json",
        {
            "findings": [{"name": NASTY, "severity": "error", "message": "<i>cut short"}],
            "ranking": [{"name": "odd", "list": "val", "score": 0.87654, "reasons": ["thin"]}, {}],
        },
    )
    return run


class Page(HTMLParser):
    """What a browser would make of the page: tags, text, rows of tables, and <data> elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.data: list[tuple[str, str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", self.text)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("dt", "dd", "td", "th", "p", "pre", "h3"):
            self.text += " "  # as the eye would
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True
        elif tag == "data":
            self.data.append((dict(attrs)["value"] or "", ""))

    def handle_endtag(self, tag: str) -> None:
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        open_tag = self.tags[-1][0] if self.tags else ""
        if open_tag == "data" and self.data and not self.data[-1][1]:
            self.data[-1] = (self.data[-1][0], data)
        if self.in_cell:
            self.rows[-1][-1] += data

    def row(self, first: str, length: int) -> list[str]:
        """The first row of so many cells that begins so."""
        return next(row for row in self.rows if row[0] == first and len(row) == length)


@pytest.fixture
def page(folder: Path) -> Page:
    return Page(write_report(folder))


def numbers_in(content: Any) -> set[str]:
    """Every number of a JSON document, as written."""
    if isinstance(content, dict):
        return set().union(*map(numbers_in, content.values()))
    if isinstance(content, list):
        return set().union(*map(numbers_in, content))
    return {repr(content)} if isinstance(content, int | float) else {str(content)}


def change_scores(folder: Path, change: Any) -> None:
    file = folder / "evaluation" / "test" / "scores.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


class TestNumbers:
    def test_each_one_is_stored_and_shown_rounded(self, folder: Path, page: Page) -> None:
        known = numbers_in(json.loads((folder / "evaluation/test/scores.json").read_text()))
        known |= numbers_in(json.loads((folder / "audit/audit.json").read_text()))
        with (folder / "history.csv").open() as file:
            known |= {cell for row in csv.DictReader(file) for cell in row.values()}
        assert len(page.data) > 100
        for value, shown in page.data:
            assert value in known
            plain = shown.replace(MINUS, "-").replace("\N{NARROW NO-BREAK SPACE}", "")
            if value == "inf":
                assert shown == "∞"
                continue
            mantissa, _, exponent = plain.partition("e")
            digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
            assert float(plain) == pytest.approx(float(value), abs=0.5001 * 10.0**-digits)

    def test_score_card_rows(self, page: Page) -> None:
        card = make_card()
        pooled, mean = card.pooled_interval("iou"), card.per_case("iou")
        patient = card.per_patient("iou")
        assert page.row("Lung IoU", 7) == [
            "Lung IoU",
            f"{card.pooled.iou:.4f}",
            f"{pooled.low:.4f} to {pooled.high:.4f}",
            f"{mean.mean:.4f}",
            f"{mean.interval.low:.4f} to {mean.interval.high:.4f}",
            f"{mean.median:.4f}",
            f"{patient.mean:.4f}",
        ]
        hd95 = card.per_case("hd95")
        assert page.row("HD95, px", 7)[3] == f"{hd95.mean:.2f}"
        threshold = card.baselines["threshold"].pooled
        assert page.row("Recall", 4)[1:3] == [
            f"{card.pooled.recall:.4f}",
            f"{threshold.recall:.4f}",
        ]
        assert page.row("Precision", 4)[3] == DASH

    def test_differences_have_a_sign(self, page: Page) -> None:
        card = make_card()
        found = card.difference(card.baselines["threshold"], "dice")
        low, high = (
            f"{end:+.4f}".replace("-", MINUS) for end in (found.interval.low, found.interval.high)
        )
        assert page.row("Dice, pooled", 3) == [
            "Dice, pooled",
            f"{found.value:+.4f}",
            f"{low} to {high}",
        ]

    def test_what_stands_beside_others_as_pooled_is_pooled(self, page: Page) -> None:
        assert "Median IoU" not in page.text

    def test_empty_slices_and_rules(self, page: Page) -> None:
        assert "2 of 4 slices hold no lung in the truth" in page.text
        assert "invents lung on 1 of them, 6 pixels in all" in page.text
        rules = make_card().dice_by_rule()
        shown = [
            row[1]
            for row in page.rows
            if len(row) == 2 and row[0].endswith(("tables)", "empty", "left out"))
        ]
        assert shown == [f"{value:.4f}" for value in rules.values()]
        assert len(set(shown)) == 3

    def test_accuracy_stands_beside_that_of_empty_masks(self, page: Page) -> None:
        nothing = 1 - 2 * 600 / (4 * 48 * 64)
        assert f"is right in {nothing:.4f} of all pixels already" in page.text

    def test_epochs(self, page: Page) -> None:
        assert page.row("2", 8) == [
            "2",
            "0.5000",
            "0.4500",
            DASH,
            "0.9200",
            "0.7923",
            "0.8123",
            f"1.0e{MINUS}03",
        ]
        assert page.row("3 (best)", 8)[6] == "0.9543"

    def test_axes_have_numbers_and_the_loss_a_log_scale(self, page: Page) -> None:
        labels = re.findall(r'<text class="y"[^>]*>([\d.]+)<', page.source)
        assert labels[:2] == ["0.5", "1"]  # of losses from 0.225 to 1
        assert labels[2:5] == ["0.90", "0.91", "0.92"]

    def test_worst_and_best_are_in_order(self, page: Page) -> None:
        listed = [row[0] for row in page.rows if len(row) == 6 and row[0] != "Slice"]
        assert listed == ["invented", NASTY, "good", "good", NASTY, "invented"]
        assert page.row("invented", 6)[1:] == ["0.0000", "0.0000", "∞", "0", "6"]

    def test_large_counts_are_grouped(self, folder: Path) -> None:
        change_scores(folder, lambda scores: scores["cases"][0].update(truth_px=1234567))
        assert "1\u202f234\u202f567" in write_report(folder).read_text(encoding="utf-8")


class TestWords:
    @pytest.mark.parametrize(
        ("interval", "verdict"),
        [
            ([0.01, 0.02], "The model beats the threshold baseline"),
            ([-0.02, -0.01], "The model does worse than the threshold baseline"),
            ([-0.01, 0.02], "The model is not clearly better than the threshold baseline"),
            ([None, None], "Whether the model beats the threshold baseline cannot be said"),
        ],
    )
    def test_verdict(self, folder: Path, interval: list[Any], verdict: str) -> None:
        def change(scores: Any) -> None:
            against = scores["baselines"]["threshold"]["model_minus_baseline"]
            against["pooled_iou"]["interval"] = interval

        change_scores(folder, change)
        assert verdict in Page(write_report(folder)).text

    def test_facts_of_the_training(self, page: Page) -> None:
        facts = {row[0]: row[1] for row in page.rows if len(row) == 2}
        assert facts["Encoder"] == "tu-mobilenetv3_small_100"
        assert (
            facts["Input"]
            == f"HU window of level {MINUS}600, width 1500, fitted to 96 {TIMES} 96 px"
        )
        assert facts["Labels"] == "0 = background, 255 = lung"
        assert facts["Epochs"] == "4 of 9; best: 3"
        assert facts["Seed"] == "41"
        assert "painted disease 0" in facts["Settings"]
        assert "loss ce-dice" in facts["Settings"]
        assert facts["Device"] == "cpu, 2 threads"
        assert facts["lungunet"] == "9.8.7"
        assert facts["Versions"] == "torch 6.5.4"
        assert facts["Git commit"] == "c0ffee"
        assert facts["Command"] == "lungunet train 'my data'"
        assert facts["Resumed with"] == "lungunet train --a; lungunet train --b"
        assert facts["SHA-256 of the weights"] == "feed"

    def test_slices_are_counted_only_where_the_list_is_still_that_one(self, folder: Path) -> None:
        assert Page(write_report(folder)).row("train", 3)[1] == "2"
        assert Page(write_report(folder)).row("val", 3)[1] == "not known"
        with (folder.parent / "data" / "train.txt").open("a") as file:
            file.write("c.tif\tc.png\n")
        assert Page(write_report(folder)).row("train", 3)[1] == "not known"

    def test_audit(self, page: Page) -> None:
        assert page.row("error", 5) == ["error", DASH, NASTY, DASH, "<i>cut short"]
        assert page.row("odd", 4) == ["odd", "val", "0.877", "thin"]

    def test_an_audit_as_the_audit_writes_it(self, folder: Path) -> None:
        pair = lungunet.Pair(Path("ID_7.tif"), Path("ID_7.png"))
        audit = Audit(
            findings=(Finding(pair, "train", "warning", "duplicate", "twice there"),),
            ranking=(
                Suspect(pair, "val", 0.625, "missing", ("one lung missing", "thin")),
                Suspect(lungunet.Pair(Path("harmless.tif")), "val", 0.0, "missing", ()),
            ),
            counts={"train": 3, "val": 2},
            folds=0,
            codec=lungunet.LUNG_CODEC,
        )
        write_json(folder / "audit" / "audit.json", audit.to_dict())
        page = Page(write_report(folder))
        assert (
            "Pairs: 3 of train, 2 of val. Findings: 0 of severity error, 1 of severity warning"
            in page.text
        )
        assert page.row("warning", 5) == ["warning", "train", "ID_7", "duplicate", "twice there"]
        assert page.row("ID_7", 4)[1:] == ["val", "0.625", "one lung missing; thin"]
        assert "harmless" not in page.text  # nothing speaks against it

    def test_long_audits_are_cut(self, folder: Path) -> None:
        findings = [{"name": f"s{i}", "message": "bad"} for i in range(53)]
        write_json(folder / "audit" / "audit.json", {"findings": findings})
        text = Page(write_report(folder)).text
        assert "s49" in text
        assert "s50" not in text
        assert "and 3 more in audit/audit.json" in text

    def test_slices_as_patients_are_said_to_be_so(self, folder: Path) -> None:
        card = make_card(patients=False).to_dict()
        write_json(folder / "evaluation" / "test" / "scores.json", card)
        page = Page(write_report(folder))
        assert "where slices share one, the intervals are too narrow" in page.text
        few = f"of {card['patients']} slices they are too narrow (fewer than 20)"
        assert f"resampled by slice; {few}." in page.text
        assert "resampled by patient" not in page.text
        assert len(page.row("Lung IoU", 6)) == 6

    def test_scores_on_what_was_seen_come_after_test_with_their_remarks(self, folder: Path) -> None:
        for split in ("train", "val"):
            new = folder / "evaluation" / split
            shutil.copytree(folder / "evaluation" / "test", new)
            scores = json.loads((new / "scores.json").read_text(encoding="utf-8"))
            write_json(new / "scores.json", {**scores, "remarks": [f"seen in {split}"]})
        text = Page(write_report(folder)).text
        order = ["Scores on test"]
        order += [x for each in ("val", "train") for x in (f"Scores on {each}", f"seen in {each}")]
        places = [text.rindex(each) for each in order]
        assert places == sorted(places)

    def test_how_to_use_it(self, folder: Path, page: Page) -> None:
        assert f"lungunet predict '{folder}' SLICES" in page.text
        assert f"lungunet.Predictor.load('{folder}')" in page.text
        assert "Not a medical device" in page.text


MISSING = {
    "history.csv": "lungunet train --resume",
    "evaluation": "lungunet evaluate",
    "evaluation/test/pictures": "lungunet evaluate",
    "audit": "lungunet audit",
}


class TestParts:
    @pytest.mark.parametrize("part", MISSING)
    def test_missing_ones_name_the_command_that_adds_them(self, folder: Path, part: str) -> None:
        assert MISSING[part] not in Page(write_report(folder)).text
        path = folder / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert MISSING[part] in Page(write_report(folder)).text

    def test_a_run_that_has_just_begun(self, folder: Path) -> None:
        for path in folder.iterdir():
            if path.name != "config.toml":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        text = Page(write_report(folder)).text
        assert all(command in text for command in MISSING.values())

    def test_without_scores_the_best_epoch_stands_on_top(self, folder: Path) -> None:
        shutil.rmtree(folder / "evaluation")
        (folder / "best" / "lungunet.json").unlink()  # then the best is that of highest val IoU
        text = Page(write_report(folder)).text
        assert "Lung IoU on val 0.9543" in text
        assert "Epoch 3, the best one" in text

    def test_without_baselines(self, folder: Path) -> None:
        change_scores(folder, lambda scores: scores.update(baselines={}))
        page = Page(write_report(folder))
        assert "threshold baseline" not in page.text
        assert page.row("Lung IoU", 7)
        assert "Remark: slices are <small>" in page.text

    def test_a_run_trained_from_python(self, folder: Path) -> None:
        lungunet.TrainConfig().save(folder / "config.toml")  # knows no encoder and no data
        text = Page(write_report(folder)).text
        assert "a model of the user's own" in text

    def test_more_classes(self, folder: Path) -> None:
        classes = {"background": 0.9, "left": 0.8125, "right": None}
        change_scores(folder, lambda scores: scores["pooled"].update(class_iou=classes))
        page = Page(write_report(folder))
        assert page.row("left", 2)[1] == "0.8125"
        assert page.row("right", 2)[1] == DASH

    @pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85"])
    def test_a_class_name_that_holds_a_line_end(self, folder: Path, end: str) -> None:
        file = folder / "history.csv"
        head, rows = file.read_text(encoding="utf-8").split("\n", 1)
        before = Page(write_report(folder)).text
        file.write_text(f"{head},class_iou_left{end}lung\n{rows}", encoding="utf-8")
        assert Page(write_report(folder)).text == before

    def test_a_real_run(self, run: Path, tmp_path: Path) -> None:
        shutil.copytree(run, tmp_path / "copy")
        page = Page(write_report(tmp_path / "copy"))
        assert page.row("train", 3)[1] == "6"
        assert page.row("val", 3)[1] == "3"
        assert sum(tag == "polyline" for tag, _ in page.tags) >= 6


class TestOneFile:
    def test_it_is_the_only_thing_written(self, folder: Path) -> None:
        before = sorted(folder.rglob("*"))
        out = write_report(folder)
        assert out == folder / "report.html"
        assert sorted(folder.rglob("*")) == sorted([*before, out])
        first = out.read_bytes()
        assert write_report(str(folder)).read_bytes() == first

    def test_nothing_is_fetched_and_nothing_runs(self, page: Page) -> None:
        assert "http://" not in page.source
        assert "https://" not in page.source
        assert "url(" not in page.source
        assert "@import" not in page.source
        for tag, attributes in page.tags:
            assert tag not in ("script", "iframe", "object", "embed")
            assert not any(name.startswith("on") for name in attributes)
            for name in ("src", "href"):
                if name in attributes:
                    allowed = r"#[a-z0-9-]+|data:,|data:image/png;base64,[A-Za-z0-9+/=]+"
                    assert re.fullmatch(allowed, attributes[name] or "")
        policy = next(a["content"] for t, a in page.tags if "http-equiv" in a)
        assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

    def test_pictures_are_the_files(self, folder: Path, page: Page) -> None:
        images = [a for tag, a in page.tags if tag == "img"]
        assert [image["alt"].split(" with")[0] for image in images] == [  # type: ignore[union-attr]
            "Slice <b>&x",
            "Slice invented",
            "Slice good",
        ]
        assert "invented: IoU 0.0000" in page.text

    def test_whatever_the_data_says_is_text(self, page: Page) -> None:
        assert NASTY in page.text
        assert "<script" not in page.source
        assert not [tag for tag, _ in page.tags if tag in ("b", "i", "small")]

    def test_headings_and_charts_speak_to_screen_readers(self, page: Page) -> None:
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert sum(a.get("role") == "img" and bool(a.get("aria-label")) for _, a in page.tags) == 4
        ids = [a["id"] for _, a in page.tags if "id" in a]
        assert len(ids) == len(set(ids))
        assert {a["href"] for tag, a in page.tags if tag == "a"} <= {f"#{name}" for name in ids}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.toml", None, "no run (config.toml is missing). Give the folder"),
        ("config.toml", b"= 3", "config.toml: damaged"),
        ("config.toml", b"\xff", "config.toml: cannot be read"),
        ("environment.json", b"{", "environment.json: damaged"),
        ("best/lungunet.json", b"[]", "lungunet.json: not a JSON object. Copy"),
        ("history.csv", b"epoch,split,loss\n1,train,high\n", "history.csv: damaged"),
        ("history.csv", b"a,b\n1,2\n", "history.csv: damaged"),
        ("history.csv", b"epoch\xff\n", "history.csv: cannot be read as CSV"),
        ("evaluation/test/scores.json", b"{}", "no 'slices' in it. Run 'lungunet evaluate' again."),
        ("evaluation/test/pictures/best-01_good.png", b"GIF", "best-01_good.png: not a PNG. Run"),
        ("audit/audit.json", b"nan?", "audit.json: damaged"),
    ],
)
def test_damage_is_named(folder: Path, file: str, content: bytes | None, message: str) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        write_report(folder)
    assert str(folder) in str(caught.value)
    assert not (folder / "report.html").exists()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere: no such folder\. Give the folder of a run"):
        write_report(tmp_path / "nowhere")


def test_a_page_that_cannot_be_written(folder: Path) -> None:
    (folder / "report.html").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_report(folder)
    assert issubclass(DataError, LungUNetError)


class TestCharts:
    def test_ticks_are_round_and_inside(self) -> None:
        labels = [tick.label for tick in Scale(0.93, 0.981, start=0, end=100).ticks()]
        assert labels == ["0.94", "0.96", "0.98"]
        assert [tick.label for tick in Scale(0.5, 3.5, start=0, end=1).ticks(whole=True)] == list(
            "123"
        )
        log = Scale(0.02, 4, start=100, end=0, log=True).ticks()
        assert [tick.label for tick in log] == ["0.03", "0.1", "0.3", "1", "3"]
        assert log[1].at > log[2].at
        narrow = Scale(0.011, 0.015, start=0, end=1, log=True).ticks()  # no decade in it
        assert [tick.label for tick in narrow] == ["0.011", "0.012", "0.013", "0.014", "0.015"]

    def test_a_line_breaks_where_a_value_is_missing(self) -> None:
        values = [(1, 0.5), (2, math.nan), (3, 0.6), (4, 0.7)]
        chart = curve_chart({"val": values})
        assert chart is not None
        assert [len(points.split()) for points in chart.lines["val"]] == [2]
        assert len(chart.lone["val"]) == 1  # no line: it needs a dot to be seen
        assert chart.best is None

    def test_a_log_chart_leaves_out_what_has_no_logarithm(self) -> None:
        chart = curve_chart({"val": [(1, 0.0), (2, 0.1), (3, math.inf)]}, log=True)
        assert chart is not None
        assert (len(chart.lines["val"]), len(chart.lone["val"])) == (0, 1)
        assert curve_chart({"val": [(1, -1.0)]}, log=True) is None

    def test_steep_first_epochs_may_leave_the_plot(self) -> None:
        values = [(1, 0.1)] + [(i, 0.9 + i / 1000) for i in range(2, 21)]
        values[1] = (2, 0.2)
        chart = curve_chart({"val": values}, best=(20, 0.92))
        assert chart is not None
        assert chart.outside == [1, 2]
        assert chart.best is not None
        heights = [float(point.split(",")[1]) for point in chart.lines["val"][0].split()]
        assert heights[0] > 200  # below the plot
        assert heights[-1] == chart.best[1]
        assert curve_chart({"val": values[2:]}).outside == []  # type: ignore[union-attr]

    def test_dots_are_sorted_and_thinned_but_keep_both_ends(self) -> None:
        cases = [(f"s{i}", i / 2000) for i in range(1000)]
        chart = dot_chart({"model": cases[::-1], "threshold": [("s", math.nan), ("t", 0.2)]})
        assert chart is not None
        dots = chart.dots["model"]
        assert len(dots) == 300
        assert (dots[0].name, dots[-1].name) == ("s0", "s999")
        assert all(a.x < b.x and a.y >= b.y for a, b in pairwise(dots))
        assert [dot.name for dot in chart.dots["threshold"]] == ["t"]
        assert dot_chart({"model": [("s", math.nan)]}) is None


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium (Debian: apt-get install chromium)")
class TestBrowser:
    @staticmethod
    def browse(page: Path, *options: str) -> tuple[str, list[str]]:
        """Open a page; return stdout and the messages on its console."""
        command = [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files"),
            *("--enable-logging=stderr", "--v=0", f"--user-data-dir={page.parent / 'profile'}"),
            *options,
            page.as_uri(),
        ]
        home = {**os.environ, "HOME": str(page.parent)}  # Chromium leaves crash settings there
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=home)
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    def shoot(self, page: Path, *options: str) -> tuple[np.ndarray, list[str]]:
        """Return a picture of the page, (H, W, 3) RGB, and the messages on its console."""
        shot = page.parent / "shot.png"
        _, said = self.browse(page, f"--screenshot={shot}", "--window-size=1280,4000", *options)
        return cv2.imread(str(shot))[..., ::-1], said

    @staticmethod
    def widths_of_curves(pixels: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
        """How far a colour reaches in each chart, px: second in the page, after the legend."""
        of_colour = (pixels == colour).all(axis=-1)
        rows = np.flatnonzero(of_colour.any(axis=1))
        charts = np.split(rows, np.flatnonzero(np.diff(rows) > 20) + 1)[1]
        thirds = np.array_split(of_colour[charts].any(axis=0)[105:1190], 3)
        return [int(np.ptp(np.flatnonzero(third))) for third in thirds]

    def test_curves_and_pictures_are_seen_and_the_console_is_silent(self, folder: Path) -> None:
        pixels, said = self.shoot(write_report(folder))
        assert said == []
        assert (pixels == MAGENTA).all(axis=-1).sum() > 60_000
        for colour in (VAL, TRAIN):
            assert self.widths_of_curves(pixels, colour) == pytest.approx([231] * 3, abs=12)
        assert tuple(pixels[2, 2]) == (255, 255, 255)

    def test_dark_mode(self, folder: Path) -> None:
        # 0 is dark in Blink's list of colour schemes.
        pixels, _ = self.shoot(write_report(folder), "--blink-settings=preferredColorScheme=0")
        assert max(pixels[2, 2]) < 40
        assert self.widths_of_curves(pixels, VAL_DARK) == pytest.approx([231] * 3, abs=12)
        assert not (pixels == VAL).all(axis=-1).any()

    def test_a_phone_shows_all_of_it_without_scrolling_sideways(self, folder: Path) -> None:
        """In a frame: a headless window is never as narrow as a phone."""
        ranking = [
            {"name": "n", "list": "train", "score": 0.5, "reasons": ["one lung missing"] * 9}
        ]
        write_json(folder / "audit" / "audit.json", {"ranking": ranking})
        write_report(folder)
        outer = folder / "phone.html"
        outer.write_text(
            """<iframe id="phone" src="report.html" width="390" height="800"></iframe><pre></pre>
            <script>addEventListener("load", () => {
              const page = document.getElementById("phone").contentDocument;
              const box = e => e.getBoundingClientRect();
              document.querySelector("pre").textContent = JSON.stringify({
                width: page.documentElement.scrollWidth,
                images: [...page.images].map(i => [i.naturalWidth, box(i).width]),
                lines: [...page.querySelectorAll("figure polyline")].map(l => box(l).width),
                short: [...page.querySelectorAll(".long .short")].map(cell => {
                  const text = page.createRange();
                  text.selectNodeContents(cell);
                  return text.getBoundingClientRect().height;
                }),
                beyond: [...page.querySelectorAll("p, h1, h2, h3, figure, pre, .facts")]
                  .filter(e => box(e).right > 390).length,
              });
            });</script>"""
        )
        dom, said = self.browse(outer, "--dump-dom")
        found = json.loads(re.search(r"<pre>(\{.*\})</pre>", dom)[1])  # type: ignore[index]
        assert said == []
        assert found["width"] <= 390
        assert found["beyond"] == 0
        assert len(found["short"]) == 2
        assert max(found["short"]) < 30  # one line: "train" is not broken into "trai" and "n"
        assert len(found["images"]) == 3
        assert all(natural == 64 and shown > 300 for natural, shown in found["images"])
        assert len(found["lines"]) == 6  # three charts of two lists
        assert max(found["lines"]) > 150

    def test_messages_on_the_console_would_be_found(self, tmp_path: Path) -> None:
        page = tmp_path / "bad.html"
        page.write_text("<script>nothing.at.all()</script>")
        _, said = self.browse(page, "--dump-dom")
        assert any("nothing is not defined" in line for line in said)


def test_says_when_the_run_began_and_how_long_it_took(folder: Path) -> None:
    text = lungunet.write_report(folder).read_text(encoding="utf-8")
    assert "2026-01-02T03:04:05+01:00" in text
    assert re.search(r"\d+ s in the epochs, about [\d.]+ s each", text)


def test_names_in_the_audit_lead_to_its_pictures(folder: Path) -> None:
    pictures = folder / "audit" / "pictures"
    pictures.mkdir()
    (pictures / "worst-001-odd.png").touch()
    text = lungunet.write_report(folder).read_text(encoding="utf-8")
    assert '<a href="audit/pictures/worst-001-odd.png">odd</a>' in text


def test_an_audit_in_the_data_folder_is_found(folder: Path) -> None:
    there = folder.parent / "data" / "audit"
    (folder / "audit").rename(there)
    (there / "pictures").mkdir()
    (there / "pictures" / "worst-001-odd.png").touch()
    text = lungunet.write_report(folder).read_text(encoding="utf-8")
    assert "were not audited" not in text
    href = '<a href="../data/audit/pictures/worst-001-odd.png">odd</a>'
    assert href in text
    assert (folder / "../data/audit/pictures/worst-001-odd.png").is_file()
