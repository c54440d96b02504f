"""environment.json: what a run was made with, so that it can be made again."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from lungunet._version import __version__

_PACKAGES = (
    *("torch", "torchvision", "segmentation-models-pytorch", "timm", "albumentations"),
    *("opencv-python-headless", "numpy"),
)


def environment_json(device: torch.device, notes: Mapping[str, Any]) -> str:
    """Return versions, device, threads, git commit and command line as JSON text.

    Parameters
    ----------
    notes : further facts, such as the hashes of the manifests
    """
    content = {
        "versions": {
            "lungunet": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "platform": platform.platform(),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "command": sys.argv,
        **notes,
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # conda and others install some under other names
        return None


def _device_name(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return f"{device} {name}".strip()


def _git_commit() -> str | None:
    """Return the commit of the folder the run was started in, if it is in a repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
