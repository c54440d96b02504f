"""``lungunet train``: a table row per epoch, and a run folder that can be gone on with."""

import json
import math
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lungunet.cli import console
from lungunet.cli.options import Json, Overwrite, Quiet
from lungunet.cli.stopping import StopSignal
from lungunet.errors import ConfigError, counted
from lungunet.progress import silent

if TYPE_CHECKING:
    from lungunet import EpochResult, FoldResult, RunConfig

_COLUMNS = (
    ("epoch", 5),
    ("loss train", 10),
    ("val", 7),
    ("acc. train", 10),
    ("val", 7),
    ("IoU train", 9),
    ("val", 7),
    ("val_ill", 7),  # where disease is painted
    ("lr", 8),
    ("s", 6),
)

_NO_SETTINGS = {"data", "out", "config", "resume", "cross_validate", "find_lr", "overwrite"}
_NO_SETTINGS |= {"log", "quiet", "as_json", "smp"}


def _option(text: str) -> Any:
    return typer.Option(help=text, show_default=False)


def train(
    data: Annotated[
        Path | None, typer.Argument(help="Folder with train.txt and val.txt.", metavar="[DATA]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Run folder. Default: the next free runs/NNN."),
    ] = None,
    encoder: Annotated[
        str | None,
        _option(
            "Name from 'lungunet encoders'; default: tu-mobilenetv3_small_100, of dpt a small ViT."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        _option(
            "none, lungs (built in), imagenet (downloads), another tag, a path, or "
            "hf://OWNER/NAME@REVISION. [default: none]"
        ),
    ] = None,
    size: Annotated[
        int | None, _option("Slices are fitted to this square, px. [default: 256]")
    ] = None,
    epochs: Annotated[int | None, _option("Passes over train. [default: 25]")] = None,
    batch_size: Annotated[int | None, _option("Slices per forward pass. [default: 4]")] = None,
    lr: Annotated[
        float | None, _option("Highest learning rate. [default: 0.002; adam 0.001, sgd 0.01]")
    ] = None,
    weight_decay: Annotated[float | None, _option("[default: 0.01; adam 0, sgd 3e-5]")] = None,
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
        _option("Stop after so many epochs without a better one; 0 is off. [default: 0]"),
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
            "--flip/--no-flip",
            help="Mirror left and right. [default: flip, where lung is the only class]",
            show_default=False,
        ),
    ] = None,
    disease: Annotated[
        float | None,
        _option(
            "Share of the samples with a disease painted into the lung; val is scored so too. "
            "[default: 0]"
        ),
    ] = None,
    device: Annotated[
        str | None, _option("auto, cpu, gpu, cuda:N (or N) or mps. [default: auto]")
    ] = None,
    precision: Annotated[str | None, _option("auto, fp32, bf16 or fp16. [default: auto]")] = None,
    workers: Annotated[
        int | None, _option("Processes that read ahead; -1 decides by itself. [default: -1]")
    ] = None,
    cache: Annotated[
        str | None,
        _option("Folder that keeps decoded slices for later epochs and runs. [default: off]"),
    ] = None,
    save_every_minutes: Annotated[
        float | None,
        _option("Checkpoint at least so often, besides every epoch; 0 is off. [default: 10]"),
    ] = None,
    freeze_epochs: Annotated[
        int | None, _option("Hold a pretrained encoder still for so many epochs. [default: 0]")
    ] = None,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the model: slower to start, faster to train. [default: no-compile]",
            show_default=False,
        ),
    ] = None,
    cuda_graphs: Annotated[
        bool | None,
        typer.Option(
            "--cuda-graphs/--no-cuda-graphs",
            help="On a GPU, start passes whole and not kernel by kernel. [default: cuda-graphs]",
            show_default=False,
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        _option("Name from 'lungunet encoders --architectures'. [default: unet]"),
    ] = None,
    smp: Annotated[
        list[str] | None,
        typer.Option(
            help="An argument of the architecture, as in decoder_attention_type=scse; repeatable.",
            metavar="NAME=VALUE",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        _option(
            "ce-dice, ce, dice, focal, tversky, lovasz or boundary; their numbers are "
            "loss_arguments in config.toml. [default: ce-dice]"
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        _option("none, auto (by how rare a class is), or 1,3, background first. [default: none]"),
    ] = None,
    label_names: Annotated[
        str | None,
        _option("background,left,right. [default: what split.json says]"),
    ] = None,
    optimizer: Annotated[str | None, _option("adamw, adam or sgd. [default: adamw]")] = None,
    schedule: Annotated[
        str | None,
        _option("After the warm-up: cosine, poly or constant. [default: cosine]"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="config.toml of another run; options win over it.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run.")] = None,
    cross_validate: Annotated[
        bool,
        typer.Option("--cross-validate", help="Train and score every fold of 'split --folds'."),
    ] = False,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Do not train; suggest a learning rate.")
    ] = False,
    log: Annotated[
        str,
        typer.Option(
            help="tensorboard, or mlflow beside it: in RUN/mlflow.db, or where "
            "MLFLOW_TRACKING_URI says."
        ),
    ] = "tensorboard",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train on train.txt, choose the best epoch on val.txt; test.txt is never opened.

    The defaults suit a start without pretrained weights: 136 slices take 4 minutes on two CPU
    cores with AMX, about twice that without.

    Examples
    --------
    - `lungunet train data`
    - `lungunet train data --encoder resnet34 --size 512`
    - `lungunet train data --architecture unetplusplus`
    - `lungunet train --resume runs/001`
    """
    given = {
        name: value
        for name, value in locals().items()
        if name not in _NO_SETTINGS and value is not None
    }
    if data is not None:
        given["data"] = str(data)
    if smp:
        given["smp_arguments"] = dict(map(_argument, smp))
    console.be_quiet(quiet or as_json)
    if log not in ("tensorboard", "mlflow"):
        raise typer.BadParameter(f"'{log}' is not one of tensorboard, mlflow", param_hint="--log")
    if log == "mlflow" and (cross_validate or find_lr):
        raise ConfigError("logs runs, and this is none by itself. Leave it out.", where="--log")
    if find_lr and cross_validate:
        raise ConfigError(
            "do different things. Leave one out.", where="--find-lr, --cross-validate"
        )
    if resume is not None:
        others = {"out": out, "config": config, "cross-validate": cross_validate}
        others |= {"find-lr": find_lr, "overwrite": overwrite}
        _resume(resume, given, others, log=log, as_json=as_json)
        return
    from lungunet import RunConfig, next_run_folder

    if config is not None:
        settings = RunConfig.from_toml(config, **given)
    elif data is not None:
        settings = RunConfig.from_dict(given, where="options")
    else:
        raise typer.BadParameter("give the DATA folder that 'lungunet split' made")
    if find_lr:
        _find_lr(settings, out or Path("runs/find-lr"), overwrite, as_json)
        return
    with next_run_folder() if out is None else nullcontext(out) as folder:
        if cross_validate:
            _cross_validate(settings, folder, overwrite, as_json)
        else:
            _train(settings, folder, overwrite=overwrite, log=log, as_json=as_json)


def _argument(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value as JSON where it is some, such as a number or [64, 32]."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(
            "Write NAME=VALUE, as in decoder_attention_type=scse.", where=f"--smp {text}"
        )
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _resume(
    run: Path, given: dict[str, Any], others: Mapping[str, object], *, log: str, as_json: bool
) -> None:
    from lungunet import RunConfig, count_epochs

    extra = sorted({"smp" if n == "smp_arguments" else n for n in given} - RunConfig.MAY_CHANGE)
    extra += [name for name, value in others.items() if value]
    if extra:
        raise ConfigError(
            "a resumed run keeps its settings; only DATA, --epochs, --patience, "
            "--device, --workers, --cache and --save-every-minutes may change. Leave it out, or "
            "start a new run.",
            where=", ".join("--" + name.replace("_", "-") for name in extra),
        )
    settings = RunConfig.of_run(run, **given)
    with suppress(ConfigError):  # of a setting that is damaged where another takes its place
        _say_new_length(RunConfig.of_run(run), settings, done=count_epochs(run))
    _train(settings, run, resume=True, log=log, as_json=as_json)


def _say_new_length(before: "RunConfig", now: "RunConfig", *, done: int) -> None:
    """Say what another number of epochs does to the learning rate."""
    if before.epochs == now.epochs or done >= now.epochs or now.schedule == "constant":
        return
    fine = 1000  # steps per epoch, so that warm-up in fractions of an epoch counts
    lr_old, lr_new = (c.learning_rate(done * fine, steps_per_epoch=fine) for c in (before, now))
    console.say(
        f"{before.epochs} -> {counted(now.epochs, 'epoch')}: from epoch {done + 1} on the learning "
        f"rate is that of a run of {now.epochs}. It steps from {lr_old:.1e} to {lr_new:.1e} and "
        f"falls to 0 at epoch {now.epochs}."
    )


def _train(
    config: "RunConfig",
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    log: str = "tensorboard",
    as_json: bool = False,
) -> None:
    from lungunet import is_first_process, train_run, write_report

    shows = is_first_process()
    start = time.perf_counter()
    results: list[EpochResult] = []
    heading = (
        f"{config.network}, {config.size}x{config.size}, batch {config.batch_size}, "
        f"{counted(config.epochs, 'epoch')} -> {out}\n"
    )
    tell, close = _tracker(log, config, out, resume=resume) if shows else (None, None)
    with StopSignal() as stop:
        try:
            for result in train_run(
                config,
                out,
                resume=resume,
                overwrite=overwrite,
                progress=console.HeadedProgress(heading) if shows else silent,
                should_stop=stop,
                on_epoch=tell,
            ):
                if shows:
                    _say_row(result, first=not results)
                results.append(result)
        except KeyboardInterrupt:
            stop.number = stop.number or signal.SIGINT
        finally:
            if close is not None:
                close()
    if not shows:
        raise typer.Exit(stop.exit_code if stop.number else 0)
    if stop.number and not (results and results[-1].epoch == config.epochs):
        _say_stopped(out)
        raise typer.Exit(stop.exit_code)
    if not results:
        why, how = f"{counted(config.epochs, 'epoch')} done", "a larger --epochs"
        if config.patience:
            why += f", or none was better for {counted(config.patience, 'epoch')}"
            how += ", or --patience 0"
        console.say(f"{out}: nothing left to do: {why}. Go on with {how}.")
        if as_json:
            console.say_json({"run": str(out), "epochs": [], "model": str(out / "best")})
        return
    seconds, report = time.perf_counter() - start, write_report(out)
    if as_json:
        facts = {"run": str(out), "model": str(out / "best"), "report": str(report)}
        console.say_json(
            {**facts, "seconds": seconds, "epochs": [result.to_dict() for result in results]}
        )
    _say_end(config, out, results, report=report, seconds=seconds)


def _tracker(
    log: str, config: "RunConfig", out: Path, *, resume: bool
) -> "tuple[Callable[[EpochResult], None] | None, Callable[[], None] | None]":
    """Return who is told of each epoch, and of the end."""
    if log != "mlflow":
        return None, None
    from lungunet import MlflowLog

    tracker = MlflowLog(out, config, resume=resume)
    return tracker.add_epoch, tracker.close


def _say_stopped(out: Path) -> None:
    if (out / "last.ckpt").exists():
        console.warn(f"Stopped. Go on with: {console.command('train', '--resume', out)}")
    else:
        console.warn("Stopped before the first step was done: there is nothing to resume.")


def _say_end(
    config: "RunConfig", out: Path, results: "list[EpochResult]", *, report: Path, seconds: float
) -> None:
    best = next((result for result in reversed(results) if result.is_best), None)
    if best is not None:
        size = f"{config.size}x{config.size}"
        scores = f"val IoU {console.short(best.val.iou)}{_each_class(best)}"
        if best.val_ill is not None:
            ill = f"val_ill IoU {console.short(best.val_ill.iou)}"
            scores = f"mean {console.short(best.score)} of {scores} and {ill}"
        console.say(f"\nbest {scores} in epoch {best.epoch}, pooled, at {size}")
    else:
        console.say(
            "\nno epoch of these beats the best one before them, which stays in best/: "
            f"{out / 'best' / 'README.md'} has its scores"
        )
    console.say(f"{counted(len(results), 'epoch')} in {console.minutes(seconds)}")
    console.say(f"model:  {out / 'best'}")
    console.say(f"report: {report}")
    console.say(f"curves: {shlex.join(['tensorboard', '--logdir', str(out)])}")
    console.say(f"next:   {console.command('evaluate', out, config.data)}")


def _find_lr(config: "RunConfig", out: Path, overwrite: bool, as_json: bool) -> None:
    from lungunet import find_learning_rate

    tested = find_learning_rate(config, out, overwrite=overwrite, progress=console.progress_bar)
    rate = f"{tested.suggestion:.1e}"
    if as_json:
        console.say_json({"suggestion": tested.suggestion, "curve": str(out / "find_lr.svg")})
    console.say(f"the loss fell fastest at a learning rate of {rate}")
    console.say(f"curve:  {out / 'find_lr.svg'}")
    console.say(f"next:   {console.command('train', config.data, '--lr', rate)}")


def _cross_validate(config: "RunConfig", out: Path, overwrite: bool, as_json: bool) -> None:
    from lungunet import FoldResult, cross_validate

    start = time.perf_counter()
    length = counted(config.epochs, "epoch")
    console.say(f"{config.network}, {config.size}x{config.size}, {length} -> {out}\n")
    folds: list[FoldResult] = []
    first = True
    for result in cross_validate(config, out, overwrite=overwrite, progress=console.progress_bar):
        if not isinstance(result, FoldResult):
            _say_row(result, first=first)
            first = False
            continue
        folds.append(result)
        iou = console.short(result.card.pooled.iou)
        console.say(f"{result.name}: lung IoU {iou}, last epoch\n")
    if as_json:
        scores = [
            {"name": fold.name, "slices": len(fold.card.cases), "iou": fold.card.pooled.iou}
            for fold in folds
        ]
        console.say_json({"out": str(out), "scores": str(out / "scores.json"), "folds": scores})
    _say_spread(folds)
    console.say(f"\n{len(folds)} folds in {console.minutes(time.perf_counter() - start)}")
    console.say(f"scores of every slice by a model that never saw it: {out / 'scores.json'}")


def _say_spread(folds: "list[FoldResult]") -> None:
    """Print a row per fold, then mean and standard deviation of the folds that have a score."""
    from statistics import fmean, stdev

    rows: list[list[Any]] = []
    for fold in folds:
        threshold = fold.card.baselines.get("threshold")
        distance = fold.card.per_case("hd95").mean
        scores = [fold.card.pooled.iou, fold.card.pooled.dice, distance]
        scores.append(threshold.pooled.iou if threshold else float("nan"))
        rows.append([fold.name, len(fold.card.cases), *scores])
    columns = [
        [score for score in column if not math.isnan(score)]
        for column in zip(*(row[2:] for row in rows), strict=True)
    ]
    rows.append(["mean", "", *(fmean(known) if known else None for known in columns)])
    if len(folds) > 1:
        spread = (stdev(known) if len(known) > 1 else None for known in columns)
        rows.append(["standard deviation", "", *spread])
    header = ("pooled, at file size", "slices", "lung IoU", "Dice", "HD95, px", "threshold IoU")
    console.show_table(header, rows)
    for remark in dict.fromkeys(remark for fold in folds for remark in fold.card.remarks):
        console.say(remark)


def _say_row(result: "EpochResult", *, first: bool = False) -> None:
    train, val = result.train, result.val
    # With two classes IoU is that of lung; with more it is that of all of them as one.
    classes = _lung_classes(result)
    columns = [column for column in _COLUMNS if result.val_ill or column[0] != "val_ill"]
    columns += [(f"val {name}", max(7, console.width_of(name) + 4)) for name in classes]
    if first:
        console.say("  ".join(console.pad(name, width, right=True) for name, width in columns))
    scores = [train.loss, val.loss, train.accuracy, val.accuracy, train.iou, val.iou]
    scores += [result.val_ill.iou] if result.val_ill else []
    seconds = f"{sum(measured.seconds for measured in result.passes.values()):.1f}"
    cells = [str(result.epoch), *map(console.short, scores), f"{result.lr:.1e}", seconds]
    cells += map(console.short, classes.values())
    row = "  ".join(
        console.pad(cell, width, right=True)
        for cell, (_, width) in zip(cells, columns, strict=True)
    )
    console.say(row + ("  best" if result.is_best else ""))


def _each_class(result: "EpochResult") -> str:
    """Say the IoU of each class, where there is more than lung."""
    classes = _lung_classes(result)
    if not classes:
        return ""
    return " (" + ", ".join(f"{name} {console.short(iou)}" for name, iou in classes.items()) + ")"


def _lung_classes(result: "EpochResult") -> dict[str, float]:
    """Return val IoU of each class of lung by its name, where there is more than one."""
    return dict(list(result.class_iou.items())[1:])
