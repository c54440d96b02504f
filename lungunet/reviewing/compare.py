"""Two reviews of the same masks: how far their readers agree. Reads logs and masks, writes none."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lungunet.data.codec import LabelCodec, is_lung
from lungunet.data.ct import SUFFIXES, read_mask
from lungunet.data.manifest import require_same_size
from lungunet.data.review_log import Reviewed, ReviewLog, first_version, read_review
from lungunet.errors import DataError
from lungunet.metrics.overlap import overlap


@dataclass(frozen=True)
class Agreement:
    """How far two readers agree.

    Parameters
    ----------
    names : of the masks that both decided about, sorted
    decisions : the first reader's decision and the second's, to how many masks
    dice : name of a mask that either changed, to the Dice between the two readers' masks, lung
        being all classes above 0; NaN where both are empty
    kept_a, kept_b : name of a mask that this reader changed, to the Dice between its first version
        and his
    """

    names: tuple[str, ...]
    decisions: Mapping[tuple[str, str], int]
    dice: Mapping[str, float]
    kept_a: Mapping[str, float]
    kept_b: Mapping[str, float]

    @property
    def share(self) -> float:
        """The share of these masks that both decided alike; NaN without any."""
        alike = sum(n for (a, b), n in self.decisions.items() if a == b)
        return alike / len(self.names) if self.names else math.nan

    @property
    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond chance.

        1 where both always agree, 0 where they agree as often as chance would; NaN where one
        decision is all that there is.
        """
        total = len(self.names)
        first, second = Counter[str](), Counter[str]()
        for (a, b), count in self.decisions.items():
            first[a] += count
            second[b] += count
        chance = sum(first[word] * second[word] for word in first) / max(total, 1) ** 2
        return (self.share - chance) / (1 - chance) if chance < 1 and total else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is undefined is None."""

        def plain(values: Mapping[str, float]) -> dict[str, float | None]:
            return {name: None if math.isnan(dice) else dice for name, dice in values.items()}

        rows = [{"a": a, "b": b, "masks": count} for (a, b), count in self.decisions.items()]
        return {
            "both": len(self.names),
            **plain({"agreement": self.share, "kappa": self.kappa}),
            "decisions": rows,
            "dice": plain(self.dice),
            "first_to_a": plain(self.kept_a),
            "first_to_b": plain(self.kept_b),
        }


def compare_reviews(a: str | Path, b: str | Path) -> Agreement:
    """Compare what two readers made of the same masks.

    Parameters
    ----------
    a, b : review.jsonl of each, or its folder; their masks lie where the logs say

    Raises
    ------
    DataError
        When a log or a mask cannot be read, or the two have no mask in common.
    """
    first, second = read_review(a), read_review(b)
    common = sorted(first.cases.keys() & second.cases.keys())
    if not common:
        raise DataError("no mask that both touched. Compare reviews of the same masks.", where=b)
    decided: Counter[tuple[str, str]] = Counter()
    names = []
    for name in common:
        said = (first.cases[name].decision, second.cases[name].decision)
        if said[0] is not None and said[1] is not None:
            decided[said[0], said[1]] += 1
            names.append(name)
    dice = {}
    for name in common:
        one, other = first.cases[name], second.cases[name]
        if one.changes or other.changes:
            masks = (_mask_of(one, other), _mask_of(other, one))
            dice[name] = _dice(*masks, first.codec, second.codec)
    return Agreement(tuple(names), dict(sorted(decided.items())), dice, _kept(first), _kept(second))


def _mask_of(case: Reviewed, other: Reviewed) -> Path:
    """Return a reader's mask; one that he left is as the other found it."""
    if case.mask is not None:
        return case.mask
    assert other.mask is not None  # one of the two changed it
    kept = first_version(other.mask)
    if not kept.exists():
        raise DataError("the first version of this mask is gone.", where=kept)
    return kept


def _kept(log: ReviewLog) -> dict[str, float]:
    return {
        name: _dice(first_version(case.mask), case.mask, log.codec, log.codec)
        for name, case in sorted(log.cases.items())
        if case.changes and case.mask is not None
    }


def _dice(one: Path, other: Path, codec_one: LabelCodec, codec_other: LabelCodec) -> float:
    lungs = [_lung(one, codec_one), _lung(other, codec_other)]
    require_same_size(lungs[0].shape, lungs[1].shape, f"{one} and {other}")
    bins = np.bincount((lungs[0].ravel() * 2 + lungs[1].ravel()), minlength=4)
    return overlap(bins.reshape(2, 2).astype(np.int64)).dice


def _lung(path: Path, codec: LabelCodec) -> np.ndarray:
    if path.suffix.lower() in SUFFIXES:
        raw = read_mask(path)
    else:
        from lungunet.volumes.volume import read_volume

        raw = read_volume(path).array
    return is_lung(codec.encode(raw, str(path))).astype(np.uint8)
