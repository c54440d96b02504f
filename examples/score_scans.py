"""Which of several models, or of other tools' masks, is better on whole scans, and how surely.

    python examples/score_scans.py --scans scans --truth scan-masks --models threshold,lungs

A model is a run, a word (lungs, threshold), or a folder of masks that any tool made.
"""

from pathlib import Path

import typer

import lungunet


def main(
    scans: Path = Path("scans"),
    truth: Path = Path("scan-masks"),
    models: str = "threshold,lungs",
    patient: str | None = None,
    out: Path = Path("scores"),
) -> None:
    cards = {}
    for model in models.split(","):
        folder = out / Path(model).name  # report.html, scores.json, cases.csv, pictures
        cards[model] = lungunet.evaluate_scans(model, scans, truth, group=patient, out=folder)
        dice, hd95 = cards[model].per_case("dice"), cards[model].per_case("hd95")
        error = cards[model].per_case("volume_error")
        print(
            f"{model}: Dice {dice.mean:.4f} ({dice.interval.low:.4f} to {dice.interval.high:.4f}), "
            f"HD95 {hd95.mean:.1f} mm, volumes off by {error.mean:+.0f} mL, {dice.n} scans"
        )
    first, *others = cards
    for other in others:  # paired: each resample holds the same patients for both
        gain = cards[other].mean_difference(cards[first], "hd95")
        print(f"{other} minus {first}: HD95 {gain.value:+.2f} mm, {gain.interval}")


if __name__ == "__main__":
    typer.run(main)
