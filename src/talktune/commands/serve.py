"""`talktune serve`, `judge` and `learn`: the roles as commands."""

import os

from talktune.commands.console import out
from talktune.config import Config, LiveConfig, config_to_json
from talktune.serve.run import serve as run


def serve(config: Config) -> int:
    """The server, with a host of its own (which judges and learns, unless told not to) or in front of an engine."""
    assert config.serve is not None
    live = config.live or LiveConfig()
    if live.no_judge or live.no_learn:
        _wait_briefly()
    run(config.serve, ["-m", "talktune.live", config_to_json(config)], _say, per_user=live.per_user)
    return 0


def judge(config: Config) -> int:
    """The judge alone."""
    _wait_briefly()
    from talktune.live.roles import run_judge

    run_judge(config, _say)
    return 0


def learn(config: Config) -> int:
    """The learner alone."""
    _wait_briefly()
    from talktune.live.roles import run_learner

    run_learner(config, _say)
    return 0


def _say(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _wait_briefly() -> None:
    """Let torch's threads spin only briefly while they wait for each other; to be called before torch is loaded.

    For roles apart, which may share a machine. By default libgomp lets threads spin for milliseconds (its manual,
    GOMP_SPINCOUNT): beside another process that computes, each waits for one that is not even running, four to five
    times as slow on two cores. A process that has the machine to itself is a quarter faster when they spin.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
