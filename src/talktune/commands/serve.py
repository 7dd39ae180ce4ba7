"""`talktune serve`, `judge` and `learn`: the roles as commands."""

import os

from talktune.commands.console import out
from talktune.config import Config, LiveConfig, config_to_json
from talktune.serve.run import serve as run


def serve(config: Config) -> int:
    """The server, with a host of its own (which judges and learns, unless told not to) or in front of an engine."""
    assert config.serve is not None
    live = config.live or LiveConfig()
    _wait_asleep()
    run(config.serve, ["-m", "talktune.live", config_to_json(config)], _say, per_user=live.per_user)
    return 0


def judge(config: Config) -> int:
    """The judge alone."""
    _wait_asleep()
    from talktune.live.roles import run_judge

    run_judge(config, _say)
    return 0


def learn(config: Config) -> int:
    """The learner alone."""
    _wait_asleep()
    from talktune.live.roles import run_learner

    run_learner(config, _say)
    return 0


def _say(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _wait_asleep() -> None:
    """Let torch's threads sleep while they wait for each other; to be called before torch is loaded.

    By default they spin (libgomp's OMP_WAIT_POLICY, also in processes that are started from here). Alone on a machine
    that saves a tenth; beside another process that computes, each waits for one that is not even running: four to five
    times as slow on two cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
