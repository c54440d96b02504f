"""Scores against a plain double loop."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import DataError, LabelCodec, Pair, Predictor, SplitError, evaluate


class Fixed:
    """Predicts what it is told to, slice after slice."""

    codec = lungunet.LUNG_CODEC

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.masks = iter(masks)

    def __call__(self, images):
        return [np.eye(2, dtype=np.float32)[:, next(self.masks)] for _ in images]

    def to_grey(self, image):
        return image


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
        lungunet.write_image(pair.image, truth.astype(np.int16))
        lungunet.write_mask(pair.mask, (truth * 255).astype(np.uint8))
        pairs.append(pair)
    return pairs, truths, preds


def iou(truth: np.ndarray, pred: np.ndarray) -> float:
    both = either = 0
    for t, p in zip(truth.ravel(), pred.ravel(), strict=True):
        both += t and p
        either += t or p
    return both / either if either else math.nan


def test_pooled_and_per_case_equal_a_double_loop(case) -> None:
    pairs, truths, preds = case
    card = evaluate(Predictor(Fixed(preds)), pairs)
    wanted = [iou(t, p) for t, p in zip(truths, preds, strict=True)]
    np.testing.assert_allclose([c.scores.iou for c in card.cases], wanted)
    flat_t, flat_p = (np.concatenate([a.ravel() for a in arrays]) for arrays in (truths, preds))
    assert card.pooled.iou == iou(flat_t, flat_p)
    assert card.pooled.accuracy == (flat_t == flat_p).mean()
    mean, median, n = card.per_case("iou")
    defined = [value for value in wanted if not math.isnan(value)]
    assert (mean, median, n) == (np.mean(defined), np.median(defined), 3)
    assert [c.name for c in card.worst(2)][0] == "s3"
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


def test_nothing_to_score(case) -> None:
    with pytest.raises(SplitError, match="no pairs to evaluate on"):
        evaluate(Predictor(Fixed([])), [])


def test_a_bad_file_stops_the_score(case) -> None:
    pairs, _, preds = case
    pairs[1].image.write_bytes(b"")
    with pytest.raises(DataError, match=r"s1\.tif: the file is empty"):
        evaluate(Predictor(Fixed(preds)), pairs)


def test_another_number_of_classes_is_refused(case) -> None:
    pairs, _, preds = case
    with pytest.raises(DataError, match="the masks have 3 classes, the model 2"):
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
