"""From a real PACS and back; and what servers do that are none, or die."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import highdicom
import numpy as np
import pacs as orthanc
import pydicom
import pytest
from dicom_files import HU, SPACING, dicom_slice, dose_report
from dicomweb_client.web import DICOMwebClient

import lungunet
from lungunet.errors import ConfigError, DataError, LungUNetWarning, MissingExtraError
from lungunet.inference import scan_files
from lungunet.volumes import pacs
from lungunet.volumes.scan import Remote, short_id
from lungunet.volumes.temporary import private_folder

STUDY, AXIAL, CORONAL, SCOUTED = "1.2.826.0.1.7", "1.2.826.0.1.7.1", "1.2.826.0.1.7.2", "1.2.7.3"

needs_orthanc = pytest.mark.skipif(not orthanc.IS_THERE, reason="needs Orthanc with DICOMweb")


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No proxy, no credentials, no waiting; temporary folders of this test alone."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in (pacs.USER, pacs.PASSWORD, pacs.TOKEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(pacs, "_WAITS_S", (0, 0))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


def slices(series, *, orientation=(1, 0, 0, 0, 1, 0), **tags):
    normal = np.cross(orientation[:3], orientation[3:])
    tags = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": series, **tags}
    tags |= {"FrameOfReferenceUID": "1.2.9", "PatientName": "Doe^Jane"}
    made = [
        dicom_slice(plane, normal * (i * SPACING[0]), orientation=orientation, **tags)
        for i, plane in enumerate(HU)
    ]
    for item in made:
        item.preamble = bytes(128)  # else this server gives back what no client reads
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A study as it is: a scan, its reformat, a scan with a scout in it, a report."""
    with orthanc.running_orthanc(tmp_path_factory.mktemp("pacs") / "o") as (address, _):
        client = DICOMwebClient(address)
        report = dose_report()
        report.StudyInstanceUID, report.SeriesInstanceUID = STUDY, "1.2.7.4"
        scout = slices(SCOUTED)[0]
        scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = "1.2.7.3.99"
        client.store_instances(
            [
                *slices(AXIAL, SeriesDescription="Lungs B30f"),
                *slices(CORONAL, orientation=(1, 0, 0, 0, 0, -1)),
                *slices(SCOUTED, SeriesDescription="Lungs B70f"),
                scout,
                report,
            ]
        )
        yield address


def source_of(address, study=STUDY):
    return f"{address.replace('http', 'dicomweb+http', 1)}/studies/{study}"


def left_behind(tmp_path):
    return list((tmp_path / "tmp").glob("lungunet-*"))


@needs_orthanc
@pytest.mark.filterwarnings("ignore:.*left out")
class TestOrthanc:
    def test_axial_ct_is_found_and_the_rest_is_named(self, server):
        with pytest.warns(LungUNetWarning) as warned:
            scans = lungunet.find_volumes([source_of(server)])
        assert {scan.name for scan in scans} == {short_id(AXIAL), short_id(SCOUTED)}
        said = "\n".join(str(each.message) for each in warned)
        assert "a report (SR)" in said
        assert "a coronal or sagittal series" in said
        assert "a localizer" in said
        assert "/tmp" not in said

    def test_voxels_come_as_they_were_sent(self, server, tmp_path):
        for scan in lungunet.find_volumes([source_of(server)]):
            volume = lungunet.read_volume(scan)
            assert np.array_equal(volume.array, HU)
            assert volume.spacing_mm == pytest.approx(SPACING)
        assert left_behind(tmp_path) == []

    def test_of_a_series_its_slices_alone_are_fetched(self, server, monkeypatch):
        asked = []
        real = DICOMwebClient._http_get

        def noted(self, url, *args, **options):
            asked.append(url)
            return real(self, url, *args, **options)

        monkeypatch.setattr(DICOMwebClient, "_http_get", noted)
        scans = lungunet.find_volumes([source_of(server)])
        assert all(CORONAL not in url or "metadata" in url for url in asked)
        asked.clear()
        lungunet.read_volume(next(scan for scan in scans if scan.name == short_id(SCOUTED)))
        assert len(asked) == len(HU)
        assert all("1.2.7.3.99" not in url for url in asked)
        asked.clear()
        lungunet.read_volume(next(scan for scan in scans if scan.name == short_id(AXIAL)))
        assert len(asked) == 1

    @pytest.mark.parametrize("by", ["address", "uid", "short id"])
    def test_one_series(self, server, by):
        source, series = source_of(server), {"uid": AXIAL, "short id": short_id(AXIAL)}.get(by)
        source += f"/series/{AXIAL}" if by == "address" else ""
        (scan,) = lungunet.find_volumes([source], series=series)
        assert scan.name == short_id(AXIAL)

    def test_masks_go_back_and_are_what_was_written(self, server, run_cli, tmp_path):
        out = tmp_path / "out"
        done = run_cli("predict", "threshold", source_of(server), "--out", out, "--store")
        assert done.code == 0, done.err
        assert "Doe" not in done.out + done.err
        names = sorted(path.name for path in out.iterdir())
        masks = [f"{short_id(uid)}.seg.dcm" for uid in (AXIAL, SCOUTED)]
        assert names == sorted([*masks, "measurements.csv", "predicted.jsonl", "triage.csv"])
        client = DICOMwebClient(server)
        there = client.search_for_instances(STUDY, search_filters={"Modality": "SEG"})
        stored = {item["00080018"]["Value"][0]: item for item in there}
        for name in masks:
            written = highdicom.seg.segread(out / name)
            item = stored[written.SOPInstanceUID]
            uids = (STUDY, item["0020000E"]["Value"][0], written.SOPInstanceUID)
            back = client.retrieve_instance(*uids)
            assert np.array_equal(back.pixel_array, written.pixel_array)
            assert back.PatientName == "Doe^Jane"
            assert back.ReferencedSeriesSequence[0].SeriesInstanceUID in (AXIAL, SCOUTED)
        assert left_behind(tmp_path) == []

    def test_a_study_that_is_not_there(self, server):
        with pytest.raises(DataError, match="no such study"):
            lungunet.find_volumes([source_of(server, "1.2.3.99")])
        with pytest.raises(DataError, match=f"no series '4711', but .*{short_id(AXIAL)}"):
            lungunet.find_volumes([source_of(server)], series="4711")

    def test_a_server_that_dies_half_way_loses_nothing_that_is_done(self, tmp_path):
        with orthanc.running_orthanc(tmp_path / "o") as (address, process):
            DICOMwebClient(address).store_instances(slices(AXIAL) + slices(SCOUTED))
            predictor, out = lungunet.Predictor.load("threshold"), tmp_path / "out"
            results = lungunet.predict_scans(predictor, source_of(address), out)
            first = next(results)
            process.kill()
            process.wait()
            second = next(results)
            assert list(results) == []
        assert first.error is None
        assert second.mask is None
        assert "cannot be reached" in second.error
        assert first.mask.is_file()
        assert first.name in (out / "triage.csv").read_text()
        assert left_behind(tmp_path) == []

    def test_a_mask_that_could_not_be_stored_is_there(self, tmp_path):
        with orthanc.running_orthanc(tmp_path / "o") as (address, process):
            DICOMwebClient(address).store_instances(slices(AXIAL))
            real = scan_files.store

            def dying(mask, remote, **options):
                process.kill()
                process.wait()
                real(mask, remote, **options)

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(scan_files, "store", dying)
                predictor = lungunet.Predictor.load("threshold")
                options = {"write": lungunet.ScanFiles(store=True)}
                (result,) = lungunet.predict_scans(
                    predictor, source_of(address), tmp_path / "out", **options
                )
        assert "cannot be reached" in result.error
        assert f"it is {result.mask}" in result.error
        assert pydicom.dcmread(result.mask).Modality == "SEG"
        assert result.name in (tmp_path / "out" / "triage.csv").read_text()

    def test_what_was_not_stored_is_sent_once_by_going_on(self, tmp_path, run_cli):
        with (
            orthanc.running_orthanc(tmp_path / "o") as (address, _),
            pytest.MonkeyPatch.context() as m,
        ):
            client = DICOMwebClient(address)
            client.store_instances(slices(AXIAL))
            command = (
                "predict",
                "threshold",
                source_of(address),
                "--out",
                tmp_path / "out",
                "--store",
            )

            def dead(mask, remote, **options):
                raise DataError("cannot be reached.", where=address)

            with m.context() as patched:
                patched.setattr(scan_files, "store", dead)
                failed = run_cli(*command)
            assert failed.code == 1
            assert "Send it again with --skip-existing" in failed.err
            assert not client.search_for_series(search_filters={"Modality": "SEG"})
            sent = run_cli(*command, "--skip-existing")
            assert sent.code == 0, sent.err
            assert len(client.search_for_series(search_filters={"Modality": "SEG"})) == 1
            m.delattr(DICOMwebClient, "store_instances")  # what is there is not sent again
            again = run_cli(*command, "--skip-existing")
            assert again.code == 0, again.err

    @pytest.mark.parametrize("way", ["environment", "netrc"])
    def test_credentials(self, tmp_path, monkeypatch, run_cli, way):
        users = {"AuthenticationEnabled": True, "RegisteredUsers": {"alice": "sesame-17"}}
        with orthanc.running_orthanc(tmp_path / "o", **users) as (address, _):
            source, out = source_of(address), tmp_path / "out"
            refused = run_cli("predict", "threshold", source, "--out", out)
            assert refused.code == 1
            assert "denies access (401). Set LUNGUNET_PACS_USER" in refused.err
            if way == "environment":
                monkeypatch.setenv(pacs.USER, "alice")
                monkeypatch.setenv(pacs.PASSWORD, "sesame-17")
            else:
                line = "machine 127.0.0.1 login alice password sesame-17"
                (tmp_path / "netrc").write_text(line)
            client = pacs._client(address)
            client.store_instances(slices(AXIAL))
            done = run_cli("predict", "threshold", source, "--out", out, "--store")
        assert done.code == 0, done.err
        said = done.out + done.err + refused.err
        written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
        assert "sesame" not in said
        assert b"sesame" not in written


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers what the test says, and notes what it was asked."""

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        status, headers, body = self.server.answers(self.path, len(self.server.asked))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def answering():
    servers = []

    def start(answers):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        server.answers, server.asked = answers, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server, f"http://127.0.0.1:{server.server_port}/dicom-web"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


JSON = {"Content-Type": "application/dicom+json"}


class TestServers:
    def test_a_busy_one_is_asked_again(self, answering):
        body = json.dumps([{"0020000E": {"vr": "UI", "Value": ["1.2"]}}]).encode()

        def answers(path, count):
            return (503, {}, b"") if count < 3 else (200, JSON, body)

        server, address = answering(answers)
        with pytest.raises(DataError, match="no series '9'"):
            lungunet.find_volumes([source_of(address)], series="9")
        assert len(server.asked) == 3

    @pytest.mark.parametrize(
        ("status", "asked", "said"),
        [
            (503, 3, "the server answers 503"),
            (404, 1, "the server answers 404"),
            (403, 1, "the server denies access"),
        ],
    )
    def test_what_it_answers_is_said(self, answering, status, asked, said):
        server, address = answering(lambda path, count: (status, {}, b"Doe^Jane"))
        with pytest.raises(DataError, match=said) as caught:
            lungunet.find_volumes([source_of(address)])
        assert len(server.asked) == asked
        assert "Doe" not in str(caught.value)

    def test_no_other_server_is_spoken_to(self, answering, monkeypatch):
        monkeypatch.setenv(pacs.TOKEN, "sesame-17")
        other, elsewhere = answering(lambda path, count: (200, JSON, b"[]"))
        server, address = answering(lambda path, count: (302, {"Location": elsewhere}, b""))
        with pytest.raises(DataError, match="the server sends elsewhere"):
            lungunet.find_volumes([source_of(address)])
        assert other.asked == []
        assert server.asked[0][1]["Authorization"] == "Bearer sesame-17"

    def test_what_is_no_dicomweb(self, answering):
        _, address = answering(lambda path, count: (200, {"Content-Type": "text/html"}, b"<html>"))
        with pytest.raises(DataError, match=r"no DICOM|cannot be asked"):
            lungunet.find_volumes([source_of(address)])

    def test_one_that_does_not_speak_is_left(self, answering, monkeypatch):
        monkeypatch.setattr(pacs, "_ANSWER_S", 0.2)
        monkeypatch.setattr(pacs, "_WAITS_S", ())
        _, address = answering(lambda path, count: time.sleep(1) or (200, JSON, b"[]"))
        with pytest.raises(DataError, match=r"no answer in 0\.2 s"):
            lungunet.find_volumes([source_of(address)])

    def test_one_that_is_not_there(self):
        with pytest.raises(DataError, match="cannot be reached"):
            lungunet.find_volumes(["dicomweb+http://127.0.0.1:1/dicom-web/studies/1.2"])

    def test_a_certificate_that_nobody_signed(self, tmp_path, answering):
        import ssl

        server, address = answering(lambda path, count: (200, JSON, b"[]"))
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a"]
        paths = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
        subprocess.run([*command, *paths], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with pytest.raises(DataError, match="its certificate cannot be trusted"):
            lungunet.find_volumes([source_of(address).replace("http", "https", 1)])
        assert server.asked == []


class TestAddresses:
    def test_a_password_in_an_address_is_refused_and_not_repeated(self, run_cli, tmp_path):
        source = "dicomweb+https://alice:sesame-17@pacs.example/dicom-web/studies/1.2"
        done = run_cli("predict", "threshold", source, "--out", tmp_path / "out")
        assert done.code == 1
        assert "LUNGUNET_PACS_PASSWORD" in done.err
        assert "sesame" not in done.err + done.out

    @pytest.mark.parametrize(
        "source",
        [
            "dicomweb+http://host/dicom-web",
            "dicomweb+http://host/dicom-web/studies/",
            "dicomweb+http://host/dicom-web/studies/../1.2",
            "dicomweb+http://host/dicom-web/studies/1.2/instances/1",
            "dicomweb+https:///studies/1.2",
        ],
    )
    def test_what_is_no_study_is_refused(self, source):
        with pytest.raises(ConfigError, match="no study"):
            lungunet.find_volumes([source])

    def test_open_lines_are_warned_of(self):
        with pytest.warns(LungUNetWarning, match=r"as anyone can read them.*dicomweb\+https"):
            pacs._warn_of_open_lines("http://pacs.example/dicom-web")

    def test_without_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "dicomweb_client", None)
        monkeypatch.setitem(sys.modules, "dicomweb_client.web", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'lungunet\[pacs\]'"):
            lungunet.find_volumes(["dicomweb+http://127.0.0.1:1/studies/1.2"])

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"store": True}, r"not from a PACS.* Leave out store=True, and send the files by"),
            ({"store": True, "format": "nifti"}, "a PACS takes DICOM, not nifti"),
        ],
    )
    def test_what_cannot_be_stored_is_refused_first(self, tmp_path, options, said):
        (folder := tmp_path / "ct").mkdir()
        for index, item in enumerate(slices(AXIAL)):
            item.save_as(folder / f"{index}.dcm", enforce_file_format=True)
        predictor, write = lungunet.Predictor.load("threshold"), lungunet.ScanFiles(**options)
        with pytest.raises(ConfigError, match=said):
            next(lungunet.predict_scans(predictor, folder, tmp_path / "out", write=write))
        assert not (tmp_path / "out").exists()


_KILLED = """
import sys, time
from lungunet.volumes.temporary import private_folder
with private_folder("x", name="scan") as folder:
    folder.mkdir()
    (folder / "a.dcm").write_text("Doe^Jane")
    print(folder, flush=True)
    time.sleep(60)
"""


class TestTemporaryFolder:
    @pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_it_goes_whatever_ends_the_process(self, by):
        process = subprocess.Popen(
            [sys.executable, "-c", _KILLED],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        folder = Path(process.stdout.readline().strip())
        assert (folder / "a.dcm").exists()
        assert folder.parent.stat().st_mode & 0o077 == 0
        process.send_signal(by)
        process.wait()
        process.stdout.close()
        for _ in range(600):
            if not folder.parent.exists():
                return
            time.sleep(0.05)
        pytest.fail(f"{folder} is still there")

    def test_errors_and_warnings_name_what_is_shown(self):
        def fail():
            with private_folder("the scan", name="a") as folder:
                import warnings

                warnings.warn(f"{folder}: odd", LungUNetWarning, stacklevel=1)
                raise DataError("gone.", where=folder / "b")

        with (
            pytest.warns(LungUNetWarning, match="^the scan: odd$"),
            pytest.raises(DataError, match=r"^the scan/b: gone\.$"),
        ):
            fail()


def test_what_is_on_disk_needs_no_network(tmp_path):
    """Neither the door to a PACS nor that of masks in DICOM opens where nobody asks for it."""
    (folder := tmp_path / "ct").mkdir()
    for index, item in enumerate(slices(AXIAL)):
        item.save_as(folder / f"{index}.dcm", enforce_file_format=True)
    code = (
        "import sys, lungunet\n"
        "lungunet.read_volume(*lungunet.find_volumes(sys.argv[1:]))\n"
        "assert not {'dicomweb_client', 'highdicom'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, folder],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_remote_scan_says_no_more_than_its_address():
    remote = Remote("http://h/d", STUDY, AXIAL, ("1",))
    scan = lungunet.Scan(Path("x", short_id(AXIAL)), "", remote=remote)
    assert str(scan) == f"http://h/d: series {short_id(AXIAL)}"
