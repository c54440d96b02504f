"""The learning rate of every step, as a pure function."""

import math


def learning_rate(step: int, *, total: int, warmup: int, peak: float) -> float:
    """Linear warm-up, then half a cosine down to 0; a pure function, so resuming needs no state.

    Examples
    --------
    >>> [round(learning_rate(s, total=6, warmup=2, peak=1.0), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
