import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_files import series

from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.data.ct import read_image, read_mask
from lungunet.data.made_by import FILE, SIDES_CODEC
from lungunet.data.manifest import Pair, read_manifest
from lungunet.data.split import read_groups
from lungunet.errors import ConfigError, DataError, GeometryError, LabelError, LungUNetWarning
from lungunet.volumes.grid import Grid
from lungunet.volumes.slicing import (
    SliceConfig,
    find_volume_pairs,
    slice_files,
    slice_volume,
    write_groups,
)
from lungunet.volumes.volume import Volume, write_volume

SHAPE, SPACING = (20, 16, 24), (2.5, 0.8, 0.7)
HU = np.random.default_rng(1).integers(-1024, 500, SHAPE).astype(np.int16)
PLAIN = LabelCodec({0: 0, 1: 1})
MERGED = LabelCodec.parse("0,1=1,2=1,3=2")
LUNG = np.zeros(SHAPE, np.int16)
LUNG[6:16, 4:10, 5:20] = 1  # slices 6 to 15


def volume(array, name="p1"):
    return Volume(array, Path(f"{name}.nii"), name, Grid.axial(array.shape, SPACING))


def numbers(pairs):
    return [int(pair.name.rsplit("-", 1)[1]) for pair in pairs]


class TestSlices:
    def test_slice_and_mask_are_those_of_the_volume(self, tmp_path):
        pairs = slice_volume(volume(HU), volume(LUNG), tmp_path, codec=PLAIN, max_empty=1)
        assert numbers(pairs) == list(range(20))
        for index, pair in enumerate(pairs):
            assert pair.image == tmp_path / "images" / f"p1_z-{index:04d}.tif"
            assert pair.mask == tmp_path / "masks" / f"p1_z-{index:04d}.png"
            image, mask = read_image(pair.image), read_mask(pair.mask)
            assert image.dtype == np.int16
            assert np.array_equal(image, HU[index])
            assert np.array_equal(mask, LUNG[index] * 255)

    @pytest.mark.parametrize(
        ("every", "max_empty", "expected"),
        [
            (1, 0, list(range(6, 16))),
            (3, 0, [6, 9, 12, 15]),
            (3, 1, [0, 3, 6, 9, 12, 15, 18]),
            # ten with lung; a sixth of twelve is two, the first and the last of the empty ones
            (1, 1 / 6, [0, *range(6, 16), 19]),
            (1, 0.1, [0, *range(6, 16)]),  # one of eleven is less than a tenth, two are more
            (1, 0.5, list(range(20))),  # ten and ten
            (1, 0.4, [0, 2, 4, *range(6, 16), 17, 19, 16]),
            (50, 0.5, []),
        ],
    )
    def test_which(self, tmp_path, every, max_empty, expected):
        pairs = slice_volume(
            volume(HU), volume(LUNG), tmp_path, codec=PLAIN, every=every, max_empty=max_empty
        )
        found = numbers(pairs)
        assert found == sorted(found)
        if max_empty == 0.4:  # six of sixteen, evenly spread
            assert len(found) == 16
            assert set(range(6, 16)) < set(found)
        else:
            assert found == expected

    @pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.25, 0.3, 0.45])
    def test_the_share_is_kept_and_used(self, tmp_path, share):
        pairs = slice_volume(volume(HU), volume(LUNG), tmp_path, codec=PLAIN, max_empty=share)
        empty = sum(not 6 <= index < 16 for index in numbers(pairs))
        assert empty <= share * len(pairs) + 1e-9
        assert empty + 1 > share * (len(pairs) + 1) or empty == 10

    def test_no_lung_at_all(self, tmp_path):
        scan, empty = volume(HU), volume(np.zeros_like(LUNG))
        assert slice_volume(scan, empty, tmp_path, codec=PLAIN, max_empty=0.5) == []
        assert len(slice_volume(scan, empty, tmp_path, codec=PLAIN, max_empty=1)) == 20

    def test_fractions_of_hu_are_rounded_and_clipped(self, tmp_path):
        hu = HU.astype(np.float32) + np.float32(0.4)
        hu[6, 0, :3] = 1e6, -1e6, -1000.6
        pair = slice_volume(volume(hu), volume(LUNG), tmp_path, codec=PLAIN, max_empty=0)[0]
        image = read_image(pair.image)
        assert image.dtype == np.int16
        assert image[0, :3].tolist() == [32767, -32768, -1001]
        assert np.array_equal(image[1:], HU[6, 1:])

    @pytest.mark.parametrize(
        ("codec", "raw", "written"),
        [
            (LUNG_CODEC, {1: 255}, {0, 255}),
            (LabelCodec.parse("0,3=1,4=1"), {1: 4}, {0, 255}),
            (LabelCodec({0: 0, 7: 1, 9: 2}), {1: 9}, {0, 9}),
        ],
    )
    def test_labels(self, tmp_path, codec, raw, written):
        mask = volume(LUNG * raw[1])
        pairs = slice_volume(volume(HU), mask, tmp_path, codec=codec, max_empty=0)
        assert set(np.unique(read_mask(pairs[0].mask))) == written

    def test_a_label_that_is_not_known(self, tmp_path):
        with pytest.raises(LabelError, match=r"p1\.nii: mask value 2 "):
            slice_volume(volume(HU), volume(LUNG * 2), tmp_path, codec=PLAIN)

    def test_a_mask_on_a_finer_grid(self, tmp_path):
        fine = LUNG.repeat(3, 0).repeat(3, 1).repeat(3, 2)
        spacing = tuple(mm / 3 for mm in SPACING)
        origin = tuple(-mm for mm in spacing[::-1])  # so that every third voxel is a scan's centre
        mask = Volume(fine, Path("m.nii"), "m", Grid(fine.shape[::-1], spacing[::-1], origin))
        with pytest.warns(LungUNetWarning, match=r"60x48x72 of .* against 20x16x24 of 2\.5x0\.8x0"):
            pairs = slice_volume(volume(HU), mask, tmp_path, codec=PLAIN, max_empty=1)
        for index, pair in enumerate(pairs):
            assert np.array_equal(read_mask(pair.mask), LUNG[index] * 255)

    def test_refusals(self, tmp_path):
        far = Volume(LUNG, Path("m.nii"), "m", Grid(SHAPE[::-1], SPACING[::-1], (900.0, 0.0, 0.0)))
        for scan, mask, settings, error, text in (
            (HU, volume(LUNG), {"every": 0}, ConfigError, "every=0: must be at least 1"),
            (HU, volume(LUNG), {"max_empty": 1.1}, ConfigError, "max_empty=1.1: a share is in"),
            (HU, volume(LUNG), {"codec": MERGED}, ConfigError, "several raw values share a class"),
            (HU + 1024, volume(LUNG), {}, DataError, "are no HU, air is near -1000"),
            (HU, far, {}, GeometryError, "m.nii: lies elsewhere than p1.nii"),
        ):
            with pytest.raises(error, match=text):
                slice_volume(volume(scan), mask, tmp_path, **{"codec": PLAIN, **settings})
        assert not list(tmp_path.iterdir())

    def test_pixels_that_are_not_square_are_warned_of(self, tmp_path):
        grid = Grid.axial(SHAPE, (2.5, 2.4, 0.8))
        scan = Volume(HU, Path("p1.nii"), "p1", grid)
        text = r"p1\.nii: pixels of 2\.4x0\.8 mm, 3\.0 times as long as wide"
        with pytest.warns(LungUNetWarning, match=text):
            assert slice_volume(scan, replace(scan, array=LUNG), tmp_path, codec=PLAIN)


def paths_of(pairs):
    return {name: (pair.image.path, pair.mask and pair.mask.path) for name, pair in pairs.items()}


class TestPairs:
    def save(self, *paths):
        for path in paths:
            write_volume(path, HU, like=volume(HU))

    def test_by_name_whatever_the_ending(self, tmp_path):
        scans, masks = tmp_path / "s", tmp_path / "m"
        self.save(scans / "b.nii.gz", scans / "a.1.mha", masks / "a.1.nii", masks / "b.nrrd")
        assert paths_of(find_volume_pairs(scans, masks)) == {
            "a.1": (scans / "a.1.mha", masks / "a.1.nii"),
            "b": (scans / "b.nii.gz", masks / "b.nrrd"),
        }

    def test_one_with_one(self, tmp_path):
        self.save(tmp_path / "ct.nii", tmp_path / "lungs.mha")
        pairs = find_volume_pairs(tmp_path / "ct.nii", tmp_path / "lungs.mha")
        assert paths_of(pairs) == {"ct": (tmp_path / "ct.nii", tmp_path / "lungs.mha")}

    def test_one_with_one_of_another_name_in_folders(self, tmp_path):
        """As two with two: what is beside each other in folders goes by name."""
        scans, masks = tmp_path / "s", tmp_path / "m"
        self.save(scans / "patient1.nii.gz", masks / "patient5.nii.gz")
        ct, lungs = scans / "patient1.nii.gz", masks / "patient5.nii.gz"
        for one, other in ((scans, masks), (ct, masks), (scans, lungs)):
            with pytest.raises(DataError, match="do not pair up, 2 problems") as caught:
                find_volume_pairs(one, other)
            assert f"Where they are a pair, give {ct} and {lungs} themselves; else say how" in str(
                caught.value
            )
        assert paths_of(find_volume_pairs(ct, lungs)) == {"patient1": (ct, lungs)}
        lungs.rename(masks / "patient1_seg.nii.gz")
        with pytest.warns(LungUNetWarning, match=r"names='\*=\*_seg'"):
            assert list(find_volume_pairs(scans, masks)) == ["patient1"]

    def test_masks_of_before_beside_the_scans_are_no_scans(self, tmp_path):
        scans, masks = tmp_path / "s", tmp_path / "m"
        names = ("a_lung.nii", "b_lung.nii")
        self.save(*(scans / name for name in (*names, "a.nii", "b.nii", "c.nii")))
        self.save(*(masks / name for name in names))
        with pytest.warns(LungUNetWarning, match="2 of the 5 images are masks|masks pair"):
            pairs = find_volume_pairs(scans, masks)
        assert paths_of({name: pairs[name] for name in "ab"}) == {
            name: (scans / f"{name}.nii", masks / f"{name}_lung.nii") for name in "ab"
        }
        assert list(pairs) == ["a", "b", "c"]

    def test_a_folder_of_slices_is_one_scan(self, tmp_path):
        self.save(tmp_path / "lungs.mha")
        ct = series(tmp_path / "ct")
        pairs = find_volume_pairs(ct, tmp_path / "lungs.mha")
        assert paths_of(pairs) == {"ct": (ct, tmp_path / "lungs.mha")}

    def test_what_does_not_pair_up_is_listed(self, tmp_path):
        scans, masks = tmp_path / "s", tmp_path / "m"
        self.save(scans / "a.nii", scans / "b.nii", masks / "a.nii", masks / "c.nii")
        with pytest.raises(DataError, match="do not pair up, 2 problems") as caught:
            find_volume_pairs(scans, masks)
        assert f"{scans / 'b.nii'}: no mask is called b" in str(caught.value)
        assert f"{masks / 'c.nii'}: no scan is called c" in str(caught.value)

    def test_scans_without_a_mask_are_there_where_others_have_one(self, tmp_path):
        """As after a prediction that could not use every scan."""
        scans, masks = tmp_path / "s", tmp_path / "m"
        self.save(scans / "a.nii", scans / "b.nii", masks / "a.nii")
        pairs = find_volume_pairs(scans, masks)
        assert paths_of(pairs) == {
            "a": (scans / "a.nii", masks / "a.nii"),
            "b": (scans / "b.nii", None),
        }
        with pytest.raises(DataError, match=r"b\.nii: no mask is called b\. Add it, or leave out"):
            pairs["b"].require_mask()
        (masks / "a.nii").rename(masks / "z.nii")
        with pytest.raises(DataError, match="do not pair up, 3 problems"):
            find_volume_pairs(scans, masks)


def test_groups_are_read_back(tmp_path):
    groups = {"b, 1_z-0002": 'the "first"', "a_z-0001": "p"}
    write_groups(tmp_path / "groups.csv", groups)
    pairs = [Pair(Path(f"images/{name}.tif")) for name in groups]
    assert read_groups(pairs, str(tmp_path / "groups.csv")) == groups


class TestSliceFiles:
    @pytest.fixture
    def scans(self, tmp_path):
        for name in ("a1", "a2", "b1"):
            write_volume(tmp_path / "scans" / f"{name}.nii.gz", HU, like=volume(HU))
            write_volume(tmp_path / "masks" / f"{name}.mha", LUNG, like=volume(LUNG))
        return tmp_path / "scans", tmp_path / "masks"

    def test_many_scans(self, scans, tmp_path):
        seen = []

        def progress(items, *, desc, total):
            seen.append((desc, total))
            return items

        config = SliceConfig(every=5, max_empty=0)
        results = list(
            slice_files(*scans, tmp_path / "cut", config=config, group="(.)", progress=progress)
        )
        assert [(scan.name, numbers(scan.pairs)) for scan in results] == [
            ("a1", [10, 15]),
            ("a2", [10, 15]),
            ("b1", [10, 15]),
        ]
        assert seen == [("slices", 3)]
        pairs = read_manifest(tmp_path / "cut" / "pairs.txt")
        assert pairs == [pair for scan in results for pair in scan.pairs]
        groups = read_groups(pairs, str(tmp_path / "cut" / "groups.csv"))
        assert groups == {pair.name: pair.name[0] for pair in pairs}

    def test_masks_that_say_how_they_are_coded(self, scans, tmp_path):
        """As predict leaves them; what is said by hand counts more."""
        lobes = LabelCodec({0: 0, 1: 1, 2: 2}, names=("background", "upper", "lower"))
        for said, given, values in (
            (SIDES_CODEC, None, {0, 255}),
            (lobes, None, {0, 1}),
            (None, None, {0, 255}),
            (lobes, PLAIN, {0, 255}),
        ):
            made_by = {"format": 1, "made_by": {"labels": said and said.to_dict()}}
            (scans[1] / FILE).write_text(json.dumps(made_by) + "\n" if said else "")
            out = tmp_path / "cut"
            config = SliceConfig(given, max_empty=0)
            cut = list(slice_files(*scans, out, config=config, overwrite=True))
            assert set(np.unique(read_mask(cut[0].pairs[0].mask))) == values
            expected = LabelCodec.parse("0,1=1,2=1,3=1") if said == SIDES_CODEC else said
            assert {one.codec for one in cut} == {given or expected or PLAIN}

    def test_labels_by_which_no_mask_holds_lung_are_told(self, scans, tmp_path):
        config = SliceConfig(LabelCodec.parse("0,7,*=0"))
        said = r"masks: no lung in any of 3 masks, read as 0,7,\*=0\. Look at the label coding"
        with pytest.warns(LungUNetWarning, match=said):
            cut = list(slice_files(*scans, tmp_path / "cut", config=config))
        assert [one.pairs for one in cut] == [(), (), ()]

    def test_a_bad_scan_has_its_error_and_the_others_go_on(self, scans, tmp_path):
        (scans[0] / "a2.nii.gz").write_bytes(b"junk")
        a1, a2, b1 = slice_files(*scans, tmp_path / "cut")
        assert isinstance(a2.error, DataError)
        assert str(a2.error).startswith(f"{scans[0] / 'a2.nii.gz'}: not a readable volume")
        assert (a1.error, a2.pairs, b1.error) == (None, (), None)
        assert len(read_manifest(tmp_path / "cut" / "pairs.txt")) == len(a1.pairs + b1.pairs)

    def test_finished_scans_are_not_lost_where_the_loop_ends_early(self, scans, tmp_path):
        for scan in slice_files(*scans, tmp_path / "cut"):
            assert scan.name == "a1"
            break
        pairs = read_manifest(tmp_path / "cut" / "pairs.txt")
        assert {pair.name.split("_")[0] for pair in pairs} == {"a1"}
        assert len(read_groups(pairs, str(tmp_path / "cut" / "groups.csv"))) == len(pairs)

    def test_what_is_there_is_refused_before_any_work(self, scans, tmp_path):
        list(slice_files(*scans, tmp_path / "cut"))
        before = sorted((tmp_path / "cut").rglob("*.*"))
        with pytest.raises(ConfigError, match="already there"):
            next(slice_files(*scans, tmp_path / "cut", config=SliceConfig(every=7)))
        assert sorted((tmp_path / "cut").rglob("*.*")) == before
        list(slice_files(*scans, tmp_path / "cut", config=SliceConfig(every=7), overwrite=True))
        assert len(list((tmp_path / "cut" / "images").iterdir())) == 6

    def test_scans_that_are_called_like_slices_stay(self, scans, tmp_path):
        out = tmp_path / "cut"
        given = [out / "images" / "a_z-1.nii.gz", out / "masks" / "a_z-1.mha"]
        for source, file in zip(scans, given, strict=True):
            file.parent.mkdir(parents=True)
            (source / f"a1{''.join(file.suffixes)}").rename(file)
        for _ in range(2):
            (cut,) = slice_files(*given, out, overwrite=True)
            assert cut.pairs
            assert all(file.exists() for file in given)

    def test_settings_are_refused_when_they_are_made(self):
        for wrong in ({"every": 0}, {"max_empty": 2}, {"codec": MERGED}):
            with pytest.raises(ConfigError):
                SliceConfig(**wrong)
