"""What ``predict`` says of its own masks: the lights, and which ones to look at first."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lungunet.cli import console

if TYPE_CHECKING:
    from lungunet.inference.quality import Plausibility

_SHOWN = 5


def say_triage(path: Path, checked: "Mapping[str, Plausibility]") -> None:
    """Print how many masks are red, amber and green, and why the most worrying are not green.

    Parameters
    ----------
    path : the table with all of them
    checked : name of a slice or volume -> what its check said
    """
    from lungunet.inference.quality import by_worry

    lights = Counter(found.light for found in checked.values())
    summary = ", ".join(f"{lights[light]} {light}" for light in ("red", "amber", "green"))
    console.say(f"{summary}: {path}")
    worrying = [name for name in by_worry(checked) if checked[name].light != "green"]
    for name in worrying[:_SHOWN]:
        console.say(f"  {checked[name].light:<5}  {name}: {checked[name].reasons[0]}")
    if len(worrying) > _SHOWN:
        console.say(f"  and {len(worrying) - _SHOWN} more")
