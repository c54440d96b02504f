"""The Typer application and its verbs, in the order a user meets them."""

from typing import Annotated

import typer

from lungunet import __version__
from lungunet.cli import (
    audit,
    demo,
    doctor,
    encoders,
    evaluate,
    export,
    measure,
    pairs,
    predict,
    report,
    review,
    slices,
    train,
)

app = typer.Typer(
    help="Lung segmentation in CT: from two folders of slices and masks to a mask you can trust.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # errors are ours, one line; anything else should look raw
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


app.command()(demo.demo)
app.command()(pairs.split)
app.command()(pairs.prepare)
app.command()(slices.slices)
app.command()(audit.audit)
app.command()(review.review)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(measure.measure)
app.command()(report.report)
app.command()(export.export)
app.command()(encoders.encoders)
app.command()(doctor.doctor)
