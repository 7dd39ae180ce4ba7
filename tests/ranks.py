"""Commands on several ranks, as torchrun would start them: forked from one process that has loaded torch."""

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def fork(work: Callable[[], object], log: Path) -> int:
    """Start `work` in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 99
    with contextlib.suppress(BaseException):
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 98
        except BaseException:
            traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def started(ranks: int, arguments: list[str], log: Path, arm: Callable[[int], None] = lambda _: None) -> list[int]:
    """`talktune` on so many ranks as torchrun would start it, or in one process; the id of each."""
    from talktune.cli import main

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rank(number: int) -> None:
        if ranks > 1:
            told = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": ranks, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in told.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test")
        arm(number)
        sys.argv = ["talktune", *arguments]
        main()

    return [fork(lambda n=n: rank(n), log.with_suffix(f".{n}.log")) for n in range(ranks)]


def ended(children: list[int]) -> list[int]:
    """The exit code of each."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
