"""Files that are no volume: what they are, and what helps."""

import gzip

import pytest

from lungunet.errors import DataError
from lungunet.volumes.signatures import refuse_foreign
from lungunet.volumes.volume import read_volume

KINDS = {
    b"": r"empty \(0 bytes\)\. Copy it again",
    bytes(5000): "begins with zeros alone: a copy that did not end",
    b"\n<!DOCTYPE html><html>": "is a web page: a download that failed",
    b"version https://git-lfs.github.com/spec/v1\n": r"is a pointer of Git LFS .*git lfs pull",
    b"\x89PNG\r\n\x1a\n": "is a PNG picture, without HU",
    b"\xff\xd8\xff\xe0": "is a JPEG picture",
    b"II*\0": r"is a TIFF\. Let its name end with \.tif",
    b"PK\x03\x04": r"is a zip\. Let its name end with \.zip",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive",
    bytes(257) + b"ustar": "begins with zeros|is a tar archive",
    b"\xfd7zXZ\0": "is packed with xz",
    b"\x28\xb5\x2f\xfd": "is packed with zstd",
    b"\x89HDF\r\n\x1a\n": "is HDF5, as MINC is",
    b"%PDF-1.7": "is a PDF",
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ""])
@pytest.mark.parametrize("content", KINDS)
def test_by_its_first_bytes(tmp_path, content, suffix):
    """Whatever the name says."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content.ljust(600 if content.strip(b"\0") else 0, b"x"))
    with pytest.raises(DataError, match=rf"a{suffix}: ({KINDS[content]})"):
        read_volume(path)


def test_of_another_format_than_its_name(tmp_path):
    for content, suffix, said in (
        (b"NRRD0004\n", ".mha", r"is NRRD\. Let its name end with \.nrrd"),
        (b"\x5c\x01\0\0" + b"x" * 400, ".nrrd", r"is NIfTI or Analyze\. Let its name end with"),
        (gzip.compress(b"x" * 999), ".mha", r"is packed with gzip\. Unpack it first"),
        (b"junk" * 99, ".mha", r"not a readable volume: damaged, truncated, or no MetaImage"),
    ):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        with pytest.raises(DataError, match=said):
            read_volume(path)


def test_what_stands_before_the_mark_of_dicom_may_be_anything(tmp_path):
    """A TIFF header there is legal: some files are both."""
    path = tmp_path / "a.dcm"
    path.write_bytes(b"II*\0".ljust(128, b"\0") + b"DICM")
    refuse_foreign(path)


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match=r"gone: no such file"):
        refuse_foreign(tmp_path / "gone")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        refuse_foreign(tmp_path)
