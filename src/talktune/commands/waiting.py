"""How torch's threads wait for each other; to be chosen before torch is loaded.

By default libgomp lets threads spin for milliseconds (its manual, GOMP_SPINCOUNT). Beside another process that computes
each of them then waits for one that is not even running: several times as slow on two cores, and far worse for small
updates. Spinning briefly costs nothing where the machine is idle (`bench/waiting.py`).
"""

import os


def wait_briefly() -> None:
    """Let threads spin only briefly before they sleep; a choice of the user's stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
