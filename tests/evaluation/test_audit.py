"""Audits of phantoms with faults put in: each must be found, and nothing where nothing is."""

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import lungunet
from lungunet.errors import ConfigError, DataError, LungUNetWarning, SplitError
from lungunet.evaluation import audit as audit_module
from lungunet.evaluation.audit import audit
from lungunet.evaluation.file_checks import check_coding, is_cut_off
from lungunet.inference.doubt import _MODEL_WEIGHTS, _WEIGHTS, _WORDS, LabelView, doubt_label
from lungunet.inference.predictor import Prediction
from lungunet.phantom.phantom import phantom_slice

HEIGHTS = (0.42, 0.62)  # lungs at both, far enough apart
PATIENTS = 12
SIZE = 128


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 24 slices with lungs, whole patients in each list."""
    folder = tmp_path_factory.mktemp("clean")
    for number in range(PATIENTS):
        for index, z in enumerate(HEIGHTS):
            made = phantom_slice(number, z, size=SIZE)
            name = f"p{number:02d}_{index}"
            lungunet.write_image(folder / "images" / f"{name}.tif", made.image)
            lungunet.write_mask(folder / "masks" / f"{name}.png", made.mask)
    pairs = lungunet.find_pairs(folder / "images", folder / "masks")
    groups = lungunet.read_groups(pairs, r"p\d+")
    lists = lungunet.split_pairs(pairs, val=0.2, test=0.2, groups=groups)
    lungunet.write_split(folder, lists, {"labels": lungunet.LUNG_CODEC.to_dict()})
    return folder


@pytest.fixture
def data(clean: Path, tmp_path: Path) -> Path:
    """A copy of the clean folder, to be spoilt."""
    return Path(shutil.copytree(clean, tmp_path / "data"))


@pytest.fixture
def spoilt(data: Path) -> lungunet.Pair:
    """The training pair that a test spoils."""
    return lungunet.read_split(data).train[2]


def found_for(result, pair: lungunet.Pair) -> set[tuple[str, str]]:
    return {(f.severity, f.kind) for f in result.findings if f.pair.name == pair.name}


def test_a_clean_set_has_no_errors_and_no_warnings(clean: Path) -> None:
    result = audit(clean)
    assert [f for f in result.findings if f.severity != "note"] == []
    assert len(result.ranking) == 2 * PATIENTS
    assert max(s.score for s in result.ranking) < 0.3


Spoil = Callable[[lungunet.Pair], None]


def rewrite_image(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(pair: lungunet.Pair) -> None:
        lungunet.write_image(pair.image, change(lungunet.read_image(pair.image)))

    return spoil


def rewrite_mask(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(pair: lungunet.Pair) -> None:
        lungunet.write_mask(pair.mask, change(lungunet.read_mask(pair.mask)))

    return spoil


def cut(pair: lungunet.Pair) -> None:
    content = pair.image.read_bytes()
    pair.image.write_bytes(content[: len(content) // 2])


def cut_mask(pair: lungunet.Pair) -> None:
    pair.mask.write_bytes(pair.mask.read_bytes()[:-20])


def smear(pair: lungunet.Pair) -> None:
    mask = cv2.GaussianBlur(lungunet.read_mask(pair.mask), (0, 0), 1.5)
    lungunet.write_mask(pair.mask, mask)


def colour(pair: lungunet.Pair) -> None:
    mask = lungunet.read_mask(pair.mask)
    Image.fromarray(np.stack([mask * 0, mask * 0, mask], axis=-1)).save(pair.mask)


def palette(pair: lungunet.Pair) -> None:
    picture = Image.fromarray((lungunet.read_mask(pair.mask) > 0).astype(np.uint8), "L")
    picture = picture.convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    picture.save(pair.mask)


def as_floats(pair: lungunet.Pair) -> None:
    mask = lungunet.read_mask(pair.mask).astype(np.float32) / 510
    other = pair.mask.with_suffix(".tif")
    lungunet.write_image(other, mask)
    other.replace(pair.mask)  # formats are told by content


def as_doubles(pair: lungunet.Pair) -> None:
    image = lungunet.read_image(pair.image).astype(np.float64)
    pair.image.write_bytes(cv2.imencode(".tif", image)[1].tobytes())


def no_image(pair: lungunet.Pair) -> None:
    pair.image.write_text("an error page of a server")


def emptied(pair: lungunet.Pair) -> None:
    pair.mask.write_bytes(b"")


FAULTS: dict[str, tuple[Spoil, str, str, str]] = {
    "no image": (no_image, "error", "unreadable", "not a readable image"),
    "empty file": (emptied, "error", "unreadable", "the file is empty"),
    "cut image": (cut, "error", "truncated", "truncated"),
    "cut mask": (cut_mask, "error", "truncated", "truncated"),
    "double image": (as_doubles, "error", "dtype", "float64"),
    "float mask": (as_floats, "error", "dtype", "mask value 0.5"),
    "size": (rewrite_mask(lambda m: m[:-2]), "error", "size", f"mask is {SIZE - 2}x{SIZE}"),
    "0 and 1": (rewrite_mask(lambda m: m // 255), "error", "mask-coding", "parse('0,1')"),
    "classes": (
        rewrite_mask(lambda m: np.where(np.arange(SIZE) < 64, m // 85, m // 63)),
        "error", "mask-coding", "codec=LabelCodec.parse('0,3=1,4=1')",
    ),
    "smeared": (smear, "error", "mask-smeared", "codec=LabelCodec.parse('>=128')"),
    "inverted": (rewrite_mask(lambda m: 255 - m), "error", "mask-inverted", "parse('255,0')"),
    "colour": (colour, "error", "mask-colour", "channels that differ"),
    "palette": (palette, "error", "mask-palette", "palette PNG"),
    "empty": (rewrite_mask(np.zeros_like), "note", "mask-empty", "no lung"),
    "full": (rewrite_mask(lambda m: m | 255), "error", "mask-full", "every pixel"),
    "8 bit": (
        rewrite_image(lungunet.LUNG_WINDOW.to_grey), "note", "hu-8bit", "8-bit grey",
    ),
    "8 bit among HU": (
        rewrite_image(lungunet.LUNG_WINDOW.to_grey), "error", "dtype", "23 slices hold HU",
    ),
    "offset": (
        rewrite_image(lambda i: (i + 1024).clip(0)), "error", "hu-offset", "Subtract 1024",
    ),
    "offset, unsigned": (
        rewrite_image(lambda i: (i + 1024).clip(0).astype(np.uint16)),
        "warning", "hu-offset", "window='424,1500'",
    ),
    "wrap": (rewrite_image(lambda i: i.view(np.uint16)), "error", "hu-wrap", "astype('int16')"),
    "scaled": (
        rewrite_image(lambda i: (i / 3000).clip(0, 1).astype(np.float32)),
        "error", "hu-scaled", "scaled or standardised values, no HU",
    ),
    "of one half": (
        rewrite_image(lambda i: i.clip(0, 900)), "warning", "hu-range", "nothing as dark",
    ),
    "offset, padded": (
        rewrite_image(lambda i: np.where(i < -990, -2000, i + 1024).astype(np.int16)),
        "error", "hu-offset", "Subtract 1024",
    ),
    "no tissue": (
        rewrite_image(lambda i: (i // 8 - 900).astype(np.int16)),
        "warning", "hu-range", "nothing as dense",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_finds_the_fault_and_says_how_to_mend_it(fault: str, data: Path, spoilt) -> None:
    spoil, severity, kind, words = FAULTS[fault]
    spoil(spoilt)
    result = audit(data)
    assert (severity, kind) in found_for(result, spoilt)
    message = next(f.message for f in result.findings if f.kind == kind)
    assert words in message
    others = {f.pair.name for f in result.findings if f.severity != "note"}
    assert others <= {spoilt.name}
    if severity == "error" and kind not in ("mask-inverted", "mask-full", "dtype"):
        assert not kind.startswith("mask") or result.ranking[0].kind == "unreadable"


def test_a_file_that_cannot_be_used_leads_the_ranking(data: Path, spoilt) -> None:
    cut(spoilt)
    first = audit(data).ranking[0]
    assert (first.pair.name, first.score, first.kind) == (spoilt.name, 1.0, "unreadable")
    assert "truncated" in first.reasons[0]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_tells_a_file_that_was_cut_off(name: str, share: float) -> None:
    pixels = np.arange(60 * 50, dtype=np.uint8).reshape(60, 50)
    content = cv2.imencode(name[1:], pixels)[1].tobytes()
    assert not is_cut_off(content)
    assert is_cut_off(content[: int(len(content) * share)])
    assert not is_cut_off(b"of no known kind")


def test_tells_a_tiff_cut_off_whose_directory_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(60, 50)).save(path)  # Pillow's order
    content = path.read_bytes()
    assert not is_cut_off(content)
    assert is_cut_off(content[:-100])


def test_coding_is_judged_against_the_codec_in_use() -> None:
    codec = lungunet.LabelCodec({0: 0, 1: 1})
    verdict = check_coding(np.array([[0, 255]], np.uint8), codec, "m.png")
    assert verdict.message == (
        "m.png: values 0, 255, expected 0, 1. Pass codec=LabelCodec.parse('0,255'), or fix the "
        "file."
    )


class TestCopies:
    def copy(self, source: lungunet.Pair, target: lungunet.Pair, *, mask: bool = True) -> None:
        shutil.copy(source.image, target.image)
        if mask:
            shutil.copy(source.mask, target.mask)

    def test_within_a_list_is_a_warning(self, data: Path) -> None:
        lists = lungunet.read_split(data)
        self.copy(lists.train[0], lists.train[5])
        result = audit(data)
        assert found_for(result, lists.train[5]) == {("warning", "duplicate")}
        assert result.findings[0].other == lists.train[0]

    def test_across_lists_is_an_error(self, data: Path) -> None:
        lists = lungunet.read_split(data)
        self.copy(lists.train[0], lists.test[0])
        assert found_for(audit(data), lists.test[0]) == {("error", "duplicate")}

    def test_labelled_otherwise_is_an_error(self, data: Path) -> None:
        lists = lungunet.read_split(data)
        self.copy(lists.train[0], lists.train[5], mask=False)
        result = audit(data)
        assert ("error", "duplicate") in found_for(result, lists.train[5])
        assert "labelled otherwise" in result.findings[0].message

    def test_one_line_in_two_lists_is_found_not_fatal(self, data: Path) -> None:
        line = (data / "train.txt").read_text().splitlines()[0]
        with (data / "test.txt").open("a") as file:
            file.write(line + "\n")
        assert audit(data).count("error") == 1

    def test_a_mask_on_two_images(self, data: Path) -> None:
        lists = lungunet.read_split(data)
        shutil.copy(lists.train[0].mask, lists.train[5].mask)
        assert ("warning", "mask-duplicate") in found_for(audit(data), lists.train[5])

    def test_nearly_a_copy(self, data: Path) -> None:
        lists = lungunet.read_split(data)
        image = lungunet.read_image(lists.train[0].image)
        for target, expected in ((lists.train[5], "note"), (lists.test[0], "error")):
            lungunet.write_image(target.image, image + np.int16(7))
            shutil.copy(lists.train[0].mask, target.mask)
            assert (expected, "near-duplicate") in found_for(audit(data), target)

    def test_a_neighbour_in_another_list(self, data: Path) -> None:
        lists = lungunet.read_split(data)
        patient = int(lists.train[0].name[1:3])
        near = phantom_slice(patient, HEIGHTS[0] + 4 / 340, size=SIZE)
        lungunet.write_image(lists.test[0].image, near.image)
        lungunet.write_mask(lists.test[0].mask, near.mask)
        result = audit(data)
        assert found_for(result, lists.test[0]) == {("warning", "twin")}
        assert "--guard" in result.findings[0].message
        lungunet.write_image(lists.train[9].image, near.image + np.int16(3))
        assert found_for(audit(data), lists.train[9]) <= {("note", "near-duplicate")}


def test_far_more_lung_than_the_others(data: Path, spoilt) -> None:
    wide = np.zeros((SIZE, SIZE), np.uint8)
    wide[8:-8, 4:-4] = 255
    lungunet.write_mask(spoilt.mask, wide)
    assert ("warning", "label-area") in found_for(audit(data), spoilt)


def without_half(mask: np.ndarray) -> np.ndarray:
    mask = mask.copy()
    mask[:, : SIZE // 2] = 0
    return mask


def with_background(pair: lungunet.Pair) -> None:
    image = lungunet.read_image(pair.image)
    air = (cv2.GaussianBlur(image, (5, 5), 0) < -400).astype(np.uint8)
    _, parts = cv2.connectedComponents(air)
    lungunet.write_mask(
        pair.mask,
        lungunet.read_mask(pair.mask) | np.where(parts == parts[2, 64], 255, 0).astype(np.uint8),
    )


def sieve(mask: np.ndarray) -> np.ndarray:
    holes = np.random.default_rng(0).random(mask.shape) < 0.03
    return np.where(holes, np.uint8(0), mask)


DOUBTS: dict[str, tuple[Spoil, str, str]] = {
    "background": (with_background, "outside", "outside the body"),
    "one lung": (rewrite_mask(without_half), "one-lung", "on the left of the picture"),
    "lobe": (
        rewrite_mask(lambda m: np.where(np.arange(SIZE)[:, None] < 55, 0, m).astype(np.uint8)),
        "missing", "missing where it looks like lung",
    ),
    "shifted": (rewrite_mask(lambda m: np.roll(m, 20, axis=1)), "shifted", "-20 px across"),
    "upside down": (rewrite_mask(lambda m: m[::-1].copy()), "mirrored", "upside down"),
    "heart filled": (
        rewrite_mask(lambda m: cv2.morphologyEx(m, cv2.MORPH_CLOSE, np.ones((61, 61)))),
        "extra", "as dense as tissue",
    ),
    "sieve": (rewrite_mask(sieve), "ragged", "cracks and pinholes"),
    "nothing drawn": (rewrite_mask(np.zeros_like), "missing", "missing where it looks like lung"),
}  # fmt: skip


@pytest.mark.parametrize("fault", DOUBTS)
def test_a_wrong_mask_ranks_first_and_says_why(fault: str, data: Path, spoilt) -> None:
    spoil, kind, words = DOUBTS[fault]
    spoil(spoilt)
    first, second, *_ = audit(data).ranking
    assert first.pair.name == spoilt.name
    assert first.score > second.score + 0.2
    assert first.kind == kind
    assert words in "; ".join(first.reasons)


def test_background_drawn_as_lung_is_not_taken_for_a_swap(data: Path, spoilt) -> None:
    image, mask = lungunet.read_image(spoilt.image), lungunet.read_mask(spoilt.mask)
    air = cv2.GaussianBlur(image, (5, 5), 0) < -400
    lungunet.write_mask(spoilt.mask, np.where(air, np.uint8(255), mask))
    assert ("error", "mask-inverted") not in found_for(audit(data), spoilt)


def rewrite_all(data: Path, *, image: Callable | None = None, mask: Callable | None = None) -> None:
    for names in ("train", "val", "test"):
        for pair in getattr(lungunet.read_split(data), names):
            if image is not None:
                lungunet.write_image(pair.image, image(lungunet.read_image(pair.image)))
            if mask is not None:
                lungunet.write_mask(pair.mask, mask(lungunet.read_mask(pair.mask)))


class TestRule:
    """It has no say where it sees no lung."""

    @pytest.mark.parametrize("window", [(-600, 1500), (-300, 1400), (-300, 1700), (0, 2000)])
    def test_right_masks_on_grey_are_not_doubted(self, data: Path, window) -> None:
        rewrite_all(data, image=lungunet.Window(*window).to_grey)
        result = audit(data)
        assert result.hears_rule
        assert max(suspect.score for suspect in result.ranking) < 0.2

    def test_grey_without_a_window(self, data: Path) -> None:
        rewrite_all(data, image=lungunet.Window(40, 400).to_grey)
        result = audit(data)
        assert (result.hears_rule, result.doubtful) == (False, [])
        (said,) = (f for f in result.findings if f.kind == "rule-unheard")
        assert said.severity == "warning"
        assert "24 of 24 slices: 8-bit grey of a window that cannot be told" in said.message

    def test_slices_without_a_window_are_named_and_not_judged(self, data: Path) -> None:
        blind = lungunet.read_split(data).train[:2]
        untold = [lungunet.Window(40, 400).to_grey(lungunet.read_image(p.image)) for p in blind]
        rewrite_all(data, image=lungunet.LUNG_WINDOW.to_grey)
        for pair, image in zip(blind, untold, strict=True):
            lungunet.write_image(pair.image, image)
        result = audit(data)
        assert result.hears_rule
        said = {f.pair.name: f for f in result.findings if f.kind == "rule-unheard"}
        assert set(said) == {pair.name for pair in blind}
        for pair in blind:
            assert said[pair.name].severity == "note"
            assert said[pair.name].message.startswith(f"{pair.image}: 8-bit grey of a window")
        unjudged = {s.pair.name: s for s in result.ranking if s.kind == "not judged"}
        assert set(unjudged) == set(said)
        for suspect in unjudged.values():
            assert suspect.score == 0
            assert suspect.reasons[0].startswith("8-bit grey of a window that cannot be told")

    def test_a_rule_that_agrees_with_hardly_any_mask(self, data: Path) -> None:
        corner = np.pad(np.full((20, 20), 255, np.uint8), (0, SIZE - 20))
        rewrite_all(data, mask=lambda m: corner if m.any() else m)
        assert audit(data).hears_rule  # of HU
        rewrite_all(data, image=lungunet.LUNG_WINDOW.to_grey)
        result = audit(data)
        assert not result.hears_rule
        assert not any("says the rule" in " ".join(s.reasons) for s in result.ranking)
        (said,) = (f for f in result.findings if f.kind == "rule-unheard")
        assert said.message.startswith("the threshold rule has no say: IoU 0.")
        assert json.loads(json.dumps(result.to_dict()))["hears_rule"] is False

    def test_masks_the_wrong_way_round_lead_the_ranking(self, data: Path) -> None:
        rewrite_all(data, mask=lambda m: 255 - m)
        result = audit(data)
        assert {(s.kind, s.score) for s in result.ranking} == {("inverted", 1.0)}
        assert sum(f.kind == "mask-inverted" for f in result.findings) == 24
        assert not any(f.kind == "rule-unheard" for f in result.findings)


def test_several_wrong_masks_all_rank_first(data: Path) -> None:
    train = lungunet.read_split(data).train
    spoils = [DOUBTS[name][0] for name in ("background", "one lung", "shifted", "heart filled")]
    for pair, spoil in zip(train, spoils, strict=False):
        spoil(pair)
    shutil.copy(train[8].mask, train[4].mask)  # the mask of another slice
    wrong = {pair.name for pair in train[:5]}
    assert {s.pair.name for s in audit(data).ranking[:5]} == wrong


class TestDoubt:
    def test_a_slice_without_lung_is_not_doubted(self) -> None:
        made = phantom_slice(0, 0.02, size=SIZE)
        assert not made.mask.any()
        assert doubt_label(LabelView(made.image, made.mask > 0)).score < 0.1

    @pytest.mark.parametrize("shape", [(96, 128), (130, 97), (600, 512)])
    def test_any_shape(self, shape: tuple[int, int]) -> None:
        made = phantom_slice(1, 0.5, size=SIZE)
        image = cv2.resize(made.image, shape[::-1])
        lung = cv2.resize(made.mask, shape[::-1]) > 127
        assert doubt_label(LabelView(image, lung)).score < 0.3
        assert doubt_label(LabelView(image, np.roll(lung, shape[1] // 5, axis=1))).score > 0.5

    def test_a_model_adds_its_doubt(self) -> None:
        made = phantom_slice(1, 0.5, size=SIZE)
        lung = made.mask > 0
        view = LabelView(made.image, lung)
        seen = lung.copy()
        seen[50:80] = False
        alone, agreed, disputed = (
            doubt_label(view, pred=pred).score for pred in (None, lung, seen)
        )
        assert agreed == pytest.approx(alone)
        assert disputed > alone + 0.3

    def test_grey_pictures_are_judged_too(self) -> None:
        made = phantom_slice(1, 0.5, size=SIZE)
        grey = lungunet.LUNG_WINDOW.to_grey(made.image)
        assert doubt_label(LabelView(grey, made.mask > 0)).score < 0.3
        assert doubt_label(LabelView(grey, np.roll(made.mask > 0, 20, axis=0))).score > 0.5


class TestFolds:
    def test_every_pair_is_judged_by_a_model_that_did_not_see_it(
        self, data: Path, tmp_path: Path, monkeypatch
    ) -> None:
        from lungunet.evaluation import crossval

        quick = crossval.QUICK
        small = type(quick)(**{**vars(quick), "epochs": 1, "size": 32, "batch_size": 4})
        seen: list[tuple[set[str], set[str]]] = []
        train = crossval._train_quickly

        def watched(pairs, codec, folder, config):
            predictor = train(pairs, codec, folder, small)
            predict = predictor.predict_files

            def noted(paths):
                paths = list(paths)
                seen.append(({p.name for p in pairs}, {p.stem for p in paths}))
                return predict(paths)

            predictor.predict_files = noted
            return predictor

        monkeypatch.setattr(crossval, "_train_quickly", watched)
        monkeypatch.setattr(audit_module, "_TAUGHT_IOU", 0.0)  # these learn next to nothing
        work = tmp_path / "work"
        work.mkdir()
        result = audit(data, folds=2, work=work)
        assert list(work.iterdir()) == []  # the temporary runs are gone
        assert all(s.seen is not None for s in result.ranking)
        assert len(seen) == 2
        assert set.union(*(left for _, left in seen)) == {s.pair.name for s in result.ranking}
        for taught, left in seen:
            assert not taught & left

    def test_patients_of_split_json_stay_in_one_fold(self, data: Path, monkeypatch) -> None:
        pairs = [
            p
            for names in ("train", "val", "test")
            for p in getattr(lungunet.read_split(data), names)
        ]
        patients = {pair.name: int(pair.name[1:3]) for pair in pairs}
        facts = json.loads((data / "split.json").read_text())
        (data / "split.json").write_text(json.dumps({**facts, "patients": patients}))
        caught = {}

        def no_models(pairs, *, groups, **rest):
            caught.update(groups)
            return iter(())

        monkeypatch.setattr(audit_module, "predict_out_of_fold", no_models)
        with pytest.warns(LungUNetWarning, match="have no say"):
            audit(data, folds=2)
        assert len(set(caught.values())) == PATIENTS
        assert caught["p03_0"] == caught["p03_1"]

    @pytest.mark.parametrize(("height", "heard"), [(1.0, True), (0.6, False)])
    def test_models_that_learnt_too_little_have_no_say(
        self, data: Path, monkeypatch, height: float, heard: bool
    ) -> None:
        """They see the upper part of each lung alone."""

        def models(pairs, **rest):
            for pair in pairs:
                truth = lungunet.read_mask(pair.mask) > 0
                below = truth.sum(axis=1).cumsum() > height * truth.sum()
                seen = np.where(below[:, None], False, truth).astype(np.uint8)
                yield pair, Prediction(pair.image, segmented=lungunet.Segmented(seen))

        monkeypatch.setattr(audit_module, "predict_out_of_fold", models)
        with nullcontext() if heard else pytest.warns(LungUNetWarning) as caught:
            result = audit(data, folds=2)
        assert result.agreement is not None
        assert (result.agreement.slices, result.agreement.is_enough) == (24, heard)
        assert result.agreement.models_iou == pytest.approx(height, abs=0.03)
        assert all((suspect.seen is not None) == heard for suspect in result.ranking)
        if not heard:
            assert [suspect.to_dict() for suspect in result.ranking] == [
                suspect.to_dict() for suspect in audit(data).ranking
            ]
            assert f"{data}: the models of the folds have no say. They reach IoU 0." in str(
                caught[0].message
            )


class TestSave:
    def test_writes_tables_and_pictures(self, data: Path, spoilt, tmp_path: Path) -> None:
        rewrite_mask(lambda m: m // 255)(spoilt)
        result = audit(data)
        out = tmp_path / "out"
        result.save(out, pictures=7)
        stored = json.loads((out / "audit.json").read_text())
        assert stored == result.to_dict()
        assert stored["severities"]["error"] == 1
        with (out / "ranking.csv").open(newline="") as file:
            ranking = list(csv.DictReader(file))
        assert [row["name"] for row in ranking] == [s.pair.name for s in result.ranking]
        assert float(ranking[1]["score"]) == result.ranking[1].score
        with (out / "findings.csv").open(newline="") as file:
            assert [row["kind"] for row in csv.DictReader(file)] == ["mask-coding"]
        names = sorted(path.name for path in (out / "pictures").iterdir())
        drawn = min(7, len(result.doubtful) - 1)  # the first has no mask
        assert drawn > 0
        assert names[0] == "sheet-01.png"
        worst = [name for name in names if name.startswith("worst")]
        assert worst[0] == f"worst-001-{result.ranking[1].pair.name}.png"
        assert len(worst) == drawn

    def test_an_earlier_audit_leaves_no_pictures_behind(self, clean: Path, tmp_path: Path) -> None:
        result = audit(clean)
        result.save(tmp_path, pictures=6)
        (tmp_path / "pictures" / "mine.png").write_bytes(b"")
        result.save(tmp_path, pictures=1)
        names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
        first = result.ranking[0].pair.name
        assert names == ["mine.png", "sheet-01.png", f"worst-001-{first}.png"]

    def test_audit_saves_where_it_is_told_to(self, clean: Path, tmp_path: Path) -> None:
        result = audit(clean, out=tmp_path / "out", pictures=1)
        stored = json.loads((tmp_path / "out" / "audit.json").read_text())
        assert stored == result.to_dict()
        assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2
        (tmp_path / "out" / "audit.json").write_text("mine")
        with pytest.raises(ConfigError, match=r"audit\.json.*: already there"):
            audit(tmp_path / "nowhere", out=tmp_path / "out")  # refused before any work
        assert (tmp_path / "out" / "audit.json").read_text() == "mine"
        audit(clean, out=tmp_path / "out", overwrite=True)
        assert json.loads((tmp_path / "out" / "audit.json").read_text()) == stored

    def test_the_report_of_a_run_shows_the_audit_in_it(self, clean: Path, tmp_path: Path) -> None:
        lungunet.RunConfig(data=str(clean)).save(tmp_path / "config.toml")
        (tmp_path / "best").mkdir()
        result = audit(clean, out=tmp_path / "audit", pictures=0)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert f"{result.counts['val']}</data> of val" in page

    @pytest.mark.parametrize("there", [False, True])
    def test_no_empty_folder_is_left(self, tmp_path: Path, there: bool) -> None:
        out = tmp_path / "out"
        if there:
            out.mkdir()
        with pytest.raises(DataError, match="no such folder"):
            audit(tmp_path / "nowhere", out=out)
        assert out.exists() == there

    def test_a_place_that_cannot_be_written_is_told_before_any_work(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match=r"out: cannot be made \(Not a directory\)"):
            audit(tmp_path / "nowhere", out=tmp_path / "file" / "out")


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"folds": 1}, "folds: 1. Give 0 for none, or at least 2"),
            ({"folds": -2}, "folds: -2. Give 0 for none"),
            ({"pictures": -1}, "pictures: -1. Give 0 or more"),
        ],
    )
    def test_settings_that_mean_nothing(self, tmp_path: Path, settings, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            audit(tmp_path, out=tmp_path / "out", **settings)
        assert not (tmp_path / "out").exists()

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such folder"):
            audit(tmp_path / "nowhere")

    def test_empty_lists(self, tmp_path: Path) -> None:
        (tmp_path / "train.txt").write_text("")
        with pytest.raises(SplitError, match="no pairs in any list"):
            audit(tmp_path)


def test_the_answer_does_not_depend_on_the_number_of_threads(clean: Path) -> None:
    assert audit(clean, workers=1).to_dict() == audit(clean, workers=3).to_dict()


def test_paths_go_no_detours_and_right_masks_are_not_drawn(
    data: Path, spoilt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lungunet.write_mask(spoilt.mask, lungunet.read_mask(spoilt.mask)[::-1].copy())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = audit("../data", out="audit")
    listed = [suspect.pair.image for suspect in result.ranking]
    assert all(".." not in path.parts[1:] for path in listed)
    assert all(path.is_file() for path in listed)
    drawn = sorted(path.name for path in Path("audit/pictures").glob("worst-*.png"))
    assert len(drawn) == len(result.doubtful) < len(result.ranking)
    assert spoilt.name in drawn[0]


def test_a_way_through_a_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "far" / "lists").mkdir(parents=True)
    (tmp_path / "far" / "a.png").touch()
    (tmp_path / "near").symlink_to(tmp_path / "far" / "lists")
    (tmp_path / "near" / "train.txt").write_text("../a.png\t../a.png\n")
    pair = lungunet.read_manifest(tmp_path / "near" / "train.txt")[0]
    assert pair.image == tmp_path / "near" / ".." / "a.png"  # not tmp_path / "a.png"
    assert pair.image.is_file()


def test_no_share_is_above_all_of_it() -> None:
    rng = np.random.default_rng(0)
    dust = rng.random((SIZE, SIZE)) < 0.08
    doubt = doubt_label(LabelView(phantom_slice(1, 0.5, size=SIZE).image, dust))
    for reason in doubt.reasons:
        shares = [float(word[:-1]) for word in reason.split() if word.endswith("%")]
        assert all(share <= 100 for share in shares), reason


def test_its_page_says_what_each_reason_weighs() -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "audit.md"
    lines = [line for line in page.read_text("utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    assert len(rows) == len(_WORDS)
    for (name, (_, text)), (words, _, *figures) in zip(_WORDS.items(), rows, strict=True):
        assert all(part.strip() in text for part in words.split("...")), words
        known = [weights.get(name) for weights in (_WEIGHTS, _MODEL_WEIGHTS)]
        said = [[f"{100 * one[0]:g} %", f"{one[1]:g}"] if one else ["", ""] for one in known]
        assert figures == [*said[0], *said[1]], words
