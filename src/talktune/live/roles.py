"""Starts the roles of one machine: a host that also judges and learns, a judge alone, a learner alone.

Open it to see which threads and processes there are.

They share the store and the versions' directory, nothing else; each can be killed, restarted or moved on its own.
"""

import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from talktune.config import Config, LiveConfig, SampleConfig, ServeConfig
from talktune.errors import UserError
from talktune.host.process import load_host, serve
from talktune.host.web import Host
from talktune.judge.from_config import make_judge
from talktune.judge.panel import Judge
from talktune.judge.worker import AT_ONCE, JudgeWorker
from talktune.learner.ranks import ALONE, Ranks
from talktune.live.engine_answers import answers
from talktune.live.first_version import adopt
from talktune.live.followers import Followers, follow
from talktune.live.learn import ROLE, LiveLearner
from talktune.live.notify import Notices
from talktune.live.worker import Worker
from talktune.policy.turnstile import Role
from talktune.policy.view import view_of
from talktune.serve.keys import Keys
from talktune.store.database import shown
from talktune.store.policies import Policies
from talktune.store.store import Store
from talktune.types import Sampled

LOCAL_AT_ONCE = 4
"""Turns that a model here judges together: answers wait for a layer of it, which must not be long."""
ENDING_SECONDS = 5.0
"""How long a role may take to end; what it was at is done again by the next process."""


def run_host(config: Config, keys: Keys) -> None:
    """The host of `talktune serve`: samples, and, if it may, judges and learns, each in a thread of its own.

    Whoever asks it needs one of `keys`.
    """
    live, server = config.live or LiveConfig(), config.serve or ServeConfig()
    host = load_host(config.model)
    workers: list[Worker] = []
    store = Store(server.store)
    if config.model.adapter is not None:
        adopt(Policies(store), live.policies, config.model.adapter)
    if not live.no_judge:
        workers.append(_judging(_judge(config, host), config, store))
    if not live.no_learn:
        workers.append(_learning(config, host, store))
    host.roles = lambda: {worker.name: worker.state() for worker in workers}
    notices = _notices(store, live)
    for worker in (*workers, *notices):
        worker.start()
    try:
        serve(host, "127.0.0.1", 0, keys)
    finally:
        for worker in notices:
            worker.stop()
        _end(host, workers)
        store.close()


def run_learner(config: Config, say: Callable[[str], None], ranks: Ranks = ALONE) -> None:
    """`talktune learn`: the learner alone, until SIGTERM or Ctrl-C; of several ranks the first leads the others."""
    if ranks.count > 1 and ":" in config.model.device:
        raise UserError(f"--device {config.model.device}: each rank takes the GPU of its number; leave it out.")
    if not ranks.first:
        follow(config, ranks)
        return
    server = config.serve or ServeConfig()
    host = load_host(config.model)
    store = Store(server.store)
    stopped = stop_on_signals()
    followers = Followers(ranks, stopped.set) if ranks.count > 1 else None
    worker = _learning(config, host, store, followers)
    notices = _notices(store, config.live or LiveConfig())
    sampling = threading.Thread(target=host.engine.run, name="engine", daemon=True)
    sampling.start()
    for one in (worker, *notices):
        one.start()
    say(f"learning from {shown(server.store)}")
    stopped.wait()
    for one in notices:
        one.stop()
    host.engine.stop()
    sampling.join(ENDING_SECONDS)
    _end(host, [worker])
    if followers is not None and followers.failure:
        store.tell(ROLE, followers.failure, time.time())
    store.close()
    if followers is not None:
        followers.end()


def run_judge(config: Config, say: Callable[[str], None]) -> None:
    """`talktune judge`: the judge alone, until SIGTERM or Ctrl-C."""
    server = config.serve or ServeConfig()
    store = Store(server.store)
    said = ""

    def tell(name: str, trouble: str) -> None:
        nonlocal said
        if trouble != said:
            said = trouble
            say(f"the judge gives no votes: {said}" if said else "the judge is back")
        store.tell(name, trouble, time.time())

    worker = _judging(make_judge(config.judge), config, store, tell)
    stopped = stop_on_signals()
    worker.start()
    say(f"judging {shown(server.store)}")
    stopped.wait()
    worker.stop()
    worker.join(ENDING_SECONDS)
    store.close()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


def _end(host: Host, workers: list[Worker]) -> None:
    """Let the workers end between two layers: a thread that computes must not outlive the interpreter."""
    for worker in workers:
        worker.stop()
    host.engine.turnstile.close()
    for worker in workers:
        worker.join(ENDING_SECONDS)


def _judge(config: Config, host: Host) -> Judge:
    """A judge on a view of its own, so that no other is in the middle of a pass there."""

    def sample(
        prompts: Sequence[Sequence[int]], how: SampleConfig, ends: Collection[int], seeds: Sequence[int]
    ) -> list[Sampled]:
        return answers(host.engine, prompts, how, end_ids=ends, seeds=seeds, lora=None, role=Role.JUDGE)

    policy = replace(host.policy, model=view_of(host.policy.model))
    lane = host.engine.turnstile.lane(Role.JUDGE)
    return make_judge(config.judge, policy=policy, lane=lane, sample=sample, seed=config.train.seed)


def _judging(judge: Judge, config: Config, store: Store, tell: Callable[[str, str], None] | None = None) -> Worker:
    judging = JudgeWorker(store, judge, config.judge.votes, exact=config.judge.exact)
    at_once = LOCAL_AT_ONCE if config.judge.judge == "local" else AT_ONCE
    return Worker("judge", lambda: judging.step(at_once), lambda: judging.trouble, tell or _teller(store))


def _learning(config: Config, host: Host, store: Store, followers: Followers | None = None) -> Worker:
    server = config.serve or ServeConfig()
    judge = _judge(config, host) if config.algorithm.group == "prompt" else None
    sample = SampleConfig(temperature=server.temperature)
    learner = LiveLearner(
        store, host.policy, host.engine, host.end_ids, config, judge=judge, sample=sample, followers=followers
    )
    return Worker(ROLE, learner.step, lambda: learner.trouble, _teller(store))


def _notices(store: Store, live: LiveConfig) -> list[Worker]:
    """One looks, one posts. Nobody waits for them at the end: whom they post to may take their time."""
    made = Notices(store, live.notify)
    steps = {"notices": made.look, "posts": made.post}
    return [Worker(name, step, lambda: "", lambda _name, _trouble: None) for name, step in steps.items()]


def _teller(store: Store) -> Callable[[str, str], None]:
    return lambda name, trouble: store.tell(name, trouble, time.time())
