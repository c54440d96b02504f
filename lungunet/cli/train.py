"""``lungunet train``: a table row per epoch, and a run folder that can be gone on with."""

import shlex
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lungunet.cli import console
from lungunet.cli.options import Overwrite
from lungunet.errors import ConfigError

if TYPE_CHECKING:
    from lungunet.evaluation.crossval import FoldResult
    from lungunet.training.config import RunConfig
    from lungunet.training.tracking import EpochResult

_COLUMNS = (
    ("epoch", 5),
    ("loss train", 10),
    ("val", 7),
    ("acc. train", 10),
    ("val", 7),
    ("IoU train", 9),
    ("val", 7),
    ("lr", 8),
    ("s", 6),
)


def _option(text: str) -> Any:
    return typer.Option(help=text, show_default=False)


def train(
    data: Annotated[
        Path | None, typer.Argument(help="Folder with train.txt and val.txt.", metavar="[DATA]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: the next free runs/NNN.")
    ] = None,
    encoder: Annotated[
        str | None, _option("Name from 'lungunet encoders'. [default: tu-mobilenetv3_small_100]")
    ] = None,
    weights: Annotated[
        str | None, _option("none, imagenet (downloads), another tag, or a path. [default: none]")
    ] = None,
    size: Annotated[
        int | None, _option("Slices are fitted to this square, px. [default: 256]")
    ] = None,
    epochs: Annotated[int | None, _option("Passes over train. [default: 25]")] = None,
    batch_size: Annotated[int | None, _option("Slices per forward pass. [default: 8]")] = None,
    lr: Annotated[float | None, _option("Highest learning rate. [default: 0.002]")] = None,
    weight_decay: Annotated[float | None, _option("Of AdamW. [default: 0.01]")] = None,
    warmup_epochs: Annotated[
        float | None, _option("Linear rise of the learning rate. [default: 1]")
    ] = None,
    accumulate: Annotated[
        int | None, _option("Forward passes per optimizer step. [default: 1]")
    ] = None,
    clip_norm: Annotated[
        float | None, _option("Largest norm of the gradients; 0 is off. [default: 1]")
    ] = None,
    patience: Annotated[
        int | None,
        _option("Stop after so many epochs without a better val IoU; 0 is off. [default: 0]"),
    ] = None,
    seed: Annotated[int | None, _option("Same seed, same run. [default: 0]")] = None,
    window: Annotated[str | None, _option("auto, or LEVEL,WIDTH in HU. [default: auto]")] = None,
    labels: Annotated[
        str | None, _option("Raw mask values in class order. [default: what split.json says]")
    ] = None,
    label_threshold: Annotated[
        int | None, _option("For smeared masks: raw values from here on are lung. [default: -1]")
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip", help="Mirror left and right. [default: flip]", show_default=False
        ),
    ] = None,
    device: Annotated[
        str | None, _option("auto, cpu, cuda, cuda:N or mps. [default: auto]")
    ] = None,
    precision: Annotated[str | None, _option("auto, fp32, bf16 or fp16. [default: auto]")] = None,
    workers: Annotated[
        int | None, _option("Processes that read ahead; -1 decides by itself. [default: -1]")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="config.toml of another run; options win over it.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run.")] = None,
    cross_validate: Annotated[
        bool,
        typer.Option("--cross-validate", help="Train and score every fold of 'split --folds'."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train on train.txt, choose the best epoch on val.txt; test.txt is never opened.

    The defaults suit a start without pretrained weights: 136 slices take 4 minutes on two CPU
    cores with AMX, about twice that without.

    Examples: `lungunet train data` | `lungunet train data --encoder resnet34 --size 512` |
    `lungunet train --resume runs/001`
    """
    given = {
        name: value
        for name, value in locals().items()
        if name not in ("data", "out", "config", "resume", "cross_validate", "overwrite")
        and value is not None
    }
    if data is not None:
        given["data"] = str(data)
    if cross_validate and resume is None:
        _cross_validate(_settings(config, given), out or _next_free(Path("runs")), overwrite)
    elif resume is not None:
        _refuse_beside_resume(
            given, out, config, cross_validate=cross_validate, overwrite=overwrite
        )
        _train(_stored_config(resume, given), resume, resume=True)
    else:
        settings = _settings(config, given)
        _train(settings, out or _next_free(Path("runs")), overwrite=overwrite)


def _refuse_beside_resume(
    given: dict[str, Any],
    out: Path | None,
    config: Path | None,
    *,
    cross_validate: bool,
    overwrite: bool,
) -> None:
    extra = sorted(set(given) - {"data", "epochs", "patience", "device", "workers"})
    extra += ["out"] if out else []
    extra += ["config"] if config else []
    extra += ["cross-validate"] if cross_validate else []
    extra += ["overwrite"] if overwrite else []
    if extra:
        names = ", ".join("--" + name.replace("_", "-") for name in extra)
        raise ConfigError(
            f"{names}: a resumed run keeps its settings; only DATA, --epochs, --patience, "
            "--device and --workers may change. Leave it out, or start a new run."
        )


def _stored_config(run: Path, changes: dict[str, Any]) -> "RunConfig":
    from lungunet.training.config import RunConfig, read_toml

    file = run / "config.toml"
    if not file.exists():
        raise ConfigError(f"{run}: no run (config.toml is missing). Give the folder of a run.")
    if "data" not in read_toml(file):
        raise ConfigError(
            f"{run}: was made in Python, with a model and data that only that program knows. "
            "Resume it there: Trainer.fit(train, val, resume=True)."
        )
    return RunConfig.from_toml(file, **changes)


def _settings(config: Path | None, given: dict[str, Any]) -> "RunConfig":
    from lungunet.training.config import RunConfig

    if config is not None:
        return RunConfig.from_toml(config, **given)
    if "data" not in given:
        raise typer.BadParameter("give the DATA folder that 'lungunet split' made")
    return RunConfig.from_dict(given, where="options")


def _next_free(folder: Path) -> Path:
    taken = {path.name for path in folder.glob("[0-9]*")}
    number = 1
    while f"{number:03d}" in taken:
        number += 1
    return folder / f"{number:03d}"


def _train(
    config: "RunConfig", out: Path, *, resume: bool = False, overwrite: bool = False
) -> None:
    from lungunet.evaluation.report import write_report
    from lungunet.training.run import train_run

    before = signal.signal(signal.SIGTERM, _interrupt)
    start = time.perf_counter()
    best: EpochResult | None = None
    done = 0
    console.say(
        f"{config.encoder}, {config.size}x{config.size}, batch {config.batch_size}, "
        f"{config.epochs} epochs -> {out}\n"
    )
    try:
        results = train_run(
            config, out, resume=resume, overwrite=overwrite, progress=console.progress_bar
        )
        for result in results:
            if not done:
                console.say("  ".join(name.rjust(width) for name, width in _COLUMNS))
            _say_row(result)
            done += 1
            best = result if result.is_best else best
    except KeyboardInterrupt as err:
        if (out / "last.ckpt").exists():
            console.warn(f"\nStopped. Go on with: {console.command('train', '--resume', out)}")
        else:
            console.warn("\nStopped before the first epoch was done: there is nothing to resume.")
        raise typer.Exit(143 if err.args == ("SIGTERM",) else 130) from err
    finally:
        signal.signal(signal.SIGTERM, before)
    if not done:
        console.say(
            f"{out}: nothing left to do: all {config.epochs} epochs are done, or val IoU has not "
            "risen for --patience epochs. Go on with a larger --epochs, or --patience 0."
        )
        return
    report = write_report(out)
    if best is not None:
        size = f"{config.size}x{config.size}"
        console.say(f"\nbest val IoU {best.val.iou:.4f} in epoch {best.epoch}, pooled, at {size}")
    else:
        console.say("\nno epoch of these beats the best one before them, which stays in best/")
    console.say(
        f"{done} epoch{'s' if done > 1 else ''} in {console.minutes(time.perf_counter() - start)}"
    )
    console.say(f"model:  {out / 'best'}")
    console.say(f"report: {report}")
    console.say(f"curves: {shlex.join(['tensorboard', '--logdir', str(out)])}")
    console.say(f"next:   {console.command('evaluate', out, config.data)}")


def _cross_validate(config: "RunConfig", out: Path, overwrite: bool) -> None:
    from lungunet.evaluation.crossval import FoldResult, cross_validate, merge_cards

    start = time.perf_counter()
    console.say(f"{config.encoder}, {config.size}x{config.size}, {config.epochs} epochs -> {out}\n")
    console.say("  ".join(name.rjust(width) for name, width in _COLUMNS))
    folds: list[FoldResult] = []
    for result in cross_validate(config, out, overwrite=overwrite, progress=console.progress_bar):
        if not isinstance(result, FoldResult):
            _say_row(result)
            continue
        folds.append(result)
        console.say(f"{result.name}: lung IoU {result.card.pooled.iou:.4f}, last epoch\n")
    _say_spread(folds)
    card = merge_cards(folds)
    card.save(out, model=str(out), split="out of fold")
    console.say(f"\n{len(folds)} folds in {console.minutes(time.perf_counter() - start)}")
    console.say(f"scores of every slice by a model that never saw it: {out / 'scores.json'}")


def _say_spread(folds: "list[FoldResult]") -> None:
    """Print a row per fold, then their mean and standard deviation."""
    from statistics import fmean, stdev

    rows: list[list[object]] = []
    for fold in folds:
        threshold = fold.card.baselines.get("threshold")
        distance = fold.card.per_case("hd95").mean
        scores = [fold.card.pooled.iou, fold.card.pooled.dice, distance]
        scores.append(threshold.pooled.iou if threshold else float("nan"))
        rows.append([fold.name, len(fold.card.cases), *scores])
    columns = list(zip(*(row[2:] for row in rows), strict=True))
    rows.append(["mean", "", *(fmean(column) for column in columns)])
    if len(folds) > 1:
        rows.append(["standard deviation", "", *(stdev(column) for column in columns)])
    header = ("pooled, at file size", "slices", "lung IoU", "Dice", "HD95, px", "threshold IoU")
    console.show_table(header, rows)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt("SIGTERM")


def _say_row(result: "EpochResult") -> None:
    train, val = result.train, result.val
    cells = [
        str(result.epoch),
        *(
            console.short(value)
            for pair in (
                (train.loss, val.loss),
                (train.accuracy, val.accuracy),
                (train.iou, val.iou),
            )
            for value in pair
        ),
        f"{result.lr:.1e}",
        f"{train.seconds + val.seconds:.1f}",
    ]
    row = "  ".join(cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
    console.say(row + ("  best" if result.is_best else ""))
