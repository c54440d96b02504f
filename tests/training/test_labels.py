"""Pixels that count nowhere, weights and names of classes: from the mask to every number."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lungunet
from lungunet import IGNORE, LabelCodec, LungCTDataset, TrainConfig, Trainer, build_unet
from lungunet.data.transforms import PaintDisease
from lungunet.errors import ConfigError, SplitError
from lungunet.training.class_weights import choose_class_weights
from lungunet.training.learner import Learner

CODEC = LabelCodec.parse("0,255,128=ignore")


def rewrite(pairs: list[lungunet.Pair], folder: Path, change) -> list[lungunet.Pair]:
    """Write the masks of pairs anew, each as ``change`` makes it of the old one."""
    written = []
    for pair in pairs:
        new = lungunet.Pair(pair.image, folder / f"{pair.name}.png")
        lungunet.write_mask(new.mask, change(lungunet.read_mask(pair.mask)))
        written.append(new)
    return written


def ignore_left(mask: np.ndarray) -> np.ndarray:
    """Mark the left of the picture, a lung and what is around it, as 128."""
    mask = mask.copy()
    mask[:, : mask.shape[1] // 2] = 128
    return mask


@pytest.fixture(scope="module")
def pairs(phantoms, tmp_path_factory) -> list[lungunet.Pair]:
    folder = tmp_path_factory.mktemp("ignored")
    return rewrite(lungunet.find_pairs(*phantoms), folder, ignore_left)


def tiny(out: Path, loss=None, **changes) -> Trainer:
    settings = {"epochs": 1, "batch_size": 5, "device": "cpu", "precision": "fp32", **changes}
    model = build_unet("unet2015", width=2, seed=0)
    return Trainer(model, TrainConfig(**settings), out=out, loss=loss)


class TestIgnored:
    def test_is_neither_learnt_from_nor_counted(self, pairs, tmp_path: Path) -> None:
        train = LungCTDataset(pairs, size=32, codec=CODEC)
        trainer = tiny(tmp_path)
        (result,) = trainer.fit(train, train)
        meter, losses = lungunet.ConfusionMeter(2), []
        for image, mask in (train[index] for index in range(len(train))):
            with torch.no_grad():
                logits = trainer.model.eval()(image[None])
            pred = logits[0].argmax(0)
            assert (mask[:, :16] == IGNORE).all()  # of which the trainer knows nothing
            meter.update(truth=mask[:, 16:], pred=pred[:, 16:])
            right = lungunet.CrossEntropyDiceLoss()
            losses.append(right(logits[:, :, :, 16:], mask[None, :, 16:]).item())
        overlap = meter.compute()
        assert (result.val.iou, result.val.accuracy) == (overlap.iou, overlap.accuracy)
        assert result.val.loss == pytest.approx(np.mean(losses), rel=1e-5)

    def test_a_loss_of_ones_own_sees_the_number(self, pairs, tmp_path: Path) -> None:
        train = LungCTDataset(pairs, size=32, codec=CODEC)
        seen = set()

        def loss(logits, mask):
            seen.update(mask.unique().tolist())
            return torch.nn.functional.cross_entropy(logits, mask, ignore_index=IGNORE)

        tiny(tmp_path, loss).fit(train, train)
        assert seen == {0, 1, IGNORE}

    def test_a_list_with_nothing_but_ignored_pixels_has_no_lung(self, pairs, tmp_path) -> None:
        blank = rewrite(pairs, tmp_path / "masks", lambda mask: np.full_like(mask, 128))
        train = LungCTDataset(blank, size=32, codec=CODEC)
        with pytest.raises(SplitError, match="no lung in any"):
            tiny(tmp_path / "run").fit(train, train)

    def test_no_disease_is_painted_there(self, pairs) -> None:
        train = LungCTDataset(pairs, size=48, codec=CODEC, transform=PaintDisease(p=1.0))
        plain = LungCTDataset(pairs, size=48, codec=CODEC)
        changed = [train.augment((0, i))[0] != plain.read(i)[0] for i in range(len(train))]
        assert np.any(changed)
        assert not np.any([slice_[:, :20] for slice_ in changed])  # blurred a little past the edge

    def test_a_mask_of_another_tool_may_say_anything_there(self, pairs, tmp_path: Path) -> None:
        def good(mask):
            return np.where(np.roll(mask, 1, axis=0) == 255, 255, 0).astype(np.uint8)

        def wild(mask):
            noise = np.random.default_rng(0).integers(0, 2, mask.shape) * 255
            return np.where(mask == 128, noise, good(mask)).astype(np.uint8)

        for name, change in (("good", good), ("wild", wild)):
            rewrite(pairs, tmp_path / name, change)
        cards = [
            lungunet.evaluate(lungunet.MaskFolder(tmp_path / name), pairs, codec=CODEC)
            for name in ("good", "wild")
        ]
        assert cards[0].to_dict() == cards[1].to_dict()
        assert cards[0].pooled.n_pixels == len(pairs) * 48 * 24
        assert {card.pooled.n_pixels for card in cards[0].baselines.values()} == {
            cards[0].pooled.n_pixels
        }

    def test_a_mask_to_be_scored_answers_everywhere(self, pairs) -> None:
        with pytest.raises(ConfigError, match="answers for every pixel"):
            lungunet.MaskFolder(pairs[0].mask.parent, CODEC)

    def test_the_audit_disputes_none_of_it(self, phantoms, tmp_path: Path) -> None:
        whole = [p for p in lungunet.find_pairs(*phantoms) if lungunet.read_mask(p.mask).any()]

        def one_lung(mask):
            return np.where(np.arange(mask.shape[1]) < mask.shape[1] // 2, 0, mask)

        scores = {}
        for name, change in (("same", np.copy), ("lost", one_lung), ("ignored", ignore_left)):
            masks = rewrite(whole, tmp_path / name, change)
            folder = tmp_path / f"{name}-data"
            lungunet.write_split(folder, lungunet.Split(masks, [], []), {"labels": CODEC.to_dict()})
            done = lungunet.audit(folder, out=tmp_path / f"{name}-audit", pictures=1)
            scores[name] = {suspect.pair.name: suspect.score for suspect in done.ranking}
            assert not done.count("error")
        assert np.median([*scores["lost"].values()]) > 0.9
        for name, score in scores["ignored"].items():
            assert score <= scores["same"][name] + 0.01

    def test_is_not_measured(self, pairs, phantoms, tmp_path: Path) -> None:
        (folder,) = {pair.mask.parent for pair in pairs}
        rows = [
            row
            for one in lungunet.measure_files(phantoms[0], folder, codec=CODEC)
            for row in one.rows
        ]
        masks = {pair.name: lungunet.read_mask(pair.mask) for pair in pairs}
        assert {row.name: row.area_px for row in rows} == {
            name: int((mask == 255).sum()) for name, mask in masks.items()
        }

    @pytest.mark.parametrize("raw", [False, True])
    def test_prepared_slices_keep_it(self, pairs, tmp_path: Path, raw: bool) -> None:
        new, codec = lungunet.prepare_pairs(pairs, tmp_path, codec=CODEC, size=24, raw=raw)
        assert str(codec) == ("0,128=ignore,255" if raw else "0,1,255=ignore")
        for pair in new:
            _, classes = lungunet.read_pair(pair, codec)
            assert (classes[:, :12] == IGNORE).all()
            assert not (classes[:, 12:] == IGNORE).any()

    def test_the_shell(self, run_cli, phantoms, pairs, tmp_path: Path) -> None:
        masks, data, run = pairs[0].mask.parent, tmp_path / "data", tmp_path / "run"
        words = ("--labels", "0,255,128=ignore", "--label-names", "rest,lungs", "--test", 0.25)
        done = run_cli("split", phantoms[0], masks, data, *words, "--val", 0.3, "--seed", 3)
        assert done.code == 0, done.err
        quick = ("--size", 32, "--epochs", 1, "--workers", 0, "--encoder", "unet2015")
        done = run_cli("train", data, "--out", run, *quick, "--class-weights", "auto")
        assert done.code == 0, done.err
        about = json.loads((run / "best" / "lungunet.json").read_text())
        assert about["codec"]["names"] == ["rest", "lungs"]
        loss = json.loads((run / "environment.json").read_text())["loss"]
        assert "class_weights=[0." in loss
        assert f"ignore_index={IGNORE}" in loss
        assert run_cli("evaluate", run, data).code == 0
        assert run_cli("audit", data, "--out", tmp_path / "audit").code == 0
        out = tmp_path / "masks"
        assert run_cli("predict", run, phantoms[0], "--out", out).code == 0
        assert set(np.unique(lungunet.read_mask(out / f"{pairs[0].name}.png"))) <= {0, 255}


class TestClassWeights:
    def test_auto_makes_the_classes_even(self, pairs) -> None:
        train = LungCTDataset(pairs, size=48, codec=CODEC)
        weights = choose_class_weights("auto", train)
        counts = np.zeros(2)
        for index in range(len(train)):
            mask = train.read(index)[1]
            counts += [(mask == 0).sum(), (mask == 1).sum()]
        assert weights[0] * counts[0] == pytest.approx(weights[1] * counts[1])
        assert (weights * counts).sum() == pytest.approx(counts.sum())

    def test_numbers_stay_as_they_are(self, pairs) -> None:
        train = LungCTDataset(pairs, size=32, codec=CODEC)
        assert choose_class_weights("1,3", train) == (1.0, 3.0)
        assert choose_class_weights("none", train) is None
        with pytest.raises(ConfigError, match=r"3 weights for 2 classes \(background, lung\)"):
            choose_class_weights("1,2,3", train)

    def test_a_class_that_never_occurs_has_no_weight(self, pairs) -> None:
        three = LabelCodec.parse("0,255,7,128=ignore", names=("rest", "lung", "tube"))
        train = LungCTDataset(pairs, size=32, codec=three)
        with pytest.raises(SplitError, match="no pixel of tube in any"):
            choose_class_weights("auto", train)

    def test_reach_the_loss(self, pairs) -> None:
        train = LungCTDataset(pairs, size=32, codec=CODEC)
        config = TrainConfig(class_weights="1,3", loss="tversky", device="cpu")
        learner = Learner(build_unet("unet2015", width=2), config, None)
        learner.fit_loss(train)
        assert learner.loss.class_weights.tolist() == [1, 3]
        assert learner.loss.ignore_index == IGNORE


class TestNames:
    def test_stand_in_every_table(self, run_cli, phantoms, tmp_path: Path) -> None:
        masks = tmp_path / "masks"
        rewrite(lungunet.find_pairs(*phantoms), masks, lungunet.split_sides)
        data, run = tmp_path / "data", tmp_path / "run"
        names = ("--labels", "0,1,2", "--label-names", "background,left,right")
        shares = ("--val", 0.3, "--test", 0.3, "--seed", 5)
        assert run_cli("split", phantoms[0], masks, data, *names, *shares).code == 0
        quick = ("--size", 32, "--epochs", 1, "--workers", 0, "--encoder", "unet2015", "--no-flip")
        done = run_cli("train", data, "--out", run, *quick)
        assert done.code == 0, done.err
        assert "val left  val right" in done.out
        assert "(left " in done.out
        with (run / "history.csv").open() as file:
            assert {"iou_background", "iou_left", "iou_right"} <= set(next(csv.DictReader(file)))
        done = run_cli("evaluate", run, data)
        assert "left" in done.out
        with (run / "evaluation" / "test" / "cases.csv").open() as file:
            assert {"iou_left", "iou_right"} <= set(next(csv.DictReader(file)))
        out = tmp_path / "out"
        run_cli("predict", run, phantoms[0], "--out", out, "--probabilities")
        assert list((out / "probabilities").glob("*_left.tif"))
        assert "left, right" in (run / "best" / "README.md").read_text()

    def test_may_be_said_to_train_alone(self, run, data, tmp_path: Path) -> None:
        config = lungunet.RunConfig(
            data=str(data), epochs=1, size=32, encoder="unet2015", label_names="rest, lungs"
        )
        (result,) = lungunet.train_run(config, tmp_path / "run")
        assert result.class_names == ("rest", "lungs")
        predictor = lungunet.Predictor.load(tmp_path / "run")
        assert predictor.codec.names == ("rest", "lungs")
        card = lungunet.evaluate(predictor, lungunet.read_manifest(data / "test.txt"))
        assert card.class_names == ("rest", "lungs")  # the list says none

    def test_one_per_class(self, data, tmp_path: Path) -> None:
        config = lungunet.RunConfig(data=str(data), label_names="rest,left,right")
        with pytest.raises(ConfigError, match="3 names for 2 classes"):
            list(lungunet.train_run(config, tmp_path / "run"))
