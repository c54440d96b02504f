"""Where the voxels of a volume file lie, and the way from its axes to (z, y, x) and back.

The one place that turns and flips volumes. Pure geometry: knows no file format.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np

from lungunet.errors import GeometryError

_SKEW = 1e-3  # cosine between axes that are meant to be at right angles; files round to 6 digits

_AIR_HU = -1024
_MOST_TILT = 45  # degrees; no gantry tilts by more than 30
_SQUARE = 1.3  # so many times as long as wide; there networks lose 0.003 IoU, and more beyond


@dataclass(frozen=True)
class Grid:
    """A box of voxels in the patient, as a file states it.

    World axes are those of DICOM: to the patient's left, to the back, to the head (LPS). File axes
    come as in files, the fastest first, which is the reverse of the axes of an array.

    Parameters
    ----------
    size : voxels along each file axis
    spacing : mm along each file axis
    origin : mm, LPS; centre of the first voxel
    direction : 3x3 by rows; column i is the direction of file axis i, of length 1
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def axial(cls, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> "Grid":
        """Return the grid of an array (D, H, W) that is (z, y, x) as it is."""
        return cls(shape[::-1], spacing_mm[::-1], (0.0, 0.0, 0.0))

    @classmethod
    def stepping(
        cls, size: tuple[int, ...], steps_mm: np.ndarray, origin: Iterable[float]
    ) -> "Grid":
        """Return the grid whose voxels lie a column of ``steps_mm`` (3, 3; LPS) apart."""
        with np.errstate(over="ignore", invalid="ignore"):  # no numbers are no grid: see check
            spacing = np.linalg.norm(steps_mm, axis=0)
            direction = np.divide(steps_mm, spacing, where=spacing > 0, out=np.zeros((3, 3)))
        return cls(
            size,
            tuple(spacing.tolist()),
            tuple(float(mm) for mm in origin),
            tuple(direction.ravel().tolist()),
        )

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) float64: column i is the direction of file axis i."""
        return np.reshape(np.asarray(self.direction, np.float64), (3, 3))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) of the turned array."""
        z, y, x = self.turned.spacing[::-1]
        return z, y, x

    @cached_property
    def turned(self) -> "Grid":
        """The grid of the turned array: the same voxels, counted along its axes."""
        steps, origin = [], np.asarray(self.origin, np.float64)
        for axis, flipped in reversed(self._turn):
            along = 2 - axis
            step = self.matrix[:, along]
            if flipped:
                origin = origin + step * self.spacing[along] * (self.size[along] - 1)
            steps.append((self.size[along], float(self.spacing[along]), -step if flipped else step))
        size, spacing, directions = zip(*steps, strict=True)
        cosines = np.column_stack(directions).ravel()
        return Grid(size, spacing, tuple(origin.tolist()), tuple(cosines.tolist()))

    @cached_property
    def _turn(self) -> tuple[tuple[int, bool], ...]:
        """For z, y and x: which axis of the file's array it is nearest to, and whether it flips."""
        cosines = self.matrix
        nearest = max(
            permutations(range(3)),
            key=lambda axes: sum(abs(cosines[2 - i, axis]) for i, axis in enumerate(axes)),
        )
        return tuple((2 - axis, bool(cosines[2 - i, axis] < 0)) for i, axis in enumerate(nearest))

    def to_axial(self, array: np.ndarray) -> np.ndarray:
        """Turn the array to (z, y, x): feet to head, front to back, right to left.

        An oblique volume gets the nearest turn by right angles; nothing is resampled. Takes it in
        the order of the file, its slowest axis first; what comes is contiguous.
        """
        turned = array.transpose([axis for axis, _ in self._turn])
        return np.ascontiguousarray(turned[self._flips])

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Undo :meth:`to_axial`."""
        back = np.argsort([axis for axis, _ in self._turn])
        return np.ascontiguousarray(array[self._flips].transpose(back))

    @property
    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flipped else 1) for _, flipped in self._turn)

    def corners(self) -> np.ndarray:
        """(8, 3) float64, mm, LPS: centres of the corner voxels."""
        ends = np.array(np.meshgrid(*((0, n - 1) for n in self.size), indexing="ij")).reshape(3, 8)
        steps = self.matrix * np.asarray(self.spacing)
        return np.asarray((steps @ ends).T + self.origin)

    def matches(self, other: "Grid", *, within: float = 0.01) -> bool:
        """Whether each voxel lies where the other grid has it.

        Files round: ``within`` is the share of the smallest spacing by which they may.
        """
        if self.size != other.size:
            return False
        apart = np.abs(self.corners() - other.corners()).max()
        return bool(apart <= within * min(self.spacing))

    def check(self, where: str) -> None:
        """Refuse a grid on which shapes and distances would be wrong."""
        numbers = np.array([*self.spacing, *self.origin, *self.direction], np.float64)
        if not np.isfinite(numbers).all() or min(self.spacing) <= 0:
            spacing = " x ".join(f"{mm:g}" for mm in self.spacing)
            raise GeometryError(
                f"spacing {spacing} mm is no grid of voxels. Export it again.", where=where
            )
        if not self.tilt_degrees <= _MOST_TILT:
            raise GeometryError("its axes do not span a volume. Export it again.", where=where)
        if self.tilted:
            raise GeometryError(
                f"its axes are {self.tilt_degrees:.1f} degrees off right angles (gantry tilt). "
                "Have the scan resampled with resample=True ('lungunet ... --resample').",
                where=where,
            )

    @property
    def tilt_degrees(self) -> float:
        """By how much its axes are off right angles, the worst of them."""
        return float(np.degrees(np.arcsin(min(self._skew.max(), 1))))

    @property
    def tilted(self) -> bool:
        """Whether it is sheared, by more than files round."""
        return bool(self._skew.max() > _SKEW)

    @property
    def _skew(self) -> np.ndarray:
        """(3, 3): cosines between its axes, that should be 0."""
        return np.asarray(np.abs(self.matrix.T @ self.matrix - np.eye(3)))


def are_nearly_square(spacing_mm: tuple[float, float]) -> bool:
    """Whether pixels of these sides are so nearly square that networks do as well."""
    return max(spacing_mm) <= _SQUARE * min(spacing_mm)


def straighten(array: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
    """Put a sheared volume on a grid with right angles: slices move within their planes, linearly.

    Parameters
    ----------
    array : (k, j, i) int16 or float32, HU, in the order of the file
    grid : with two axes at right angles, that slices lie along, as a gantry tilt leaves them

    Returns
    -------
    (k, j, i) of the dtype of ``array``, and its grid
        Wider by the shear, with air where nothing was scanned.

    Raises
    ------
    GeometryError
        When no two axes are at right angles.
    """
    # Slices are the two fastest axes of a file, mostly.
    through = next((axis for axis in (2, 1, 0) if _is_square(grid, axis)), None)
    if through is None:
        raise GeometryError("no two of its axes are at right angles. Export it again.")
    within = [axis for axis in range(3) if axis != through]
    axes, spacing = grid.matrix, np.asarray(grid.spacing)
    step = axes[:, through] * spacing[through]
    normal = np.cross(*axes[:, within].T)
    normal *= np.sign(normal @ step) / np.linalg.norm(normal)
    across_px = (axes[:, within].T @ step) / spacing[within]  # from one slice to the next
    shifts = np.arange(grid.size[through])[:, None] * across_px
    least = shifts.min(axis=0)
    planes = np.moveaxis(array, 2 - through, 0)
    extra = np.ceil(shifts.max(axis=0) - least - 1e-3).astype(int)
    shape = (planes.shape[1] + extra[1], planes.shape[2] + extra[0])
    wide = np.empty((len(planes), *shape), array.dtype)
    for plane, target, by_px in zip(planes, wide, shifts - least, strict=True):
        shifted = moved(plane, shape, by_px[::-1])
        target[:] = shifted if array.dtype.kind == "f" else np.rint(shifted)
    size = np.array(grid.size)
    size[within] += extra
    spacing[through] = normal @ step
    axes[:, through] = normal
    origin = grid.origin + axes[:, within] @ (least * spacing[within])
    straight = Grid(
        tuple(size.tolist()),
        tuple(spacing.tolist()),
        tuple(origin.tolist()),
        tuple(axes.ravel().tolist()),
    )
    return np.moveaxis(wide, 0, 2 - through), straight


def _is_square(grid: Grid, through: int) -> bool:
    """Whether the two other axes are at right angles."""
    first, second = (axis for axis in range(3) if axis != through)
    rest = grid._skew.copy()
    rest[first, second] = rest[second, first] = 0
    return bool(grid._skew[first, second] <= _SKEW and rest.max() == grid._skew.max())


def moved(plane: np.ndarray, shape: tuple[int, ...], by_px: np.ndarray) -> np.ndarray:
    """Return a plane on a larger one, moved by rows and columns, linearly; air around it."""
    canvas = np.full(shape, _AIR_HU, np.float32)
    whole = np.floor(by_px + 1e-3).astype(int)
    rest = np.clip(by_px - whole, 0, 1)
    canvas[whole[0] : whole[0] + plane.shape[0], whole[1] : whole[1] + plane.shape[1]] = plane
    for axis, part in enumerate(rest.astype(np.float32)):
        if part > 1e-3:
            before = np.roll(canvas, 1, axis=axis)  # the last line is air
            canvas = canvas * (1 - part) + before * part
    return canvas
