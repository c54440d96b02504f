"""What the tutorial shows is what its commands print; `test_pages.py` runs them on less data.

Trained weights differ between machines: with the number of threads, and with bf16 where the
processor has AMX. So this asks for all digits of what is not trained, and of one epoch for scores
on train that are near.
"""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from pages import ROOT, commands, read_blocks

import lungunet

PAGE = ROOT / "docs" / "tutorial.md"
BLOCKS = read_blocks(PAGE)
TYPED = {words[1]: words for b in BLOCKS if b.kind == "sh" for words in commands(b.text)}
SHOWN = {
    next(commands(block.text))[1]: after.text
    for block, after in pairwise(BLOCKS)
    if (block.kind, after.kind) == ("sh", "text")
}
EPOCHS = [
    [float(cell) for cell in line.removesuffix("best").split()]
    for line in SHOWN["train"].splitlines()
    if re.match(r" +\d+ ", line)
]
BASELINES = dict(
    re.findall(r"^(threshold|lungs|all background) +([\d.]+ +[\d.]+) ", SHOWN["evaluate"], re.M)
)


def test_the_best_epoch_is_the_best_row() -> None:
    found = re.search(r"best val IoU ([\d.]+) in epoch (\d+)", SHOWN["train"])
    assert found
    best = max(EPOCHS, key=lambda row: row[6])
    assert (best[6], best[0]) == (float(found[1]), int(found[2]))
    assert EPOCHS[-1][0] == int(TYPED["train"][-1])  # the last epoch is shown


def test_numbers_in_the_text_are_those_of_the_outputs() -> None:
    """Rounded as the text has them; `test_translations.py` compares it with other languages."""
    outputs = re.findall(r"\d+\.\d+", "".join(SHOWN.values()))
    text = re.sub(r"^```.*?^```$|`[^`]+`", "", PAGE.read_text("utf-8"), flags=re.M | re.S)
    for number in re.findall(r"\d+\.\d\d+", text):
        decimals = len(number.split(".")[1])
        assert number in {f"{float(each):.{decimals}f}" for each in outputs}, number


def test_the_page_of_the_score_card_shows_the_same_run() -> None:
    blocks = [b.text for b in read_blocks(ROOT / "docs" / "howto" / "score-card.md")]
    shown = [text for text in blocks if "(ECE, interval" in text]
    assert shown
    assert all(text in SHOWN["evaluate"] for text in shown)


@pytest.mark.timeout(900)
def test_the_commands_print_what_the_page_shows(
    tmp_path: Path, run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[0].text, str(PAGE), "exec"), {})
    assert SHOWN["split"].strip() in run_cli(*TYPED["split"][1:]).out
    card = run_cli("evaluate", "threshold", "data", "--out", "scores").out
    for name, scores in BASELINES.items():
        assert f"{name:18}{scores}" in card
    assert len(BASELINES) == 3

    words = TYPED["train"]
    size, epochs = (int(words[words.index(name) + 1]) for name in ("--size", "--epochs"))
    config = lungunet.RunConfig(data=Path("data"), size=size, epochs=epochs)
    first = next(iter(lungunet.train_run(config, Path("runs/a"))))
    assert [first.train.loss, first.train.accuracy, first.train.iou] == pytest.approx(
        [EPOCHS[0][1], EPOCHS[0][3], EPOCHS[0][5]], abs=0.02
    )
