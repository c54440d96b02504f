"""Who may import whom, and which third-party package is behind which door."""

import ast
from pathlib import Path

import pytest

import lungunet

PACKAGE = Path(__file__).parent.parent / "lungunet"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each room may import itself and the rooms that it names.
_GROUND = {"data"}
_MIDDLE = {"models", "metrics", "volumes", "phantom"} | _GROUND
ROOMS = {
    "cli": {"doctor", "evaluation", "inference", "reviewing", "training"} | _MIDDLE,
    "doctor": {"evaluation", "inference", "training"} | _MIDDLE,
    "evaluation": {"inference", "training"} | _MIDDLE,
    "reviewing": {"inference"} | _MIDDLE,
    "inference": _MIDDLE,
    "training": _MIDDLE,
    "models": {"metrics", "phantom"} | _GROUND,
    "metrics": _GROUND,
    "volumes": _GROUND,
    "phantom": _GROUND,
    "data": set(),
}
# Every room may import the modules errors, process_wide, progress and _version.

DOORS = {
    "segmentation_models_pytorch": ("models/outside.py",),
    "timm": ("models/outside.py",),
    "huggingface_hub": ("models/hub.py", "models/encoders.py"),  # of ours; of encoders
    "albumentations": ("data/transforms.py",),
    "PIL": ("data/tiff.py",),
    "SimpleITK": ("volumes/itk.py",),
    "pydicom": ("volumes/dicom.py", "volumes/dicom_out.py"),  # reads; writes
    "highdicom": ("volumes/dicom_out.py",),
    "dicomweb_client": ("volumes/pacs.py",),
    "requests": ("volumes/pacs.py",),
    "torch.utils.tensorboard": ("training/tracking.py",),
    "tensorboard": ("training/tracking.py",),
    "mlflow": ("training/mlflow_log.py",),
    "onnxruntime": ("models/onnx_file.py",),
    "onnx": ("models/onnx.py", "models/onnx_graph.py"),
    "onnxscript": ("models/onnx.py",),
    "ray": ("inference/ray_actors.py",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "http.server": ("reviewing/server.py",),
}
IMAGE_FILES = {"imread", "imwrite", "imdecode", "imencode"}  # OpenCV's file functions


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=place)
def test_imports_point_one_way(path: Path) -> None:
    room = place(path).split("/")[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "lungunet" or len(parts) == 1:
            continue
        other = parts[1]
        if other in ROOMS and other != room:
            assert other in ROOMS.get(room, set()), f"{place(path)} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_third_party_packages_stay_behind_their_doors(path: Path) -> None:
    for name in imported(path):
        for package, homes in DOORS.items():
            if name == package or name.startswith(package + "."):
                assert place(path).startswith(homes), f"{place(path)} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_image_files_are_touched_in_one_place(path: Path) -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    if place(path) not in ("data/ct.py", "data/tiff.py"):
        assert not used & IMAGE_FILES


@pytest.mark.parametrize("path", FILES, ids=place)
def test_nobody_prints_exits_or_swallows_below_the_command_line(path: Path) -> None:
    if place(path).startswith("cli/"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "exit", "quit"), place(path)
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in {place(path)}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_what_is_one_for_all_threads_is_changed_in_one_place(path: Path) -> None:
    used = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert "os.cpu_count" not in used or place(path) == "models/cores.py"
    if place(path) == "inference/crew.py":  # in processes of its own
        return
    if place(path) != "process_wide.py":
        names = {name.rsplit(".", 1)[-1] for name in used}
        assert not names & {"catch_warnings", "simplefilter", "filterwarnings", "setLevel"}


def test_modules_do_not_import_in_a_circle() -> None:
    def module(path: Path) -> str:
        name = "lungunet." + place(path).removesuffix(".py").replace("/", ".")
        return name.removesuffix(".__init__")

    modules = {module(path) for path in FILES}

    def at_import(path: Path) -> set[str]:
        """Imports that run when the module is imported, not inside functions or for types."""
        names: set[str] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= inner & modules or {node.module}
        return names

    graph = {module(path): (at_import(path) & modules) - {"lungunet"} for path in FILES}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        for other in graph[name] - {name}:
            visit(other, (*trail, name))

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", [path for path in FILES if "cli" in path.parts], ids=place)
def test_the_command_line_uses_what_any_caller_can(path: Path) -> None:
    """Of lungunet it imports public names, its own rooms, errors and progress."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("lungunet.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "lungunet":
            assert {alias.name for alias in node.names} <= set(lungunet.__all__), place(path)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lungunet."):
            room = (node.module or "").split(".")[1]
            assert room in ("cli", "errors", "progress"), f"{place(path)} must not know {room}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_nobody_asks_what_kind_of_segmenter_there_is(path: Path) -> None:
    """A segmenter says itself that it is a rule, or that it takes whole scans."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            asked = " ".join(map(ast.unparse, node.args))
            assert not (node.func.id == "isinstance" and "Segmenter" in asked), place(path)
