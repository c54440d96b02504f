"""Where the marks of a chart lie: scales, ticks and points for inline SVG.

Owns geometry, in units of a 360 x 240 drawing; colours, strokes and words are the template's. Not
matplotlib: here text stays text, colours follow dark mode, and one dependency is saved.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEFT, RIGHT, TOP, BOTTOM = 42, 350, 10, 200  # of the plot in it; labels left and below
_MOST_DOTS = 300  # of a series; more would lie on top of each other


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in SVG units."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """Maps values to SVG units along one axis.

    Parameters
    ----------
    low, high : values at the ends; low < high, and above 0 where ``log``
    start, end : where the ends lie

    Examples
    --------
    >>> Scale(0, 10, start=200, end=100)(2.5)
    175.0
    >>> Scale(0.01, 1, start=0, end=100, log=True)(0.1)
    50.0
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value, rounded to what a screen can show."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        share = (value - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, *, whole: bool = False) -> list[Tick]:
        """Return about five round values within the scale; ``whole`` numbers only, if so."""
        if self.log and len(values := _decades(self.low, self.high)) > 1:
            return [Tick(self(value), f"{value:g}") for value in values]
        step = _round_step((self.high - self.low) / 5, least=1 if whole else 0)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [Tick(self(i * step), f"{i * step:.{digits}f}") for i in range(first, last + 1)]


def _round_step(least_step: float, least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, ... times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(least_step))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= least_step * (1 - 1e-9))
    return max(step, least)


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if high / low > 1e3 else (1, 2, 5) if high / low < 30 else (1, 3)
    values = [float(f"{step}e{power}") for power in powers for step in steps]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


@dataclass(frozen=True)
class CurveChart:
    """A metric over epochs.

    Parameters
    ----------
    lines : by list, the ``points`` of each polyline; a line breaks where a value is missing
    lone : by list, (x, y) of the values that have no neighbour to draw a line to
    best : (x, y) of the best epoch, if it is on the chart
    outside : epochs with a value beyond the plot, which is to clip the lines: drawn whole, the
        first steep epochs would press the rest flat
    """

    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: Mapping[str, list[str]]
    lone: Mapping[str, list[tuple[float, float]]]
    best: tuple[float, float] | None
    outside: list[int]


def curve_chart(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    *,
    best: tuple[int, float] | None = None,
    log: bool = False,
) -> CurveChart | None:
    """Lay out curves over epochs, by list as (epoch, value); None where no value can be drawn.

    ``best`` is the point to mark. ``log`` is for losses, which fall by powers of ten; values of 0
    and below are then left out.
    """
    known = {
        name: [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)]
        for name, points in curves.items()
    }
    every = [point for points in known.values() for point in points]
    if not every:
        return None
    epochs = [epoch for epoch, _ in every]
    x = Scale(min(epochs) - 0.5, max(epochs) + 0.5, start=LEFT, end=RIGHT)
    low, high = _limits(every, log)
    y = Scale(low, high, start=BOTTOM, end=TOP, log=log)
    runs = {name: _runs(points, x, y) for name, points in known.items()}
    return CurveChart(
        x_ticks=x.ticks(whole=True),
        y_ticks=y.ticks(),
        lines={
            name: [" ".join(f"{px},{py}" for px, py in run) for run in parts if len(run) > 1]
            for name, parts in runs.items()
        },
        lone={name: [run[0] for run in parts if len(run) == 1] for name, parts in runs.items()},
        best=(x(best[0]), y(best[1])) if best and low <= best[1] <= high else None,
        outside=sorted({epoch for epoch, value in every if not low <= value <= high}),
    )


def _limits(points: Sequence[tuple[int, float]], log: bool) -> tuple[float, float]:
    """Return the range to draw: of all epochs, or of those after the first steep ones."""
    everything = [value for _, value in points]
    last = max(epoch for epoch, _ in points)
    late = [value for epoch, value in points if epoch > last / 10]
    if log:
        return min(everything) / 1.1, max(everything) * 1.1
    if max(late) - min(late) < (max(everything) - min(everything)) / 3:
        everything = late
    pad = (max(everything) - min(everything)) * 0.06 or 0.01
    return min(everything) - pad, max(everything) + pad


def _runs(
    points: Sequence[tuple[int, float]], x: Scale, y: Scale
) -> list[list[tuple[float, float]]]:
    """Return the places of the points, a list for each run of epochs without a gap."""
    runs: list[list[tuple[float, float]]] = []
    before = None
    for epoch, value in points:
        if before is None or epoch != before + 1:
            runs.append([])
        runs[-1].append((x(epoch), y(value)))
        before = epoch
    return runs


@dataclass(frozen=True)
class Dot:
    """A case on a chart."""

    x: float
    y: float
    name: str
    value: float


@dataclass(frozen=True)
class DotChart:
    """Values of cases from worst to best, each series sorted on its own."""

    x_ticks: list[Tick]
    y_ticks: list[Tick]
    dots: Mapping[str, list[Dot]]


def dot_chart(series: Mapping[str, Sequence[tuple[str, float]]]) -> DotChart | None:
    """Lay out values sorted, by what was scored as (name of the case, value); None without any.

    NaN is left out. Of many cases, 300 evenly spread ones are drawn, the first and the last among
    them.
    """
    ranked = {
        name: sorted((pair for pair in pairs if math.isfinite(pair[1])), key=lambda pair: pair[1])
        for name, pairs in series.items()
    }
    values = [value for pairs in ranked.values() for _, value in pairs]
    if not values:
        return None
    x = Scale(0, 100, start=LEFT, end=RIGHT)
    pad = (max(values) - min(values)) * 0.05 or 0.01
    y = Scale(min(values) - pad, max(values) + pad, start=BOTTOM, end=TOP)
    return DotChart(
        x_ticks=[Tick(x(share), f"{share} %") for share in (0, 25, 50, 75, 100)],
        y_ticks=y.ticks(),
        dots={
            name: [
                Dot(x(100 * (rank + 0.5) / len(pairs)), y(pairs[rank][1]), *pairs[rank])
                for rank in _spread(len(pairs))
            ]
            for name, pairs in ranked.items()
        },
    )


def _spread(count: int) -> list[int]:
    shown = min(count, _MOST_DOTS)
    return [round(i * (count - 1) / max(shown - 1, 1)) for i in range(shown)]
