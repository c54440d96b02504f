"""Can a predicted mask be trusted? Judged without the truth: a light, a score for order, reasons.

Slices are judged by themselves; scans slice by slice, among their neighbours, and all at once.
Owns what is measured, and what it weighs. Knows no model and no file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np

from lungunet.data.hu import NO_WINDOW, guess_hu, judge_hu, refuse_no_numbers
from lungunet.data.kinds import check_spacing
from lungunet.errors import DataError, counted
from lungunet.inference.doubt import LabelView, doubt_label, load_opinion
from lungunet.inference.predictor import Predictor
from lungunet.inference.prefetch import map_side_by_side
from lungunet.inference.reasons import name_slices, put_in_words
from lungunet.inference.refine import refine_volume
from lungunet.inference.shapes import as_bits, label_parts
from lungunet.inference.usual import MOST, TOLD_ONLY, USUAL

Light = Literal["red", "amber", "green"]
"""red: look at it; amber: something is unusual; green: all is usual."""

_BATCH = 8
_OPINIONS = ("threshold", "lungs")  # who is asked
# What shares are of, and as a share of the slice the least of it, or the tips of lungs rank first.
_SMALLEST = 0.05
_WHOLES = {
    "disputed": ("agreed or mask", 0.01),  # where two others agree, less is worth a look
    "rule_difference": ("threshold or mask", _SMALLEST),
    "builtin_difference": ("lungs or mask", _SMALLEST),
}
_RED = 3.0  # times the usual limit, by one measure alone
_FAULTY = 0.5  # the worry where values are no HU of a chest
_LEAST_AMBER = 1 - 0.5 ** (1 / _RED**2)
_HU_FROM = 0.01  # of the slice: smaller lungs are mostly blurred edge
_EVERY = 2  # every other pixel of every other row tells how sure the model is
_NAMED = 3  # red slices of a scan, the most worrying
# Thicker slices taper by more, up to twice as much; and a dip is seen from so far on both sides.
_TAPER_MM, _DIP_MM = 4.0, 100.0
_WHOLE, _WHOLE_MM = 10, 30.0  # slices, and what they span, that should hold more than gas

# A chest: of 30 mm of some height more than this is lung, of ill ones too. Gas and the bases that a
# scan of the belly meets fill less.
_CHEST_MM, _CHEST_SHARE = 30.0, 0.08
_SHORT_MM = 40.0  # less is not a whole chest, for the lungs of the newborn are taller
# A chest is cut by the scan's ends. What begins and ends within it is seen from the front, or from
# a side; or all of a patient, who is taller.
_BEGINS, _TALL_MM = 0.2, 900.0
_TOLD = ("parts", "lung_share", "chest_share")  # without judgement
TRIAGE_COLUMNS = ("name", "light", "worry", "reasons", *USUAL, *_TOLD)
"""Of ``triage.csv``, in order."""
_SAID_ELSEWHERE = ("outside", "border", "none")  # kinds of doubt that have a measure of their own


@dataclass(frozen=True)
class Plausibility:
    """How far a mask can be trusted, as far as that shows without the truth.

    Parameters
    ----------
    worry : in [0, 1], for order; 0.5 is three times the usual limit in one measure, or less in
        several
    reasons : in words, gravest first, each with its value and what is usual
    values : every measure; None where it is undefined or was not taken
    slices : of a volume, in its order; empty for a slice
    chest : whether a volume shows one; None for a slice
    """

    worry: float
    reasons: tuple[str, ...]
    values: Mapping[str, float | None]
    slices: "tuple[Plausibility, ...]" = ()
    chest: bool | None = None

    @property
    def light(self) -> Light:
        """Red from a worry of 0.5, amber where there is a reason, else green."""
        if self.worry >= _FAULTY:
            return "red"
        return "amber" if self.reasons else "green"

    @property
    def worst_slices(self) -> tuple[int, ...]:
        """The red slices of a volume that its reasons name: three at most, the gravest first."""
        return tuple(_find_red(self.slices)[:_NAMED])


def check_slice(
    image: np.ndarray,
    classes: np.ndarray,
    *,
    probabilities: np.ndarray | None = None,
    disagreement: float | None = None,
    spread: np.ndarray | None = None,
    second_opinion: bool = True,
    by: str = "",
    in_hu: bool = True,
) -> Plausibility:
    """Judge a predicted mask by its slice, without the truth.

    Parameters
    ----------
    image : (H, W) of a slice dtype
    classes : (H, W) integer; above 0 is lung
    probabilities : (C, H, W) float that ``classes`` are the likeliest of; None leaves them out
    disagreement : in [0, 1]; 1 - IoU of the lung found in the slice and in its mirror, as ``tta``
        tells it; None leaves it out
    spread : (H, W) float in [0, 1], how far the models of an ensemble are from each other; see
        :class:`Segmented`; None leaves it out
    second_opinion : ask the threshold rule, :func:`segment_lungs`, and the built-in model where
        onnxruntime or torch is there
    by : word of who made the mask, threshold or lungs, who is not asked about its own
    in_hu : who made the mask takes the slice for HU: what cannot be is red, whatever the mask.
        False for a model that knows other values, which only explain a worry

    Returns
    -------
    Plausibility
        An empty mask is green where nothing looks like lung. Lung as dense as tissue that is
        missing is noticed where the built-in model sees it. Others see 8-bit grey as HU by the
        window that its tissue, lung and air tell; where none can be told, nobody is asked, and the
        mask is amber at best.

    Raises
    ------
    DataError
        When the shapes do not fit, the slice holds NaN or infinity, or the disagreement is not in
        [0, 1].

    Examples
    --------
    >>> hu = np.full((64, 96), -1000, np.int16)  # air, a body, two lungs
    >>> hu[8:56, 8:88] = 40
    >>> hu[16:48, 16:40] = hu[16:48, 56:80] = -850
    >>> check_slice(hu, hu == -850).light, check_slice(hu, hu == -1000).light
    ('green', 'red')
    """
    _refuse_other_slices(image, classes, probabilities, spread)
    if disagreement is not None:
        _refuse_no_share("disagreement", disagreement)
    view = LabelView(image, classes > 0, by=by)
    asked = _others(by) if second_opinion and view.has_hu else ()
    counts = _count_slice(view, classes, disagreement=disagreement, asked=asked)
    if image.dtype != np.uint8:
        counts |= _count_hu(image, classes)
    if probabilities is not None:
        counts["wrong"] = _expected_wrong(classes, probabilities) / view.scale**2
    if spread is not None:
        counts["between"] = float(spread.sum(dtype=np.float64)) / view.scale**2
    judged = _judge_slice(image, view, _measure(counts), _put_in_words(counts, asked), in_hu=in_hu)
    if not second_opinion or view.has_hu or not (view.lung.any() or view.left_out.any()):
        return judged
    worry = max(judged.worry, _LEAST_AMBER)
    return replace(judged, worry=worry, reasons=(*judged.reasons, NO_WINDOW))


def check_volume(
    hu: np.ndarray,
    classes: np.ndarray,
    *,
    spacing_mm: tuple[float, float, float],
    disagreement: Sequence[float] | np.ndarray | None = None,
    spread_px: Sequence[float] | np.ndarray | None = None,
    second_opinion: bool = True,
    by: str = "",
) -> Plausibility:
    """Judge a predicted mask by its scan, without the truth.

    Parameters
    ----------
    hu : (D, H, W) int16, int32 or float32, HU
    classes : (D, H, W) integer; above 0 is lung
    spacing_mm : (z, y, x)
    disagreement : (D,) in [0, 1], of each slice; see :func:`check_slice`
    spread_px : (D,), the sum over each slice of what :func:`check_slice` takes as ``spread``
    second_opinion : ask the threshold rule, :func:`segment_lungs`, and the built-in model about
        the whole scan
    by : word of who made the mask, threshold or lungs, who is not asked about its own

    Returns
    -------
    Plausibility
        Of the scan: counts are summed over its slices, and parts are connected through them.
        ``slices`` holds what is said of each; there ``area_jump`` is how far the area is from those
        around, as a share of the largest area: lungs taper, and do not dip. Reasons name the three
        most worrying red slices, counted from 0. ``lung_ml`` is judged from 10 slices over 30 mm
        on, and None in shorter scans: few slices hold little lung. ``chest_share`` is the most of
        the body that is lung over 30 mm, by the mask or by all who are asked: below 8 % there is no
        chest, nor in a single slice, nor where the body begins and ends within the scan, as in
        coronal pictures. Such a scan is red.

    Raises
    ------
    DataError
        When the shapes do not fit, the scan holds NaN or infinity, the spacing is not finite and
        above 0, or a disagreement is not in [0, 1].
    """
    _refuse_other_scans(hu, classes, spacing_mm, disagreement)
    _refuse_another_number("spread_px", spread_px, hu)
    asked = _others(by) if second_opinion else ()
    opinions = _ask(asked, hu, spacing_mm)
    areas = np.count_nonzero(classes, axis=(1, 2))
    jumps = _area_jumps(areas, least=_SMALLEST * hu[0].size, slice_mm=spacing_mm[0])
    small = LabelView(hu[0], np.zeros(hu.shape[1:], bool))
    lungs = np.stack(map_side_by_side(lambda mask: small.shrink(mask > 0), classes))
    labels, sizes = label_parts(lungs.view(np.uint8))
    scattered = _beyond_largest(labels, sizes)

    def look(index: int) -> tuple[dict[str, float], Plausibility]:
        plane, mask = hu[index], classes[index]
        said = {word: lung[index] for word, lung in opinions.items()}
        view = LabelView(plane, mask > 0, opinions=said, by=by)
        count = _count_slice(
            view,
            mask,
            disagreement=None if disagreement is None else float(disagreement[index]),
            asked=asked,
        )
        count |= _count_hu(plane, mask)
        count |= _count_chest(view)
        # Lung ends in tips, which are parts of their own in a slice, and none of the scan.
        count["scattered"] = min(count["scattered"], scattered[index])
        if spread_px is not None:
            count["between"] = float(spread_px[index]) / view.scale**2
        count["area_jump"] = jumps[index]
        values = _measure(count) | {"area_jump": abs(jumps[index])}
        judged = _judge_slice(plane, view, values, _put_in_words(count, asked))
        count["scattered"] = scattered[index]
        return count, judged

    counts, slices = zip(*map_side_by_side(look, range(len(hu))), strict=True)
    lung_ml = _whole_ml(areas, spacing_mm)
    judged = _sum_up(counts, slices, parts=float(len(sizes)), lung_ml=lung_ml, asked=asked)
    why, share = _look_for_chest(counts, slice_mm=spacing_mm[0])
    return replace(
        judged,
        worry=max(judged.worry, _FAULTY) if why else judged.worry,
        reasons=(why, *judged.reasons) if why else judged.reasons,
        values={**judged.values, "chest_share": share},
        chest=not why,
    )


def tell_no_chest(
    hu: np.ndarray,
    classes: np.ndarray,
    *,
    spacing_mm: tuple[float, float, float],
    by: str = "",
) -> str:
    """Say why a scan shows no whole chest, as :func:`check_volume` does; '' where it shows one.

    Where the mask alone does not show it, others are asked: it may hold one lobe.
    """
    counts = map_side_by_side(
        lambda plane, mask: _count_chest(LabelView(plane, mask > 0)), hu, classes
    )
    why, share = _look_for_chest(counts, slice_mm=spacing_mm[0])
    if not why or share >= _CHEST_SHARE or len(hu) == 1:
        return why
    judged = check_volume(hu, classes, spacing_mm=spacing_mm, by=by)
    return "" if judged.chest else judged.reasons[0]


def triage_row(name: str, trust: Plausibility) -> dict[str, Any]:
    """Return what a table of a triage says of one mask."""
    said = {"light": trust.light, "worry": trust.worry, "reasons": trust.reasons}
    return {"name": name, **said, **trust.values}


def _count_slice(
    view: LabelView,
    classes: np.ndarray,
    *,
    disagreement: float | None = None,
    asked: Sequence[str] = (),
) -> dict[str, float]:
    """Count what the measures are made of, in pixels of the view; counts of slices add up."""
    lung, body, count = view.lung, ~view.outside, np.count_nonzero  # much faster than sum
    sizes = np.sort(label_parts(as_bits(classes))[1])
    columns = np.flatnonzero(body.any(axis=0))
    middle = int(columns[0] + columns[-1] + 1) // 2 if columns.size else lung.shape[1] // 2
    margin = np.concatenate([lung[0], lung[-1], lung[1:-1, 0], lung[1:-1, -1]])
    counts = {
        "whole": lung.size,
        "body": count(body),
        "outside": count(lung & view.outside),
        "parts": len(sizes),
        "scattered": sizes[:-2].sum() / view.scale**2,
        "margin": margin.size,
        "at_border": count(margin),
    }
    regions = {"lung": lung, "left_out": view.left_out, "bare": lung & view.bare_air}
    if disagreement is not None:
        counts["mirrored"] = disagreement * count(lung)
    # A mask may leave bare air out, whoever else calls it lung.
    others = {word: view.opinion(word) & (lung | ~view.bare_air) for word in asked}
    for word, other in others.items():
        regions |= {f"{word} more": other & ~lung, f"{word} less": lung & ~other}
        counts[f"{word} or mask"] = count(lung | other)
    if others:
        # Who errs, errs in a way of his own: what none of the others says is in dispute.
        all_say = np.logical_and.reduce(list(others.values()))
        any_says = np.logical_or.reduce(list(others.values()))
        regions |= {"missing": all_say & ~lung, "extra": lung & ~any_says}
        counts["agreed or mask"] = count(lung | all_say)
    for name, region in regions.items():
        counts |= {name: count(region), f"{name} left": count(region[:, :middle])}
    return {name: float(counted) for name, counted in counts.items()}


def _count_hu(image: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Count at the size of the slice, as :func:`measure_slice` does: edges blur in the view."""
    values = guess_hu(image)[classes > 0]
    return {"hu": float(values.sum(dtype=np.float64)), "hu px": float(values.size)}


def _count_chest(view: LabelView) -> dict[str, float]:
    """Count what tells a chest from the rest of the body."""
    regions = {"lung": view.lung, "body": ~view.outside, "tissue": ~view.airy}
    return {name: float(np.count_nonzero(region)) for name, region in regions.items()}


def _measure(counts: Mapping[str, float]) -> dict[str, float | None]:
    """Turn counts of a slice, or their sums over a volume, into measures."""
    whole, lung = counts["whole"], counts["lung"]
    body = max(counts["body"], _SMALLEST * whole)

    def share(name: str, *parts: str) -> float | None:
        if parts[0] not in counts:
            return None
        return sum(counts[part] for part in parts) / max(_whole_of(name, counts))

    return {
        "disputed": share("disputed", "missing", "extra"),
        "rule_difference": share("rule_difference", "threshold more", "threshold less"),
        "builtin_difference": share("builtin_difference", "lungs more", "lungs less"),
        "mirror_difference": share("mirror_difference", "mirrored"),
        "members_difference": share("members_difference", "between"),
        "expected_error": share("expected_error", "wrong"),
        "outside_body": share("outside_body", "outside"),
        "left_out": counts["left_out"] / body,
        "bare_air": share("bare_air", "bare"),
        "scattered": share("scattered", "scattered"),
        "at_border": counts["at_border"] / counts["margin"],
        "side_gap": abs(2 * counts["lung left"] - lung) / body,
        "mean_hu": counts["hu"] / counts["hu px"]
        if "hu" in counts and lung > _HU_FROM * whole
        else None,
        "parts": counts["parts"],
        "lung_share": lung / whole,
    }


def _whole_of(name: str, counts: Mapping[str, float]) -> tuple[float, float]:
    """Return the pixels that a share is of, and the least that it is taken of."""
    of, least = _WHOLES.get(name, ("lung", _SMALLEST))
    if name == "disputed" and not {"threshold or mask", "lungs or mask"} <= counts.keys():
        least = _SMALLEST  # one alone, who may be wrong about a tip
    return counts.get(of, math.nan), least * counts["whole"]


def _put_in_words(
    counts: Mapping[str, float],
    asked: Sequence[str],
    *,
    slices: Sequence[Mapping[str, float]] = (),
) -> dict[str, str]:
    """Return what to say of each measure of a slice, or of the sums over a volume."""
    words = {name: usual.words for name, usual in USUAL.items()}
    words |= put_in_words(counts, asked, slices=slices)
    for name, said in words.items():
        whole, least = _whole_of(name, counts)
        if whole < least:
            size = f"{least / counts['whole']:.0%} of the picture"
            small = f"of a small lung ({size}, and this one is smaller)"
            words[name] = said.replace("of the lung", small)
    return words


def _judge_slice(
    image: np.ndarray,
    view: LabelView,
    values: Mapping[str, float | None],
    words: Mapping[str, str],
    *,
    in_hu: bool = True,
) -> Plausibility:
    """Weigh the measures of a slice, and say what the rule and the slice itself add."""
    judged = judge(values, words)
    reasons = judged.reasons
    if reasons and values["rule_difference"] is not None:
        doubt = doubt_label(view)
        reasons += doubt.reasons[:1] if doubt.kind not in _SAID_ELSEWHERE else ()
    fault = judge_hu(image)
    if fault is None or fault.severity == "note":
        return Plausibility(judged.worry, reasons, values)
    if in_hu or fault.kind == "hu-range":
        return Plausibility(max(judged.worry, _FAULTY), (fault.text, *reasons), values)
    # An offset may be what the model was trained on: it explains, but is no reason.
    return Plausibility(judged.worry, (*reasons, fault.text) if reasons else (), values)


def judge(
    values: Mapping[str, float | None], words: Mapping[str, str] | None = None
) -> Plausibility:
    """Weigh measures against what is usual; words take the place of the usual ones."""
    strains = {
        name: usual.strain(value)
        for name, usual in USUAL.items()
        if (value := values.get(name)) is not None
    }
    gravest = sorted(strains, key=lambda name: -strains[name])
    weight = sum((min(strain, MOST) / _RED) ** 2 for strain in strains.values())
    worry = 1 - 0.5**weight
    if worry < _FAULTY and not any(strain > 1 for strain in strains.values()):
        worry *= _LEAST_AMBER / _FAULTY  # several measures within limits worry less than one beyond
    said = {
        name: USUAL[name].describe(
            float(values[name] or 0), (words or {}).get(name, USUAL[name].words)
        )
        for name in gravest
    }
    unusual = [name for name in gravest if strains[name] > 1]
    if "disputed" in unusual:  # it says what each of the others sees
        unusual = [name for name in unusual if USUAL[name].most != TOLD_ONLY]
    reasons = tuple(said[name] for name in unusual)
    if worry >= _FAULTY and not reasons:
        first = said[gravest[0]]
        reasons = (f"many measures are close to their limits, most of all: {first}",)
    return Plausibility(worry, reasons, values)


def _refuse_other_slices(
    image: np.ndarray,
    classes: np.ndarray,
    probabilities: np.ndarray | None,
    spread: np.ndarray | None,
) -> None:
    if image.ndim != 2 or not image.size or classes.shape != image.shape:
        raise DataError(
            f"shape {classes.shape}, slice: shape {image.shape}. Pass both as (H, W).", where="mask"
        )
    refuse_no_numbers(image, "slice")
    if probabilities is not None and probabilities.shape[1:] != image.shape:
        raise DataError(
            f"probabilities: shape {probabilities.shape}, slice: shape {image.shape}. "
            "Pass (C, H, W)."
        )
    if spread is not None and spread.shape != image.shape:
        raise DataError(
            f"spread: shape {spread.shape}, slice: shape {image.shape}. Pass both as (H, W)."
        )


def _refuse_no_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise DataError("is no share. Pass 0 to 1, or None.", where=f"{name} {value:g}")


def _expected_wrong(classes: np.ndarray, probabilities: np.ndarray) -> float:
    """Return how many pixels are on the wrong side of lung if the probabilities are right."""
    lung = classes[::_EVERY, ::_EVERY] > 0
    other = probabilities[0, ::_EVERY, ::_EVERY]
    return float(np.where(lung, other, 1 - other).sum(dtype=np.float64)) * _EVERY**2


def _refuse_other_scans(
    hu: np.ndarray,
    classes: np.ndarray,
    spacing_mm: tuple[float, float, float],
    disagreement: Sequence[float] | np.ndarray | None,
) -> None:
    if hu.ndim != 3 or not hu.size or classes.shape != hu.shape:
        raise DataError(
            f"shape {classes.shape}, scan: shape {hu.shape}. Pass both as (D, H, W).", where="mask"
        )
    refuse_no_numbers(hu, "HU")
    check_spacing(spacing_mm, 3)
    _refuse_another_number("disagreement", disagreement, hu)
    for share in () if disagreement is None else disagreement:
        _refuse_no_share("disagreement", share)


def _refuse_another_number(
    name: str, values: Sequence[float] | np.ndarray | None, hu: np.ndarray
) -> None:
    if values is not None and len(values) != len(hu):
        raise DataError(
            f"{name}: {counted(len(values), 'value')} for {counted(len(hu), 'slice')}. "
            "Pass one for each."
        )


def _others(by: str) -> tuple[str, ...]:
    """Return who can be asked: with neither onnxruntime nor torch the rule alone."""
    return tuple(w for w in _OPINIONS if w != by and (w != "lungs" or _lungs_start()))


@cache
def _lungs_start() -> bool:
    try:
        load_opinion("lungs")
    except (ImportError, OSError):  # no torch, or a library of its own is not there
        return False
    return True


def _ask(
    words: Sequence[str], hu: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, np.ndarray]:
    """Return what each calls lung in a scan, (D, h, w) bool at the size of the views."""
    if not words:
        return {}
    nothing = np.zeros(hu.shape[1:], bool)
    scale = LabelView(hu[0], nothing).scale
    z, y, x = spacing_mm
    spacing = (z, y * scale, x * scale)
    small = np.stack(map_side_by_side(lambda plane: LabelView(plane, nothing).hu, hu))
    return {word: _see(load_opinion(word), small, spacing) for word in words}


def _see(
    predictor: Predictor, hu: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    if segment_volume := predictor.segmenter.segment_volume:
        return segment_volume(hu, spacing_mm=spacing_mm) > 0
    classes = [
        each.classes
        for batch in predictor.segment_ahead(hu, batch_size=_BATCH, spacing_mm=spacing_mm[1:])
        for each in batch
    ]
    return refine_volume(hu, np.stack(classes), spacing_mm=spacing_mm) > 0


def _area_jumps(areas: np.ndarray, *, least: float, slice_mm: float) -> list[float]:
    """Return how far each area is from those around, below 0 where smaller; 0 at both ends.

    That is the most of three: the distance from the mean of both neighbours, of which thick slices
    may have more, for lungs taper; by how much it exceeds both; and by how much it falls short of
    what lies within 100 mm on either side, for between two full slices no lung is small.
    """
    area = areas / max(float(areas.max()), least)
    reach = max(1, round(_DIP_MM / slice_mm))
    counts_for = min(1.0, max(0.5, _TAPER_MM / slice_mm))
    jumps = [0.0] * len(area)
    for index in range(1, len(area) - 1):
        before, here, after = area[index - 1 : index + 2]
        bend = (here - (before + after) / 2) * counts_for
        peak = max(0.0, here - max(before, after))
        around = area[max(0, index - reach) : index], area[index + 1 : index + 1 + reach]
        dip = min(0.0, here - min(side.max() for side in around))
        jumps[index] = float(max(bend, peak, dip, key=abs))
    return jumps


def _beyond_largest(labels: np.ndarray, sizes: np.ndarray) -> list[float]:
    """Count the pixels of each slice that lie in parts of the scan beyond the two largest."""
    beyond = np.ones(len(sizes) + 1, bool)
    beyond[[0, *(1 + np.argsort(sizes)[-2:])]] = False
    return [float(np.count_nonzero(beyond[plane])) for plane in labels]


def _whole_ml(areas: np.ndarray, spacing_mm: tuple[float, float, float]) -> float | None:
    """Return the volume of the lung; None where the scan is too short to judge it."""
    if len(areas) < _WHOLE or len(areas) * spacing_mm[0] < _WHOLE_MM:
        return None
    return float(areas.sum() * np.prod(spacing_mm) / 1000)


def _sum_up(
    counts: Sequence[dict[str, float]],
    slices: tuple[Plausibility, ...],
    *,
    parts: float,
    lung_ml: float | None,
    asked: Sequence[str],
) -> Plausibility:
    """Judge a scan by the sums over its slices, and by the slices that are red."""
    totals = {name: sum(count[name] for count in counts) for name in counts[0]}
    totals |= {"parts": parts}
    filled = sum(count.get("agreed or mask", count["lung"]) > 0 for count in counts)
    red = _find_red(slices)
    values = _measure(totals) | {
        "area_jump": max(abs(count["area_jump"]) for count in counts),
        "red_slices": len(red) / max(filled, len(red), 1),
        "lung_ml": lung_ml,
    }
    words = _put_in_words(totals, asked, slices=counts)
    words["red_slices"] += f": {name_slices(red)}"
    judged = judge(values, words)
    why = [f"slice {index}: {slices[index].reasons[0]}" for index in red[:_NAMED]]
    return replace(judged, reasons=(*judged.reasons, *why), slices=slices)


def _find_red(slices: Sequence[Plausibility]) -> list[int]:
    """Return the red slices, the most worrying first."""
    red = [index for index, one in enumerate(slices) if one.light == "red"]
    return sorted(red, key=lambda index: -slices[index].worry)


def _look_for_chest(counts: Sequence[dict[str, float]], *, slice_mm: float) -> tuple[str, float]:
    """Return why a scan shows no whole chest, '' where it does; and the most of it that is lung."""
    share = _widest_share(counts, max(1, round(_CHEST_MM / slice_mm)))
    why = ""
    if len(counts) == 1:
        why = "no chest here: a single slice"
    elif _begins_and_ends(counts) and len(counts) * slice_mm < _TALL_MM:
        why = (
            "no chest here: the body begins and ends within the scan, as in coronal or sagittal "
            "slices"
        )
    elif share < _CHEST_SHARE:
        why = (
            f"not a whole chest: lung is at most {share:.1%} of the body (of a chest "
            f"{_CHEST_SHARE:.0%} or more), do not use the volume"
        )
    elif len(counts) * slice_mm < _SHORT_MM:
        why = (
            f"not a whole chest: {counted(len(counts), 'slice')}, {len(counts) * slice_mm:.3g} mm "
            "of the body, do not use the volume"
        )
    return why, share


def _widest_share(counts: Sequence[dict[str, float]], slices: int) -> float:
    """Return the most of the body that is lung in so many neighbouring slices."""
    lung = [count.get("agreed or mask", count["lung"]) for count in counts]
    ones = np.ones(min(slices, len(counts)))
    lungs, bodies = (
        np.convolve(values, ones, mode="valid")
        for values in (lung, [count["body"] for count in counts])
    )
    return float((lungs / np.maximum(bodies, 1)).max())


def _begins_and_ends(counts: Sequence[dict[str, float]]) -> bool:
    tissue = [count["tissue"] for count in counts]
    return max(tissue[0], tissue[-1]) < _BEGINS * max(tissue)
