"""Keeps freed memory in the process on Linux, so that a forward pass need not fault it in page by page.

Open it when a CPU spends its time in the kernel.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names and numbers, malloc.h
LARGE = 1 << 30


def keep_freed_memory() -> None:
    """Tell glibc's malloc to reuse large buffers instead of returning them to the system (mallopt(3)).

    Activations are allocated and freed in the same sizes again and again; without this a third of a CPU
    update went into page faults. Does nothing where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_TRIM_THRESHOLD, LARGE)
