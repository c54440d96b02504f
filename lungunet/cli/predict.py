"""``lungunet predict``: a mask for every slice, or for every scan."""

from collections import Counter
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lungunet.cli import console
from lungunet.cli.lights import say_lights
from lungunet.cli.options import Devices, Json, Overwrite, Precision, Quiet, Resample, Series
from lungunet.errors import ConfigError, counted, listed

if TYPE_CHECKING:
    from lungunet import ScanResult, SliceResult

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
        typer.Option(
            "--probabilities", help="Also those of lung, as floats, in OUT/probabilities."
        ),
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
        bool | None,
        typer.Option(
            "--tta/--no-tta",
            help="Average each slice with its mirror image; twice the time. Default: for lungs "
            "alone.",
        ),
    ] = None,
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
    device: Devices = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Go on where the same command stopped, or add to what it made.",
        ),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            help="3/16 does the third of 16 parts, by a hash of each path; `merge` joins them.",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Share it on a Ray cluster: its address, or auto for that of this machine.",
            show_default=False,
        ),
    ] = None,
    ray_cores: Annotated[
        int, typer.Option(help="Of a cluster without GPUs: cores for each process.", min=1)
    ] = 1,
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
        Sharing,
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
    of_slices = {"--overlay": overlay, "--no-triage": not triage}
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
    sharing = Sharing(part, devices=_several(device), ray=ray, ray_cores=ray_cores)
    if ray and device != "auto":
        raise ConfigError(
            "Ray says itself which devices there are. Leave it out.", where="--device"
        )
    if not sharing.is_alone:
        device = "cpu"  # of this process, which hands out the work
    predictor = Predictor.load(model, device=device, precision=precision, tta=tta)  # type: ignore[arg-type]
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "overwrite": overwrite,
        "skip_existing": skip_existing,
        "sharing": sharing,
        "progress": console.progress_bar,
    }
    if scans:
        scan_files = ScanFiles(
            sides=sides,
            preview=preview,
            format=format,  # type: ignore[arg-type]
            store=store,
            uncertainty=uncertainty,
            probabilities=probabilities,
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
            _Told(out, part, as_json=as_json),
            names_patient=store or format in ("dicom-seg", "rtstruct"),
        )
    else:
        slice_files = SliceFiles(
            overlay=overlay, probabilities=probabilities, triage=triage, uncertainty=uncertainty
        )
        results = predict_slices(predictor, inputs, out, write=slice_files, **common)
        _show_slices(results, _Told(out, part, as_json=as_json))


def _several(device: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in device.split(",") if name.strip())
    return names if len(names) > 1 else ()


class _Told:
    """What is to be said of many results in the end: no more of each than that takes."""

    def __init__(self, out: Path, part: str | None, *, as_json: bool) -> None:
        self.out, self.part, self.as_json = out, part, as_json
        self.done = self.skipped = 0
        self.failed: list[str] = []
        self.new: Counter[str] = Counter()
        self._masks: list[dict[str, Any]] = []

    def add(self, result: "SliceResult | ScanResult") -> None:
        """Keep what is to be said of a mask."""
        checked = result.checked
        self.done += 1
        self.skipped += result.skipped
        if checked:
            self.new[checked.light] += 1
        if self.as_json:
            self._masks.append(
                {
                    "path": str(result.path),
                    "mask": str(result.mask),
                    "light": checked and checked.light,
                    "worry": checked and checked.worry,
                    "reasons": list(checked.reasons) if checked else [],
                }
            )

    def say_masks(self) -> None:
        """Print how many there are, and where."""
        if not self.done:
            console.say("no mask was made")
            return
        part = f", part {self.part}" if self.part else ""
        before = f", {self.skipped} from before" if self.skipped else ""
        console.say(f"{counted(self.done, 'mask')} in {self.out}{part}{before}")
        if self.part:
            console.say(f"When all parts are done: {console.command('merge', self.out)}")
        else:
            table = self.out / "measurements.csv"
            console.say(f"measured: {table}; what its columns are: lungunet measure --help")

    def say_lights(self) -> None:
        """Print the lights of all masks that are there, of this command and of those before."""
        from lungunet import Sharing

        if self.done:
            table = Sharing(self.part).folder(self.out) / "triage.csv"
            say_lights(table, self.new, named=not self.part)

    def say_results(self) -> None:
        """Print as JSON what became of each file; what was measured stands in the tables."""
        if self.as_json:
            console.say_json({"out": str(self.out), "masks": self._masks, "skipped": self.failed})


def _show_slices(results: "Generator[SliceResult, None, None]", told: _Told) -> None:
    try:
        with closing(results):
            for result in console.going_on(results, told.failed):
                if result.error is None:
                    told.add(result)
    except KeyboardInterrupt as err:
        console.warn(f"\nlungunet: interrupted: {err}. {_GO_ON}")
        raise typer.Exit(130) from None
    told.say_masks()
    told.say_results()
    told.say_lights()
    console.refuse_skipped(told.failed, told.done + len(told.failed), "file")


def _show_scans(
    results: "Generator[ScanResult, None, None]", told: _Told, *, names_patient: bool
) -> None:
    stopped = ""
    try:
        with closing(results):
            for result in console.going_on(results, told.failed):
                if result.error is None:
                    told.add(result)
                    if not result.skipped:
                        console.say(result.summary)
    except KeyboardInterrupt as err:
        stopped = str(err) or f"{told.done} done"
    console.say()
    told.say_masks()
    if names_patient and told.done:
        console.say("The masks name patient and study, as the scans do. Treat them alike.")
    told.say_results()
    if told.skipped:  # of the others a line each said it
        told.say_lights()
    if stopped:
        console.warn(f"lungunet: interrupted: {stopped}. {_GO_ON}")
        raise typer.Exit(130)
    console.refuse_skipped(told.failed, told.done + len(told.failed), "scan")
