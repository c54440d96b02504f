"""Pieces of SVG: pictures with captions, line charts, bars.

Text and axes take the colour of the page around them (currentColor), so that a figure reads in
light and in dark mode.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from lungunet.evaluation.charts import Scale

BLUE, ORANGE, GREY = "#2f9fd8", "#f08000", "#8a8f98"  # the overlay's blue and orange, both modes
_FONT = 13


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = _FONT) -> str:
    """Return one line of text; x is its start, middle or end, y its baseline."""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="currentColor">{escape(words)}</text>'
    )


def picture(x: float, y: float, side: float, pixels: np.ndarray) -> str:
    """Return grey (H, W) or RGB (H, W, 3) uint8 pixels within a square, as PNG in the file."""
    order = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])
    done, png = cv2.imencode(".png", order, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    data = base64.b64encode(png.tobytes()).decode()
    return (
        f'<image x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" '
        f'style="image-rendering:auto" href="data:image/png;base64,{data}"/>'
    )


def captioned(x: float, y: float, side: float, pixels: np.ndarray, lines: Sequence[str]) -> str:
    """Return a picture with lines of text below it."""
    below = (
        text(x, y + side + 18 + 16 * number, line, size=12) for number, line in enumerate(lines)
    )
    return picture(x, y, side, pixels) + "".join(below)


def arrow(x: float, y: float, length: float) -> str:
    """Return an arrow to the right."""
    end = x + length
    return (
        f'<path d="M{x:g} {y:g}H{end:g}M{end - 7:g} {y - 5:g}L{end:g} {y:g}L{end - 7:g} {y + 5:g}" '
        'fill="none" stroke="currentColor" stroke-width="1.5"/>'
    )


def line_chart(
    box: tuple[float, float, float, float],
    lines: Mapping[str, tuple[str, Sequence[float], Sequence[float]]],
    *,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    titles: tuple[str, str, str],
    dashed: Sequence[str] = (),
) -> str:
    """Return curves with axes.

    Parameters
    ----------
    box : left, top, width and height of the plot itself
    lines : name -> colour, x values, y values; a name is written at the end of its line, and
        points below the plot are left out
    titles : of the chart, of the x axis, of the y axis
    dashed : names of the lines to draw so
    """
    left, top, width, height = box
    x = Scale(*x_range, start=left, end=left + width)
    y = Scale(*y_range, start=top + height, end=top)
    parts = [text(left, top - 26, titles[0], size=14), text(left, top - 8, titles[2], size=12)]
    for tick in y.ticks():
        parts.append(
            f'<path d="M{left:g} {tick.at:g}h{width:g}" stroke="{GREY}" stroke-opacity="0.35"/>'
            + text(left - 6, tick.at + 4, tick.label, anchor="end", size=12)
        )
    for tick in x.ticks():
        parts.append(text(tick.at, top + height + 18, tick.label, anchor="middle", size=12))
    parts.append(text(left + width / 2, top + height + 36, titles[1], anchor="middle", size=12))
    places = _apart({name: y(ys[-1]) for name, (_, _, ys) in lines.items()})
    for name, (colour, xs, ys) in lines.items():
        inside = [(a, b) for a, b in zip(xs, ys, strict=True) if b >= y_range[0]]
        points = " ".join(f"{x(a)},{y(b)}" for a, b in inside)
        dash = ' stroke-dasharray="6 4"' if name in dashed else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        parts.append(text(x(xs[-1]) + 6, places[name] + 4, name, size=12))
    return "".join(parts)


def _apart(places: Mapping[str, float], least: float = 15) -> dict[str, float]:
    """Move names down until each has room below the one above it."""
    apart: dict[str, float] = {}
    for name in sorted(places, key=lambda name: places[name]):
        above = max(apart.values(), default=-least)
        apart[name] = max(places[name], above + least)
    return apart


def bars(
    x: float, y: float, width: float, values: Mapping[str, float], *, colour: str, title: str
) -> str:
    """Return horizontal bars from 0 to 1, each with its name above and its value at its end."""
    parts = [text(x, y, title, size=14)]
    for number, (name, value) in enumerate(values.items()):
        top = y + 16 + 44 * number
        parts.append(text(x, top + 12, name, size=12))
        parts.append(
            f'<rect x="{x:g}" y="{top + 17:g}" width="{max(width * value, 1):.1f}" height="14" '
            f'fill="{colour}"/>' + text(x + width * value + 6, top + 29, f"{value:.3f}", size=12)
        )
    return "".join(parts)


def save(path: Path, width: int, height: int, about: str, *parts: str) -> None:
    """Write a figure; ``about`` says in words what it shows."""
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(about)}" font-family="sans-serif">{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )
