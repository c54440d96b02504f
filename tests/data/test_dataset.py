import multiprocessing
import os
import pickle
import subprocess
import sys

import albumentations as A
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.ct import read_image, read_mask
from lungunet.data.dataset import LungCTDataset, read_pair
from lungunet.data.loader import EpochSampler, make_loader
from lungunet.data.manifest import Pair, write_manifest
from lungunet.data.transforms import train_transform
from lungunet.data.window import Window
from lungunet.errors import ConfigError, DataError, GeometryError, LabelError, SplitError


def write_pair(folder, name, *, shape=(48, 64), dtype="int16", lung=True, mask_shape=None):
    rng = np.random.default_rng(len(name))
    mask = np.zeros(mask_shape or shape, np.uint8)
    if lung:
        mask[10:30, 8:20] = mask[12:38, 34:50] = 255
    image = rng.normal(40, 30, shape)
    if image.shape == mask.shape:
        image[mask > 0] -= 800
    if dtype == "uint8":
        image = np.clip(image / 8 + 128, 0, 255)
    for part in ("images", "masks"):
        (folder / part).mkdir(exist_ok=True)
    tifffile.imwrite(folder / "images" / f"{name}.tif", image.astype(dtype))
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return Pair(folder / "images" / f"{name}.tif", folder / "masks" / f"{name}.png")


@pytest.fixture
def pairs(tmp_path):
    return [
        write_pair(tmp_path, "a"),
        write_pair(tmp_path, "bb", shape=(80, 61)),
        write_pair(tmp_path, "ccc", lung=False),
        write_pair(tmp_path, "dddd", dtype="float32"),
        write_pair(tmp_path, "eeeee"),
    ]


def augmented(pairs, **options):
    return LungCTDataset(pairs, transform=train_transform(), size=64, **options)


def same(ones, others):
    ones, others = list(ones), list(others)
    assert len(ones) == len(others)
    return all(
        torch.equal(a, b)
        for one, other in zip(ones, others, strict=True)
        for a, b in zip(one, other, strict=True)
    )


class TestSample:
    def test_shapes_and_dtypes(self, pairs):
        for dataset in (LungCTDataset(pairs, size=64), augmented(pairs)):
            assert len(dataset) == 5
            for image, mask in dataset:  # IndexError ends the loop
                assert (image.dtype, tuple(image.shape)) == (torch.float32, (1, 64, 64))
                assert (mask.dtype, tuple(mask.shape)) == (torch.int64, (64, 64))
                assert set(mask.unique().tolist()) <= {0, 1}

    def test_is_what_the_contract_makes_of_the_files(self, pairs):
        dataset = LungCTDataset(pairs, size=64)
        for index, pair in enumerate(pairs):
            image, mask = dataset[index]
            expected = dataset.contract.prepare(read_image(pair.image))
            assert np.array_equal(image.numpy(), expected)
            classes = (read_mask(pair.mask) == 255).astype(np.uint8)
            assert np.array_equal(mask.numpy(), dataset.contract.fit_mask(classes))
        assert dataset[2][1].sum() == 0
        assert dataset[0][1].sum() == 20 * 12 + 26 * 16

    def test_lung_is_dark_where_the_mask_is(self, pairs):
        # After flips, turns and noise still: image and mask went the same way.
        dataset = augmented(pairs)
        for epoch in range(12):
            for index in (0, 1, 3, 4):
                image, mask = dataset[epoch, index]
                lung, rest = image[0][mask == 1], image[0][mask == 0]
                tissue = rest[rest > -1.5]  # not the black of padding
                assert lung.median() + 1 < tissue.median()

    def test_default_size(self, pairs):
        assert LungCTDataset(pairs).contract == InputContract(256)

    def test_takes_a_manifest(self, tmp_path, pairs):
        write_manifest(tmp_path / "train.txt", pairs)
        for source in (tmp_path / "train.txt", str(tmp_path / "train.txt")):
            assert same(LungCTDataset(source, size=32), LungCTDataset(pairs, size=32))

    def test_counts_from_the_end_too(self, pairs):
        dataset = augmented(pairs)
        assert same([dataset[3, -1]], [dataset[3, 4]])
        assert dataset[-1][0].shape == (1, 64, 64)
        with pytest.raises(IndexError):
            dataset[5]
        with pytest.raises(IndexError):
            dataset[0, -6]

    def test_numpy_indices(self, pairs):
        assert same([LungCTDataset(pairs)[np.int64(1)]], [LungCTDataset(pairs)[1]])

    def test_several_classes(self, tmp_path):
        pair = write_pair(tmp_path, "a")
        raw = np.zeros((48, 64), np.uint8)
        raw[5:20, 4:20], raw[30:40, 30:50] = 3, 5
        Image.fromarray(raw).save(pair.mask)
        dataset = LungCTDataset([pair], size=64, codec=LabelCodec.parse("0,3,5"))
        assert np.bincount(dataset[0][1].ravel().numpy()).tolist() == [4096 - 440, 240, 200]


class TestContract:
    def test_val_carries_that_of_train(self, tmp_path, pairs):
        train = LungCTDataset(pairs[:3], size=96, window=Window(-500, 1200))
        val = LungCTDataset(pairs[3:], contract=train.contract)
        assert val.contract is train.contract
        assert val[0][0].shape == (1, 96, 96)
        # Eight bits alone would decide otherwise; the contract refuses them.
        grey = write_pair(tmp_path, "g", dtype="uint8")
        with pytest.raises(DataError, match=r"g\.tif: a slice of uint8, the model expects int16"):
            LungCTDataset([*pairs, grey], contract=train.contract)

    def test_all_slices_are_looked_at(self, tmp_path, pairs):
        mixed = [*pairs, write_pair(tmp_path, "g", dtype="uint8")]
        with pytest.raises(ConfigError, match="slices of dtype float32 and int16 and uint8"):
            LungCTDataset(mixed)
        assert LungCTDataset(mixed[-1:]).contract.window is None

    @pytest.mark.parametrize("extra", [{"size": 64}, {"window": Window(0, 1)}])
    def test_is_given_once(self, pairs, extra):
        with pytest.raises(ConfigError, match="A contract holds size and window already: give one"):
            LungCTDataset(pairs, contract=InputContract(64), **extra)


class TestAugmentation:
    def test_depends_on_seed_epoch_and_index_alone(self, pairs):
        twice = [pairs[0], pairs[0]]
        dataset = augmented(twice)
        base = dataset[0, 0]
        [dataset[e, i] for e in range(3) for i in range(2)]
        assert same([dataset[0, 0]], [base])
        assert same([augmented(twice)[0, 0]], [base])
        for other in (dataset[1, 0], dataset[0, 1], augmented(twice, seed=1)[0, 0]):
            assert not torch.equal(other[0], base[0])

    def test_a_step_of_the_user_is_seeded_too(self, pairs):
        class Grain(A.ImageOnlyTransform):
            def apply(self, img, **params):
                grain = self.random_generator.integers(0, 100, img.shape, dtype="uint8")
                return (img // 2 + grain * self.py_random.random()).astype("uint8")

        for transform in (Grain(p=1), A.Compose([Grain(p=0.9)])):
            dataset = LungCTDataset(pairs, transform=transform, size=64)
            base = dataset[0, 0]
            others = [dataset[1, 0], dataset[0, 1]]
            assert same([dataset[0, 0]], [base])
            assert not any(torch.equal(image, base[0]) for image, _ in others)

    def test_a_plain_index_draws_anew_every_time(self, pairs):
        dataset = augmented(pairs)
        drawn = [dataset[0][0] for _ in range(8)]
        assert sum(torch.equal(a, b) for a in drawn for b in drawn) < 16

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_foreign_loop_sees_other_samples_each_epoch(self, pairs, workers):
        loader = DataLoader(augmented([pairs[0]] * 6), shuffle=True, num_workers=workers)
        epochs = [[image for image, _ in loader] for _ in range(3)]
        for number, images in enumerate(epochs):
            others = [image for other in epochs[:number] for image in other]
            seen_before = sum(any(torch.equal(i, o) for o in others) for i in images)
            assert seen_before < 4  # a sample that no step touched may come twice

    def test_a_compose_of_the_user(self, pairs):
        own = A.Compose([A.VerticalFlip(p=1)])
        plain, flipped = LungCTDataset(pairs, size=64), LungCTDataset(pairs, transform=own, size=64)
        for (image, mask), (turned, turned_mask) in zip(plain, flipped, strict=True):
            assert torch.equal(image.flip(1), turned)
            assert torch.equal(mask.flip(0), turned_mask)

    def test_any_callable(self, pairs):
        plain = LungCTDataset(pairs, size=64)
        dataset = LungCTDataset(pairs, transform=turn_over, size=64)
        assert torch.equal(dataset[0][0], plain[0][0].flip(2))

    @pytest.mark.parametrize(
        ("step", "got"),
        [
            (A.Normalize(mean=(0.5,), std=(0.5,)), r"float32 \(64, 64\)"),
            (A.ToFloat(), r"float32 \(64, 64\)"),
            (A.ToTensorV2(), r"torch.uint8 \(1, 64, 64\)"),
        ],
    )
    def test_normalisation_is_not_part_of_it(self, pairs, step, got):
        dataset = LungCTDataset(pairs, transform=A.Compose([step]), size=64)
        with pytest.raises(DataError, match=rf"^a: the transform made {got} of the image; it mu"
                                            ".*Leave out Normalize and ToTensorV2"):  # fmt: skip
            dataset[0]

    @pytest.mark.parametrize(
        ("mask", "got"),
        [
            (lambda mask: mask * 0.9, r"float64 \(64, 64\)"),
            (lambda mask: np.full(mask.shape, np.nan), r"float64 \(64, 64\)"),
            (lambda mask: None, "nothing"),
        ],
    )
    def test_a_mask_must_stay_classes(self, pairs, mask, got):
        def transform(image, mask, change=mask):
            return {"image": image, "mask": change(mask)}

        with pytest.raises(DataError, match=rf"^a: the transform made {got} of the mask; it must"):
            LungCTDataset(pairs, transform=transform, size=64)[0]

    def test_what_is_no_dict(self, pairs):
        for returned in (None, ("image", "mask")):
            dataset = LungCTDataset(pairs, transform=lambda returned=returned, **_: returned)
            with pytest.raises(
                DataError, match=r"^a: the transform returned a \w+; it must return"
            ):
                dataset[0]

    def test_an_empty_crop(self, pairs):
        def transform(image, mask):
            return {"image": image[:0], "mask": mask[:0]}

        with pytest.raises(
            DataError, match=r"^a: the transform made uint8 \(0, 256\) of the image"
        ):
            LungCTDataset(pairs, transform=transform)[0]

    def test_what_is_missing(self, pairs):
        for key in ("image", "mask"):
            dataset = LungCTDataset(pairs, transform=lambda key=key, **both: {key: both[key]})
            with pytest.raises(DataError, match=r"^a: the transform made nothing of the"):
                dataset[0]

    def test_a_mask_of_another_size(self, pairs):
        dataset = LungCTDataset(pairs, transform=crop_image, size=64)
        with pytest.raises(GeometryError) as caught:
            dataset[1]
        assert str(caught.value) == (
            "bb: after the transform the mask is (64, 64), the image (32, 64). "
            "Use transforms that move both."
        )

    def test_a_mask_filled_with_no_class(self, pairs):
        fill = A.Affine(translate_percent=(0.2, 0.2), fill_mask=255, p=1)
        dataset = LungCTDataset(pairs, transform=A.Compose([fill]), size=64)
        with pytest.raises(LabelError) as caught:
            dataset[0]
        assert str(caught.value) == (
            "a: after the transform the mask holds class 255, there are 0 to 1. "
            "Fill masks with 0 (fill_mask=0)."
        )

    def test_a_mask_of_a_class_below_zero(self, pairs):
        def below(image, mask):
            return {"image": image, "mask": mask.astype(np.int8) - 1}

        with pytest.raises(LabelError, match=r"^a: after the transform the mask holds class -1, "):
            LungCTDataset(pairs, transform=below, size=64)[0]


def turn_over(image, mask):
    return {"image": image[:, ::-1], "mask": mask[:, ::-1]}


def crop_image(image, mask):
    return {"image": image[:32], "mask": mask}


def batches(dataset, *, workers, context=None, epochs=2, persistent=True):
    loader = make_loader(dataset, batch_size=2, shuffle=True, seed=5, workers=workers)
    if not persistent:
        loader = DataLoader(
            dataset, 2, sampler=loader.sampler, num_workers=workers, drop_last=loader.drop_last
        )
    loader.multiprocessing_context = context
    return [batch for _ in range(epochs) for batch in loader]


SCRIPT = """
import sys
from lungunet import DataError, InputContract, LungCTDataset, make_loader

if __name__ == "__main__":
    dataset = LungCTDataset(sys.argv[1], contract=InputContract(64))
    kept, broken = (make_loader(dataset, batch_size=1, workers=1) for _ in range(2))
    for batch in kept:
        break
    try:
        for batch in broken:
            pass
    except DataError as err:
        print(err)
"""


class TestWorkers:
    @pytest.mark.parametrize(
        ("workers", "context", "persistent"),
        [
            (1, "fork", True),
            (2, "fork", True),
            (2, "fork", False),
            (2, "spawn", True),
            (1, "forkserver", True),
        ],
    )
    def test_batches_are_the_same_bits(self, pairs, workers, context, persistent):
        alone = batches(augmented(pairs), workers=0)
        assert len(alone) == 4  # five slices, the last batch of one left out, twice
        assert not same(alone[:2], alone[2:])
        others = batches(augmented(pairs), workers=workers, context=context, persistent=persistent)
        assert same(alone, others)

    def test_a_later_epoch_does_not_need_the_earlier_ones(self, pairs):
        whole = batches(augmented(pairs), workers=0, epochs=3)
        loader = make_loader(augmented(pairs), batch_size=2, shuffle=True, seed=5, workers=2)
        loader.sampler.set_epoch(2)
        assert same(list(loader), whole[4:])

    @pytest.mark.parametrize("workers", [0, 1])
    def test_the_global_generator_is_left_alone(self, pairs, workers):
        before = torch.get_rng_state()
        list(make_loader(augmented(pairs), batch_size=2, shuffle=True, workers=workers))
        assert torch.equal(torch.get_rng_state(), before)

    def test_pickles(self, pairs):
        dataset = augmented(pairs, codec=LabelCodec.parse("0,255"), seed=3)
        again = pickle.loads(pickle.dumps(dataset))
        assert again.contract == dataset.contract
        assert same([again[1, 2]], [dataset[1, 2]])

    def test_ctrl_c_does_not_reach_them(self, pairs):
        # It signals the group of this process; the parent decides, and ends its workers itself.
        loader = make_loader(augmented(pairs), batch_size=2, workers=2)
        others = set(multiprocessing.active_children())
        batches = iter(loader)
        next(batches), next(batches)  # one of each worker: both have started by then
        workers = set(multiprocessing.active_children()) - others
        assert len(workers) == 2
        assert all(os.getpgid(worker.pid) != os.getpgid(0) for worker in workers)

    def test_a_script_ends_whatever_it_left_running(self, tmp_path, pairs):
        # Once with an error from a worker, once with a loop that was left: both must name no
        # reason to wait at exit.
        content = pairs[3].image.read_bytes()
        pairs[3].image.write_bytes(content[: len(content) // 2])  # a header that is well
        write_manifest(tmp_path / "a.txt", [Pair(pair.image, pair.mask) for pair in pairs])
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path / "a.txt"],
            capture_output=True,
            text=True,
            timeout=100,  # a worker that ignores SIGTERM hangs it for good
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "dddd.tif: truncated" in done.stdout


class TestSampler:
    def test_order(self):
        sampler = EpochSampler(50, seed=3)
        assert len(sampler) == 50
        epochs = [list(sampler) for _ in range(3)]
        for number, keys in enumerate(epochs):
            assert [epoch for epoch, _ in keys] == [number] * 50
            assert sorted(index for _, index in keys) == list(range(50))
        orders = [[index for _, index in keys] for keys in epochs]
        assert orders[0] != orders[1] != orders[2] != list(range(50))
        assert [i for _, i in EpochSampler(50, seed=4)] != orders[0]
        assert list(EpochSampler(50, seed=3)) == epochs[0]
        assert all(type(index) is int for _, index in epochs[0])

    def test_set_epoch(self):
        sampler, other = EpochSampler(9), EpochSampler(9)
        list(other), list(other)
        sampler.set_epoch(2)
        assert list(sampler) == list(other)
        assert sampler.epoch == 3

    def test_without_shuffle(self):
        sampler = EpochSampler(4, shuffle=False)
        assert list(sampler) == [(0, 0), (0, 1), (0, 2), (0, 3)]
        assert list(sampler) == [(1, 0), (1, 1), (1, 2), (1, 3)]


class TestLoader:
    @pytest.mark.parametrize(
        ("n", "batch_size", "shuffle", "sizes"),
        [
            (5, 2, True, [2, 2]),  # batch norm cannot train on one sample
            (5, 2, False, [2, 2, 1]),
            (5, 3, True, [3, 2]),
            (5, 4, True, [4]),
            (5, 5, True, [5]),
            (1, 2, True, [1]),  # better one than none
            (1, 1, True, [1]),
            (3, 1, True, [1, 1, 1]),
            (4, 8, True, [4]),
        ],
    )
    def test_last_batch(self, pairs, n, batch_size, shuffle, sizes):
        dataset = LungCTDataset(pairs[:n], size=16)
        loader = make_loader(dataset, batch_size=batch_size, shuffle=shuffle)
        assert [len(image) for image, _ in loader] == sizes
        assert len(loader) == len(sizes)

    def test_without_shuffle_in_the_order_of_the_pairs(self, pairs):
        dataset = LungCTDataset(pairs, size=32)
        loaded = [sample for image, mask in make_loader(dataset, batch_size=2)
                  for sample in zip(image, mask, strict=True)]  # fmt: skip
        assert same(loaded, dataset)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_eight_bit_becomes_the_same_bits(self, pairs, workers):
        dataset = augmented(pairs)
        options = {"batch_size": 2, "shuffle": True, "seed": 5}
        expected = list(make_loader(dataset, **options))
        loaded = list(make_loader(dataset, **options, workers=workers, eight_bit=True))
        assert {image.dtype for batch in loaded for image in batch} == {torch.uint8}
        assert same(
            [(dataset.contract.normalise_batch(grey), mask.long()) for grey, mask in loaded],
            expected,
        )

    def test_what_a_subclass_reads_is_what_the_transform_gets(self, pairs):
        class Negative(LungCTDataset):
            def read(self, index):
                grey, classes = super().read(index)
                return 255 - grey, classes

        plain, moved = (Negative(pairs, size=16, transform=t) for t in (None, A.NoOp()))
        assert same(plain, moved)
        assert not same(plain, LungCTDataset(pairs, size=16))

    def test_eight_bit_of_a_subclass_that_makes_its_own_samples(self, pairs):
        class Reversed(LungCTDataset):
            def __getitem__(self, key):
                return super().__getitem__(key)[::-1]

        with pytest.raises(ConfigError) as caught:
            make_loader(Reversed(pairs, size=16), batch_size=1, eight_bit=True)
        assert str(caught.value) == (
            "Reversed has a __getitem__ of its own: its samples are known as it returns them "
            "alone. Leave eight_bit out."
        )

    def test_a_subset(self, pairs):
        said = r"^dataset: .* is of the wrong kind\. Give a LungCTDataset; part the pairs"
        with pytest.raises(ConfigError, match=said):
            make_loader(Subset(LungCTDataset(pairs, size=16), [0, 1]), batch_size=2)

    def test_pins_only_for_cuda(self, pairs, monkeypatch):
        dataset = LungCTDataset(pairs, size=16)
        for there in (False, True):
            monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
            assert make_loader(dataset, batch_size=1).pin_memory is there
            assert make_loader(dataset, batch_size=1, pin_memory=False).pin_memory is False

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "batch_size 0: must be 1 or more."),
            ({"batch_size": 1, "workers": -1}, "workers -1: must be 0 or more."),
            ({"batch_size": 1, "seed": -1}, "seed -1: must be 0 or more."),
            (
                {"batch_size": 1.5},
                "batch_size: 1.5 is of the wrong kind. Give a whole number, 1 or more.",
            ),
        ],
    )
    def test_refusals(self, pairs, options, message):
        with pytest.raises(ConfigError) as caught:
            make_loader(LungCTDataset(pairs, size=16), **options)
        assert str(caught.value) == message


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"size": (64, 64)}, r"^size \(64, 64\): must be a whole number"),
            (
                {"window": (-600, 1500)},
                r"^window: \(-600, 1500\) is of the wrong kind",
            ),
            ({"codec": "0,255"}, "^codec: '0,255' is of the wrong kind"),
            ({"contract": 64}, "^contract: 64 is of the wrong kind"),
            ({"seed": "1"}, "^seed: '1' is of the wrong kind"),
        ],
    )
    def test_arguments_of_other_kinds(self, pairs, options, said):
        with pytest.raises(ConfigError, match=said):
            LungCTDataset(pairs, **options)

    def test_no_pairs(self, tmp_path):
        with pytest.raises(SplitError, match=r"^pairs: no pairs\."):
            LungCTDataset([])
        (tmp_path / "val.txt").touch()
        with pytest.raises(SplitError, match=r"val\.txt: no pairs\."):
            LungCTDataset(tmp_path / "val.txt")

    def test_what_is_no_pair(self, pairs, tmp_path):
        with pytest.raises(DataError, match=r"^pairs: 'a.tif' is no Pair\. Give what find_pairs"):
            LungCTDataset([pairs[0], "a.tif"])
        with pytest.raises(DataError, match=r"a folder\. Give one of its lists, as .*train\.txt"):
            LungCTDataset(tmp_path)

    def test_an_image_without_mask(self, pairs):
        alone = Pair(pairs[1].image)
        with pytest.raises(DataError, match=r"bb\.tif: no mask\. A dataset needs one for every im"):
            LungCTDataset([pairs[0], alone])
        with pytest.raises(DataError, match=r"bb\.tif: no mask to compare with"):
            read_pair(alone, LabelCodec.parse("0,255"))

    def test_seed(self, pairs):
        with pytest.raises(ConfigError, match=r"^seed -1: must be 0 or more"):
            LungCTDataset(pairs, seed=-1)

    def test_sizes_that_differ(self, tmp_path):
        pair = write_pair(tmp_path, "ID_0012", mask_shape=(48, 63))
        with pytest.raises(GeometryError) as caught:
            LungCTDataset([pair])[0]
        assert str(caught.value) == (
            "ID_0012: mask is 48x63, image is 48x64. A mask must be drawn on the image it labels: "
            "re-export it, or drop the pair."
        )

    def test_a_label_outside_the_codec(self, pairs):
        dataset = LungCTDataset(pairs, codec=LabelCodec.parse("0,1"))
        with pytest.raises(LabelError, match=r"masks/a\.png: mask value 255 \(656 pixels, first a"):
            dataset[0]

    def test_a_file_that_is_no_image(self, pairs):
        pairs[2].image.write_text("hello")
        with pytest.raises(DataError, match=r"ccc\.tif: not a readable image"):
            LungCTDataset(pairs)
