"""From slices to masks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lungunet
from lungunet import ConfigError, DataError, InputContract, LabelCodec, ModelError, Predictor
from lungunet.inference.network import TorchSegmenter
from lungunet.inference.segmenter import Segmented
from lungunet.models.builtin import BUILTIN
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid


class Bright(torch.nn.Module):
    """Calls lung what is darker than a grey value: a rule whose answer is known."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image, -image], dim=1) * 8


def bright(size: int = 32, codec: LabelCodec = lungunet.LUNG_CODEC) -> Predictor:
    contract = InputContract(size, window=None, dtypes=("uint8",), mean=0.5, std=0.25)
    return Predictor(TorchSegmenter(Bright(), contract, codec, device="cpu"))


def test_predict_equals_the_model_by_hand(run: Path, split: lungunet.Split) -> None:
    image = lungunet.read_image(split.test[0].image)
    saved = lungunet.load_model(run)
    predictor = Predictor.load(run, device="cpu", precision="fp32")
    batch = torch.from_numpy(saved.contract.prepare(image))[None]
    with torch.no_grad():
        logits = F.interpolate(saved.model(batch), image.shape, mode="bilinear")
    np.testing.assert_allclose(
        predictor.probabilities(image), logits.softmax(1)[0].numpy(), atol=1e-5
    )
    mask = predictor.predict(image)
    assert mask.dtype == np.uint8
    clear = (logits[0, 1] - logits[0, 0]).abs().numpy() > 1e-3
    np.testing.assert_array_equal(
        mask[clear], np.where(logits[0].argmax(0).numpy() == 1, 255, 0)[clear]
    )


def test_train_path_and_predict_path_feed_the_model_the_same(
    run: Path, split: lungunet.Split
) -> None:
    saved = lungunet.load_model(run)
    dataset = lungunet.LungCTDataset(split.test, contract=saved.contract)
    for index, pair in enumerate(split.test):
        image = lungunet.read_image(pair.image)
        np.testing.assert_array_equal(dataset[index][0].numpy(), saved.contract.prepare(image))


@pytest.mark.parametrize("shape", [(32, 32), (48, 64), (65, 31), (7, 100), (512, 300), (1, 1)])
def test_masks_have_the_size_of_the_slice(shape: tuple[int, int]) -> None:
    image = np.full(shape, 200, np.uint8)
    image[: shape[0] // 2] = 10
    mask = bright().predict(image)
    assert mask.shape == shape
    assert set(np.unique(mask)) <= {0, 255}
    if min(shape) > 20:
        edge = shape[0] // 2
        assert (mask[: edge - shape[0] // 16 - 1] == 255).all()
        assert (mask[edge + shape[0] // 16 + 1 :] == 0).all()


def test_a_half_is_found_where_it_is_to_the_pixel() -> None:
    image = np.full((64, 96), 220, np.uint8)
    image[20:40, 30:70] = 20
    np.testing.assert_array_equal(bright(size=96).predict(image) == 255, image == 20)


def test_probabilities_sum_to_one() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 40)).astype(np.uint8)
    probs = bright().probabilities(image)
    assert probs.shape == (2, 50, 40)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(0), 1, atol=1e-5)


def test_what_breaks_the_contract_is_refused(run: Path) -> None:
    predictor = Predictor.load(run, device="cpu")
    with pytest.raises(DataError, match="a slice of uint8, the model expects int16 or int32"):
        predictor.predict(np.zeros((40, 40), np.uint8))
    with pytest.raises(DataError, match=r"shape \(2, 3, 4\)"):
        predictor.predict(np.zeros((2, 3, 4), np.int16))
    for tta in (False, True):
        with pytest.raises(DataError, match="slice: a list, no array"):
            Predictor.load(run, device="cpu", tta=tta).probabilities([[1, 2], [3, 4]])  # type: ignore[arg-type]


def test_other_codes_of_lung_still_come_back_as_0_and_255() -> None:
    assert set(np.unique(bright(codec=LabelCodec({0: 0, 1: 1})).predict(lopsided()))) == {0, 255}


def test_more_classes_come_back_in_their_own_code() -> None:
    class Three(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([image * 0, image, -image], dim=1)

    codec = LabelCodec({0: 0, 3: 1, 4: 2})
    contract = InputContract(32, window=None, dtypes=("uint8",))
    predictor = Predictor(TorchSegmenter(Three(), contract, codec, device="cpu"))
    assert set(np.unique(predictor.predict(lopsided()))) == {3, 4}


def lopsided() -> np.ndarray:
    image = np.full((40, 30), 250, np.uint8)
    image[10:20, 5:9] = 0
    return image


class Spots:
    """Says lung, as sure as it was told, where a slice is 1; draws on nothing else."""

    codec = lungunet.LUNG_CODEC
    contract, word, segment_volume = InputContract(32), "", None

    def __init__(self, *confidence: float) -> None:
        self.confidence = iter(confidence)
        self.batches: list[int] = []

    def prepare(self, image: np.ndarray, where: str = "slice") -> np.ndarray:
        return image

    def __call__(self, prepared: list[np.ndarray]) -> list[Segmented]:
        self.batches.append(len(prepared))
        lungs = [(image == 1) * np.float32(next(self.confidence)) for image in prepared]
        return [Segmented.likeliest(np.stack([1 - lung, lung])) for lung in lungs]


class TestMirror:
    image = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], np.int16)

    def test_without_it_there_is_no_disagreement(self) -> None:
        (found,) = Predictor(Spots(0.9)).segment([self.image])
        assert found.disagreement is None
        np.testing.assert_array_equal(found.classes, self.image)

    def test_probabilities_are_the_mean_and_lie_where_the_slice_does(self) -> None:
        predictor = Predictor(Spots(0.9, 0.2), tta=True)
        (found,) = predictor.segment([self.image])
        np.testing.assert_allclose(found.probabilities[1], self.image * 0.55, rtol=1e-6)
        np.testing.assert_allclose(found.probabilities.sum(0), 1, rtol=1e-6)
        np.testing.assert_array_equal(found.classes, self.image)
        assert found.disagreement == 1  # the mirror shows none of it
        assert predictor.segmenter.batches == [2]

    def test_disagreement_is_one_minus_iou(self) -> None:
        class Blind(Spots):
            """Sees nothing in the last column, which is the first one in the mirror."""

            def __call__(self, prepared: list[np.ndarray]) -> list[Segmented]:
                return super().__call__([image * (np.arange(5) < 4) for image in prepared])

        image = np.array([[1, 1, 1, 0, 1]], np.int16)
        (found,) = Predictor(Blind(1, 1), tta=True).segment([image])
        # Columns 0, 1, 2 against columns 1, 2, 4: two in common of four.
        assert found.disagreement == 0.5
        np.testing.assert_array_equal(found.classes, [[0, 1, 1, 0, 0]])

    def test_of_classes_alone_lung_is_what_both_say(self) -> None:
        class Blind(Spots):
            """A rule that sees nothing in the last column."""

            word = "threshold"

            def __call__(self, prepared: list[np.ndarray]) -> list[Segmented]:
                return [
                    Segmented((image * (np.arange(5) < 4)).astype(np.uint8)) for image in prepared
                ]

        image = np.array([[1, 1, 1, 0, 1]], np.int16)
        (found,) = Predictor(Blind(), tta=True).segment([image])
        assert (found.disagreement, found.probabilities) == (0.5, None)
        np.testing.assert_array_equal(found.classes, [[0, 1, 1, 0, 0]])

    def test_no_lung_in_both_agrees(self) -> None:
        (found,) = Predictor(Spots(1, 1), tta=True).segment([self.image * 0])
        assert found.disagreement == 0

    def test_more_than_two_classes_are_refused(self) -> None:
        segmenter = Spots()
        segmenter.codec = LabelCodec({0: 0, 1: 1, 2: 2})
        with pytest.raises(ConfigError, match="the model has 3 classes, and one that means left"):
            Predictor(segmenter, tta=True)

    def test_a_network_sees_both(self, run: Path, split: lungunet.Split) -> None:
        image = lungunet.read_image(split.test[0].image)
        plain = Predictor.load(run, device="cpu", precision="fp32")
        both = Predictor.load(run, device="cpu", precision="fp32", tta=True)
        (found,) = both.segment([image])
        flipped = plain.probabilities(image[:, ::-1])[..., ::-1]
        mean = (plain.probabilities(image) + flipped) / 2
        np.testing.assert_allclose(found.probabilities, mean, atol=1e-5)
        (prediction,) = both.predict_files([split.test[0].image])
        assert prediction.segmented.disagreement == found.disagreement


class TestSegment:
    def test_sizes_may_differ_and_order_is_kept(self) -> None:
        images = [np.full((5, 7), 1), np.zeros((3, 4)), np.full((2, 9), 1)]
        found = Predictor(Spots(0.9, 0.9, 0.8)).segment(images)
        assert [each.probabilities.shape for each in found] == [(2, 5, 7), (2, 3, 4), (2, 2, 9)]
        assert [each.classes.max() for each in found] == [1, 0, 1]

    def test_nothing_in_nothing_out(self) -> None:
        assert Predictor(Spots()).segment([]) == []

    def test_classes_are_the_likeliest_and_of_equals_the_first(self) -> None:
        probabilities = np.array([[[0.5, 0.4, 0.6]], [[0.5, 0.6, 0.4]]], np.float32)
        np.testing.assert_array_equal(Segmented.likeliest(probabilities).classes, [[0, 1, 0]])
        three = np.array([[[0.4, 0.2]], [[0.4, 0.3]], [[0.2, 0.5]]], np.float32)
        classes = Segmented.likeliest(three).classes
        np.testing.assert_array_equal(classes, [[0, 2]])
        assert classes.dtype == Segmented.likeliest(probabilities).classes.dtype == np.uint8


class TestFiles:
    def test_paths_may_be_text_and_one_may_be_alone(self, split: lungunet.Split) -> None:
        rule, paths = Predictor.load("threshold"), [pair.image for pair in split.test]
        assert [one.path for one in rule.predict_files(map(str, paths))] == paths
        assert [one.path for one in rule.predict_files(str(paths[0]))] == paths[:1]

    def test_each_slice_is_prepared_once(self, run: Path, split: lungunet.Split) -> None:
        predictor = Predictor.load(run, device="cpu")
        seen = []
        prepare = predictor.segmenter.prepare
        predictor.segmenter.prepare = lambda *given: seen.append(given) or prepare(*given)
        assert len(list(predictor.predict_files([pair.image for pair in split.test]))) == 3
        assert len(seen) == 3

    def test_in_order_at_every_batch_size_and_bad_files_named(
        self, run: Path, split: lungunet.Split, tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad.tif"
        bad.write_bytes(b"no image")
        grey = tmp_path / "grey.png"
        lungunet.write_mask(grey, np.zeros((20, 30), np.uint8))
        files = [split.test[0].image, bad, split.test[1].image, grey, tmp_path / "none.tif"]
        predictor = Predictor.load(run, device="cpu")
        alone = predictor.predict(lungunet.read_image(files[2]))
        for batch_size in (1, 2, 8):
            found = list(predictor.predict_files(files, batch_size=batch_size))
            assert [prediction.path for prediction in found] == files
            assert [bool(prediction.error) for prediction in found] == [
                False,
                True,
                False,
                True,
                True,
            ]
            assert "bad.tif: not a readable image" in (found[1].error or "")
            assert (found[3].error or "").startswith(f"{grey}: a slice of uint8, the model expects")
            agree = (predictor.codec.decode(found[2].classes) == alone).mean()
            assert agree > 0.999
            with pytest.raises(DataError, match=r"bad\.tif"):
                _ = found[1].classes

    def test_nothing_in_nothing_out(self, run: Path) -> None:
        assert list(Predictor.load(run, device="cpu").predict_files([])) == []

    def test_files_are_read_as_they_are_needed(self, run: Path, split: lungunet.Split) -> None:
        asked = 0

        def endless():
            nonlocal asked
            while True:
                asked += 1
                yield split.test[0].image

        predictions = Predictor.load(run, device="cpu").predict_files(endless(), batch_size=2)
        next(predictions)
        assert asked <= 6


def test_loading_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        Predictor.load(tmp_path / "none")
    with pytest.raises(ModelError, match=r"no model in it \(lungunet.json is missing\)"):
        Predictor.load(tmp_path)


class TestOwnNetwork:
    contract = InputContract(32, window=None, dtypes=("uint8",), mean=0.5, std=0.25)

    def test_is_a_predictor_with_its_contract(self) -> None:
        predictor = Predictor(Bright(), self.contract, device="cpu")
        assert predictor.codec == lungunet.LUNG_CODEC
        np.testing.assert_array_equal(predictor.predict(lopsided()), bright().predict(lopsided()))

    def test_what_was_loaded_is_one_too(self, run: Path, split: lungunet.Split) -> None:
        image = lungunet.read_image(split.test[0].image)
        expected = Predictor.load(run, device="cpu", precision="fp32").probabilities(image)
        saved = lungunet.load_model(run)
        loaded = Predictor.load(saved, device="cpu", precision="fp32")
        own = Predictor(saved.model, saved.contract, saved.codec, device="cpu", precision="fp32")
        for predictor in (loaded, own):
            np.testing.assert_array_equal(predictor.probabilities(image), expected)

    def test_a_network_alone_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"^contract: a network needs the one"):
            Predictor(Bright())

    @pytest.mark.parametrize(
        "options",
        [{"contract": contract}, {"codec": lungunet.LUNG_CODEC}, {"device": "cpu"}],
    )
    def test_a_segmenter_has_its_own(self, options) -> None:
        with pytest.raises(ConfigError, match="a segmenter has its own"):
            Predictor(Spots(), **options)

    def test_classes_that_do_not_fit_the_codec_are_refused(self) -> None:
        predictor = Predictor(Bright(), self.contract, LabelCodec({0: 0, 1: 1, 2: 2}), device="cpu")
        with pytest.raises(ConfigError, match=r"gives \(1, 2, 32, 32\) .* \(1, 3, 32, 32\)"):
            predictor.predict(lopsided())

    def test_what_gives_no_logits_is_refused(self) -> None:
        class Dictionary(Bright):
            def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"out": super().forward(image)}

        predictor = Predictor(Dictionary(), self.contract, device="cpu")
        with pytest.raises(ConfigError, match="the network: gives dict for 1 slice"):
            predictor.predict(lopsided())

    def test_a_unet_of_2015_keeps_what_it_was(self) -> None:
        model = lungunet.build_unet("unet2015", width=2, valid=True, seed=0)
        padded = lungunet.build_unet("unet2015", width=2, valid=False, seed=0)
        image = lopsided()
        found = Predictor(model, self.contract, device="cpu").probabilities(image)
        expected = Predictor(padded, self.contract, device="cpu").probabilities(image)
        np.testing.assert_array_equal(found, expected)
        assert model.valid
        with pytest.raises(DataError, match="does not fit unpadded convolutions"):
            model(torch.zeros(1, 1, 32, 32))


class TestWhatIsPredicted:
    def test_arrays_and_paths_of_slices(self, run: Path, split: lungunet.Split) -> None:
        path = split.test[0].image
        predictor = Predictor.load(run, device="cpu")
        expected = predictor.predict(lungunet.read_image(path))
        for given in (path, str(path), lungunet.read_image(path)):
            np.testing.assert_array_equal(predictor(given), expected)
            np.testing.assert_array_equal(predictor.predict(given), expected)

    def test_scans_and_their_paths(self, tmp_path: Path) -> None:
        hu = np.stack([phantom_slice(0, z, size=64).image[:50] for z in (0.3, 0.5, 0.7)])
        grid = Grid.axial(hu.shape, (9.0, 5.0, 4.0))
        scan = lungunet.Volume(hu, tmp_path / "scan.nii.gz", "scan", grid)
        lungunet.write_volume(scan.path, hu, like=scan)
        predictor = Predictor.load("threshold")
        lungs = lungunet.segment_lungs(hu, spacing_mm=(9.0, 5.0, 4.0))
        assert lungs.any()
        for given in (scan, scan.path, str(scan.path)):
            mask = predictor(given)
            assert mask.dtype == np.uint8
            np.testing.assert_array_equal(mask, lungs * 255)

    def test_a_path_is_named_in_what_is_wrong_with_it(self, run: Path, tmp_path: Path) -> None:
        predictor = Predictor.load(run, device="cpu")
        with pytest.raises(DataError, match=r"none\.tif: no such file"):
            predictor(tmp_path / "none.tif")
        lungunet.write_image(tmp_path / "grey.png", lopsided())
        with pytest.raises(DataError, match=r"^\S+grey\.png: a slice of uint8"):
            predictor(tmp_path / "grey.png")


def test_says_what_it_is_in_two_lines_at_most(run: Path) -> None:
    loaded = Predictor.load(run, device="cpu")
    assert repr(loaded) == (
        f"<Predictor: TorchSegmenter, sees {loaded.segmenter.contract}, gives 0,255, tta=False>"
    )
    assert repr(Predictor.load("threshold", tta=True)) == (
        "<Predictor: ThresholdSegmenter, sees HU, gives 0,255, tta=True>"
    )


def test_the_module_needs_no_torch() -> None:
    code = "import sys, lungunet; lungunet.predict_slices, lungunet.predict_scans; "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_masks_of_what_is_no_hu_come_with_a_warning(tmp_path):
    hu = np.full((3, 40, 40), -1000, np.int16)
    hu[:, 4:36, 4:36] = 40
    hu[:, 8:30, 8:18] = -850
    paths = [tmp_path / f"{index}.tif" for index in range(3)]
    for path, plane in zip(paths, hu, strict=True):
        lungunet.write_image(path, plane + np.int16(1024))
    with pytest.warns(lungunet.LungUNetWarning, match=r"^these masks mean little: smallest value"):
        assert len(list(lungunet.Predictor.load("threshold").predict_files(paths))) == 3


def test_an_array_of_doubles_is_told_what_to_become():
    with pytest.raises(lungunet.DataError, match=r"pass image\.astype\('float32'\)"):
        lungunet.Predictor.load("threshold").predict(np.zeros((40, 40)))


class TestWeightsHash:
    def test_of_a_model_folder_is_that_of_its_file(self) -> None:
        about = json.loads((BUILTIN["lungs"] / "lungunet.json").read_text())
        assert Predictor.load("lungs").weights_sha256 == about["weights_sha256"]

    def test_of_a_network_is_what_its_folder_would_say(self, tmp_path: Path) -> None:
        network = lungunet.build_unet("unet2015", width=2, seed=0)
        contract = InputContract(32)
        lungunet.save_model(tmp_path, network, contract=contract, codec=lungunet.LUNG_CODEC)
        stored = json.loads((tmp_path / "lungunet.json").read_text())["weights_sha256"]
        assert Predictor(network, contract).weights_sha256 == stored
        assert Predictor.load(tmp_path).weights_sha256 == stored

    def test_a_rule_has_none(self) -> None:
        assert Predictor.load("threshold").weights_sha256 == ""
