"""Augmentation: Albumentations pipelines over slice and mask together, and their seeding.

The only place that imports albumentations. Works on eight-bit grey after the window; knows neither
files nor tensors, and never normalises.
"""

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Without this albumentations asks a server for its newest version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A

from lungunet.data.codec import is_lung
from lungunet.data.disease import paint_disease
from lungunet.errors import ConfigError

Transform = Callable[..., dict[str, Any]]
"""Takes ``image=`` and ``mask=`` ((H, W) uint8 each), returns a dict with both keys.

Only those of Albumentations can be seeded, see :func:`seed_transform`.
"""


def train_transform(*, flip: bool = True, disease: float = 0.0) -> A.Compose:
    """Return the augmentation that the default recipe trains with.

    Slice and mask move together; only the slice changes its grey values. About 0.5 ms at 256x256.

    Parameters
    ----------
    flip : False keeps left and right apart, for masks that tell the lungs from each other
    disease : in [0, 1]; of so many samples the lung falls ill, see :func:`disease_slice`, which
        takes about 3 ms more. Slices without lung must be among the others: a network that has
        learnt that lung may be solid, and never saw a slice without, calls the liver lung

    Raises
    ------
    ConfigError
        When the share is out of range.
    """
    if not 0 <= disease <= 1:
        raise ConfigError(f"disease={disease:g}: a share is in [0, 1]. 0.3 is usual.")
    mirror = [A.HorizontalFlip(p=0.5)] if flip else []
    return A.Compose(
        [
            *([PaintDisease(p=disease)] if disease else []),
            *mirror,
            A.Affine(
                rotate=(-12, 12),
                scale=(0.88, 1.12),
                translate_percent=(-0.06, 0.06),
                shear=(-4, 4),
                p=0.7,
            ),
            A.RandomBrightnessContrast(brightness_limit=0.12, contrast_limit=0.15, p=0.5),
            A.RandomGamma(gamma_limit=(80, 120), p=0.3),
            A.GaussNoise(std_range=(0.01, 0.05), p=0.3),
            A.GaussianBlur(blur_limit=(3, 5), p=0.15),
        ]
    )


class PaintDisease(A.ImageOnlyTransform):  # type: ignore[misc]
    """Paints a disease into the lung of the mask; the mask stays."""

    @property
    def targets_as_params(self) -> list[str]:
        """Ask for slice and mask, which are drawn from."""
        return ["image", "mask"]

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Paint."""
        return {"ill": paint_disease(data["image"], is_lung(data["mask"]), self.random_generator)}

    def apply(self, img: np.ndarray, ill: np.ndarray, **params: Any) -> np.ndarray:
        """Hand over what was painted."""
        return ill


def seed_transform(transform: Transform, entropy: tuple[int, ...]) -> None:
    """Make the next call of ``transform`` depend on ``entropy``, as (seed, epoch, index), alone.

    Every step gets a generator of its own: albumentations' ``set_random_seed`` would hand all of
    them the same one, and their coins would fall alike. Callables that are not albumentations' are
    left as they are, and so are the global generators, from which they may draw. Entropy is of
    non-negative integers.
    """
    if not isinstance(transform, A.BaseCompose | A.BasicTransform):
        return
    nodes = list(_nodes(transform))
    states = np.random.SeedSequence(entropy).generate_state(len(nodes), np.uint64)
    for node, state in zip(nodes, states, strict=True):
        node.set_random_state(np.random.default_rng(int(state)), random.Random(int(state)))


def _nodes(transform: Any) -> Iterator[Any]:
    # Parents first: a compose hands its own state down to its children.
    yield transform
    if isinstance(transform, A.BaseCompose):
        for child in transform.transforms:
            yield from _nodes(child)
