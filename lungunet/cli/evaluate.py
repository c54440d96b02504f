"""``lungunet evaluate``: how good the masks are where the truth is known, and against what."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lungunet.cli import console
from lungunet.cli.options import Device, Json, LabelThreshold, Overwrite, refuse_existing
from lungunet.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lungunet.data.codec import LabelCodec
    from lungunet.data.manifest import Pair
    from lungunet.evaluation.evaluate import Predicts
    from lungunet.evaluation.scorecard import ScoreCard
    from lungunet.metrics.bootstrap import Interval

_NAMES = {
    "iou": "lung IoU",
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "miou": "mIoU",
    "accuracy": "accuracy",
    "hd95": "HD95, px",
    "assd": "ASSD, px",
    "surface_dice": "surface Dice, 1 px",
}


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Run folder, model folder, .onnx file, the word threshold, or a folder of masks.",
            metavar="MODEL",
        ),
    ],
    data: Annotated[Path, typer.Argument(help="Folder with the lists.", metavar="DATA")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write scores.json, cases.csv and pictures here. Default for a run: its own "
            "evaluation/SPLIT."
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option("--baselines/--no-baselines", help="Score threshold and all background too."),
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
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Score masks on one list at the size of the files: pooled, slice by slice, by patient.

    Beside the model stand a threshold without weights and all background, on the same slices.

    Examples: `lungunet evaluate runs/001 data` | `lungunet evaluate threshold data` |
    `lungunet evaluate masks_of_another_tool/ data`
    """
    from lungunet.data.split import SPLITS, choose_codec, read_list, read_patients
    from lungunet.evaluation.evaluate import evaluate as score
    from lungunet.evaluation.evaluate import save_pictures
    from lungunet.evaluation.model_card import note_scores
    from lungunet.evaluation.report import write_report
    from lungunet.models.folder import weights_hash

    if split not in SPLITS:
        raise typer.BadParameter(f"'{split}' is not one of {', '.join(SPLITS)}")
    if out is not None:
        refuse_existing([out / "scores.json", out / "cases.csv"], overwrite)
    own = out is None and (Path(model) / "best").is_dir()
    if own:
        out = Path(model) / "evaluation" / split  # scores of the run's own: always the latest
        weights_sha256 = weights_hash(model)
    pairs = read_list(data, split)
    codec = choose_codec(data, labels, label_threshold)
    predictor = _open(model, codec, mask_labels, device)
    _warn_of_trained(model, pairs)
    card = score(
        predictor,
        pairs,
        codec=codec,
        patients=read_patients(data),
        baselines=baselines,
        progress=console.progress_bar,
    )
    about = {"model": model, "split": split}
    if out is not None:
        card.save(out, **about)
        save_pictures(out / "pictures", predictor, pairs, card, codec=codec)
    if own:
        note_scores(model, split, card, weights_sha256=weights_sha256)
        write_report(model)
    if as_json:
        console.say_json({**about, **card.to_dict()})
    else:
        _show(card, model, split, out)


def _warn_of_trained(model: str, pairs: "list[Pair]") -> None:
    """Say when a run is judged by slices that it was trained on."""
    from lungunet.data.split import read_split
    from lungunet.training.config import read_toml

    try:
        lists = read_split(str(read_toml(Path(model) / "config.toml")["data"]), "train")
    except (ConfigError, DataError, KeyError):  # no run, or its lists are elsewhere by now
        return
    seen = {pair.image.resolve() for pair in lists.train}
    count = sum(pair.image.resolve() in seen for pair in pairs)
    if count:
        console.warn(
            f"lungunet: {count} of these {len(pairs)} slices are in the list that {model} was "
            "trained on: these scores are too good."
        )


def _open(model: str, codec: "LabelCodec", mask_labels: str, device: str) -> "Predicts":
    from lungunet.data.codec import LabelCodec
    from lungunet.evaluation.masks import MaskFolder
    from lungunet.inference.predictor import Predictor
    from lungunet.models.folder import is_model_folder

    if Path(model).is_dir() and not is_model_folder(model):
        coded = codec.for_prediction if mask_labels == "auto" else LabelCodec.parse(mask_labels)
        return MaskFolder(model, coded)
    return Predictor.load(model, device=device)


def _show(card: "ScoreCard", model: str, split: str, out: Path | None) -> None:
    n = len(set(card.patients))
    unit = "patient"
    if n == len(card.cases):  # as where nobody said which slices share one
        unit = "slice (too narrow where slices share a patient: see split --group)"
    console.say(
        f"{model} on {len(card.cases)} slices of {split}, at the size of the files; intervals are "
        f"95 %, resampled by {unit}\n"
    )
    console.show_table(("", "pooled", "interval", "mean per slice", "median", "n"), _rows(card))
    if len(card.class_names) > 2:
        console.say()
        classes = zip(card.class_names, card.pooled.class_iou, strict=True)
        console.show_table(("class", "IoU pooled"), classes)
    _show_empty(card)
    _show_baselines(card, model)
    console.say("\nworst slices")
    console.show_table(
        ("", "IoU", "HD95, px", "lung px", "predicted px"),
        [
            (case.name, case.scores.iou, f"{case.value('hd95'):.1f}", case.truth_px, case.pred_px)
            for case in card.worst()
        ],
    )
    saved = f"scores and pictures: {out}" if out else "not saved: add --out FOLDER to keep this"
    console.say(f"\n{saved}")


def _rows(card: "ScoreCard") -> list[tuple[object, ...]]:
    from lungunet.evaluation.scorecard import POOLED_WITH_INTERVAL

    rows: list[tuple[object, ...]] = []
    for metric, name in _NAMES.items():
        case = card.per_case(metric)
        pooled: float | None = getattr(card.pooled, metric, None)
        known = metric in POOLED_WITH_INTERVAL
        interval = _interval(card.pooled_interval(metric)) if known else ""
        digits = 2 if metric in ("hd95", "assd") else 4
        means = [console.short(value, digits) for value in (case.mean, case.median)]
        rows.append((name, "" if pooled is None else pooled, interval, *means, case.n))
    return rows


def _interval(interval: "Interval", sign: str = "") -> str:
    if math.isnan(interval.low):
        return "-"
    return f"{interval.low:{sign}.4f} to {interval.high:{sign}.4f}"


def _show_empty(card: "ScoreCard") -> None:
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
    console.show_table(("rule", "Dice"), [(titles[rule], rules[rule]) for rule in titles])


def _show_baselines(card: "ScoreCard", model: str) -> None:
    for remark in card.remarks:
        console.say(f"\n{remark}")
    if not card.baselines:
        return
    rows: list[tuple[Any, ...]] = [(model, card.pooled.iou, card.pooled.accuracy, "", "")]
    for name, other in card.baselines.items():
        gain = card.difference(other, "iou")
        rows.append(
            (
                name,
                other.pooled.iou,
                other.pooled.accuracy,
                f"{gain.value:+.4f}",
                _interval(gain.interval, "+"),
            )
        )
    console.say()
    console.show_table(("", "lung IoU", "accuracy", "IoU gained", "interval"), rows)
    if "threshold" in card.baselines:
        console.say(_verdict(card, model))


def _verdict(card: "ScoreCard", model: str) -> str:
    gain = card.difference(card.baselines["threshold"], "iou")
    if math.isnan(gain.interval.low):
        return f"too few patients to say whether {model} beats the threshold"
    if gain.interval.low > 0:
        return f"{model} beats the threshold, by {gain.value:.4f} pooled lung IoU"
    if gain.interval.high < 0:
        return f"the threshold beats {model}, by {-gain.value:.4f} pooled lung IoU"
    return f"no clear difference between {model} and the threshold"
