"""Scores against a plain double loop."""

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import (
    METRICS,
    ConfigError,
    DataError,
    Interval,
    LabelCodec,
    LungCTDataset,
    LungUNetWarning,
    MaskFolder,
    Metric,
    ModelError,
    Pair,
    Predictor,
    SplitError,
    evaluate,
    evaluate_list,
)
from lungunet.data.manifest import RECORD
from lungunet.data.seen import digest_hu, read_seen
from lungunet.evaluation.evaluate import save_pictures
from lungunet.evaluation.scorecard import Difference, ScoreCard, score_case, verdict
from lungunet.metrics.overlap import ratios, share
from lungunet.models.builtin import BUILTIN

pytestmark = pytest.mark.filterwarnings("ignore:these masks mean little")  # slices of 0 and 1

QUICK = {"epochs": 1, "size": 32, "batch_size": 2, "workers": 0, "device": "cpu"}


class Fixed:
    """Predicts what it is told to, slice after slice."""

    codec = lungunet.LUNG_CODEC
    contract, word, segment_volume = lungunet.InputContract(32), "", None

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.masks = iter(masks)

    def prepare(self, image, where="slice"):
        return image

    def __call__(self, images):
        return [lungunet.Segmented(next(self.masks).astype(np.uint8)) for _ in images]


@pytest.fixture
def case(tmp_path: Path):
    rng = np.random.default_rng(3)
    truths = [rng.integers(0, 2, shape) for shape in ((9, 7), (5, 8), (6, 6), (4, 4))]
    truths[2][:] = 0  # no lung
    truths[3][:] = 0
    preds = [rng.integers(0, 2, truth.shape) for truth in truths]
    preds[2][:] = 0  # none predicted either: undefined
    preds[3][:] = 0
    preds[3][0, 0] = 1  # invented: 0
    pairs = []
    for index, truth in enumerate(truths):
        pair = Pair(tmp_path / f"s{index}.tif", tmp_path / f"s{index}.png")
        lungunet.write_image(pair.image, (truth * 7).astype(np.int16))
        lungunet.write_mask(pair.mask, (truth * 255).astype(np.uint8))
        pairs.append(pair)
    return pairs, truths, preds


def iou(truth: np.ndarray, pred: np.ndarray) -> float:
    both = either = 0
    for t, p in zip(truth.ravel(), pred.ravel(), strict=True):
        both += bool(t and p)
        either += bool(t or p)
    return both / either if either else math.nan


def test_pooled_and_per_case_equal_a_double_loop(case) -> None:
    pairs, truths, preds = case
    card = evaluate(Predictor(Fixed(preds)), pairs)
    wanted = [iou(t, p) for t, p in zip(truths, preds, strict=True)]
    np.testing.assert_allclose([c.scores.iou for c in card.cases], wanted)
    flat_t, flat_p = (np.concatenate([a.ravel() for a in arrays]) for arrays in (truths, preds))
    assert card.pooled.iou == iou(flat_t, flat_p)
    assert card.pooled.accuracy == (flat_t == flat_p).mean()
    found = card.per_case("iou")
    defined = [value for value in wanted if not math.isnan(value)]
    assert (found.mean, found.median, found.n) == (np.mean(defined), np.median(defined), 3)
    assert card.worst(2)[0].name == "s3"
    assert [c.truth_px for c in card.cases] == [int(t.sum()) for t in truths]


def test_files_hold_full_precision_and_undefined_is_null(case, tmp_path: Path) -> None:
    pairs, _, preds = case
    card = evaluate(Predictor(Fixed(preds)), pairs)
    card.save(tmp_path / "scores")
    stored = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert stored == card.to_dict()
    assert stored["pooled"]["iou"] == card.pooled.iou
    assert stored["cases"][2]["iou"] is None
    with (tmp_path / "scores" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[2]["iou"] == ""
    assert float(rows[0]["iou"]) == card.cases[0].scores.iou


def test_shows_itself_in_a_line(case) -> None:
    pairs, _, preds = case
    card = evaluate(Predictor(Fixed(preds)), pairs)
    assert repr(card).startswith(f"<ScoreCard of 4 slices: lung IoU {card.pooled.iou:.4f}")
    assert all(
        f", {name} {one.pooled.iou:.4f}" in repr(card) for name, one in card.baselines.items()
    )
    assert len(repr(card)) < 200


def test_nothing_to_score(case) -> None:
    with pytest.raises(SplitError, match="no pairs to evaluate on"):
        evaluate(Predictor(Fixed([])), [])


def test_slices_of_one_stem_are_not_taken_for_one_patient(case, tmp_path) -> None:
    pairs, _, preds = case
    (tmp_path / "p2").mkdir()
    pairs[3] = Pair(shutil.copy(pairs[0].image, tmp_path / "p2"), pairs[3].mask)
    with pytest.raises(DataError, match=r"^names that occur twice:\n  s0 \(.*p2.*\)\nRename"):
        evaluate(Predictor(Fixed(preds)), pairs, baselines=False)


def test_a_bad_file_stops_the_score(case) -> None:
    pairs, _, preds = case
    pairs[1].image.write_bytes(b"")
    with pytest.raises(DataError, match=r"s1\.tif: the file is empty"):
        evaluate(Predictor(Fixed(preds)), pairs)


def test_another_number_of_classes_is_refused(case) -> None:
    pairs, _, preds = case
    with pytest.raises(DataError, match="the truth has 3 classes, the model 2"):
        evaluate(Predictor(Fixed(preds)), pairs, codec=LabelCodec({0: 0, 1: 1, 2: 2}))


def test_a_trained_model_scores_the_same_when_masks_are_written_and_read(
    run: Path, split: lungunet.Split
) -> None:
    predictor = Predictor.load(run, device="cpu")
    card = evaluate(predictor, split.test)
    for pair, scored in zip(split.test, card.cases, strict=True):
        pred = predictor.predict(lungunet.read_image(pair.image))
        truth = lungunet.read_mask(pair.mask)
        expected = iou(truth == 255, pred == 255)
        assert scored.scores.iou == expected or math.isnan(expected)


def card_of(truths, preds, patients=None) -> lungunet.ScoreCard:
    names = [f"s{index}" for index in range(len(truths))]
    patients = patients or names
    cases = [
        score_case(name, truth, pred, patient=patient)
        for name, truth, pred, patient in zip(names, truths, preds, patients, strict=True)
    ]
    return lungunet.ScoreCard(tuple(cases), ("background", "lung"))


def boxes(n: int, *, shift: int = 0) -> list[np.ndarray]:
    """Lopsided boxes that differ from slice to slice."""
    masks = []
    for index in range(n):
        mask = np.zeros((30, 40), np.uint8)
        mask[5 : 15 + index % 7, 8 + shift : 20 + shift] = 1
        masks.append(mask)
    return masks


def test_patients_are_pooled_before_they_are_averaged() -> None:
    truths, preds = boxes(3), boxes(3, shift=2)
    preds[2] = truths[2]
    card = card_of(truths, preds, ["a", "a", "b"])
    first = iou(np.concatenate(truths[:2]), np.concatenate(preds[:2]))
    found = card.per_patient("iou")
    assert (found.mean, found.n) == (np.mean([first, 1.0]), 2)
    assert card.to_dict()["patients"] == 2


def test_a_missed_and_an_invented_lung_cost_the_diagonal() -> None:
    truths, preds = boxes(3), boxes(3)
    preds[0] = np.zeros_like(preds[0])
    truths[1] = np.zeros_like(truths[1])
    card = card_of(truths, preds)
    assert [case.surface.hd95 for case in card.cases] == [math.inf, math.inf, 0.0]
    assert [case.value("hd95") for case in card.cases] == [50.0, 50.0, 0.0]  # 30, 40, 50
    assert card.per_case("hd95").mean == 100 / 3
    assert card.to_dict()["cases"][0]["hd95_px"] == "inf"


def test_dice_by_each_rule_for_slices_without_lung() -> None:
    full, empty = boxes(1)[0], np.zeros((30, 40), np.uint8)
    card = card_of([full, empty, empty], [full, empty, full])
    assert card.dice_by_rule() == {
        "both_empty_is_nan": 0.5,  # 1, undefined, 0
        "both_empty_is_1": 2 / 3,
        "empty_truth_skipped": 1.0,
    }
    assert card.empty_slices() == {
        "slices": 2,
        "with_false_positives": 1,
        "false_positive_px": int(full.sum()),
    }


def test_intervals_hold_the_score_and_shrink_with_more_patients() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (8, 80):
        truths = boxes(n)
        preds = [np.roll(truth, rng.integers(0, 5), axis=1) for truth in truths]
        card = card_of(truths, preds)
        interval = card.pooled_interval("iou")
        assert interval.low < card.pooled.iou < interval.high
        widths.append(interval.high - interval.low)
        mean = card.per_case("iou")
        assert mean.interval.low < mean.mean < mean.interval.high
    assert widths[1] < widths[0] / 2


def test_the_paired_difference_is_surer_than_the_scores() -> None:
    """Slices differ more than the two sets of masks do: pairing takes the slices out."""
    rng = np.random.default_rng(1)
    truths = boxes(60)
    shifts = rng.integers(2, 9, 60)
    ours = card_of(truths, [np.roll(t, s - 1, axis=1) for t, s in zip(truths, shifts, strict=True)])
    theirs = card_of(truths, [np.roll(t, s, axis=1) for t, s in zip(truths, shifts, strict=True)])
    gain = ours.difference(theirs, "iou")
    assert gain.value == ours.pooled.iou - theirs.pooled.iou
    assert 0 < gain.interval.low < gain.value < gain.interval.high
    alone = ours.pooled_interval("iou")
    assert gain.interval.high - gain.interval.low < (alone.high - alone.low) / 2
    mean = ours.mean_difference(theirs, "hd95")
    assert mean.value == -1.0
    assert (mean.interval.low, mean.interval.high) == (-1.0, -1.0)
    assert theirs.difference(ours, "dice").value < 0


def test_cases_that_are_compared_are_matched_by_name() -> None:
    truths = boxes(4)
    ours = card_of(truths, boxes(4, shift=1))
    theirs = card_of(truths, boxes(3, shift=2) + truths[3:])
    turned = ScoreCard(theirs.cases[::-1], theirs.class_names)
    for metric in ("iou", "dice"):
        assert ours.difference(turned, metric) == ours.difference(theirs, metric)
    assert ours.mean_difference(turned, "hd95") == ours.mean_difference(theirs, "hd95")
    assert ours.moved(turned) == ours.moved(theirs)


@pytest.mark.parametrize("compare", ["difference", "mean_difference", "moved"])
def test_other_cases_are_not_compared(compare: str) -> None:
    truths = boxes(4)
    ours = card_of(truths, truths)
    arguments = () if compare == "moved" else ("iou",)
    fewer = ScoreCard(ours.cases[:3], ours.class_names)
    twice = ScoreCard((*ours.cases[:3], ours.cases[0]), ours.class_names)
    for others in (fewer, twice):
        with pytest.raises(DataError, match=r"do not match by name: s3\. A difference is one on"):
            getattr(ours, compare)(others, *arguments)
    renamed = card_of(boxes(5)[1:], truths)  # of the same names, and other slices
    with pytest.raises(DataError, match=r"^s0: the truth holds lung in 120 of 1200 in 30x40"):
        getattr(ours, compare)(renamed, *arguments)


def test_vectorised_ratios_equal_those_of_one_table() -> None:
    counts = np.random.default_rng(2).integers(0, 9, (20, 3, 3))
    counts[3] = 0
    for metric in ("accuracy", "iou", "dice", "precision", "recall"):
        wanted = [getattr(lungunet.overlap(table), metric) for table in counts]
        np.testing.assert_allclose(ratios(counts)[metric], wanted)


class TestBaselines:
    def test_stand_beside_the_model_on_the_same_slices(
        self, run: Path, split: lungunet.Split
    ) -> None:
        card = evaluate(Predictor.load(run, device="cpu"), split.val)
        assert set(card.baselines) == {"threshold", "lungs", "all background"}
        nothing = card.baselines["all background"]
        assert (nothing.pooled.iou, nothing.pooled.recall) == (0.0, 0.0)
        share = np.mean([(lungunet.read_mask(pair.mask) == 0).mean() for pair in split.val])
        assert nothing.pooled.accuracy == pytest.approx(share)
        for word in ("threshold", "lungs"):
            for pair, case in zip(split.val, card.baselines[word].cases, strict=True):
                pred = Predictor.load(word).predict(lungunet.read_image(pair.image))
                wanted = iou(lungunet.read_mask(pair.mask) == 255, pred == 255)
                assert case.scores.iou == wanted or math.isnan(wanted)
        stored = card.to_dict()["baselines"]["threshold"]["model_minus_baseline"]["pooled_iou"]
        assert stored["value"] == card.pooled.iou - card.baselines["threshold"].pooled.iou

    def test_can_be_left_out(self, case) -> None:
        pairs, _, preds = case
        card = evaluate(Predictor(Fixed(preds)), pairs, baselines=False)
        assert card.baselines == {}

    def test_slices_without_hu_have_no_threshold(self, case) -> None:
        pairs, truths, preds = case
        for pair, truth in zip(pairs, truths, strict=True):
            lungunet.write_image(pair.image, (truth * 7).astype(np.uint8))
        grey = Predictor(Fixed(preds))
        grey.segmenter.contract = lungunet.InputContract(32, None, ("uint8",))
        card = evaluate(grey, pairs)
        assert set(card.baselines) == {"all background"}
        (remark,) = card.remarks
        assert remark == (
            "not scored: threshold and lungs. Slices of uint8 hold no HU: lung told from grey is a "
            "guess, enough for a second opinion, not for a score."
        )

    def test_a_model_that_does_not_take_the_slices_is_named_before_any_work(self, case) -> None:
        pairs, truths, preds = case
        grey = Predictor(Fixed(preds))
        grey.segmenter.contract = lungunet.InputContract(32, None, ("uint8",))
        lungunet.write_image(pairs[-1].image, (truths[-1] * 7).astype(np.uint8))
        with pytest.raises(DataError, match=rf"^{pairs[0].image}: a slice of int16, the model exp"):
            evaluate(grey, pairs)
        for pair, truth in zip(pairs, truths, strict=True):
            lungunet.write_image(pair.image, (truth * 7).astype(np.uint8))
        against = {"rule": Predictor.load("threshold"), "lungs": Predictor.load("lungs")}
        with pytest.raises(DataError, match=r": a slice of uint8, rule expects int16 or int32 or"):
            evaluate(grey, pairs, against=against)
        assert evaluate(grey, pairs, baselines=False).cases  # which no mask was taken for before

    def test_slices_that_cannot_be_hu_are_refused(self, case, tmp_path: Path) -> None:
        pairs, _, preds = case
        for pair in pairs:
            standardised = np.resize(np.float32([-1.2, 0.3, 3.6]), preds[0].shape)
            lungunet.write_image(pair.image, standardised)
            lungunet.write_mask(pair.mask, np.zeros(standardised.shape, np.uint8))
        with pytest.raises(DataError, match=r"slices to evaluate on: values -1\.2 to 3\.6: scaled"):
            evaluate(Predictor.load("threshold"), pairs)
        other = lungunet.InputContract(32, window=lungunet.Window(424, 1500))  # no HU
        masks = Predictor(Fixed([preds[0]] * 4))
        masks.segmenter.contract = other
        with pytest.raises(DataError, match=r"values -1\.2 to 3\.6: scaled"):
            evaluate(masks, pairs, against={"rule": Predictor.load("threshold")})
        card = evaluate(masks, pairs)
        assert set(card.baselines) == {"all background"}
        assert card.remarks[0].startswith("not scored: threshold and lungs. values -1.2 to 3.6")

    def test_another_model_stands_beside_it(self, case) -> None:
        pairs, truths, preds = case
        rivals = {"before": Predictor(Fixed([truth.copy() for truth in truths]))}
        card = evaluate(Predictor(Fixed(preds)), pairs, baselines=False, against=rivals)
        (before,) = card.baselines.values()
        assert before.pooled.iou == 1.0
        own = [iou(truth, pred) for truth, pred in zip(truths, preds, strict=True)]
        moved = card.moved(before, count=3)
        # s2 holds no lung and neither marks any; on s3 the other rightly marks none.
        better, worse = sorted(("s0", "s1"), key=lambda name: -own[int(name[1])])
        assert [row[0] for row in moved] == [better, worse, "s3"]
        assert moved == [(name, own[int(name[1])], 1.0) for name, *_ in moved]
        assert before.moved(card) == [(name, 1.0, ours) for name, ours, _ in moved[::-1]]
        assert before.moved(before) == []

    def test_one_called_like_a_baseline_stands_in_its_place(self, case) -> None:
        pairs, truths, preds = case
        rivals = {"all background": Predictor(Fixed(truths))}
        card = evaluate(Predictor(Fixed(preds)), pairs, against=rivals)
        other = card.baselines["all background"]
        assert (len(other.cases), other.pooled.iou) == (len(pairs), 1.0)

    def test_what_a_rival_invents_counts_in_the_mean_difference(self) -> None:
        truths = [np.zeros((6, 8), np.uint8) for _ in range(3)]
        truths[0][1:5, 1:5] = truths[2][0, 0] = 1
        rival = [truths[0], np.roll(truths[0], 1, axis=1), truths[2]]  # on the second it invents
        ours, theirs = card_of(truths, truths), card_of(truths, rival)
        for metric, gain in (("iou", 1.0), ("dice", 1.0), ("hd95", -math.hypot(6, 8))):
            assert ours.mean_difference(theirs, metric).value == pytest.approx(gain / 3)
            assert theirs.mean_difference(ours, metric).value == pytest.approx(-gain / 3)
        assert ours.moved(theirs) == [(ours.cases[1].name, 1.0, 0.0)]
        recall = ours.mean_difference(theirs, "recall")  # which nobody has without lung
        assert (recall.value, recall.interval) == (0.0, Interval(0.0, 0.0))

    def test_a_class_may_be_called_like_one(self, tmp_path: Path) -> None:
        truth = np.zeros((6, 8), np.uint8)
        truth[1:5, 1:5], truth[0, 0] = 1, 2
        pred = np.where(truth == 1, np.roll(truth, 1, axis=1), truth).astype(np.uint8)
        case = score_case("a", truth, pred, n_classes=3)
        rule = ScoreCard((score_case("a", truth > 0, truth > 0),), ("background", "lung"))
        names = ("background", "lungs", "trachea")
        ScoreCard((case,), names, {"lungs": rule}).save(tmp_path)
        with (tmp_path / "cases.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert float(row["iou_lungs"]) == case.scores.class_iou[1] < 1
        assert float(row["baseline_iou_lungs"]) == 1

    def test_nothing_is_a_baseline_to_itself(self, split: lungunet.Split) -> None:
        for word, other in (("threshold", "lungs"), ("lungs", "threshold")):
            card = evaluate(Predictor.load(word), split.val)
            assert set(card.baselines) == {other, "all background"}


class TestMaskFolder:
    def test_scores_equal_those_of_the_model_that_wrote_the_masks(
        self, run: Path, split: lungunet.Split, tmp_path: Path
    ) -> None:
        predictor = Predictor.load(run, device="cpu")
        for pair in split.test:
            mask = predictor.predict(lungunet.read_image(pair.image))
            lungunet.write_mask(tmp_path / f"{pair.name}.png", mask)
        card = evaluate(MaskFolder(tmp_path), split.test)
        paths = [pair.image for pair in split.test]
        assert [one.path for one in MaskFolder(tmp_path).predict_files(map(str, paths))] == paths
        wanted = evaluate(predictor, split.test)
        for ours, theirs in zip(card.cases, wanted.cases, strict=True):
            np.testing.assert_array_equal(ours.counts, theirs.counts)

    def test_other_codes_missing_masks_and_other_sizes(self, case, tmp_path: Path) -> None:
        pairs, truths, _ = case
        folder = tmp_path / "theirs"
        for pair, truth in zip(pairs, truths, strict=True):
            lungunet.write_mask(folder / f"{pair.name}.png", truth.astype(np.uint8))
        card = evaluate(MaskFolder(folder, LabelCodec({0: 0, 1: 1})), pairs)
        assert card.pooled.iou == 1.0
        with pytest.raises(lungunet.LabelError, match="mask value 1 "):
            evaluate(MaskFolder(folder), pairs)
        lungunet.write_mask(folder / "s1.png", np.zeros((3, 3), np.uint8))
        with pytest.raises(lungunet.GeometryError, match=r"s1: the mask to score is \(3, 3\)"):
            evaluate(MaskFolder(folder, LabelCodec({0: 0, 1: 1})), pairs)
        (folder / "s0.png").unlink()
        with pytest.raises(DataError, match=r"no mask of s0\."):
            evaluate(MaskFolder(folder, LabelCodec({0: 0, 1: 1})), pairs)
        (folder / "s2.tif").write_bytes(b"")
        with pytest.raises(DataError, match=r"occur twice:\n  s2 \(.*s2\.png, .*s2\.tif\)"):
            MaskFolder(folder)

    def test_a_folder_of_predictions_with_overlays(
        self, run: Path, split: lungunet.Split, tmp_path: Path
    ) -> None:
        write = lungunet.SliceFiles(overlay=True, probabilities=True)
        images = [pair.image for pair in split.test]
        list(lungunet.predict_slices(Predictor.load(run), images, tmp_path / "m", write=write))
        assert (tmp_path / "m" / "overlays").is_dir()
        card = evaluate(MaskFolder(tmp_path / "m"), split.test, baselines=False)
        assert len(card.cases) == len(split.test)

    def test_masks_are_found_by_the_files_that_they_were_predicted_from(
        self, run: Path, split: lungunet.Split, tmp_path: Path
    ) -> None:
        """Where a folder is predicted, names come of all that lies in it, not of a list."""
        images = [pair.image for pair in split.test]
        list(lungunet.predict_slices(Predictor.load(run), images, tmp_path / "m"))
        pairs = [replace(pair, name=f"other{n}") for n, pair in enumerate(split.test)]
        cards = [
            evaluate(MaskFolder(tmp_path / "m", slices=some), some, baselines=False)
            for some in (split.test, pairs)
        ]
        for ours, theirs in zip(cards[0].cases, cards[1].cases, strict=True):
            np.testing.assert_array_equal(ours.counts, theirs.counts)
        (tmp_path / "m" / RECORD).unlink()
        with pytest.raises(DataError, match=r"no mask of other0\."):
            evaluate(MaskFolder(tmp_path / "m", slices=pairs), pairs, baselines=False)

    def test_masks_that_are_called_otherwise(self, case, tmp_path: Path) -> None:
        pairs, truths, _ = case
        truths = [(truth * 255).astype(np.uint8) for truth in truths]
        for pair, truth in zip(pairs, truths, strict=True):
            lungunet.write_mask(tmp_path / "a" / f"{pair.name}_seg.png", truth)
            lungunet.write_mask(tmp_path / "b" / f"{pair.name}_by_me.png", truth)
            lungunet.write_mask(tmp_path / "b" / f"{pair.name}_by_you.png", 0 * truth)
        lungunet.write_mask(tmp_path / "a" / "of_another_list_seg.png", truths[0])
        with pytest.warns(lungunet.LungUNetWarning, match=r"as by mask_names='\*=\*_seg'"):
            assert evaluate(MaskFolder(tmp_path / "a"), pairs).pooled.iou == 1.0
        theirs = MaskFolder(tmp_path / "b", mask_names="*=*_by_me")
        assert evaluate(theirs, pairs).pooled.iou == 1.0
        with pytest.raises(DataError, match=r"no mask of s0\..*mask_names="):
            evaluate(MaskFolder(tmp_path / "b"), pairs)
        with pytest.raises(lungunet.ConfigError, match="IMAGE=MASK"):
            MaskFolder(tmp_path / "b", mask_names="_seg")


def test_a_truth_without_lung_is_told(phantoms, tmp_path: Path, run_cli) -> None:
    for name in ("train", "val", "test"):
        pairs = lungunet.find_pairs(*phantoms)
        lungunet.write_manifest(tmp_path / "d" / f"{name}.txt", pairs[name == "val" :: 2][:2])
    (tmp_path / "d" / "train.txt").unlink()
    done = run_cli("evaluate", "lungs", tmp_path / "d", "--labels", "0,7,*=0")
    assert "the truth: no lung in any of 2 masks, read as 0,7,*=0. Look at" in done.out
    assert "nan" not in done.out
    assert "temperature" not in done.out


class TestClassNames:
    NAMES = ("background", "left lung", "right lung")

    @pytest.fixture
    def sides(self, tmp_path: Path) -> list[Pair]:
        """A slice whose mask holds 1 on the one side and 2 on the other."""
        truth = np.zeros((9, 8), np.uint8)
        truth[2:6, 1:3], truth[1:6, 5:7] = 1, 2
        lungunet.write_image(tmp_path / "a.tif", truth.astype(np.int16) * -700)
        lungunet.write_mask(tmp_path / "masks" / "a.png", truth)
        return [Pair(tmp_path / "a.tif", tmp_path / "masks" / "a.png")]

    @pytest.mark.parametrize(
        ("truth", "masks", "says"),
        [
            ("0,1=1,2=1", "0,1,2", "masks as lung are mask_codec=LabelCodec.parse('0=0,1=1,2=1')."),
            ("0,2,1", "0,1=1,2=1", "truth as lung are codec=LabelCodec.parse('0=0,1=1,2=1')."),
            ("0,1,2", "0,1,2,3", "Pass codec for the truth, or mask_codec for masks,"),
        ],
    )
    def test_more_classes_than_the_truth_has(self, sides, truth, masks, says) -> None:
        truth, masks = LabelCodec.parse(truth), LabelCodec.parse(masks)
        with pytest.raises(DataError, match=r"^the truth has \d classes, the masks") as caught:
            self.score(sides, truth, masks)
        assert says in str(caught.value)

    def score(self, pairs: list[Pair], truth: LabelCodec, masks: LabelCodec) -> ScoreCard:
        folder = MaskFolder(pairs[0].mask.parent, masks)
        return evaluate(folder, pairs, codec=truth, baselines=False)

    def test_of_another_order_are_matched(self, sides: list[Pair]) -> None:
        plain = LabelCodec({0: 0, 1: 1, 2: 2}, names=self.NAMES)
        turned = LabelCodec({0: 0, 2: 1, 1: 2}, names=(self.NAMES[0], *self.NAMES[:0:-1]))
        for truth, masks in ((plain, turned), (turned, plain)):
            card = self.score(sides, truth, masks)
            assert (card.pooled.class_iou, card.class_names) == ((1, 1, 1), truth.names)
            assert card.remarks == ()
        exchanged = replace(plain, names=turned.names)
        assert self.score(sides, plain, exchanged).pooled.class_iou == (1, 0, 0)

    def test_that_differ_are_told(self, sides: list[Pair]) -> None:
        truth = LabelCodec({0: 0, 1: 1, 2: 2}, names=("background", "left", "right lung"))
        card = self.score(sides, truth, replace(truth, names=self.NAMES))
        assert card.pooled.class_iou == (1, 1, 1)
        assert card.remarks == (
            "classes are compared by their order, for truth and masks call them otherwise: left "
            "with left lung",
        )
        assert self.score(sides, truth, LabelCodec.parse("0,1,2")).remarks == ()


class TestPatients:
    def test_every_slice_needs_one_where_any_are_named(self, case) -> None:
        pairs, _, preds = case
        whole = {pair.name: "ab"[place % 2] for place, pair in enumerate(pairs)}
        of_files = {pair.image.name: "a" for pair in pairs}
        part = {"s0": 1, "s1": 2}  # a slice called 1 would have been of the first patient
        for patients, missing in ((part, "s2, s3"), (of_files, "s0, s1, s2, s3"), ({}, "s0, s1")):
            said = f"^patients: none is named for . of 4 slices: {missing}"
            with pytest.raises(SplitError, match=said):
                evaluate(Predictor(Fixed(preds)), pairs, patients=patients, baselines=False)
        more = {**whole, "elsewhere": "c"}
        card = evaluate(Predictor(Fixed(preds)), pairs, patients=more, baselines=False)
        assert card.patients == ["a", "b", "a", "b"]


def test_pictures_of_the_worst_and_the_best(
    run: Path, split: lungunet.Split, tmp_path: Path
) -> None:
    pairs = [*split.train, *split.test]
    predictor = Predictor.load(run, device="cpu")
    card = evaluate(predictor, pairs, baselines=False)
    stale = tmp_path / "worst-09_old.png"
    stale.write_bytes(b"")
    save_pictures(tmp_path, predictor, pairs, card, codec=lungunet.LUNG_CODEC)
    names = sorted(path.name for path in tmp_path.iterdir())
    ranked = [case.name for case in card.worst(99)]
    assert f"worst-01_{ranked[0]}.png" in names
    assert sum(name.startswith("worst") for name in names) == min(6, len(ranked))
    assert (f"best-01_{ranked[-1]}.png" in names) == (len(ranked) > 6)
    assert not stale.exists()


def test_a_metric_is_one_entry(
    run_cli, own_run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered with its formula, it stands in the table, the files, the page and the card."""
    specificity = Metric("specificity", lambda n: share(n.tn, n.tn + n.fp), interval=True)
    monkeypatch.setitem(METRICS, "specificity", specificity)
    table = run_cli("evaluate", own_run, data, "--no-baselines").out.splitlines()
    folder = own_run / "evaluation" / "test"
    scores = json.loads((folder / "scores.json").read_text())
    with (folder / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    counts = [np.zeros((2, 2), int) for _ in rows]
    predictor = Predictor.load(own_run, device="cpu")
    for count, pair in zip(counts, lungunet.read_split(data).test, strict=True):
        truth = lungunet.read_mask(pair.mask) == 255
        pred = predictor.predict(lungunet.read_image(pair.image)) == 255
        for t, p in zip(truth.ravel(), pred.ravel(), strict=True):
            count[int(t), int(p)] += 1
    wanted = [count[0, 0] / count[0].sum() for count in counts]
    total = sum(counts)
    assert [float(row["specificity"]) for row in rows] == wanted
    assert scores["pooled"]["specificity"] == total[0, 0] / total[0].sum()
    assert scores["per_case"]["specificity"]["mean"] == np.mean(wanted)
    assert scores["per_patient"]["specificity"]["n"] == scores["patients"]
    low, high = scores["pooled_interval"]["specificity"]
    shown = next(line.split() for line in table if line.startswith("specificity"))
    numbers = (scores["pooled"]["specificity"], low, high, np.mean(wanted), np.median(wanted))
    assert [word for word in shown if "." in word] == [f"{number:.4f}" for number in numbers]
    page = (own_run / "report.html").read_text(encoding="utf-8")
    assert '<th scope="row">Specificity</th>' in page
    card = (own_run / "best" / "README.md").read_text(encoding="utf-8")
    assert f"| specificity, pooled | {numbers[0]:.4f} | {low:.4f} to {high:.4f} |" in card


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.02, "A beats the threshold baseline, by 0.0123 pooled lung IoU"),
        (-0.02, -0.01, "A does worse than the threshold baseline, by 0.0123 pooled lung IoU"),
        (-0.01, 0.02, "A is not clearly better than the threshold baseline: the interval of"),
        (math.nan, math.nan, "whether A beats the threshold baseline cannot be said: an interval"),
    ],
)
def test_the_verdict_is_that_of_the_interval(low: float, high: float, words: str) -> None:
    value = 0.0123 if not high < 0 else -0.0123
    assert verdict(Difference(value, Interval(low, high)), model="A").startswith(words)


def test_no_verdict_where_no_lung_is() -> None:
    said = verdict(Difference(math.nan, Interval(math.nan, math.nan)), model="A")
    assert said.endswith("cannot be said: of no lung there is no IoU")


class TestEvaluateList:
    def test_a_run_s_own_scores_are_kept_beside_it(self, own_run: Path, data: Path) -> None:
        card = evaluate_list(own_run, data, device="cpu")
        assert card.folder == own_run / "evaluation" / "test"
        stored = json.loads((card.folder / "scores.json").read_text())
        about = {"model": str(own_run), "data": str(data), "split": "test"}
        assert stored == {**about, **card.to_dict()}
        assert list((card.folder / "pictures").glob("worst-01_*.png"))
        said = card.verdict()
        assert lungunet.load_model(own_run).scores["test"]["verdict"] == said
        assert f"Verdict: {said}." in (own_run / "best" / "README.md").read_text()
        page = (own_run / "report.html").read_text(encoding="utf-8")
        assert f"<strong>{said[0].upper()}{said[1:]}.</strong>" in page
        with pytest.raises(ConfigError, match=r"scores\.json.*: already there"):
            evaluate_list(own_run, data, device="cpu")
        evaluate_list(own_run, data, device="cpu", overwrite=True)

    def test_others_only_where_it_is_told_to(self, data: Path, phantoms, tmp_path: Path) -> None:
        card = evaluate_list(phantoms[1], data, split="val", baselines=False)
        assert (card.pooled.iou, card.folder, card.verdict()) == (1.0, None, None)
        evaluate_list("threshold", data, out=tmp_path / "s", baselines=False)
        with pytest.raises(ConfigError, match=r"scores\.json.*: already there"):
            evaluate_list("none/of/these", data, out=tmp_path / "s")
        done = evaluate_list("threshold", data, out=tmp_path / "s", overwrite=True)
        assert set(done.baselines) == {"lungs", "all background"}
        assert json.loads((tmp_path / "s" / "scores.json").read_text())["model"] == "threshold"

    def test_codes_of_both_sides(self, data: Path, phantoms, tmp_path: Path) -> None:
        for path in phantoms[1].iterdir():
            raw = lungunet.read_mask(path)
            lungunet.write_mask(tmp_path / "zero-one" / path.name, raw // 255)
        ones = LabelCodec({0: 0, 1: 1})
        card = evaluate_list(tmp_path / "zero-one", data, mask_codec=ones, baselines=False)
        assert card.pooled.iou == 1.0
        with pytest.raises(lungunet.LabelError, match=r"value 255 .*\(codec=.*'0,255'"):
            evaluate_list(tmp_path / "zero-one", data, codec=ones, mask_codec=ones)
        with pytest.raises(lungunet.LabelError, match=r"value 1 .*\(mask_codec=.*'0,1'"):
            evaluate_list(tmp_path / "zero-one", data)

    def test_slices_that_a_run_was_trained_on_are_told(self, own_run: Path, data: Path) -> None:
        with pytest.raises(SplitError, match="6 of these 6 slices are among those that"):
            evaluate_list(own_run, data, split="train", device="cpu")
        card = evaluate_list(own_run, data, split="train", device="cpu", allow_seen=True)
        assert (len(card.cases), card.seen) == (6, 6)
        assert card.verdict().endswith(", on slices of which it has seen 6")
        with (card.folder / "cases.csv").open() as file:
            assert {row["seen"] for row in csv.DictReader(file)} == {"True"}
        assert json.loads((card.folder / "scores.json").read_text())["seen_slices"] == 6
        assert ", 6 of which it has seen" in (own_run / "best" / "README.md").read_text()
        page = (own_run / "report.html").read_text(encoding="utf-8")
        assert page.count("Model, 6 of 6 slices seen") == 6  # in the head of each table

    def test_slices_that_were_shuffled_into_test_since(
        self, own_run: Path, split, tmp_path: Path
    ) -> None:
        moved = {}  # elsewhere, and called otherwise
        for pair in (*split.train[:2], split.val[0], *split.test[1:]):
            new = tmp_path / "moved" / f"a-{pair.name}.png"
            new.parent.mkdir(exist_ok=True)
            shutil.copy(pair.image, new)
            moved[pair.name] = lungunet.Pair(new, pair.mask)
        lists = lungunet.Split([], [split.val[1]], list(moved.values()))
        lungunet.write_split(tmp_path / "again", lists, {})
        with pytest.raises(SplitError, match="3 of these 5 slices are among") as err:
            evaluate_list(own_run, tmp_path / "again", device="cpu")
        assert all(f"a-{name}" in str(err.value) for name in list(moved)[:3])
        with pytest.raises(SplitError, match="3 of these 5"):  # by its model folder too
            evaluate_list(own_run / "best", tmp_path / "again", device="cpu")
        card = evaluate_list(own_run, tmp_path / "again", split="val", device="cpu")
        assert card.seen == 0
        assert card.remarks == (
            f"1 of these 1 slices chose the epoch of {own_run}: its scores on them flatter it; "
            "judge it by test",
            f"the lists of {tmp_path / 'again'} are not those that {own_run} was trained with",
        )
        assert json.loads((card.folder / "scores.json").read_text())["remarks"] == [*card.remarks]
        page = (own_run / "report.html").read_text(encoding="utf-8")
        assert page.count("flatter it; judge it by test") == 1
        about = (own_run / "best" / "README.md").read_text()
        assert (
            "(other lists than it was trained with), which flatters where it chose the epoch,"
            in about
        )
        rule = evaluate_list(
            "threshold", tmp_path / "again", split="val", against=str(own_run), baselines=False
        )
        assert rule.remarks == card.remarks[:1]

    def test_slices_that_were_written_anew(self, own_run: Path, split, tmp_path: Path) -> None:
        pair = split.train[0]
        lungunet.write_image(tmp_path / f"{pair.name}.tif", lungunet.read_image(pair.image) + 1)
        new = lungunet.Pair(tmp_path / f"{pair.name}.tif", pair.mask)
        lungunet.write_split(tmp_path / "again", lungunet.Split([], [], [new]), {})
        card = evaluate_list(own_run, tmp_path / "again", device="cpu")
        assert card.seen == 0
        assert card.remarks[-1].startswith("1 slice called like ones that were trained on")

    def test_slices_that_only_an_earlier_run_has_seen(
        self, own_run: Path, split, tmp_path: Path
    ) -> None:
        parent = own_run
        for number, train in enumerate([split.test, split.train[:3]]):  # one begins with the other
            folder = tmp_path / f"data-{number}"
            lungunet.write_split(folder, lungunet.Split(train, split.val, []), {})
            out = tmp_path / f"run-{number}"
            weights = parent / "best" / "model.safetensors" if number else parent
            config = lungunet.RunConfig(data=folder, weights=str(weights), **QUICK)
            list(lungunet.train_run(config, out))
            shutil.rmtree(parent)  # what is kept must not depend on it
            parent = out
        lists = lungunet.Split([], split.val, [*split.train, *split.test])
        lungunet.write_split(tmp_path / "again", lists, {})
        with pytest.raises(SplitError, match="9 of these 9 slices are among those that"):
            evaluate_list(parent, tmp_path / "again", device="cpu")
        evaluate_list(parent, tmp_path / "again", split="val", device="cpu")  # trained on by none
        with (parent / "slices.csv").open() as file:
            rows = {row["name"]: row["generation"] for row in csv.DictReader(file)}
        generations = [rows[pair.name] for pair in (*split.val, *split.train, *split.test)]
        assert generations == ["0"] * 6 + ["2"] * 3 + ["1"] * 3

    def test_a_run_that_replaces_the_one_that_it_begins_with(
        self, own_run: Path, split, tmp_path: Path
    ) -> None:
        lists = lungunet.Split(split.test, split.val, split.train)
        lungunet.write_split(tmp_path / "new", lists, {})
        config = lungunet.RunConfig(data=tmp_path / "new", weights=str(own_run), **QUICK)
        list(lungunet.train_run(config, own_run, overwrite=True))
        with pytest.raises(SplitError, match="6 of these 6 slices"):
            evaluate_list(own_run, tmp_path / "new", device="cpu")

    def test_val_that_the_first_weights_were_trained_on_is_told(
        self, own_run: Path, split, tmp_path: Path
    ) -> None:
        lungunet.write_split(tmp_path / "new", lungunet.Split(split.test, split.train[:2], []), {})
        config = lungunet.RunConfig(data=tmp_path / "new", weights=str(own_run), **QUICK)
        with pytest.warns(LungUNetWarning, match="2 of the 2 slices of val were trained on by"):
            list(lungunet.train_run(config, tmp_path / "run"))
        (own_run / "slices.csv").unlink()
        with pytest.warns(LungUNetWarning, match="keeps no list of the slices"):
            list(lungunet.train_run(config, tmp_path / "run", overwrite=True))

    def test_runs_that_did_not_keep_their_slices(
        self, own_run: Path, data: Path, tmp_path: Path
    ) -> None:
        (own_run / "slices.csv").unlink()
        with pytest.raises(SplitError, match="6 of these 6 slices"):
            evaluate_list(own_run, data, split="train", device="cpu")
        config = (own_run / "config.toml").read_text()
        other = shutil.copytree(data, tmp_path / "data")
        (other / "train.txt").write_text("\n" + (data / "train.txt").read_text())
        (own_run / "config.toml").write_text(config.replace(str(data), str(other)))
        with pytest.warns(LungUNetWarning, match="the lists that it was trained on are gone or"):
            evaluate_list(own_run, data, split="train", device="cpu")

    def test_damaged_notes_are_named(self, own_run: Path, data: Path) -> None:
        (own_run / "slices.csv").write_text("name\na\n")
        with pytest.raises(DataError, match=r"slices\.csv: damaged"):
            evaluate_list(own_run, data, device="cpu")

    def test_against_other_models_and_masks(
        self, own_run: Path, data: Path, phantoms, tmp_path: Path
    ) -> None:
        masks = str(phantoms[1])
        card = evaluate_list(own_run, data, device="cpu", against=[masks, "threshold"])
        assert list(card.baselines) == [masks, "threshold", "lungs", "all background"]
        assert card.baselines[masks].pooled.iou == 1.0
        with (card.folder / "cases.csv").open() as file:
            rows = list(csv.DictReader(file))
        for row, ours in zip(rows, card.baselines["threshold"].cases, strict=True):
            assert row["baseline_iou_threshold"] == (
                "" if ours.truth_px == 0 else str(ours.scores.iou)
            )
        assert {row[f"baseline_iou_{masks}"] for row in rows} <= {"1.0", ""}
        assert "baseline_iou_all background" not in rows[0]
        page = (own_run / "report.html").read_text(encoding="utf-8")
        assert (
            f"Where it gains and loses most against {masks}, lung IoU, 1 if rightly empty" in page
        )
        with pytest.raises(ConfigError, match="against: threshold is what is scored"):
            evaluate_list("threshold", data, against=["threshold"])

    def test_one_that_has_seen_the_slices_is_no_rival(
        self, own_run: Path, data: Path, tmp_path: Path
    ) -> None:
        scoring = {"split": "train", "against": [own_run], "device": "cpu", "baselines": False}
        with pytest.raises(SplitError, match=f"6 of these 6 slices are among .* {own_run} was"):
            evaluate_list("threshold", data, **scoring)
        card = evaluate_list("threshold", data, **scoring, allow_seen=True)
        assert card.seen == 0
        assert card.remarks == (
            f"6 of these slices were trained on by {own_run}, or its epoch chosen on them: its "
            "scores are too good",
        )

    def test_what_only_masks_have_is_refused_for_a_model(self, data: Path) -> None:
        for option in ({"mask_names": "*=*_a"}, {"mask_codec": LabelCodec({0: 0, 1: 1})}):
            with pytest.raises(ConfigError, match=f"{next(iter(option))}: lungs is no folder of"):
                evaluate_list("lungs", data, **option)

    def test_refusals(self, own_run: Path, data: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="split: 'dev' is not one of train, val, test"):
            evaluate_list(own_run, data, split="dev")
        with pytest.raises(DataError, match="no such folder"):
            evaluate_list(own_run, tmp_path / "none")
        with pytest.raises(ModelError, match="no such folder"):
            evaluate_list(tmp_path / "none", data)


def test_arguments_of_other_kinds():
    rule = Predictor.load("threshold")
    for predictor, pairs, said in (
        ("lungs", [], r"^predictor: 'lungs' is of the wrong kind\. Give Predictor\.load"),
        (rule, "test.txt", r"^pairs: 'test\.txt' is of the wrong kind\. Give what find_pairs"),
        (rule, ["a.tif"], r"^pairs: 'a\.tif' is of the wrong kind"),
    ):
        with pytest.raises(ConfigError, match=said):
            evaluate(predictor, pairs)


def test_scores_of_other_lists_than_its_own_are_named(
    own_run: Path, data: Path, split: lungunet.Split, tmp_path: Path
) -> None:
    said = f"the lists of {tmp_path / 'theirs'} are not those that {own_run} was trained with"
    moved = tmp_path / "moved"
    lungunet.write_split(moved, lungunet.Split([], [], split.test), {})
    for name in ("train.txt", "val.txt"):  # as they were; only test is read
        shutil.copy(data / name, moved / name)
    assert said not in evaluate_list(own_run, moved, device="cpu").remarks
    assert "theirs" not in (own_run / "best" / "README.md").read_text()
    lungunet.write_split(tmp_path / "theirs", lungunet.Split([], [], split.test[1:]), {})
    card = evaluate_list(own_run, tmp_path / "theirs", device="cpu", overwrite=True)
    assert said in card.remarks
    assert said in (own_run / "report.html").read_text(encoding="utf-8")
    assert "test of `theirs` (other lists" in (own_run / "best" / "README.md").read_text()
    scores = json.loads((own_run / "evaluation" / "test" / "scores.json").read_text())
    assert scores["data"] == str(tmp_path / "theirs")
    elsewhere = evaluate_list(own_run, data, out=tmp_path / "scores", device="cpu")
    assert f"Scores on test of {data}" in (elsewhere.folder / "report.html").read_text()


class TestSlicesOfTheBuiltInModel:
    """They are known by their HU: nobody has the files that it was trained on."""

    @pytest.fixture
    def known(self, split: lungunet.Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A built-in model that was trained on the first slice of test, and on one of val."""
        folder = Path(shutil.copytree(BUILTIN["lungs"], tmp_path / "built-in" / "lungs"))
        digests = [
            digest_hu(lungunet.read_image(pair.image)) for pair in (split.test[0], split.val[0])
        ]
        rows = "".join(f"train,,{digest}\n" for digest in digests)
        (folder / "slices.csv").write_text(f"list,name,digest\n{rows}", encoding="utf-8")
        monkeypatch.setitem(BUILTIN, "lungs", folder)

    def test_they_do_not_judge_it(self, known: None, data: Path, split: lungunet.Split) -> None:
        with pytest.raises(SplitError, match="1 of these 3 slices are among those that lungs was"):
            evaluate_list("lungs", data, device="cpu")
        card = evaluate_list("lungs", data, device="cpu", allow_seen=True)
        assert [case.seen for case in card.cases] == [True, False, False]

    def test_beside_another_model_it_is_said(
        self, known: None, own_run: Path, data: Path, tmp_path: Path
    ) -> None:
        said = "1 of these slices were trained on by lungs, or its epoch chosen on them: its"
        card = evaluate_list(own_run, data, device="cpu")
        assert sum(said in remark for remark in card.remarks) == 1
        rule = evaluate_list("threshold", data, against=["lungs"], device="cpu", allow_seen=True)
        assert sum(said in remark for remark in rule.remarks) == 1

    def test_what_begins_with_it_has_seen_them(
        self, known: None, split: lungunet.Split, data: Path, tmp_path: Path
    ) -> None:
        train = LungCTDataset(split.train, size=32)
        val = LungCTDataset(split.val, contract=train.contract)
        config = lungunet.TrainConfig(epochs=1, batch_size=2, device="cpu", workers=0)
        trainer = lungunet.Trainer(lungunet.load_model("lungs").model, config, out=tmp_path / "run")
        with pytest.warns(LungUNetWarning, match="1 of the 3 slices of val were trained on by"):
            trainer.fit(train, val)
        with pytest.raises(SplitError, match="1 of these 3 slices are among"):
            evaluate_list(tmp_path / "run", data, device="cpu")


def test_the_built_in_model_keeps_what_it_was_trained_on_and_names_nobody() -> None:
    rows = read_seen(BUILTIN["lungs"] / "slices.csv")
    assert len({row["digest"] for row in rows}) == len(rows) == 217
    assert {(row["list"], row["name"]) for row in rows} == {("train", "")}
    assert all(row["digest"].startswith("hu:") for row in rows)
