import errno
import os
from pathlib import Path

import pytest

from lungunet.data.files import replacing, write_bytes, write_text
from lungunet.errors import DataError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def interrupted(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


class TestReplacing:
    def test_the_old_file_stands_until_the_block_ends(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with replacing(path) as temporary:
            assert temporary.parent == tmp_path  # os.replace is atomic on one file system only
            temporary.write_text("ne")
            assert path.read_text() == "old"
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"
        assert names(tmp_path) == ["a.txt"]

    def test_the_bytes_are_on_disk_before_the_name_changes(self, tmp_path, monkeypatch):
        path = tmp_path / "a.txt"
        events = []
        monkeypatch.setattr(os, "fsync", lambda handle: events.append(("fsync", path.exists())))
        replace = Path.replace
        monkeypatch.setattr(
            Path, "replace", lambda *args: (events.append("replace"), replace(*args))[1]
        )
        write_bytes(path, b"x")
        assert events == [("fsync", False), "replace"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_an_error_leaves_the_old_file(self, tmp_path, error):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(error):
            interrupted(path, error)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["a.txt"]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_a_full_disk_is_to_be_given_room(self, tmp_path, number):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(DataError, match=r"a\.txt: cannot be written .* Make room; what was"):
            interrupted(path, OSError(number, os.strerror(number)))
        assert path.read_text() == "old"

    def test_two_writers_do_not_share_a_temporary_file(self, tmp_path):
        path = tmp_path / "a.txt"
        with replacing(path) as first, replacing(path) as second:
            assert first != second
            first.write_text("first")
            second.write_text("second")
        assert path.read_text() == "first"
        assert names(tmp_path) == ["a.txt"]

    def test_a_link_is_replaced_and_what_it_leads_to_stays(self, tmp_path):
        (tmp_path / "away").mkdir()
        (tmp_path / "away" / "a.txt").write_text("old")
        (tmp_path / "a.txt").symlink_to(Path("away", "a.txt"))
        write_text(tmp_path / "a.txt", "new")
        assert (tmp_path / "a.txt").read_text() == "new"
        assert (tmp_path / "away" / "a.txt").read_text() == "old"

    @pytest.mark.parametrize("mode", [0o600, 0o444, 0o664])
    def test_the_mode_of_a_file_stays(self, tmp_path, mode):
        path = tmp_path / "a.txt"
        write_text(path, "old")
        path.chmod(mode)
        write_text(path, "new")
        assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", mode)

    def test_makes_folders(self, tmp_path):
        write_text(str(tmp_path / "b" / "c" / "a.txt"), "x")
        assert (tmp_path / "b" / "c" / "a.txt").read_text() == "x"

    def test_text_is_utf8_with_the_line_ends_it_was_given(self, tmp_path):
        write_text(tmp_path / "a.txt", "ü\r\nb\n")
        assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xbc\r\nb\n"


class TestRefusals:
    def test_a_file_where_the_folder_should_be(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match=r"a\.txt: cannot be written \(.*\)\. Choose another"):
            write_text(tmp_path / "file" / "a.txt", "x")

    def test_a_folder_where_the_file_should_be(self, tmp_path):
        (tmp_path / "a.txt" / "in").mkdir(parents=True)
        with pytest.raises(DataError, match=r"cannot be written \(Is a directory\)"):
            write_text(tmp_path / "a.txt", "x")
        assert names(tmp_path) == ["a.txt"]

    def test_a_name_that_is_too_long(self, tmp_path):
        with pytest.raises(DataError, match=r"cannot be written \(File name too long\)"):
            write_text(tmp_path / ("a" * 300), "x")

    def test_a_full_disk(self, tmp_path):
        (tmp_path / "a.txt").write_text("old")
        full = OSError(28, "No space left on device")
        with pytest.raises(DataError, match=r"\(No space left on device\)") as caught:
            interrupted(tmp_path / "a.txt", full)
        assert caught.value.__cause__ is full
        assert (tmp_path / "a.txt").read_text() == "old"
        assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["n" * 240 + ".png", "ü" * 120 + ".png"])
def test_a_name_as_long_as_file_systems_take(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "a")
    assert [path.name for path in tmp_path.iterdir()] == [name]
