"""The learner beside a server: new verdicts → update → candidate → gate → live; `step` is the pipeline.

Open it to see how a running server gets a new version.

What was computed counts from the transaction that names its turns and its version on; a learner that is killed before
computes the same again from the same turns.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from talktune.config import Config, GateConfig, LiveConfig, SampleConfig, ServeConfig
from talktune.errors import UserError
from talktune.host.engine import Engine
from talktune.host.lora import Lora, load_lora
from talktune.judge.panel import Judge
from talktune.learner.asker import make_asker
from talktune.learner.track import Track
from talktune.live.batches import Batches
from talktune.live.candidates import Candidates
from talktune.live.engine_answers import answers
from talktune.live.exam import Examiner
from talktune.live.followers import Followers
from talktune.live.fresh_answers import Fresh
from talktune.live.gate_engine import GateEngine, GateEngineError
from talktune.live.pruning import prune_versions
from talktune.live.weights import Weights
from talktune.policy.load import Policy
from talktune.policy.turnstile import ClosedError, Role
from talktune.store.enqueue import BUCKETS
from talktune.store.learning import LEASE, Learning, LostLeaseError
from talktune.store.owners import owner_name
from talktune.store.policies import Policies, Version
from talktune.store.queues import lease
from talktune.store.renewal import renewed
from talktune.store.store import Store
from talktune.types import Sampled

log = logging.getLogger(__name__)
ROLE = "learner"
"""As which it says how it is."""
TRIES = 3
"""A candidate whose exam fails so often is rejected."""


class LiveLearner:
    """Trains one adapter beside a model that serves."""

    def __init__(
        self,
        store: Store,
        policy: Policy,
        engine: Engine,
        end_ids: frozenset[int],
        config: Config,
        *,
        judge: Judge | None = None,
        sample: SampleConfig | None = None,
        owner: str | None = None,
        followers: Followers | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Learn on a view of `policy.model`, whose answers `engine` samples in another thread.

        `judge` is needed with `--group prompt` only, `sample` says how its answers are sampled. `followers`
        are other ranks that share the updates. UserError for rank 0.
        """
        if config.model.lora_rank == 0:
            raise UserError("--lora-rank is 0: versions are adapters; use 1 or more, or --no-learn.")
        if config.train.base_4bit:
            raise UserError("--base-4bit: versions are learned beside the model that answers; leave it out here.")
        self.live = config.live or LiveConfig()
        self.store = store
        self.policies = Policies(store)
        self.learning = Learning(store, round(self.live.holdout * BUCKETS))
        self._model, self._engine = policy.model, engine
        self._owner = owner or owner_name()
        self._clock = clock
        self._loras: dict[int, Lora] = {}
        self._failed: Counter[int] = Counter()
        """How often the exam of a candidate failed."""
        lane = engine.turnstile.lane(Role.LEARNER)
        self.weights = Weights(policy, self.policies, config, self.live.policies.absolute(), lane, followers)
        self.batches = Batches(self.learning, self.policies, policy.tokenizer, config)
        asker = make_asker(self.weights.learner.model, policy.tokenizer, end_ids, config, lane)
        self._config, self._followers = config, followers
        self.candidates = Candidates(
            self.weights, self.learning, self.policies, engine, policy, end_ids, config,
            lora=self.lora, judge=judge, sample=sample or SampleConfig(),
            fresh=None if asker is None else Fresh(asker, store, config),
        )  # fmt: skip
        gate = config.gate or GateConfig()
        ask, context = self._answers, lambda: engine.context
        if gate.gate_upstream:
            key = os.environ.get((config.serve or ServeConfig()).upstream_key_env)
            there = GateEngine(gate.gate_upstream, key, end_ids, self.policies.engine_name, engine.context)
            ask, context = there.answers, lambda: there.context
        self._ends = end_ids
        self.examiner = Examiner(self.weights.learner, ask, context, policy.tokenizer, end_ids, gate)

    @cached_property
    def track(self) -> Track:
        """The tracker, opened with this process's first update: a learner that waits for the lease must not touch a
        run.
        """
        first = self.policies.last_number() + 1
        return Track(self._config.train.track, self.live.policies, self._config, first)

    @property
    def trouble(self) -> str:
        """The reason why nothing is learned right now, in sentences."""
        return self.batches.trouble

    def step(self) -> bool:
        """Run one update and its gate, or the gate of a candidate that has none yet; False when there was nothing to
        do.

        Raises LostLeaseError when another process learns from this store.
        """
        if self._followers is not None:
            self._followers.greet()
        waiting = self.policies.candidates()
        lineage = None if waiting else self.batches.due(self._clock())
        if not waiting and lineage is None:
            return False
        if not self._at_work():
            raise LostLeaseError
        self.batches.trouble = ""
        with renewed(ROLE, self._at_work):
            if lineage is None:
                candidate = waiting[0]
            else:
                batch = self.batches.take(lineage, self._clock())
                if batch is None:
                    return False
                track = self.track
                candidate = self.candidates.make(batch, self._owner, self._clock())
                if candidate is not None:
                    track.log(candidate.number, candidate.metrics)
            if candidate is not None:
                self._gate(candidate)
        return True

    def _at_work(self) -> bool:
        """Take or renew the lease, and say so: an update takes minutes, in which nothing is missing."""
        if not lease(self.store, LEASE, self._owner):
            return False
        self.store.tell(ROLE, "", time.time())
        return True

    def _gate(self, candidate: Version) -> None:
        """Hold a candidate against the live version; then it is live, or rejected with the reasons."""
        live = self.policies.live(candidate.lineage)
        reasons: list[str] = []
        measures: dict[str, Any] = {}
        if not self.examiner.limits.no_gate:
            users = [candidate.lineage] if self.live.per_user else sorted(self.store.users())
            held = self.learning.held_out(users, candidate.created, 4 * self.examiner.limits.real_probes)
            turns = [one.turn for one in held]
            try:
                reasons, measures = self.examiner.examine(candidate, live, turns, weights=self._load)
            except (ClosedError, GateEngineError):
                raise
            except Exception as error:
                self._failed[candidate.number] += 1
                if self._failed[candidate.number] < TRIES:
                    raise
                log.exception("the exam of %s failed %d times", candidate.name, TRIES)
                reasons = [f"its exam failed ({type(error).__name__})"]  # the rest may name paths: it is logged
        self.policies.decide(candidate.number, reasons, measures)
        serving = self.policies.live(candidate.lineage)
        for number in [n for n in self._loras if serving is None or n != serving.number]:
            self._engine.forget(self._loras.pop(number))
        prune_versions(self.store, self.weights.folder, self.live.keep_versions, self._clock())

    def lora(self, version: Version) -> Lora:
        """A version in the form that the engine takes."""
        if version.number not in self._loras:
            self._loras[version.number] = load_lora(self._model, version.name, version.path)
        return self._loras[version.number]

    def _answers(
        self, prompts: Sequence[Sequence[int]], how: Sequence[SampleConfig], version: Version | None
    ) -> list[Sampled]:
        """The gate's probes, by the engine of this process."""
        lora = None if version is None else self.lora(version)
        return answers(self._engine, prompts, how, end_ids=self._ends, seeds=range(len(prompts)), lora=lora)

    def _load(self, version: Version) -> None:
        self.weights.load(version.lineage, version)
