"""The campaign on slices that nobody has seen runs, and sees what it plants."""

import json
import sys
from pathlib import Path

import pytest
import unseen


def test_right_masks_and_planted_errors(
    phantoms: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [*map(str, phantoms), "--every", "4", "--out", str(tmp_path / "told.json")]
    monkeypatch.setattr(sys, "argv", ["unseen.py", *args])
    unseen.main()
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["slices"] == 3
    assert all(told["scores"][f"as they are, {who}"]["iou"] > 0.8 for who in ("model", "threshold"))
    gone = told["lights"]["a lung gone"][unseen.WRONG]
    assert gone == {"red": sum(gone.values())}
    assert "red" not in told["lights"]["none"][unseen.RIGHT]
