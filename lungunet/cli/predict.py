"""``lungunet predict``: a mask for every slice."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import (
    Device,
    Overwrite,
    Precision,
    refuse_existing,
    refuse_inputs,
)
from lungunet.errors import ConfigError, DataError, listed

if TYPE_CHECKING:
    from lungunet.inference.predictor import Prediction, Predictor


def predict(
    model: Annotated[
        str,
        typer.Argument(help="Run folder, model folder, or the word threshold.", metavar="MODEL"),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(help="Files, folders, globs or lists (.txt).", metavar="INPUT..."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the masks.")],
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also draw the outlines, in OUT/overlays.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write float TIFFs, in OUT/probabilities.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Slices per forward pass.", min=1)] = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Write one mask per slice: same stem, PNG, 0 and 255, at the size of the slice.

    A file that cannot be read is named and skipped, and the exit code is 1 in the end.

    Examples: `lungunet predict runs/001 slices/ --out masks --overlay` |
    `lungunet predict threshold slices/ --out masks`
    """
    from lungunet.data.manifest import list_images
    from lungunet.inference.predictor import Predictor

    found = [file for source in inputs for file in list_images(source)]
    files = list({file.resolve(): file for file in found}.values())  # a file named twice is one
    _refuse_same_stem(files)
    masks = [out / f"{file.stem}.png" for file in files]
    _refuse_input_folder(out, inputs)
    refuse_inputs(masks, files)
    refuse_existing(masks, overwrite)
    predictor = Predictor.load(model, device=device, precision=precision)  # type: ignore[arg-type]
    failed = []
    predictions = predictor.predict_files(files, batch_size=batch_size)
    for prediction in console.progress_bar(predictions, desc="predict", total=len(files)):
        if prediction.error:
            failed.append(prediction.error)
            console.warn(f"lungunet: skipped {prediction.error}")
            continue
        _write(prediction, predictor, out, overlay=overlay, probabilities=probabilities)
    console.say(f"{len(files) - len(failed)} masks in {out}")
    if failed:
        raise DataError(f"{len(failed)} of {len(files)} files were skipped. Mend or remove them.")


def _refuse_input_folder(out: Path, inputs: list[str]) -> None:
    if any(Path(source).is_dir() and Path(source).resolve() == out.resolve() for source in inputs):
        raise ConfigError(
            f"{out}: is the folder that is read; masks would lie between the slices. "
            "Choose another --out."
        )


def _refuse_same_stem(files: list[Path]) -> None:
    by_stem = defaultdict(list)
    for file in files:
        by_stem[file.stem].append(str(file))
    clashes = [" and ".join(names) for names in by_stem.values() if len(names) > 1]
    if clashes:
        raise ConfigError(
            f"files that would write the same mask:\n  {listed(clashes)}\n"
            "Predict them into different folders."
        )


def _write(
    prediction: "Prediction",
    predictor: "Predictor",
    out: Path,
    *,
    overlay: bool,
    probabilities: bool,
) -> None:
    from lungunet.data.ct import write_image, write_mask, write_picture
    from lungunet.data.overlay import draw_overlay

    stem = prediction.path.stem
    classes = prediction.classes
    write_mask(out / f"{stem}.png", predictor.codec.decode(classes))
    if overlay and prediction.image is not None:
        grey = predictor.to_grey(prediction.image)
        write_picture(out / "overlays" / f"{stem}.png", draw_overlay(grey, pred=classes))
    if probabilities and prediction.probabilities is not None:
        names = predictor.codec.names
        for index in range(1, len(names)):
            suffix = "" if len(names) == 2 else f"_{names[index].replace(' ', '-')}"
            path = out / "probabilities" / f"{stem}{suffix}.tif"
            write_image(path, prediction.probabilities[index])
