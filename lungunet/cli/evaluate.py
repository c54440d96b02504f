"""``lungunet evaluate``: how good the masks are where the truth is known, and against what."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lungunet.cli import console
from lungunet.cli.options import Device, Json, LabelThreshold, Overwrite, Quiet, parse_codec

if TYPE_CHECKING:
    from lungunet import Interval, ScoreCard


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Run folder, model folder, .onnx file, a word (lungs, threshold), from the hub "
            "hf://OWNER/NAME@REVISION, or a folder of masks. Averaged: the folder of a "
            "cross-validation, or A+B.",
            metavar="MODEL",
        ),
    ],
    data: Annotated[Path, typer.Argument(help="Folder with the lists.", metavar="DATA")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write scores.json, cases.csv and pictures here. Default for a run: its own "
            "evaluation/SPLIT.",
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines", help="Score threshold, lungs and all background too."
        ),
    ] = True,
    labels: Annotated[
        str,
        typer.Option(help="Raw values of the truth in class order; auto: what split.json says."),
    ] = "auto",
    label_threshold: LabelThreshold = -1,
    mask_labels: Annotated[
        str, typer.Option(help="Raw values of a folder of masks; auto: as lungunet writes them.")
    ] = "auto",
    device: Device = "auto",
    allow_seen: Annotated[
        bool,
        typer.Option(
            "--allow-seen",
            help="Score what the run was trained on too; every table says so.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score masks on one list at the size of the files: pooled, slice by slice, by patient.

    Beside the model stand a threshold without weights, the built-in model and all background, on
    the same slices.

    Examples
    --------
    - `lungunet evaluate runs/001 data`
    - `lungunet evaluate threshold data`
    - `lungunet evaluate masks_of_another_tool/ data`
    """
    from lungunet import evaluate_list

    if split not in ("train", "val", "test"):
        raise typer.BadParameter(f"'{split}' is not one of train, val, test")
    card = evaluate_list(
        model,
        data,
        split=split,
        out=out,
        codec=parse_codec(labels, label_threshold),
        mask_codec=parse_codec(mask_labels, -1),
        baselines=baselines,
        device=device,
        allow_seen=allow_seen,
        overwrite=overwrite,
        progress=console.progress_bar,
    )
    if as_json:
        console.say_json({"model": model, "split": split, **card.to_dict()})
    else:
        _show(card, model, split)


def _show(card: "ScoreCard", model: str, split: str) -> None:
    n = len(set(card.patients))
    unit = "patient"
    if n == len(card.cases):  # as where nobody said which slices share one
        unit = "slice (too narrow where slices share a patient: see split --group)"
    console.say(
        f"{model} on {len(card.cases)} slices of {split}, at the size of the files; intervals are "
        f"95 %, resampled by {unit}\n"
    )
    known = f"{card.seen} of {len(card.cases)} slices seen" if card.seen else ""
    console.show_table((known, "pooled", "interval", "mean per slice", "median", "n"), _rows(card))
    if len(card.class_names) > 2:
        console.say()
        classes = zip(card.class_names, card.pooled.class_iou, strict=True)
        console.show_table((f"class{known and ', '}{known}", "IoU pooled"), classes)
    _show_calibration(card)
    _show_empty(card, known)
    _show_baselines(card, model, known)
    console.say("\nworst slices")
    console.show_table(
        (known, "IoU", "HD95, px", "lung px", "predicted px"),
        [
            (case.name, case.scores.iou, f"{case.value('hd95'):.1f}", case.truth_px, case.pred_px)
            for case in card.worst()
        ],
    )
    saved = f"scores and pictures: {card.folder}"
    console.say(f"\n{saved if card.folder else 'not saved: add --out FOLDER to keep this'}")


def _rows(card: "ScoreCard") -> list[tuple[object, ...]]:
    from lungunet import METRICS

    rows: list[tuple[object, ...]] = []
    for name, metric in METRICS.items():
        case = card.per_case(name)
        pooled = card.pooled_value(name)
        interval = _interval(card.pooled_interval(name)) if metric.interval else ""
        means = [console.short(value, metric.digits) for value in (case.mean, case.median)]
        rows.append((metric.label, "" if pooled is None else pooled, interval, *means, case.n))
    return rows


def _interval(interval: "Interval", sign: str = "") -> str:
    if math.isnan(interval.low):
        return "-"
    return f"{interval.low:{sign}.4f} to {interval.high:{sign}.4f}"


def _show_calibration(card: "ScoreCard") -> None:
    found = card.calibration
    if found is None:
        return
    text = f"\nof pixels called lung, probabilities are off by {found.ece:.4f} (ECE, interval "
    text += f"{_interval(found.interval)})"
    if found.temperature is not None and found.interval_after is not None:
        text += (
            f"; with one temperature of {found.temperature:.2f}, fitted on val, by "
            f"{found.ece_after:.4f} ({_interval(found.interval_after)})"
        )
    console.say(text)


def _show_empty(card: "ScoreCard", known: str) -> None:
    empty = card.empty_slices()
    if not empty["slices"]:
        return
    console.say(
        f"\n{empty['slices']} slices hold no lung; on {empty['with_false_positives']} of them "
        f"{empty['false_positive_px']} px were called lung. Mean Dice by what such slices count as:"
    )
    titles = {
        "both_empty_is_nan": "nothing if rightly empty, 0 if not (as above)",
        "both_empty_is_1": "1 if rightly empty, 0 if not",
        "empty_truth_skipped": "nothing, whatever was predicted",
    }
    rules = card.dice_by_rule()
    console.show_table(
        (f"rule{known and ', '}{known}", "Dice"), [(titles[rule], rules[rule]) for rule in titles]
    )


def _show_baselines(card: "ScoreCard", model: str, known: str) -> None:
    for remark in card.remarks:
        console.say(f"\n{remark}")
    if not card.baselines:
        return
    rows: list[tuple[Any, ...]] = [(model, card.pooled.iou, card.pooled.accuracy, "", "")]
    for name, other in card.baselines.items():
        gain = card.difference(other, "iou")
        gained = (f"{gain.value:+.4f}", _interval(gain.interval, "+"))
        rows.append((name, other.pooled.iou, other.pooled.accuracy, *gained))
    console.say()
    console.show_table((known, "lung IoU", "accuracy", "IoU gained", "interval"), rows)
    if verdict := card.verdict(model):
        console.say(verdict)
