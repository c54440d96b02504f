"""Painted disease: within the lung alone, from its seed alone, denser or darker as it should."""

from functools import partial
from typing import get_args

import numpy as np
import pytest

import lungunet
from lungunet.data import disease as disease_module
from lungunet.data.disease import Disease, disease_slice
from lungunet.data.transforms import seed_transform, train_transform
from lungunet.errors import ConfigError, DataError, GeometryError

DISEASES = get_args(Disease)
MADE = lungunet.phantom_slice(0, 0.5, size=128)
GREY = lungunet.LUNG_WINDOW.to_grey(MADE.image)
CLASSES = (MADE.mask > 0).astype(np.uint8)


@pytest.mark.parametrize("disease", DISEASES)
@pytest.mark.parametrize("image", [GREY, MADE.image, MADE.image.astype(np.float32)])
def test_it_stays_in_the_lung_and_depends_on_the_seed(image: np.ndarray, disease: Disease) -> None:
    before = image.copy()
    ill = disease_slice(image, MADE.mask, disease=disease, seed=3)
    assert ill.shape == image.shape
    assert ill.dtype == image.dtype
    assert np.array_equal(image, before)
    assert np.array_equal(ill[CLASSES == 0], image[CLASSES == 0])
    assert (ill != image)[CLASSES > 0].mean() > 0.02
    assert np.array_equal(ill, disease_slice(image, MADE.mask, disease=disease, seed=3))
    assert not np.array_equal(ill, disease_slice(image, MADE.mask, disease=disease, seed=4))
    assert np.isfinite(ill).all()


@pytest.mark.parametrize("disease", DISEASES)
def test_lung_becomes_denser_or_airier(disease: Disease) -> None:
    lung = CLASSES > 0
    change = np.mean(
        [
            disease_slice(MADE.image, MADE.mask, disease=disease, seed=seed)[lung].mean()
            - MADE.image[lung].mean()
            for seed in range(12)
        ]
    )
    assert change < -5 if disease == "emphysema" else change > 15


@pytest.mark.parametrize("disease", ["consolidation", "effusion", "collapse", "mass"])
def test_what_is_solid_is_as_dense_as_tissue_and_no_denser(disease: Disease) -> None:
    lung = CLASSES > 0
    ill = np.stack(
        [disease_slice(MADE.image, MADE.mask, disease=disease, seed=s) for s in range(8)]
    )
    dense = ill[:, lung][(ill[:, lung] > -200) & (MADE.image[lung] < -600)]
    assert -120 < np.median(dense) < 120


def test_all_diseases_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    painted = []
    for name, paint in disease_module._PAINTERS.items():
        spy = partial(lambda name, paint, chest: painted.append(name) or paint(chest), name, paint)
        monkeypatch.setitem(disease_module._PAINTERS, name, spy)
    for seed in range(60):
        disease_slice(GREY, MADE.mask, seed=seed)
    assert set(painted) == set(DISEASES)
    assert len(painted) == 60


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (GREY, np.zeros_like(CLASSES)),  # no lung
        (np.full((40, 50), 7, np.int16), np.ones((40, 50), bool)),  # nothing to see
        (np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8)),
        (GREY[:, :3], CLASSES[:, :3]),
    ],
)
def test_without_lung_to_speak_of_nothing_is_painted(image: np.ndarray, mask: np.ndarray) -> None:
    for seed in range(5):
        ill = disease_slice(image, mask, seed=seed)
        assert np.array_equal(ill, image)
        assert ill is not image


@pytest.mark.parametrize("disease", DISEASES)
def test_lungs_at_the_margin_and_odd_memory(disease: Disease) -> None:
    rows = np.flatnonzero(CLASSES.any(axis=1))
    image, mask = MADE.image[rows[0] + 5 :: 1, ::-1], MADE.mask[rows[0] + 5 :: 1, ::-1]
    ill = disease_slice(image, mask, disease=disease, seed=1)
    assert np.array_equal(ill[mask == 0], image[mask == 0])
    assert not np.array_equal(ill, image)


def test_a_crumb_beside_one_lung_is_none_to_fall_ill() -> None:
    hu = np.full((96, 96), -1000, np.int16)
    hu[8:88, 4:92] = 40
    lungs = np.zeros(hu.shape, bool)
    lungs[20:70, 15:80] = True  # both, as one part
    hu[lungs] = -850
    crumb = lungs.copy()
    crumb[76:78, 45:47] = True
    for seed in range(12):
        assert (disease_slice(hu, crumb, disease="mass", seed=seed) != hu).any()


def test_what_cannot_be_painted_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^disease 'flu': is not one of consolidation, "):
        disease_slice(GREY, CLASSES, disease="flu")  # type: ignore[arg-type]
    with pytest.raises(GeometryError, match=r"^mask: shape \(2, 2\), image: \(128, 128\)"):
        disease_slice(GREY, np.zeros((2, 2), bool))
    with pytest.raises(DataError, match=r"^image: shape \(0, 4\)"):
        disease_slice(np.zeros((0, 4), np.uint8), np.zeros((0, 4), bool))
    with pytest.raises(DataError, match="image: holds NaN or infinite values"):
        disease_slice(np.full((9, 8), np.nan), np.ones((9, 8), bool))


class TestTransform:
    def test_the_seed_decides(self) -> None:
        transform = train_transform(disease=1.0)
        seed_transform(transform, (0, 3, 5))
        first = transform(image=GREY, mask=CLASSES)
        seed_transform(transform, (0, 3, 5))
        again = transform(image=GREY, mask=CLASSES)
        seed_transform(transform, (0, 4, 5))
        later = transform(image=GREY, mask=CLASSES)
        assert np.array_equal(first["image"], again["image"])
        assert not np.array_equal(first["image"], later["image"])
        assert first["image"].dtype == np.uint8

    def test_the_mask_stays_and_so_does_what_is_around(self) -> None:
        step = train_transform(disease=1.0).transforms[0]
        for index in range(10):
            seed_transform(step, (0, 0, index))
            ill = step(image=GREY, mask=CLASSES)
            assert np.array_equal(ill["mask"], CLASSES)
            assert np.array_equal(ill["image"][CLASSES == 0], GREY[CLASSES == 0])
            assert not np.array_equal(ill["image"], GREY)

    @pytest.mark.parametrize("share", [0.0, 0.3])
    def test_so_many_fall_ill(self, share: float) -> None:
        transform = train_transform(disease=share)
        painted = 0
        for index in range(200):
            seed_transform(transform, (0, 0, index))
            steps = [step for step in transform.transforms if "Disease" in type(step).__name__]
            if steps:
                ill = steps[0](image=GREY, mask=CLASSES)["image"]
                painted += not np.array_equal(ill, GREY)
        assert abs(painted / 200 - share) < 0.08

    def test_a_share_is_a_share(self) -> None:
        with pytest.raises(ConfigError, match=r"^disease=1.5: a share is in \[0, 1\]"):
            train_transform(disease=1.5)
        with pytest.raises(ConfigError, match=r"^config: disease=-0.1: a share is in \[0, 1\]"):
            lungunet.RunConfig(data="d", disease=-0.1)
