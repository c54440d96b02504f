"""What only the whole set shows: the same slice twice, one patient in two lists, odd ones out.

Owns the checks between pairs; reads no file. What one file tells of itself is in ``file_checks``.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lungunet.data.manifest import Pair
from lungunet.data.twins import COPY, Twins, find_twins
from lungunet.evaluation.file_checks import Finding, Severity

_FAMILIES = {"uint8": "8-bit grey", "uint16": "uint16"}  # the others hold HU
_ENOUGH = 20  # areas below that number have no usual spread
_FAR_OUT = 4.0  # robust standard deviations


@dataclass(frozen=True, eq=False)
class PairFacts:
    """What is kept of a pair after its files were read; None where one could not be.

    Parameters
    ----------
    list : train, val or test
    dtype : of the image
    image_digest, mask_digest : equal for equal pixels
    fingerprint : as :func:`lungunet.data.twins.fingerprint` makes it
    lung_share : of the slice, in [0, 1]
    """

    pair: Pair
    list: str
    dtype: str | None = None
    image_digest: bytes | None = None
    mask_digest: bytes | None = None
    fingerprint: np.ndarray | None = None
    lung_share: float | None = None


def twins_of(facts: Sequence[PairFacts]) -> list[Twins]:
    """Find twins among the readable images; places are those in ``facts``."""
    places = [place for place, fact in enumerate(facts) if fact.fingerprint is not None]
    prints = [print_ for fact in facts if (print_ := fact.fingerprint) is not None]
    return [
        Twins(places[twin.first], places[twin.second], twin.similarity)
        for twin in find_twins(prints)
    ]


def check_set(facts: Sequence[PairFacts], twins: Sequence[Twins]) -> list[Finding]:
    """Judge the pairs against each other; ``twins`` is what :func:`twins_of` finds."""
    return [
        *_copies(facts),
        *_same_masks(facts),
        *_leaks(facts, twins),
        *_odd_dtypes(facts),
        *_large_areas(facts),
    ]


def _copies(facts: Sequence[PairFacts]) -> Iterator[Finding]:
    first_of: dict[bytes, PairFacts] = {}
    for fact in facts:
        if fact.image_digest is None:
            continue
        first = first_of.setdefault(fact.image_digest, fact)
        if first is fact:
            continue
        apart = first.list != fact.list
        disagree = first.mask_digest != fact.mask_digest
        severity: Severity = "error" if apart or disagree else "warning"
        text = f"{fact.pair.image}: the same pixels as {first.pair.name} in {first.list}"
        text += ", labelled otherwise" if disagree else ""
        text += ". A score on what was trained on means nothing: drop one." if apart else (
            ". Drop the wrong one." if disagree else ". Drop one: it counts twice."
        )  # fmt: skip
        yield Finding(fact.pair, fact.list, severity, "duplicate", text, first.pair)


def _same_masks(facts: Sequence[PairFacts]) -> Iterator[Finding]:
    first_of: dict[bytes, PairFacts] = {}
    for fact in facts:
        if fact.mask_digest is None or not fact.lung_share or fact.lung_share == 1:
            continue
        first = first_of.setdefault(fact.mask_digest, fact)
        if first.image_digest != fact.image_digest:
            text = (
                f"{fact.pair.mask}: the same mask as that of {first.pair.name} in {first.list}, on "
                "another image. One of them was exported under the wrong name."
            )
            yield Finding(fact.pair, fact.list, "warning", "mask-duplicate", text, first.pair)


def _leaks(facts: Sequence[PairFacts], twins: Sequence[Twins]) -> Iterator[Finding]:
    """Name each slice once, with the twin that resembles it most; copies before neighbours."""
    named: set[int] = set()
    for twin in sorted(twins, key=lambda twin: -twin.similarity):
        first, second = facts[twin.first], facts[twin.second]
        if twin.second in named or first.image_digest == second.image_digest:
            continue
        apart, copy = first.list != second.list, twin.similarity >= COPY
        if not apart and not copy:
            continue  # neighbours in one list are as they should be
        named.add(twin.second)
        text = (
            f"{second.pair.image}: {'nearly a copy' if copy else 'looks like a neighbour'} of "
            f"{first.pair.name} in {first.list} (similarity {twin.similarity:.2f}). "
        )
        text += (
            "A score on patients that were trained on means little: split again by "
            "'lungunet split ... --guard', or by patient where they are known."
            if apart
            else "Fine where slices lie about a millimetre apart."
        )
        if copy:
            severity: Severity = "error" if apart else "note"
            yield Finding(second.pair, second.list, severity, "near-duplicate", text, first.pair)
        else:
            yield Finding(second.pair, second.list, "warning", "twin", text, first.pair)


def _odd_dtypes(facts: Sequence[PairFacts]) -> Iterator[Finding]:
    families = Counter(_family(fact.dtype) for fact in facts if fact.dtype)
    if len(families) < 2:
        return
    usual, count = families.most_common(1)[0]
    for fact in facts:
        if fact.dtype and _family(fact.dtype) != usual:
            text = (
                f"{fact.pair.image}: {fact.dtype}, where {count} slices hold {usual}. Training "
                "refuses the mixture: export all alike."
            )
            yield Finding(fact.pair, fact.list, "error", "dtype", text)


def _family(dtype: str) -> str:
    return _FAMILIES.get(dtype, "HU")


def _large_areas(facts: Sequence[PairFacts]) -> Iterator[Finding]:
    shares = np.array([fact.lung_share for fact in facts if fact.lung_share])
    if len(shares) < _ENOUGH:
        return
    middle = float(np.median(shares))
    # 1.4826: what makes the median deviation of a normal distribution its standard deviation
    spread = 1.4826 * float(np.median(np.abs(shares - middle)))
    for fact in facts:
        if fact.lung_share and spread and (fact.lung_share - middle) / spread > _FAR_OUT:
            text = (
                f"{fact.pair.mask}: {fact.lung_share:.0%} of the slice is lung, usual are "
                f"{middle:.0%}. Look whether background was labelled."
            )
            yield Finding(fact.pair, fact.list, "warning", "label-area", text)
