"""The made-up patients behind the phantom: what differs between them, and the outlines of a chest.

Shapes are functions of a patient and a height ``z``: 0 below the diaphragm, 1 above the lungs. It
knows nothing of pixels, Hounsfield units or files.

Coordinates are millimetres of an average adult around the middle of the chest: x grows to the
patient's left (image right), y to the back (image bottom). Directions are angles ``u`` in degrees
from the back: 0 spine, 90 flank, 180 breastbone.
"""

from dataclasses import dataclass

import numpy as np

HEIGHT_MM = 340.0  # what z from 0 to 1 spans
RECESS_Z, APEX_Z = 0.10, 0.93  # the lowest and the highest lung
RIGHT, LEFT = -1, 1  # the patient's sides, as the sign of x
ORGANS = 40  # outlines with an irregularity of their own

# Where the vessels of each lung enter it, in mm: one artery, then one vein below and behind.
_HILA = tuple(
    (side * x, y, z) for side in (RIGHT, LEFT) for x, y, z in ((36, 0, 185), (32, 8, 168))
)
_TWIGS = (4, 6, 14, 32, 64, 128, 320)  # new vessel tips in each round of growth
_TWIG_RADIUS_MM = 0.5
_MURRAY = 0.46  # radius = this power of what a vessel carries; Murray's law says about 1/3 to 1/2


@dataclass(frozen=True, eq=False)
class Patient:
    """What makes one chest differ from the next; made by ``make_patient``."""

    scale: tuple[float, float]  # of x and y against the average adult
    tilt_deg: float
    field_mm: float  # side of the square that a slice shows
    centre_mm: tuple[float, float]
    fat_mm: float
    breast_mm: float
    arms: bool
    clothes_mm: float
    table: int  # which form of table
    heart: float  # size against the average
    domes_z: tuple[float, float]  # tops of the right and left half of the diaphragm
    effusion_mm: tuple[float, float]  # depth at the bottom of the right and left lung, 0 for none
    nodules: np.ndarray  # (N, 4): x, y, z, radius in mm
    vessels: np.ndarray  # (M, 7): both ends as x, y, z and the radius, in mm
    phases: np.ndarray  # (ORGANS, 4): what makes outlines irregular


def make_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient: size, fat, heart, findings, and the vessels of the lungs.

    Examples
    --------
    >>> make_patient(np.random.default_rng(0)).vessels.shape[1]
    7
    """
    dome_z = rng.uniform(0.31, 0.38)
    return Patient(
        scale=(rng.uniform(0.94, 1.08), rng.uniform(0.97, 1.15)),
        tilt_deg=rng.normal(0, 2.5),
        field_mm=rng.uniform(340, 405),
        centre_mm=(rng.normal(0, 5), rng.uniform(-14, 8)),
        fat_mm=rng.uniform(6, 30),
        breast_mm=rng.uniform(10, 26) if rng.random() < 0.45 else 0.0,
        arms=bool(rng.random() < 0.2),
        clothes_mm=rng.uniform(3, 11) if rng.random() < 0.5 else 0.0,
        table=int(rng.integers(3)),
        heart=rng.uniform(0.92, 1.15),
        domes_z=(dome_z, dome_z - rng.uniform(0.01, 0.05)),
        effusion_mm=_draw_effusion(rng),
        nodules=_draw_nodules(rng),
        vessels=np.concatenate([_grow_vessels(rng, root) for root in _HILA]),
        phases=rng.uniform(0, 2 * np.pi, (ORGANS, 4)),
    )


def _draw_effusion(rng: np.random.Generator) -> tuple[float, float]:
    if rng.random() > 0.35:
        return 0.0, 0.0
    right, left = rng.uniform(12, 45, 2)
    hit = rng.integers(1, 4)  # bit 0: right, bit 1: left
    return right * float(hit & 1), left * float(hit >> 1)


def _draw_nodules(rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(1, 5)) if rng.random() < 0.4 else 0
    centres = _points_in_lung(rng, rng.choice([RIGHT, LEFT]), count)
    return np.column_stack([centres, rng.uniform(4, 14, count)])


def _points_in_lung(rng: np.random.Generator, side: int, count: int) -> np.ndarray:
    """Draw (count, 3) points that fill one half of the chest, in mm."""
    z = rng.uniform(RECESS_Z + 0.03, APEX_Z - 0.03, count)
    outermost = cage(z, rng.uniform(8, 172, count), side)
    inwards = np.sqrt(rng.uniform(0.1, 0.97, count))
    return np.column_stack([outermost * inwards[:, None], z * HEIGHT_MM])


def _grow_vessels(rng: np.random.Generator, root: tuple[float, float, float]) -> np.ndarray:
    """Grow a tree from a hilum: ever more tips, each joined where the way to the heart is short.

    Radii follow Murray's law: a stem carries the sum of what its twigs carry.
    """
    side, nodes = (LEFT if root[0] > 0 else RIGHT), np.array([root])
    parents, ways_mm = np.array([0]), np.array([0.0])
    for count in _TWIGS:
        tips = _points_in_lung(rng, side, count)
        gaps = _distances(tips, nodes)
        joints = np.argmin(gaps + 0.35 * ways_mm, axis=1)
        gap = gaps[np.arange(count), joints]
        bends = (tips + nodes[joints]) / 2 + rng.normal(0, 0.12, (count, 3)) * gap[:, None]
        parents = np.concatenate([parents, joints, len(nodes) + np.arange(count)])
        nodes = np.concatenate([nodes, bends, tips])
        ways_mm = np.concatenate([ways_mm, ways_mm[joints] + gap / 2, ways_mm[joints] + gap])
    radius = _TWIG_RADIUS_MM * _carried(parents) ** _MURRAY
    return np.column_stack([nodes[parents], nodes, radius])[1:]


def _distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    squares = (points**2).sum(1)[:, None] + (others**2).sum(1) - 2 * points @ others.T
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def _carried(parents: np.ndarray) -> np.ndarray:
    """Count the tips behind every node, from the last round of growth to the first."""
    carried = np.ones(len(parents))
    last = len(parents)
    for count in reversed(_TWIGS):
        tips, bends = slice(last - count, last), slice(last - 2 * count, last - count)
        carried[bends] += carried[tips] - 1
        np.add.at(carried, parents[bends], carried[bends])
        last -= 2 * count
    return carried


def _superellipse(
    u: np.ndarray, half_width: np.ndarray | float, half_depth: np.ndarray | float, power: float
) -> np.ndarray:
    """Radius in directions ``u``: an ellipse at power 2, ever more of a box above."""
    across = np.abs(np.sin(np.radians(u))) / half_width
    along = np.abs(np.cos(np.radians(u))) / half_depth
    return np.asarray((across**power + along**power) ** (-1 / power))


def _bump(u: np.ndarray, at_deg: float, width_deg: float) -> np.ndarray:
    return np.asarray(np.exp(-(((np.abs(u) - at_deg) / width_deg) ** 2)))


def cage_radius(z: np.ndarray | float, u: np.ndarray) -> np.ndarray:
    """Distance of the inner chest wall from the middle of the chest in directions ``u``, in mm."""
    levels = [0, 0.15, 0.35, 0.6, 0.75, 0.85, 0.93, 1]
    half_width = np.interp(z, levels, [124, 130, 133, 129, 118, 98, 66, 50])
    half_depth = np.interp(z, levels, [92, 96, 98, 95, 84, 70, 54, 44])
    return np.asarray(_superellipse(u, half_width, half_depth, 2.3) - 7 * _bump(u, 180, 26))


def cage_y(z: np.ndarray | float) -> np.ndarray:
    """How far back the middle of the chest lies: it narrows upwards towards the back; in mm."""
    return np.asarray(np.interp(z, [0.6, 0.93, 1], [0, 22, 26]))


def cage(
    z: np.ndarray | float, u: np.ndarray, side: int = LEFT, *, out_mm: np.ndarray | float = 0.0
) -> np.ndarray:
    """Outline (N, 2) of the inner chest wall in directions ``u``, moved out by ``out_mm``."""
    radius, angle = cage_radius(z, u) + out_mm, np.radians(u)
    return np.column_stack([side * radius * np.sin(angle), cage_y(z) + radius * np.cos(angle)])


def skin_radius(patient: Patient, z: float, u: np.ndarray) -> np.ndarray:
    """Distance of the skin from the middle of the chest in directions ``u``, in mm."""
    levels = [0, 0.3, 0.6, 0.8, 0.92, 1]
    half_width = np.interp(z, levels, [146, 152, 158, 170, 182, 188])
    half_depth = np.interp(z, levels, [112, 116, 118, 112, 100, 90])
    radius = _superellipse(u, half_width, half_depth, 2.3)
    radius += patient.fat_mm * (0.7 + 0.3 * _bump(u, 100, 60))
    radius += patient.breast_mm * np.exp(-(((z - 0.42) / 0.16) ** 2)) * _bump(u, 142, 19)
    radius -= 5 * _bump(u, 0, 9) + 6 * _bump(u, 180, 12)
    wobble = 1 + 0.01 * np.sin(np.radians(3 * u) + patient.phases[0, 0] + 3 * z)
    return np.asarray(radius * wobble)


def skin(patient: Patient, z: float) -> np.ndarray:
    """Outline (181, 2) of the body, flattened where it lies on the table."""
    u = np.linspace(-180, 180, 181)
    radius, angle = skin_radius(patient, z, u), np.radians(u)
    y = radius * np.cos(angle)
    flat = back_mm(patient)
    y = np.where(y > flat - 12, flat - 12 + 12 * np.tanh((y - flat + 12) / 12), y)
    return np.column_stack([radius * np.sin(angle), y])


def back_mm(patient: Patient) -> float:
    """Where the table begins, as y."""
    return 122 + 0.55 * patient.fat_mm


def blob(
    patient: Patient, key: int, centre: tuple[float, float], radii: tuple[float, float],
    *, turn_deg: float = 0.0, z: float = 0.0, rough: float = 0.04,
) -> np.ndarray:  # fmt: skip
    """Outline (72, 2) of an irregular ellipse, as ``key`` says, which drifts with ``z``."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    orders = np.arange(2, 2 + patient.phases.shape[1])[:, None]
    waves = np.cos(orders * angle + patient.phases[key][:, None] + 5 * z) / orders
    across, along = np.radians(turn_deg), np.radians(turn_deg + 90)
    axes = np.array([[np.cos(across), np.sin(across)], [np.cos(along), np.sin(along)]])
    unit = np.column_stack([np.cos(angle), np.sin(angle)]) * (1 + 2 * rough * waves.sum(0))[:, None]
    return np.asarray(np.array(centre) + (unit * radii) @ axes)


def band(
    z: float, side: int, degrees: tuple[float, float], mm: tuple[float, float], *, blunt: float
) -> np.ndarray:
    """Outline (48, 2) of a piece of chest wall, between two directions and two distances.

    Distances count from the cage. Its ends taper: like a lens at ``blunt`` 1, like a bar towards 0.
    """
    u = np.linspace(*degrees, 24)
    half_mm = (mm[1] - mm[0]) / 2 * np.sin(np.linspace(0, np.pi, 24)) ** blunt
    middle_mm = (mm[0] + mm[1]) / 2
    outer, inner = (cage(z, u, side, out_mm=middle_mm + sign * half_mm) for sign in (1, -1))
    return np.concatenate([outer, inner[::-1]])


def capsule(start: np.ndarray, end: np.ndarray, radius_mm: float) -> np.ndarray:
    """Outline (32, 2) of a bar with round ends."""
    way = end - start
    turns = np.arctan2(way[1], way[0]) + np.linspace(-np.pi / 2, np.pi / 2, 16)
    cap = radius_mm * np.column_stack([np.cos(turns), np.sin(turns)])
    return np.concatenate([end + cap, start - cap])
