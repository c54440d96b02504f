"""``lungunet review``: what it prints, and how it ends."""

import http.client
import json
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

import lungunet


def test_what_is_missing_is_named(run_cli, tmp_path: Path) -> None:
    assert run_cli("review").code == 2
    done = run_cli("review", tmp_path / "none")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "no such folder" in done.err
    done = run_cli("review", tmp_path, "--images", tmp_path, "--scans", tmp_path)
    assert (done.code, "Leave one out" in done.err) == (1, True)


def test_copies_are_named_after_what_they_are_of(
    run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = []

    def review(source: Path, out: Path | None, **_: object) -> lungunet.ReviewLog:
        outs.append(out and str(out))
        return lungunet.ReviewLog(tmp_path / "review.jsonl", {})

    monkeypatch.setattr(lungunet, "review", review, raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "set.v2"
    folder.mkdir()
    (folder / "a.nii.gz").touch()
    for given in ("set.v2", "set.v2/a.nii.gz", folder / ".." / "set.v2"):
        assert run_cli("review", given).code == 0
    run_cli("review", "set.v2", "--out", "x")
    run_cli("review", "set.v2", "--in-place")
    monkeypatch.chdir(folder)
    run_cli("review", ".")
    assert outs == ["mended-set.v2"] * 3 + ["x", None, "mended-set.v2"]


@pytest.mark.parametrize("end", ["finish", "interrupt"])
def test_it_serves_until_the_end_and_tells_what_came_of_it(
    data: Path, tmp_path: Path, end: str
) -> None:
    command = [
        *(sys.executable, "-m", "lungunet", "review", str(data), "--out", str(tmp_path / "out")),
        *("--no-browser", "--model", "threshold", "--who", "anna"),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # What began in the background of a shell does not hear Ctrl-C, and its children neither.
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with ExitStack() as ends, subprocess.Popen(command, preexec_fn=hears, **pipes) as child:
        try:
            found = re.fullmatch(r"http://127.0.0.1:(\d+)/#(\S+)\n", child.stderr.readline())
            assert found is not None
            assert f"copies in {tmp_path / 'out'} are mended" in child.stderr.readline()
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
            ends.callback(connection.close)
            said = json.dumps({"decision": "drop", "note": "", "who": "anna"})
            connection.request("POST", "/api/decide?i=0", said, {"X-Token": found[2]})
            assert connection.getresponse().read() == b"{}"
            if end == "finish":
                connection.request("POST", "/api/finish", "{}", {"X-Token": found[2]})
                connection.getresponse().read()
            else:
                child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 0, err
    assert out.startswith("0 right, 0 mended, 1 drop, 0 unsure; 0 masks changed: ")
    again = f"IMAGES {tmp_path / 'out'} NEW_DATA --like {data} --exclude {tmp_path / 'out'}/"
    assert out.endswith(f"next:   lungunet split {again}review.jsonl\n")
    assert (tmp_path / "out" / "review.jsonl").exists()
