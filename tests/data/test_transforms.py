import os
import pickle
import warnings
from functools import partial
from math import comb

import albumentations as A
import cv2
import numpy as np
import pytest

from lungunet.data.transforms import seed_transform, train_transform

SIZE = 128


def heart_left():
    """A lopsided blob on the left side: no flip, turn or shift maps it onto itself."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[20:100, 18:46] = 1
    mask[70:100, 18:58] = 1
    return mask


def moved(transform, entropy, mask=None):
    mask = heart_left() if mask is None else mask
    seed_transform(transform, entropy)
    return transform(image=mask * 255, mask=mask)


def set_bit(image, bit, **_):
    """Leave a trace that a step fired."""
    return image | np.uint8(1 << bit)


def coins(n, first=0, p=0.5):
    return [A.Lambda(name=str(bit), image=partial(set_bit, bit=bit), p=p)
            for bit in range(first, first + n)]  # fmt: skip


def fired(transform, entropy, bits=8):
    seed_transform(transform, entropy)
    empty = np.zeros((4, 4), np.uint8)
    trace = int(transform(image=empty, mask=empty)["image"][0, 0])
    return [trace >> bit & 1 for bit in range(bits)]


class TestTrainTransform:
    def test_builds_without_a_warning(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train_transform()
            train_transform(flip=False)
        assert not caught

    def test_wrong_arguments_would_only_warn(self):
        with pytest.warns(UserWarning, match="alpha_affine"):
            A.ElasticTransform(alpha_affine=3)

    def test_asks_no_server_for_its_newest_version(self):
        assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"

    def test_image_and_mask_move_together(self):
        transform = train_transform()
        still = 0
        for index in range(80):
            both = moved(transform, (0, 0, index))
            image, mask = both["image"], both["mask"]
            assert image.dtype == mask.dtype == np.uint8
            assert image.shape == mask.shape == (SIZE, SIZE)
            assert set(np.unique(mask)) == {0, 1}
            # Bilinear, noise and blur may differ from nearest on the edge alone.
            edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
            assert not ((image > 127) != (mask > 0))[edge == 0].any()
            still += np.array_equal(mask, heart_left())
        assert still < 20  # neither flipped nor moved: 0.5 * 0.3 of the draws

    def test_without_flip_left_stays_left(self):
        sides = {True: 0, False: 0}
        for flip in sides:
            transform = train_transform(flip=flip)
            for index in range(60):
                columns = np.nonzero(moved(transform, (1, 0, index))["mask"])[1]
                sides[flip] += columns.mean() < SIZE / 2
        assert sides[False] == 60
        assert 15 < sides[True] < 45

    def test_the_grey_values_change_and_the_mask_stays_whole(self):
        transform = train_transform()
        grey = np.full((SIZE, SIZE), 128, np.uint8)
        means = []
        for index in range(60):
            seed_transform(transform, (2, 0, index))
            means.append(transform(image=grey, mask=heart_left())["image"][32:96, 32:96].mean())
        assert np.ptp(means) > 20

    def test_pickles(self):
        again = pickle.loads(pickle.dumps(train_transform()))
        one, other = moved(again, (0, 1, 2)), moved(train_transform(), (0, 1, 2))
        assert np.array_equal(one["image"], other["image"])


class TestSeeding:
    def test_same_entropy_same_sample(self):
        transform = train_transform()
        first = [moved(transform, (0, 0, i)) for i in range(20)]
        again = [moved(transform, (0, 0, i)) for i in reversed(range(20))][::-1]
        for one, other in zip(first, again, strict=True):
            assert np.array_equal(one["image"], other["image"])
            assert np.array_equal(one["mask"], other["mask"])

    @pytest.mark.parametrize("entropy", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 1)])
    def test_every_part_of_the_entropy_counts(self, entropy):
        transform = A.Compose([A.GaussNoise(std_range=(0.1, 0.1), p=1)])
        base, other = moved(transform, (0, 0, 0)), moved(transform, entropy)
        assert not np.array_equal(base["image"], other["image"])

    def test_global_seeds_do_not_matter(self):
        transform = train_transform()
        np.random.seed(0)  # noqa: NPY002 - what a user's script does
        one = moved(transform, (0, 0, 3))["image"]
        np.random.seed(1)  # noqa: NPY002
        assert np.array_equal(one, moved(transform, (0, 0, 3))["image"])

    @pytest.mark.parametrize(
        "build",
        [
            lambda: A.Compose(coins(7)),
            lambda: A.Compose([A.Sequential([A.Sequential(coins(7), p=1)], p=1)]),
            lambda: A.Sequential([*coins(3), A.Compose(coins(4, 3))], p=1),
        ],
    )
    def test_seven_coins_fall_each_for_itself(self, build):
        transform = build()
        draws = np.array([fired(transform, (0, 0, i), bits=7) for i in range(400)])
        # Set alike, all seven fire or none: 400 draws gave 179 times none and 221 times all.
        expected = np.array([comb(7, k) * 400 / 2**7 for k in range(8)])
        counts = np.bincount(draws.sum(1), minlength=8)
        assert ((counts - expected) ** 2 / expected).sum() < 24.3  # chi2, 7 degrees, p = 0.001
        assert abs(draws.mean(0) - 0.5).max() < 0.1  # 4 standard deviations
        correlations = np.corrcoef(draws.T)[np.triu_indices(7, 1)]
        assert abs(correlations).max() < 0.2

    @pytest.mark.parametrize(
        "build",
        [
            lambda: A.Compose([A.OneOf(coins(2), p=0.5), A.Sequential(coins(3, 2), p=0.5)]),
            lambda: A.Compose([A.SomeOf(coins(4), n=2, p=0.9), A.Compose(coins(2, 4), p=0.5)]),
            lambda: A.OneOf([A.Sequential(coins(2), p=0.5), *coins(3, 2)], p=1),
        ],
    )
    def test_nested_steps_are_seeded(self, build):
        one, other = build(), build()
        draws = [fired(one, (0, 0, i)) for i in range(200)]
        assert draws == [fired(other, (0, 0, i)) for i in range(200)]
        assert draws == [fired(one, (0, 0, i)) for i in range(200)]
        assert len({tuple(draw) for draw in draws}) > 4

    def test_the_coins_of_a_nested_step_do_not_follow_its_own(self):
        # Of the runs in which the inner compose fires, its step fires in half.
        transform = A.Compose([A.Sequential(coins(2), p=0.5), *coins(1, 2)])
        draws = np.array([fired(transform, (0, 0, i), bits=3) for i in range(600)])
        inner = draws[:, :2].any(1)
        assert 0.28 < inner.mean() < 0.47  # 0.5 * (1 - 0.25) = 0.375
        assert abs(np.corrcoef(inner, draws[:, 2])[0, 1]) < 0.15

    def test_a_single_step(self):
        assert len({fired(A.Lambda(image=partial(set_bit, bit=0), name="x", p=0.5), (0, 0, i))[0]
                    for i in range(20)}) == 2  # fmt: skip

    def test_foreign_callables_are_left_alone(self):
        seed_transform(lambda image, mask: {"image": image, "mask": mask}, (0, 0, 0))
