"""From two folders to what training and cross-validation read, without the command line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import SplitConfig, SplitRecord, write_data_folder
from lungunet.data.codec import LabelCodec
from lungunet.data.exclude import read_excluded
from lungunet.data.files import write_csv
from lungunet.data.made_by import SIDES_CODEC
from lungunet.data.manifest import RECORD
from lungunet.data.review_log import LogWriter
from lungunet.errors import ConfigError, DataError, LungUNetWarning, SplitError

GROUPED = SplitConfig(0.25, 0.25, group=r"patient-\d+")


def texts(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.suffix in (".txt", ".json"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class TestRecord:
    def test_says_what_split_json_says_and_the_share_of_lung(self, phantoms, tmp_path: Path):
        record = write_data_folder(*phantoms, tmp_path / "d", config=GROUPED)
        assert record.counts == {"train": 6, "val": 3, "test": 3}
        assert (record.val, record.test, record.seed, record.guard) == (0.25, 0.25, 0, False)
        assert (record.dtypes, record.sizes) == ({"int16": 12}, {"48x48": 12})
        assert record.codec == lungunet.LUNG_CODEC
        assert record.patients is not None
        assert sorted(set(record.patients.values())) == [1, 2, 3, 4]
        shares = [(lungunet.read_mask(mask) > 0).mean() for mask in phantoms[1].iterdir()]
        assert record.lung_share == pytest.approx(np.mean(shares))
        assert record.empty_masks == shares.count(0)
        assert lungunet.read_split_record(tmp_path / "d") == replace(record, lung_share=None)

    @pytest.mark.parametrize("size", [None, 32])
    def test_labels_by_which_no_mask_holds_lung_are_told(self, phantoms, tmp_path: Path, size):
        codec = LabelCodec.parse("0,7,*=0")
        said = r"masks: no lung in any of 12 masks, read as 0,7,\*=0\. Look at the label coding"
        with pytest.warns(LungUNetWarning, match=said) as told:
            write_data_folder(*phantoms, tmp_path / "d", codec=codec, size=size)
        assert len(told) == 1
        with pytest.warns(LungUNetWarning, match="no lung in any of 12 masks"):
            lungunet.audit(tmp_path / "d")

    def test_round_trip(self, phantoms, tmp_path: Path):
        record = write_data_folder(*phantoms, tmp_path / "d", config=GROUPED, size=32)
        stored = json.loads((tmp_path / "d" / "split.json").read_text())
        assert record.to_dict() == stored
        assert SplitRecord.from_dict(stored).to_dict() == stored
        assert stored["prepared_size"] == 32
        assert stored["group"] == r"patient-\d+"
        assert "fold" not in stored

    def test_writes_the_same_bytes_as_a_dict(self, phantoms, tmp_path: Path):
        record = write_data_folder(*phantoms, tmp_path / "d", config=GROUPED)
        lists = lungunet.read_split(tmp_path / "d")
        for name, facts in (("a", record), ("b", record.to_dict())):
            lungunet.write_split(tmp_path / name, lists, facts)
        assert texts(tmp_path / "a") == texts(tmp_path / "b") == texts(tmp_path / "d")

    def test_of_a_folder_without_one(self, tmp_path: Path):
        assert lungunet.read_split_record(tmp_path) == SplitRecord()
        assert SplitRecord().codec is None


class TestFolds:
    def test_are_what_cross_validate_reads(self, phantoms, tmp_path: Path):
        write_data_folder(*phantoms, tmp_path / "d", config=replace(GROUPED, folds=3))
        config = lungunet.RunConfig(
            data=str(tmp_path / "d"), epochs=1, size=32, batch_size=2, workers=0
        )
        results = list(lungunet.cross_validate(config, tmp_path / "runs"))
        folds = [found for found in results if isinstance(found, lungunet.FoldResult)]
        assert [fold.name for fold in folds] == ["fold-1", "fold-2", "fold-3"]
        assert sum(len(fold.card.cases) for fold in folds) == 9
        record = lungunet.read_split_record(tmp_path / "d" / "fold-2")
        assert (record.fold, record.counts) == (2, {"train": 6, "val": 3, "test": 3})

    def test_of_an_earlier_split_go(self, phantoms, tmp_path: Path):
        write_data_folder(*phantoms, tmp_path / "d", config=replace(GROUPED, folds=3))
        before = texts(tmp_path / "d")
        with pytest.raises(ConfigError, match=r"fold-1.*already there"):
            write_data_folder(*phantoms, tmp_path / "d", config=GROUPED)
        assert texts(tmp_path / "d") == before
        write_data_folder(*phantoms, tmp_path / "d", config=GROUPED, overwrite=True)
        assert len(texts(tmp_path / "d")) == 4


class TestWriting:
    def test_again_is_the_same_and_needs_no_permission(self, phantoms, tmp_path: Path):
        first = write_data_folder(*phantoms, tmp_path / "d", config=GROUPED)
        before = texts(tmp_path / "d")
        assert write_data_folder(*phantoms, tmp_path / "d", config=GROUPED) == first
        assert texts(tmp_path / "d") == before
        with pytest.raises(ConfigError, match="already there"):
            write_data_folder(*phantoms, tmp_path / "d", config=replace(GROUPED, seed=9))
        assert texts(tmp_path / "d") == before

    def test_anew_and_smaller(self, phantoms, tmp_path: Path):
        record = write_data_folder(*phantoms, tmp_path / "d", config=GROUPED, size=32)
        assert record.sizes == {"32x32": 12}
        assert record.codec == lungunet.LabelCodec({0: 0, 1: 1})
        pairs = lungunet.read_split(tmp_path / "d").train
        assert lungunet.read_image(pairs[0].image).shape == (32, 32)
        with pytest.raises(ConfigError, match="already there"):
            write_data_folder(*phantoms, tmp_path / "d", config=GROUPED, size=32)

    def test_never_over_its_inputs(self, phantoms, tmp_path: Path):
        for folder in phantoms:
            shutil.copytree(folder, tmp_path / folder.name)
        with pytest.raises(ConfigError, match="while it is read"):
            write_data_folder(
                tmp_path / "images", tmp_path / "masks", tmp_path, size=32, overwrite=True
            )

    def test_guard_joins_what_looks_alike(self, tmp_path: Path):
        """Neighbours of one patient stay together, though nobody names patients."""
        for number in range(6):
            for height in (0.5, 0.502):
                made = lungunet.phantom_slice(number, height, size=128)
                name = f"{number}{'ab'[height > 0.5]}"
                lungunet.write_image(tmp_path / "images" / f"{name}.tif", made.image)
                lungunet.write_mask(tmp_path / "masks" / f"{name}.png", made.mask)
        config = SplitConfig(0.34, 0.34, guard=True)
        record = write_data_folder(
            tmp_path / "images", tmp_path / "masks", tmp_path / "d", config=config
        )
        assert record.patients is not None
        assert len(set(record.patients.values())) == 6
        lists = lungunet.read_split(tmp_path / "d")
        for pairs in (lists.train, lists.val, lists.test):
            names = [pair.name for pair in pairs]
            assert {name[0] + "a" for name in names} | {name[0] + "b" for name in names} == set(
                names
            )

    def test_raw_values_of_files_that_stay_where_they_are(self, phantoms, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"^raw: nothing is written anew\. Give a size too\."):
            write_data_folder(*phantoms, tmp_path / "d", raw=True)

    def test_wrong_files_are_listed_and_nothing_is_written(self, phantoms, tmp_path: Path):
        with pytest.raises(DataError, match="mask value 255"):
            write_data_folder(*phantoms, tmp_path / "d", codec=lungunet.LabelCodec({0: 0, 1: 1}))
        assert not (tmp_path / "d").exists()

    def test_reports_progress(self, phantoms, tmp_path: Path):
        seen = []

        def progress(items, *, desc, total):
            seen.append((desc, total))
            return items

        config = replace(GROUPED, guard=True)
        write_data_folder(*phantoms, tmp_path / "d", config=config, size=32, progress=progress)
        assert seen == [("compare", 12), ("read", 12), ("prepare", 12), ("read", 12)]

    @pytest.mark.parametrize("size", [None, 32])
    def test_a_link_to_another_slice_is_refused_before(self, phantoms, tmp_path, size):
        drawn = tmp_path / "drawn"
        write_data_folder(*phantoms, drawn)
        name = next(path.stem for path in phantoms[0].iterdir())
        folders = [tmp_path / folder.name for folder in phantoms]
        for folder, copy in zip(phantoms, folders, strict=True):
            shutil.copytree(folder, copy)
            (file,) = copy.glob(f"{name}.*")
            (copy / f"zz{file.suffix}").symlink_to(file)
        with (drawn / "test.txt").open("a") as lines:
            lines.write(f"zz.tif\t{folders[1]}/zz.png\n")
        for config in (SplitConfig(), SplitConfig(like=str(drawn))):
            with pytest.raises(SplitError, match=rf"one file:\n  {name} and zz \("):
                write_data_folder(*folders, tmp_path / "d", config=config, size=size)
            assert not (tmp_path / "d").exists()


class TestExcluded:
    def test_the_others_stay_where_they_are(self, phantoms, tmp_path: Path):
        config = replace(GROUPED, folds=3)
        write_data_folder(*phantoms, tmp_path / "whole", config=config)
        whole = lungunet.read_split(tmp_path / "whole")
        gone = [whole.train[0].name, whole.test[1].name]
        (tmp_path / "bad.txt").write_text(f"{gone[0]}\r\nsomewhere\\{gone[1]}.png\tmasks/a.png\n\n")
        config = replace(config, exclude=str(tmp_path / "bad.txt"))
        record = write_data_folder(*phantoms, tmp_path / "clean", config=config)
        assert record.excluded == sorted(gone)
        assert record.counts == {"train": 5, "val": 3, "test": 2}
        assert sum(record.sizes.values()) == 10  # those left out are not read
        assert lungunet.read_split_record(tmp_path / "clean") == replace(record, lung_share=None)
        for place in (".", "fold-1", "fold-2", "fold-3"):
            before = lungunet.read_split(tmp_path / "whole" / place)
            after = lungunet.read_split(tmp_path / "clean" / place)
            for name in ("train", "val", "test"):
                kept = [pair.name for pair in getattr(before, name) if pair.name not in gone]
                assert [pair.name for pair in getattr(after, name)] == kept
        write_data_folder(*phantoms, tmp_path / "small", config=config, size=32)
        small = lungunet.read_split(tmp_path / "small")
        assert [p.name for p in small.test] == [p.name for p in whole.test if p.name not in gone]
        assert len(list((tmp_path / "small" / "images").iterdir())) == 10

    def test_settings_that_would_draw_other_lists(self, phantoms, tmp_path: Path):
        write_data_folder(*phantoms, tmp_path / "d", config=GROUPED)
        name = lungunet.read_split(tmp_path / "d").train[0].name
        (tmp_path / "bad.txt").write_text(name)
        config = replace(GROUPED, exclude=str(tmp_path / "bad.txt"))
        for other in (replace(config, seed=1), replace(config, group=None)):
            with pytest.raises(ConfigError, match=r"made with (seed 0|group patient-\\d\+)\. Say"):
                write_data_folder(*phantoms, tmp_path / "d", config=other, overwrite=True)
        write_data_folder(*phantoms, tmp_path / "d", config=config, overwrite=True)
        alone = replace(config, group=None)
        with pytest.warns(LungUNetWarning, match=r"^patients are not known here\. .* like='DATA'"):
            write_data_folder(*phantoms, tmp_path / "alone", config=alone)
        with pytest.raises(ConfigError, match=r"made with group None\. Say like="):
            write_data_folder(*phantoms, tmp_path / "alone", config=config, overwrite=True)

    def test_by_what_a_review_dropped(self, phantoms, tmp_path: Path):
        first, second = (pair.name for pair in lungunet.find_pairs(*phantoms)[:2])
        log = LogWriter(tmp_path / "mended" / "review.jsonl", lungunet.LUNG_CODEC)
        for name, decision in ((first, "drop"), (second, "drop"), (second, "right")):
            log.append({"name": name, "decision": decision, "note": "", "who": ""})
        config = replace(GROUPED, exclude=str(log.path))
        record = write_data_folder(*phantoms, tmp_path / "clean", config=config)
        assert record.excluded == [first]

    def test_by_the_ranking_of_an_audit(self, phantoms, tmp_path: Path):
        write_data_folder(*phantoms, tmp_path / "d", config=GROUPED)
        audit = lungunet.audit(tmp_path / "d", out=tmp_path / "audit", pictures=0)
        bound = audit.ranking[1].score
        ranking = f"{tmp_path / 'audit' / 'ranking.csv'}:{bound}"
        config = replace(GROUPED, exclude=ranking)
        record = write_data_folder(*phantoms, tmp_path / "clean", config=config)
        worst = {suspect.pair.name for suspect in audit.ranking if suspect.score >= bound}
        assert set(record.excluded) == worst
        assert len(worst) >= 2

    @pytest.mark.parametrize("end", ["\u2028", "\x0b", "\x85"])
    def test_names_that_hold_a_line_end(self, tmp_path: Path, end: str):
        lines = [f"images/a{end}b.tif\tmasks/a.png", "c.tif"]
        (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
        names = [f"a{end}b", "c"]
        assert read_excluded(tmp_path / "a.txt") == names
        rows = [{"name": name, "score": 0.5, "reasons": [f"x{end}y"]} for name in names]
        write_csv(tmp_path / "r.csv", rows)
        assert read_excluded(f"{tmp_path / 'r.csv'}:0.2") == names

    @pytest.mark.parametrize(
        ("name", "text", "after", "error", "words"),
        [
            ("a.txt", "ID_1\n", "", DataError, "names 1 slice that are not here: ID_1"),
            ("a.txt", "ID_1\n", ":0.2", ConfigError, "a bound is for a ranking"),
            ("a.csv", "name,score\nID_1,0.3\n", "", ConfigError, r"Say from which .*a\.csv:0\.2"),
            ("a.csv", "name,patient\nID_1,3\n", ":0.2", DataError, "is no ranking"),
            ("a.csv", "name,score\nID_1,x\n", ":0.2", DataError, "is no ranking"),
        ],
    )
    def test_refusals(self, phantoms, tmp_path: Path, name, text, after, error, words):
        (tmp_path / name).write_text(text)
        config = replace(GROUPED, exclude=f"{tmp_path / name}{after}")
        with pytest.raises(error, match=words):
            write_data_folder(*phantoms, tmp_path / "d", config=config)
        assert not (tmp_path / "d").exists()

    def test_missing_or_all_of_a_list(self, phantoms, tmp_path: Path):
        config = replace(GROUPED, exclude="none.txt")
        with pytest.raises(ConfigError, match=r"none\.txt: cannot be read"):
            write_data_folder(*phantoms, tmp_path / "d", config=config)
        write_data_folder(*phantoms, tmp_path / "d", config=GROUPED)
        config = replace(GROUPED, exclude=str(tmp_path / "d" / "val.txt"))
        with pytest.raises(DataError, match="val: all of its slices are excluded"):
            write_data_folder(*phantoms, tmp_path / "e", config=config)


class TestLike:
    """The lists of another folder are kept, whatever drew them."""

    @pytest.fixture
    def drawn(self, phantoms, tmp_path: Path) -> Path:
        """A data folder with a seed, patients and folds of its own, one slice left out."""
        first = lungunet.find_pairs(*phantoms)[0].name
        (tmp_path / "first.txt").write_text(first)
        config = replace(GROUPED, seed=3, folds=3, exclude=str(tmp_path / "first.txt"))
        write_data_folder(*phantoms, tmp_path / "drawn", config=config)
        return tmp_path / "drawn"

    def test_keeps_lists_folds_and_patients(self, phantoms, drawn: Path, tmp_path: Path):
        """Masks are mended copies elsewhere, and nobody says how the lists were drawn."""
        shutil.copytree(phantoms[1], tmp_path / "mended")
        gone = lungunet.read_split(drawn).train[0].name
        (tmp_path / "bad.txt").write_text(gone)
        config = SplitConfig(exclude=str(tmp_path / "bad.txt"), like=str(drawn))
        record = write_data_folder(phantoms[0], tmp_path / "mended", tmp_path / "e", config=config)
        before = lungunet.read_split_record(drawn)
        assert before.patients is not None
        assert record.excluded == sorted([*before.excluded, gone])
        assert (record.patients, record.group) == (before.patients, before.group)
        assert (record.val, record.test, record.seed) == (0.25, 0.25, 3)
        for place in (".", "fold-1", "fold-2", "fold-3"):
            old, new = (lungunet.read_split(data / place) for data in (drawn, tmp_path / "e"))
            for name in ("train", "val", "test"):
                kept = [pair.name for pair in getattr(old, name) if pair.name != gone]
                assert [pair.name for pair in getattr(new, name)] == kept
            assert new.train[0].mask.parent == tmp_path / "mended"
        again = SplitConfig(like=str(tmp_path / "e"))
        assert write_data_folder(*phantoms, tmp_path / "f", config=again) == record

    def test_copies_that_a_review_wrote_pair_as_the_lists_call_slices(
        self, phantoms, tmp_path: Path
    ):
        """Image and mask lie in folders of each patient; a rule for names told which is which."""
        cohort, mended = tmp_path / "cohort", tmp_path / "mended"
        for image in sorted(phantoms[0].iterdir()):
            patient, _, number = image.stem.rpartition("-")
            mask = phantoms[1] / f"{image.stem}.png"
            for file, kind in ((image, "img"), (mask, "gt")):
                copy = cohort / patient / kind / f"{number}{file.suffix}"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
            mended.mkdir(exist_ok=True)
            shutil.copy(mask, mended / f"{patient}_{number}.png")
        write_data_folder(cohort, cohort, tmp_path / "d", config=GROUPED, names="img/*=gt/*")
        config = SplitConfig(like=str(tmp_path / "d"))
        write_data_folder(cohort, mended, tmp_path / "e", config=config)
        old, new = (lungunet.read_split(tmp_path / name) for name in "de")
        assert [(p.image, p.name) for p in new.train] == [(p.image, p.name) for p in old.train]
        assert {(p.mask.parent, p.mask.stem == p.name) for p in new.test} == {(mended, True)}
        (mended / "strange.png").write_bytes((mended / f"{new.test[0].name}.png").read_bytes())
        with pytest.raises(DataError, match=r"cohort and \S+mended do not pair up"):
            write_data_folder(cohort, mended, tmp_path / "f", config=config)

    def test_of_slices_written_anew(self, phantoms, drawn: Path, tmp_path: Path):
        config = SplitConfig(like=str(drawn))
        write_data_folder(*phantoms, tmp_path / "small", config=config, size=32)
        names = [
            [pair.name for pair in lungunet.read_split(data).test]
            for data in (drawn, tmp_path / "small")
        ]
        assert names[0] == names[1]

    def test_folds_of_lists_without(self, phantoms, tmp_path: Path):
        write_data_folder(*phantoms, tmp_path / "d", config=GROUPED)
        config = SplitConfig(folds=3, like=str(tmp_path / "d"))
        record = write_data_folder(*phantoms, tmp_path / "e", config=config)
        lists = lungunet.read_split(tmp_path / "e" / "fold-1")
        assert lists.test == lungunet.read_split(tmp_path / "d").test
        assert len({record.patients[pair.name] for pair in lists.val}) == 1
        assert len(lists.val) == 3

    def test_refuses_settings_that_ask_for_other_lists(self, phantoms, drawn, tmp_path: Path):
        config = replace(GROUPED, seed=3, folds=3, like=str(drawn))
        write_data_folder(*phantoms, tmp_path / "same", config=config)
        for name, value in (("seed", 4), ("val", 0.3), ("group", "."), ("guard", True)):
            other = replace(config, **{name: value})
            with pytest.raises(ConfigError, match=rf"kept as they are, and {name} {value} asks"):
                write_data_folder(*phantoms, tmp_path / "e", config=other)
        with pytest.raises(ConfigError, match=r"folds 4 \(it has 3\) asks"):
            write_data_folder(*phantoms, tmp_path / "e", config=replace(config, folds=4))
        assert not (tmp_path / "e").exists()

    def test_refuses_slices_that_it_does_not_list(self, phantoms, drawn: Path, tmp_path: Path):
        for folder in phantoms:
            shutil.copytree(folder, tmp_path / folder.name)
            source = sorted((tmp_path / folder.name).iterdir())[0]
            shutil.copy(source, source.with_stem("new"))
        places = (tmp_path / "images", tmp_path / "masks", tmp_path / "e")
        with pytest.raises(SplitError, match=r"drawn: 1 slice in none of its lists: new\. "):
            write_data_folder(*places, config=SplitConfig(like=str(drawn)))
        assert not (tmp_path / "e").exists()
        (tmp_path / "new.txt").write_text("new")
        config = SplitConfig(exclude=str(tmp_path / "new.txt"), like=str(drawn))
        assert "new" in write_data_folder(*places, config=config).excluded

    def test_keeps_the_coding(self, phantoms, tmp_path: Path):
        ones = LabelCodec({0: 0, 1: 1}, names=("background", "both lungs"))
        for path in phantoms[1].iterdir():
            lungunet.write_mask(tmp_path / "ones" / path.name, lungunet.read_mask(path) // 255)
        places = (phantoms[0], tmp_path / "ones")
        write_data_folder(*places, tmp_path / "d", codec=ones)
        like = SplitConfig(like=str(tmp_path / "d"))
        assert write_data_folder(*places, tmp_path / "e", config=like).codec == ones
        with pytest.raises(DataError, match=r"mask value 1 .*\(codec=LabelCodec.parse\('0,1'\)\)"):
            write_data_folder(*places, tmp_path / "f")
        with pytest.raises(DataError, match="mask value 1 "):
            write_data_folder(*places, tmp_path / "f", config=like, codec=lungunet.LUNG_CODEC)

    @pytest.mark.parametrize("labels", ["0,255", "0,1,2,3"])
    def test_masks_that_say_their_coding_keep_it(self, phantoms, tmp_path: Path, labels: str):
        """As predicted: with sides, 3 is of unknown side and all are one lung."""
        codec = LabelCodec.parse(labels) if labels == "0,255" else SIDES_CODEC
        said = {"format": 1, "made_by": {"labels": codec.to_dict()}}
        for path in phantoms[1].iterdir():
            lung = lungunet.LUNG_CODEC.encode(lungunet.read_mask(path)) * (codec.n_classes - 1)
            lungunet.write_mask(tmp_path / "m" / path.name, codec.decode(lung))
        (tmp_path / "m" / RECORD).write_text(json.dumps(said) + "\n")
        write_data_folder(*phantoms, tmp_path / "d", codec=LabelCodec.parse(">=9"))
        config = SplitConfig(like=str(tmp_path / "d"))
        known = write_data_folder(*phantoms, tmp_path / "c")
        for out, how in ((tmp_path / "e", config), (tmp_path / "f", SplitConfig())):
            record = write_data_folder(phantoms[0], tmp_path / "m", out, config=how)
            assert record.codec.names == ("background", "lung")
            assert record.codec.threshold is None
            assert record.lung_share == known.lung_share

    def test_prepared_files_are_coded_by_themselves(self, phantoms, tmp_path: Path):
        write_data_folder(*phantoms, tmp_path / "d", size=32)
        config = SplitConfig(like=str(tmp_path / "d"))
        again = write_data_folder(*phantoms, tmp_path / "e", config=config)
        assert again.codec == lungunet.LUNG_CODEC
        files = (tmp_path / "d" / "images", tmp_path / "d" / "masks")
        assert write_data_folder(*files, tmp_path / "f", config=config).codec.raw_values[1] == 1

    def test_says_what_is_missing(self, phantoms, drawn: Path, tmp_path: Path):
        lists = lungunet.read_split(drawn)
        for folder in phantoms:
            shutil.copytree(folder, tmp_path / folder.name)
        places = (tmp_path / "images", tmp_path / "masks")
        config = SplitConfig(like=str(drawn))

        def remove(pair: lungunet.Pair) -> None:
            for file in (pair.image, pair.mask):
                (tmp_path / file.parent.name / file.name).unlink()

        remove(lists.test[0])
        with pytest.warns(LungUNetWarning, match=rf"1 slice of .* left out: {lists.test[0].name}"):
            write_data_folder(*places, tmp_path / "e", config=config)
        assert lungunet.read_split_record(tmp_path / "e").counts["test"] == len(lists.test) - 1
        for pair in lists.test[1:]:
            remove(pair)
        with pytest.raises(SplitError, match=r"no slice of its test\.txt is among the images"):
            write_data_folder(*places, tmp_path / "f", config=config)

    def test_refuses_lists_that_share_a_slice(self, phantoms, tmp_path: Path):
        pairs = lungunet.find_pairs(*phantoms)
        for name in ("train", "test"):
            lungunet.write_manifest(tmp_path / "d" / f"{name}.txt", pairs)
        with pytest.raises(SplitError, match=r"in train and test\. Lists that share"):
            write_data_folder(*phantoms, tmp_path / "e", config=SplitConfig(like=tmp_path / "d"))
        with pytest.raises(DataError, match=r"no train\.txt, val\.txt or test\.txt"):
            write_data_folder(*phantoms, tmp_path / "e", config=SplitConfig(like=tmp_path))
