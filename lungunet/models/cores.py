"""How many cores there are to work with. Imports the standard library alone."""

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a Linux container: "QUOTA PERIOD", or "max PERIOD"


def count_cores() -> int:
    """Count the cores that this process may use; a container or a batch system may grant fewer."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return int(min(len(allowed) or os.cpu_count() or 1, _granted()))


def _granted() -> float:
    """Return how many cores the time that a container gets amounts to, or infinity."""
    try:
        quota, period = _QUOTA.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no container, or "max"
        return math.inf
