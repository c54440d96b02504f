"""The notebook runs from its first cell to its last, and is kept without output."""

from pathlib import Path

import nbclient
import nbformat
import pytest

TOUR = Path(__file__).parent.parent.parent / "examples" / "tour.ipynb"
SETTINGS = "PATIENTS, SIZE, EPOCHS = 24, 128, 15"


def test_no_output_is_kept() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not cell.metadata


# jupyter_client 8 warns of its own transport, zmq of Windows event loops
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning:zmq")
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    notebook = nbformat.read(TOUR, as_version=4)
    setup = next(cell for cell in notebook.cells if SETTINGS in cell.source)
    setup.source = setup.source.replace(SETTINGS, "PATIENTS, SIZE, EPOCHS = 4, 32, 1")
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    kinds = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]
    assert kinds.count("image/png") == 3
    assert (tmp_path / "runs" / "tour" / "best" / "model.safetensors").exists()
