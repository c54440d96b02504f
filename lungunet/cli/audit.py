"""``lungunet audit``: whether files and masks can be trusted, worst first."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import Json, LabelThreshold, Overwrite, refuse_existing
from lungunet.errors import DataError

if TYPE_CHECKING:
    from lungunet.evaluation.audit import Audit, Suspect

_SHOWN = 20
_REASONS_SHOWN = 2
_DOUBTFUL = 0.005  # lower scores round to 0.00
_CLEAR = 0.2  # on 200 real slices right masks stayed below 0.1, wrong ones began at 0.1


def audit(
    data: Annotated[Path, typer.Argument(help="Folder with the lists.", metavar="DATA")],
    out: Annotated[Path, typer.Option(help="Folder for tables and pictures.")],
    folds: Annotated[
        int,
        typer.Option(
            help="Also train this many small models, each judging the masks it never saw: 200 "
            "pairs in 4 folds take about 6 minutes of one CPU core. 0 is off."
        ),
    ] = 0,
    pictures: Annotated[int, typer.Option(help="Draw so many of the most doubtful masks.")] = 20,
    labels: Annotated[
        str, typer.Option(help="Raw mask values in class order; auto is what split.json says.")
    ] = "auto",
    label_threshold: LabelThreshold = -1,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Check every file of every list, and rank the masks by doubt, worst first.

    Finds damaged files, wrong dtypes and codings, values that are no HU, copies, patients in two
    lists, and masks that disagree with the slice they lie on. Exits with 1 on errors, with 0 on
    warnings. Tables and pictures go to OUT.

    Example: `lungunet audit data --out audit`
    """
    from lungunet.data.split import choose_codec
    from lungunet.evaluation.audit import audit as check
    from lungunet.evaluation.report import write_report

    if folds < 0 or folds == 1:
        raise typer.BadParameter(f"{folds} is not 0 or at least 2", param_hint="--folds")
    if pictures < 0:
        raise typer.BadParameter(f"{pictures} is below 0", param_hint="--pictures")
    names = ("audit.json", "findings.csv", "ranking.csv", "pictures")
    refuse_existing([out / name for name in names], overwrite)
    codec = choose_codec(data, labels, label_threshold)
    with _made(out):
        found = check(data, codec=codec, folds=folds, work=out, progress=console.progress_bar)
    found.save(out, pictures=pictures)
    if (out.parent / "best").is_dir():  # RUN/audit: the report of the run shows it
        write_report(out.parent)
    if as_json:
        console.say_json(found.to_dict())
    else:
        _show(found, out)
    if found.count("error"):
        raise typer.Exit(1)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder before the work that it waits for; take it away where that comes to nothing."""
    missing = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(
            f"cannot be made ({err.strerror}). Choose another place.", where=folder
        ) from err
    try:
        yield
    except BaseException:
        if missing:
            with suppress(OSError):  # something else lies in it by now
                folder.rmdir()
        raise


def _show(found: "Audit", out: Path) -> None:
    lists = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    console.say(f"{sum(found.counts.values())} pairs: {lists}")
    sums = [(found.count(name), name) for name in ("error", "warning", "note")]
    console.say("files: " + ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for n, name in sums))
    _show_findings(found)
    doubtful = [suspect for suspect in found.ranking if suspect.score >= _DOUBTFUL]
    by = f"{found.folds} models and the threshold rule" if found.folds else "the threshold rule"
    clear = sum(suspect.score >= _CLEAR for suspect in doubtful)
    console.say(f"\nmasks, most doubtful first, by {by}: {len(doubtful)} with a score")
    _show_ranking(doubtful[:_SHOWN])
    if clear:
        console.say(
            f"\n{clear} with {_CLEAR} and above: look at the pictures, then mend the mask or drop "
            "the pair;\nhard but right ones mostly stay below, and so can small faults"
        )
    console.say(f"\nall of it: {out}, pictures in {out / 'pictures'}")


def _show_findings(found: "Audit") -> None:
    from lungunet.errors import listed

    for (severity, kind), items in groupby(found.findings, lambda f: (f.severity, f.kind)):
        messages = [finding.message for finding in items]
        count = f"{len(messages)} file{'' if len(messages) == 1 else 's'}"
        if severity == "note":  # good to know, not worth a page
            console.say(f"\n{severity}: {kind}, {count}; see findings.csv")
        else:
            console.say(f"\n{severity}: {kind}, {count}\n  {listed(messages)}")


def _show_ranking(suspects: "list[Suspect]") -> None:
    width = max((len(suspect.pair.name) for suspect in suspects), default=0)
    for suspect in suspects:
        reasons = "; ".join(suspect.reasons[:_REASONS_SHOWN])
        row = f"{suspect.score:.2f}  {suspect.list:<5}  {suspect.pair.name:<{width}}  {reasons}"
        console.say(row.rstrip())
