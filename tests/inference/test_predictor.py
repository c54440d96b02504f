"""From slices to masks."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lungunet
from lungunet import DataError, InputContract, LabelCodec, ModelError, Predictor
from lungunet.inference.predictor import TorchSegmenter


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


class TestFiles:
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
