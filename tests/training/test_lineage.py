"""What a network's weights come from is kept by runs that are made in Python too."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import lungunet
from lungunet import LungCTDataset, TrainConfig, Trainer, build_unet, load_model
from lungunet.data.seen import find_seen, read_seen
from lungunet.models.unet import source_of


def trainer(model: nn.Module, out: Path, **changes: int) -> Trainer:
    settings = {"epochs": 1, "batch_size": 2, "device": "cpu", "workers": 0, **changes}
    return Trainer(model, TrainConfig.from_dict(settings), out=out)


def small(weights: object = None) -> nn.Module:
    return build_unet("unet2015", width=2, seed=0, weights=weights)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def first(train: LungCTDataset, val: LungCTDataset, tmp_path_factory) -> Path:
    out = Path(tmp_path_factory.mktemp("runs") / "first")
    trainer(small(), out).fit(train, val)
    return out


@pytest.fixture(scope="module")
def others(split: lungunet.Split, train: LungCTDataset) -> LungCTDataset:
    """Slices that the first run did not have."""
    return LungCTDataset(split.test, contract=train.contract)


def test_a_network_and_its_copies_know_where_its_weights_are_from(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(first.parent)
    for model in (small("./first"), small(Path("first")), load_model("first").model):
        assert source_of(copy.deepcopy(model)) == str(first)
        assert source_of(torch.compile(model)) == str(first)  # type: ignore[arg-type]
        assert model.state_dict().keys() == small().state_dict().keys()
    assert source_of(small()) == "none"
    assert source_of(load_model("lungs").model) == "lungs"


@pytest.mark.parametrize("by", ["build", "load", "train"])
def test_a_run_in_python_has_seen_what_its_weights_have(
    first: Path, train: LungCTDataset, others: LungCTDataset, tmp_path: Path, by: str
) -> None:
    if by == "train":
        before = trainer(small(), tmp_path / "before")
        before.fit(train, others)
        model, source = before.model, tmp_path / "before"
    else:
        model = small(first) if by == "build" else load_model(first).model
        source = first
    out = tmp_path / "second"
    trainer(model, out).fit(others, others)
    assert find_seen(read_seen(out / "slices.csv"), train.pairs).train == {
        p.name for p in train.pairs
    }
    assert json.loads((out / "environment.json").read_text())["began_with"] == str(source)
    assert load_model(out).scores["began_with"] == f".../{source.name}"
    assert str(source) in lungunet.write_report(out).read_text()


def test_a_run_gone_on_with_need_not_be_told_again(
    first: Path, others: LungCTDataset, tmp_path: Path
) -> None:
    for _ in trainer(small(first), tmp_path, epochs=2).epochs(others, others):
        break
    shutil.rmtree(tmp_path / "best")
    again = trainer(small(), tmp_path, epochs=2)
    again.folder.save_best(
        again.model,
        contract=others.contract,
        codec=others.codec,
        result=next(iter(trainer(small(), tmp_path / "x").epochs(others, others))),
        slices={"train": 1, "val": 1},
    )
    assert load_model(tmp_path).scores["began_with"] == ".../first"


def test_weights_whose_run_is_gone_are_said(
    first: Path, others: LungCTDataset, tmp_path: Path
) -> None:
    gone = Path(shutil.copytree(first, tmp_path / "gone"))
    model = small(gone)
    shutil.rmtree(gone)
    with pytest.warns(lungunet.LungUNetWarning, match=r"gone: is gone, so nobody will be able to"):
        trainer(model, tmp_path / "second").fit(others, others)
