"""What a pixel of each class counts in the loss: as said, or by how rare the class is in train."""

import numpy as np

from lungunet.data.codec import IGNORE
from lungunet.data.dataset import LungCTDataset
from lungunet.errors import ConfigError, SplitError


def parse_class_weights(text: str) -> tuple[float, ...] | None:
    """Read ``--class-weights``: numbers, background first; None for none and auto.

    Raises
    ------
    ConfigError
        When the text is something else, or a number is not above 0.

    Examples
    --------
    >>> parse_class_weights("1,3"), parse_class_weights("none")
    ((1.0, 3.0), None)
    """
    if text in ("none", "auto"):
        return None
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if len(weights) < 2 or not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError(
            "not one number above 0 per class. Write none, auto, or the weights with that of "
            "background first, as in 1,3.",
            where=f"class_weights '{text}'",
        )
    return weights


def choose_class_weights(text: str, train: LungCTDataset) -> tuple[float, ...] | None:
    """Return the weights for a training: auto counts every mask of ``train``, at its size.

    By auto each class counts as much as any other over the whole of train: a class with a tenth of
    the pixels of two classes gets 5, the other one 0.56. The mean weight of a pixel is 1.
    """
    weights = parse_class_weights(text)
    n = train.codec.n_classes
    if weights is not None and len(weights) != n:
        raise ConfigError(
            f"{len(weights)} weights for {n} classes ({', '.join(train.codec.names)}). "
            "Give one per class, background first.",
            where=f"class_weights '{text}'",
        )
    return _balanced(train) if text == "auto" else weights


def _balanced(train: LungCTDataset) -> tuple[float, ...]:
    counts = np.zeros(IGNORE + 1, np.int64)
    for index in range(len(train)):
        counts += np.bincount(train.read(index)[1].ravel(), minlength=IGNORE + 1)
    counts = counts[: train.codec.n_classes]
    if not counts.all():
        missing = train.codec.names[int(counts.argmin())]
        raise SplitError(
            f"no pixel of {missing} in any of its {len(train)} masks, so that no weight follows. "
            "Give class weights in numbers, or split again.",
            where="train",
        )
    weights = counts.sum() / (len(counts) * counts)
    return tuple(weights.tolist())
