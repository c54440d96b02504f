"""What every test gets: one thread, no network, small phantoms, and the command line in-process."""

import os

# Two xdist workers on two cores: more threads would spin against each other. Before torch starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import ipaddress
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import lungunet
from lungunet.cli import main

torch.set_num_threads(1)


class NetworkBlockedError(RuntimeError):
    """A test tried to reach another machine."""


def _is_local(family: int, address: Any) -> bool:
    if family == socket.AF_UNIX:
        return True
    host = address[0] if isinstance(address, tuple) else address
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _block_network() -> None:
    for name in ("connect", "connect_ex", "sendto"):
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, *args: Any, _original: Any = original) -> Any:
            if not _is_local(self.family, args[-1]):
                raise NetworkBlockedError(f"blocked: {args[-1]}")
            return _original(self, *args)

        setattr(socket.socket, name, guarded)
    resolve = socket.getaddrinfo

    def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and not _is_local(socket.AF_INET, (host,)):
            raise NetworkBlockedError(f"blocked: {host}")
        return resolve(host, *args, **kwargs)

    socket.getaddrinfo = guarded_resolve


_block_network()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cuda",
        help="what the tests marked gpu run on; cpu tries them without a GPU, as far as they go",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those marked gpu, which are asked for with ``-m gpu``.

    So the suite is the same on every machine: results bit by bit, and forked processes that train.
    """
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where there is none; the suite is complete without them."""
    if torch.cuda.is_available() or config.getoption("device") != "cuda":
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device and -m gpu"))


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """What a test marked gpu runs on."""
    return torch.device(request.config.getoption("device"))


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """As ``device``, for a test that means nothing elsewhere."""
    if device.type != "cuda":
        pytest.skip("speaks of CUDA alone")
    return device


@dataclass(frozen=True)
class Outcome:
    """What one call of the command line left."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run ``lungunet ARGS`` in this process."""

    def run(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lungunet", *(str(arg) for arg in args)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of 12 slices and masks: 4 patients, 48x48, some without lung."""
    folder = tmp_path_factory.mktemp("phantoms")
    return lungunet.write_phantoms(folder, patients=4, slices=3, size=48)


@pytest.fixture(scope="session")
def grey_phantoms(
    phantoms: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The same slices in 8 bits, through the lung window, and their masks."""
    folder = tmp_path_factory.mktemp("grey")
    for path in phantoms[0].iterdir():
        grey = lungunet.LUNG_WINDOW.to_grey(lungunet.read_image(path))
        lungunet.write_image(folder / f"{path.stem}.png", grey)
    return folder, phantoms[1]


@pytest.fixture(scope="session")
def split(phantoms: tuple[Path, Path]) -> lungunet.Split:
    """Six pairs to train, three for val, three for test; patients kept together."""
    pairs = lungunet.find_pairs(*phantoms)
    groups = lungunet.read_groups(pairs, r"patient-\d+")
    return lungunet.split_pairs(pairs, val=0.25, test=0.25, groups=groups)


@pytest.fixture(scope="session")
def data(split: lungunet.Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the three lists."""
    folder = tmp_path_factory.mktemp("data")
    lungunet.write_split(folder, split, {"labels": lungunet.LUNG_CODEC.to_dict()})
    return folder


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs; read-only by agreement."""
    out = tmp_path_factory.mktemp("runs") / "done"
    config = lungunet.RunConfig(data=str(data), epochs=2, size=32, batch_size=2, workers=0)
    list(lungunet.train_run(config, out))
    return out


@pytest.fixture(scope="session")
def onnx_file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the finished run, exported; read-only by agreement."""
    path = tmp_path_factory.mktemp("onnx") / "lung.onnx"
    lungunet.export_onnx(run, path)
    return path


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to write into."""
    return Path(shutil.copytree(run, tmp_path / "own-run"))


@pytest.fixture
def two_series(tmp_path: Path) -> Path:
    """A DICOM folder with two series of one slice each, so that nobody knows which is meant."""
    import pydicom  # here and not above: few tests read DICOM
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder = tmp_path / "two-series"
    folder.mkdir()
    for uid in ("1.2.3", "4.5.6"):
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.Modality, ds.SeriesInstanceUID = "CT", uid
        ds.Rows, ds.Columns, ds.PixelSpacing = 4, 6, [0.8, 0.7]
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelData = bytes(2 * 4 * 6)
        ds.save_as(folder / f"{uid}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture
def unfit_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let smp and timm stop as they do where torchvision was built for another torch."""

    class Unfit:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name in ("segmentation_models_pytorch", "timm"):
                raise RuntimeError("operator torchvision::nms does not exist\nMore.")

    for name in ("segmentation_models_pytorch", "timm", "lungunet.models.outside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Unfit(), *sys.meta_path])
