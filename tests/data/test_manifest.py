import os
import re
import unicodedata
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lungunet.data.manifest import (
    Pair,
    find_images,
    find_pairs,
    image_names,
    list_images,
    list_named,
    list_slices,
    name_files,
    read_manifest,
    write_manifest,
)
from lungunet.data.names import NameRule
from lungunet.errors import ConfigError, DataError, LungUNetWarning, counted


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [folder / name for name in names]


def draw(path, shape=(12, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(shape, np.uint8)).save(path)


def same_files(pairs, expected):
    """Compare as files, for `a/../b` and `b` are one."""
    return [[os.path.realpath(f) for f in (p.image, p.mask) if f] for p in pairs] == [
        [os.path.realpath(f) for f in (p.image, p.mask) if f] for p in expected
    ]


class TestFindImages:
    def test_sorted_and_only_images(self, tmp_path):
        touch(tmp_path, "b.TIF", "a.png", "c.jpeg", "notes.txt", ".hidden.png", "in/d.png")
        (tmp_path / "folder.png").mkdir()
        assert [path.name for path in find_images(str(tmp_path))] == [
            *("a.png", "b.TIF", "c.jpeg", "d.png")
        ]

    def test_no_folder(self, tmp_path):
        with pytest.raises(DataError, match=r"gone: no such folder\. Check the path"):
            find_images(tmp_path / "gone")

    def test_no_image(self, tmp_path):
        with pytest.raises(DataError, match=r"holds no image \(\.png, \.tif, .*\)\. Check the"):
            find_images(tmp_path)


class TestFindPairs:
    def test_by_stem_whatever_the_ending(self, tmp_path):
        for name in ("b c.tif", "a.v2.png", "ü.bmp"):
            draw(tmp_path / "images" / name)
        for name in ("a.v2.tif", "ü.png", "b c.png"):
            draw(tmp_path / "masks" / name)
        pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
        assert [pair.name for pair in pairs] == ["a.v2", "b c", "ü"]
        assert [pair.mask.name for pair in pairs] == ["a.v2.tif", "b c.png", "ü.png"]

    def test_one_error_lists_all_problems(self, tmp_path):
        images, masks = tmp_path / "images", tmp_path / "masks"
        draw(images / "good.png")
        draw(masks / "good.png")
        draw(images / "alone.png")
        draw(masks / "orphan.png")
        draw(images / "twice.png")
        draw(images / "twice.tif")
        draw(masks / "twice.png")
        draw(images / "small.png")
        draw(masks / "small.png", (12, 15))
        draw(images / "bad.png")
        touch(masks, "bad.png")
        with pytest.raises(DataError) as caught:
            find_pairs(images, masks)
        lines = str(caught.value).splitlines()
        assert lines[0] == f"{images} and {masks} do not pair up, 5 problems:"
        assert lines[1:-1] == [
            f"  {images / 'alone.png'}: no mask of that stem",
            f"  {masks / 'orphan.png'}: no image of that stem",
            f"  twice: {images / 'twice.png'} and {images / 'twice.tif'} share a stem",
            f"  {masks / 'bad.png'}: the file is empty. Copy or export it again.",
            "  small: mask is 12x15, image is 12x16",
        ]
        assert lines[-1] == "Rename, re-export or remove them; nothing was written."

    def test_long_lists_are_capped(self, tmp_path):
        touch(tmp_path / "images", *(f"{i:02}.png" for i in range(20)))
        draw(tmp_path / "masks" / "x.png")
        with pytest.raises(DataError, match="do not pair up, 21 problems") as caught:
            find_pairs(tmp_path / "images", tmp_path / "masks")
        assert str(caught.value).count("no mask of that stem") == 8
        assert "and 13 more" in str(caught.value)


class TestWrite:
    def test_posix_relative_sorted(self, tmp_path):
        masks = touch(tmp_path / "masks", "b.png", "a.png")
        images = touch(tmp_path / "images", "b.tif", "a.tif")
        path = tmp_path / "data" / "train.txt"
        write_manifest(path, [Pair(*both) for both in zip(images, masks, strict=True)])
        assert path.read_bytes() == (
            b"../images/a.tif\t../masks/a.png\n../images/b.tif\t../masks/b.png\n"
        )

    def test_the_common_loop_reads_it(self, tmp_path):
        images = touch(tmp_path, "one two.tif", "ü.tif")
        masks = touch(tmp_path / "masks", "one two.png", "ü.png")
        write_manifest(tmp_path / "a.txt", map(Pair, images, masks))
        with (tmp_path / "a.txt").open(encoding="utf-8") as lines:
            for line, name in zip(lines, ("one two", "ü"), strict=True):
                im, label = line.strip().split("\t")
                assert (tmp_path / im).is_file()
                assert label == f"masks/{name}.png"

    def test_an_image_alone(self, tmp_path):
        write_manifest(tmp_path / "a.txt", [Pair(tmp_path / "a.png")])
        assert (tmp_path / "a.txt").read_text() == "a.png\n"

    def test_nothing_is_an_empty_file(self, tmp_path):
        write_manifest(tmp_path / "a.txt", [])
        assert (tmp_path / "a.txt").read_bytes() == b""
        assert read_manifest(tmp_path / "a.txt") == []

    @pytest.mark.parametrize("name", ["a\tb.png", "a\nb.png", "a\rb.png", "a.png ", "\udcff.png"])
    def test_names_that_cannot_stand_in_a_list(self, tmp_path, name):
        with pytest.raises(DataError, match=r"cannot stand in a list of paths\. Rename it"):
            write_manifest(tmp_path / "a.txt", [Pair(tmp_path / "x.png", tmp_path / name)])
        assert not list(tmp_path.iterdir())

    def test_links_to_files_keep_their_names(self, tmp_path):
        # As data sets under git-annex or DVC lie: the name is a link to a file named by its hash.
        touch(tmp_path / "store", "5f2c", "9a01")
        for name, blob in (("ID_1.png", "5f2c"), ("ID_1_mask.png", "9a01")):
            (tmp_path / name).symlink_to(tmp_path / "store" / blob)
        pair = Pair(tmp_path / "ID_1.png", tmp_path / "ID_1_mask.png")
        write_manifest(tmp_path / "a.txt", [pair])
        assert (tmp_path / "a.txt").read_text() == "ID_1.png\tID_1_mask.png\n"
        assert [pair.name for pair in read_manifest(tmp_path / "a.txt")] == ["ID_1"]

    def test_a_linked_folder_on_the_way(self, tmp_path):
        image, mask = touch(tmp_path / "far" / "away", "a.png", "b.png")
        (tmp_path / "far" / "away" / "data").mkdir()
        (tmp_path / "data").symlink_to(tmp_path / "far" / "away" / "data")
        write_manifest(tmp_path / "data" / "a.txt", [Pair(image, mask)])
        assert same_files(read_manifest(tmp_path / "data" / "a.txt"), [Pair(image, mask)])

    @settings(
        max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
    )
    @given(
        st.lists(
            st.text(
                st.characters(exclude_characters="/\0\t\n\r", exclude_categories=["Cs"]),
                min_size=1,
                max_size=12,
            ).filter(lambda name: name not in (".", "..") and name == name.strip()),
            unique=True,
            max_size=5,
        )
    )
    def test_any_name_round_trips(self, tmp_path, names):
        images = touch(tmp_path / "images", *names)
        masks = touch(tmp_path / "masks", *names)
        pairs = [Pair(*both) for both in zip(images, masks, strict=True)]
        write_manifest(tmp_path / "lists" / "a.txt", pairs)
        again = read_manifest(tmp_path / "lists" / "a.txt")
        assert same_files(
            sorted(again, key=lambda p: p.image.name), sorted(pairs, key=lambda p: p.image.name)
        )
        lines = (tmp_path / "lists" / "a.txt").read_text(encoding="utf-8").split("\n")
        assert all(a <= b for a, b in pairwise(lines[:-1]))


class TestRead:
    @pytest.fixture
    def files(self, tmp_path):
        touch(tmp_path / "images", "a.tif", "b c.tif")
        touch(tmp_path / "masks", "a.png", "b c.png")
        return [
            Pair(tmp_path / "images" / f"{stem}.tif", tmp_path / "masks" / f"{stem}.png")
            for stem in ("a", "b c")
        ]

    @pytest.mark.parametrize(
        "content",
        [
            b"images/a.tif\tmasks/a.png\nimages/b c.tif\tmasks/b c.png\n",
            b"images/a.tif\tmasks/a.png\nimages/b c.tif\tmasks/b c.png",
            b"images/a.tif\tmasks/a.png\r\nimages/b c.tif\tmasks/b c.png\r\n",
            b"images/a.tif\tmasks/a.png\rimages/b c.tif\tmasks/b c.png\r",
            b"\xef\xbb\xbfimages/a.tif\tmasks/a.png\n\n  \nimages/b c.tif\tmasks/b c.png\n\n",
            b"images\\a.tif\tmasks\\a.png\nimages\\b c.tif\tmasks\\b c.png\n",
            b" images/a.tif \t masks/a.png \n./images/b c.tif\tmasks/../masks/b c.png\n",
        ],
        ids=["posix", "no last newline", "crlf", "cr", "bom, blank lines", "windows", "blanks"],
    )
    def test_variants(self, tmp_path, files, content):
        (tmp_path / "a.txt").write_bytes(content)
        assert same_files(read_manifest(str(tmp_path / "a.txt")), files)

    def test_absolute(self, tmp_path, files):
        (tmp_path / "far").mkdir()
        text = "\n".join(f"{pair.image}\t{pair.mask}" for pair in files)
        (tmp_path / "far" / "a.txt").write_text(text)
        assert read_manifest(tmp_path / "far" / "a.txt") == files

    def test_relative_to_the_list_then_to_here(self, tmp_path, files, monkeypatch):
        monkeypatch.chdir(tmp_path)
        text = "images/a.tif\tmasks/a.png\nimages/b c.tif\tmasks/b c.png\n"
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists" / "a.txt").write_text(text)
        assert same_files(read_manifest("lists/a.txt"), files)
        nearer = touch(tmp_path / "lists" / "images", "a.tif")[0]
        assert same_files(read_manifest("lists/a.txt"), [Pair(nearer, files[0].mask), files[1]])

    @pytest.mark.parametrize("line", ["images/a.tif", "images/a.tif\t", " images/a.tif \t "])
    def test_an_image_alone(self, tmp_path, files, line):
        (tmp_path / "a.txt").write_text(line + "\n")
        assert [pair.image for pair in list_named(tmp_path / "a.txt")] == [files[0].image]
        with pytest.raises(DataError, match=r"a\.txt, line 1: 1 column\.|line 1: an empty column"):
            read_manifest(tmp_path / "a.txt")

    def test_a_mask_alone_is_not_taken_for_an_image(self, tmp_path, files):
        (tmp_path / "a.txt").write_text("\tmasks/a.png\n")
        with pytest.raises(DataError, match="1 file missing:\n  line 1: an empty column\n"):
            read_manifest(tmp_path / "a.txt")
        with pytest.raises(DataError, match=r"a\.txt, line 1: 2 columns, the first is ''"):
            list_named(tmp_path / "a.txt")

    def test_named_images_need_not_be_there(self, tmp_path, files):
        (tmp_path / "a.txt").write_text("images/a.tif\tno/mask.png\n\nno/image.tif\n")
        images = [pair.image for pair in list_named(tmp_path / "a.txt")]
        assert images == [files[0].image, tmp_path / "no" / "image.tif"]

    @pytest.mark.parametrize(
        ("line", "columns"), [("a b", 1), ("a,b", 1), ("a\tb\tc\td", 4), ("a\tb\t\t", 4)]
    )
    def test_columns(self, tmp_path, files, line, columns):
        (tmp_path / "a.txt").write_text(f"images/a.tif\tmasks/a.png\n\n{line}\n")
        with pytest.raises(DataError) as caught:
            read_manifest(tmp_path / "a.txt")
        assert str(caught.value) == (
            f"{tmp_path / 'a.txt'}, line 3: {counted(columns, 'column')}. "
            "Write image, one tab, mask; then a tab and a name if it has one."
        )

    def test_missing_files_are_listed_together(self, tmp_path, files):
        lines = ["images/a.tif\tmasks/no.png", "images/b c.tif\tmasks/b c.png", "no.tif\tgone.png"]
        lines += [f"images/a.tif\t{'x' * 300}.png", "images/a.tif\tnul\0.png"]
        (tmp_path / "a.txt").write_text("\r\n".join(lines))
        with pytest.raises(DataError) as caught:
            read_manifest(tmp_path / "a.txt")
        assert str(caught.value).splitlines() == [
            f"{tmp_path / 'a.txt'}: 5 files missing:",
            "  line 1: masks/no.png",
            "  line 3: no.tif",
            "  line 3: gone.png",
            f"  line 4: {'x' * 300}.png",
            "  line 5: nul\0.png",
            f"Paths are taken from {tmp_path}, then from the current folder. Mend the paths, put "
            "the files there, or run 'lungunet split' again.",
        ]

    @pytest.mark.parametrize(
        "again", ["images/a.tif", "./images/a.tif", "images/../images/a.tif", "images\\a.tif"]
    )
    def test_duplicates(self, tmp_path, files, again):
        (tmp_path / "a.txt").write_text(f"images/a.tif\tmasks/a.png\n\n{again}\tmasks/b c.png\n")
        with pytest.raises(DataError, match=r"line 3: .*a\.tif stands in line 1 already\. Remove"):
            read_manifest(tmp_path / "a.txt")

    def test_not_utf8(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"im\xfcge.tif\tmask.png\n")
        with pytest.raises(DataError, match=r"a\.txt: byte 2 is not UTF-8\. Save the list as UTF"):
            read_manifest(tmp_path / "a.txt")

    def test_no_list(self, tmp_path):
        with pytest.raises(DataError, match=r"a\.txt: no such list\. 'lungunet split' writes it"):
            read_manifest(tmp_path / "a.txt")
        with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
            read_manifest(tmp_path)


class TestListImages:
    def test_what_a_person_means(self, tmp_path, monkeypatch):
        a, b, c = touch(tmp_path, "a.png", "b.tif", "sub/c.png")
        touch(tmp_path, "notes.md")
        (tmp_path / "list.txt").write_text("b.tif\nsub/c.png\ta.png\n")
        assert list_images(a) == [a]
        assert list_images(str(tmp_path)) == [a, b, c]
        assert list_images(tmp_path / "*") == [a, b, c]
        assert list_images(tmp_path / "s*") == [c]
        assert list_images(tmp_path, but=tmp_path / "sub") == [a, b]
        assert list_images(tmp_path / "*.png") == [a]
        assert list_images(f"{tmp_path}/**/*.png") == [a, c]
        assert list_images(tmp_path / "list.txt") == [b, c]
        monkeypatch.chdir(tmp_path)
        assert list_images("sub/*.png") == [Path("sub/c.png")]

    def test_a_name_with_brackets_is_a_name(self, tmp_path):
        (path,) = touch(tmp_path, "slice[1].png")
        assert list_images(path) == [path]

    def test_a_missing_file_is_for_the_reader_to_report(self, tmp_path):
        assert list_images(tmp_path / "gone.png") == [tmp_path / "gone.png"]

    def test_a_folder_of_lists_says_which_there_are(self, tmp_path):
        touch(tmp_path, "train.txt", "test.txt", "split.json", "audit/pictures/worst-001-a.png")
        lists = f"Give a list: {tmp_path / 'test.txt'} or {tmp_path / 'train.txt'}."
        with pytest.raises(DataError) as caught:
            list_images(tmp_path)
        assert str(caught.value) == f"{tmp_path}: holds lists of slices, and none itself. {lists}"
        (image,) = touch(tmp_path, "images/a.png")
        assert image in list_images(tmp_path)

    def test_nothing_matches(self, tmp_path):
        touch(tmp_path, "notes.md")
        with pytest.raises(DataError, match=r"\*: no image matches\. Check the pattern; quote it"):
            list_images(tmp_path / "*")
        with pytest.raises(DataError, match="holds no image"):
            list_images(tmp_path)
        (tmp_path / "a.txt").write_text("\n")
        with pytest.raises(DataError, match=r"a\.txt: names no image\. Give a list that does"):
            list_images(tmp_path / "a.txt")


def both(folder, *pairs):
    """Draw images and masks: images/A.tif and masks/B.png for each (A, B)."""
    for image, mask in pairs:
        draw(folder / "images" / f"{image}.tif")
        draw(folder / "masks" / f"{mask}.png")
    return folder / "images", folder / "masks"


class TestFolders:
    def test_images_at_any_depth_pair_with_masks_laid_out_alike(self, tmp_path):
        folders = both(tmp_path, *[(name, name) for name in ("a", "p1/b", "p2/deep/c", "p2/d")])
        assert [pair.name for pair in find_pairs(*folders)] == ["a", "b", "c", "d"]

    def test_or_with_masks_in_one_folder(self, tmp_path):
        folders = both(tmp_path, ("p1/a", "a"), ("p2/b", "b"))
        assert [pair.mask.name for pair in find_pairs(*folders)] == ["a.png", "b.png"]

    def test_one_name_in_two_folders_are_two_slices(self, tmp_path):
        folders = both(tmp_path, ("p1/1", "p1/1"), ("p2/1", "p2/1"))
        pairs = find_pairs(*folders)
        assert [pair.image.parent.name for pair in pairs] == ["p1", "p2"]
        assert [pair.mask.parent.name for pair in pairs] == ["p1", "p2"]
        assert [pair.name for pair in pairs] == ["p1_1", "p2_1"]

    @pytest.mark.parametrize("names", [None, "*=*_seg"])
    def test_masks_in_one_folder_have_the_folders_in_their_names(self, tmp_path, names):
        """As copies have that a review mended."""
        end = "" if names is None else "_seg"
        folders = both(tmp_path, ("p1/1", f"p1_1{end}"), ("p2/1", f"p2_1{end}"))
        pairs = find_pairs(*folders, names=names)
        assert [(pair.name, pair.image.parent.name) for pair in pairs] == [
            ("p1_1", "p1"),
            ("p2_1", "p2"),
        ]
        assert [pair.mask.stem for pair in pairs] == [f"p1_1{end}", f"p2_1{end}"]

    def test_as_many_folders_name_them_as_tell_all_apart(self, tmp_path):
        at = ("a/ct/1", "b/ct/1", "b/ct/2", "3")
        folders = both(tmp_path, *[(name, name) for name in at])
        pairs = find_pairs(*folders)
        assert [pair.name for pair in pairs] == ["3", "a_ct_1", "b_ct_1", "b_ct_2"]
        write_manifest(tmp_path / "a.txt", pairs)
        assert read_manifest(tmp_path / "a.txt") == pairs
        assert (tmp_path / "a.txt").read_text().splitlines()[0].count("\t") == 1  # of 3: its stem
        assert [pair.name for pair in list_slices([tmp_path / "a.txt"])] == [
            pair.name for pair in pairs
        ]
        assert {pair.name for pair in list_slices([folders[0]])} == {pair.name for pair in pairs}

    @pytest.mark.parametrize(
        ("where", "called"),
        [
            (("ann/ct/1", "ann/seg/1", "bob/ct/1", "bob/seg/1"), ["ann_1", "bob_1"]),
            (("x/ann/CT/1", "x/ann/seg/1", "y/bob/ct/2", "y/bob/seg/2"), ["1", "2"]),
            (("ct/1", "seg/1", "ct/2", "seg/2"), ["1", "2"]),
        ],
    )
    def test_images_in_one_folder_of_each_patient_and_masks_in_another(
        self, tmp_path, where, called
    ):
        for name in where:
            draw(tmp_path / f"{name}.{'png' if '/seg/' in f'/{name}' else 'tif'}")
        pairs = find_pairs(tmp_path, tmp_path, names="ct/*=seg/*")
        assert [pair.name for pair in pairs] == called
        for pair in pairs:
            assert pair.image.parent.name.lower() == "ct"
            assert pair.mask == pair.image.parent.parent / "seg" / f"{pair.image.stem}.png"
        drawn = tmp_path / "drawn"  # masks of another reader, with old ones among the images
        for pair in pairs:
            draw(drawn / pair.mask.relative_to(tmp_path))
        again = find_pairs(tmp_path, drawn, names="ct/*=seg/*")
        assert [pair.image for pair in again] == [pair.image for pair in pairs]
        assert all(drawn in pair.mask.parents for pair in again)

    def test_a_folder_for_each_slice(self, tmp_path):
        for name in ("a/ct.tif", "a/seg.png", "b/ct.tif", "b/seg.png"):
            draw(tmp_path / name)
        pairs = find_pairs(tmp_path, tmp_path, names="*/ct=*/seg")
        assert [(pair.name, pair.mask.parent.name) for pair in pairs] == [
            ("a_ct", "a"),
            ("b_ct", "b"),
        ]

    @pytest.mark.parametrize(
        ("where", "rule"),
        [
            (("ann/ct/1", "ann/seg/1", "bob/ct/1", "bob/seg/1"), "ct/*=seg/*"),
            (("images/1", "labels/1"), "images/*=labels/*"),
            (("Labels/1", "one/1"), "one/*=Labels/*"),
            (("ann/1", "bob/2"), "*=*_mask"),  # of two patients
            (("a/ct/1", "a/seg/1", "a/more/1"), "*=*_mask"),
        ],
    )
    def test_one_folder_for_both_says_which_rule_its_folders_follow(self, tmp_path, where, rule):
        for name in where:
            draw(tmp_path / f"{name}.png")
        with pytest.raises(DataError, match=re.escape(f"as names='{rule}'.")):
            find_pairs(tmp_path, tmp_path)

    def test_two_endings_in_one_folder_keep_one_name(self):
        files = [Path("p/1.tif"), Path("p/1.png"), Path("q/2.png")]
        assert [*name_files(files).values()] == ["1", "1", "2"]

    def test_what_cannot_be_looked_into_is_not_left_out_without_a_word(self, tmp_path, monkeypatch):
        folders = both(tmp_path, ("a", "a"), ("b", "b"))
        (folders[0] / "b.tif").unlink()
        (folders[0] / "b.tif").symlink_to(tmp_path / "gone.tif")
        with pytest.raises(DataError, match=r"b\.tif: no such file"):
            find_pairs(*folders)
        assert [path.name for path in find_images(folders[0])] == ["a.tif", "b.tif"]
        (folders[0] / "closed").mkdir()
        look = os.scandir

        def refuse(place):  # root may look into everything
            if Path(place).name == "closed":
                raise PermissionError(13, "Permission denied", str(place))
            return look(place)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(DataError, match=r"closed: cannot be looked into \(Permission denied\)"):
            find_images(folders[0])

    def test_a_folder_of_masks_in_that_of_the_images(self, tmp_path):
        draw(tmp_path / "a.tif")
        draw(tmp_path / "masks" / "a.png")
        assert len(find_pairs(tmp_path, tmp_path / "masks")) == 1
        assert len(find_pairs(tmp_path / "masks", tmp_path)) == 1

    def test_links_are_followed_and_a_circle_ends(self, tmp_path):
        draw(tmp_path / "far" / "a.tif")
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "p1").symlink_to(tmp_path / "far")
        (tmp_path / "far" / "again").symlink_to(tmp_path / "in")
        assert [path.name for path in find_images(tmp_path / "in")] == ["a.tif"]

    def test_what_is_hidden_stays_so(self, tmp_path):
        draw(tmp_path / "a.tif")
        draw(tmp_path / ".trash" / "b.tif")
        draw(tmp_path / "._a.tif")
        assert [path.name for path in find_images(tmp_path)] == ["a.tif"]


USUAL = [
    ("a b", "a b_mask", "*=*_mask"),
    ("7", "7-seg", "*=*-seg"),
    ("case_1_0000", "case_1", "*_0000=*"),
    ("p_0000", "p_seg", "*_0000=*_seg"),
    ("img_3", "mask_3", "img_*=mask_*"),
    ("3", "mask3", "*=mask*"),
    ("x_image", "x_mask", "*_image=*_mask"),
    ("scan", "scan.seg", "*=*.seg"),
    ("slice", "slice_MASK", "*=*_mask"),
]


class TestNames:
    @pytest.mark.parametrize(("image", "mask", "rule"), USUAL)
    def test_usual_endings_are_told_and_said(self, tmp_path, image, mask, rule):
        folders = both(tmp_path, (f"1{image}", f"1{mask}"), (f"2{image}", f"2{mask}"))
        if rule in ("img_*=mask_*", "*=mask*"):
            folders = both(tmp_path / "b", (image, mask), (f"{image}0", f"{mask}0"))
        with pytest.warns(LungUNetWarning) as caught:
            pairs = find_pairs(*folders)
        assert len(pairs) == 2
        assert str(caught[0].message) == (
            f"masks pair with images as by names='{rule}'; give another where that is wrong."
        )
        with warnings.catch_warnings():  # said by the user, it needs no word
            warnings.simplefilter("error")
            assert find_pairs(*folders, names=rule) == pairs

    def test_alike_comes_first(self, tmp_path):
        folders = both(tmp_path, ("a", "a"), ("a_mask", "a_mask"))
        assert [pair.mask.stem for pair in find_pairs(*folders)] == ["a", "a_mask"]

    def test_an_own_rule(self, tmp_path):
        folders = both(tmp_path, ("ct7q", "7lung!"), ("ct8q", "8lung!"))
        with pytest.raises(DataError, match=r"4 problems.*say how: names='\*=\*_mask' where"):
            _no_newlines(find_pairs, *folders)
        pairs = find_pairs(*folders, names="ct*q=*lung!")
        assert [pair.name for pair in pairs] == ["ct7q", "ct8q"]

    def test_what_a_rule_leaves_alone_is_named(self, tmp_path):
        folders = both(tmp_path, ("a", "a_mask"), ("b", "b_mask"), ("c", "other"))
        with pytest.raises(DataError) as caught:
            find_pairs(*folders, names="*=*_mask")
        assert "other.png: not called *_mask" in str(caught.value)
        assert "c.tif: no mask of that stem" in str(caught.value)
        with pytest.raises(DataError, match="2 problems"), pytest.warns(LungUNetWarning):
            find_pairs(*folders)

    def test_one_that_is_called_alike_hides_no_rule(self, tmp_path):
        folders = both(tmp_path, ("a", "a_seg"), ("b", "b_seg"), ("c", "c"))
        with pytest.raises(DataError) as caught, pytest.warns(LungUNetWarning, match="_seg"):
            find_pairs(*folders)
        assert "2 problems" in str(caught.value)
        assert "c.png: not called *_seg" in str(caught.value)

    @pytest.mark.parametrize("text", ["", "*", "a=b", "*_a", "**=*", "*=*=*"])
    def test_no_rule(self, text):
        with pytest.raises(ConfigError, match=r"names '.*': write IMAGE=MASK with a star"):
            NameRule.parse(text)

    @pytest.mark.parametrize("mask", ["{}_Lunge", "{}-Lunge 2", "Lunge{}"])
    @pytest.mark.parametrize("turned", [False, True])
    def test_an_ending_or_beginning_of_all_is_told_and_said(self, tmp_path, mask, turned):
        names = [(name, mask.format(name)) for name in ("a1", "b1", "c11")]
        folders = both(tmp_path, *[pair[::-1] if turned else pair for pair in names])
        with pytest.warns(LungUNetWarning, match="Lunge"):
            pairs = find_pairs(*folders)
        assert [(pair.image.stem, pair.mask.stem) for pair in pairs] == [
            pair[::-1] if turned else pair for pair in names
        ]

    @pytest.mark.parametrize(
        "names",
        [
            (("1", "10"), ("2", "20")),  # numbers
            (("a", "a_x"), ("b", "b_y")),  # no ending of all
            (("p_1", "q_1"), ("p_2", "q_2")),  # of two patients
        ],
    )
    def test_other_names_are_not_guessed(self, tmp_path, names):
        with pytest.raises(DataError, match="do not pair up"):
            find_pairs(*both(tmp_path, *names))

    def test_folders_count_with_a_rule_as_without(self, tmp_path):
        folders = both(tmp_path, ("A/a", "a_Lunge"), ("B/b", "b_Lunge"))
        pairs = find_pairs(*folders, names="*=*_Lunge")
        assert [pair.mask.name for pair in pairs] == ["a_Lunge.png", "b_Lunge.png"]
        folders = both(tmp_path / "2", ("A/1", "A/1_Lunge"), ("B/1", "B/1_Lunge"))
        pairs = find_pairs(*folders, names="*=*_Lunge")
        assert [pair.mask.parent.name for pair in pairs] == ["A", "B"]

    def test_one_folder_for_both(self, tmp_path):
        for name in ("a.tif", "b.tif"):
            draw(tmp_path / name)
        with pytest.raises(DataError, match="is the folder of the images and that of the masks"):
            find_pairs(tmp_path, tmp_path)
        for name in ("a_mask.png", "b_mask.png"):
            draw(tmp_path / name)
        with pytest.warns(LungUNetWarning, match=r"\*=\*_mask"):
            assert [pair.name for pair in find_pairs(tmp_path, tmp_path)] == ["a", "b"]
        assert len(find_pairs(tmp_path, tmp_path, names="*=*_mask")) == 2

    @pytest.mark.parametrize("mask", ["{}_lung", "{}", "{}_seg"])
    def test_masks_of_before_beside_the_images_are_no_images(self, tmp_path, mask):
        """As after a review: the mended masks lie in a folder of their own."""
        names = [(name, mask.format(name)) for name in ("p1/a_0", "b", "c")]
        images, masks = both(tmp_path, *names)
        for name, _ in names:
            draw(images / f"{name}_lung.png")
        with pytest.warns(LungUNetWarning) as caught:
            pairs = find_pairs(images, masks)
        assert [pair.image.name for pair in pairs] == ["a_0.tif", "b.tif", "c.tif"]
        assert {pair.mask.parent for pair in pairs} == {masks, masks / "p1"}
        assert str(caught[0].message) == (
            "3 of the 6 images are masks of others, as by names='*=*_lung', and left out: "
            f"{images / 'b_lung.png'} and the like."
        )
        (masks / f"{mask.format('c')}.png").unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(DataError, match=r"1 problem:\n.*c\.tif: no mask of that stem"):
                find_pairs(images, masks)

    def test_a_given_rule_tells_masks_beside_the_images_without_a_word(self, tmp_path):
        images, masks = both(tmp_path, ("a", "a.Lunge 2"), ("b", "b.Lunge 2"))
        for name in "ab":
            draw(images / f"{name}.Lunge 2.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pairs = find_pairs(images, masks, names="*=*.Lunge 2")
        assert [(pair.image.name, pair.mask.parent) for pair in pairs] == [
            ("a.tif", masks),
            ("b.tif", masks),
        ]

    def test_accents_written_in_two_ways_are_one_name(self, tmp_path):
        one, two = (unicodedata.normalize(form, "Müller é") for form in ("NFC", "NFD"))
        assert one != two
        (pair,) = find_pairs(*both(tmp_path, (one, two)))
        write_manifest(tmp_path / "list.txt", [pair])
        text = (tmp_path / "list.txt").read_text()
        for form in ("NFC", "NFD"):  # an editor, a copy from another system
            (tmp_path / "list.txt").write_text(unicodedata.normalize(form, text))
            assert same_files(read_manifest(tmp_path / "list.txt"), [pair])

    def test_of_scans_some_may_be_left_alone(self):
        images, masks = ("a_0000", "b_0000", "c_0000"), ("a", "b")
        assert image_names(images, masks, names="*_0000=*") == {"a": "a_0000", "b": "b_0000"}
        with pytest.warns(LungUNetWarning):
            assert image_names(images, masks) == {"a": "a_0000", "b": "b_0000"}
        assert image_names(("a", "b"), ("b",)) == {"b": "b"}


def _no_newlines(function, *args):
    try:
        function(*args)
    except DataError as err:
        raise DataError(str(err).replace("\n", " ")) from err
