"""A map of tissues, on which outlines in millimetres are drawn.

It knows where a patient lies in the slice, but no organ.
"""

from enum import IntEnum

import cv2
import numpy as np

from lungunet.phantom.anatomy import Patient

_SHIFT = 4  # OpenCV draws at fractions of 1/16 cell


class Tissue(IntEnum):
    """What a cell of the map is made of. ``LUNG`` and all after it is lung."""

    AIR = 0
    TABLE = 1
    FOAM = 2
    SKIN = 3
    FAT = 4
    MUSCLE = 5
    BONE = 6
    MARROW = 7
    CARTILAGE = 8
    BLOOD = 9
    HEART = 10
    LIVER = 11
    SPLEEN = 12
    GUT = 13
    FLUID = 14
    GAS = 15
    AIRWAY = 16
    AIRWAY_WALL = 17
    LUNG = 18
    FISSURE = 19
    TWIG = 20
    VESSEL = 21
    NODULE = 22


class Chart:
    """A square map of tissues, on which outlines in millimetres are drawn."""

    def __init__(self, patient: Patient, z: float, cells: int) -> None:
        self.patient, self.z = patient, z
        self.tissue = np.zeros((cells, cells), np.uint8)
        self.cells_per_mm = cells / patient.field_mm

    def place(self, points: np.ndarray, *, upright: bool = False) -> np.ndarray:
        """Map (N, 2) mm to OpenCV's fixed-point cells; what is ``upright`` does not tilt."""
        tilt = 0.0 if upright else np.radians(self.patient.tilt_deg)
        turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        mm = (points * self.patient.scale) @ turn + self.patient.centre_mm
        cells = mm * self.cells_per_mm + (len(self.tissue) - 1) / 2
        return np.asarray(np.rint(cells * 2**_SHIFT), np.int32)

    def fill(self, tissue: Tissue, outline: np.ndarray, *, upright: bool = False) -> None:
        """Fill a closed outline."""
        cells = self.place(outline, upright=upright)
        cv2.fillPoly(self.tissue, [cells], int(tissue), shift=_SHIFT)

    def stroke(self, tissue: Tissue, line: np.ndarray, *, mm: float, upright: bool = False) -> None:
        """Draw an open line, ``mm`` thick."""
        cells, thick = self.place(line, upright=upright), max(1, round(mm * self.cells_per_mm))
        cv2.polylines(self.tissue, [cells], False, int(tissue), thick, shift=_SHIFT)

    def stroke_each(
        self, tissues: np.ndarray, starts: np.ndarray, ends: np.ndarray, *, mm: np.ndarray
    ) -> None:
        """Draw straight lines, (N, 2) to (N, 2), in their order, with N tissues and thicknesses."""
        thick = np.maximum(np.rint(mm * self.cells_per_mm), 1).astype(int)
        columns = tissues, self.place(starts), self.place(ends), thick
        for tissue, start, end, cells in zip(*(c.tolist() for c in columns), strict=True):
            cv2.line(self.tissue, start, end, tissue, cells, shift=_SHIFT)

    def covers(self, outline: np.ndarray) -> np.ndarray:
        """Tell for each cell (bool) whether it lies within the outline."""
        inside = np.zeros_like(self.tissue)
        cv2.fillPoly(inside, [self.place(outline)], 1, shift=_SHIFT)
        return inside.view(bool)
