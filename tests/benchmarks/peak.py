"""The largest memory that this process has held."""

import resource
import sys
from pathlib import Path


def peak_mib() -> float:
    """Return MiB; of this program alone where the system tells, as Linux does.

    What getrusage counts begins with what the parent held when it started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return float(lines["VmHWM"].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
