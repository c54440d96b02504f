"""What the values of a mask mean: names, colours that stay the same, and codes of SNOMED CT.

Knows no file format.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

Colour = tuple[int, int, int]

# The colours of Okabe and Ito: told apart by colour-blind people too, and on black.
_LUNG, _LEFT, _RIGHT, _EITHER = (0, 158, 115), (86, 180, 233), (230, 159, 0), (204, 121, 167)
_OTHERS: tuple[Colour, ...] = ((240, 228, 66), (213, 94, 0), (0, 114, 178), (204, 121, 167))

_STRUCTURES: dict[frozenset[str], tuple[str, str, Colour]] = {
    frozenset(words.split()): (code, meaning, colour)
    for words, code, meaning, colour in (
        ("lung", "39607008", "Lung", _LUNG),
        ("lungs", "39607008", "Lung", _LUNG),
        ("left lung", "44029006", "Left lung", _LEFT),
        ("right lung", "3341006", "Right lung", _RIGHT),
        ("lung of unknown side", "39607008", "Lung", _EITHER),
        ("left upper lobe", "44714003", "Upper lobe of left lung", (86, 180, 233)),
        ("left lower lobe", "41224006", "Lower lobe of left lung", (0, 114, 178)),
        ("right upper lobe", "42400003", "Upper lobe of right lung", (230, 159, 0)),
        ("right middle lobe", "72481006", "Middle lobe of right lung", (240, 228, 66)),
        ("right lower lobe", "266005", "Lower lobe of right lung", (213, 94, 0)),
        ("trachea", "44567001", "Trachea", (200, 200, 200)),
    )
}


@dataclass(frozen=True)
class Label:
    """What one value of a mask means.

    Parameters
    ----------
    value : in the mask, from 1 on
    name : as a person reads it
    colour : red, green and blue, 0 to 255
    code : of SNOMED CT; empty where the name is not one that we know
    meaning : what that code is called there
    """

    value: int
    name: str
    colour: Colour
    code: str = ""
    meaning: str = ""


def labels_of(names: Sequence[str]) -> list[Label]:
    """Return what the values 1, 2, ... of a mask mean, given the name of each.

    The order of words is free: ``left lung`` and ``lung_left`` mean one thing.

    Examples
    --------
    >>> [(label.value, label.code) for label in labels_of(["left lung", "Lung_Right", "nodule"])]
    [(1, '44029006'), (2, '3341006'), (3, '')]
    """
    return [_label(value, name) for value, name in enumerate(names, start=1)]


def _label(value: int, name: str) -> Label:
    words = frozenset(re.findall(r"[^\W_]+", name.lower()))
    lobe = words - {"lung"} if "lobe" in words else words
    known = _STRUCTURES.get(lobe)
    if known is None:
        return Label(value, name, _OTHERS[(value - 1) % len(_OTHERS)])
    code, meaning, colour = known
    return Label(value, name, colour, code, meaning)
