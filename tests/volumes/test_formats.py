from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet.errors import ConfigError, DataError, LungUNetWarning
from lungunet.volumes import formats
from lungunet.volumes.dicom import is_dicom
from lungunet.volumes.formats import (
    find_volumes,
    is_volume_source,
    unique_names,
    volume_name,
    written_suffix,
)
from lungunet.volumes.grid import Grid
from lungunet.volumes.scan import Scan

pytestmark = pytest.mark.filterwarnings("ignore:.*DICOMDIR left out")

MAGIC = b"\0" * 128 + b"DICM" + b"\0" * 20


@pytest.fixture
def tree(tmp_path):
    """A folder per kind of source."""
    for name, content in {
        "files/b.nii.gz": b"",
        "files/a.MHA": b"",
        "files/.hidden.nii": b"",
        "files/notes.txt": b"",
        "series/0001": MAGIC,
        "series/0002": MAGIC,
        "series/DICOMDIR": MAGIC,
        "patients/p2/ct/x.dcm": b"",
        "patients/p1/ct/IM1": MAGIC,
        "patients/.cache/IM1": MAGIC,
        "slices/a.png": b"",
        "slices/series/IM1": MAGIC,
        "mixed/a.png": b"",
        "mixed/ct.nrrd": b"",
        "shot/IM1": MAGIC,
        "shot/shot.TIF": b"",
        "hidden/a.png": b"",
        "hidden/._ct.nii.gz": b"",
        "hidden/.DS_Store": b"",
        "scan/ct.nii.gz": b"",
        "scan/._a.png": b"",
        "nothing/a.txt": b"text",
        "deep/p2/ct.nii.gz": b"",
        "deep/p2/masks/lung.nii.gz": b"",
        "deep/p1/ct.nii.gz": b"",
        "both/a.nrrd": b"",
        "both/b/c/a.nrrd": b"",
        "flat/a.png": b"",
        "flat/old/ct.mha": b"",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "files" / "folder.nii").mkdir()
    return tmp_path


def found(tree, *sources):
    scans = find_volumes([tree / source for source in sources])
    return [scan.path.relative_to(tree).as_posix() for scan in scans]


class TestFinding:
    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("files", ["files/a.MHA", "files/b.nii.gz"]),
            ("files/b.nii.gz", ["files/b.nii.gz"]),
            ("series", ["series"]),
            ("series/0002", ["series/0002"]),
            ("patients", ["patients/p1/ct", "patients/p2/ct"]),
            ("scan", ["scan/ct.nii.gz"]),
            ("files/*.nii.gz", ["files/b.nii.gz"]),
            ("patients/*/ct", ["patients/p1/ct", "patients/p2/ct"]),
        ],
    )
    def test_what_a_source_means(self, tree, source, expected):
        assert found(tree, source) == expected
        assert is_volume_source(tree / source)
        assert is_volume_source(str(tree / source))

    @pytest.mark.parametrize(
        "source", ["hidden", "slices/a.png", "nothing", "nothing/a.txt", "slices/*.png", "gone"]
    )
    def test_what_is_no_volume(self, tree, source):
        assert not is_volume_source(tree / source)

    @pytest.mark.parametrize(
        ("source", "image", "scan"),
        [
            ("mixed", "a.png", "ct.nrrd"),
            ("mixed/*", "a.png", "ct.nrrd"),
            ("shot", "shot.TIF", "DICOM"),
            ("slices", "a.png", "DICOM"),
        ],
    )
    def test_no_kind_is_passed_over(self, tree, source, image, scan):
        with pytest.raises(ConfigError) as caught:
            is_volume_source(str(tree / source))
        pattern = tree / source.split("/")[0] / f"*{Path(image).suffix}"
        assert str(caught.value) == (
            f"{tree / source}: holds slices ({image}) and scans ({scan}). Put them into different "
            f"folders, or name those that are meant, as in '{pattern}'."
        )
        assert not is_volume_source(str(pattern))

    def test_files_that_lie_deeper_are_named(self, tree):
        """They may be masks beside their scan, so that nothing is guessed."""
        assert is_volume_source(tree / "deep")
        with pytest.raises(DataError) as caught:
            find_volumes([tree / "deep"])
        pattern = f"{tree / 'deep'}/*/ct.nii.gz"
        assert str(caught.value) == (
            f"{tree / 'deep'}: its scans lie deeper ({tree / 'deep/p1/ct.nii.gz'}). "
            f"Say which are meant, as '{pattern}'."
        )
        assert found(tree, "deep/*/ct.nii.gz") == ["deep/p1/ct.nii.gz", "deep/p2/ct.nii.gz"]

    def test_files_of_many_names_are_asked_for_by_their_ending(self, tree):
        (tree / "deep/p1/ct.nii.gz").rename(tree / "deep/p1/id001-msk.nii.gz")
        with pytest.raises(DataError) as caught:
            find_volumes([tree / "deep"])
        assert str(caught.value).endswith(f"as '{tree / 'deep'}/*/*.nii.gz'.")

    def test_files_that_lie_deeper_than_others_are_left_out_aloud(self, tree):
        with pytest.warns(LungUNetWarning, match=r"1 volume file deeper in it left out .*/\*/\*/a"):
            assert found(tree, "both") == ["both/a.nrrd"]

    def test_files_deeper_than_images_do_not_count(self, tree):
        assert not is_volume_source(tree / "flat")

    def test_images_are_not_opened(self, tree, monkeypatch):
        """A folder may hold thousands, on a slow disk."""
        opened = []
        rows = [
            replace(row, tells=row.tells and (lambda path: opened.append(path.name)))
            for row in formats.FORMATS
        ]
        monkeypatch.setattr(formats, "FORMATS", rows)
        assert not is_volume_source(tree / "hidden")
        assert "a.png" not in opened

    @pytest.mark.parametrize("source", ["gone.nii.gz", "gone.dcm"])
    def test_a_missing_volume_is_still_one(self, tree, source):
        """So that the reader says that it is missing."""
        assert is_volume_source(tree / source)
        assert found(tree, source) == [source]

    def test_each_once_and_in_order(self, tree):
        assert found(tree, "series", "files", "files/../files/a.MHA", "series") == [
            "series",
            "files/a.MHA",
            "files/b.nii.gz",
        ]

    @pytest.mark.parametrize("source", ["nothing", "gone", "nothing/*.nii"])
    def test_nothing_found(self, tree, source):
        with pytest.raises(DataError, match=r"holds no CT volume \(\.nii\.gz, .*, DICOM, \.zip\)"):
            find_volumes([tree / source])

    def test_dicom_by_ending_or_content(self, tree):
        assert is_dicom(tree / "patients/p2/ct/x.dcm")
        assert is_dicom(tree / "series/0001")
        assert not is_dicom(tree / "series/DICOMDIR")
        assert not is_dicom(tree / "nothing/a.txt")
        assert not is_dicom(tree / "series")


class TestNames:
    def test_endings_go(self):
        named = {"a/ct.nii.gz": "ct", "CT.NII": "CT", "a.b.mha": "a.b", "IM.1.2.3": "IM.1.2.3"}
        assert {path: volume_name(path) for path in named} == named

    def test_the_current_folder_has_a_name(self, tmp_path, monkeypatch):
        (tmp_path / "p1").mkdir()
        monkeypatch.chdir(tmp_path / "p1")
        assert volume_name(".") == "p1"

    @pytest.mark.parametrize(
        ("paths", "names"),
        [
            (["/s/a.nii", "/s/b.nii"], ["a", "b"]),
            (["/s/p1/ct.nii", "/s/p2/ct.nii", "/s/x.nii"], ["p1_ct", "p2_ct", "x"]),
            (["/s/p1/t/ct", "/s/p2/t/ct"], ["p1_t_ct", "p2_t_ct"]),
            (["/ct.nii", "/p/ct.nii"], ["ct", "p_ct"]),
            ([], []),
        ],
    )
    def test_collisions_take_their_folders(self, paths, names):
        assert unique_names([Scan(Path(path), "") for path in paths]) == names

    def test_one_folder_one_name(self):
        with pytest.raises(DataError, match=r"ct\.nii and .*ct\.mha: have one name\. Rename one"):
            unique_names([Scan(Path("/s", name), "") for name in ("ct.nii", "ct.mha", "b.mha")])

    @pytest.mark.parametrize(
        ("scan", "suffix"),
        [("a.nii", ".nii.gz"), ("a.NRRD", ".seg.nrrd"), ("a.mhd", ".mha"), ("series", ".nii.gz")],
    )
    def test_masks_are_of_the_scans_kind(self, scan, suffix):
        assert written_suffix(scan) == suffix


def test_one_source_alone(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"")
    for source in (str(tmp_path), tmp_path):
        assert [scan.name for scan in find_volumes(source)] == ["a"]


class TestANewFormat:
    """One row and one reader: here voxels in .npy beside a text file with their spacing."""

    @pytest.fixture(autouse=True)
    def row(self, monkeypatch):
        def read(path, series):
            spacing = tuple(map(float, path.with_suffix(".txt").read_text().split()))
            array = np.load(path)
            return array, Grid.axial(array.shape, spacing)

        row = formats.Format("NumPy", (".npy",), read)
        monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, row))

    @pytest.fixture
    def scan(self, tmp_path):
        hu = np.stack([lungunet.phantom_slice(1, z, size=64).image for z in (0.4, 0.5, 0.6)])
        (tmp_path / "in").mkdir()
        np.save(tmp_path / "in" / "p.1.npy", hu)
        (tmp_path / "in" / "p.1.txt").write_text("2.5 0.8 0.7")
        return hu

    def test_is_found_and_read(self, tmp_path, scan):
        assert is_volume_source(tmp_path / "in")
        (path,) = find_volumes([tmp_path / "in"])
        volume = lungunet.read_volume(path)
        assert np.array_equal(volume.array, scan)
        assert (volume.name, volume.spacing_mm) == ("p.1", (2.5, 0.8, 0.7))
        with pytest.raises(DataError, match=r"DICOM, \.zip, \.npy\)"):
            find_volumes([tmp_path / "gone"])

    def test_is_predicted_and_its_mask_written(self, tmp_path, scan, run_cli):
        done = run_cli("predict", "threshold", tmp_path / "in", "--out", tmp_path / "out")
        assert done.code == 0, done.err
        mask = lungunet.read_volume(tmp_path / "out" / "p.1.nii.gz")
        assert mask.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
        assert 0.05 < (mask.array > 0).mean() < 0.5
        assert mask.array.shape == scan.shape

    def test_its_mask_may_be_of_it_too(self, tmp_path, scan):
        (tmp_path / "masks").mkdir()
        np.save(tmp_path / "masks" / "p.1.npy", (scan < -500).astype(np.int16))
        (tmp_path / "masks" / "p.1.txt").write_text("2.5 0.8 0.7")
        pairs = lungunet.find_volume_pairs(tmp_path / "in", tmp_path / "masks")
        volumes = [lungunet.read_volume(path) for path in (pairs["p.1"].image, pairs["p.1"].mask)]
        codec = lungunet.LabelCodec({0: 0, 1: 1})
        assert len(lungunet.slice_volume(*volumes, tmp_path / "cut", codec=codec)) == 3
