"""DICOM headers so deep that SimpleITK would end the whole process."""

import struct
import zlib

import numpy as np
import pytest

import lungunet
from lungunet.errors import DataError
from lungunet.volumes import nesting
from lungunet.volumes.grid import Grid
from lungunet.volumes.nesting import refuse_deep

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
OPEN = 0xFFFFFFFF


def element(tag, vr, value, *, explicit=True, order="<"):
    value += b"\0" * (len(value) % 2)
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if not explicit:
        return head + struct.pack(f"{order}I", len(value)) + value
    wide = vr in (b"OB", b"OW", b"SQ", b"UN")
    return (
        head
        + vr
        + struct.pack(f"{order}HI" if wide else f"{order}H", *([0] * wide), len(value))
        + value
    )


def nested(depth, *, vr=b"SQ", explicit=True, closed=True, order="<"):
    """Sequences in each other, with lengths or open ends."""
    tag = struct.pack(f"{order}HH", 0x11, 0x1001)
    parts = []
    level = (12 if explicit else 8) + 8
    for left in range(depth - 1, -1, -1):
        inner = level * left if closed else OPEN
        outer = inner + 8 if closed else OPEN
        head = tag + (
            vr + struct.pack(f"{order}HI", 0, outer)
            if explicit
            else struct.pack(f"{order}I", outer)
        )
        parts.append(head + struct.pack(f"{order}HHI", 0xFFFE, 0xE000, inner))
    if not closed:
        ends = struct.pack(f"{order}HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        parts.append(ends * depth)
    return b"".join(parts)


def dicom(extra, syntax=EXPLICIT, *, preamble=True):
    """A slice of air with ``extra`` in its header."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    meta = element(0x00020010, b"UI", syntax.encode())
    meta = element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta
    tags = [
        (0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.2"),
        (0x00080060, b"CS", b"CT"),
        (0x00110010, b"LO", b"X "),
        None,
        (0x0020000E, b"UI", b"1.3"),
        (0x00200032, b"DS", b"0\\0\\0 "),
        (0x00200037, b"DS", b"1\\0\\0\\0\\1\\0 "),
        (0x00280002, b"US", struct.pack(f"{order}H", 1)),
        (0x00280004, b"CS", b"MONOCHROME2 "),
        (0x00280010, b"US", struct.pack(f"{order}H", 16)),
        (0x00280011, b"US", struct.pack(f"{order}H", 16)),
        (0x00280030, b"DS", b"1\\1 "),
        (0x00280100, b"US", struct.pack(f"{order}H", 16)),
        (0x00280101, b"US", struct.pack(f"{order}H", 16)),
        (0x00280102, b"US", struct.pack(f"{order}H", 15)),
        (0x00280103, b"US", struct.pack(f"{order}H", 1)),
        (0x00281052, b"DS", b"0 "),
        (0x00281053, b"DS", b"1 "),
        (0x7FE00010, b"OW", struct.pack(f"{order}h", -1000) * 256),
    ]
    explicit = syntax != IMPLICIT
    data = b"".join(
        extra if tag is None else element(*tag, explicit=explicit, order=order) for tag in tags
    )
    if syntax == DEFLATED:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
    return b"\0" * 128 + b"DICM" + meta + data if preamble else data


KILLERS = {
    "with lengths": dicom(nested(20_000)),
    "implicit, open ends": dicom(nested(20_000, explicit=False, closed=False), IMPLICIT),
    "deflated": dicom(nested(20_000), DEFLATED),
    "big endian": dicom(nested(20_000, order=">"), BIG_ENDIAN),
    "unaligned": dicom(
        element(0x00110011, b"UN", b"").replace(b"\0\0\0\0", b"\0\0\1\0") + b"x" + nested(20_000)
    ),
}


@pytest.mark.parametrize("kind", [kind for kind in KILLERS if kind != "unaligned"])
def test_a_deep_header_is_refused(tmp_path, kind):
    (tmp_path / "a.dcm").write_bytes(KILLERS[kind])
    with pytest.raises(DataError, match=r"a\.dcm: its header is nested so deep"):
        refuse_deep(tmp_path / "a.dcm")


@pytest.mark.parametrize("kind", KILLERS)
def test_no_kind_is_taken_for_shallow(tmp_path, kind):
    """At odd places too, and across the pieces in which a file is read."""
    (tmp_path / "a.dcm").write_bytes(KILLERS[kind])
    assert nesting._may_be_deep(tmp_path / "a.dcm")


def test_marks_that_lie_across_pieces_count(tmp_path, monkeypatch):
    monkeypatch.setattr(nesting, "_PIECE_BYTES", 61)
    monkeypatch.setattr(nesting, "_MOST_ITEMS", 99)
    for depth, deep in ((99, False), (100, True)):
        (tmp_path / "a.dcm").write_bytes(dicom(nested(depth)))
        assert nesting._may_be_deep(tmp_path / "a.dcm") is deep


def test_many_items_side_by_side_are_no_depth(tmp_path):
    """As in enhanced CT: another process looks, and all is well."""
    flat = element(0x00111001, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 5000)
    (tmp_path / "a.dcm").write_bytes(dicom(flat))
    assert nesting._may_be_deep(tmp_path / "a.dcm")
    assert (lungunet.read_volume(tmp_path / "a.dcm").array == -1000).all()


def test_a_slice_is_not_given_to_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(nesting.subprocess, "run", None)
    (tmp_path / "a.dcm").write_bytes(dicom(nested(20)))
    assert lungunet.read_volume(tmp_path / "a.dcm").array.shape == (1, 16, 16)


def test_what_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(nesting, "_MOST_INFLATED", 1 << 20)
    (tmp_path / "a.dcm").write_bytes(dicom(element(0x00111001, b"OB", bytes(3 << 20)), DEFLATED))
    with pytest.raises(DataError, match="unpacks to more than 1 GiB"):
        refuse_deep(tmp_path / "a.dcm")
    content = bytearray(dicom(b"", DEFLATED))
    content[content.index(DEFLATED.encode()) + len(DEFLATED) :] = b"\xff" * 99
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged \(deflate\)"):
        refuse_deep(tmp_path / "a.dcm")


def test_the_tables_are_there_before_the_next_scan(tmp_path):
    """What ends the process then cannot take them along."""
    hu = np.stack([lungunet.phantom_slice(1, z, size=64).image for z in (0.4, 0.5, 0.6)])
    like = lungunet.Volume(hu, tmp_path, "p", Grid.axial(hu.shape, (9, 5, 5)))
    for name in "ab":
        lungunet.write_volume(tmp_path / "in" / f"{name}.nii.gz", hu, like=like)
    predictor = lungunet.Predictor.load("threshold")
    results = lungunet.predict_scans(predictor, tmp_path / "in", tmp_path / "out")
    for name in "ab":
        next(results)
        for table in ("measurements.csv", "triage.csv"):
            rows = (tmp_path / "out" / table).read_text().splitlines()
            assert rows[-1].split(",")[0] == name


def test_scans_beside_a_killer_are_done_and_their_tables_kept(tmp_path, run_cli):
    (tmp_path / "in" / "killer").mkdir(parents=True)
    (tmp_path / "in" / "killer" / "a.dcm").write_bytes(KILLERS["with lengths"])
    hu = np.stack([lungunet.phantom_slice(1, z, size=64).image for z in (0.4, 0.5, 0.6)])
    like = lungunet.Volume(hu, tmp_path, "p", Grid.axial(hu.shape, (9, 5, 5)))
    lungunet.write_volume(tmp_path / "in" / "p.nii.gz", hu, like=like)
    done = run_cli("predict", "threshold", tmp_path / "in", "--out", tmp_path / "out")
    assert done.code == 1
    assert "nested so deep" in done.err
    assert (tmp_path / "out" / "p.nii.gz").exists()
    assert (tmp_path / "out" / "measurements.csv").read_text().count(
        "p,"
    ) == 4  # the lungs, and each slice
