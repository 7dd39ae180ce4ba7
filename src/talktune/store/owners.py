"""Names of processes that claim work, and whether such a process of this machine is gone.

Open it when work of a dead process is not taken over.
"""

import os
import socket
from functools import cache
from hashlib import blake2b
from pathlib import Path

LONGEST_NAME = 48
"""Characters of a machine's name that are kept: an owner fits into a column."""


def owner_name() -> str:
    """The name of this process in claims: the machine, the place on it, the process."""
    return f"{_machine()}:{os.getpid()}"


def is_gone(owner: str) -> bool:
    """Whether an owner was a process that could be seen from here, and is no more; False where that is not known."""
    machine, _, process = owner.rpartition(":")
    if machine != _machine() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@cache
def _machine() -> str:
    """Host, running system and process table: two containers may share a name, and know nothing of each other's ids."""
    return f"{socket.gethostname()[:LONGEST_NAME]}:{blake2b(_system().encode(), digest_size=4).hexdigest()}"


def _system() -> str:
    """The start of the system, and the table that ids of processes are of; empty where Linux does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return boot + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
