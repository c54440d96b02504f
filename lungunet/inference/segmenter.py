"""What a model is to the rest: slices in, classes out, with probabilities where it has any.

Knows no file and no model; networks, rules and whoever predicts with them agree on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.errors import ModelError

T = TypeVar("T")

# What a core has in its cache of a forward pass. Passes of more are slower with torch: eight slices
# of 512x512 at once take one and a half times as long as one by one. With onnxruntime they are as
# fast, and each slice of 256x256 takes 50 MB.
_PART_PX = 512 * 512


@dataclass(frozen=True, eq=False)
class Segmented:
    """What a model says of one slice.

    Parameters
    ----------
    classes : (H, W) uint8, class indices
    probabilities : (C, H, W) float32, sum to 1 over C; None of a rule, and of masks from elsewhere
    disagreement : in [0, 1]; 1 - IoU of the lung found in the slice and in its left-right mirror, 0
        where there is none in both; None without ``tta``
    spread : (H, W) float32 in [0, 1]; twice the standard deviation of the probability of lung
        among the models of an ensemble, 1 where half are sure of lung and half of none; None of
        one model
    """

    classes: np.ndarray
    probabilities: np.ndarray | None = None
    disagreement: float | None = None
    spread: np.ndarray | None = None

    @classmethod
    def likeliest(
        cls,
        probabilities: np.ndarray,
        *,
        disagreement: float | None = None,
        spread: np.ndarray | None = None,
    ) -> Segmented:
        """Give each pixel its likeliest class; of equal ones the first."""
        if len(probabilities) == 2:  # much faster than argmax along the first axis
            classes: np.ndarray = (probabilities[1] > probabilities[0]).view(np.uint8)
        else:
            classes = probabilities.argmax(axis=0).astype(np.uint8)
        return cls(classes, probabilities, disagreement, spread)

    def probability(self, index: int) -> np.ndarray:
        """Return the probability of a class, (H, W) float32; 0 or 1 where classes are all."""
        if self.probabilities is None:
            return np.asarray(self.classes == index, np.float32)
        return np.asarray(self.probabilities[index])

    @property
    def uncertainty(self) -> np.ndarray | None:
        """How unsure it is of lung or not, (H, W) float32 in [0, 1].

        Of an ensemble the ``spread`` between its models; of one model ``1 - |2 p - 1|``, 0 where it
        is sure and 1 at even odds; None of a rule.
        """
        if self.spread is not None or self.probabilities is None:
            return self.spread
        return np.asarray(1 - np.abs(2 * self.probabilities[0] - 1))


def cut_parts(slices: Sequence[T], size: int) -> list[Sequence[T]]:
    """Cut a batch into what a CPU computes at once, for a network that sees size x size pixels."""
    each = max(1, _PART_PX // size**2)
    return [slices[at : at + each] for at in range(0, len(slices), each)]


def not_a_number(where: object) -> ModelError:
    """Return the error of a model that computes no numbers, of which no mask may be made."""
    return ModelError(
        "gives NaN or infinity for these slices: its weights are damaged, or fp16 was too narrow. "
        "Predict with precision='fp32', or take another epoch.",
        where=where,
    )


class Segmenter(Protocol):
    """Anything that turns slices into classes: a network, or a rule without weights.

    Parameters
    ----------
    contract : what it expects of a slice, and how a slice should be looked at
    codec : of the masks that it was made from
    word : what :meth:`Predictor.load` knows it by, threshold or lungs; empty for any other. A
        second opinion by the same word would be its own
    """

    contract: InputContract
    codec: LabelCodec
    word: str

    @property
    def segment_volume(self) -> Callable[..., np.ndarray] | None:
        """What sees a scan as a whole; None where slices are segmented one by one.

        Called with HU, (D, H, W), and ``spacing_mm=(z, y, x)``; returns classes, (D, H, W) uint8.
        """
        ...

    def prepare(self, image: np.ndarray, where: str = "slice") -> Any:
        """Check a slice and make of it what the call takes; threads do this ahead of the model.

        Parameters
        ----------
        image : (H, W), HU or what the file holds
        where : what a message calls this slice

        Raises
        ------
        DataError
            When the slice is not of the kind that the model knows.
        """
        ...

    def __call__(self, prepared: Sequence[Any], /) -> list[Segmented]:
        """Segment what :meth:`prepare` returned for slices of any sizes, at least one.

        Returns
        -------
        list of Segmented
            At the size of each slice, in order.
        """
        ...


def disagree(classes: np.ndarray, again: np.ndarray) -> float:
    """Return 1 - IoU of the lung of two masks, 0 where there is none in both."""
    either = int(np.count_nonzero(classes | again))
    both = int(np.count_nonzero(classes & again))
    return 1 - both / either if either else 0.0
