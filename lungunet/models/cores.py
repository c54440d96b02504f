"""How many cores there are to work with. Imports the standard library alone."""

import os


def count_cores() -> int:
    """Count the cores that this process may use; a container or a batch system may grant fewer."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return len(allowed) or os.cpu_count() or 1
