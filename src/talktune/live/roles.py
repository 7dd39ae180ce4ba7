"""The roles of one machine: a host that also judges and learns, a judge alone, a learner alone.

They share the store and the versions' directory, nothing else; each can be killed, restarted or moved on its own.
"""

import logging
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any

from talktune.config import Config, LiveConfig, SampleConfig, ServeConfig
from talktune.host.process import load_host, serve
from talktune.host.web import Host
from talktune.judge.make import make_judge
from talktune.judge.panel import Judge
from talktune.judge.worker import JudgeWorker
from talktune.live.adopt import adopt
from talktune.live.learner import LiveLearner
from talktune.live.work import Work, states, watch
from talktune.store.policies import Policies
from talktune.store.store import Store

log = logging.getLogger(__name__)
IDLE_SECONDS = 0.5


def run_host(config: Config) -> None:
    """The host of `talktune serve`: samples, and, if it may, judges and learns in small pieces between decode steps."""
    live, server = config.live or LiveConfig(), config.serve or ServeConfig()
    host = load_host(config.model)
    works: list[Work] = []
    if config.model.adapter is not None:
        store = Store(server.store)
        adopt(Policies(store), live.policies, config.model.adapter)
        store.close()
    if not (live.no_judge and live.no_learn):
        store = Store(server.store)
        judge = None if live.no_judge and config.algorithm.group != "prompt" else _judge(config, host)
        if judge is not None and not live.no_judge:
            works += _judging(JudgeWorker(store, judge, config.judge.votes, exact=config.judge.exact), config)
        if not live.no_learn:
            works.append(_learning(_learner(config, host, store, judge)))
    host.roles = states(works)
    watch(host.engine, works)
    serve(host, "127.0.0.1", 0)


def run_learner(config: Config, say: Callable[[str], None]) -> None:
    """`talktune learn`: the learner alone, until SIGTERM or Ctrl-C."""
    server = config.serve or ServeConfig()
    host = load_host(config.model)
    store = Store(server.store)
    judge = _judge(config, host) if config.algorithm.group == "prompt" else None
    works = [_learning(_learner(config, host, store, judge))]
    stop_on_signals(host.engine.stop)
    watch(host.engine, works)
    say(f"learning from {server.store}")
    host.engine.run()
    store.close()


def run_judge(config: Config, say: Callable[[str], None]) -> None:
    """`talktune judge`: the judge alone, until SIGTERM or Ctrl-C."""
    server = config.serve or ServeConfig()
    store = Store(server.store)
    worker = JudgeWorker(store, make_judge(config.judge), config.judge.votes, exact=config.judge.exact)
    stopped = threading.Event()
    stop_on_signals(stopped.set)
    say(f"judging {server.store}")
    _judge_until(worker, stopped, say)
    store.close()


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def _judge(config: Config, host: Host) -> Judge:
    return make_judge(config.judge, policy=host.policy, seed=config.train.seed)


def _learner(config: Config, host: Host, store: Store, judge: Judge | None) -> LiveLearner:
    server = config.serve or ServeConfig()
    sample = SampleConfig(temperature=server.temperature)
    return LiveLearner(store, host.policy, host.engine, host.end_ids, config, judge=judge, sample=sample)


def _judging(worker: JudgeWorker, config: Config) -> list[Work]:
    """Local judges work on the engine's model, in pieces; others wait for a server or a function, in a thread."""

    def pieces() -> Generator[None]:
        while worker.step():
            yield

    if config.judge.judge == "local":
        return [Work("judge", worker.ready, pieces, lambda: worker.trouble)]
    thread = threading.Thread(target=_judge_until, args=(worker, threading.Event(), log.warning), daemon=True)
    thread.start()
    return [Work("judge", lambda: False, pieces, lambda: worker.trouble)]


def _judge_until(worker: JudgeWorker, stopped: threading.Event, say: Callable[[str], Any]) -> None:
    said = ""
    while not stopped.is_set():
        try:
            if worker.step(limit=16):
                continue
        except Exception as error:  # the store is locked, say: the next round tries again
            log.exception("judging failed")
            worker.trouble = f"{type(error).__name__}: {error}"
        if worker.trouble != said:
            said = worker.trouble
            say(f"the judge gives no votes: {said}" if said else "the judge is back")
        stopped.wait(IDLE_SECONDS)


def _learning(learner: LiveLearner) -> Work:
    def pieces() -> Generator[None]:
        while (yield from learner.step()):
            pass

    return Work("learner", learner.ready, pieces, lambda: learner.trouble)
