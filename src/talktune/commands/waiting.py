"""How torch's threads wait for each other; to be chosen before torch is loaded.

By default libgomp lets threads spin for milliseconds (its manual, GOMP_SPINCOUNT). A process that has the machine to
itself is a quarter faster when they spin; beside another process that computes, each waits for one that is not even
running, four to five times as slow on two cores, and far worse for small updates.
"""

import os


def wait_briefly() -> None:
    """Let threads spin only briefly; a choice of the user's stays. For roles apart, which may share a machine."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def wait_as_needed() -> None:
    """Let threads spin only briefly where others compute on this machine, so that an idle one loses nothing."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(named) if named.isdecimal() else cores
    if os.getloadavg()[0] + threads > cores + 0.5:
        wait_briefly()
