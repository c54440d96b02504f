"""``lungunet demo``: the whole chain on made-up patients, each step with the command for it."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from lungunet.cli import console, evaluate, pairs, predict, train
from lungunet.cli.options import Overwrite
from lungunet.errors import ConfigError, listed

_PATIENTS, _SLICES, _SIZE_PX = 24, 5, 256
_ILL = 0.5  # of the patients
_DISEASE = 0.3  # of the samples in training
_TRAIN_PX, _EPOCHS = 128, 18
_ONE_PATIENT = r"^(patient-\d+)"  # the group of --group


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for everything it makes.")
    ] = Path("demo"),
    overwrite: Overwrite = False,
) -> None:
    """Make CT phantoms, split, train, evaluate, predict: a minute or two on two quiet cores.

    Example: `lungunet demo --out demo`
    """
    start = time.perf_counter()
    images, masks, data, run = out / "images", out / "masks", out / "data", out / "run"
    existing = [str(path) for path in (images, masks, data, run) if path.exists()]
    if existing and not overwrite:
        raise ConfigError(
            "already there. Add --overwrite to replace, or choose another folder.",
            where=listed(existing, separator=", "),
        )
    _make_phantoms(out)
    _announce(
        *("split", images, masks, data, "--val", 0.15, "--test", 0.2, "--group", _ONE_PATIENT)
    )
    pairs.split(images, masks, data, val=0.15, test=0.2, group=_ONE_PATIENT, overwrite=overwrite)
    _announce(
        *("train", data, "--out", run, "--size", _TRAIN_PX),
        *("--epochs", _EPOCHS, "--disease", _DISEASE),
    )
    train.train(
        data, out=run, size=_TRAIN_PX, epochs=_EPOCHS, disease=_DISEASE, overwrite=overwrite
    )
    _announce("evaluate", run, data)
    evaluate.evaluate(str(run), str(data))
    console.say(
        "\nHalf of these patients have lungs that are dense in places. A threshold sees air alone "
        "and leaves them out; a network that was shown such lungs finds more of them."
    )
    predicted = out / "predicted"
    _announce("predict", run, data / "test.txt", "--out", predicted, "--overlay")
    predict.predict(
        str(run), [str(data / "test.txt")], out=predicted, overlay=True, overwrite=overwrite
    )
    sheet = _lay_out(data, predicted, out / "overlay.png")
    console.say(f"\nAll done in {console.minutes(time.perf_counter() - start)}.")
    console.say(f"masks:   {predicted}")
    console.say(f"overlay: {sheet} (truth blue, prediction orange)")
    console.say(f"curves:  tensorboard --logdir {run}")


def _make_phantoms(out: Path) -> None:
    from lungunet import write_phantoms

    console.say(
        f"$ python -c \"import lungunet; lungunet.write_phantoms('{out.as_posix()}', "
        f'patients={_PATIENTS}, slices={_SLICES}, size={_SIZE_PX}, disease={_ILL})"'
    )
    write_phantoms(
        out, patients=_PATIENTS, slices=_SLICES, size=_SIZE_PX, disease=_ILL,
        progress=console.progress_bar,
    )  # fmt: skip
    console.say(
        f"{_PATIENTS * _SLICES} slices of {_PATIENTS} made-up patients in {out}, half of them ill"
    )


def _announce(*words: object) -> None:
    console.say("\n$ lungunet " + shlex.join(str(word) for word in words))


def _lay_out(data: Path, predicted: Path, path: Path) -> Path:
    """Draw truth and prediction of every test slice on one sheet."""
    from lungunet import (
        LUNG_CODEC,
        LUNG_WINDOW,
        draw_overlay,
        read_manifest,
        read_mask,
        read_pair,
        tile_pictures,
        write_picture,
    )

    pictures = []
    for pair in read_manifest(data / "test.txt"):
        image, truth = read_pair(pair, LUNG_CODEC)
        pred = LUNG_CODEC.encode(read_mask(predicted / f"{pair.name}.png"))
        pictures.append(draw_overlay(LUNG_WINDOW.to_grey(image), truth=truth, pred=pred))
    write_picture(path, tile_pictures(pictures, columns=6, side=256))
    return path
