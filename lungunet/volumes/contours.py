"""From the pixels of a plane to closed outlines that hold exactly the centres of those pixels.

Knows no file format, and no millimetres.
"""

from collections.abc import Iterator

import numpy as np

_Point = tuple[float, float]
_Edge = tuple[int, int, int, int]  # along the border of a pixel: a corner, and the way from it


def outline(plane: np.ndarray) -> list[np.ndarray]:
    """Draw a closed line around each part of a mask, with its holes cut out through a slit.

    Lines run half-way between the centres of neighbouring pixels inside and outside: a centre lies
    within them exactly where the mask is set. Where a line cannot say what is a hole, as in DICOM,
    it goes in to the hole, around it and out again on the same way (PS3.3, C.8.8.6.3).

    Parameters
    ----------
    plane : (H, W) bool

    Returns
    -------
    list of (n, 2) float64
        (column, row) of each corner; the last one is joined to the first.

    Examples
    --------
    >>> len(outline(np.array([[0, 1, 1, 0, 1]], bool)))
    2
    """
    outer: list[list[_Point]] = []
    holes: list[list[_Point]] = []
    for loop in _loops(plane):
        (outer if _area(loop) > 0 else holes).append(loop)
    owner = {point: loop for loop in outer for point in loop}
    # From left to right: what a slit meets was joined before.
    for hole in sorted(holes, key=min):
        _join(hole, owner, plane)
    return [_corners(np.array(loop)) for loop in outer]


def _loops(plane: np.ndarray) -> Iterator[list[_Point]]:
    """Yield the middles of the edges between inside and outside, going round with inside right."""
    edges = _edges(plane)
    left = dict.fromkeys(edges)
    while left:
        start = edge = next(iter(left))
        loop: list[_Point] = []
        while not loop or edge != start:
            del left[edge]
            x, y, dx, dy = edge
            loop.append((x + dx / 2 - 0.5, y + dy / 2 - 0.5))
            x, y = x + dx, y + dy
            # To the right first: pixels that meet at a corner alone are parts of their own.
            ways = ((x, y, -dy, dx), (x, y, dx, dy), (x, y, dy, -dx))
            edge = next(way for way in ways if way in edges)
        yield loop


def _edges(plane: np.ndarray) -> set[_Edge]:
    wide = np.pad(plane, 1)
    inside = wide[1:-1, 1:-1]
    edges: set[_Edge] = set()
    for outside, corner, way in (
        (~wide[:-2, 1:-1], (0, 0), (1, 0)),  # above
        (~wide[1:-1, 2:], (1, 0), (0, 1)),  # on the right
        (~wide[2:, 1:-1], (1, 1), (-1, 0)),
        (~wide[1:-1, :-2], (0, 1), (0, -1)),
    ):
        rows, columns = np.nonzero(inside & outside)
        xs, ys = (columns + corner[0]).tolist(), (rows + corner[1]).tolist()
        edges.update((x, y, *way) for x, y in zip(xs, ys, strict=True))
    return edges


def _area(loop: list[_Point]) -> float:
    """Return twice the area within, negative around a hole."""
    x, y = np.transpose(loop)
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def _join(hole: list[_Point], owner: dict[_Point, list[_Point]], plane: np.ndarray) -> None:
    """Cut a hole out of what lies around it, by a slit to its left."""
    first = min(hole)
    x, y = int(first[0] - 0.5), int(first[1])
    while x > 0 and plane[y, x - 1]:
        x -= 1
    end = (x - 0.5, first[1])
    around, at = owner[end], hole.index(first)
    where = around.index(end) + 1
    around[where:where] = [*hole[at:], *hole[:at], first, end]
    owner.update(dict.fromkeys(hole, around))


def _corners(loop: np.ndarray) -> np.ndarray:
    """Leave out points on a straight way; a turn on the spot is none."""
    before, after = loop - np.roll(loop, 1, axis=0), np.roll(loop, -1, axis=0) - loop
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    turns = (cross != 0) | ((before * after).sum(axis=1) < 0)
    return np.asarray(loop[turns])
