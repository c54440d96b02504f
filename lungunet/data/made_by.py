"""What the record beside masks says of them all: by which model, and how they are coded.

Of a record of predictions it knows the first line alone.
"""

import json
from pathlib import Path
from typing import Any

from lungunet.data.codec import LabelCodec
from lungunet.data.manifest import RECORD, find_records
from lungunet.data.review_log import LOG, read_review
from lungunet.errors import DataError

FILE = RECORD
FORMAT = 1
SIDES = ("left lung", "right lung", "lung of unknown side")
"""Names of the values 1, 2 and 3 of a mask with sides."""
SIDES_CODEC = LabelCodec({value: value for value in range(4)}, names=("background", *SIDES))
"""Of masks with sides: 3 is lung of which nobody knows the side."""


_BOTH_LUNGS = LabelCodec.parse("0,1=1,2=1,3=1")  # of masks with sides


def read_codec(masks: str | Path) -> LabelCodec | None:
    """Return how masks are coded that were predicted or mended into a folder; None where neither.

    Parameters
    ----------
    masks : the folder, or a mask in it
    """
    path = Path(masks)
    folder = path if path.is_dir() else path.parent
    record = next(find_records(folder), None)
    made_by = read_head(record) if record else None
    if made_by is None:
        return read_review(folder).codec if (folder / LOG).exists() else None
    if "labels" in made_by:
        return LabelCodec.from_dict(made_by["labels"])
    return SIDES_CODEC if made_by.get("sides") else None  # of a version that said no more


def read_lung_codec(masks: str | Path) -> LabelCodec | None:
    """As :func:`read_codec`, to train on: left and right are one lung where their sides were told.

    A model that has classes of its own keeps them.
    """
    told = read_codec(masks)
    return _BOTH_LUNGS if told == SIDES_CODEC else told


def read_head(path: Path) -> dict[str, Any] | None:
    """Return by which model and how the masks of a record were made; None where it just begins."""
    with path.open("rb") as file:
        return parse_head(path, file.readline())


def parse_head(path: Path, line: bytes) -> dict[str, Any] | None:
    """Return what the first line says; None where it is cut short."""
    if not line.endswith(b"\n"):
        return None
    try:
        said = json.loads(line)
        made_by = said["made_by"] if said["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError):
        made_by = None
    if not isinstance(made_by, dict):
        raise DataError(
            "no record that this version reads. Predict all again with overwrite=True.", where=path
        )
    return made_by
