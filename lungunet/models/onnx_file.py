"""An exported model as it lies on disk: what it says of itself, and a session that runs it.

The only door to onnxruntime. Needs no torch.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.errors import MissingExtraError, ModelError
from lungunet.models.cores import count_cores

IMAGE, MASK, PROBABILITY = "image", "mask", "probability"
FORMAT = 1
ABOUT = "lungunet"  # the key of our entry in the file's metadata


@dataclass(frozen=True)
class OnnxFile:
    """An exported model, ready to run.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    contract : what the graph does with slices; callers check theirs by it
    codec : of the masks that the model was trained on
    weights_sha256 : hash of the weights that it was exported from; empty where it does not say
    """

    session: Any
    contract: InputContract
    codec: LabelCodec
    weights_sha256: str = ""

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segment slices of one size.

        Parameters
        ----------
        images : (N, H, W) float32, HU or what the files hold

        Returns
        -------
        mask : (N, H, W) raw values, uint8 where they fit
        probability : (N, C, H, W) float32, sum to 1 over C
        """
        mask, probability = self.session.run([MASK, PROBABILITY], {IMAGE: images})
        return mask, probability


def open_onnx(path: str | Path) -> OnnxFile:
    """Open a file that ``export_onnx`` wrote, to run on the CPU.

    It takes as many threads as ``OMP_NUM_THREADS`` says, or as there are cores for this process.
    """
    path = Path(path)
    try:
        with path.open("rb"):
            pass
    except OSError as err:
        raise ModelError(
            f"cannot be read ({err.strerror}). Give a file that 'lungunet export' wrote.",
            where=path,
        ) from err
    session = _start(path)
    text = session.get_modelmeta().custom_metadata_map.get(ABOUT)
    if text is None:
        raise ModelError(
            "not exported by lungunet, so nobody knows what it does with HU. Export the "
            "model with 'lungunet export', or let your own tool write masks and evaluate those.",
            where=path,
        )
    return OnnxFile(session, *_read_about(text, path))


def _count_threads() -> int:
    """Count what may be used; asked for nothing, onnxruntime takes every core of the machine."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(wanted) if wanted.isdigit() and int(wanted) else count_cores()


def _start(path: Path) -> Any:
    runtime = onnxruntime()
    runtime.disable_telemetry_events()  # builds for Windows report to Microsoft
    options = runtime.SessionOptions()
    options.intra_op_num_threads = _count_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; they come as exceptions too
    # Threads that spin between calls would take the cores from those that read and write files.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # By its path where that is text: the weights of the built-in model lie beside its graph.
        model = str(path) if str(path).isprintable() else path.read_bytes()
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as err:  # its errors share no class of their own
        raise ModelError(
            "not a readable ONNX model: damaged or truncated. Copy or export it again.", where=path
        ) from err


def _read_about(text: str, path: Path) -> tuple[InputContract, LabelCodec, str]:
    try:
        about = json.loads(text)
        number = about["format"]
        if not isinstance(number, int) or not 1 <= number <= FORMAT:
            raise ModelError(
                f"format {number} is not one that this lungunet reads (1 to {FORMAT}). "
                "Upgrade lungunet, or export the model again.",
                where=path,
            )
        contract, codec = InputContract.from_dict(about["contract"]), about["codec"]
        return contract, LabelCodec.from_dict(codec), str(about.get("weights_sha256", ""))
    except (KeyError, TypeError, ValueError, RecursionError) as err:
        raise ModelError(f"its metadata are damaged ({err}). Export it again.", where=path) from err


def onnxruntime() -> Any:
    """Return the package."""
    # From 1.29 on it keeps an identifier in the home folder and reports to Microsoft, on Linux too;
    # disable_telemetry_events() comes after the first report.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as runtime  # type: ignore[import-untyped]
    except ImportError as err:
        raise MissingExtraError(
            "onnxruntime is not installed. pip install 'lungunet[onnx]'", where="onnx"
        ) from err
    return runtime
