"""Scores of whole scans against loops over every voxel, and what is said where masks do not fit."""

import csv
import json
import math
import re
import shutil
import tracemalloc
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import (
    ConfigError,
    DataError,
    LabelCodec,
    LungUNetWarning,
    ScanScoring,
    Volume,
    evaluate_scans,
    write_volume,
)
from lungunet.data.codec import IGNORE
from lungunet.data.seen import digest_hu
from lungunet.evaluation.scans import find_worst_place
from lungunet.evaluation.scorecard import score_case
from lungunet.evaluation.trained_on import SeenScans
from lungunet.metrics.overlap import METRICS, ruler_of_scans
from lungunet.models.builtin import BUILTIN
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid

SHAPE, SPACING = (6, 18, 14), (2.5, 0.8, 0.7)
ML = math.prod(SPACING) / 1000
SIDED = LabelCodec.parse("0,1,2")


def volume(array: np.ndarray, spacing: tuple[float, ...] = SPACING) -> Volume:
    return Volume(array, Path("a.nii"), "a", Grid.axial(array.shape, spacing))


def blob(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A lopsided lung, ragged, of bytes 0 and 1; another one for another seed."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    at = [side * (0.4 + 0.05 * seed) for side in shape]
    inside = ((z - at[0]) / 2.2) ** 2 + ((y - at[1]) / 6) ** 2 + ((x - at[2]) / 4) ** 2 < 1
    return (inside & (rng.random(shape) > 0.1)).astype(np.uint8)


class Folder:
    """Scans, their truth, and masks of another tool, as files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scans, self.truth, self.masks = path / "scans", path / "truth", path / "masks"

    def add(
        self,
        name: str,
        truth: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        *,
        mask_name: str = "{}",
        mask_like: Volume | None = None,
    ) -> None:
        shape = (blob(0) if truth is None else truth).shape
        scan = volume(np.full(shape, -700, np.int16))
        scan.array[..., ::2] = 40
        write_volume(self.scans / f"{name}.nii.gz", scan.array, like=scan)
        if truth is not None:
            write_volume(self.truth / f"{name}.nii.gz", truth, like=scan)
        if mask is not None:
            file = self.masks / f"{mask_name.format(name)}.nii.gz"
            write_volume(file, mask, like=mask_like or scan)

    def evaluate(self, **options):
        return evaluate_scans(self.masks, self.scans, self.truth, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def borders(mask: np.ndarray) -> list[tuple[float, ...]]:
    """Places in mm of voxels with a neighbour outside, by a loop."""
    found = []
    for place in product(*map(range, mask.shape)):
        steps = [(axis, step) for axis in range(3) for step in (-1, 1)]
        near = []
        for axis, step in steps:
            other = list(place)
            other[axis] += step
            inside = 0 <= other[axis] < mask.shape[axis]
            near.append(bool(inside and mask[tuple(other)]))
        if mask[place] and not all(near):
            found.append(tuple(i * mm for i, mm in zip(place, SPACING, strict=True)))
    return found


def by_hand(truth: np.ndarray, pred: np.ndarray, tolerance: float) -> dict[str, float]:
    there, here = borders(truth), borders(pred)
    ways = [[min(math.dist(a, b) for b in other) for a in own] for own, other in
            ((there, here), (here, there))]  # fmt: skip
    both = [*ways[0], *ways[1]]
    hit, either = int((truth & pred).sum()), int((truth | pred).sum())
    error = int(pred.sum()) - int(truth.sum())
    return {
        "iou": hit / either,
        "dice": 2 * hit / int(truth.sum() + pred.sum()),
        "hd95": max(float(np.percentile(way, 95)) for way in ways),
        "assd": sum(both) / len(both),
        "surface_dice": sum(way <= tolerance for way in both) / len(both),
        "volume_error": error * ML,
        "relative_volume_error": 100 * error / int(truth.sum()),
        "absolute_volume_error": abs(100 * error / int(truth.sum())),
    }


class TestNumbers:
    def test_of_every_scan_equal_loops_over_voxels(self, folder: Folder, tmp_path: Path) -> None:
        pairs = {f"p{i}": (blob(i), blob(i + 1)) for i in range(3)}
        for name, (truth, pred) in pairs.items():
            folder.add(name, truth, pred * 255)
        card = folder.evaluate(out=tmp_path / "out", scoring=ScanScoring(tolerance_mm=1.3))
        with (tmp_path / "out" / "cases.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["region"] for row in rows] == ["lungs"] * 3
        for case, row, (truth, pred) in zip(card.cases, rows, pairs.values(), strict=True):
            for metric, wanted in by_hand(truth, pred, 1.3).items():
                assert case.value(metric) == pytest.approx(wanted, rel=1e-6), (
                    metric
                )  # NIfTI: float32
                assert float(row[card.ruler.column(metric)]) == case.value(metric)
            assert float(row["truth_ml"]) == pytest.approx(truth.sum() * ML)
            assert case.counts.sum() == truth.size
        hd95 = [case.value("hd95") for case in card.cases]
        assert card.per_case("hd95").mean == pytest.approx(np.mean(hd95))

    def test_pooling_weighs_by_volume_and_not_by_voxels(self) -> None:
        """A scan of a tenth of the voxels, each ten times as large, counts as much."""
        ruler = ruler_of_scans()
        fine, coarse = np.zeros((1, 10, 10), np.uint8), np.zeros((1, 1, 10), np.uint8)
        fine[0, :, :8], coarse[0, 0, :4] = 1, 1
        cases = [
            score_case(str(mm), truth, np.ones_like(truth), spacing_mm=(mm, 1, 1), ruler=ruler)
            for truth, mm in ((fine, 1.0), (coarse, 10.0))
        ]
        assert lungunet.ScoreCard(tuple(cases), ("background", "lung")).pooled.iou == (
            pytest.approx((80 + 40) / 200)
        )

    def test_distances_in_a_scan_of_one_slice_are_those_of_the_slice(self) -> None:
        truth, pred = np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)
        truth[10:30, 10:40], pred[12:28, 12:38] = 1, 1
        ruler = ruler_of_scans()
        flat = score_case("p", truth, pred, spacing_mm=(0.8, 0.7), ruler=ruler)
        deep = score_case("p", truth[None], pred[None], spacing_mm=(5, 0.8, 0.7), ruler=ruler)
        assert deep.surface == flat.surface
        assert deep.surface.assd > 1.4
        assert deep.truth_size == pytest.approx(20 * 30 * 5 * 0.8 * 0.7 / 1000)

    def test_masks_that_agree(self, folder: Folder) -> None:
        folder.add("p", blob(1), blob(1))
        (case,) = folder.evaluate().cases
        assert [case.value(name) for name in ("iou", "hd95", "assd", "surface_dice")] == [
            1,
            0,
            0,
            1,
        ]
        assert case.value("volume_error") == 0

    def test_what_is_ignored_counts_nowhere(self, folder: Folder) -> None:
        truth = blob(1)
        truth[:, 9:] = 7
        folder.add("p", truth, blob(1))
        scoring = ScanScoring(codec=LabelCodec.parse("0,1,7=ignore"))
        (case,) = folder.evaluate(scoring=scoring).cases
        assert case.value("iou") == 1
        assert case.counts.sum() == truth[:, :9].size

    def test_slices_know_nothing_of_volumes(self) -> None:
        case = score_case("s", blob(0)[2], blob(1)[2])
        assert "volume_error_ml" not in case.to_dict(("background", "lung"))
        assert METRICS["volume_error"].of_scans

    def test_memory_is_a_few_bytes_for_a_voxel_of_the_lungs(self) -> None:
        truth = np.zeros((40, 256, 256), np.uint8)
        truth[10:30, 100:160, 90:150] = 1
        tracemalloc.start()
        try:
            score_case("p", truth, np.roll(truth, 1, 2), spacing_mm=SPACING, ruler=ruler_of_scans())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2 * truth.size


class TestEmpty:
    def test_rules_are_those_of_slices(self, folder: Folder, tmp_path: Path) -> None:
        nothing = np.zeros(SHAPE, np.uint8)
        for name, truth, pred in (
            ("missed", blob(0), nothing),
            ("invented", nothing, blob(0)),
            ("neither", nothing, nothing),
            ("right", blob(0), blob(0)),
        ):
            folder.add(name, truth, pred)
        scoring = ScanScoring(LabelCodec.parse("0,1"), LabelCodec.parse("0,1"))
        card = folder.evaluate(out=tmp_path / "out", scoring=scoring)
        stored = json.loads((tmp_path / "out" / "scores.json").read_text())
        by_name = {case["name"]: case for case in stored["cases"]}
        assert [by_name[name]["dice"] for name in ("missed", "invented", "neither")] == [0, 0, None]
        assert by_name["missed"]["hd95_mm"] == "inf"
        assert by_name["missed"]["relative_volume_error_percent"] == -100
        assert by_name["invented"]["relative_volume_error_percent"] is None
        assert by_name["invented"]["volume_error_ml"] == pytest.approx(blob(0).sum() * ML)
        diagonal = math.hypot(*(side * mm for side, mm in zip(SHAPE, SPACING, strict=True)))
        assert card.per_case("hd95").mean == pytest.approx(2 * diagonal / 3)
        assert stored["empty_scans"]["scans"] == 2
        assert stored["empty_scans"]["false_positive_ml"] == pytest.approx(blob(0).sum() * ML)


class TestFiles:
    def test_masks_may_be_called_otherwise(self, folder: Folder) -> None:
        for name in ("a", "b"):
            folder.add(name, blob(0), blob(1) * 255, mask_name="{}_seg")
        with pytest.warns(LungUNetWarning, match=r"masks pair with images as by names='\*=\*_seg'"):
            card = folder.evaluate()
        assert [case.name for case in card.cases] == ["a", "b"]
        assert folder.evaluate(mask_names="*=*_seg").pooled.iou == card.pooled.iou

    def test_a_mask_on_another_grid_is_brought_to_the_scan_and_told(self, folder: Folder) -> None:
        truth = np.repeat(np.repeat(blob(0, (6, 9, 7)), 2, axis=1), 2, axis=2)
        coarse = volume(truth[:, ::2, ::2], (2.5, 1.6, 1.4))
        origin = (0.35, 0.4, 0.0)  # of the first of two voxels to the middle of both
        coarse = replace(coarse, grid=replace(coarse.grid, origin=origin))
        folder.add("p", truth, coarse.array, mask_like=coarse)
        folder.add("q", truth, truth)
        with pytest.warns(LungUNetWarning, match="is on another grid than its scan"):
            card = folder.evaluate()
        assert [case.scores.iou for case in card.cases] == [1, 1]
        assert card.remarks == (
            "the mask of 1 scan lies on another grid; the nearest voxels were taken: p",
        )

    def test_a_missing_mask_stops_before_any_work(self, folder: Folder) -> None:
        folder.add("a", blob(0), blob(0))
        folder.add("b", blob(0))
        with pytest.raises(DataError, match="no mask of b, of which there is truth"):
            folder.evaluate()

    def test_scans_without_truth_are_told(self, folder: Folder) -> None:
        folder.add("a", blob(0), blob(0))
        folder.add("b", None, blob(0))
        assert folder.evaluate().remarks == ("1 scan without truth left out: b",)

    def test_one_bad_scan_is_told_and_the_others_go_on(self, folder: Folder, tmp_path) -> None:
        folder.add("a", blob(0), blob(0))
        folder.add("b", blob(0), blob(0))
        (folder.masks / "b.nii.gz").write_bytes(b"no mask")
        card = folder.evaluate(out=tmp_path / "out")
        assert [case.name for case in card.cases] == ["a"]
        assert len(card.failed) == 1
        assert "b.nii.gz" in card.failed[0]
        assert "1 of 2 scans could not be scored and count nowhere" in card.remarks[0]
        assert json.loads((tmp_path / "out" / "scores.json").read_text())["failed"] == list(
            card.failed
        )
        assert "could not be scored" in (tmp_path / "out" / "report.html").read_text()
        (folder.masks / "a.nii.gz").write_bytes(b"no mask")
        with pytest.raises(DataError, match="no scan could be scored"):
            folder.evaluate()

    def test_one_scan_with_one_mask(self, folder: Folder) -> None:
        folder.add("a", blob(0), blob(1), mask_name="other")
        files = [next(place.iterdir()) for place in (folder.masks, folder.scans, folder.truth)]
        iou = evaluate_scans(*files).cases[0].value("iou")
        with pytest.raises(DataError, match="Where they are a pair"):
            folder.evaluate()
        files[0].rename(folder.masks / "a.nii.gz")
        assert folder.evaluate().pooled.iou == iou

    def test_what_is_there_stays(self, folder: Folder, tmp_path: Path) -> None:
        folder.add("a", blob(0), blob(1))
        folder.evaluate(out=tmp_path / "out")
        with pytest.raises(ConfigError, match="overwrite"):
            folder.evaluate(out=tmp_path / "out")
        stale = tmp_path / "out" / "pictures" / "worst-05_old.png"
        stale.write_bytes(b"")
        folder.evaluate(out=tmp_path / "out", overwrite=True)
        assert not stale.exists()

    def test_a_tolerance_that_is_none(self) -> None:
        with pytest.raises(ConfigError, match="tolerance_mm=-1"):
            ScanScoring(tolerance_mm=-1)
        with pytest.raises(ConfigError, match="mask_codec 0,1,2=ignore: a mask that is scored"):
            ScanScoring(mask_codec=LabelCodec.parse("0,1,2=ignore"))


class TestPatients:
    def test_two_scans_of_one_patient_are_one(self, folder: Folder) -> None:
        for name in ("p1_in", "p1_out", "p2_in"):
            folder.add(name, blob(0), blob(len(name) - 4))
        alone, grouped = folder.evaluate(), folder.evaluate(group="(p[0-9])")
        assert grouped.patients == ["p1", "p1", "p2"]
        assert grouped.per_case("dice").mean == alone.per_case("dice").mean
        assert grouped.per_case("dice").interval != alone.per_case("dice").interval
        assert grouped.per_patient("dice").n == 2

    def test_scans_that_a_run_was_trained_on_slices_of(self, tmp_path: Path) -> None:
        (tmp_path / "slices.csv").write_text("list,name,digest\ntrain,p1_z-0003,ab\nval,p3,cd\n")
        seen = SeenScans(tmp_path)
        for name in ("p1", "p2", "p3"):
            seen.look(name, np.zeros((1, 9, 9), np.int16))
        assert (seen.known, seen.alike) == ([], ["p1"])

    def test_scans_that_the_built_in_model_was_trained_on(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("p1", "p2"):
            folder.add(name, blob(0))
        known = phantom_slice(3, 0.5).image
        scan = volume(np.stack([known, known, known]))
        write_volume(folder.scans / "p2.nii.gz", scan.array, like=scan)
        write_volume(folder.truth / "p2.nii.gz", (scan.array < -500).astype(np.uint8), like=scan)
        built_in = folder.path / "lungs"
        shutil.copytree(BUILTIN["lungs"], built_in)
        digest = digest_hu(known[::-1])
        (built_in / "slices.csv").write_text(f"list,name,digest\ntrain,,{digest}\n")
        monkeypatch.setitem(BUILTIN, "lungs", built_in)
        for model in ("lungs", "threshold"):  # beside which it is a baseline
            scoring = ScanScoring(baselines=True)
            card = evaluate_scans(model, folder.scans, folder.truth, scoring=scoring, device="cpu")
            assert card.remarks[-1] == (
                "1 scan with slices that lungs was trained on (p2): its scores are too good"
            )


class TestSides:
    @pytest.fixture
    def sided(self, folder: Folder) -> Folder:
        left, right = blob(0), np.roll(blob(0), 7, axis=2)
        self.truth = np.where(right > 0, 2, left).astype(np.uint8)
        return folder

    def test_each_lung_by_itself(self, sided: Folder, tmp_path: Path) -> None:
        pred = np.where(self.truth == 2, np.roll(self.truth, 1, axis=1) & 2, self.truth)
        sided.add("p", self.truth, pred.astype(np.uint8))
        card = sided.evaluate(out=tmp_path / "out")
        for value, side in ((1, "left lung"), (2, "right lung")):
            wanted = by_hand(self.truth == value, pred == value, 2)
            (case,) = card.regions[side].cases
            for metric in ("dice", "hd95", "assd", "surface_dice", "volume_error"):
                assert case.value(metric) == pytest.approx(wanted[metric]), (side, metric)
        with (tmp_path / "out" / "cases.csv").open() as file:
            regions = [row["region"] for row in csv.DictReader(file)]
        assert regions == ["lungs", "left lung", "right lung"]
        assert "Right lung</th>" in (tmp_path / "out" / "report.html").read_text()

    def test_each_mean_has_the_number_of_its_own_scans(
        self, sided: Folder, tmp_path: Path, run_cli
    ) -> None:
        sided.add("p", self.truth, self.truth)
        alone = self.truth & 1  # its right lung is in neither mask
        sided.add("q", alone, alone)
        out = tmp_path / "out"
        args = ("--truth", sided.truth, "--labels", "0,1,2", "--mask-labels", "0,1,2", "--out", out)
        lines = run_cli("evaluate", sided.masks, sided.scans, *args).out.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("each region"))
        assert lines[at + 1].split() == ["left", "lung", "n", "right", "lung", "n"]
        rows = {line.split("  ")[0]: line.split()[-4:] for line in lines[at + 2 : at + 10]}
        assert rows["Dice"] == ["1.0000", "2", "1.0000", "1"]
        assert rows["volume error, mL"] == ["0.0", "2", "0.0", "2"]
        table = (out / "report.html").read_text().split('aria-label="Each region"')[1]
        row = table.split('<th scope="row">Dice')[1].split("</tr>")[0]
        assert re.sub("<[^>]*>", " ", row).split() == ["1.0000", "2", "1.0000", "1"]

    def test_that_are_swapped_are_told(self, sided: Folder) -> None:
        swapped = np.array([0, 2, 1], np.uint8)[self.truth]
        sided.add("p", self.truth, swapped)
        card = sided.evaluate()
        assert card.pooled.iou == 1
        assert card.regions["left lung"].pooled.iou == 0
        assert "exchanged between truth and mask in 1 of 1 scan: p" in card.remarks[0]
        assert "mask_codec=LabelCodec.parse('0,2,1') for the masks" in card.remarks[0]
        read = ScanScoring(mask_codec=LabelCodec.parse("0,2,1"))
        assert sided.evaluate(scoring=read).regions["left lung"].pooled.iou == 1

    def test_are_matched_by_name(self, sided: Folder) -> None:
        sided.add("p", self.truth, np.array([0, 2, 1], np.uint8)[self.truth])
        turned = LabelCodec({0: 0, 2: 1, 1: 2}, names=("background", "left lung", "right lung"))
        named = LabelCodec({0: 0, 2: 2, 1: 1}, names=turned.names)
        other_way = LabelCodec({0: 0, 1: 1, 2: 2}, names=("background", "right lung", "left lung"))
        for truth, masks in ((named, turned), (named, other_way)):
            card = sided.evaluate(scoring=ScanScoring(truth, masks))
            assert {name: of.pooled.iou for name, of in card.regions.items()} == {
                "left lung": 1,
                "right lung": 1,
            }
            assert card.remarks == ()
        # The truth is read as it says, whatever number it gives the sides.
        card = sided.evaluate(scoring=ScanScoring(other_way, named))
        assert card.pooled.iou == card.regions["left lung"].pooled.iou == 1
        same = [case.truth_px for case in card.regions["left lung"].cases]
        assert same == [int((self.truth == 2).sum())]

    def test_masks_without_them_are_scored_as_a_whole(self, sided: Folder) -> None:
        sided.add("p", self.truth, (self.truth > 0).view(np.uint8))
        card = sided.evaluate()
        assert card.pooled.iou == 1
        assert not card.regions
        assert "do not tell regions apart" in card.remarks[0]

    def test_a_mask_that_does_not_tell_which_is_which(self, sided: Folder) -> None:
        sided.add("p", self.truth, self.truth)
        sided.add("q", self.truth, ((self.truth > 0) * 3).astype(np.uint8))
        card = sided.evaluate(scoring=ScanScoring(SIDED, SIDED))
        assert [case.scores.iou for case in card.cases] == [1, 1]
        assert [case.name for case in card.regions["left lung"].cases] == ["p"]
        assert "not scored by region" in card.remarks[0]


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of two lungs with its truth, 1 left and 2 right."""
    made = [phantom_slice(0, z, size=64) for z in np.linspace(0.02, 0.9, 12)]
    hu = np.stack([item.image for item in made])
    lungs = np.stack([item.mask for item in made]) // 255
    scan = volume(hu, (15.0, 5.5, 5.5))
    sides = lungunet.split_sides(lungs, spacing_mm=scan.spacing_mm)
    path = tmp_path_factory.mktemp("chest")
    write_volume(path / "scans" / "p.nii.gz", hu, like=scan)
    write_volume(path / "truth" / "p.nii.gz", sides, like=scan)
    write_volume(path / "whole" / "p.nii.gz", lungs, like=scan)
    return path


class TestModels:
    def test_the_rule_and_its_masks_score_the_same(self, chest: Path, tmp_path: Path) -> None:
        by_model = evaluate_scans("threshold", chest / "scans", chest / "whole")
        predictor = lungunet.Predictor.load("threshold")
        list(lungunet.predict_scans(predictor, chest / "scans", tmp_path / "m"))
        by_masks = evaluate_scans(tmp_path / "m", chest / "scans", chest / "whole")
        assert by_model.cases[0].to_dict(("a", "b")) == by_masks.cases[0].to_dict(("a", "b"))
        assert by_model.pooled.iou > 0.8

    def test_sides_of_a_model_are_told_by_the_scan(self, chest: Path) -> None:
        card = evaluate_scans("threshold", chest / "scans", chest / "truth")
        assert {name: of.pooled.iou > 0.7 for name, of in card.regions.items()} == {
            "left lung": True,
            "right lung": True,
        }

    def test_sides_of_a_model_are_not_told_without_a_whole_chest(
        self, chest: Path, tmp_path: Path
    ) -> None:
        for folder in ("scans", "truth"):
            whole = lungunet.read_volume(chest / folder / "p.nii.gz")
            for name, part in (("p", slice(None)), ("short", slice(5, 7))):  # 30 mm
                array = whole.array[part]
                like = volume(array, whole.spacing_mm)
                write_volume(tmp_path / folder / f"{name}.nii.gz", array, like=like)
        card = evaluate_scans("threshold", tmp_path / "scans", tmp_path / "truth")
        assert [case.name for case in card.cases] == ["p", "short"]
        for side in ("left lung", "right lung"):
            assert [case.name for case in card.regions[side].cases] == ["p"]
        assert "shows no whole chest: short" in card.remarks[0]

    def test_baselines_where_they_are_asked_for(self, chest: Path, monkeypatch) -> None:
        rule = lungunet.Predictor.load("threshold")
        monkeypatch.setattr(lungunet.Predictor, "load", lambda word, **_: rule)
        scoring = ScanScoring(baselines=True)
        card = evaluate_scans(chest / "whole", chest / "scans", chest / "whole", scoring=scoring)
        assert set(card.baselines) == {"threshold", "lungs"}
        assert card.difference(card.baselines["threshold"], "iou").value > 0
        assert "mean_hd95_mm" in card.to_dict()["baselines"]["threshold"]["model_minus_baseline"]

    def test_a_model_of_8_bit_grey_is_named_before_any_work(
        self, chest: Path, run: Path, tmp_path: Path
    ) -> None:
        saved, grey = lungunet.load_model(run), lungunet.InputContract(32, None, ("uint8",))
        lungunet.save_model(tmp_path / "grey", saved.model, contract=grey, codec=saved.codec)
        scans, truth = chest / "scans", chest / "truth"
        said = re.escape(f"{scans}: a slice of int16, {tmp_path / 'grey'} expects uint8 grey")
        for model, against in ((tmp_path / "grey", ()), ("threshold", (tmp_path / "grey",))):
            with pytest.raises(DataError, match=f"^{said}"):
                evaluate_scans(model, scans, truth, against=against)

    def test_against_another_model_and_masks(self, chest: Path, tmp_path: Path) -> None:
        rivals = [str(chest / "whole"), "threshold"]
        card = evaluate_scans(
            chest / "truth", chest / "scans", chest / "truth", against=rivals, out=tmp_path / "s"
        )
        assert list(card.baselines) == rivals
        rule = evaluate_scans("threshold", chest / "scans", chest / "truth")
        assert card.baselines["threshold"].pooled.iou == rule.pooled.iou
        with (tmp_path / "s" / "cases.csv").open() as file:
            rows = list(csv.DictReader(file))
        # Regions have none.
        assert {row["baseline_iou_threshold"] for row in rows} == {str(rule.pooled.iou), ""}
        with pytest.raises(ConfigError, match="against: threshold is what is scored"):
            evaluate_scans("threshold", chest / "scans", chest / "truth", against=["threshold"])

    def test_scans_that_a_rival_was_trained_on_slices_of(
        self, chest: Path, tmp_path: Path, monkeypatch
    ) -> None:
        run = tmp_path / "run"
        (run / "best").mkdir(parents=True)
        (run / "best" / "lungunet.json").write_text("{}")
        (run / "slices.csv").write_text("list,name,digest\ntrain,p_z-0003,ab\n")
        rule = lungunet.Predictor.load("threshold")
        monkeypatch.setattr(lungunet.Predictor, "load", lambda *_, **__: rule)
        place = (chest / "scans", chest / "whole")
        said = f"1 scan called like ones whose slices {run} was trained on (p)"
        for model, rival in (("threshold", run), (run, "threshold")):
            (remark,) = evaluate_scans(model, *place, against=[rival]).remarks
            assert remark.startswith(said)
        assert not evaluate_scans("threshold", *place, against=[chest / "whole"]).remarks

    def test_a_scan_that_a_rival_cannot_do_is_named(self, folder: Folder, monkeypatch) -> None:
        folder.add("a", blob(1), blob(2))
        folder.add("b", blob(1), blob(2))
        others = folder.path / "others"
        for name in "ab":
            values = blob(3) * (7 if name == "b" else 1)
            write_volume(others / f"{name}.nii", values, like=volume(values))
        card = evaluate_scans(
            folder.masks,
            folder.scans,
            folder.truth,
            against=[others],
            scoring=ScanScoring(mask_codec=None),
        )
        assert [case.name for case in card.cases] == ["a"]
        assert len(card.baselines[str(others)].cases) == len(card.cases) == 1
        assert "mask value 7" in card.failed[0]

    def test_what_only_masks_have_is_refused_for_a_model(self, chest: Path) -> None:
        given = {"scans": chest / "scans", "truth": chest / "truth"}
        with pytest.raises(ConfigError, match="mask_names: threshold is no folder of masks"):
            evaluate_scans("threshold", **given, mask_names="*=*_a")
        with pytest.raises(ConfigError, match="mask_codec: threshold is no folder of masks"):
            evaluate_scans("threshold", **given, scoring=ScanScoring(mask_codec=SIDED))


class TestPictures:
    def test_the_worst_place_is_where_most_is_wrong(self) -> None:
        scan = volume(np.zeros((30, 60, 50), np.int16), (2.0, 1.0, 1.0))
        truth = np.zeros(scan.array.shape, np.uint8)
        truth[5:25, 10:50, 10:40] = 1
        pred = truth.copy()
        pred[15:20, 30:40, 20:30] = 0  # much at one place
        pred[6, 12:48:3, 12] = 0  # little at many
        place = find_worst_place(truth, pred, scan)
        assert all(low <= at < high for at, low, high in
                   zip(place, (15, 30, 20), (20, 40, 30), strict=True))  # fmt: skip

    @pytest.mark.parametrize("truth", [blob(0), np.zeros(SHAPE, np.uint8)])
    def test_where_nothing_is_wrong_it_is_a_place(self, truth: np.ndarray) -> None:
        place = find_worst_place(truth, truth, volume(np.zeros(SHAPE, np.int16)))
        assert all(0 <= at < side for at, side in zip(place, SHAPE, strict=True))

    def test_what_is_ignored_is_not_wrong(self) -> None:
        truth, pred = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
        truth[0], pred[0] = IGNORE, 1
        pred[4, 3, 2] = 1
        assert find_worst_place(truth, pred, volume(np.zeros(SHAPE, np.int16))) == (4, 3, 2)

    def test_the_six_worst_on_the_page_too(self, folder: Folder, tmp_path: Path) -> None:
        for index in range(8):
            pred = blob(0)
            pred[:, : index + 3] = 0
            folder.add(f"p{index}", blob(0), pred)
        card = folder.evaluate(out=tmp_path / "out")
        names = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
        worst = [case.name for case in card.worst(6)]
        assert names == [f"worst-{n:02d}_{name}.png" for n, name in enumerate(worst, start=1)]
        page = (tmp_path / "out" / "report.html").read_text()
        assert page.count("data:image/png;base64") == 6
        assert "Worst scans" in page
        assert "HD95, mm" in page
        assert "lice" not in page.replace("surface_dice", "").split("<main>")[1]
