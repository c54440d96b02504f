"""How many masks are red, amber and green, as ``predict`` and ``merge`` say it in the end."""

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from lungunet.cli import console

_SHOWN = 5  # masks that are not green
# So many masks, and more than this share of them with more than half of the lung in dispute, speak
# less against the masks than against who was asked.
_ENOUGH, _NEARLY_ALL, _AT_ODDS = 10, 0.8, 0.5


def say_lights(table: Path, new: Mapping[str, int] | None = None, *, named: bool = True) -> None:
    """Print what ``triage.csv`` says of all masks, and why the worst are not green.

    Parameters
    ----------
    new : lights of the masks that were not there before; None where all are new
    named : say where the table is
    """
    if not table.exists():  # as without triage
        return
    lights: Counter[str] = Counter()
    worst: list[dict[str, str]] = []
    disputes: list[float] = []
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):  # the most worrying first
            lights[row["light"]] += 1
            disputed, lung = (row.get(name) for name in ("disputed", "lung_share"))
            if disputed and (float(disputed) or float(lung or 0)):
                disputes.append(float(disputed))
            if row["light"] != "green" and len(worst) < _SHOWN:
                worst.append(row)
    said = _count(lights) + (f": {table}" if named else "")
    if new is not None and sum(new.values()) < lights.total():
        known = {light: number for light, number in new.items() if number}
        said += f"; new: {_count(known) if known else 'none'}"
    console.say(said)
    for row in worst:
        console.say(f"  {row['light']:<5}  {row['name']}: {row['reasons'].split('; ')[0]}")
    if more := lights["red"] + lights["amber"] - len(worst):
        console.say(f"  and {more} more")
    at_odds = sum(disputed > _AT_ODDS for disputed in disputes)
    if len(disputes) >= _ENOUGH and at_odds > _NEARLY_ALL * len(disputes):
        console.say(
            f"more than half of the lung is disputed in {at_odds} of {len(disputes)} masks: either "
            "these are wrong, or threshold and built-in model do not see the lung of these files. "
            "Look at some before you trust a light"
        )


def _count(lights: Mapping[str, int]) -> str:
    return ", ".join(f"{lights.get(light, 0)} {light}" for light in ("red", "amber", "green"))
