"""What ``evaluate`` of a run's own model leaves in its model folder."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import load_model, save_model
from lungunet.evaluation.evaluate import note_scores
from lungunet.evaluation.scorecard import ScoreCard, score_case
from lungunet.models.card import model_card
from lungunet.models.folder import weights_hash
from lungunet.training.run_folder import _without_place

BUILTIN = "models/builtin/lungs/lungunet.json"


def test_the_run_s_own_scores_stand_in_its_card(run_cli, own_run: Path, data: Path) -> None:
    before = load_model(own_run).scores
    scores = json.loads(run_cli("evaluate", own_run, data, "--json").out)
    pooled, threshold = scores["pooled"], scores["baselines"]["threshold"]
    found = load_model(own_run).scores["test"]
    assert (found["slices"], found["patients"]) == (3, 3)
    for metric in ("accuracy", "iou", "dice", "precision", "recall"):
        low, high = scores["pooled_interval"][metric]
        assert found[metric] == {"value": pooled[metric], "low": low, "high": high}
    assert found["hd95_px"]["value"] == scores["per_case"]["hd95_px"]["mean"]
    assert found["threshold_iou"]["value"] == threshold["pooled"]["iou"]
    gain = threshold["model_minus_baseline"]["pooled_iou"]
    assert found["iou_above_threshold"]["value"] == gain["value"]
    assert [found["iou_above_threshold"][end] for end in ("low", "high")] == gain["interval"]
    assert load_model(own_run).scores == {**before, "test": found}
    card = (own_run / "best" / "README.md").read_text(encoding="utf-8")
    assert f"| lung IoU, pooled | {pooled['iou']:.4f} |" in card
    assert "resampled by slice; of 3 slices they are too narrow (fewer than 20)." in card
    assert f"without weights, pooled | {threshold['pooled']['iou']:.4f} |" in card


def test_each_list_has_its_own_and_a_model_elsewhere_is_left_alone(
    run_cli, own_run: Path, data: Path, tmp_path: Path
) -> None:
    texts = {path: path.read_bytes() for path in (own_run / "best").iterdir()}
    assert run_cli("evaluate", own_run / "best", data).code == 0
    assert run_cli("evaluate", own_run, data, "--out", tmp_path / "scores").code == 0
    assert texts == {path: path.read_bytes() for path in (own_run / "best").iterdir()}
    for split in ("val", "test"):
        assert run_cli("evaluate", own_run, data, "--split", split, "--no-baselines").code == 0
    scores = load_model(own_run).scores
    assert {"val", "test"} <= scores.keys()
    assert "threshold_iou" not in scores["test"]


@pytest.mark.parametrize("changed", [False, True])
def test_scores_of_weights_that_are_gone_are_dropped(own_run: Path, changed: bool) -> None:
    saved = load_model(own_run)
    scored = weights_hash(own_run)
    if changed:  # a training that goes on finds a better model meanwhile
        next(saved.model.parameters()).data.add_(1.0)
        folder = own_run / "best"
        save_model(folder, saved.model, contract=saved.contract, codec=saved.codec)
    truth = np.zeros((5, 7), np.uint8)
    truth[1:3, 2:6] = 1
    card = ScoreCard((score_case("a", truth, truth, patient="a"),), ("background", "lung"))
    note_scores(own_run, "test", card, weights_sha256=scored)
    assert ("test" in load_model(own_run).scores) is not changed


def test_undefined_is_null(own_run: Path) -> None:
    nothing = np.zeros((5, 7), np.uint8)
    card = ScoreCard((score_case("a", nothing, nothing, patient="a"),), ("background", "lung"))
    assert math.isnan(card.pooled.iou)
    note_scores(own_run, "test", card, weights_sha256=weights_hash(own_run))
    assert load_model(own_run).scores["test"]["iou"] == {"value": None, "low": None, "high": None}
    assert "| lung IoU, pooled | undefined |" in (own_run / "best" / "README.md").read_text()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("lungs", "Training began with the weights of `lungs`."),
        ("hf://a/b@c", "the weights of `hf://a/b@c`."),
        ("/home/me/lungs", "the weights of `.../lungs`."),
    ],
)
def test_a_card_says_what_training_began_with_and_no_place(weights: str, said: str) -> None:
    about = json.loads((Path(lungunet.__file__).parent / BUILTIN).read_text(encoding="utf-8"))
    scores = {"train_slices": 3, "val_slices": 1, "began_with": _without_place(weights)}
    card = model_card({**about, "scores": scores})
    assert said in " ".join(card.split())
    assert "/home" not in card
    assert ("CC BY 4.0" in card) == (weights == "lungs")


def test_terms_of_lungs_hold_for_what_descends_from_it(data: Path, tmp_path: Path) -> None:
    weights = "lungs"
    for name in "abc":
        config = lungunet.RunConfig(
            data=str(data), weights=weights, epochs=1, size=32, workers=0, device="cpu"
        )
        list(lungunet.train_run(config, tmp_path / name))
        weights = str(tmp_path / name)
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    card = " ".join((tmp_path / "c/best/README.md").read_text(encoding="utf-8").split())
    assert (
        "weights of `.../b`, which began with those of `.../a`, which began with those of `lungs`."
        in card
    )
    assert "CC BY 4.0" in card
    assert str(tmp_path) not in card
    assert "| ancestors" not in card
    page = lungunet.write_report(tmp_path / "c").read_text(encoding="utf-8")
    assert "b, which began with .../a, which began with lungs" in page
