"""Whose claims are known to be over: a process's that is gone from the table of processes that is looked at."""

import os
import subprocess
import sys

import pytest

from talktune.store.owners import is_gone, owner_name

SAYS_ITS_NAME = "from talktune.store.owners import owner_name; print(owner_name())"


def named(*before: str) -> str:
    """The name of a process that has ended since, started by `before`."""
    done = subprocess.run([*before, sys.executable, "-c", SAYS_ITS_NAME], capture_output=True, text=True, check=False)
    if before and done.returncode:
        pytest.skip(f"no process table of one's own here: {done.stderr.strip()}")
    return done.stdout.strip()


def test_a_process_of_this_machine_that_ended_is_gone_and_this_one_is_not() -> None:
    assert is_gone(named())
    assert not is_gone(owner_name())
    assert len(owner_name()) < 72, "a column holds it, and a few characters more"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has process tables by namespace")
def test_a_process_of_another_container_with_this_name_is_not_known_to_be_gone() -> None:
    """A namespace of its own is what makes a container: the host name is this one's, the process id says nothing."""
    owner = named("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
    assert owner.split(":")[0] == owner_name().split(":")[0]
    assert not is_gone(owner)


@pytest.mark.parametrize("owner", ["elsewhere:1", "", "nobody", "{me}:1234abcd", "elsewhere:{process}"])
def test_of_others_nothing_is_known(owner: str) -> None:
    assert not is_gone(owner.format(me=owner_name(), process=os.getpid()))
