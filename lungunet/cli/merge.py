"""``lungunet merge``: one folder of the parts of a job."""

from pathlib import Path
from typing import Annotated

import typer

from lungunet.cli import console
from lungunet.cli.lights import say_lights
from lungunet.cli.options import Json, Quiet
from lungunet.errors import DataError, counted


def merge(
    out: Annotated[
        Path,
        typer.Argument(help="Folder that `predict --part` wrote to.", metavar="OUT"),
    ],
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Join the tables of a job that was divided by `predict --part`.

    They are those that one process would have written: measurements.csv, triage.csv, and errors.csv
    where something could not be used. Parts that are not done are named, the tables are of what is
    there, and the exit code is 1; so it is where something was skipped.

    Examples
    --------
    - `lungunet predict lungs scans --out masks --part 3/16`
    - `lungunet merge masks`
    """
    from lungunet import merge_parts

    console.be_quiet(quiet or as_json)
    is_whole = not (out / "parts").exists()
    merged = merge_parts(out)
    none = "; it holds no parts, there was nothing to join" if is_whole else ""
    console.say(f"{counted(merged.masks, 'mask')} in {out}{none}")
    if not is_whole:
        say_lights(out / "triage.csv")
    if as_json:
        console.say_json(
            {
                "out": str(out),
                "masks": merged.masks,
                "skipped": list(merged.failed),
                "missing": list(merged.missing),
            }
        )
    for each in merged.missing:
        console.warn(f"lungunet: {each}")
    if merged.missing:
        raise DataError(
            f"{counted(len(merged.missing), 'part')} not done. Run each again with "
            "--skip-existing, then merge.",
            where=out,
        )
    console.refuse_skipped(merged.failed, merged.masks + len(merged.failed), "item")
