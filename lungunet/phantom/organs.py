"""Draws what is inside the chest: the lungs, and all that pushes into them.

Things are drawn back to front as a painter does: what comes later covers what was there.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from lungunet.phantom.anatomy import (
    APEX_Z,
    HEIGHT_MM,
    LEFT,
    RECESS_Z,
    RIGHT,
    Patient,
    blob,
    cage,
    cage_y,
    capsule,
)
from lungunet.phantom.chart import Chart, Tissue

_HALF = np.linspace(0, 180, 120)  # one side of the chest, from the spine to the breastbone
_SLAB_MM = 3.0  # half the thickness of a slice, within which vessels show
_TWIG_MM = 0.8  # vessels of a smaller radius fill no cell
_HILAR_MM = 3.4  # vessels of a larger radius are not lung


class Organ(NamedTuple):
    """An outline (N, 2) in mm, and how much fat lies around it."""

    tissue: Tissue
    outline: np.ndarray
    halo_mm: float


def draw_lungs(chart: Chart) -> None:
    """Fill both halves of the chest with lung, for all else to push into."""
    if not RECESS_Z < chart.z < APEX_Z:
        return
    closing = np.sqrt(np.clip((APEX_Z - chart.z) / 0.12, 0, 1))  # the apex is a dome
    for side in (RIGHT, LEFT):
        middle = np.array([side * 42.0, 30])
        chart.fill(Tissue.LUNG, middle + closing * (cage(chart.z, _HALF, side) - middle))


def draw_mediastinum(chart: Chart) -> None:
    """Draw what lies between the lungs: fat, and in it the heart and the great vessels."""
    chart.fill(Tissue.FAT, _mediastinal_fat(chart.z))
    organs = [*_great_vessels(chart.patient, chart.z), *_heart(chart.patient, chart.z)]
    for organ in organs:
        spokes = organ.outline - organ.outline.mean(0)
        lengths = np.linalg.norm(spokes, axis=1, keepdims=True)
        chart.fill(Tissue.FAT, organ.outline + spokes * (organ.halo_mm / lengths))
    for organ in organs:
        chart.fill(organ.tissue, organ.outline)


def _mediastinal_fat(z: float) -> np.ndarray:
    """Outline of the column from breastbone to spine; wide above the heart, narrow before it."""
    marks = np.array([-95, -80, -55, -20, 10, 40, 64, 95])
    above = np.interp(z, [0.6, 0.78], [0, 1]) * np.array([8, 20, 14, 8, 4, 2, 0, 0])
    y = np.linspace(marks[0], marks[-1], 60)
    kernel = np.ones(9) / 9
    left, right = (
        np.convolve(np.pad(np.interp(y, marks, above + half_mm), 4, "edge"), kernel, "valid")
        for half_mm in (
            np.array([16, 7, 18, 24, 24, 26, 24, 20]),
            np.array([10, 6, 18, 26, 22, 16, 22, 20]),
        )
    )
    front, back = cage(z, np.array([180.0, 0.0]))[:, 1]
    y = np.clip(y + 0.6 * cage_y(z), front - 1, back + 1)
    return np.concatenate([np.column_stack([left, y]), np.column_stack([-right, y])[::-1]])


# What runs along the body: from z, to z; x at both; y at both; radii in mm.
_TUBES = (
    (Tissue.MUSCLE, (-0.1, 1.1), (5, 6), (38, 44), (9, 6)),  # oesophagus
    (Tissue.BLOOD, (-0.1, 0.3), (8, 22), (44, 46), (12.5, 12.5)),  # aorta, descending
    (Tissue.BLOOD, (0.3, 0.7), (22, 25), (46, 36), (12.5, 13)),
    (Tissue.BLOOD, (-0.1, 0.3), (-20, -24), (12, 4), (13, 11)),  # inferior vena cava
    (Tissue.BLOOD, (0.46, 0.69), (-4, -10), (-30, -28), (17, 16)),  # aorta, ascending
    (Tissue.BLOOD, (0.5, 0.8), (-31, -29), (-18, -18), (9.5, 11)),  # superior vena cava
    (Tissue.BLOOD, (0.49, 0.6), (20, 22), (-34, -30), (15, 16)),  # pulmonary trunk
    (Tissue.BLOOD, (0.745, 1.1), (-17, -22), (-12, 4), (7.5, 6)),  # vessels above the arch
    (Tissue.BLOOD, (0.745, 1.1), (1, 14), (-10, 6), (5, 5)),
    (Tissue.BLOOD, (0.745, 1.1), (17, 30), (4, 14), (6, 6)),
    (Tissue.BLOOD, (0.745, 1.1), (-27, -34), (-24, -2), (8, 7)),
    (Tissue.BLOOD, (0.745, 1.1), (14, 32), (-30, -4), (8, 7)),
)
# What lies across: from z, to z; start; end; radius in mm.
_CROSSINGS = (
    ((0.53, 0.58), (18, -24), (-40, 2), 10.5),  # right pulmonary artery
    ((0.56, 0.61), (20, -28), (40, 6), 11),  # left pulmonary artery
    ((0.69, 0.75), (-10, -26), (23, 34), 13),  # arch of the aorta
)


def _great_vessels(patient: Patient, z: float) -> Iterator[Organ]:
    for key, (tissue, levels, x, y, radii) in enumerate(_TUBES, start=6):
        if levels[0] < z < levels[1]:
            centre = (
                float(np.interp(z, levels, x)),
                float(np.interp(z, levels, y) + 0.5 * cage_y(z)),
            )
            yield Organ(tissue, blob(patient, key, centre, radii, z=z), 2.5)
    for (low, high), start, end, radius in _CROSSINGS:
        if low < z < high:  # a tube cut lengthwise, first and last at its rim
            cut = radius * (1 - (2 * (z - low) / (high - low) - 1) ** 2) ** 0.5
            yield Organ(Tissue.BLOOD, capsule(np.array(start), np.array(end), cut), 2.5)
    for key, side in ((18, RIGHT), (19, LEFT)):
        bulge = 1 - ((z - 0.52) / 0.1) ** 2  # the hila
        if bulge > 0:
            radii = 14 * bulge**0.5, 17 * bulge**0.5
            outline = blob(
                patient, key, (side * 38, 4), radii, turn_deg=15 * side, z=4 * z, rough=0.12
            )
            yield Organ(Tissue.BLOOD, outline, 1.0)


def _heart(patient: Patient, z: float) -> Iterator[Organ]:
    bulge = 1 - ((z - 0.34) / 0.21) ** 2
    if bulge <= 0:
        return
    size = patient.heart * bulge**0.4
    x = float(np.interp(z, [0.17, 0.3, 0.53], [36, 26, 4]))
    y = float(np.interp(z, [0.17, 0.53], [-42, -26]))
    parts = [  # tissue, offset and radii in mm of a full section, turn, fat around
        (Tissue.HEART, (0, 0), (64, 49), -28, 4.0),
        (Tissue.BLOOD, (23, 0), (26, 17), -40, 0.0),  # left ventricle
        (Tissue.BLOOD, (-14, -24), (28, 15), -30, 0.0),  # right ventricle
        (Tissue.BLOOD, (-36, 12), (18, 21), 0, 0.0),  # right atrium
    ]
    if z > 0.34:
        parts.append((Tissue.BLOOD, (-2, 31), (32, 15), 0, 1.0))  # left atrium
    for key, (tissue, offset, radii, turn_deg, halo_mm) in enumerate(parts, start=20):
        centre = x + size * offset[0], y + size * offset[1]
        scaled = size * radii[0], size * radii[1]
        yield Organ(tissue, blob(patient, key, centre, scaled, turn_deg=turn_deg, z=z), halo_mm)


def draw_belly(chart: Chart) -> None:
    """Raise the halves of the diaphragm into the chest: first in the middle, last at the back."""
    for side, top_z in zip((RIGHT, LEFT), chart.patient.domes_z, strict=True):
        if chart.z >= top_z:
            continue
        rise = (top_z - chart.z) / (top_z - RECESS_Z)
        dome = _dome(chart.z, side, rise)
        chart.fill(Tissue.FAT, dome)
        if side == RIGHT:
            chart.fill(Tissue.LIVER, dome.mean(0) + 0.975 * (dome - dome.mean(0)))
            size = min(rise, 1.0) ** 0.5
            lobe = blob(chart.patient, 38, (-14, -4), (26 * size, 42 * size), z=chart.z, rough=0.1)
            chart.fill(Tissue.LIVER, lobe)
        else:
            _draw_left_belly(chart, dome.mean(0), min(rise, 1.0) ** 0.5)


def _dome(z: float, side: int, rise: float) -> np.ndarray:
    """Outline of half a diaphragm: round at its top (``rise`` 0), the whole half chest at 1."""
    medial = np.column_stack([np.full(40, -10.0 * side), np.linspace(-85, 90, 40)])
    outermost = np.concatenate([cage(z, _HALF, side), medial])
    middle = np.array([side * 64.0, -4])
    spokes = outermost - middle
    lengths = np.linalg.norm(spokes, axis=1)
    round_mm = 1 / np.linalg.norm(spokes / lengths[:, None] / [72, 82], axis=1)
    sooner = np.interp(spokes[:, 1] / lengths, [-1, -0.3, 0.5, 1], [2.0, 1.5, 1.1, 1.0])
    grown = np.clip(rise * sooner, 0, 1.05)
    whole = np.minimum(grown, 1) ** 1.5
    reach = (whole * lengths + (1 - whole) * np.minimum(round_mm, lengths)) * grown**0.5
    return np.asarray(middle + spokes * (reach / lengths)[:, None])


def _draw_left_belly(chart: Chart, middle: np.ndarray, size: float) -> None:
    patient, z, (x, y) = chart.patient, chart.z, middle
    spleen = x + 26 * size, y + 36 * size
    chart.fill(Tissue.SPLEEN, blob(patient, 26, spleen, (46 * size, 28 * size), turn_deg=-48, z=z))
    colon = x + 34 * size, y - 22 * size
    chart.fill(Tissue.GUT, blob(patient, 27, colon, (19 * size, 25 * size), z=z))
    chart.fill(Tissue.GAS, blob(patient, 27, colon, (16.5 * size, 22 * size), z=z))
    centre = x - 14 * size, y - 8 * size
    stomach = blob(patient, 28, centre, (42 * size, 38 * size), z=z)
    chart.fill(Tissue.GUT, stomach)
    gas = centre + 0.9 * (stomach - centre)
    gas[:, 1] = np.minimum(gas[:, 1], centre[1] - 4 * size)  # gas floats on what was eaten
    chart.fill(Tissue.GAS, gas)
    lobe = -8.0, float(cage(z, np.array([180.0]))[0, 1]) + 34
    chart.fill(Tissue.LIVER, blob(patient, 29, lobe, (62 * size, 31 * size), turn_deg=-6, z=z))


def round_lungs(chart: Chart) -> None:
    """Take from the lungs the slivers and sharp corners that drawing left: lungs have none."""
    lung = chart.tissue == Tissue.LUNG
    width = 2 * int(2.2 * chart.cells_per_mm) + 1
    share = cv2.blur(cv2.blur(lung.astype(np.uint8) * 255, (width, width)), (width, width))
    chart.tissue[lung & (share < 120)] = Tissue.FAT


def draw_effusion(chart: Chart) -> None:
    """Let fluid lift the lung off the back of the chest, most at the bottom."""
    for side, depth_mm in zip((RIGHT, LEFT), chart.patient.effusion_mm, strict=True):
        depth = depth_mm * np.clip(1 - (chart.z - RECESS_Z) / 0.55, 0, 1)
        if depth < 1:
            continue
        space = chart.covers(cage(chart.z, _HALF, side, out_mm=2))
        lifted = chart.covers(cage(chart.z, _HALF, side) - [0.15 * side * depth, depth])
        chart.tissue[(chart.tissue == Tissue.LUNG) & space & ~lifted] = Tissue.FLUID


def draw_lung_inside(chart: Chart) -> None:
    """Draw fissures, vessels and nodules apart, then keep what falls into the lung."""
    inner = Chart(chart.patient, chart.z, len(chart.tissue))
    x = np.linspace(30, 140, 12)
    for side in (RIGHT, LEFT):
        y = np.interp(chart.z, [0.15, 0.8], [-75, 75]) - 0.12 * (x - 30) + 0.0016 * (x - 85) ** 2
        inner.stroke(Tissue.FISSURE, np.column_stack([side * x, y]), mm=0.5)
    _draw_vessels(inner)
    for key, (x_mm, y_mm, z_mm, radius) in enumerate(chart.patient.nodules, start=34):
        section = radius**2 - (chart.z * HEIGHT_MM - z_mm) ** 2
        if section > 1:
            radii = section**0.5, section**0.5
            inner.fill(Tissue.NODULE, blob(chart.patient, key, (x_mm, y_mm), radii, rough=0.1))
    within = (inner.tissue > 0) & (chart.tissue == Tissue.LUNG)
    np.copyto(chart.tissue, inner.tissue, where=within)


def _draw_vessels(chart: Chart) -> None:
    """Draw the stretch of each vessel that lies in the slab, wide ones over thin ones."""
    vessels, level = chart.patient.vessels, chart.z * HEIGHT_MM
    ends_mm = vessels[:, [2, 5]]
    near = (ends_mm.min(1) < level + _SLAB_MM) & (ends_mm.max(1) > level - _SLAB_MM)
    vessels = vessels[near][np.argsort(vessels[near, 6], kind="stable")]
    start, way, radius = vessels[:, :3], vessels[:, 3:6] - vessels[:, :3], vessels[:, 6]
    climb = np.where(np.abs(way[:, 2]) < 1e-6, 1e-6, way[:, 2])
    crossings = (level + np.array([[-_SLAB_MM], [_SLAB_MM]]) - start[:, 2]) / climb
    enter, leave = np.sort(np.clip(crossings, 0, 1), axis=0)[:, :, None]
    kinds = np.array([Tissue.TWIG, Tissue.VESSEL, Tissue.BLOOD])
    tissues = kinds[np.digitize(radius, [_TWIG_MM, _HILAR_MM])]
    ends = (start + enter * way)[:, :2], (start + leave * way)[:, :2]
    chart.stroke_each(tissues, *ends, mm=2 * radius)


def draw_airways(chart: Chart) -> None:
    """Draw the trachea, or below its fork the main bronchi."""
    z, patient = chart.z, chart.patient
    if z >= 0.6:
        y = float(np.interp(z, [0.6, 0.8, 1], [16, 14, 24]))
        tubes = [((0.0, y), (9.5, 9.0), 0.0)]
    elif z > 0.47:
        down = (0.6 - z) / 0.13
        radius = 8 - 3.5 * down
        tubes = [
            ((side * (8 + reach * down), 16 - 6 * down), (1.3 * radius, radius), 10.0 * side)
            for side, reach in ((RIGHT, 30), (LEFT, 34))
        ]
    else:
        return
    for tissue, wall_mm in ((Tissue.AIRWAY_WALL, 1.5), (Tissue.AIRWAY, 0.0)):
        for centre, (wide, deep), turn_deg in tubes:
            radii = wide + wall_mm, deep + wall_mm
            chart.fill(tissue, blob(patient, 39, centre, radii, turn_deg=turn_deg, z=z))
