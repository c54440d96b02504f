"""One job at a time in a folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from lungunet import ConfigError, DataError
from lungunet.data.lock import claimed

HOLD = """
import sys, time
from pathlib import Path
from lungunet.data.lock import claimed
with claimed(Path(sys.argv[1]), doing="x"):
    print("has it", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_another_process_keeps_it_until_it_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline()
            with pytest.raises(ConfigError, match=r"out: x\. Wait for it"), claimed(out, doing="x"):
                pass
        finally:
            other.kill()
    with claimed(out, doing="x"):  # though its file is there still
        pass


def test_so_does_this_one(tmp_path: Path) -> None:
    with claimed(tmp_path, doing="x"):
        for _ in range(2):
            with pytest.raises(ConfigError, match="x"), claimed(tmp_path, doing="x"):
                pass
    with claimed(tmp_path, doing="x"):
        pass


def test_folders_that_nothing_came_of_go(tmp_path: Path) -> None:
    with claimed(tmp_path / "a" / "b", doing="x"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with claimed(tmp_path / "mine" / "new", doing="x"):
        (tmp_path / "mine" / "new" / "file").touch()
    assert (tmp_path / "mine" / "new" / "file").exists()
    (tmp_path / "empty").mkdir()
    with claimed(tmp_path / "empty", doing="x"):
        pass
    assert (tmp_path / "empty").is_dir()


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with (
        pytest.raises(DataError, match="out: cannot be written"),
        claimed(tmp_path / "out", doing="x"),
    ):
        pass
    with (
        pytest.raises(DataError, match="cannot be written"),
        claimed(tmp_path / "out", doing="x"),
    ):
        pass  # no claim is left
