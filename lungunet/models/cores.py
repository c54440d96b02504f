"""How many cores there are to work with. Imports the standard library, and OpenCV to limit it."""

import math
import os
from pathlib import Path

_limit = math.inf
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a Linux container: "QUOTA PERIOD", or "max PERIOD"


def count_cores() -> int:
    """Count the cores that this process may use; a container or a batch system may grant fewer."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return int(min(len(allowed) or os.cpu_count() or 1, _granted(), _limit))


def limit_cores(cores: int) -> None:
    """Let this process count no more than these: others share the machine with it.

    Torch, where it is not yet imported, and OpenCV use no more than these either.
    """
    global _limit
    _limit = max(1, cores)
    os.environ.setdefault("OMP_NUM_THREADS", str(_limit))
    import cv2

    cv2.setNumThreads(min(_limit, cv2.getNumThreads()))


def _granted() -> float:
    """Return how many cores the time that a container gets amounts to, or infinity."""
    try:
        quota, period = _QUOTA.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no container, or "max"
        return math.inf
