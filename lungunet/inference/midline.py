"""Where the middle of a patient is: what the body and the spine bear witness of.

Works on HU; knows no mask and no files.
"""

import numpy as np

from lungunet.inference.body import find_body

_SEEN_MM = 2.0  # finer pixels tell no more of a spine
_SEEN_PX = 180  # where nobody knows their size
_AIR_HU, _BONE_HU = -300, 130
_BODY_MM2 = 65_000  # an adult's chest in a slice
_FRONT = 0.45  # of the body's depth, where the breastbone is
_WHOLE = 0.5  # of the slices show the body from side to side

# A spine is deep bone, with its processes deeper than any rib, and there is but one.
_SPINE_MM, _DEEP_MM = 20.0, 20.0
_ALONE, _ALONE_MM = 1.6, 50.0  # times the bone of what is that far to the sides
_FALLEN = 0.7  # of that bone on either side; else the picture may end within a spine


def find_middles(
    hu: np.ndarray, mm: float | None, *, around: slice = slice(0, 0)
) -> dict[str, float]:
    """Find the patient's middle, as each witness has it.

    Parameters
    ----------
    hu : (D, H, W), HU; rows run from front to back
    mm : side of a pixel; None takes the body for 65,000 mm2, an adult's chest
    around : columns of the lungs, within which a body is none: the picture cuts them open

    Returns
    -------
    dict
        Witness to column: "body", where most slices show it from side to side, and "spine", where
        one is seen. A picture cut to a part of the chest may show neither.
    """
    step = max(1, round(_SEEN_MM / mm if mm else hu.shape[2] / _SEEN_PX))
    seen = hu[:, ::step, ::step]
    bodies = np.stack([find_body((plane < _AIR_HU).view(np.uint8)) for plane in seen]) > 0
    held = bodies.any(axis=(1, 2))
    if not held.any():
        return {}
    seen, bodies = seen[held], bodies[held]
    pixel_mm = step * mm if mm else float(np.sqrt(_BODY_MM2 / bodies.sum(axis=(1, 2)).mean()))
    middles: dict[str, float] = {}
    across = np.asarray(bodies.any(axis=1))
    first, last = across.argmax(axis=1), across.shape[1] - 1 - across[:, ::-1].argmax(axis=1)
    whole = (first > 0) & (last < across.shape[1] - 1)
    if around.stop > around.start:
        whole &= (first <= around.start // step) & (last >= (around.stop - 1) // step)
    if whole.mean() >= _WHOLE:
        columns = bodies[whole].sum(axis=(0, 1))
        middles["body"] = step * float(np.average(np.arange(len(columns)), weights=columns))
    spine = _find_spine(_back_bone(seen, bodies) * pixel_mm, pixel_mm)
    return middles if spine is None else middles | {"spine": step * float(spine)}


def _back_bone(seen: np.ndarray, bodies: np.ndarray) -> np.ndarray:
    """Count the bone over each other in the back of each column, (W,), on average over slices."""
    bone = np.zeros(bodies.shape[2])
    for plane, body in zip(seen, bodies, strict=True):
        rows = np.flatnonzero(body.any(axis=1))
        back = rows[0] + round(_FRONT * (rows[-1] - rows[0]))
        bone += ((plane > _BONE_HU) & body)[back:].sum(axis=0)
    return bone / len(bodies)


def _find_spine(bone_mm: np.ndarray, mm: float) -> int | None:
    """Find the one column where the bone is deep; None where there is none, or several."""
    taps = max(1, round(_SPINE_MM / mm)) | 1
    padded = np.pad(bone_mm, taps // 2, mode="edge")  # no fall where the picture ends
    bone_mm = np.convolve(padded, np.full(taps, 1 / taps), mode="valid")
    at = int(bone_mm.argmax())
    far = np.abs(np.arange(len(bone_mm)) - at) * mm > _ALONE_MM
    top = float(bone_mm[at])
    if top < max(_DEEP_MM, _ALONE * bone_mm[far].max(initial=0)):
        return None
    falls = [side.min(initial=top) < _FALLEN * top for side in (bone_mm[:at], bone_mm[at + 1 :])]
    return at if all(falls) else None
