"""What predict says of its own masks, in words and in the table."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet.cli.lights import say_lights
from lungunet.data.files import write_csv
from lungunet.inference.quality import Plausibility, triage_row


def judged(worry: float, *reasons: str) -> Plausibility:
    return Plausibility(worry, reasons, {})


def say_triage(folder: Path, checked: dict[str, Plausibility]) -> None:
    worst_first = sorted(checked.items(), key=lambda item: -item[1].worry)
    rows = (triage_row(name, trust) for name, trust in worst_first)
    columns = ("name", "light", "worry", "reasons", "disputed", "lung_share")
    write_csv(folder / "triage.csv", rows, columns)
    say_lights(folder / "triage.csv")


def test_the_most_worrying_are_named_with_a_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checked = {f"amber-{n}": judged(0.1 + n / 100, f"because {n}", "and so") for n in range(6)}
    checked |= {"fine": judged(0.05), "bad": judged(0.9, "broken")}
    say_triage(tmp_path, checked)
    assert capsys.readouterr().out.splitlines() == [
        f"1 red, 6 amber, 1 green: {tmp_path / 'triage.csv'}",
        "  red    bad: broken",
        "  amber  amber-5: because 5",
        "  amber  amber-4: because 4",
        "  amber  amber-3: because 3",
        "  amber  amber-2: because 2",
        "  and 2 more",
    ]


def test_where_all_is_green_there_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    say_triage(tmp_path, {"fine": judged(0.05)})
    said = f"0 red, 0 amber, 1 green: {tmp_path / 'triage.csv'}\n"
    assert capsys.readouterr().out == said


def test_masks_of_before_count_too(run_cli, phantoms: tuple[Path, Path], tmp_path: Path) -> None:
    few, every = sorted(phantoms[0].iterdir())[:4], phantoms[0]
    out, table = tmp_path / "out", tmp_path / "out" / "triage.csv"

    def read() -> list[dict[str, str]]:
        with table.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def count() -> Counter[str]:
        return Counter(row["light"] for row in read())

    def said(lights: Counter[str]) -> str:
        return f"{lights['red']} red, {lights['amber']} amber, {lights['green']} green"

    go_on = ("--out", out, "--skip-existing")
    first = run_cli("predict", "threshold", *few, *go_on)
    before = count()
    assert f"\n{said(before)}: {table}\n" in first.out
    done = run_cli("predict", "threshold", every, *go_on)
    assert count().total() == 12
    assert f"\n{said(count())}: {table}; new: {said(count() - before)}\n" in done.out
    for again in (every, few[0]):
        done = run_cli("predict", "threshold", again, *go_on)
        assert f"\n{said(count())}: {table}; new: none\n" in done.out
    assert f"\n  red    {read()[0]['name']}: " in done.out


@pytest.mark.parametrize(("at_odds", "said"), [(9, True), (8, False)])
def test_where_nobody_agrees_it_says_so_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, at_odds: int, said: bool
) -> None:
    checked = {
        f"{n}": Plausibility(
            0.6, ("no",), {"disputed": 0.51 if n < at_odds else 0.5, "lung_share": 0.2}
        )
        for n in range(10)
    }
    empty = Plausibility(0.0, (), {"disputed": 0.0, "lung_share": 0.0})
    unasked = Plausibility(0.1, ("not asked",), {"disputed": None, "lung_share": 0.2})
    say_triage(tmp_path, checked | {"empty": empty, "unasked": unasked})
    line = f"more than half of the lung is disputed in {at_odds} of 10 masks"
    assert (line in capsys.readouterr().out) == said


def test_predict_ranks_its_masks(run_cli, tmp_path: Path) -> None:
    images, _ = lungunet.write_phantoms(tmp_path / "made", patients=3, slices=2, size=96)
    broken = np.full((96, 96), -1000, np.int16)
    lungunet.write_image(images / "air.tif", broken)
    out = tmp_path / "masks"
    done = run_cli("predict", "threshold", images, "--out", out)
    assert done.code == 0, done.err
    with (out / "triage.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert (rows[0]["name"], rows[0]["light"]) == ("air", "red")
    assert [float(row["worry"]) for row in rows] == sorted(
        (float(row["worry"]) for row in rows), reverse=True
    )
    assert {row["rule_difference"] for row in rows} == {""}  # it is the rule
    lines = done.out.splitlines()
    summary = next(line for line in lines if line.endswith(f"green: {out / 'triage.csv'}"))
    assert summary.startswith("1 red, ")
    first = lines[lines.index(summary) + 1]
    assert first == f"  red    air: {rows[0]['reasons'].split('; ')[0]}"
