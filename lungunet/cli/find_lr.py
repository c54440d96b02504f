"""``lungunet train --find-lr``: the learning rate range test, its curve and what it suggests."""

from pathlib import Path
from typing import TYPE_CHECKING

from lungunet.cli import console
from lungunet.cli.options import refuse_existing

if TYPE_CHECKING:
    from lungunet.training.config import RunConfig


def find_lr(config: "RunConfig", out: Path, *, overwrite: bool) -> None:
    """Run the test with the settings of a training; write its curve, print the suggestion."""
    from lungunet.data.files import write_text
    from lungunet.evaluation.lr_chart import lr_chart_svg
    from lungunet.training.run import make_trainer

    table, chart = out / "find_lr.csv", out / "find_lr.svg"
    refuse_existing([table, chart], overwrite)
    trainer, train, _ = make_trainer(config, out, progress=console.progress_bar)
    found = trainer.find_lr(train)
    found.save(table)
    write_text(chart, lr_chart_svg(found))
    rate = f"{found.suggestion:.1e}"
    console.say(f"the loss fell fastest at a learning rate of {rate}")
    console.say(f"curve:  {chart}")
    console.say(f"next:   {console.command('train', config.data, '--lr', rate)}")
