"""NRRD and MetaImage files that leave their geometry to be guessed."""

import bz2
import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest

from lungunet.errors import DataError, GeometryError
from lungunet.volumes.volume import read_volume

HU = np.random.default_rng(5).integers(-1000, 500, (3, 4, 6)).astype("<i2")
SPACE, ORIGIN = "space: left-posterior-superior\n", "space origin: (1,2,3)\n"
DIRECTIONS = "space directions: (0.7,0,0) (0,0.8,0) (0,0,2.5)\n"
SPACING, MATRIX = "ElementSpacing = 0.7 0.8 2.5\n", "TransformMatrix = 1 0 0 0 1 0 0 0 1\n"


def save_nrrd(folder: Path, *fields: str, detached: bool = False) -> Path:
    header = "NRRD0004\n# a remark\ntype: short\ndimension: 3\nsizes: 6 4 3\nendian: little\n"
    header += "encoding: raw\n" + "".join(fields)
    if not detached:
        (folder / "a.nrrd").write_bytes(f"{header}\n".encode() + HU.tobytes())
        return folder / "a.nrrd"
    (folder / "a.raw").write_bytes(HU.tobytes())
    (folder / "a.nhdr").write_text(f"{header}data file: a.raw\n")
    return folder / "a.nhdr"


def save_mha(folder: Path, *fields: str, detached: bool = False) -> Path:
    header = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    header += "".join(fields) + "DimSize = 6 4 3\nElementType = MET_SHORT\nElementDataFile = "
    if not detached:
        # What follows the header is voxels, whatever it looks like.
        voxels = HU.tobytes()[:-20] + b"\nElementSpacing = 1\n"
        (folder / "a.mha").write_bytes(f"{header}LOCAL\n".encode() + voxels)
        return folder / "a.mha"
    (folder / "a.raw").write_bytes(HU.tobytes())
    (folder / "a.mhd").write_text(f"{header}a.raw\n")
    return folder / "a.mhd"


@pytest.mark.parametrize("detached", [False, True])
class TestStated:
    @pytest.mark.parametrize(
        "fields",
        [
            (SPACE, DIRECTIONS, ORIGIN),
            ("Space: LPS\r\n", DIRECTIONS.replace("space d", "Space D"), ORIGIN),
            ("space: RAS\n", DIRECTIONS.replace("0.7", "-0.7").replace("0.8", "-0.8")),
            ("space: left-anterior-superior\n", DIRECTIONS.replace("0.8", "-0.8")),
        ],
    )
    def test_nrrd(self, tmp_path, fields, detached):
        volume = read_volume(save_nrrd(tmp_path, *fields, detached=detached))
        assert np.array_equal(volume.array, HU)
        assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))

    @pytest.mark.parametrize(
        "fields",
        [
            (SPACING, MATRIX),
            (SPACING,),
            (SPACING.replace(" =", ":"),),
            ("ElementSize = .7 .8 2.5\n",),
        ],
    )
    def test_metaimage(self, tmp_path, fields, detached):
        """Without a TransformMatrix the format means the identity."""
        volume = read_volume(save_mha(tmp_path, *fields, detached=detached))
        assert np.array_equal(volume.array[:-1], HU[:-1])
        assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ((), r"states no spacing \(no 'space directions'\), so all sizes are a guess\. Export"),
            ((SPACE,), r"states no spacing \(no 'space directions'\)"),
            (("spacings: 0.7 0.8 2.5\n",), r"states no orientation \(no 'space'\), so left and ri"),
            (("space dimension: 3\n", DIRECTIONS), r"states no orientation \(no 'space'\)"),
            (
                ("space: scanner-xyz\n", DIRECTIONS),
                r"states no orientation \(space 'scanner-x",
            ),
        ],
    )
    def test_an_nrrd_that_leaves_it_to_a_guess(self, tmp_path, fields, said, detached):
        with pytest.raises(GeometryError, match=rf"a\.n(rrd|hdr): {said}"):
            read_volume(save_nrrd(tmp_path, *fields, detached=detached))

    def test_a_space_without_directions_is_a_guess_too(self, tmp_path, detached):
        path = save_nrrd(tmp_path, SPACE, "spacings: 0.7 0.8 2.5\n", detached=detached)
        with pytest.raises(GeometryError, match=r"states no orientation \(no 'space directions'\)"):
            read_volume(path)

    @pytest.mark.parametrize("fields", [(), (MATRIX,), ("elementspacing = 0.7 0.8 2.5\n",)])
    def test_a_metaimage_without_spacing(self, tmp_path, fields, detached):
        with pytest.raises(GeometryError, match=r"a\.mh[ad]: states no spacing \(no 'ElementSpac"):
            read_volume(save_mha(tmp_path, *fields, detached=detached))


class TestNRRD:
    @pytest.mark.parametrize(
        ("encoding", "pack"),
        [
            ("gzip", gzip.compress),
            ("GZ", gzip.compress),
            ("bzip2", bz2.compress),
            ("ascii", lambda voxels: " ".join(map(str, HU.ravel())).encode()),
        ],
    )
    @pytest.mark.parametrize("detached", [False, True])
    def test_encodings(self, tmp_path, encoding, pack, detached):
        path = save_nrrd(tmp_path, SPACE, DIRECTIONS, detached=detached)
        voxels = tmp_path / "a.raw" if detached else path
        voxels.write_bytes(voxels.read_bytes().replace(HU.tobytes(), pack(HU.tobytes())))
        path.write_bytes(path.read_bytes().replace(b"g: raw", f"g: {encoding}".encode()))
        assert np.array_equal(read_volume(path).array, HU)

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("raw", "hex", r"encoding hex is not read\. Save it with gzip or raw"),
            ("encoding: raw", "x: y", "its header has no 'encoding'"),
            ("endian: little", "x: y", "its header has no 'endian'"),
            ("endian: little", "endian: middle", "'endian' is 'middle' in its header"),
            ("type: short", "type: block", "'type' is 'block'"),
            ("dimension: 3", "dimension: 4", "'dimension' is 4, 'sizes' 6 4 3"),
            ("sizes: 6 4 3", "sizes: 6 4 0", "contradicts itself"),
            ("sizes: 6 4 3", "sizes: 6 4 -3", "contradicts itself"),
            ("sizes: 6 4 3", "sizes: 6 4 99999999999", r"truncated, \d+ voxels missing"),
            ("sizes: 6 4 3", "sizes: 6 4 3\nsizes: 6 4 2", "states 'sizes' twice"),
            ("(0,0,2.5)", "(0,0,x)", "'space directions' is"),
            ("(0,0,2.5)", "(0,0,2.5) 7", "'space directions' is"),
            ("(0,0,2.5)", "(0,0,nan)", "'space directions' is"),
            ("(0,0,2.5)", "(0,2,0)", "its axes do not span a volume"),
            ("(0,0,2.5)", "none", "3 values in each voxel"),
            ("encoding: raw", "encoding: raw\nbyte skip: 9", "bytes to skip are not read"),
            ("encoding: raw", 'encoding: raw\nspace units: "m" "m" "m"', "its lengths are in m"),
            ("NRRD0004", "NRRD0009", "is NRRD|no NRRD"),
            ("# a remark", "a remark", "no NRRD|is NRRD"),
        ],
    )
    def test_what_is_wrong(self, tmp_path, old, new, said):
        path = save_nrrd(tmp_path, SPACE, DIRECTIONS)
        content = path.read_bytes()
        assert old.encode() in content
        path.write_bytes(content.replace(old.encode(), new.encode()))
        with pytest.raises(DataError, match=said):
            read_volume(path)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("gone.raw", r"its voxels, gone\.raw, are missing\. Copy both files"),
            ("x" * 300, "are missing"),
            ("a\0b", "are missing"),
            ("LIST", "its voxels lie in several files"),
            ("a%03d.raw 1 3 1", "its voxels lie in several files"),
        ],
    )
    def test_voxels_elsewhere(self, tmp_path, name, said):
        path = save_nrrd(tmp_path, SPACE, DIRECTIONS, detached=True)
        path.write_text(path.read_text().replace("a.raw", name))
        with pytest.raises(DataError, match=said):
            read_volume(path)

    def test_a_header_without_end(self, tmp_path):
        path = save_nrrd(tmp_path, SPACE, DIRECTIONS)
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(DataError, match="truncated within its header"):
            read_volume(path)


class TestMetaImage:
    @pytest.mark.parametrize("detached", [False, True])
    @pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
    def test_compressed(self, tmp_path, detached, pack):
        path = save_mha(tmp_path, SPACING, "CompressedData = True\n", detached=detached)
        voxels = tmp_path / "a.raw" if detached else path
        head = b"" if detached else path.read_bytes().partition(b"LOCAL\n")[0] + b"LOCAL\n"
        voxels.write_bytes(head + pack(HU.tobytes()))
        assert np.array_equal(read_volume(path).array, HU)
        voxels.write_bytes(voxels.read_bytes()[:-20])
        with pytest.raises(DataError, match=r"damaged or truncated \(it ends within packed vox"):
            read_volume(path)

    @pytest.mark.parametrize(("size", "field"), [(9, "9"), (9, "-1")])
    def test_what_stands_before_the_voxels(self, tmp_path, size, field):
        path = save_mha(tmp_path, SPACING, f"HeaderSize = {field}\n", detached=True)
        (tmp_path / "a.raw").write_bytes(b"x" * size + HU.tobytes())
        assert np.array_equal(read_volume(path).array, HU)

    def test_a_single_time_point_is_a_volume(self, tmp_path):
        path = save_mha(tmp_path, SPACING.replace("2.5", "2.5 1"))
        path.write_bytes(
            path.read_bytes()
            .replace(b"NDims = 3", b"NDims = 4")
            .replace(b"Size = 6 4 3", b"Size = 6 4 3 1")
        )
        assert read_volume(path).spacing_mm == pytest.approx((2.5, 0.8, 0.7))

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            (
                "BinaryDataByteOrderMSB = False",
                "ID = 0",
                "states no order of bytes. Add",
            ),
            ("BinaryDataByteOrderMSB = False", "BinaryDataByteOrderMSB = x", "OrderMSB' is 'x'"),
            ("MET_SHORT", "MET_OTHER", "'ElementType' is 'MET_OTHER' in its header"),
            ("NDims = 3", "NDims = 2", "'NDims' is 2, 'DimSize' 6 4 3"),
            ("6 4 3", "6 4 4294967295", r"truncated, \d+ voxels missing"),
            ("6 4 3", "6 4 x", "contradicts itself"),
            ("2.5\n", "nan\n", "'ElementSpacing' is '0.7 0.8 nan'"),
            ("2.5\n", "0\n", "spacing 0.7 x 0.8 x 0 mm is no grid"),
            ("2.5\n", "2.5\nDistanceUnits = m\n", "its lengths are in m"),
            ("2.5\n", "2.5\nElementSpacing = 1 1 1\n", "states 'ElementSpacing' twice"),
            ("2.5\n", "2.5\nElementNumberOfChannels = 3\n", "3 values in each voxel"),
            ("2.5\n", "2.5\nElementToIntensityFunctionSlope = 2\n", "which programs pass over"),
            ("2.5\n", "2.5\nTransformMatrix = 1 0 0 0 1 0\n", "'TransformMatrix' is"),
            ("DimSize", "DimSiz", "its header has no 'DimSize'"),
            ("LOCAL", "gone.raw", r"its voxels, gone\.raw, are missing"),
            ("LOCAL", "LIST", "its voxels lie in several files"),
        ],
    )
    def test_what_is_wrong(self, tmp_path, old, new, said):
        path = save_mha(tmp_path, SPACING)
        content = path.read_bytes()
        assert old.encode() in content
        path.write_bytes(content.replace(old.encode(), new.encode()))
        with pytest.raises(DataError, match=said):
            read_volume(path)

    def test_a_header_that_would_end_simpleitk(self, tmp_path):
        """Found by the campaign: more axes than its arrays hold, which it does not check."""
        path = save_mha(tmp_path, SPACING)
        path.write_bytes(path.read_bytes().replace(b"NDims = 3", b"NDims = 4096"))
        with pytest.raises(DataError, match="contradicts itself: 'NDims' is 4096"):
            read_volume(path)
