"""``lungunet predict``: a mask for every slice, or for every scan."""

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lungunet.cli import console
from lungunet.cli.options import Device, Json, Overwrite, Precision, Quiet, Resample, Series
from lungunet.errors import ConfigError, counted, listed

if TYPE_CHECKING:
    from lungunet import Plausibility, ScanResult, SliceResult

_SHOWN = 5  # masks that are not green
_GO_ON = "The same command with --skip-existing goes on."


def predict(
    model: Annotated[
        str,
        typer.Argument(
            help="Run folder, model folder, .onnx file, a word (lungs, threshold), or from the hub "
            "hf://OWNER/NAME@REVISION. Averaged: the folder of a cross-validation, or A+B.",
            metavar="MODEL",
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Slices: files, folders, globs or lists (.txt). Or scans: NIfTI, NRRD, MHA, DICOM "
            "folders, or a study of a PACS: dicomweb+https://HOST/PATH/studies/UID.",
            metavar="INPUT...",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the masks.")],
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
            "--triage/--no-triage", help="Slices: judge each mask, about 40 ms; in OUT/triage.csv."
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
    resample: Resample = False,
    format: Annotated[
        str,
        typer.Option(
            help="Scans: masks as nifti, nrrd, or, of DICOM series, dicom-seg or rtstruct, which "
            "name the patient. auto: as the scan, NIfTI of DICOM."
        ),
    ] = "auto",
    store: Annotated[
        bool,
        typer.Option("--store", help="Scans of a PACS: send the masks back to it, as DICOM SEG."),
    ] = False,
    tta: Annotated[
        bool,
        typer.Option("--tta", help="Average each slice with its mirror image; twice the time."),
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also how unsure of each pixel, 0 to 1, in OUT/uncertainty: between the models of "
            "an ensemble, else by probabilities.",
        ),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(help="Slices at once; more take more memory.", min=1)
    ] = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Go on where the same command stopped, or add to what it made.",
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write one mask per slice, or per scan.

    Slices: same stem, PNG, 0 and 255, at the size of the slice, and measurements.csv. Scans: 0 and
    1, on the grid of the scan. triage.csv says which masks to look at first. A file that cannot be
    read is named and skipped, and the exit code is 1 in the end.

    Examples
    --------
    - `lungunet predict lungs study/ --out masks`
    - `lungunet predict runs/001 slices/ --out masks --overlay`
    """
    from lungunet import (
        Predictor,
        ScanFiles,
        SliceFiles,
        is_volume_source,
        predict_scans,
        predict_slices,
    )

    console.be_quiet(quiet or as_json)
    scans = [source for source in inputs if is_volume_source(source)]
    if scans and len(scans) < len(inputs):
        others = [source for source in inputs if source not in scans]
        raise ConfigError(
            f"scans, others are none ({listed(others, separator=', ')}). Predict slices and scans "
            "one after the other, into different folders; of a DICOM series name the folder.",
            where=listed(scans, separator=", "),
        )
    of_slices = {"--overlay": overlay, "--probabilities": probabilities, "--no-triage": not triage}
    of_scans = {
        **{"--sides": sides, "--preview": preview, "--raw": raw},
        **{"--series": series is not None, "--resample": resample, "--format": format != "auto"},
        "--store": store,
    }
    for option, given in (of_slices if scans else of_scans).items():
        if given:
            meant, these = ("slices", "scans") if scans else ("scans", "slices")
            raise ConfigError(f"for {meant}, these are {these}. Leave it out.", where=option)
    if overwrite and skip_existing:
        raise ConfigError(
            "one replaces what the other keeps. Leave one out.",
            where="--overwrite and --skip-existing",
        )
    predictor = Predictor.load(model, device=device, precision=precision, tta=tta)  # type: ignore[arg-type]
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "overwrite": overwrite,
        "skip_existing": skip_existing,
        "progress": console.progress_bar,
    }
    if scans:
        scan_files = ScanFiles(
            sides=sides,
            preview=preview,
            format=format,  # type: ignore[arg-type]
            store=store,
            uncertainty=uncertainty,
        )
        _show_scans(
            predict_scans(
                predictor,
                inputs,
                out,
                write=scan_files,
                refine=not raw,
                series=series,
                resample=resample,
                **common,
            ),
            out,
            as_json,
            names_patient=store or format in ("dicom-seg", "rtstruct"),
        )
    else:
        slice_files = SliceFiles(
            overlay=overlay, probabilities=probabilities, triage=triage, uncertainty=uncertainty
        )
        results = predict_slices(predictor, inputs, out, write=slice_files, **common)
        _show_slices(results, out, as_json)


def _show_slices(results: "Generator[SliceResult, None, None]", out: Path, as_json: bool) -> None:
    done: list[SliceResult] = []
    failed: list[str] = []
    try:
        with closing(results):
            done += [each for each in console.going_on(results, failed) if each.error is None]
    except KeyboardInterrupt as err:
        console.warn(f"\nlungunet: interrupted: {err}. {_GO_ON}")
        raise typer.Exit(130) from None
    there = _were_there(sum(each.skipped for each in done))
    console.say(f"{counted(len(done), 'mask')} in {out}{there}")
    if as_json:
        _say_results(out, done, failed)
    checked = {each.name: each.checked for each in done if each.checked}
    if checked:
        say_triage(out / "triage.csv", checked)
    console.refuse_skipped(len(failed), len(done) + len(failed), "file")


def _show_scans(
    results: "Generator[ScanResult, None, None]", out: Path, as_json: bool, *, names_patient: bool
) -> None:
    done: list[ScanResult] = []
    stopped = ""
    failed: list[str] = []
    try:
        with closing(results):
            for result in console.going_on(results, failed):
                if result.error is None:
                    done.append(result)
                    if not result.skipped:
                        console.say(result.summary)
    except KeyboardInterrupt as err:
        stopped = str(err) or f"{len(done)} done"
    there = _were_there(sum(each.skipped for each in done))
    console.say(f"\n{counted(len(done), 'mask')} in {out}{there}")
    if names_patient and done:
        console.say("They name patient and study, as the scans do. Treat them alike.")
    if as_json:
        _say_results(out, done, failed)
    if stopped:
        console.warn(f"lungunet: interrupted: {stopped}. {_GO_ON}")
        raise typer.Exit(130)
    console.refuse_skipped(len(failed), len(done) + len(failed), "scan")


def _say_results(
    out: Path, done: "Sequence[SliceResult | ScanResult]", failed: Sequence[str]
) -> None:
    """Print as JSON what became of each file; what was measured stands in the tables."""
    console.say_json(
        {
            "out": str(out),
            "masks": [
                {
                    "path": str(each.path),
                    "mask": str(each.mask),
                    "light": each.checked and each.checked.light,
                    "worry": each.checked and each.checked.worry,
                    "reasons": list(each.checked.reasons) if each.checked else [],
                }
                for each in done
            ],
            "skipped": list(failed),
        }
    )


def _were_there(count: int) -> str:
    return f", {count} from before" if count else ""


def say_triage(path: Path, checked: "Mapping[str, Plausibility]") -> None:
    """Print how many masks are red, amber and green, and why the most worrying are not green."""
    lights = Counter(trust.light for trust in checked.values())
    summary = ", ".join(f"{lights[light]} {light}" for light in ("red", "amber", "green"))
    console.say(f"{summary}: {path}")
    worrying = sorted(
        (-trust.worry, name) for name, trust in checked.items() if trust.light != "green"
    )
    for _, name in worrying[:_SHOWN]:
        console.say(f"  {checked[name].light:<5}  {name}: {checked[name].reasons[0]}")
    if len(worrying) > _SHOWN:
        console.say(f"  and {len(worrying) - _SHOWN} more")
