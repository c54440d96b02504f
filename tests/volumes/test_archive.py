"""Zips of DICOM, and slices in gzip."""

import gzip
import os
import stat
import warnings
import zipfile

import numpy as np
import pydicom
import pytest
from dicom_files import HU, dose_report, edit, save, series

import lungunet
from lungunet.errors import SHOWN_AS, ConfigError, DataError, LungUNetWarning
from lungunet.volumes import archive, temporary
from lungunet.volumes.formats import find_volumes, is_volume_source, volume_name


@pytest.fixture
def folder(tmp_path):
    return series(tmp_path / "ct", names=["e", "CT.1.2", "a.dcm", "zz.IMA", "0003"])


def packed(path, files):
    """Write a zip; ``files`` are pairs of a name and a file or bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in files:
            content = content if isinstance(content, bytes) else content.read_bytes()
            written.writestr(name, content)
    return path


def members(folder, below=""):
    return [(f"{below}{file.name}", file) for file in sorted(folder.iterdir())]


@pytest.mark.parametrize("below", ["", "DICOM/PA0/SE1/", "DICOM\\PA0\\"])
def test_a_zip_is_read_as_its_folder(tmp_path, folder, below):
    volume = lungunet.read_volume(packed(tmp_path / "p.1.zip", members(folder, below)))
    assert np.array_equal(volume.array, HU)
    assert volume.grid == lungunet.read_volume(folder).grid
    assert volume.name == "p.1"


@pytest.mark.filterwarnings("ignore::lungunet.LungUNetWarning")  # hardly a chest
def test_a_mask_in_dicom_refers_to_the_slices_in_a_zip(tmp_path, folder):
    pytest.importorskip("highdicom")
    for file in folder.iterdir():
        edit(file, FrameOfReferenceUID="1.2.840.99.9")
    predictor = lungunet.Predictor.load("threshold")
    found = []
    for source in (packed(tmp_path / "p.zip", members(folder)), folder):
        write = lungunet.ScanFiles(format="dicom-seg")
        (result,) = lungunet.predict_scans(predictor, source, tmp_path / source.stem, write=write)
        assert result.error is None
        (stored,) = pydicom.dcmread(result.mask).ReferencedSeriesSequence
        of = (item.ReferencedSOPInstanceUID for item in stored.ReferencedInstanceSequence)
        found.append((stored.SeriesInstanceUID, sorted(of)))
    assert found[0] == found[1]
    assert len(found[0][1]) == len(HU)


def test_nothing_stays_behind(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    lungunet.read_volume(packed(tmp_path / "p.zip", members(folder)))
    with pytest.raises(DataError):
        lungunet.read_volume(packed(tmp_path / "q.zip", [("a.dcm", b"junk" * 99)]))
    assert list((tmp_path / "t").iterdir()) == []


def test_what_a_mac_and_a_disc_add_does_not_count(tmp_path, folder):
    extra = [("__MACOSX/._e", b"x"), (".DS_Store", b"x"), ("DICOMDIR", b"x"), ("README.txt", b"x")]
    path = packed(tmp_path / "p.zip", [*members(folder), *extra])
    with pytest.warns(LungUNetWarning, match=rf"{path}: DICOMDIR, README\.txt left out"):
        volume = lungunet.read_volume(path)
    assert np.array_equal(volume.array, HU)


def test_messages_name_the_archive(tmp_path, folder):
    (folder / "e").write_bytes((folder / "e").read_bytes()[:200])
    with pytest.raises(DataError, match=r"p\.zip/e: not a readable") as caught:
        lungunet.read_volume(packed(tmp_path / "p.zip", members(folder)))
    assert str(caught.value).startswith(str(tmp_path / "p.zip"))
    save(dose_report(), folder / "e")
    with pytest.warns(LungUNetWarning, match=r"p\.zip.*: e left out: a report"):
        lungunet.read_volume(packed(tmp_path / "p.zip", members(folder)))


def test_a_series_can_be_chosen(tmp_path, two_series):
    path = packed(tmp_path / "p.zip", members(two_series))
    with pytest.raises(ConfigError, match=r"p\.zip: 2 series"):
        lungunet.read_volume(path)
    assert lungunet.read_volume(path, series="1.2.3").array.shape == (1, 4, 6)
    (found,) = find_volumes([path], series="1.2.3")
    assert lungunet.read_volume(found).array.shape == (1, 4, 6)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../out.dcm", r"holds '\.\./out\.dcm', which leads out of it"),
        ("a/../../out.dcm", "which leads out of it"),
        ("/tmp/out.dcm", "which leads out of it"),
        ("..\\out.dcm", "which leads out of it"),
        ("C:\\out.dcm", "which leads out of it"),
        ("//host/share/out.dcm", "which leads out of it"),
    ],
)
def test_no_name_leads_out(tmp_path, folder, name, said):
    path = packed(tmp_path / "p.zip", [*members(folder), (name, folder / "e")])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=rf"p\.zip: {said}|{said}"):
        lungunet.read_volume(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_are_no_files(tmp_path, folder):
    path = packed(tmp_path / "p.zip", members(folder))
    link = zipfile.ZipInfo("z.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as written:
        written.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"holds 'z\.dcm', which is no file"):
        lungunet.read_volume(path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_files_of_one_name(tmp_path, folder):
    path = packed(tmp_path / "p.zip", [*members(folder), ("e", folder / "0003")])
    with pytest.raises(DataError, match=r"holds 'e' twice"):
        lungunet.read_volume(path)


def test_what_grows_too_large(tmp_path, folder, monkeypatch):
    path = packed(tmp_path / "p.zip", [*members(folder), ("zeros.dcm", bytes(9 << 20))])
    monkeypatch.setattr(archive, "_SMALL", 1 << 20)
    with pytest.raises(DataError, match=r"would unpack to 0\.0 GiB, which no scan does"):
        lungunet.read_volume(path)
    monkeypatch.setattr(archive, "_SMALL", 1 << 30)
    monkeypatch.setattr(archive, "_SPARE", 1 << 60)
    with pytest.raises(DataError, match=r"0\.0 GiB are free in .*TMPDIR"):
        lungunet.read_volume(path)
    monkeypatch.setattr(archive, "_MOST_FILES", 3)
    with pytest.raises(DataError, match="holds 6 files"):
        lungunet.read_volume(path)


def test_more_than_is_stated_is_damage(tmp_path, folder):
    """Who states a small size and packs a large one gets no further than he stated."""
    path = packed(tmp_path / "p.zip", [("a.dcm", bytes(1 << 20))])
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2")
    content[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"p\.zip: damaged"):
        lungunet.read_volume(path)


@pytest.mark.parametrize("spoil", ["truncated", "flipped", "encrypted", "empty"])
def test_what_cannot_be_unpacked(tmp_path, folder, spoil):
    path = packed(tmp_path / "p.zip", members(folder))
    content = bytearray(path.read_bytes())
    if spoil == "truncated":
        del content[len(content) // 2 :]
    elif spoil == "flipped":
        content[len(content) // 3] ^= 0xFF
    elif spoil == "empty":
        content.clear()
    else:
        for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            content[content.index(mark) + flags] |= 1
    path.write_bytes(content)
    said = "is encrypted" if spoil == "encrypted" else "damaged"
    with pytest.raises(DataError, match=rf"p\.zip: {said}"):
        lungunet.read_volume(path)
    assert find_volumes([tmp_path])[0].name in ("ct", "p")
    assert path in [scan.path for scan in find_volumes([tmp_path])]


def test_one_series_in_two_folders_is_one_scan(tmp_path, folder):
    files = members(folder)
    halves = [(f"{'ab'[index % 2]}/{name}", file) for index, (name, file) in enumerate(files)]
    volume = lungunet.read_volume(packed(tmp_path / "p.zip", halves))
    assert np.array_equal(volume.array, HU)
    twice = packed(tmp_path / "q.zip", [*members(folder, "a/"), *members(folder, "b/")])
    with pytest.warns(LungUNetWarning, match=rf"{twice}/b: .* left out: .*cop"):
        assert np.array_equal(lungunet.read_volume(twice).array, HU)


def test_a_zip_can_be_resampled(tmp_path):
    steps = np.array([0, 2, 4, 7, 10]) - 2.5 * np.arange(5)
    folder = series(tmp_path / "ct")
    for index, off in enumerate(steps):
        edit(folder / f"{index}.dcm", ImagePositionPatient=[0, 0, 2.5 * index + off])
    path = packed(tmp_path / "p.zip", members(folder))
    with pytest.raises(DataError, match=r"p\.zip: slices are unevenly spaced"):
        lungunet.read_volume(path)
    with pytest.warns(LungUNetWarning, match=rf"{path}: .*Resampled to a straight grid"):
        assert lungunet.read_volume(path, resample=True).spacing_mm[0] == pytest.approx(2)


def test_an_archive_within_is_named(tmp_path, folder):
    inner = packed(tmp_path / "i.zip", members(folder))
    path = packed(tmp_path / "p.zip", [*members(folder), ("more/i.zip", inner)])
    with pytest.warns(LungUNetWarning, match=r"archives in it left out \(more/i\.zip\)"):
        lungunet.read_volume(path)


def test_in_a_batch_a_zip_is_a_scan(tmp_path, folder):
    study = tmp_path / "study"
    (study / "p2" / "old").mkdir(parents=True)
    folder.rename(study / "p1")
    packed(study / "p3.ZIP", members(study / "p1"))
    packed(study / "p2" / "old" / "p2.zip", members(study / "p1", "DICOM/"))
    packed(study / "code.zip", [("a.py", b"pass"), ("a.png", b"x")])
    packed(study / "volumes.zip", [("a.nii.gz", b"x")])
    found = [scan.path.relative_to(study).as_posix() for scan in find_volumes([study])]
    assert found == ["p3.ZIP", "volumes.zip", "p2/old/p2.zip", "p1"]
    assert is_volume_source(study / "p2")
    assert volume_name("a/p3.ZIP") == "p3"
    with pytest.raises(DataError, match=r"volumes\.zip: holds no DICOM\. Unpack it"):
        lungunet.read_volume(study / "volumes.zip")


def test_beside_slices_a_zip_is_a_scan_of_its_own(tmp_path, folder):
    packed(folder / "p.zip", members(folder))
    assert [scan.name for scan in find_volumes([folder])] == ["p", "ct"]
    assert [scan.name for scan in find_volumes([folder / "*"])] == ["p", "ct"]


class TestGzip:
    @pytest.fixture
    def gzipped(self, tmp_path, folder):
        for file in list(folder.iterdir()):
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
        return folder

    def test_slices_one_by_one_are_named(self, gzipped):
        with pytest.raises(DataError, match=r"ct/.*gz: is packed with gzip\. .* 4 files bes"):
            lungunet.read_volume(gzipped)
        for file in gzipped.iterdir():
            with pytest.raises(DataError, match=r"gz: is packed with gzip\. Unpack it first\."):
                lungunet.read_volume(file)

    def test_among_others_no_slice_is_lost(self, gzipped):
        (gzipped / "0003").write_bytes(gzip.decompress((gzipped / "0003.gz").read_bytes()))
        with pytest.raises(DataError, match="is packed with gzip"):
            lungunet.read_volume(gzipped)

    def test_they_are_a_scan_of_a_batch(self, tmp_path, gzipped):
        (gzipped / "notes.gz").write_bytes(gzip.compress(b"text" * 99))
        (gzipped / "broken.gz").write_bytes(b"\x1f\x8b junk")
        with pytest.warns(LungUNetWarning, match=r"ct: broken\.gz, notes\.gz left out"):
            (found,) = find_volumes([tmp_path])
        assert found.path == gzipped
        assert "is packed with gzip" in str(found.error)


def test_warnings_name_the_zip_and_none_is_held_back(folder, tmp_path):
    """Those of other threads come at once too, as what they are."""
    zipped = packed(tmp_path / "ct.zip", [(f"a/{path.name}", path) for path in folder.iterdir()])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with archive.unpacked(zipped) as inside:
            warnings.warn("of the program", DeprecationWarning, stacklevel=1)
            warnings.warn(f"{inside / 'a'}: odd", LungUNetWarning, stacklevel=1)
            heard = [(one.category, str(one.message)) for one in said]
    assert heard == [
        (DeprecationWarning, "of the program"),
        (LungUNetWarning, f"{zipped}{os.sep}a: odd"),
    ]
    assert not SHOWN_AS
