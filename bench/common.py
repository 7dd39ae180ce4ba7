"""What the benches share: a process that tells its address, and JSON that tells the machine and the versions."""

import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("talktune", "torch", "transformers", "peft", "trl", "openai")
ENDING_SECONDS = 60.0


def talktune(*arguments: str) -> list[str]:
    """The command line of this talktune."""
    return [sys.executable, "-m", "talktune", *arguments]


@contextmanager
def started(*command: str, log: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the address in the line in which it says that it is ready; ended by SIGTERM, or killed.

    What it says on stderr goes to `log`. SystemExit, with the end of the log, when it ends before it is ready.
    """
    stderr = None if log is None else log.open("w")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as running:
        try:
            assert running.stdout is not None
            while not (line := running.stdout.readline()).startswith(("ready", "http")):
                if not line:
                    raise SystemExit((log.read_text()[-2000:] if log else "") or f"{' '.join(command)}: it ended")
            threading.Thread(target=running.stdout.read, daemon=True).start()
            yield running, line.split()[-1]
        finally:
            running.terminate()
            try:
                running.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                running.kill()
            if stderr is not None:
                stderr.close()


def keep(path: Path | None, found: Mapping[str, Any]) -> None:
    """Write what was found as JSON, with the machine and the versions that it was found on; None writes nothing."""
    if path is None:
        return
    machine = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    path.write_text(json.dumps({"machine": machine, "versions": _versions()} | dict(found), indent=1) + "\n", "utf-8")


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
