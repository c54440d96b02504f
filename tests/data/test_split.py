import json
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungunet.data.manifest import Pair
from lungunet.data.split import (
    SPLITS,
    Split,
    SplitRecord,
    fold_pairs,
    read_groups,
    read_split,
    read_split_record,
    render_split,
    split_pairs,
    write_split,
)
from lungunet.errors import ConfigError, DataError, LungUNetWarning, SplitError


def pairs_named(*names):
    return [Pair(Path("images") / f"{name}.tif", Path("masks") / f"{name}.png") for name in names]


def numbered(n):
    return pairs_named(*(f"ID_{i:04}" for i in range(n)))


def names(pairs):
    return [pair.name for pair in pairs]


patients = st.lists(st.integers(1, 9), min_size=3, max_size=25)
"""How many slices each patient has."""


def slices_of(sizes):
    made = [f"p{p:02}_{s}" for p, size in enumerate(sizes) for s in range(size)]
    return pairs_named(*made), {name: name[:3] for name in made}


class TestSplit:
    @pytest.mark.parametrize(
        ("n", "val", "test", "counts"),
        [
            (100, 0.1, 0.2, (70, 10, 20)),
            (267, 0.1, 0.2, (187, 27, 53)),
            (10, 0.1, 0.2, (7, 1, 2)),
            (10, 0, 0.2, (8, 0, 2)),
            (10, 0.3, 0, (7, 3, 0)),
            (10, 0, 0, (10, 0, 0)),
            (3, 0.3, 0.3, (1, 1, 1)),
        ],
    )
    def test_single_slices_give_the_exact_shares(self, n, val, test, counts):
        split = split_pairs(numbered(n), val=val, test=test)
        assert tuple(len(getattr(split, name)) for name in SPLITS) == counts
        assert sorted(names(split.train + split.val + split.test)) == names(numbered(n))

    def test_does_not_depend_on_the_order(self):
        pairs = numbered(40)
        assert split_pairs(pairs, seed=3) == split_pairs(reversed(pairs), seed=3)
        assert split_pairs(pairs, seed=3) == split_pairs(iter(pairs), seed=3)

    def test_does_not_depend_on_the_folder(self):
        moved = [Pair(Path("z") / p.image, p.mask) for p in numbered(40)]
        assert names(split_pairs(moved).val) == names(split_pairs(numbered(40)).val)

    def test_seeds_differ(self):
        drawn = {tuple(names(split_pairs(numbered(40), seed=seed).test)) for seed in range(20)}
        assert len(drawn) == 20

    def test_every_slice_gets_its_turn(self):
        counts = Counter(
            name
            for seed in range(300)
            for name in names(split_pairs(numbered(10), val=0.1, test=0.2, seed=seed).test)
        )
        # 300 draws at 0.2: mean 60, standard deviation 6.9.
        assert len(counts) == 10
        assert all(abs(count - 60) < 30 for count in counts.values())

    def test_lists_are_sorted(self):
        split = split_pairs(numbered(60))
        for name in SPLITS:
            assert names(getattr(split, name)) == sorted(names(getattr(split, name)))

    @pytest.mark.parametrize(
        ("sizes", "least"), [([90, *[2] * 5], (90, 2, 8)), ([300, *[10] * 20], (350, 50, 100))]
    )
    @pytest.mark.filterwarnings("ignore:test 8% instead of 20%")
    def test_a_large_patient_leaves_room_for_all_lists(self, sizes, least):
        pairs, groups = slices_of(sizes)
        for seed in range(30):
            split = split_pairs(pairs, seed=seed, groups=groups)
            assert tuple(len(getattr(split, name)) for name in SPLITS) == least

    def test_says_where_a_share_is_missed_by_far(self):
        pairs, groups = slices_of([90, *[2] * 5])
        says = r"^test 8% instead of 20% of the pairs: .* the largest has 90 of 100\."
        with pytest.warns(LungUNetWarning, match=says):
            split_pairs(pairs, groups=groups)

    def test_a_seed_gives_what_it_always_gave(self):
        # Scores of models that were trained before compare on these lists.
        split = split_pairs(numbered(10), val=0.1, test=0.2, seed=3)
        pairs, groups = slices_of([5] * 10)
        alike = split_pairs(pairs, val=0.1, test=0.2, seed=3, groups=groups)
        for part, whole in zip((split.val, split.test), (alike.val, alike.test), strict=True):
            drawn = {int(name[3:]) for name in names(part)}
            assert drawn == {int(groups[name][1:]) for name in names(whole)}
        assert (names(split.val), names(split.test)) == (["ID_0000"], ["ID_0006", "ID_0009"])

    @given(patients, st.integers(0, 50))
    @pytest.mark.filterwarnings("ignore:.* instead of .* of the pairs")
    def test_patients_are_never_divided(self, sizes, seed):
        pairs, groups = slices_of(sizes)
        try:
            split = split_pairs(pairs, val=0.2, test=0.3, seed=seed, groups=groups)
        except SplitError as err:
            assert "cannot fill" in str(err)  # noqa: PT017 - the other way out is a split
            return
        owners = [{groups[name] for name in names(getattr(split, part))} for part in SPLITS]
        assert sum(map(len, owners)) == len(sizes)
        assert sorted(names(split.train + split.val + split.test)) == sorted(names(pairs))
        for part, share in ((split.val, 0.2), (split.test, 0.3)):
            assert abs(len(part) - share * len(pairs)) <= max(sizes) + 0.5

    @pytest.mark.parametrize(("size", "n"), [(4, 8), (3, 9), (1, 8)])
    def test_takes_the_patient_that_brings_the_list_nearer(self, size, n):
        # A quarter of 40 slices is 10, of 30 it is 7.5: by whole patients 8 and 9 are nearest.
        patients = 30 if size == 1 else 10
        pairs, groups = slices_of([size] * patients)
        assert len(split_pairs(pairs, val=0, test=0.25, groups=groups).test) == n

    def test_equal_patients_give_the_exact_shares(self):
        pairs, groups = slices_of([5] * 20)
        split = split_pairs(pairs, val=0.1, test=0.2, groups=groups)
        assert [len(split.train), len(split.val), len(split.test)] == [70, 10, 20]

    def test_a_test_list_alone(self):
        pairs, groups = slices_of([3, 1, 2])
        split = split_pairs(pairs, val=0, test=1, groups=groups)
        assert (split.train, split.val) == ([], [])
        assert names(split.test) == sorted(pair.name for pair in pairs)
        assert split_pairs(numbered(1), val=0, test=1).test == numbered(1)
        for val, test in ((0.1, 1), (1e-9, 1)):
            with pytest.raises(ConfigError, match="a test list alone is val=0 with test=1"):
                split_pairs(pairs, val=val, test=test)
        with pytest.raises(SplitError, match="test is empty"):
            split_pairs([], val=0, test=1)


class TestSplitRefusals:
    @pytest.mark.parametrize(
        ("n", "val", "test", "empty"), [(2, 0.1, 0.2, "val"), (4, 0.1, 0.2, "val"), (0, 0, 0, "tr")]
    )
    def test_too_few_pairs(self, n, val, test, empty):
        with pytest.raises(SplitError) as caught:
            split_pairs(numbered(n), val=val, test=test)
        assert f"{n} pairs of {n} patients cannot fill train, val and test" in str(caught.value)
        assert f"{empty}" in str(caught.value)
        assert "is empty. Add pairs or change the ratios." in str(caught.value)

    def test_too_few_patients(self):
        pairs, groups = slices_of([50, 50])
        with pytest.raises(SplitError, match="100 pairs of 2 patients cannot fill"):
            split_pairs(pairs, groups=groups)

    @pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (1, 0), (0, 1.5), (float("nan"), 0)])
    def test_shares(self, val, test):
        with pytest.raises(ConfigError, match=r"^(val|test)=.*: not a share of the pairs\. Write"):
            split_pairs(numbered(9), val=val, test=test)

    def test_nothing_for_train(self):
        with pytest.raises(ConfigError, match=r"val=0.5 and test=0.5 leave nothing for train\. Lo"):
            split_pairs(numbered(9), val=0.5, test=0.5)

    def test_stems_that_occur_twice(self):
        pairs = [*numbered(9), Pair(Path("other/ID_0003.png"))]
        with pytest.raises(SplitError, match=r"names that occur twice:\n  ID_0003 \("):
            split_pairs(pairs)
        with pytest.raises(SplitError, match=r"names that occur twice:\n  ID_0003 \("):
            fold_pairs(pairs, folds=2)

    def test_two_links_to_one_image(self, tmp_path):
        (tmp_path / "a.tif").touch()
        (tmp_path / "zz.tif").symlink_to(tmp_path / "a.tif")
        pairs = [*numbered(9), Pair(tmp_path / "zz.tif"), Pair(tmp_path / "a.tif")]
        for split in (split_pairs, partial(fold_pairs, folds=2)):
            with pytest.raises(SplitError) as caught:
                split(pairs)
            assert str(caught.value) == (
                f"slices that are one file:\n  a and zz ({tmp_path / 'a.tif'})\n"
                "Keep one of them, and remove the other links with their masks."
            )

    def test_a_pair_without_a_patient(self):
        with pytest.raises(SplitError, match=r"^ID_0001: no patient in the groups\. Name one"):
            split_pairs(numbered(9), groups={"ID_0000": "a"})

    def test_seed(self):
        with pytest.raises(ConfigError, match=r"^seed -1: must be 0 or more"):
            split_pairs(numbered(9), seed=-1)


class TestFolds:
    @given(patients, st.integers(2, 5), st.integers(0, 9))
    def test_each_pair_is_in_one_val(self, sizes, folds, seed):
        pairs, groups = slices_of(sizes)
        if len(sizes) < folds:
            with pytest.raises(SplitError, match=f"{len(sizes)} patients cannot fill {folds} fold"):
                fold_pairs(pairs, folds=folds, seed=seed, groups=groups)
            return
        splits = fold_pairs(reversed(pairs), folds=folds, seed=seed, groups=groups)
        assert len(splits) == folds
        assert sorted(n for split in splits for n in names(split.val)) == sorted(names(pairs))
        for split in splits:
            assert split.val
            assert not split.test
            assert names(split.train) == sorted(names(split.train))
            assert sorted(names(split.train + split.val)) == sorted(names(pairs))
            assert not {groups[n] for n in names(split.train)} & {
                groups[n] for n in names(split.val)
            }

    def test_even(self):
        folds = fold_pairs(numbered(17), folds=5)
        assert sorted(len(split.val) for split in folds) == [3, 3, 3, 4, 4]
        pairs, groups = slices_of([9, 1, 1, 1, 1, 1, 1, 1, 1, 1])
        assert [len(s.val) for s in fold_pairs(pairs, folds=2, groups=groups)] == [9, 9]

    def test_seeds_differ(self):
        assert fold_pairs(numbered(17), folds=5) == fold_pairs(numbered(17), folds=5)
        assert fold_pairs(numbered(17), folds=5) != fold_pairs(numbered(17), folds=5, seed=1)

    def test_at_least_two(self):
        with pytest.raises(ConfigError, match=r"^folds 1: must be 2 or more"):
            fold_pairs(numbered(9), folds=1)


class TestGroups:
    PAIRS = pairs_named("p01_s1", "p01_s2", "p02_s1")

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            (r"p(\d+)", ["01", "01", "02"]),
            (r"^p\d+", ["p01", "p01", "p02"]),
            (r"s(\d)$", ["1", "2", "1"]),
            (r"(?:p)(\d+)_(s\d)", ["01", "01", "02"]),
        ],
    )
    def test_regular_expression(self, rule, expected):
        assert list(read_groups(self.PAIRS, rule).values()) == expected

    def test_no_expression(self):
        with pytest.raises(ConfigError, match=r"group 'p\(': not a regular expression \(.*\)\."):
            read_groups(self.PAIRS, "p(")

    @pytest.mark.parametrize("rule", ["p01", r"p01_(.*)", r"_s2()"])
    def test_a_rule_that_leaves_pairs_out(self, rule):
        with pytest.raises(
            SplitError, match=r"no patient for \d pairs?: .*p02_s1\. Extend the rule"
        ):
            read_groups(self.PAIRS, rule)

    @pytest.mark.parametrize(
        "content",
        [
            "name,patient\np01_s1,A\np01_s2,A\np02_s1,B\nother,C\n",
            "\ufeffscanner,patient,name\r\nx, A ,p01_s1\r\nx,A, p01_s2\r\ny,B,p02_s1\r\n",
            'name,patient\np01_s1.tif,"A"\np01_s2.tif,A\np02_s1,B\np02_s1,B\n',
        ],
        ids=["plain", "bom, crlf, other columns", "with endings, quoted, repeated"],
    )
    def test_table(self, tmp_path, content):
        (tmp_path / "groups.CSV").write_bytes(content.encode())
        groups = read_groups(self.PAIRS, str(tmp_path / "groups.CSV"))
        assert groups == {"p01_s1": "A", "p01_s2": "A", "p02_s1": "B"}

    def test_a_stem_that_ends_like_a_file_is_no_file(self, tmp_path):
        (tmp_path / "g.csv").write_text("name,patient\na.png,A\nb.png.tif,B\n")
        groups = read_groups(pairs_named("a.png", "b.png"), str(tmp_path / "g.csv"))
        assert groups == {"a.png": "A", "b.png": "B"}
        (tmp_path / "g.csv").write_text("name,patient\na,C\na.png,A\n")
        groups = read_groups(pairs_named("a.png", "a"), str(tmp_path / "g.csv"))
        assert groups == {"a.png": "A", "a": "C"}

    @pytest.mark.parametrize("content", ["", "name,patient\n", "name;patient\na;b\n", "a,b\nc,d\n"])
    def test_table_without_its_columns(self, tmp_path, content):
        (tmp_path / "g.csv").write_text(content)
        with pytest.raises(ConfigError, match=r"no columns name and patient\. Begin it"):
            read_groups(self.PAIRS, str(tmp_path / "g.csv"))

    def test_table_that_cannot_be_read(self, tmp_path):
        with pytest.raises(ConfigError, match=r"gone\.csv: cannot be read \(No such file"):
            read_groups(self.PAIRS, str(tmp_path / "gone.csv"))
        (tmp_path / "g.csv").write_bytes(b"name,patient\n\xff,A\n")
        with pytest.raises(ConfigError, match="cannot be read as CSV"):
            read_groups(self.PAIRS, str(tmp_path / "g.csv"))

    def test_table_with_gaps(self, tmp_path):
        (tmp_path / "g.csv").write_text("name,patient\np01_s1,A\np01_s2,\np02_s1\n")
        with pytest.raises(SplitError, match="no patient for 2 pairs: p01_s2, p02_s1"):
            read_groups(self.PAIRS, str(tmp_path / "g.csv"))

    @pytest.mark.parametrize(
        ("one", "other"),
        [("p01_s1", "p01_s1"), ("p01_s1.tif", "p01_s1.png"), ("p01_s1", "p01/s1.tif")],
    )
    def test_table_with_two_patients(self, tmp_path, one, other):
        rest = "p01_s2,A\np02_s1,B\n"
        (tmp_path / "g.csv").write_text(f"name,patient\n{one},A\n{other},A\n{rest}")
        assert read_groups(self.PAIRS, str(tmp_path / "g.csv"))["p01_s1"] == "A"
        (tmp_path / "g.csv").write_text(f"name,patient\n{one},A\n{other},B\n{rest}")
        with pytest.raises(SplitError, match=r"g\.csv, line 3: p01_s1 has another patient"):
            read_groups(self.PAIRS, str(tmp_path / "g.csv"))


@pytest.fixture
def on_disk(tmp_path):
    pairs = [
        Pair(tmp_path / "images" / f"ü {i}.tif", tmp_path / "masks" / f"ü {i}.png")
        for i in range(20)
    ]
    for pair in pairs:
        for path in (pair.image, pair.mask):
            path.parent.mkdir(exist_ok=True)
            path.touch()
    return pairs


class TestFiles:
    FACTS = {"seed": 4, "ratios": {"val": 0.1, "test": 0.2}, "labels": "0,255"}  # noqa: RUF012

    def test_round_trip(self, tmp_path, on_disk):
        split = split_pairs(on_disk)
        write_split(tmp_path / "data", split, self.FACTS)
        again = read_split(tmp_path / "data")
        for name in SPLITS:
            assert names(getattr(again, name)) == names(getattr(split, name))
        counts = {"train": 14, "val": 2, "test": 4}
        stored = json.loads((tmp_path / "data" / "split.json").read_text())
        assert stored == {**self.FACTS, "counts": counts}
        known = SplitRecord(seed=4, labels="0,255", counts=counts)
        assert read_split_record(tmp_path / "data") == known

    def test_twice_is_the_same_bytes(self, tmp_path, on_disk):
        for _ in range(2):
            write_split(tmp_path / "data", split_pairs(on_disk), self.FACTS)
            found = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
            assert sorted(found) == ["split.json", "test.txt", "train.txt", "val.txt"]
            turned = dict(reversed(self.FACTS.items()))
            rendered = render_split(tmp_path / "data", split_pairs(on_disk[::-1]), turned)
            assert {path.name: text.encode() for path, text in rendered.items()} == found

    def test_an_empty_list_is_an_empty_file(self, tmp_path, on_disk):
        write_split(tmp_path / "data", split_pairs(on_disk, val=0, test=0), {})
        assert (tmp_path / "data" / "val.txt").read_bytes() == b""
        assert read_split(tmp_path / "data").test == []

    def test_val_and_test_may_be_missing(self, tmp_path, on_disk):
        write_split(tmp_path / "data", split_pairs(on_disk), {})
        (tmp_path / "data" / "val.txt").unlink()
        (tmp_path / "data" / "test.txt").unlink()
        split = read_split(tmp_path / "data")
        assert (len(split.train), split.val, split.test) == (14, [], [])

    @pytest.mark.parametrize(("one", "other"), [("train", "val"), ("train", "test"), ("val", "te")])
    def test_a_leak(self, tmp_path, on_disk, one, other):
        other = "test" if other == "te" else other
        lists = {"train": on_disk[:9], "val": on_disk[9:12], "test": on_disk[12:]}
        lists[other] = [*lists[other], lists[one][1]]
        write_split(tmp_path / "data", Split(**lists), {})
        with pytest.raises(SplitError) as caught:
            read_split(tmp_path / "data")
        assert str(caught.value) == (
            f"{tmp_path / 'data'}: 1 slices stand in two lists:\n"
            f"  {lists[one][1].name}: in {one} and {other}\n"
            "A score on slices the model has seen means nothing: run 'lungunet split' again."
        )

    def test_a_leak_by_another_name(self, tmp_path, on_disk):
        write_split(tmp_path / "data", Split(on_disk[:9], [], []), {})
        (tmp_path / "link").symlink_to(tmp_path / "images")
        line = f"{tmp_path / 'link' / on_disk[0].image.name}\t{on_disk[0].mask}\n"
        (tmp_path / "data" / "test.txt").write_text(line, encoding="utf-8")
        with pytest.raises(SplitError, match="ü 0: in train and test"):
            read_split(tmp_path / "data")

    def test_no_folder_and_no_list(self, tmp_path):
        with pytest.raises(DataError, match=r"gone: no such folder\. 'lungunet split' makes it"):
            read_split(tmp_path / "gone")
        with pytest.raises(
            DataError, match=r"no train\.txt, val\.txt or test\.txt\. 'lungunet split' m"
        ):
            read_split(tmp_path)
        (tmp_path / "test.txt").touch()
        with pytest.raises(DataError) as caught:
            read_split(tmp_path / "test.txt")
        assert str(caught.value) == (
            f"{tmp_path / 'test.txt'}: is a file. Give the folder it lies in: {tmp_path}."
        )

    def test_facts(self, tmp_path):
        assert read_split_record(tmp_path) == SplitRecord()
        (tmp_path / "split.json").write_text("{")
        with pytest.raises(DataError, match=r"split\.json: damaged \(.*\)\. Run 'lungunet split'"):
            read_split_record(tmp_path)
        (tmp_path / "split.json").write_bytes(b"\xff")
        with pytest.raises(DataError, match=r"split\.json: damaged"):
            read_split_record(tmp_path)
        (tmp_path / "split.json").write_text(json.dumps([1]))
        with pytest.raises(DataError, match=r"split\.json: not a JSON object\. Run"):
            read_split_record(tmp_path)
