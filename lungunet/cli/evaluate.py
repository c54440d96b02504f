"""``lungunet evaluate``: how good the masks are where the truth is known, and against what."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lungunet.cli import console
from lungunet.cli.options import (
    Device,
    Json,
    Names,
    Overwrite,
    Quiet,
    Resample,
    Series,
    parse_codec,
)
from lungunet.cli.wording import in_options
from lungunet.errors import ConfigError, counted

if TYPE_CHECKING:
    from lungunet import Interval, LabelCodec, ScoreCard


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
    data: Annotated[
        str,
        typer.Argument(
            help="Folder with the lists; or with --truth a scan, or a folder of scans.",
            metavar="DATA",
        ),
    ],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write scores.json, cases.csv, pictures and report.html here. Default for a run "
            "and a list: its own evaluation/SPLIT.",
        ),
    ] = None,
    baselines: Annotated[
        bool | None,
        typer.Option(
            "--baselines/--no-baselines",
            help="Score threshold and lungs too, and of slices all background. Default: of slices.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Also score this MODEL, say the one before, and tell where the two differ most. "
            "May be given again.",
            metavar="MODEL",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(help="Raw values of the truth in class order; auto: what split.json says."),
    ] = "auto",
    label_threshold: Annotated[
        int,
        typer.Option(help="For a smeared truth: raw values from here on are lung. -1 is off."),
    ] = -1,
    mask_labels: Annotated[
        str,
        typer.Option(
            help="Raw values of a folder of masks in place of MODEL, as --labels; '>=128' for "
            "smeared ones. auto: as lungunet writes them."
        ),
    ] = "auto",
    truth: Annotated[
        str | None,
        typer.Option(
            help="Scans: their true masks, a folder or one; paired by name.", metavar="MASKS"
        ),
    ] = None,
    names: Names = None,
    mask_names: Annotated[
        str | None,
        typer.Option(
            help="How a folder of masks in place of MODEL is called, as --names; by default found "
            "out."
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Scans: which are of one patient: a regular expression on their names, or a CSV "
            "with the columns name and patient. Intervals resample patients."
        ),
    ] = None,
    tolerance_mm: Annotated[
        float, typer.Option(help="Scans: tolerance of the surface Dice, mm.", min=0)
    ] = 2.0,
    raw: Annotated[
        bool, typer.Option("--raw", help="Scans: what the model says, not mended in 3-D.")
    ] = False,
    series: Series = None,
    resample: Resample = False,
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
    """Score masks on one list of slices, or on whole scans in 3-D: pooled, one by one, by patient.

    Beside a model stand a threshold without weights, the built-in model and all background, on the
    same slices. Scans are scored in mm and mL, on their own grid. One that cannot be used is named
    and skipped, and the exit code is 1 in the end.

    Examples
    --------
    - `lungunet evaluate runs/001 data`
    - `lungunet evaluate threshold data`
    - `lungunet evaluate masks_of_another_tool/ data`
    - `lungunet evaluate runs/002 data --against runs/001 --against lungs`
    - `lungunet evaluate lungs scans/ --truth masks/ --out scores`
    - `lungunet evaluate masks_of_another_tool/ scans/ --truth masks/ --out scores`
    """
    if truth is not None:
        _refuse({"--split": split != "test", "--allow-seen": allow_seen}, "lists", "scans")
        _evaluate_scans(
            model,
            data,
            truth,
            as_json,
            out=out,
            codec=parse_codec(labels, label_threshold),
            mask_codec=parse_codec(mask_labels, -1),
            scoring={
                "tolerance_mm": tolerance_mm,
                "refine": not raw,
                "baselines": bool(baselines),
            },
            names=names,
            mask_names=mask_names,
            against=against or (),
            group=group,
            series=series,
            resample=resample,
            device=device,
            overwrite=overwrite,
        )
        return
    given: dict[str, object] = {"--names": names, "--group": group}
    given |= {
        "--series": series,
        "--raw": raw,
        "--resample": resample,
        "--tolerance-mm": tolerance_mm != 2,
    }
    _refuse({option: bool(value) for option, value in given.items()}, "scans", "lists")
    from lungunet import evaluate_list

    if split not in ("train", "val", "test"):
        raise typer.BadParameter(f"'{split}' is not one of train, val, test")
    card = evaluate_list(
        model,
        _require_lists(data),
        split=split,
        out=out,
        codec=parse_codec(labels, label_threshold),
        mask_codec=parse_codec(mask_labels, -1),
        mask_names=mask_names,
        baselines=baselines is not False,
        against=against or (),
        device=device,
        allow_seen=allow_seen,
        overwrite=overwrite,
        progress=console.progress_bar,
    )
    if as_json:
        console.say_json({"model": model, "data": data, "split": split, **card.to_dict()})
    else:
        _show(card, model, f"{split} in {data}", against or ())


def _refuse(given: dict[str, bool], meant: str, these: str) -> None:
    for option, is_given in given.items():
        if is_given:
            raise ConfigError(f"for {meant}, these are {these}. Leave it out.", where=option)


def _require_lists(data: str) -> str:
    """Name the option that is missing where scans were given without it."""
    from lungunet import is_volume_source

    lists = (Path(data) / f"{split}.txt" for split in ("train", "val", "test"))
    if not any(path.exists() for path in lists) and is_volume_source(data):
        raise ConfigError("holds scans. Say where their true masks are: --truth MASKS.", where=data)
    return data


def _evaluate_scans(
    model: str,
    scans: str,
    truth: str,
    as_json: bool,
    *,
    codec: "LabelCodec | None",
    mask_codec: "LabelCodec | None",
    scoring: dict[str, Any],
    **options: Any,
) -> None:
    from lungunet import ScanScoring, evaluate_scans

    card = evaluate_scans(
        model,
        scans,
        truth,
        scoring=ScanScoring(codec, mask_codec, **scoring),
        progress=console.progress_bar,
        **options,
    )
    if as_json:
        console.say_json({"model": model, "data": scans, "truth": truth, **card.to_dict()})
    else:
        _show(card, model, scans, options["against"])
    for reason in card.failed:
        console.warn(f"lungunet: skipped {in_options(reason)}")
    console.refuse_skipped(card.failed, len(card.failed) + len(card.cases), "scan")


def _show(card: "ScoreCard", model: str, of: str, against: Sequence[str]) -> None:
    noun, whole = card.ruler.noun, len(card.cases)
    unit = "patient"
    if len(set(card.patients)) == whole:  # as where nobody said which of them share one
        how = "see split --group" if noun == "slice" else "--group"
        unit = f"{noun} (too narrow where {noun}s share a patient: {how})"
    at = "at the size of the files" if noun == "slice" else "in 3-D on the grid of each"
    console.say(
        f"{model} on {counted(whole, noun)} of {of}, {at}; intervals are 95 %, resampled by "
        f"{unit}{card.caution and '; '}{card.caution}\n"
    )
    known = f"{card.seen} of {whole} {noun}s seen" if card.seen else ""
    header = (known, "pooled", "interval", f"mean per {noun}", "median", "n")
    console.show_table(header, _rows(card))
    _show_regions(card)
    if len(card.class_names) > 2:
        console.say()
        classes = zip(card.class_names, card.pooled.class_iou, strict=True)
        console.show_table((f"class{known and ', '}{known}", "IoU pooled"), classes)
    _show_calibration(card)
    _show_empty(card, known)
    _show_baselines(card, model, known)
    for name in against:
        _show_moved(card, model, name)
    console.say(f"\nworst {noun}s")
    length, size = card.ruler.length, card.ruler.size
    digits = 0 if size == "px" else 1
    console.show_table(
        (known, "IoU", f"HD95, {length}", f"lung {size}", f"predicted {size}"),
        [
            (
                case.name,
                case.scores.iou,
                console.short(case.surface.hd95, 1),  # inf of a lung that was missed
                f"{case.truth_size:.{digits}f}",
                f"{case.pred_size:.{digits}f}",
            )
            for case in card.worst()
        ],
    )
    saved = f"scores and pictures: {card.folder}"
    console.say(f"\n{saved if card.folder else 'not saved: add --out FOLDER to keep this'}")


def _rows(card: "ScoreCard") -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name, metric in card.ruler.metrics.items():
        case = card.per_case(name)
        pooled = card.pooled_value(name)
        interval = _interval(card.pooled_interval(name)) if metric.interval else ""
        means = [console.short(value, metric.digits) for value in (case.mean, case.median)]
        rows.append((metric.label, "" if pooled is None else pooled, interval, *means, case.n))
    return rows


def _show_regions(card: "ScoreCard") -> None:
    if not card.regions:
        return
    shown = {
        name: metric
        for name, metric in card.ruler.metrics.items()
        if name in ("dice", "iou", "surface_dice") or metric.unit
    }
    console.say("\neach region by itself, mean per scan")
    columns = [column for region in card.regions for column in (region, "n")]
    rows: list[tuple[object, ...]] = []
    for name, metric in shown.items():
        row: list[object] = [metric.label]
        for of in card.regions.values():
            each = of.per_case(name)
            row += [console.short(each.mean, metric.digits), each.n]
        rows.append(tuple(row))
    console.show_table(("", *columns), rows)


def _interval(interval: "Interval", sign: str = "") -> str:
    if math.isnan(interval.low):
        return "-"
    return f"{interval.low:{sign}.4f} to {interval.high:{sign}.4f}"


def _show_calibration(card: "ScoreCard") -> None:
    found = card.calibration
    if found is None or math.isnan(found.ece):  # as where no pixel is called lung
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
    noun, size = card.ruler.noun, card.ruler.size
    count, wrong, invented = card.empty_slices().values()
    if not count:
        return
    hold = "s hold" if count > 1 else " holds"
    much = f"{invented:.1f} {size}" if size == "mL" else f"{invented} {size}"
    console.say(
        f"\n{count} {noun}{hold} no lung; on {wrong} of them {much} were called lung. "
        f"Mean Dice by what such {noun}s count as:"
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
        console.say(f"\n{in_options(remark)}")
    if not card.baselines:
        return
    rows: list[tuple[Any, ...]] = [(model, card.pooled.iou, card.pooled.accuracy, "", "")]
    for name, other in card.baselines.items():
        gain = card.difference(other, "iou")
        gained = (console.short(gain.value, sign="+"), _interval(gain.interval, "+"))
        rows.append((name, other.pooled.iou, other.pooled.accuracy, *gained))
    console.say()
    console.show_table((known, "lung IoU", "accuracy", "IoU gained", "interval"), rows)
    if verdict := card.verdict(model):
        console.say(verdict)


def _show_moved(card: "ScoreCard", model: str, name: str) -> None:
    if name != "threshold":  # which is said of every model
        console.say(f"\n{card.verdict(model, than=name)}")
    rows = card.moved(card.baselines[name])
    if not rows:
        console.say(f"{model} and {name} score alike on every {card.ruler.noun}")
        return
    console.say(f"where {model} gains and loses most against {name}")
    console.show_table(
        ("IoU, 1 if rightly empty", model, name, "gained"),
        [(*row, console.short(row[1] - row[2], sign="+")) for row in rows],
    )
