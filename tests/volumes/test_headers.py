"""NRRD and MetaImage files that leave their geometry to be guessed."""

from pathlib import Path

import numpy as np
import pytest

from lungunet.errors import GeometryError
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
