"""How far two readers agree: against counts by hand and scikit-learn's kappa."""

from pathlib import Path

import numpy as np
import pytest
from slices import SHAPE, lungs, write_case

import lungunet
from lungunet.errors import DataError
from lungunet.reviewing.desk import Desk
from lungunet.reviewing.sources import slices_to_review

SAID = {
    "a": ("right", "right"),
    "b": ("right", "drop"),
    "c": ("mended", "right"),
    "d": ("drop",) * 2,
}


@pytest.fixture
def readers(tmp_path: Path) -> tuple[Path, Path]:
    """Two reviews of five masks; c is mended by the first alone, e by both but not decided."""
    mask = lungs().astype(np.uint8)
    pairs = [write_case(tmp_path, name, mask * 255) for name in "abcde"]
    for place, reader in enumerate(("anna", "ben")):
        material = slices_to_review(pairs, tmp_path / reader)
        desk = Desk(material.entries, material.log, material.codec)
        index = {entry.case.name: i for i, entry in enumerate(material.entries)}
        changed = {"c": np.roll(mask, 4, axis=0)} if reader == "anna" else {}
        changed["e"] = np.zeros_like(mask) if reader == "anna" else mask[:, ::-1].copy()
        for name, classes in changed.items():
            version = desk.plane(index[name], 0).version
            desk.save(index[name], 0, classes, base=version, did="brush", who=reader)
        for name, said in SAID.items():
            desk.decide(index[name], said[place], note="", who=reader)
    return tmp_path / "anna", tmp_path / "ben" / "review.jsonl"


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.sum((a > 0) & (b > 0)) / (np.sum(a > 0) + np.sum(b > 0))


def test_agreement(readers: tuple[Path, Path]) -> None:
    found = lungunet.compare_reviews(*readers)
    mask = lungs()
    assert found.names == ("a", "b", "c", "d")
    assert found.share == 0.5
    # Chance: right 2/4 x 2/4, drop 1/4 x 2/4, mended 1/4 x 0.
    assert found.kappa == pytest.approx((0.5 - 0.375) / (1 - 0.375))
    assert found.decisions[("mended", "right")] == 1
    assert found.dice["c"] == pytest.approx(dice(np.roll(mask, 4, axis=0), mask))
    assert found.dice["e"] == 0.0
    assert found.kept_a == {"c": found.dice["c"], "e": 0.0}
    assert found.kept_b == {"e": pytest.approx(dice(mask, mask[:, ::-1]))}


def test_the_verb_prints_it(readers: tuple[Path, Path], run_cli) -> None:
    done = run_cli("review", "--compare", *readers)
    assert done.code == 0
    assert "4 masks decided by both: agreement 0.500, Cohen's kappa 0.200" in done.out
    assert "right / drop" in done.out
    as_json = run_cli("review", "--compare", *readers, "--json")
    assert '"kappa": 0.2' in as_json.out


def test_reviews_of_other_masks_are_refused(readers: tuple[Path, Path], tmp_path: Path) -> None:
    pair = write_case(tmp_path, "z", np.zeros(SHAPE, np.uint8))
    material = slices_to_review([pair], tmp_path / "third")
    Desk(material.entries, material.log, material.codec).decide(0, "drop", note="", who="")
    with pytest.raises(DataError, match="no mask that both touched"):
        lungunet.compare_reviews(readers[0], tmp_path / "third")
