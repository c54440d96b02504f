"""``lungunet evaluate``: how good the masks are where the truth is known."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import Device, Json, LabelThreshold, Overwrite, refuse_existing

if TYPE_CHECKING:
    from lungunet.evaluation.scorecard import ScoreCard


def evaluate(
    model: Annotated[Path, typer.Argument(help="Run folder or model folder.", metavar="MODEL")],
    data: Annotated[Path, typer.Argument(help="Folder with the lists.", metavar="DATA")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Write scores.json and cases.csv here.")] = None,
    labels: Annotated[
        str, typer.Option(help="Raw mask values in class order; auto is what split.json says.")
    ] = "auto",
    label_threshold: LabelThreshold = -1,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Score a model on one list, at the size of the files: pooled, and slice by slice.

    Example: `lungunet evaluate runs/001 data --out scores`
    """
    from lungunet.data.split import SPLITS, read_split
    from lungunet.evaluation.scorecard import evaluate as score
    from lungunet.inference.predictor import Predictor
    from lungunet.training.run import choose_codec

    if split not in SPLITS:
        raise typer.BadParameter(f"'{split}' is not one of {', '.join(SPLITS)}")
    if out is not None:
        refuse_existing([out / "scores.json", out / "cases.csv"], overwrite)
    pairs = getattr(read_split(data), split)
    codec = choose_codec(data, labels, label_threshold)
    predictor = Predictor.load(model, device=device)
    card = score(predictor, pairs, codec=codec, progress=console.progress_bar)
    if out is not None:
        card.save(out)
    if as_json:
        console.say_json({"model": str(model), "split": split, **card.to_dict()})
    else:
        _show(card, split)


def _show(card: "ScoreCard", split: str) -> None:
    from lungunet.evaluation.scorecard import METRICS

    console.say(f"{len(card.cases)} slices of {split}, at the size of the files\n")
    rows = []
    for metric in METRICS:
        mean, median, n = card.per_case(metric)
        rows.append((_NAMES[metric], getattr(card.pooled, metric), mean, median, n))
    console.show_table(("", "pooled", "mean per slice", "median", "n"), rows)
    if len(card.class_names) > 2:
        console.say()
        console.show_table(
            ("class", "IoU pooled"), zip(card.class_names, card.pooled.class_iou, strict=True)
        )
    console.say("\nworst slices")
    console.show_table(
        ("", "IoU", "lung px", "predicted px"),
        [(case.name, case.scores.iou, case.truth_px, case.pred_px) for case in card.worst()],
    )


_NAMES = {
    "accuracy": "accuracy",
    "iou": "lung IoU",
    "miou": "mIoU",
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
}
