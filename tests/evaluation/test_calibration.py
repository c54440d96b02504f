"""Whether probabilities mean what they say: against a plain loop, and where the answer is known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import Pair, Predictor, Segmented, evaluate, fit_temperature
from lungunet.evaluation.calibration import BINS, count_reliability, ece
from lungunet.evaluation.evaluate import evaluate_list

RNG = np.random.default_rng(0)


def said(lung: np.ndarray) -> Segmented:
    lung = lung.astype(np.float32)
    return Segmented.likeliest(np.stack([1 - lung, lung]))


def by_loop(truth: np.ndarray, lung: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, pixel by pixel, over the pixels called lung."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for t, p in zip(truth.ravel(), lung.ravel(), strict=True):
        if p > 0.5:
            bins.setdefault(min(int(p * 15), 14), []).append((float(p), bool(t)))
    total = sum(map(len, bins.values()))
    return sum(
        len(each) / total * abs(np.mean([p for p, _ in each]) - np.mean([t for _, t in each]))
        for each in bins.values()
    )


class TestError:
    def test_is_that_of_a_loop(self) -> None:
        lung = RNG.random((37, 24)).astype(np.float32)
        truth = (RNG.random((37, 24)) < 0.7).astype(np.uint8)
        sums = count_reliability(truth, said(lung))
        assert sums.shape == (BINS, 3)
        assert sums[:, 0].sum() == (lung > 0.5).sum()
        assert float(ece(sums.ravel())) == pytest.approx(by_loop(truth, lung), abs=1e-5)

    def test_several_classes_are_lung_together(self) -> None:
        probabilities = RNG.dirichlet([1, 1, 1], (20, 31)).transpose(2, 0, 1).astype(np.float32)
        segmented = Segmented.likeliest(probabilities)
        truth = RNG.integers(0, 3, (20, 31)).astype(np.uint8)
        sums = count_reliability(truth, segmented)
        called = segmented.classes > 0
        assert sums[:, 0].sum() == called.sum()
        assert sums[:, 1].sum() == pytest.approx((1 - probabilities[0])[called].sum(), rel=1e-5)
        assert sums[:, 2].sum() == (truth[called] > 0).sum()

    def test_where_nothing_is_called_lung_or_nothing_is_promised(self) -> None:
        truth = np.ones((4, 5), np.uint8)
        assert math.isnan(ece(count_reliability(truth, said(np.zeros((4, 5)))).ravel()))
        assert count_reliability(truth, Segmented(truth)) is None
        sure = count_reliability(truth, said(np.ones((4, 5))))
        assert float(ece(sure.ravel())) == pytest.approx(0, abs=1e-6)


class TooSure:
    """Says lung with logits three times as large as what is drawn from them."""

    codec, word = lungunet.LUNG_CODEC, ""

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, Segmented] = {}
        self.pairs = []
        for number in range(6):
            logits = RNG.normal(1.5, 1, (64, 48))
            truth = RNG.random(logits.shape) < 1 / (1 + np.exp(-logits))
            pair = Pair(folder / f"{number}.tif", folder / f"{number}.png")
            lungunet.write_image(pair.image, np.zeros(logits.shape, np.int16))
            lungunet.write_mask(pair.mask, truth.astype(np.uint8) * np.uint8(255))
            self.pairs.append(pair)
            self.answers[pair.name] = said(1 / (1 + np.exp(-3 * logits)))

    def predict_files(self, paths, *, batch_size: int = 8):
        for path in paths:
            yield lungunet.Prediction(path, segmented=self.answers[path.stem])

    def to_grey(self, image):
        return image


class TestTemperature:
    def test_finds_what_was_put_in_and_mends_it(self, tmp_path: Path) -> None:
        model = TooSure(tmp_path)
        found = fit_temperature(model, model.pairs, model.codec)
        assert found == pytest.approx(3, rel=0.1)
        card = evaluate(model, model.pairs, baselines=False, temperature=found)
        result = card.calibration
        assert result.temperature == found
        assert result.ece > 0.08
        assert result.interval.low < result.ece < result.interval.high
        assert result.ece_after < 0.02
        stored = card.to_dict()["calibration"]
        assert stored["ece"] == result.ece
        assert stored["interval"] == [result.interval.low, result.interval.high]

    def test_of_a_rule_there_is_none(self, split, phantoms) -> None:
        rule = Predictor.load("threshold")
        assert fit_temperature(rule, split.val, rule.codec) is None
        card = evaluate(rule, split.val, baselines=False)
        assert card.calibration is None
        assert card.to_dict()["calibration"] is None


class TestEvaluateList:
    @pytest.mark.filterwarnings("ignore::lungunet.LungUNetWarning")
    def test_before_and_after_what_val_says(self, own_run: Path, data: Path, run_cli) -> None:
        card = evaluate_list(own_run, data, device="cpu", baselines=False)
        split = lungunet.read_split(data)
        predictor = Predictor.load(own_run, device="cpu")
        wanted = fit_temperature(predictor, split.val, predictor.codec)
        assert card.temperature == wanted
        card = evaluate_list(own_run, data, split="val", device="cpu", baselines=False)
        assert card.temperature is None  # val does not judge itself
        if card.calibration:
            assert card.calibration.ece_after is None

    def test_is_printed_and_kept(self, run_cli, data: Path, tmp_path: Path) -> None:
        done = run_cli("evaluate", "lungs", data, "--out", tmp_path / "s", "--device", "cpu")
        assert "of pixels called lung, probabilities are off by 0." in done.out
        assert "; with one temperature of " in done.out
        stored = json.loads((tmp_path / "s" / "scores.json").read_text())["calibration"]
        assert stored["temperature"] > 0
        assert stored["ece_after"] is not None


class TestEnsemble:
    @pytest.fixture
    def folds(self, run: Path, tmp_path: Path) -> Path:
        import shutil

        for number in (1, 2):
            shutil.copytree(run, tmp_path / "cv" / f"fold-{number}")
        return tmp_path / "cv"

    def test_keeps_its_scores_beside_its_folds(self, folds: Path, data: Path) -> None:
        card = evaluate_list(folds, data, device="cpu", baselines=False)
        assert card.folder == folds / "evaluation" / "test"
        assert (card.folder / "cases.csv").exists()

    def test_has_seen_what_any_fold_has(self, folds: Path, data: Path) -> None:
        with pytest.raises(lungunet.SplitError, match="6 of these 6 slices are among"):
            evaluate_list(folds, data, split="train", device="cpu")
        table = (folds / "fold-2" / "slices.csv").read_text()
        (folds / "fold-2" / "slices.csv").write_text(table.replace("val,", "train,"))
        card = evaluate_list(folds, data, device="cpu", baselines=False)
        assert card.temperature is None
        assert card.remarks == (
            "no temperature was fitted: 3 of the 3 slices of val were trained on",
        )


def test_ignored_pixels_count_for_nothing() -> None:
    rng = np.random.default_rng(0)
    lung = rng.uniform(0.4, 1, (40, 50)).astype(np.float32)
    segmented = Segmented.likeliest(np.stack([1 - lung, lung]))
    truth = (rng.random((40, 50)) < lung).astype(np.uint8)
    known = rng.random((40, 50)) < 0.5
    alone = Segmented(segmented.classes[known][None], segmented.probabilities[:, known][:, None])
    expected = count_reliability(truth[known][None], alone)
    assert np.allclose(count_reliability(np.where(known, truth, 255), segmented), expected)
