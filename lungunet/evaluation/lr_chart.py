"""The picture of a learning rate range test: one SVG file that any browser shows."""

from lungunet.evaluation.charts import BOTTOM, LEFT, RIGHT, TOP, Scale
from lungunet.training.lr_finder import LRRange

_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#555} line{stroke:#999;stroke-width:.5} "
    "polyline{fill:none;stroke:#2166ac;stroke-width:2} circle{fill:#d95f02} "
    "@media(prefers-color-scheme:dark){text{fill:#bbb} polyline{stroke:#6baed6}}"
)


def lr_chart_svg(found: LRRange) -> str:
    """Draw smoothed loss over learning rate, with the suggestion marked."""
    x = Scale(found.lrs[0], found.lrs[-1], start=LEFT, end=RIGHT, log=True)
    top = min(max(found.losses), 2 * found.losses[0])  # the explosion would flatten all else
    y = Scale(min(found.losses) * 0.95, top * 1.05, start=BOTTOM, end=TOP)
    shown = [(x(lr), y(loss)) for lr, loss in zip(found.lrs, found.losses, strict=True)]
    points = " ".join(f"{px},{py}" for px, py in shown if py >= TOP)
    mark = found.lrs.index(found.suggestion)
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
        f'<text x="{shown[mark][0] + 8}" y="{shown[mark][1] - 6}">{found.suggestion:.1e}</text>',
        f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 32}" text-anchor="middle">learning rate; '
        "loss, smoothed</text>",
    ]
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 240" width="720">'
    return f"{head}<style>{_STYLE}</style>{''.join(marks)}</svg>\n"
