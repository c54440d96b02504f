"""A made-up chest: ``make_patient`` draws a patient, ``draw_chest`` one slice as a map of tissues.

It knows nothing of Hounsfield units, noise or files; ``lungunet.phantom.phantom`` does.
"""

import numpy as np

from lungunet.phantom import organs, wall
from lungunet.phantom.anatomy import Patient, make_patient
from lungunet.phantom.chart import Chart, Tissue

__all__ = ["Patient", "Tissue", "draw_chest", "make_patient"]


def draw_chest(patient: Patient, z: float, *, cells: int) -> np.ndarray:
    """Draw the slice at height ``z``, back to front: what is drawn later covers what was there.

    Parameters
    ----------
    z : height in [0, 1]
    cells : side of the map

    Returns
    -------
    (cells, cells) uint8
        Values of ``Tissue``.

    Examples
    --------
    >>> patient = make_patient(np.random.default_rng(0))
    >>> bool((draw_chest(patient, 0.5, cells=64) == Tissue.LUNG).any())
    True
    """
    chart = Chart(patient, z, cells)
    wall.draw_table(chart)
    wall.draw_wall(chart)
    organs.draw_lungs(chart)
    organs.draw_mediastinum(chart)
    organs.draw_belly(chart)
    wall.draw_spine(chart)
    organs.round_lungs(chart)
    organs.draw_effusion(chart)
    organs.draw_lung_inside(chart)
    organs.draw_airways(chart)
    return chart.tissue
