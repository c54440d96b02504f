import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from lungunet.data import cache as cache_module
from lungunet.data import dataset as dataset_module
from lungunet.data.cache import SliceCache
from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.ct import write_image, write_mask
from lungunet.data.dataset import LungCTDataset
from lungunet.data.loader import make_loader
from lungunet.data.manifest import Pair
from lungunet.data.transforms import train_transform
from lungunet.data.window import Window
from lungunet.errors import ConfigError, DataError, GeometryError, LabelError, LungUNetWarning
from lungunet.training.config import RunConfig
from lungunet.training.run import load_datasets, make_trainer

SIZE = 32
ENTRY_BYTES = 64 + 2 * SIZE * SIZE


def write_pair(folder, name, *, shape=(48, 64), seed=0, value=255):
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    mask[5 + seed : 30, 8:20] = value
    image = rng.normal(40, 300, shape).astype(np.int16)
    pair = Pair(folder / "images" / f"{name}.tif", folder / "masks" / f"{name}.png")
    write_image(pair.image, image)
    write_mask(pair.mask, mask)
    return pair


@pytest.fixture
def pairs(tmp_path):
    shapes = [(48, 64), (61, 40), (32, 32), (48, 64), (20, 70), (48, 64)]
    return [
        write_pair(tmp_path, f"patient-{seed}", shape=shape, seed=seed)
        for seed, shape in enumerate(shapes)
    ]


@pytest.fixture
def settled(monkeypatch):
    """Trust files at once; the real wait is the subject of its own tests."""
    monkeypatch.setattr(cache_module, "_SETTLED_S", -1)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def entries(folder):
    return sorted(folder.glob("*.slice"))


def samples(dataset):
    return [dataset.read(index) for index in range(len(dataset))]


def same(ones, others):
    return len(ones) == len(others) and all(
        np.array_equal(a, b)
        for one, other in zip(ones, others, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def forbid_reading(monkeypatch):
    def refuse(*_):
        raise AssertionError("a file was read again")

    monkeypatch.setattr(dataset_module, "read_pair", refuse)


def batches(dataset, *, workers, context=None):
    loader = make_loader(dataset, batch_size=2, shuffle=True, seed=5, workers=workers)
    loader.multiprocessing_context = context
    return [[part.numpy() for part in batch] for _ in range(2) for batch in loader]


@pytest.mark.usefixtures("settled")
class TestSamples:
    @pytest.mark.parametrize("options", [{"size": SIZE}, {"size": 64, "window": Window(40, 400)}])
    def test_are_the_same_bits_with_and_without(self, pairs, folder, monkeypatch, options):
        plain = LungCTDataset(pairs, **options)
        cached = LungCTDataset(pairs, **options, cache=folder)
        assert same(samples(cached), samples(plain))
        expected = samples(plain), list(plain)
        forbid_reading(monkeypatch)
        for dataset in (cached, LungCTDataset(pairs, **options, cache=str(folder))):
            assert same(samples(dataset), expected[0])
            assert same(list(dataset), expected[1])
        assert len(entries(folder)) == len(pairs)

    def test_of_several_classes(self, tmp_path, folder, monkeypatch):
        pair = write_pair(tmp_path, "a", value=7)
        codec = LabelCodec.parse("0,3,7")
        plain = LungCTDataset([pair], size=SIZE, codec=codec)
        expected = samples(plain)
        assert set(np.unique(expected[0][1])) == {0, 2}
        samples(LungCTDataset([pair], size=SIZE, codec=codec, cache=folder))
        forbid_reading(monkeypatch)
        assert same(samples(LungCTDataset([pair], size=SIZE, codec=codec, cache=folder)), expected)

    @pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (2, "spawn")])
    def test_batches_are_the_same_bits(self, pairs, folder, workers, context):
        options = {"transform": train_transform(), "size": SIZE}
        alone = batches(LungCTDataset(pairs, **options), workers=0)
        cached = LungCTDataset(pairs, **options, cache=folder)
        if context == "spawn":  # its workers know of no patched wait
            samples(cached)
        assert same(batches(cached, workers=workers, context=context), alone)
        assert len(entries(folder)) == len(pairs)

    def test_may_be_written_to(self, pairs, folder):
        def blacken(image, mask):
            image[:], mask[:] = 0, 0
            return {"image": image, "mask": mask}

        plain = samples(LungCTDataset(pairs, size=SIZE))
        spoilt = LungCTDataset(pairs, size=SIZE, transform=blacken, cache=folder)
        for _ in range(2):
            assert all(mask.sum() == 0 for _, mask in spoilt)
        assert same(samples(spoilt), plain)

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files")
    def test_hold_no_file_open(self, pairs, folder):
        dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
        samples(dataset)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as many as there are, no paths
        kept = samples(dataset), list(dataset)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
        assert len(kept[0]) == len(kept[1]) == len(pairs)
        again = pickle.loads(pickle.dumps(dataset))
        assert same(samples(again), kept[0])

    def test_name_no_patient(self, pairs, folder):
        samples(LungCTDataset(pairs, size=SIZE, cache=folder))
        for entry in entries(folder):
            assert "patient" not in entry.name
            assert b"patient" not in entry.read_bytes()
            assert entry.stat().st_size == ENTRY_BYTES

    def test_without_a_cache_nothing_is_written(self, tmp_path, pairs, monkeypatch):
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        samples(LungCTDataset(pairs, size=SIZE))
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("settled")
class TestNeverStale:
    def check(self, pairs, folder, **options):
        """Both datasets see what the files hold now; return how many entries that added."""
        before = len(entries(folder))
        for cache in (folder, folder):
            cached = LungCTDataset(pairs, **{"size": SIZE, **options}, cache=cache)
            assert same(samples(cached), samples(LungCTDataset(pairs, **{"size": SIZE, **options})))
        return len(entries(folder)) - before

    @pytest.mark.parametrize("part", ["image", "mask"])
    @pytest.mark.parametrize("way", ["in place", "moved into place"])
    def test_a_file_that_looks_as_before_is_read_again(self, tmp_path, pairs, folder, part, way):
        self.check(pairs, folder)
        path = getattr(pairs[0], part)
        status = path.stat()
        other = getattr(write_pair(tmp_path / "other", "a", seed=9), part)
        if part == "mask":  # a PNG may come out one byte longer; what follows the end is ignored
            width = max(status.st_size, other.stat().st_size)
            other.write_bytes(other.read_bytes().ljust(width, b"\0"))
            path.write_bytes(path.read_bytes().ljust(width, b"\0"))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            self.check(pairs, folder)
        size = path.stat().st_size
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        if way == "in place":
            path.write_bytes(other.read_bytes())
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        else:
            other.replace(path)
        now = path.stat()
        assert (now.st_size, now.st_mtime_ns) == (size, status.st_mtime_ns)
        assert self.check(pairs, folder) == 0  # the new entry took the place of the old

    def test_a_file_moved_into_place_where_that_is_no_change(self, pairs, folder, monkeypatch):
        # POSIX leaves open whether a renamed file has changed; here it has, so tell a tale.
        def stat(path):
            now = path.stat()
            return SimpleNamespace(
                st_size=7, st_mtime=now.st_mtime, st_mtime_ns=1, st_ctime_ns=1, st_ino=now.st_ino
            )

        monkeypatch.setattr(cache_module, "_stat", stat)
        self.check(pairs[:1], folder)
        pairs[3].image.replace(pairs[0].image)
        self.check(pairs[:1], folder)

    def test_a_link_that_points_elsewhere(self, tmp_path, pairs, folder):
        link = tmp_path / "today.tif"
        for pair in (pairs[0], pairs[3]):
            link.unlink(missing_ok=True)
            link.symlink_to(pair.image)
            self.check([Pair(link, pair.mask)], folder)

    def test_two_names_of_one_file_share_an_entry(self, tmp_path, pairs, folder):
        (tmp_path / "again").symlink_to(tmp_path / "images")
        assert self.check(pairs[:1], folder) == 1
        alias = Pair(tmp_path / "again" / pairs[0].image.name, pairs[0].mask)
        assert self.check([alias], folder) == 0

    def test_another_mask_of_the_same_image(self, pairs, folder):
        assert self.check(pairs[:1], folder) == 1
        assert self.check([Pair(pairs[0].image, pairs[3].mask)], folder) == 1

    def test_another_contract_or_codec_gets_entries_of_its_own(self, pairs, folder):
        assert self.check(pairs, folder) == 6
        assert self.check(pairs, folder, size=48) == 6
        assert self.check(pairs, folder, window=Window(40, 400)) == 6
        assert self.check(pairs, folder, codec=LabelCodec.parse("0,255", threshold=9)) == 6
        assert self.check(pairs, folder, codec=LabelCodec({0: 1, 255: 0})) == 6
        assert self.check(pairs, folder) == 0

    @pytest.mark.parametrize("package", [cache_module, cv2])
    def test_another_release_too(self, pairs, folder, monkeypatch, package):
        assert self.check(pairs, folder) == 6
        monkeypatch.setattr(package, "__version__", "9.9.9")
        assert self.check(pairs, folder) == 6

    def test_a_file_that_changes_while_it_is_read_is_not_kept(self, pairs, folder, monkeypatch):
        def read_and_spoil(pair, codec, read=dataset_module.read_pair):
            sample = read(pair, codec)
            os.utime(pair.mask)
            return sample

        monkeypatch.setattr(dataset_module, "read_pair", read_and_spoil)
        dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
        samples(dataset)
        assert not entries(folder)

    @pytest.mark.parametrize("part", ["image", "mask"])
    def test_a_missing_file_is_an_error(self, pairs, folder, part):
        dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
        samples(dataset)
        path = getattr(pairs[1], part)
        path.unlink()
        with pytest.raises(DataError, match=rf"{path.name}: no such file\."):
            dataset.read(1)

    def test_wrong_pairs_are_named_every_time(self, tmp_path, pairs, folder):
        label = write_pair(tmp_path, "label", value=7)
        shape = Pair(pairs[0].image, pairs[1].mask)
        dataset = LungCTDataset([label, shape], size=SIZE, cache=folder)
        for _ in range(2):
            with pytest.raises(LabelError, match=r"label\.png: mask value 7"):
                dataset[0]
            with pytest.raises(GeometryError, match=r"mask is 61x40, image is 48x64"):
                dataset[1]
        assert not entries(folder)


@pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 there")
@pytest.mark.usefixtures("settled")
def test_a_name_that_is_not_utf_8(pairs, folder, tmp_path):
    image = tmp_path / os.fsdecode(b"caf\xe9.tif")
    shutil.copy(pairs[0].image, image)
    dataset = LungCTDataset([Pair(image, pairs[0].mask)], size=SIZE, cache=folder)
    samples(dataset)
    assert len(entries(folder)) == 1


class TestFreshFiles:
    """Within one tick of a file system's clock two contents bear the same time of change."""

    def test_are_kept_once_they_are_two_seconds_old(self, pairs, folder, monkeypatch):
        dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
        os.utime(pairs[0].image, (0, 0))  # copied with its old date: written now all the same
        samples(dataset)
        assert not entries(folder)
        later = time.time() + 2.1
        monkeypatch.setattr(cache_module.time, "time", lambda: later)
        samples(dataset)
        assert len(entries(folder)) == len(pairs)

    @pytest.mark.parametrize(("age", "kept"), [(-3600, True), (-1, False), (1, False), (3, True)])
    def test_by_either_time(self, age, kept):
        now = 1_700_000_000.5
        old, fresh = int((now - 900) * 1e9), int((now - age) * 1e9)
        for times in ((fresh, old), (old, fresh)):
            identity = [(10, old, old, 1), (10, *times, 2)]
            assert cache_module._settled(identity, now) is kept


@pytest.mark.usefixtures("settled")
class TestDamage:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: b"",
            lambda content: content[:30],
            lambda content: content[:-1],
            lambda content: content + b"\0",
            lambda content: b"\0" + content[1:],
            lambda content: bytes(len(content)),
        ],
    )
    def test_a_damaged_entry_is_made_again(self, pairs, folder, damage):
        dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
        expected = samples(dataset)
        before = [entry.read_bytes() for entry in entries(folder)]
        for entry in entries(folder):
            entry.write_bytes(damage(entry.read_bytes()))
        assert same(samples(dataset), expected)
        assert [entry.read_bytes() for entry in entries(folder)] == before

    def test_a_cache_that_is_deleted_under_way_is_made_again(self, pairs, folder):
        dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
        expected = samples(dataset)
        shutil.rmtree(folder)
        assert same(samples(dataset), expected)
        assert len(entries(folder)) == len(pairs)


def fill(pairs, folder, start, results):
    cache_module._SETTLED_S = -1
    dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
    plain = samples(LungCTDataset(pairs, size=SIZE))
    start.wait()
    for _ in range(20):
        for entry in entries(folder):
            entry.unlink(missing_ok=True)
        if not same(samples(dataset), plain):
            results.put("differs")
    results.put("done")


def fill_for_ever(pairs, folder, started):
    cache_module._SETTLED_S = -1
    dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
    while True:
        shutil.rmtree(folder)
        samples(dataset)
        started.set()


class TestProcesses:
    def test_two_that_write_at_once(self, pairs, folder):
        context = multiprocessing.get_context("fork")
        start, results = context.Barrier(2), context.Queue()
        both = [
            context.Process(target=fill, args=(pairs, folder, start, results)) for _ in range(2)
        ]
        for process in both:
            process.start()
        assert [results.get(timeout=60) for _ in both] == ["done", "done"]
        for process in both:
            process.join(60)
            assert process.exitcode == 0
        assert {path.name for path in folder.iterdir()} == {
            "CACHEDIR.TAG",
            *(entry.name for entry in entries(folder)),
        }

    @pytest.mark.usefixtures("settled")
    def test_one_that_is_killed(self, pairs, folder):
        context = multiprocessing.get_context("fork")
        expected = samples(LungCTDataset(pairs, size=SIZE))
        for milliseconds in (1, 2, 4, 7, 11):
            started = context.Event()
            writer = context.Process(target=fill_for_ever, args=(pairs, folder, started))
            writer.start()
            assert started.wait(60)
            time.sleep(milliseconds / 1000)
            os.kill(writer.pid, signal.SIGKILL)
            writer.join(60)
            for entry in entries(folder):
                assert entry.stat().st_size == ENTRY_BYTES
            assert same(samples(LungCTDataset(pairs, size=SIZE, cache=folder)), expected)


def cache_of(folder, n, *, size=SIZE):
    return SliceCache(
        folder,
        contract=InputContract(size),
        codec=LUNG_CODEC,
        limit_bytes=n * (64 + 2 * size * size),
    )


def fetch(cache, pair, size=SIZE):
    made = []

    def make():
        made.append(pair)
        return np.zeros((size, size), np.uint8), np.ones((size, size), np.uint8)

    grey, classes = cache.fetch(pair, make)
    assert grey.sum() == 0
    assert classes.all()
    return not made  # whether it was stored


def age(path, seconds):
    when = time.time() - seconds
    os.utime(path, (when, when))


@pytest.mark.usefixtures("settled")
class TestLimit:
    @pytest.fixture
    def many(self, tmp_path):
        pairs = []
        for number in range(40):
            pair = Pair(tmp_path / f"{number}.tif", tmp_path / f"{number}.png")
            pair.image.write_bytes(b"i")
            pair.mask.write_bytes(b"m")
            pairs.append(pair)
        return pairs

    def test_what_was_used_longest_ago_goes_first(self, folder, many):
        earlier = cache_of(folder, 20)
        for number, pair in enumerate(many[:20]):
            fetch(earlier, pair)
            age(earlier._entry(pair), 3600 - number)
        assert len(entries(folder)) == 20
        later = cache_of(folder, 20)
        assert fetch(later, many[0])  # used again: now it is the youngest
        assert not fetch(later, many[20])
        # A tenth is freed at once, so that the next one need not look again.
        assert len(entries(folder)) == 18
        held = [later._entry(pair).exists() for pair in many[:21]]
        assert held == [True, *[False] * 3, *[True] * 17]

    def test_use_is_noted_once_a_run(self, folder, many):
        earlier = cache_of(folder, 20)
        fetch(earlier, many[0])
        entry = earlier._entry(many[0])
        age(entry, 3600)
        later = cache_of(folder, 20)
        fetch(later, many[0])
        noted = entry.stat().st_mtime_ns
        assert noted >= later._began * 1e9
        fetch(later, many[0])
        assert entry.stat().st_mtime_ns == noted

    def test_holds_under_any_load(self, folder, many):
        for turn in range(3):
            cache = cache_of(folder, 15)
            for pair in many[turn * 10 : turn * 10 + 10]:
                fetch(cache, pair)
                assert len(entries(folder)) <= 15
            assert all(fetch(cache, pair) for pair in many[turn * 10 : turn * 10 + 10])
            for entry in entries(folder):
                age(entry, 100)

    def test_what_this_run_uses_stays(self, folder, many):
        cache = cache_of(folder, 10)
        with pytest.warns(LungUNetWarning) as caught:
            first = [fetch(cache, pair) for pair in many]
        assert first == [False] * 40
        stored = [fetch(cache, pair) for pair in many]
        assert stored == [True] * 10 + [False] * 30
        assert len(entries(folder)) == 10
        assert [str(warning.message) for warning in caught] == [
            f"{folder}: the cache is full, and all of it is in use. Slices that the cache does not "
            "hold are read from their files from now on, which is slower and changes no result."
        ]

    def test_what_a_kill_left_goes_too_and_other_files_stay(self, folder, many):
        cache = cache_of(folder, 10)
        name = cache._entry(many[0]).name
        left = folder / f".{name}.0123abcd.tmp"
        others = [folder / "mine.slice", folder / "mine.tmp", folder / name.upper()]
        for path in (left, *others):
            path.write_bytes(bytes(9 * ENTRY_BYTES))
            age(path, 9)
        cache = cache_of(folder, 10)
        assert [fetch(cache, pair) for pair in many[:2]] == [False, False]
        assert not left.exists()
        assert all(path.exists() for path in others)

    def test_half_of_the_free_disk_stays_free(self, folder, many, monkeypatch):
        # 16 entries fit on what the disk has free: 8 may be written.
        usage = namedtuple("usage", "free")
        monkeypatch.setattr(
            shutil, "disk_usage", lambda _: usage((16 - len(entries(folder))) * ENTRY_BYTES)
        )
        cache = cache_of(folder, 1000)
        with pytest.warns(LungUNetWarning, match="full"):
            _ = [fetch(cache, pair) for pair in many]
        assert len(entries(folder)) == 8

    def test_is_looked_at_seldom(self, folder, many, monkeypatch):
        looks = []

        def look(cache, needed, original=SliceCache._make_room):
            looks.append(len(entries(folder)))
            return original(cache, needed)

        monkeypatch.setattr(SliceCache, "_make_room", look)
        cache = cache_of(folder, 32 * 20)
        for pair in many:
            fetch(cache, pair)
        # After a 32nd of the room that was left: 640 / 32, then 620 / 32.
        assert looks == [0, 20, 39]


@pytest.mark.usefixtures("settled")
class TestTrouble:
    def test_a_folder_that_cannot_be(self, tmp_path, pairs):
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match=r"file/CACHEDIR\.TAG: cannot be written \(File exis"):
            LungCTDataset(pairs, size=SIZE, cache=tmp_path / "file")

    def test_says_what_it_is(self, pairs, folder):
        LungCTDataset(pairs, size=SIZE, cache=folder)
        tag = (folder / "CACHEDIR.TAG").read_text()
        assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n# CT slices")

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_full_disk_costs_one_warning(self, pairs, folder, monkeypatch, workers, capfd):
        def refuse(path, content):
            raise DataError(f"{path}: cannot be written (No space left on device).")

        dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
        monkeypatch.setattr(cache_module, "write_bytes", refuse)
        plain = batches(LungCTDataset(pairs, size=SIZE), workers=0)
        if workers:
            monkeypatch.setattr(cache_module.warnings, "warn", lambda text, *_, **__: os.write(
                2, f"{text}\n".encode()))  # fmt: skip
            assert same(batches(dataset, workers=workers, context="fork"), plain)
            said = capfd.readouterr().err.splitlines()
        else:
            with pytest.warns(LungUNetWarning) as caught:
                assert same(batches(dataset, workers=0), plain)
            said = [str(warning.message) for warning in caught]
        assert len(said) == 1
        assert "cannot be written (No space left on device). Slices that the cache" in said[0]

    def test_a_folder_that_is_taken_away(self, pairs, folder):
        dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
        shutil.rmtree(folder)
        folder.write_text("a file now")
        plain = samples(LungCTDataset(pairs, size=SIZE))
        with pytest.warns(LungUNetWarning, match=r"cache: cannot be used \(File exists\)\. Slices"):
            assert same(samples(dataset), plain)

    def test_an_entry_that_may_not_be_touched(self, pairs, folder, monkeypatch):
        expected = samples(LungCTDataset(pairs, size=SIZE, cache=folder))
        for entry in entries(folder):
            age(entry, 9)

        def refuse(*_, **__):
            raise PermissionError

        monkeypatch.setattr(cache_module.os, "utime", refuse)
        dataset = LungCTDataset(pairs, size=SIZE, cache=folder)
        forbid_reading(monkeypatch)
        assert same(samples(dataset), expected)


def test_tensors_do_not_share_the_mapping(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(cache_module, "_SETTLED_S", -1)
    pair = write_pair(tmp_path, "a")
    dataset = LungCTDataset([pair], size=SIZE, cache=folder)
    image, mask = dataset[0]
    image.zero_(), mask.zero_()
    assert not torch.equal(dataset[0][0], image)
    assert dataset[0][1].sum() > 0


class TestRuns:
    def test_keep_nothing_unless_asked(self, data):
        assert RunConfig(data=str(data)).cache == "off"
        for dataset in load_datasets(RunConfig(data=str(data), size=SIZE)):
            assert dataset._cache is None

    @pytest.mark.usefixtures("settled")
    def test_keep_train_and_val(self, data, folder):
        train, val = load_datasets(RunConfig(data=str(data), size=SIZE, cache=folder))
        for dataset, n in ((train, 6), (val, 3)):
            before = len(entries(folder))
            samples(dataset)
            assert len(entries(folder)) - before == len(dataset) == n

    def test_do_not_depend_on_the_current_folder(self, data, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for cache, stored in (("kept", str(tmp_path / "kept")), ("off", "off")):
            config = RunConfig(data=str(data), size=SIZE, device="cpu", cache=cache)
            trainer, *_ = make_trainer(config, tmp_path / "run")
            assert trainer.config.cache == stored

    def test_without_a_name(self):
        with pytest.raises(ConfigError, match=r"^cache='': must be a folder, or off\."):
            RunConfig(data="data", cache="")

    def test_a_resumed_one_may_get_one(self, run_cli, own_run, folder):
        done = run_cli("train", "--resume", own_run, "--epochs", 3, "--cache", folder)
        assert done.code == 0, done.err
        assert f'cache = "{folder}"' in (own_run / "config.toml").read_text()
        assert (folder / "CACHEDIR.TAG").exists()
