"""Draws what is around the lungs: the table, skin, fat, muscles, ribs, breastbone and spine."""

import numpy as np

from lungunet.phantom import anatomy
from lungunet.phantom.anatomy import APEX_Z, LEFT, RIGHT, band, blob, cage, cage_y, capsule
from lungunet.phantom.chart import Chart, Tissue

_AROUND = np.linspace(-180, 180, 181)


def draw_table(chart: Chart) -> None:
    """Draw the table below the back: two shells and the foam between them."""
    x = np.linspace(-260, 260, 60)
    forms = (
        ((5, 30, 3.0), (32, 60, 2.0)),
        ((4, 12, 2.5), (24, 100, 2.5)),
        ((8, 0, 3.0), (42, 0, 5.0)),
    )  # below the back, sag, thickness, all in mm
    form, top = forms[chart.patient.table], anatomy.back_mm(chart.patient)
    shells = [np.column_stack([x, top + mm - sag * (x / 230) ** 2]) for mm, sag, _ in form]
    foam = np.concatenate([shells[0], shells[1][::-1]])
    chart.fill(Tissue.FOAM, foam, upright=True)
    for shell, (_, _, thick_mm) in zip(shells, form, strict=True):
        chart.stroke(Tissue.TABLE, shell, mm=thick_mm, upright=True)


def draw_wall(chart: Chart) -> None:
    """Draw clothes, the body with its layers, ribs and breastbone; its inside is left as fat."""
    body = anatomy.skin(chart.patient, chart.z)
    if chart.patient.clothes_mm:
        chart.fill(Tissue.FOAM, body * (1 + chart.patient.clothes_mm / 150))
    if chart.patient.arms:
        _draw_arms(chart)
    chart.fill(Tissue.SKIN, body)
    chart.fill(Tissue.FAT, body * 0.985)
    for side in (RIGHT, LEFT):
        _draw_muscles(chart, side)
    chart.fill(Tissue.MUSCLE, cage(chart.z, _AROUND, out_mm=12))
    inside = Tissue.FAT if chart.z < 0.84 else Tissue.MUSCLE  # above lies the neck
    chart.fill(inside, cage(chart.z, _AROUND, out_mm=1.5))
    for side in (RIGHT, LEFT):
        _draw_ribs(chart, side)
    _draw_breastbone(chart)


def _draw_arms(chart: Chart) -> None:
    for side in (RIGHT, LEFT):
        centre = side * (208 + chart.patient.fat_mm), 45 - 20 * chart.z
        for tissue, key, radius in (
            (Tissue.SKIN, 1, 43), (Tissue.FAT, 1, 41), (Tissue.MUSCLE, 2, 34),
            (Tissue.BONE, 3, 12), (Tissue.MARROW, 3, 7),
        ):  # fmt: skip
            chart.fill(tissue, blob(chart.patient, key, centre, (radius, 1.1 * radius), z=chart.z))


def _draw_muscles(chart: Chart, side: int) -> None:
    z, patient = chart.z, chart.patient
    at = np.array([18.0, 35, 70, 90, 140])
    room = anatomy.skin_radius(patient, z, at) - patient.fat_mm - anatomy.cage_radius(z, at)
    high = float(np.clip((z - 0.35) / 0.4, 0, 1))
    muscles = [  # from, to (degrees), thickness (mm), bluntness
        (3, 40, max(room[0], 22), 0.4),  # erector spinae
        (30, 104, 4 + 0.7 * room[2], 0.8),  # latissimus, serratus
        (108, 168, high * max(0.8 * room[4], 14), 0.6),  # pectoralis
        (5, 62, high * max(0.95 * room[1], 12), 0.5),  # trapezius, subscapularis
        (50, 125, np.clip((z - 0.74) / 0.1, 0, 1) * 0.9 * room[3], 0.5),  # shoulder
    ]
    for start, end, thick_mm, blunt in muscles:
        if thick_mm > 1:
            chart.fill(Tissue.MUSCLE, band(z, side, (start, end), (12, 14 + thick_mm), blunt=blunt))
    if z < 0.84:
        chart.stroke(Tissue.FAT, cage(z, np.linspace(35, 160, 60), side, out_mm=13.5), mm=1.2)
    if z > 0.5:
        width = np.interp(z, [0.5, 0.7, 0.9, 1], [4, 7, 9, 7])
        blade = (34 - width, 44 + 3 * width)
        chart.fill(Tissue.BONE, band(z, side, blade, (20, 26), blunt=0.7))
        chart.fill(Tissue.MARROW, band(z, side, blade, (22, 24), blunt=0.9))


def _draw_ribs(chart: Chart, side: int) -> None:
    """Cut the ribs: each sinks from spine to front, so that a slice meets several of them."""
    z, skew = chart.z, 0.012 * side * np.sin(chart.patient.phases[1, 0])
    for number in range(14):
        u = 180 * (0.05 + 0.068 * number + skew - z) / 0.38
        if z > APEX_Z or not 14 < u < 172:
            continue
        if u > 148:
            ends = u - 8, min(u + 11, 175)
            chart.fill(Tissue.CARTILAGE, band(z, side, ends, (2.5, 11), blunt=0.5))
            continue
        half = 9 + 2.5 * np.cos(chart.patient.phases[number, 1])
        for tissue, thin, mm in ((Tissue.BONE, 0, (2.8, 10.5)), (Tissue.MARROW, 2, (4.8, 8.6))):
            ends = max(u - half, 10) + thin, u + half - thin
            chart.fill(tissue, band(z, side, ends, mm, blunt=0.6))


def _draw_breastbone(chart: Chart) -> None:
    z, patient = chart.z, chart.patient
    if not 0.33 < z < 0.9:
        return
    half_mm = float(np.interp(z, [0.33, 0.4, 0.7, 0.8, 0.9], [6, 16, 15, 26, 24]))
    y = float(cage(z, np.array([180.0]))[0, 1]) - 6
    for tissue, thin in ((Tissue.BONE, 0.0), (Tissue.MARROW, 2.2)):
        chart.fill(tissue, blob(patient, 4, (0, y), (half_mm - thin, 7 - thin), z=z))
        for side in (RIGHT, LEFT) if z > 0.8 else ():
            collar = side * float(np.interp(z, [0.8, 0.9], [34, 62])), y + 2
            radii = 20 - thin, 7 - thin
            chart.fill(tissue, blob(patient, 5, collar, radii, turn_deg=18 * side, z=z))


def draw_spine(chart: Chart) -> None:
    """Draw a vertebra, or the disc between two, with its processes and canal."""
    patient, z = chart.patient, chart.z
    y = 64 + 0.75 * float(cage_y(z))
    within = (z / 0.068) % 1  # one vertebra with its disc
    arms = 1.3 * np.sin(np.pi * within)
    chart.fill(Tissue.FAT, blob(patient, 30, (0, y), (22, 18)))
    for side in (RIGHT, LEFT):
        beside = side * 20, y + 40
        chart.fill(Tissue.MUSCLE, blob(patient, 31, beside, (17, 12), turn_deg=-15 * side))
        _draw_arch(chart, side, y, arms)
    tip = y + 48 + 8 * arms
    process = [[-3.5, y + 30], [3.5, y + 30], [2.4, tip - 3], [4, tip], [-4, tip], [-2.4, tip - 3]]
    chart.fill(Tissue.BONE, np.array(process))
    chart.fill(Tissue.FAT, blob(patient, 32, (0, y + 22), (9.5, 8)))
    chart.fill(Tissue.FLUID, blob(patient, 33, (0, y + 22), (7, 5.5)))
    disc = within < 0.2
    chart.fill(Tissue.CARTILAGE if disc else Tissue.BONE, blob(patient, 30, (0, y), (18.5, 15)))
    if not disc:
        chart.fill(Tissue.MARROW, blob(patient, 30, (0, y), (16.6, 13.2)))


def _draw_arch(chart: Chart, side: int, y: float, arms: float) -> None:
    pedicle = np.array([side * 11.5, y + 8]), np.array([side * 11.5, y + 24])
    lamina = np.array([side * 11.5, y + 24]), np.array([0, y + 33])
    chart.fill(Tissue.BONE, capsule(*lamina, 3.4))
    if arms < 0.4:
        return
    chart.fill(Tissue.BONE, capsule(*pedicle, 3.8))
    chart.fill(Tissue.MARROW, capsule(*pedicle, 1.6))
    arm = np.array([side * 13, y + 22]), np.array([side * (16 + 17 * arms), y + 26 + 5 * arms])
    chart.fill(Tissue.BONE, capsule(*arm, 4.4))
    chart.fill(Tissue.MARROW, capsule(*arm, 2.0))
