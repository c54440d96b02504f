"""``lungunet demo``: the whole chain on made-up patients, each step with the command for it."""

import shlex
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from lungunet.cli import console, evaluate, pairs, predict, train
from lungunet.cli.options import Overwrite
from lungunet.errors import ConfigError, listed

_PATIENTS, _SLICES, _SIZE_PX = 22, 5, 256
_ILL = 0.5  # of the patients
_DISEASE = 0.3  # of the samples in training
_TRAIN_PX, _EPOCHS = 128, 18
_DENSE_HU, _DENSE_SHARE = -300, 0.08  # of the lung: vessels fill 4 % of a healthy one
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
    import_module("lungunet.models.outside")  # what does not fit is told before anything is made
    _make_phantoms(out)
    _announce(
        *("split", images, masks, data, "--val", 0.15, "--test", 0.2, "--group", _ONE_PATIENT)
    )
    pairs.split(images, masks, data, val=0.15, test=0.2, group=_ONE_PATIENT, overwrite=overwrite)
    console.say(
        f"\nDisease is painted into {_DISEASE:.0%} of the samples; val_ill is the IoU on val with "
        "disease painted in."
    )
    _announce(
        *("train", data, "--out", run, "--size", _TRAIN_PX),
        *("--epochs", _EPOCHS, "--disease", _DISEASE),
    )
    train.train(
        data, out=run, size=_TRAIN_PX, epochs=_EPOCHS, disease=_DISEASE, overwrite=overwrite
    )
    _announce("evaluate", run, data)
    evaluate.evaluate(str(run), str(data))
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
    _tell(data, predicted)
    console.say(
        "\nNow with your own slices, and masks of them, in two folders:\n"
        "  lungunet split IMAGES MASKS data\n"
        "  lungunet train data\n"
        "Without masks, with the model that is built in: lungunet predict lungs IMAGES --out masks"
    )


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


def _tell(data: Path, predicted: Path) -> None:
    """Say how much of the lung the network finds, and how much a threshold, by how ill it is."""
    from lungunet import Predictor, read_image, read_manifest, read_mask

    rule = Predictor.load("threshold")
    patients: dict[str, list[int]] = {}
    for pair in read_manifest(data / "test.txt"):
        hu, lung = read_image(pair.image), read_mask(pair.require_mask()) > 0
        masks = read_mask(predicted / f"{pair.name}.png"), rule.predict(hu)
        pixels = lung, lung & (hu > _DENSE_HU), *(lung & (mask > 0) for mask in masks)
        counts = patients.setdefault(pair.name.split("_")[0], [0] * len(pixels))
        counts[:] = (count + int(more.sum()) for count, more in zip(counts, pixels, strict=True))
    console.say("\nWhat was seen, on patients that the network was not trained on:")
    for name, ill in (("lungs dense in places", True), ("healthy lungs", False)):
        some = [each for each in patients.values() if (each[1] > _DENSE_SHARE * each[0]) is ill]
        whole, _, network, threshold = (sum(each[place] for each in some) for place in range(4))
        if not whole:
            continue
        console.say(
            f"  {name} ({len(some)} of {len(patients)} patients): the network finds "
            f"{network / whole:.0%} of the lung, the threshold {threshold / whole:.0%}"
        )
    console.say(
        "A threshold sees air alone. In healthy lungs that is enough, and no network is needed; "
        "where disease has\nfilled the air, a network finds more if it was shown such lungs, and "
        "more again with more patients."
    )


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
