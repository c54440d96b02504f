"""``lungunet report``: a page about a run, to read or to mail."""

from pathlib import Path
from typing import Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import Json


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    as_json: Json = False,
) -> None:
    """Write RUN/report.html, one page of all that RUN holds; an older one is replaced.

    Opens in any browser, without network; holds the overlays too, so it can be mailed as it is.

    Example: `lungunet report runs/001`
    """
    from lungunet import write_report

    page = str(write_report(run))
    if as_json:
        console.say_json({"report": page})
    else:
        console.say(page)
