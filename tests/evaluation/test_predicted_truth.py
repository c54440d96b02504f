"""Truth that a model made is said to be so, of slices and of scans."""

from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import Predictor, ScoreCard, evaluate_list, evaluate_scans
from lungunet.data.review_log import LOG, LogWriter
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import Volume, write_volume


@pytest.fixture
def rule() -> Predictor:
    return Predictor.load("threshold")


def about_truth(card: ScoreCard) -> list[str]:
    return [remark for remark in card.remarks if "true masks" in remark]


def decide(folder: Path, **decisions: str) -> None:
    log = LogWriter(folder / LOG, lungunet.LUNG_CODEC)
    for name, decision in decisions.items():
        log.append({"name": name, "decision": decision})


class TestSlices:
    @pytest.fixture
    def made(self, phantoms: tuple[Path, Path], rule: Predictor, tmp_path: Path) -> Path:
        """Folder of predicted masks, and in it a data folder of them."""
        masks = tmp_path / "masks"
        list(lungunet.predict_slices(rule, phantoms[0], masks))
        pairs = lungunet.find_pairs(phantoms[0], masks)[:4]
        codec = {"labels": lungunet.LUNG_CODEC.to_dict()}
        lungunet.write_split(tmp_path / "data", lungunet.Split([], [], pairs), codec)
        return tmp_path

    def test_of_the_model_that_is_scored_or_a_baseline(self, made: Path, run: Path) -> None:
        card = evaluate_list("threshold", made / "data", baselines=False)
        said = ["4 of these 4 true masks were predicted by threshold and mended in no review: they "
                "cannot judge it"]  # fmt: skip
        assert about_truth(card) == said
        assert about_truth(evaluate_list("lungs", made / "data")) == said
        theirs = evaluate_list("lungs", made / "data", baselines=False)
        (remark,) = about_truth(theirs)
        assert remark.startswith("4 of these 4 true masks were predicted by a model and mended in")
        assert about_truth(evaluate_list(made / "masks", made / "data", baselines=False)) == [
            said[0].replace("threshold", str(made / "masks"))
        ]

    @pytest.mark.parametrize("where", ["masks", "data"])
    def test_what_a_review_mended_is_truth(self, made: Path, where: str) -> None:
        names = [pair.name for pair in lungunet.read_split(made / "data", "test").test]
        decide(made / where, **dict(zip(names, ("mended", "right", "drop"), strict=False)))
        (remark,) = about_truth(evaluate_list("threshold", made / "data", baselines=False))
        assert remark.startswith("2 of these 4 true masks were predicted by threshold")

    def test_nothing_of_other_truth(self, data: Path) -> None:
        assert not about_truth(evaluate_list("threshold", data, baselines=False))


def test_scans(rule: Predictor, tmp_path: Path) -> None:
    for number in range(2):
        planes = [phantom_slice(number, z, size=48).image for z in (0.4, 0.5, 0.6)]
        scan = Volume(np.stack(planes), Path("a.nii"), "a", Grid.axial((3, 48, 48), (2, 6, 6)))
        write_volume(tmp_path / "scans" / f"p{number}.nii.gz", scan.array, like=scan)
    list(lungunet.predict_scans(rule, tmp_path / "scans", tmp_path / "masks"))
    places = ("threshold", tmp_path / "scans", tmp_path / "masks")
    (remark,) = about_truth(evaluate_scans(*places))
    assert remark.startswith("2 of these 2 true masks were predicted by threshold and mended in no")
    decide(tmp_path / "masks", p1="mended")
    (remark,) = about_truth(evaluate_scans(*places))
    assert remark.startswith("1 of these 2 true masks were predicted by threshold")
