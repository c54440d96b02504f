"""Several models as one: the mean of what they say, and where they quarrel."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lungunet
from lungunet import ConfigError, InputContract, LabelCodec, ModelError, Predictor
from lungunet.inference import ensemble
from lungunet.inference.threshold import ThresholdSegmenter

CONTRACT = InputContract(32)
IMAGES = [
    np.random.default_rng(0).normal(-500, 400, (40, 37)).astype(np.int16),
    np.random.default_rng(1).normal(-500, 400, (24, 32)).astype(np.int16),
]


def save(folder: Path, seed: int, contract=CONTRACT, codec=lungunet.LUNG_CODEC) -> Path:
    model = lungunet.build_unet("unet2015", width=2, n_classes=codec.n_classes, seed=seed)
    with torch.no_grad():  # fresh weights say about even odds
        for parameter in model.parameters():
            parameter.mul_(2)
    lungunet.save_model(folder, model, contract=contract, codec=codec)
    return folder


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a cross-validation of eleven folds leaves it."""
    folder = tmp_path_factory.mktemp("cv")
    for number in (1, 2, 11):
        save(folder / f"fold-{number}" / "best", number)
    return folder


def probabilities(model: Path | str, image: np.ndarray) -> np.ndarray:
    return Predictor.load(model, device="cpu", precision="fp32").probabilities(image)


def test_says_the_mean_and_keeps_the_quarrel(folds: Path) -> None:
    predictor = Predictor.load(folds, device="cpu", precision="fp32")
    for image, said in zip(IMAGES, predictor.segment(IMAGES), strict=True):
        each = np.stack([probabilities(folds / f"fold-{n}", image) for n in (1, 2, 11)])
        np.testing.assert_allclose(said.probabilities, each.mean(0), atol=1e-6)
        np.testing.assert_array_equal(said.classes, said.probabilities.argmax(0))
        np.testing.assert_allclose(said.spread, 2 * each[:, 1].std(0), atol=1e-3)
        assert said.spread.dtype == np.float32
        assert said.spread.max() > 0.05
        assert said.uncertainty is said.spread
    assert "EnsembleSegmenter" in repr(predictor)


def test_half_sure_of_lung_and_half_of_none_is_a_spread_of_one() -> None:
    class Sure:
        contract, codec, word, segment_volume = CONTRACT, lungunet.LUNG_CODEC, "", None

        def __init__(self, lung: float) -> None:
            self.lung = np.float32(lung)

        def prepare(self, image, where="slice"):
            return image

        def __call__(self, prepared):
            lungs = [np.full(image.shape, self.lung) for image in prepared]
            return [lungunet.Segmented.likeliest(np.stack([1 - lung, lung])) for lung in lungs]

    def spread(*lungs: float) -> float:
        members = ensemble.EnsembleSegmenter([Sure(lung) for lung in lungs])
        (said,) = Predictor(members).segment([np.zeros((2, 3), np.int16)])
        assert len(np.unique(said.spread)) == 1
        return float(said.spread[0, 0])

    assert spread(0, 1) == 1
    assert spread(0, 1, 1, 0) == 1
    assert spread(0.75, 0.75) == 0
    assert spread(0.3, 0.3, 0.3) == spread(*[0.7] * 7) == 0
    assert spread(0.9, 0.9003, 0.9003) == pytest.approx(2 * 0.0003 * 2**0.5 / 3, rel=0.01)
    assert spread(0.5, 0.75) == pytest.approx(0.25)


def test_one_model_is_unsure_by_its_probabilities(folds: Path) -> None:
    (said,) = Predictor.load(folds / "fold-1", device="cpu").segment(IMAGES[:1])
    assert said.spread is None
    lung = said.probability(1)
    np.testing.assert_allclose(said.uncertainty, 1 - np.abs(2 * lung - 1), atol=1e-6)
    assert Predictor.load("threshold").segment(IMAGES[:1])[0].uncertainty is None


def test_names_joined_by_a_plus(folds: Path, tmp_path: Path, onnx_file: Path) -> None:
    joined = f"{folds / 'fold-2'} + {folds / 'fold-11' / 'best'}"
    each = [probabilities(folds / f"fold-{n}", IMAGES[0]) for n in (2, 11)]
    np.testing.assert_allclose(probabilities(joined, IMAGES[0]), np.mean(each, 0), atol=1e-6)
    named = save(tmp_path / "a+b", 2)  # a path that is there is one
    np.testing.assert_array_equal(probabilities(str(named), IMAGES[0]), each[0])
    with pytest.raises(ModelError, match=r"beside a \+"):
        Predictor.load("runs/a+")
    with pytest.raises(ModelError, match="no such folder"):
        Predictor.load(f"{folds / 'fold-1'}+{tmp_path / 'none'}")
    both = Predictor.load(f"{onnx_file}+{onnx_file}")  # not the same kind as networks
    np.testing.assert_allclose(
        both.probabilities(IMAGES[0]), probabilities(str(onnx_file), IMAGES[0]), atol=1e-6
    )


def test_members_of_two_kinds(run: Path, onnx_file: Path) -> None:
    both = Predictor.load(f"{run}+{onnx_file}", device="cpu", precision="fp32")
    said = both.probabilities(IMAGES[0])
    np.testing.assert_allclose(said, probabilities(run, IMAGES[0]), atol=1e-4)


def test_refuses_what_does_not_fit(folds: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other", 0, InputContract(64))
    with pytest.raises(ConfigError, match="model 2 has another contract"):
        Predictor.load(f"{folds / 'fold-1'}+{other}")
    sides = save(tmp_path / "sides", 0, codec=LabelCodec({0: 0, 3: 1, 4: 2}))
    with pytest.raises(ConfigError, match="model 2 has another codec"):
        Predictor.load(f"{folds / 'fold-1'}+{sides}")
    with pytest.raises(ConfigError, match=r"another contract|no probabilities"):
        Predictor.load(f"{folds / 'fold-1'}+threshold").predict(IMAGES[0])
    shutil.copytree(folds, tmp_path / "cv")
    shutil.rmtree(tmp_path / "cv" / "fold-2" / "best")
    with pytest.raises(ModelError, match=r"no model in .*fold-2: the cross-validation is not"):
        Predictor.load(tmp_path / "cv")
    (tmp_path / "data" / "fold-1").mkdir(parents=True)
    with pytest.raises(ModelError, match="no model in it"):
        Predictor.load(tmp_path / "data")


def test_large_ones_are_in_memory_one_at_a_time(folds: Path, monkeypatch) -> None:
    expected = [each.probabilities for each in Predictor.load(folds, device="cpu").segment(IMAGES)]
    monkeypatch.setattr(ensemble, "_HELD", 1)
    predictor = Predictor.load(folds, device="cpu")
    assert not any(hasattr(member, "model") for member in predictor.segmenter.members)
    for said, before in zip(predictor.segment(IMAGES), expected, strict=True):
        np.testing.assert_array_equal(said.probabilities, before)


def test_the_mirror_has_a_say_in_the_spread(folds: Path) -> None:
    predictor = Predictor.load(folds, device="cpu", tta=True)
    (said,) = predictor.segment(IMAGES[:1])
    plain = Predictor.load(folds, device="cpu")
    (one,), (two,) = plain.segment(IMAGES[:1]), plain.segment([IMAGES[0][:, ::-1].copy()])
    np.testing.assert_allclose(said.spread, (one.spread + two.spread[:, ::-1]) / 2, atol=1e-5)


@pytest.mark.parametrize("codec", [lungunet.LUNG_CODEC, LabelCodec({0: 0, 3: 1, 4: 2})])
def test_as_one_onnx_file(tmp_path: Path, codec: LabelCodec) -> None:
    for number in (1, 2):
        save(tmp_path / "cv" / f"fold-{number}" / "best", number, codec=codec)
    parity = lungunet.export_onnx(tmp_path / "cv", tmp_path / "cv.onnx")
    assert parity.furthest < 1e-4
    exported = Predictor.load(tmp_path / "cv.onnx")
    both = Predictor.load(tmp_path / "cv", device="cpu", precision="fp32")
    for image in IMAGES:
        np.testing.assert_allclose(
            exported.probabilities(image), both.probabilities(image), atol=1e-4
        )
        assert (exported.predict(image) != both.predict(image)).mean() < 0.001
    other = save(tmp_path / "other", 0, InputContract(64), codec)
    with pytest.raises(ConfigError, match="Join models that were trained alike"):
        lungunet.export_onnx(f"{tmp_path / 'cv'}+{other}", tmp_path / "b.onnx")


class TestMaps:
    def test_of_slices(self, folds: Path, phantoms, tmp_path: Path) -> None:
        predictor = Predictor.load(folds, device="cpu")
        write = lungunet.SliceFiles(uncertainty=True, triage=False)
        results = list(lungunet.predict_slices(predictor, phantoms[0], tmp_path, write=write))
        path = results[4].path
        (said,) = predictor.segment([lungunet.read_image(path)])
        written = lungunet.read_image(tmp_path / "uncertainty" / f"{path.stem}.tif")
        np.testing.assert_array_equal(written, said.spread)
        assert len(list((tmp_path / "uncertainty").iterdir())) == len(results)
        with pytest.raises(ConfigError, match="already there"):
            next(lungunet.predict_slices(predictor, phantoms[0], tmp_path, write=write))

    def test_of_scans(self, folds: Path, tmp_path: Path) -> None:
        nibabel = pytest.importorskip("nibabel")
        hu = np.stack([lungunet.phantom_slice(0, z / 4).image[::8, ::8] for z in range(5)])
        affine = np.diag([-2.0, -2.0, 3.0, 1.0])
        file = nibabel.Nifti1Image(hu.transpose(2, 1, 0).astype(np.int16), affine)
        nibabel.save(file, tmp_path / "a.nii.gz")
        predictor = Predictor.load(folds, device="cpu")
        write = lungunet.ScanFiles(uncertainty=True, preview=True)
        out = tmp_path / "out"
        (result,) = lungunet.predict_scans(
            predictor, tmp_path / "a.nii.gz", out, write=write, refine=False
        )
        written = lungunet.read_volume(out / "uncertainty" / "a.nii.gz").array
        volume = lungunet.read_volume(tmp_path / "a.nii.gz")
        for plane, said in zip(written, predictor.segment(volume.array), strict=True):
            np.testing.assert_allclose(plane, said.spread, atol=1e-6)
        loaded = nibabel.load(out / "uncertainty" / "a.nii.gz")
        np.testing.assert_array_equal(loaded.affine, affine)
        assert result.checked.values["members_difference"] > 0
        assert (out / "previews" / "a.png").exists()

    def test_a_rule_has_none(self, phantoms, tmp_path: Path) -> None:
        write = lungunet.SliceFiles(uncertainty=True)
        with pytest.raises(ConfigError, match="uncertainty: the threshold has no probabilities"):
            next(
                lungunet.predict_slices(
                    Predictor.load("threshold"), phantoms[0], tmp_path / "m", write=write
                )
            )
        assert not (tmp_path / "m").exists()

    def test_nor_has_a_model_of_ones_own_without_probabilities(
        self, phantoms, tmp_path: Path
    ) -> None:
        class Own(ThresholdSegmenter):
            word, segment_volume = "", None

        write = lungunet.SliceFiles(uncertainty=True)
        with pytest.raises(ConfigError, match="uncertainty: the model has no probabilities"):
            next(
                lungunet.predict_slices(Predictor(Own()), phantoms[0], tmp_path / "m", write=write)
            )
        assert not [*tmp_path.rglob("*.png")]


def test_triage_reads_it() -> None:
    image = lungunet.phantom_slice(0, 0.5).image
    predictor = Predictor.load("lungs", device="cpu")
    classes = predictor.segment([image])[0].classes
    calm = np.zeros(image.shape, np.float32)
    quarrel = np.where(classes > 0, 0.2, 0).astype(np.float32)
    agreed = lungunet.check_slice(image, classes, spread=calm, second_opinion=False)
    assert agreed.values["members_difference"] == 0
    found = lungunet.check_slice(image, classes, spread=quarrel, second_opinion=False)
    assert found.values["members_difference"] == pytest.approx(0.2, rel=0.05)
    assert any("20" in text and "ensemble" in text for text in found.reasons)
    scan = np.stack([image, image])
    whole = lungunet.check_volume(
        scan,
        np.stack([classes, classes]),
        spacing_mm=(5, 1, 1),
        spread_px=[quarrel.sum(), 0],
        second_opinion=False,
    )
    assert whole.values["members_difference"] == pytest.approx(0.1, rel=0.05)
    assert whole.slices[0].values["members_difference"] == pytest.approx(0.2, rel=0.05)
    with pytest.raises(lungunet.DataError, match="spread_px: 1 value for 2 slices"):
        lungunet.check_volume(
            scan, np.stack([classes, classes]), spacing_mm=(5, 1, 1), spread_px=[1.0]
        )
