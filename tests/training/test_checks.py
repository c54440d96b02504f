"""What the values of a list are looked at for before anything is learnt from them."""

from pathlib import Path

import numpy as np
import pytest
import torch

import lungunet
from lungunet import ConfigError, DataError, LungCTDataset, LungUNetWarning, Pair, Window
from lungunet.training.checks import check_values
from lungunet.training.tracking import val_pictures


@pytest.fixture
def make(phantoms: tuple[Path, Path], tmp_path: Path):
    """Write the phantoms anew, spoilt, and return them as a dataset."""

    def written(spoil, *, window: Window | None = None, only: int = 99) -> LungCTDataset:
        pairs = []
        for number, pair in enumerate(lungunet.find_pairs(*phantoms)):
            image = lungunet.read_image(pair.image)
            pairs.append(Pair(tmp_path / f"{number}.tif", pair.mask))
            spoilt = spoil(image.astype(np.float32)) if number < only else image
            lungunet.write_image(pairs[-1].image, spoilt.astype(np.float32))
        return LungCTDataset(pairs, size=32, window=window)

    return written


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda hu: hu + 1024,
            r"without the rescale intercept\. Subtract 1024\. Or train",
        ),
        (lambda hu: (hu - hu.mean()) / hu.std(), "scaled or standardised values, no HU"),
    ],
)
def test_no_hu_is_refused(make, spoil, says: str) -> None:
    with pytest.raises(DataError, match=f"^train: .*{says}"):
        check_values(make(spoil))


def test_a_window_of_the_stored_values_takes_the_offset(make) -> None:
    check_values(make(lambda hu: hu + 1024, window=Window(424, 1500)))


def test_some_slices_that_are_no_hu_are_named(make) -> None:
    with pytest.warns(LungUNetWarning, match=r"^train: 2 of 12 slices \(0, 1\): smallest value"):
        check_values(make(lambda hu: hu + 1024, only=2))


@pytest.mark.parametrize(
    ("window", "shown", "meant"),
    [
        (Window(-1350, 150), "black or white", "It is LEVEL,WIDTH; for all from -1350 to 150 HU"),
        (
            Window(5000, 100),
            "black or white",
            "It is LEVEL,WIDTH in the values of the files",
        ),
    ],
)
def test_a_window_that_leaves_one_grey(make, window: Window, shown: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_values(make(lambda hu: hu, window=window))
    text = str(caught.value)
    assert text.startswith(f"window {window.level:g},{window.width:g}: ")
    assert f"% of the pixels are {shown}: little can be learnt from that. {meant}" in text


def test_padding_is_no_contrast(make) -> None:
    def padded(hu: np.ndarray) -> np.ndarray:
        hu[:20] = -2470
        return hu

    with pytest.raises(ConfigError, match="are black or white"):
        check_values(make(padded, window=Window(-1350, 150)))


@pytest.mark.parametrize("window", [Window(-600, 1500), Window(40, 400), Window(-500, 1000)])
def test_windows_that_people_use(make, window: Window) -> None:
    check_values(make(lambda hu: hu, window=window))


def test_eight_bits_have_no_window(phantoms: tuple[Path, Path], tmp_path: Path) -> None:
    (pair, *_) = lungunet.find_pairs(*phantoms)
    lungunet.write_image(tmp_path / "a.png", np.zeros((48, 48), np.uint8))
    check_values(LungCTDataset([Pair(tmp_path / "a.png", pair.mask)], size=32))


def test_training_asks_before_the_first_step(make, tmp_path: Path) -> None:
    wrong = make(lambda hu: hu + 1024)
    model = lungunet.build_unet("unet2015", width=2, seed=0)
    config = lungunet.TrainConfig(epochs=1, batch_size=2, workers=0, device="cpu")
    trainer = lungunet.Trainer(model, config, out=tmp_path / "run")
    with pytest.raises(DataError, match=r"^train: "):
        trainer.fit(wrong, wrong)
    assert not (tmp_path / "run").exists()


class Inverted(LungCTDataset):
    def read(self, index: int):
        grey, classes = super().read(index)
        return 255 - grey, classes


class Doubled(LungCTDataset):
    def __getitem__(self, key):
        image, mask = super().__getitem__(key)
        return 2 * image, mask


class Counted(LungCTDataset):
    def read(self, index: int):
        return super().read(index)


class Three(LungCTDataset):
    def __getitem__(self, key):
        image, mask = super().__getitem__(key)
        return image.repeat(3, 1, 1), mask


def fit(train: LungCTDataset, val: LungCTDataset, out: Path) -> None:
    model = lungunet.build_unet("unet2015", width=2, seed=0)
    config = lungunet.TrainConfig(epochs=1, batch_size=2, device="cpu", workers=0)
    lungunet.Trainer(model, config, out=out).fit(train, val)


@pytest.mark.parametrize(("kind", "method"), [(Inverted, "read"), (Doubled, "__getitem__")])
def test_pictures_that_predictions_are_not_of_are_said(
    split: lungunet.Split, tmp_path: Path, kind: type[LungCTDataset], method: str
) -> None:
    train, val = (kind(pairs, size=32) for pairs in (split.train, split.val))
    says = rf"val: {kind.__name__} makes slices in its own way \({method}\), and Predictor"
    with pytest.warns(LungUNetWarning, match=says):
        fit(train, val, tmp_path)


def test_a_subclass_that_makes_the_same_pictures_of_val_says_nothing(
    split: lungunet.Split, tmp_path: Path
) -> None:
    fit(Inverted(split.train, size=32), Counted(split.val, size=32), tmp_path)


@pytest.mark.parametrize("name", ["train", "val"])
def test_samples_of_three_channels_are_refused_at_the_start(
    split: lungunet.Split, tmp_path: Path, name: str
) -> None:
    kinds = {"train": LungCTDataset, "val": LungCTDataset, name: Three}
    train, val = (kinds[n](getattr(split, n), size=32) for n in ("train", "val"))
    with pytest.raises(ConfigError, match=rf"^{name}: Three gives an image of \(3, 32, 32\) and a"):
        fit(train, val, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_of_val_are_of_what_val_is_scored_on(split: lungunet.Split) -> None:
    shown = []

    def predict(image: torch.Tensor) -> torch.Tensor:
        shown.append(image[0])
        return torch.zeros(1, 2, *image.shape[-2:])

    for kind in (LungCTDataset, Inverted, Doubled):
        val = kind(split.val, size=32)
        shown.clear()
        pictures = list(val_pictures(val, predict))
        assert len(pictures) == len(shown)
        assert torch.equal(shown[0], val[0, 0][0])
        assert pictures[0][1].std() > 0
