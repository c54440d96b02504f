"""``lungunet review``: mend masks in the browser."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import Device, Json, LabelThreshold, Names, parse_codec, typed_labels
from lungunet.errors import counted

if TYPE_CHECKING:
    from lungunet import Agreement, ReviewLog


def review(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="Folder with train.txt; or of masks, with --images or --scans.",
            metavar="DATA|MASKS",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the slices that MASKS are of.")
    ] = None,
    scans: Annotated[
        Path | None, typer.Option(help="Folder of the scans that MASKS are of.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the masks: all are copied there, copies are mended. Default: "
            "mended-NAME, after the folder DATA or MASKS.",
        ),
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Mend the masks themselves; no copies in OUT.")
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two review.jsonl: print how far their readers agree.", metavar="A B"),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Whose masks can be taken: as for predict; lungs, threshold.")
    ] = "lungs",
    audit: Annotated[
        Path | None,
        typer.Option(help="Folder of an audit, for its order. Default: DATA/audit, or made now."),
    ] = None,
    who: Annotated[str, typer.Option(help="A word for the reader; goes into the log.")] = "",
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", help="Open the page, or only print its address."),
    ] = True,
    host: Annotated[
        str,
        typer.Option(help="Listen here. Another one than 127.0.0.1 lets in who has the address."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 0,
    labels: Annotated[
        str, typer.Option(help="Raw mask values in class order; auto is what split.json says.")
    ] = "auto",
    label_threshold: LabelThreshold = -1,
    names: Names = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Look at masks in the browser, the most doubtful first: mend, keep or drop them.

    Every change is on disk at once; the first version of each mask is kept in the hidden folder
    .review beside it, and review.jsonl says what was done. Ctrl-C or the page's Finish ends it, and
    the same command goes on where it ended.

    Examples
    --------
    - `lungunet review data`
    - `lungunet review masks --images slices`
    - `lungunet review --compare anna/review.jsonl ben/review.jsonl`
    """
    if compare is not None:
        _compare(compare, as_json)
        return
    if source is None:
        raise typer.BadParameter("missing, or --compare", param_hint="DATA|MASKS")
    from lungunet import ReviewConfig
    from lungunet import review as review_masks

    if host not in ("127.0.0.1", "localhost", "::1"):
        console.warn(
            f"lungunet: listening on {host}: who has the address below can read and change these "
            "masks, and it goes over the network unencrypted."
        )

    where = None if in_place else out or _folder_for(source)

    def show(address: str) -> None:
        what = "the masks themselves are" if where is None else f"copies in {where} are"
        console.warn(f"{address}\nopen in the browser; Ctrl-C ends; {what} mended")

    log = review_masks(
        source,
        where,
        images=images,
        scans=scans,
        config=ReviewConfig(
            model=model,
            device=device,
            who=who,
            codec=parse_codec(labels, label_threshold),
            names=names,
            ranking=audit,
            browser=browser,
            host=host,
            port=port,
        ),
        show=show,
        progress=console.progress_bar,
    )
    if as_json:
        console.say_json(log.to_dict())
    else:
        changed = sum(case.changes > 0 for case in log.cases.values())
        said = ", ".join(f"{count} {decision}" for decision, count in log.counts.items())
        console.say(f"{said}; {counted(changed, 'mask')} changed: {log.path}")
        if scans is None and (log.dropped or (changed and not in_place)):
            masks = where or (source if images else "MASKS")
            # The log beside mended masks says how they are coded.
            given = () if masks != "MASKS" else typed_labels(labels, label_threshold)
            console.say(f"next:   {_split_again(log, source, masks, images, *given)}")


def _folder_for(source: Path) -> Path:
    """Return where the masks of a source are mended, where nothing else is said."""
    folder = source.parent if source.is_file() else source
    return Path(f"mended-{folder.resolve().name}")


def _split_again(
    log: "ReviewLog", source: Path, masks: Path | str, images: Path | None, *labels: object
) -> str:
    """Return the command that makes lists of the masks as they are by now."""
    like = () if images else ("--like", source)
    exclude = ("--exclude", log.path) if log.dropped else ()
    return console.command("split", images or "IMAGES", masks, "NEW_DATA", *like, *exclude, *labels)


def _compare(logs: tuple[Path, Path], as_json: bool) -> None:
    from lungunet import compare_reviews

    agreement = compare_reviews(*logs)
    if as_json:
        console.say_json(agreement.to_dict())
    else:
        _show_agreement(agreement)


def _show_agreement(agreement: "Agreement") -> None:
    console.say(
        f"{counted(len(agreement.names), 'mask')} decided by both: agreement "
        f"{console.short(agreement.share, 3)}, Cohen's kappa {console.short(agreement.kappa, 3)}\n"
    )
    rows = [(f"{a} / {b}", count) for (a, b), count in agreement.decisions.items()]
    console.show_table(("A / B", "masks"), rows)
    console.say()
    sets = (
        ("A against B, where either changed it", agreement.dice),
        ("first version against A's", agreement.kept_a),
        ("first version against B's", agreement.kept_b),
    )
    console.show_table(
        ("Dice", "masks", "mean", "least", "of"),
        [_dice_row(title, values) for title, values in sets],
    )


def _dice_row(title: str, values: "Mapping[str, float]") -> tuple[object, ...]:
    known = {name: dice for name, dice in values.items() if not math.isnan(dice)}
    if not known:
        return (title, len(values), None, None, "")
    least = min(known, key=lambda name: known[name])
    return (title, len(values), sum(known.values()) / len(known), known[least], least)
