"""The Typer application and its verbs, in the order a user meets them."""

import difflib
from typing import Annotated, Any

import typer
import typer.core

from lungunet import __version__
from lungunet.cli import (
    audit,
    demo,
    doctor,
    encoders,
    evaluate,
    export,
    measure,
    merge,
    pairs,
    predict,
    report,
    review,
    slices,
    train,
)

# What other programs call it.
_SYNONYMS = {
    **{"--output": "--out", "--output-dir": "--out", "--out-dir": "--out", "--imgsz": "--size"},
    **{"--img-size": "--size", "--image-size": "--size", "--bs": "--batch-size"},
    **{"--batch": "--batch-size", "--learning-rate": "--lr", "--gpu": "--device"},
    **{"--force": "--overwrite", "--num-workers": "--workers", "--backbone": "--encoder"},
    **{"--pretrained": "--weights", "--checkpoint": "--weights", "--amp": "--precision"},
    **{"--normalize": "--window", "--folds": "--cross-validate"},
    **{"--lr0": "--lr", "--wd": "--weight-decay", "--early-stopping": "--patience"},
}
_NEAR = 0.75  # of the letters; below, a suggestion is a guess


class _PlainFlags:
    """Help that shows no type for options that take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """List arguments and options."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class _Verbs(_PlainFlags, typer.core.TyperGroup):
    """All verbs."""


class _Verb(_PlainFlags, typer.core.TyperCommand):
    """A verb that suggests what is near to an option it does not know, or nothing."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as err:
            name = getattr(err, "option_name", None)
            if name is not None and hasattr(err, "possibilities"):
                err.possibilities = self._near(name)
            if self.name == "evaluate" and "extra argument" in err.message:
                err.message += (
                    ". One MODEL at a time; to compare it with another on the same cases, add "
                    "--against OTHER"
                )
            raise

    def _near(self, name: str) -> list[str]:
        options = [param for param in self.params if param.param_type_name == "option"]
        known = [each for option in options for each in (*option.opts, *option.secondary_opts)]
        meant = _SYNONYMS.get(name.replace("_", "-"), "")
        if meant in known:
            return [meant]
        return difflib.get_close_matches(name.replace("_", "-"), known, n=1, cutoff=_NEAR)


app = typer.Typer(
    cls=_Verbs,
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


app.command(cls=_Verb)(demo.demo)
app.command(cls=_Verb)(pairs.split)
app.command(cls=_Verb)(pairs.prepare)
app.command(cls=_Verb)(slices.slices)
app.command(cls=_Verb)(audit.audit)
app.command(cls=_Verb)(review.review)
app.command(cls=_Verb)(train.train)
app.command(cls=_Verb)(evaluate.evaluate)
app.command(cls=_Verb)(predict.predict)
app.command(cls=_Verb)(merge.merge)
app.command(cls=_Verb)(measure.measure)
app.command(cls=_Verb)(report.report)
app.command(cls=_Verb)(export.export)
app.command(cls=_Verb)(encoders.encoders)
app.command(cls=_Verb)(doctor.doctor)
