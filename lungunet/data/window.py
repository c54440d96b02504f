"""Which pixel values are shown from black to white: the window that radiologists set.

Knows arrays alone, no files and no sizes.
"""

from dataclasses import dataclass

import numpy as np

from lungunet.data.kinds import is_number, make_plain
from lungunet.errors import ConfigError

_HIGHEST_LEVEL_HU = 300  # bone is seen at; with the offset of 1024 the lung is at 424
_FARTHEST = 1e9  # what int32 can hold, and float32 can still be divided by


@dataclass(frozen=True)
class Window:
    """A range of pixel values shown from black to white.

    Parameters
    ----------
    level, width : HU; black is ``level - width / 2`` and below, white ``level + width / 2`` and
        above
    """

    level: float
    width: float

    def __post_init__(self) -> None:
        """Refuse a window without width."""
        make_plain(self)
        if not (is_number(self.level) and is_number(self.width)):
            raise ConfigError(
                f"window {self.level!r},{self.width!r}: level and width are numbers of HU. Lungs "
                "are seen at -600,1500."
            )
        if not (abs(self.level) <= _FARTHEST and 1 / _FARTHEST <= self.width <= _FARTHEST):
            raise ConfigError(
                f"window {self.level:g},{self.width:g}: the width must be above 0, and neither "
                f"beyond {_FARTHEST:g}. Lungs are seen at -600,1500."
            )

    def apply(self, hu: np.ndarray) -> np.ndarray:
        """Map Hounsfield units to [0, 1], clipping outside the window.

        Parameters
        ----------
        hu : (..., H, W) int16, int32 or float32, HU

        Returns
        -------
        (..., H, W) float32
            0 at ``level - width / 2`` and below, 1 at ``level + width / 2`` and above.

        References
        ----------
        DICOM PS3.3 C.11.2.1.3.2, VOI LUT function LINEAR_EXACT.

        Examples
        --------
        >>> Window(level=-600, width=1500).apply(np.array([-2000, -600, 400]))
        array([0. , 0.5, 1. ], dtype=float32)
        """
        low = self.level - self.width / 2
        # Divided, not multiplied by 1 / width: the upper end comes out as 1 exactly.
        scaled = (np.asarray(hu, np.float32) - np.float32(low)) / np.float32(self.width)
        return np.clip(scaled, 0, 1, out=scaled)

    def to_grey(self, hu: np.ndarray) -> np.ndarray:
        """Map Hounsfield units to eight-bit grey, rounding to the nearest step.

        Returns
        -------
        (..., H, W) uint8
        """
        grey = self.apply(hu)
        grey *= 255
        return np.asarray(np.rint(grey, out=grey).astype(np.uint8))

    def to_hu(self, grey: np.ndarray) -> np.ndarray:
        """Undo :meth:`to_grey` as far as it goes: (..., H, W) float32, within the window."""
        hu = grey.astype(np.float32)
        hu *= np.float32(self.width / 255)
        hu += np.float32(self.level - self.width / 2)
        return hu


LUNG_WINDOW = Window(level=-600, width=1500)
"""What radiologists read lungs at, and what ``--window auto`` means for HU."""


def shows_hu(window: Window | None) -> bool:
    """Whether a window is of HU, and neither of grey nor of values stored with an offset."""
    return window is not None and window.level <= _HIGHEST_LEVEL_HU


def parse_window(text: str) -> Window | None:
    """Read the notation of ``--window``: ``auto`` (None), or ``LEVEL,WIDTH`` in HU.

    Examples
    --------
    >>> parse_window("40,400")
    Window(level=40.0, width=400.0)
    """
    if text.strip().lower() == "auto":
        return None
    try:
        level, width = (float(part) for part in text.split(","))
    except ValueError as err:
        raise ConfigError(
            "write LEVEL,WIDTH in HU as in -600,1500.", where=f"window '{text}'"
        ) from err
    return Window(level, width)
