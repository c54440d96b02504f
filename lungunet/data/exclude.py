"""Which slices a person leaves out: in a list, dropped in a review, or ranked high by an audit.

Reads no image.
"""

import csv
from collections.abc import Collection
from io import StringIO
from pathlib import Path

from lungunet.data.ct import SUFFIXES
from lungunet.data.review_log import read_review
from lungunet.errors import ConfigError, DataError, SplitError, counted, listed


def read_excluded(source: str | Path) -> list[str]:
    """Read the names of slices to leave out, sorted.

    Parameters
    ----------
    source : a text file with one slice a line, by its name, its file or as a list of pairs has it;
        the ``review.jsonl`` of a review: what was dropped there; or the ``ranking.csv`` of an audit
        and a bound, as ``audit/ranking.csv:0.2``: those with that score and above

    Raises
    ------
    ConfigError
        When the file cannot be read, or a ranking comes without a bound.
    DataError
        When it is no ranking, or no log of a review.
    """
    text = str(source)
    name, colon, end = text.rpartition(":")
    try:
        bound = float(end) if colon else None
    except ValueError:  # a colon of the path
        bound = None
    path = Path(text if bound is None else name)
    if path.suffix.lower() == ".jsonl":
        return list(read_review(path).dropped)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "not UTF-8"
        raise ConfigError(f"cannot be read ({reason}). Check the path.", where=path) from err
    if path.suffix.lower() == ".csv":
        if bound is None:
            raise ConfigError(
                f"a ranking names every slice. Say from which score on: {path}:0.2.", where=path
            )
        return sorted(_read_ranking(path, content, bound))
    if bound is not None:
        raise ConfigError("a bound is for a ranking, a .csv file. Leave it out.", where=text)
    lines = (line.strip().split("\t") for line in content.split("\n"))
    return sorted({(fields[2:] or [_stem(fields[0])])[0] for fields in lines if fields[0]})


def _stem(entry: str) -> str:
    file = Path(entry.replace("\\", "/"))
    return file.stem if file.suffix.lower() in SUFFIXES else file.name


def _read_ranking(path: Path, content: str, bound: float) -> set[str]:
    try:
        rows = csv.DictReader(StringIO(content))
        return {row["name"] for row in rows if float(row["score"]) >= bound}
    except (KeyError, TypeError, ValueError, csv.Error) as err:
        raise DataError(
            f"is no ranking ({err}). Give the ranking.csv of an audit, or a .txt list.", where=path
        ) from err


def refuse_unknown(excluded: Collection[str], known: Collection[str], *, source: object) -> None:
    """Refuse names of slices that are not there: a typing error would leave a bad slice in."""
    strange = sorted(set(excluded) - set(known))
    if strange:
        raise SplitError(
            f"names {counted(len(strange), 'slice')} that are not here: "
            f"{listed(strange, separator=', ')}. Correct it.",
            where=source,
        )
