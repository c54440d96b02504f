"""What values of masks mean, as other programs read it: SimpleITK here, slicerio by hand."""

import numpy as np
import pytest
import SimpleITK

from lungunet.errors import ConfigError, DataError, GeometryError
from lungunet.volumes.formats import volume_name
from lungunet.volumes.grid import Grid
from lungunet.volumes.itk import write_values
from lungunet.volumes.labels import labels_of
from lungunet.volumes.masks import mask_suffix, rewrite_mask, write_labels, write_segmentation
from lungunet.volumes.volume import Volume, read_volume

SHAPE, SPACING = (5, 48, 64), (2.5, 0.8, 0.7)


@pytest.fixture
def scan(tmp_path):
    grid = Grid(SHAPE[::-1], SPACING[::-1], (3.0, -4.0, 5.0), (-1, 0, 0, 0, 1, 0, 0, 0, 1))
    hu = np.random.default_rng(2).integers(-1000, 400, SHAPE).astype(np.int16)
    return Volume(hu, tmp_path / "ct.nii.gz", "ct", grid)


@pytest.fixture
def classes():
    return np.random.default_rng(5).integers(0, 3, SHAPE).astype(np.uint8)


class TestNrrd:
    def test_names_colours_and_voxels(self, scan, classes, tmp_path):
        path = tmp_path / "ct.seg.nrrd"
        write_segmentation(path, classes, like=scan, names=("Lung_Left", "right lung"))
        assert np.array_equal(read_volume(path).array, classes)
        assert read_volume(path).grid.matches(scan.grid)
        image = SimpleITK.ReadImage(path)
        said = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
        for index, (name, code) in enumerate(
            [("Lung_Left", "44029006"), ("right lung", "3341006")]
        ):
            assert said[f"Segment{index}_Name"] == name
            assert said[f"Segment{index}_LabelValue"] == str(index + 1)
            assert said[f"Segment{index}_Extent"] == "0 63 0 47 0 4"
            assert f"~SCT^{code}^" in said[f"Segment{index}_Tags"]
            colour = [float(part) for part in said[f"Segment{index}_Color"].split()]
            usual = labels_of(["left lung", "right lung"])[index].colour
            assert colour == pytest.approx(np.array(usual) / 255, abs=1e-5)
        assert said["Segmentation_MasterRepresentation"] == "Binary labelmap"

    def test_a_name_without_a_code_is_a_name(self, scan, classes, tmp_path):
        path = tmp_path / "ct.seg.nrrd"
        write_segmentation(path, classes, like=scan, names=("Lünge", "nodule 3"))
        image = SimpleITK.ReadImage(path)
        assert image.GetMetaData("Segment0_Name") == "Lünge"
        assert "Terminology" not in image.GetMetaData("Segment1_Tags")

    def test_written_anew_it_says_what_it_said_and_segments_reach_anywhere(
        self, scan, classes, tmp_path
    ):
        path = tmp_path / "ct.seg.nrrd"
        names = {"Segment0_Name": "Lünge", "a b": "x\ny\\nz", "none": "", "c": "k:=v: w"}
        parts = {"Segment0_Extent": "3 9 0 2 1 1", "Segment0_Extent_of": "3 9"}
        write_values(path, scan.grid.to_file(classes), scan.grid, facts=names | parts)
        rewrite_mask(path, classes[::-1], like=read_volume(path))
        assert np.array_equal(read_volume(path).array, classes[::-1])
        image = SimpleITK.ReadImage(path)
        assert {key: image.GetMetaData(key) for key in names} == names
        assert [image.GetMetaData(key) for key in parts] == ["0 63 0 47 0 4", "3 9"]

    def test_it_pairs_with_its_scan_by_name(self):
        assert volume_name("masks/p1.seg.nrrd") == volume_name("scans/p1.nii.gz")


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".seg.nrrd"])
class TestVoxels:
    @pytest.mark.parametrize("dtype", ["bool", "int8", ">i2", "uint16", "int32", "int64", "uint64"])
    def test_of_any_integer_dtype(self, scan, classes, tmp_path, ending, dtype):
        lung = (classes > 0).astype(dtype)
        write_segmentation(tmp_path / f"ct{ending}", lung, like=scan)
        assert np.array_equal(read_volume(tmp_path / f"ct{ending}").array, classes > 0)
        assert SimpleITK.ReadImage(tmp_path / f"ct{ending}").GetPixelID() == SimpleITK.sitkUInt8

    def test_values_above_eight_bits(self, scan, classes, tmp_path, ending):
        names = [f"nodule {number}" for number in range(1, 301)]
        many = np.array([0, 44, 300])[classes]  # 300 in eight bits is 44
        write_segmentation(tmp_path / f"ct{ending}", many, like=scan, names=names)
        assert np.array_equal(read_volume(tmp_path / f"ct{ending}").array, many)


class TestLabels:
    def test_a_table_that_itk_snap_reads(self, tmp_path):
        write_labels(tmp_path / "labels.txt", ["left lung", 'the "other"'])
        lines = (tmp_path / "labels.txt").read_text().splitlines()
        rows = [line.split(None, 7) for line in lines if not line.startswith("#")]
        assert [row[0] for row in rows] == ["0", "1", "2"]
        assert rows[1] == ["1", "86", "180", "233", "1", "1", "1", '"left lung"']
        assert rows[2][7] == "\"the 'other'\""

    @pytest.mark.parametrize(
        ("names", "codes"),
        [
            (["lung", "lungs", "LUNG"], ["39607008"] * 3),
            (["lung_upper_lobe_left", "Left-Upper Lobe"], ["44714003"] * 2),
            (["right middle lobe", "lobe", "left"], ["72481006", "", ""]),
        ],
    )
    def test_names_that_we_know_have_codes(self, names, codes):
        assert [label.code for label in labels_of(names)] == codes

    def test_left_and_right_never_look_alike(self):
        names = ["lung", "left lung", "right lung", "nodule"]
        assert len({label.colour for label in labels_of(names)}) == 4


class TestRefused:
    def test_values_without_names(self, scan, classes, tmp_path):
        with pytest.raises(DataError, match="values 2 have no name among lung"):
            write_segmentation(tmp_path / "a.nii.gz", classes, like=scan)

    def test_another_shape(self, scan, classes, tmp_path):
        with pytest.raises(GeometryError, match="Pass one value per voxel"):
            write_segmentation(tmp_path / "a.seg.nrrd", classes[1:], like=scan)

    def test_an_unknown_format(self):
        with pytest.raises(ConfigError, match="format 'png': not one of auto, nifti, nrrd"):
            mask_suffix("a.nii", "png")
