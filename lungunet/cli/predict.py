"""``lungunet predict``: a mask for every slice, or for every scan."""

from pathlib import Path
from typing import Annotated

import typer

from lungunet.cli.options import Device, Overwrite, Precision, Series
from lungunet.errors import ConfigError, listed


def predict(
    model: Annotated[
        str,
        typer.Argument(
            help="Run folder, model folder, .onnx file, or the word threshold.", metavar="MODEL"
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Slices: files, folders, globs or lists (.txt). Or scans: NIfTI, NRRD, MHA, DICOM "
            "folders.",
            metavar="INPUT...",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the masks.")],
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Slices: also draw the outlines, in OUT/overlays.")
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Slices: also float TIFFs, in OUT/probabilities."),
    ] = False,
    triage: Annotated[
        bool,
        typer.Option(
            "--triage/--no-triage", help="Slices: judge each mask, about 10 ms; in OUT/triage.csv."
        ),
    ] = True,
    sides: Annotated[
        bool, typer.Option("--sides", help="Scans: 1 is the left, 2 the right lung.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Scans: also a picture of each, in OUT/previews.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Scans: what the model says, not mended in 3-D.")
    ] = False,
    series: Series = None,
    tta: Annotated[
        bool,
        typer.Option("--tta", help="Average each slice with its mirror image; twice the time."),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(help="Slices at once; more take more memory.", min=1)
    ] = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Write one mask per slice, or per scan.

    Slices: same stem, PNG, 0 and 255, at the size of the slice, and measurements.csv. Scans: 0 and
    1, on the grid of the scan. triage.csv says which masks to look at first. A file that cannot be
    read is named and skipped, and the exit code is 1 in the end.

    Examples: `lungunet predict runs/001 slices/ --out masks --overlay` |
    `lungunet predict threshold scan.nii.gz --out masks`
    """
    from lungunet.cli.predict_slices import SliceOutput, predict_slices
    from lungunet.cli.predict_volumes import VolumeOutput, predict_volumes
    from lungunet.inference.predictor import Predictor
    from lungunet.volumes.formats import is_volume_source

    volumes = [source for source in inputs if is_volume_source(source)]
    if volumes and len(volumes) < len(inputs):
        raise ConfigError(
            "scans among slices. Predict them one after the other, into different folders.",
            where=listed(volumes, separator=", "),
        )
    of_slices = {"--overlay": overlay, "--probabilities": probabilities, "--no-triage": not triage}
    of_scans = {
        **{"--sides": sides, "--preview": preview, "--raw": raw},
        "--series": series is not None,
    }
    for option, given in (of_slices if volumes else of_scans).items():
        if given:
            meant, found = ("slices", "scans") if volumes else ("scans", "slices")
            raise ConfigError(f"for {meant}, these are {found}. Leave it out.", where=option)
    predictor = Predictor.load(model, device=device, precision=precision, tta=tta)  # type: ignore[arg-type]
    if volumes:
        predict_volumes(
            predictor,
            inputs,
            VolumeOutput(out, sides=sides, preview=preview),
            batch_size=batch_size,
            series=series,
            raw=raw,
            overwrite=overwrite,
        )
    else:
        predict_slices(
            predictor,
            inputs,
            SliceOutput(out, overlay=overlay, probabilities=probabilities, triage=triage),
            batch_size=batch_size,
            overwrite=overwrite,
        )
