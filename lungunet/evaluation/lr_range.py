"""The learning rate range test of a run that is to be: its numbers, and a picture of them."""

from pathlib import Path

from lungunet.data.files import refuse_existing, write_text
from lungunet.evaluation.charts import BOTTOM, LEFT, RIGHT, TOP, Scale
from lungunet.progress import Progress, silent
from lungunet.training.config import RunConfig
from lungunet.training.distributed import refuse_torchrun
from lungunet.training.lr_finder import LRRange
from lungunet.training.run import make_trainer

_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#555} line{stroke:#999;stroke-width:.5} "
    "polyline{fill:none;stroke:#2166ac;stroke-width:2} circle{fill:#d95f02} "
    "@media(prefers-color-scheme:dark){text{fill:#bbb} polyline{stroke:#6baed6}}"
)


def find_learning_rate(
    config: RunConfig, out: str | Path, *, overwrite: bool = False, progress: Progress = silent
) -> LRRange:
    """Suggest a learning rate for a training; nothing is trained.

    Parameters
    ----------
    config : of the training; its ``lr`` is not used
    out : folder that gets find_lr.csv, the rates tried and their losses, and find_lr.svg, the curve
    overwrite : replace what an earlier test left in ``out``

    Raises
    ------
    ConfigError
        When the files are there already, the loss never falls, or memory runs out.
    LungUNetError
        Whatever is wrong with config or data, as for :func:`train_run`.

    References
    ----------
    Smith 2017, Cyclical learning rates, DOI 10.1109/WACV.2017.58, section 3.3.
    """
    refuse_torchrun("learning rate range test")
    table, chart = Path(out) / "find_lr.csv", Path(out) / "find_lr.svg"
    refuse_existing([table, chart], overwrite)
    trainer, train, _ = make_trainer(config, out, progress=progress)
    tested = trainer.find_lr(train)
    tested.save(table)
    write_text(chart, lr_chart_svg(tested))
    return tested


def lr_chart_svg(tested: LRRange) -> str:
    """Draw smoothed loss over learning rate, with the suggestion marked."""
    x = Scale(tested.lrs[0], tested.lrs[-1], start=LEFT, end=RIGHT, log=True)
    top = min(max(tested.losses), 2 * tested.losses[0])  # the explosion would flatten all else
    y = Scale(min(tested.losses) * 0.95, top * 1.05, start=BOTTOM, end=TOP)
    shown = [(x(lr), y(loss)) for lr, loss in zip(tested.lrs, tested.losses, strict=True)]
    points = " ".join(f"{px},{py}" for px, py in shown if py >= TOP)
    mark = tested.lrs.index(tested.suggestion)
    marks = [
        *(
            f'<line x1="{t.at}" y1="{TOP}" x2="{t.at}" y2="{BOTTOM}"/>'
            f'<text x="{t.at}" y="{BOTTOM + 14}" text-anchor="middle">{t.label}</text>'
            for t in x.ticks()
        ),
        *(
            f'<line x1="{LEFT}" y1="{t.at}" x2="{RIGHT}" y2="{t.at}"/>'
            f'<text x="{LEFT - 5}" y="{t.at + 4}" text-anchor="end">{t.label}</text>'
            for t in y.ticks()
        ),
        f'<polyline points="{points}"/>',
        f'<circle cx="{shown[mark][0]}" cy="{shown[mark][1]}" r="4"/>',
        f'<text x="{shown[mark][0] + 8}" y="{shown[mark][1] - 6}">{tested.suggestion:.1e}</text>',
        f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 32}" text-anchor="middle">learning rate; '
        "loss, smoothed</text>",
    ]
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 240" width="720">'
    return f"{head}<style>{_STYLE}</style>{''.join(marks)}</svg>\n"
