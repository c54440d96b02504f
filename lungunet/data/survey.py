"""A first look at every pair before anything is split: readable, matching, coded as said."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lungunet.data.codec import LabelCodec
from lungunet.data.ct import read_mask
from lungunet.data.dataset import read_pair
from lungunet.data.manifest import Pair
from lungunet.errors import DataError, LabelError, SplitError, listed
from lungunet.progress import Progress, silent


@dataclass(frozen=True)
class Survey:
    """What the files of a set of pairs hold.

    Parameters
    ----------
    dtypes : dtype of the slices -> how many
    sizes : "512x512" -> how many
    empty : number of slices whose mask holds no lung
    lung_share : mean share of lung pixels per slice, in [0, 1]
    """

    dtypes: dict[str, int]
    sizes: dict[str, int]
    empty: int
    lung_share: float

    def to_dict(self) -> dict[str, Any]:
        """Return the facts that split.json records."""
        return {"dtypes": self.dtypes, "sizes": self.sizes, "empty_masks": self.empty}


def survey_pairs(
    pairs: Sequence[Pair], *, codec: LabelCodec, progress: Progress = silent
) -> Survey:
    """Read every pair once.

    Raises
    ------
    SplitError
        When there are no pairs.
    DataError
        One error that lists every file that is unreadable, mis-sized, or coded otherwise.
    """
    if not pairs:
        raise SplitError("no pairs to read. Check the folders.")
    dtypes: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    problems: list[str] = []
    coded = False
    empty, share = 0, 0.0
    shown: Iterator[Pair] = iter(progress(pairs, desc="read", total=len(pairs)))
    for pair in shown:
        try:
            image, classes = read_pair(pair, codec)
        except DataError as err:
            problems.append(str(err))
            coded |= isinstance(err, LabelError) and not _is_coloured(pair)
            continue
        dtypes[image.dtype.name] += 1
        sizes[f"{image.shape[0]}x{image.shape[1]}"] += 1
        lung = float((classes > 0).mean())
        empty += lung == 0
        share += lung
    if problems:
        raise DataError(
            f"{len(problems)} of {len(pairs)} pairs are wrong:\n  {listed(problems)}"
            + (
                "\nIf all masks are coded so, say it: --labels 0,1, or --label-threshold 128 for "
                "smeared ones. If slices and masks are swapped, swap them."
                if coded
                else ""
            )
        )
    return Survey(
        dict(sorted(dtypes.items())), dict(sorted(sizes.items())), empty, share / len(pairs)
    )


def _is_coloured(pair: Pair) -> bool:
    """Whether a mask has colours, which no coding of one channel explains."""
    assert pair.mask is not None
    try:
        read_mask(pair.mask)
    except LabelError:
        return True
    return False
