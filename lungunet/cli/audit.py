"""``lungunet audit``: whether files and masks can be trusted, worst first."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import Json, LabelThreshold, Overwrite, Quiet, parse_codec, typed_labels
from lungunet.cli.wording import in_options
from lungunet.errors import listed

if TYPE_CHECKING:
    from lungunet import Audit, Suspect

_SHOWN = 20
_REASONS_SHOWN = 2
_CLEAR = 0.2  # on 200 real slices right masks stayed below 0.1, wrong ones began at 0.1


def audit(
    data: Annotated[Path, typer.Argument(help="Folder with the lists.", metavar="DATA")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and pictures.")],
    folds: Annotated[
        int,
        typer.Option(
            help="Also train this many small models, each judging the masks it never saw: 200 "
            "pairs in 4 folds take about 6 minutes of one CPU core; of 50 they learn too little "
            "and have no say. 0 is off."
        ),
    ] = 0,
    pictures: Annotated[
        int,
        typer.Option(
            help="Draw so many of the most doubtful masks, of those with a score of 0.01 and above."
        ),
    ] = 20,
    labels: Annotated[
        str, typer.Option(help="Raw mask values in class order; auto is what split.json says.")
    ] = "auto",
    label_threshold: LabelThreshold = -1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check every file of every list, and rank the masks by doubt, worst first.

    Finds damaged files, wrong dtypes and codings, values that are no HU, copies, patients in two
    lists, and masks that disagree with the slice they lie on. The score sums what is in dispute,
    as shares of the lung, each kind beyond an allowance and by a weight: missing lung counts most,
    edges hardly; 5 % at weight 1 make 0.5. Exits with 1 on errors, with 0 on warnings. Tables and
    pictures go to OUT.

    Example: `lungunet audit data --out audit`
    """
    from lungunet import audit as audit_data

    if folds < 0 or folds == 1:
        raise typer.BadParameter(f"{folds} is not 0 or at least 2", param_hint="--folds")
    if pictures < 0:
        raise typer.BadParameter(f"{pictures} is below 0", param_hint="--pictures")
    result = audit_data(
        data,
        codec=parse_codec(labels, label_threshold),
        folds=folds,
        out=out,
        pictures=pictures,
        overwrite=overwrite,
        progress=console.progress_bar,
    )
    if as_json:
        console.say_json(result.to_dict())
    else:
        _show(result, data, out, typed_labels(labels, label_threshold))
    if result.count("error"):
        raise typer.Exit(1)


def _show(result: "Audit", data: Path, out: Path, labels: tuple[object, ...]) -> None:
    lists = ", ".join(f"{count} {name}" for name, count in result.counts.items())
    console.say(f"{sum(result.counts.values())} pairs: {lists}")
    sums = [(result.count(name), name) for name in ("error", "warning", "note")]
    console.say("files: " + ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for n, name in sums))
    _show_findings(result)
    doubtful = result.doubtful
    heard = result.agreement is not None and result.agreement.is_enough
    voices = [f"{result.folds} models"] * heard + ["the threshold rule"] * result.hears_rule
    by = " and ".join(voices) or "nobody: see rule-unheard above"
    clear = sum(suspect.score >= _CLEAR for suspect in doubtful)
    console.say(f"\nmasks, most doubtful first, by {by}: {len(doubtful)} with 0.01 and above")
    if heard:
        console.say(f"the models reach {result.agreement}")
    _show_ranking(doubtful[:_SHOWN])
    if 2 * clear > sum(result.counts.values()):
        console.say(
            f"\n{clear} with {_CLEAR} and above, more than half of all: look at the pictures "
            "for what they share, before any is dropped"
        )
    elif clear:
        console.say(
            f"\n{clear} with {_CLEAR} and above: look at the pictures, then mend the mask or drop "
            "the pair"
        )
        ranking = f"{out / 'ranking.csv'}:{_CLEAR}"
        again = ("IMAGES", "MASKS", "NEW_DATA", "--like", data, "--exclude", ranking, *labels)
        console.say(
            f"drop all of these, into a new data folder: {console.command('split', *again)}"
        )
    console.say(
        "\na score of 0.5 stands for 5 % of the lung in dispute, each kind with an allowance and "
        "a weight\n(edges hardly count); right masks mostly stay below 0.1, and so can small faults"
    )
    if result.agreement is None and result.hears_rule:
        console.say(
            "the rule does not see dense lung that a mask leaves out, as consolidation; --folds 4 "
            "asks models too,\nwhich see it where the other masks hold it"
        )
    drawn = f", pictures in {out / 'pictures'}" if any((out / "pictures").glob("*.png")) else ""
    console.say(f"\nall of it: {out}{drawn}")


def _show_findings(result: "Audit") -> None:
    for (severity, kind), items in groupby(result.findings, lambda f: (f.severity, f.kind)):
        messages = [in_options(finding.message) for finding in items]
        count = f"{len(messages)} file{'' if len(messages) == 1 else 's'}"
        if severity == "note":  # good to know, not worth a page
            console.say(f"\n{severity}: {kind}, {count}; see findings.csv")
        else:
            console.say(f"\n{severity}: {kind}, {count}\n  {listed(messages)}")


def _show_ranking(suspects: "list[Suspect]") -> None:
    rows = []
    for suspect in suspects:
        score = round(suspect.score, 2)
        if suspect.score < _CLEAR <= score:  # what is 0.196 is not 0.2 and above
            score = _CLEAR - 0.01
        reasons = "; ".join(suspect.reasons[:_REASONS_SHOWN])
        rows.append((f"{score:.2f}", suspect.list, suspect.pair.name, reasons))
    console.show_columns(rows)
