"""Can these values be Hounsfield units of a chest? Every rule about that, and what it counts with.

Knows no files and no masks.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lungunet.errors import DataError

_WRAPPED = 60000  # HU from -5536 to -1, read as unsigned
_DARKER_THAN_TISSUE_HU = -64
_OFFSET = 1024  # what scanners add to store HU unsigned
_WATER_STORED = (_OFFSET - 200, _OFFSET + 200)
_SAMPLED = 4  # every 4th pixel of every 4th row tells the range of a slice


@dataclass(frozen=True)
class HuFault:
    """Why values cannot be HU of a chest.

    Parameters
    ----------
    text : what is wrong, with the value, and how to fix it
    """

    severity: Literal["error", "warning", "note"]
    kind: Literal["hu-8bit", "hu-offset", "hu-wrap", "hu-range"]
    text: str


def judge_hu(image: np.ndarray) -> HuFault | None:
    """Judge whether a slice, (H, W), can hold HU of a chest; None where nothing speaks against it.

    Examples
    --------
    >>> judge_hu(np.full((8, 8), -1000, np.int16)).text
    'values -1000 to -1000, nothing as dense as tissue. Export it in HU.'
    """
    if image.dtype == np.uint8:
        text = "8-bit grey, so HU are lost. Fine where all slices were exported alike."
        return HuFault("note", "hu-8bit", text)
    seen = image[::_SAMPLED, ::_SAMPLED]
    if image.dtype.name != "int16" and (share := float((seen > _WRAPPED).mean())) > 0.001:
        return HuFault(
            "error",
            "hu-wrap",
            f"{share:.0%} of the values lie near {int(seen.max())}: negative HU read as "
            "unsigned. Save it anew as int16 (image.astype('int16')).",
        )
    span = f"values {seen.min():g} to {seen.max():g}"
    if float(seen.min()) < _DARKER_THAN_TISSUE_HU:
        if float((seen > -200).mean()) > 0.005:
            return None
        text = f"{span}, nothing as dense as tissue. Export it in HU."
        return HuFault("warning", "hu-range", text)
    low, high = _WATER_STORED
    if float(((seen >= low) & (seen <= high)).mean()) > 0.05:
        # uint16 is refused until a window is named; signed values would be taken for HU.
        return HuFault(
            "warning" if image.dtype == np.uint16 else "error",
            "hu-offset",
            f"smallest value {seen.min():g}, tissue near {_OFFSET}: stored without the rescale "
            f"intercept. Subtract {_OFFSET}, or pass --window 424,1500.",
        )
    return HuFault(
        "warning", "hu-range", f"{span}, nothing as dark as air or lung. Export it in HU."
    )


def restore_hu(image: np.ndarray) -> np.ndarray:
    """Undo the two usual ways of storing HU wrongly: an unsigned wrap, an offset of 1024.

    Takes and returns (H, W), HU as far as the values tell; eight-bit pictures come back as they
    are.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16 and image.max(initial=0) > _WRAPPED:
        return image.view(np.int16)
    if image.min(initial=0) >= _DARKER_THAN_TISSUE_HU:
        return image.astype(np.int32) - _OFFSET
    return image


def require_hu(hu: np.ndarray, where: object) -> None:
    """Refuse a scan, (D, H, W), without a value below 0: one stored with an offset, or a mask."""
    lowest, highest = hu.min(), hu.max()
    if lowest >= 0:
        raise DataError(
            f"values from {lowest:g} to {highest:g} are no HU, air is near -1000. "
            "Export the scan with its rescale intercept; a mask is no scan.",
            where=where,
        )
