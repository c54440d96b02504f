"""Training on every fold, as a Python caller does it: what is refused, yielded and left behind."""

import json
import shutil
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest

import lungunet
from lungunet import (
    ConfigError,
    DataError,
    FoldResult,
    RunConfig,
    SplitError,
    cross_validate,
    find_folds,
)

FOLDS = 2


@pytest.fixture(scope="module")
def folds(phantoms: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of two folds of whole patients."""
    folder = tmp_path_factory.mktemp("folds")
    pairs = lungunet.find_pairs(*phantoms)
    groups = lungunet.read_groups(pairs, r"patient-\d+")
    for number, split in enumerate(lungunet.fold_pairs(pairs, folds=FOLDS, groups=groups), start=1):
        facts = {"labels": lungunet.LUNG_CODEC.to_dict()}
        lungunet.write_split(folder / f"fold-{number}", split, facts)
    return folder


def config(data: Path) -> RunConfig:
    fast = {"device": "cpu", "precision": "fp32", "workers": 0}
    return RunConfig(data=data, epochs=1, size=32, batch_size=2, **fast)


def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("TORCHELASTIC_RUN_ID", "test")):
        monkeypatch.setenv(name, value)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")


def test_folds_come_by_number(tmp_path: Path) -> None:
    for name in ("fold-10", "fold-2", "fold-1", "folder", "fold-3-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.txt").touch()
    (tmp_path / "fold-4").mkdir()  # of an earlier split: no lists, no fold
    assert [path.name for path in find_folds(tmp_path)] == ["fold-1", "fold-2", "fold-10"]
    with pytest.raises(DataError, match="has no folds"):
        find_folds(tmp_path / "fold-1")


class TestCrossValidate:
    def test_leaves_the_scores_of_every_slice_and_the_runs(
        self, folds: Path, tmp_path: Path
    ) -> None:
        results = list(cross_validate(config(folds), tmp_path, baselines=False))
        cards = [each.card for each in results if isinstance(each, FoldResult)]
        scores = json.loads((tmp_path / "scores.json").read_text())
        assert (scores["model"], scores["split"]) == (str(tmp_path), "out of fold")
        assert [case["name"] for case in scores["cases"]] == [
            case.name for card in cards for case in card.cases
        ]
        assert scores["slices"] == len({case["name"] for case in scores["cases"]}) == 12
        assert scores["remarks"] == []
        assert all((tmp_path / f"fold-{n}" / "best").is_dir() for n in (1, 2))

    def test_slices_that_the_first_weights_were_trained_on_are_told(
        self, folds: Path, run: Path, split: lungunet.Split, tmp_path: Path
    ) -> None:
        begun = replace(config(folds), weights=str(run))
        with pytest.warns(lungunet.LungUNetWarning, match="slices of val were trained on by"):
            list(cross_validate(begun, tmp_path, baselines=False))
        assert json.loads((tmp_path / "scores.json").read_text())["seen_slices"] == len(split.train)

    def test_what_is_done_is_kept_when_it_ends_early(self, folds: Path, tmp_path: Path) -> None:
        for result in cross_validate(config(folds), tmp_path, baselines=False):
            if isinstance(result, FoldResult):
                break
        scores = json.loads((tmp_path / "scores.json").read_text())
        assert [case["name"] for case in scores["cases"]] == [c.name for c in result.card.cases]
        assert scores["remarks"] == ["1 of 2 folds: it ended before the others were scored"]

    @pytest.mark.parametrize("there", ["fold-2/history.csv", "scores.json", "cases.csv"])
    def test_output_is_refused_before_any_work(
        self, folds: Path, tmp_path: Path, there: str
    ) -> None:
        (tmp_path / there).parent.mkdir(exist_ok=True)
        (tmp_path / there).write_text("mine")
        with pytest.raises(ConfigError, match=r"holds a run already|already there"):
            next(cross_validate(config(folds), tmp_path))
        assert (tmp_path / there).read_text() == "mine"
        assert not (tmp_path / "fold-1").exists()
        first = next(cross_validate(config(folds), tmp_path, overwrite=True))
        assert isinstance(first, lungunet.EpochResult)

    def test_wrong_lists_of_a_fold_are_told_before_any_is_trained(
        self, folds: Path, tmp_path: Path
    ) -> None:
        for number in (1, 2):
            lists = lungunet.read_split(folds / f"fold-{number}")
            lists = replace(lists, val=lists.val if number == 1 else [])
            lungunet.write_split(tmp_path / "data" / f"fold-{number}", lists, {})
        with pytest.raises(SplitError, match=r"fold-2.*val\.txt: no pairs"):
            next(cross_validate(config(tmp_path / "data"), tmp_path / "cv"))
        assert not (tmp_path / "cv").exists()

    def test_overwriting_leaves_nothing_of_the_earlier_one(
        self, folds: Path, run: Path, tmp_path: Path
    ) -> None:
        scores = ["scores.json", "cases.csv"]
        earlier = [*scores, *(f"evaluation/test/{name}" for name in (*scores, "report.html"))]
        for number in (2, 3):
            shutil.copytree(run, tmp_path / f"fold-{number}")
        for name in (*earlier, "fold-3/notes.md"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("mine")
        again = cross_validate(config(folds), tmp_path, overwrite=True, baselines=False)
        next(again)
        again.close()
        assert not any((tmp_path / name).exists() for name in earlier)
        assert not (tmp_path / "fold-2").exists()
        assert [path.name for path in (tmp_path / "fold-3").iterdir()] == ["notes.md"]

    def test_runs_of_other_folds_are_refused_too(self, folds: Path, tmp_path: Path) -> None:
        (tmp_path / "fold-3").mkdir()
        (tmp_path / "fold-3" / "history.csv").write_text("mine")
        with pytest.raises(ConfigError, match=r"fold-3: holds a run already"):
            next(cross_validate(config(folds), tmp_path))

    def test_weights_that_would_be_replaced_are_refused(
        self, folds: Path, run: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(run, tmp_path / "fold-1")
        begun = replace(config(folds), weights=str(tmp_path / "fold-1" / "best"))
        with pytest.raises(ConfigError, match="is of a run that would be replaced"):
            next(cross_validate(begun, tmp_path, overwrite=True))
        assert (tmp_path / "fold-1" / "best" / "model.safetensors").exists()

    def test_is_for_one_process(
        self, folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torchrun(monkeypatch)
        with pytest.raises(ConfigError, match="cross-validation: runs in one process"):
            next(cross_validate(config(folds), tmp_path))


class TestFindLearningRate:
    def test_leaves_numbers_and_picture_and_no_run(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        few = partialmethod(lungunet.Trainer.find_lr, lowest=1e-5, highest=0.1, steps=12)
        monkeypatch.setattr(lungunet.Trainer, "find_lr", few)
        out = tmp_path / "lr"
        tested = lungunet.find_learning_rate(config(data), out)
        assert sorted(path.name for path in out.iterdir()) == ["find_lr.csv", "find_lr.svg"]
        header, *lines = (out / "find_lr.csv").read_text().splitlines()
        assert header == "lr,loss"
        columns = zip(*(map(float, line.split(",")) for line in lines), strict=True)
        assert list(columns) == [tested.lrs, tested.losses]
        with pytest.raises(ConfigError, match=r"find_lr.csv, .*find_lr.svg: already there"):
            lungunet.find_learning_rate(config(data), out)
        assert lungunet.find_learning_rate(config(data), out, overwrite=True) == tested

    def test_is_for_one_process(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torchrun(monkeypatch)
        with pytest.raises(ConfigError, match="learning rate range test: runs in one process"):
            lungunet.find_learning_rate(config(data), tmp_path)


def test_one_process_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lungunet.is_first_process()
    torchrun(monkeypatch)
    assert not lungunet.is_first_process()
