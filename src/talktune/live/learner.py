"""The learner beside a server: new verdicts → update → candidate → gate → live, piece by piece.

`step` is the pipeline. Between two pieces the engine may use the model: the adapter in training rests meanwhile. What
was computed counts from the transaction that names its turns and its version on; a learner that is killed before
computes the same again from the same turns.
"""

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from talktune.config import Config, GateConfig, LiveConfig, SampleConfig
from talktune.conversations.turns import skip_reason
from talktune.errors import UserError
from talktune.host.engine import Engine
from talktune.host.lora import Lora, load_lora
from talktune.judge.panel import Judge, judge_turns
from talktune.learner.checkpoint import load_checkpoint, whole_folder, write_checkpoint
from talktune.learner.pieces import within
from talktune.learner.samples import CUT_OFF, sample_of
from talktune.learner.update import Learner
from talktune.live.asking import answers
from talktune.live.exam import Examiner
from talktune.policy.adapter import (
    adapter_layers,
    adapter_on,
    attach_adapter,
    copy_adapter,
    rest_adapter,
    save_adapter,
)
from talktune.policy.load import Policy
from talktune.policy.tokens import decode_answer
from talktune.store.learning import LEASE, Learning, LostLeaseError, NewVersion, Scored
from talktune.store.policies import EVERYBODY, Policies, Version, version_name
from talktune.store.queues import BUCKETS, lease, owner_name
from talktune.store.store import Store
from talktune.types import Message, Sample

log = logging.getLogger(__name__)
T = TypeVar("T")
KEPT = 8
"""Checkpoints that stay on disk; a version without one goes on with a fresh optimizer."""


@dataclass(frozen=True)
class Batch:
    """The turns of one update, as samples."""

    lineage: str
    live: Version | None
    scored: tuple[Scored, ...]
    samples: tuple[Sample, ...]


class LiveLearner:
    """One adapter in training over a model that others use too."""

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Put an adapter on `policy.model`; `engine` must have been made over the same model before.

        `judge` is needed with `--group prompt` only, `sample` says how its answers are sampled. UserError for rank 0.
        """
        if config.model.lora_rank == 0:
            raise UserError("--lora-rank is 0: versions are adapters; use 1 or more, or --no-learn.")
        self.store = store
        self.policies = Policies(store)
        self.live = config.live or LiveConfig()
        self.learning = Learning(store, round(self.live.holdout * BUCKETS))
        self.config = config
        self.folder = self.live.policies.absolute()
        self.trouble = ""
        """Why nothing is learned right now, in a sentence."""
        self._policy = policy
        self._engine = engine
        self._ends = end_ids
        self._judge = judge
        self._sample = sample or SampleConfig()
        self._owner = owner or owner_name()
        self._clock = clock
        self._model = attach_adapter(policy.model, config.model, config.train.seed)
        self._learner = Learner(self._model, config, total_updates=1, piece=engine.piece)
        self._start = {name: p.detach().clone() for name, p in self._learner.trained.items()}
        self._layers = adapter_layers(self._model)
        rest_adapter(self._layers)
        self._examiner = Examiner(self._learner, engine, policy.tokenizer, end_ids, config.gate or GateConfig())
        self._loaded: tuple[str, int | None] | None = None
        """Lineage and version whose weights and optimizer are in place."""
        self._loras: dict[int, Lora] = {}

    def ready(self) -> bool:
        """Whether there is something to do: a candidate without a verdict, or turns enough for an update."""
        return bool(self.policies.candidates()) or any(self._due(name) for name in self._lineages())

    def step(self) -> Generator[None, None, bool]:
        """One update and its gate, or the gate of a candidate that was left without; False when nothing was due.

        Raises LostLeaseError when another process learns from this store.
        """
        if not lease(self.store, LEASE, self._owner, self._clock()):
            raise LostLeaseError
        for candidate in self.policies.candidates():
            yield from self._gate(candidate)
            return True
        for name in self._lineages():
            if (batch := self._take(name)) is not None:
                candidate = yield from self._update(batch)
                if candidate is not None:
                    yield from self._gate(candidate)
                return True
        return False

    # Which turns.

    def _lineages(self) -> list[str]:
        """Those with waiting turns that may learn: everybody's one, or each user's."""
        users = self.learning.waiting()
        names = list(users) if self.live.per_user else [EVERYBODY] if users else []
        stopped = {name: why for name, (_, why) in self.policies.lineages().items() if why}
        self.trouble = "; ".join(f"{name or 'everybody'}: {why}" for name, why in stopped.items())
        return [name for name in sorted(names) if name not in stopped]

    def _oldest(self, lineage: str) -> list[Scored]:
        """The turns of the next update; nobody fills more than their share of it, where there are several users."""
        users = [lineage] if self.live.per_user else sorted(self.learning.waiting())
        n, share = self.config.train.batch_turns, self.live.user_share
        if self.live.per_user or share == 1 or len(self.store.users()) < 2:
            return self.learning.oldest(users, n, n)
        return fair(self.learning.oldest(users, n, max(1, int(n * share))), share)

    def _due(self, lineage: str) -> bool:
        waiting = self.learning.waiting()
        mine = [waiting[lineage]] if self.live.per_user and lineage in waiting else list(waiting.values())
        late = any(self._clock() - since > self.live.timer_minutes * 60 for _, since in mine)
        if not late and sum(count for count, _ in mine) < self.config.train.batch_turns:
            return False
        return len(self._oldest(lineage)) >= (2 if late else self.config.train.batch_turns)

    def _take(self, lineage: str) -> Batch | None:
        """The turns of the next update, if there are enough; those that no update can use leave the queue."""
        live, parents = self.policies.live(lineage), self.policies.parents()
        while self._due(lineage):
            found = self._oldest(lineage)
            samples: list[Sample] = []
            useless: Counter[str] = Counter()
            gone: list[str] = []
            for one in found:
                try:
                    samples.append(self._sample_of(one, live, parents))
                except UserError as why:
                    useless[str(why)] += 1
                    gone.append(one.id)
            if gone:
                log.warning("%d turns cannot be learned from: %s", len(gone), dict(useless))
                self.learning.drop(gone)
            else:
                return Batch(lineage, live, tuple(found), tuple(samples))
        return None

    def _sample_of(self, one: Scored, live: Version | None, parents: Mapping[int, int | None]) -> Sample:
        """A waiting turn as a sample; UserError says why it cannot be one."""
        turn, train = one.turn, self.config.train
        reason = skip_reason(turn)
        if reason is not None:
            raise UserError(reason)
        if turn.verdict is None or turn.verdict.reward is None:
            raise UserError("unscored")
        if turn.cut_off and train.truncated == "skip":
            raise UserError(CUT_OFF)
        made = sample_of(turn, turn.verdict.reward, self._policy.tokenizer, self.config.algorithm.group)
        if len(made.prompt_ids) + len(made.answer_ids) > train.max_tokens:
            raise UserError(f"longer than {train.max_tokens} tokens")
        ours = _chain(None if live is None else live.number, parents)
        if made.policy_version is not None and made.policy_version not in parents:
            raise UserError(f"from version {made.policy_version}, which this store does not know")
        # Updates back and forth over the common ancestor: a version that was rolled back may have answered.
        staleness = len(set(ours) ^ set(_chain(made.policy_version, parents)))
        if staleness > self.config.algorithm.max_staleness:
            raise UserError(f"more than {self.config.algorithm.max_staleness} versions old")
        return replace(made, id=one.id, policy_version=len(ours) - staleness)

    def _depth(self, version: Version | None) -> int:
        return len(_chain(None if version is None else version.number, self.policies.parents()))

    # The update.

    def _update(self, batch: Batch) -> Generator[None, None, Version | None]:
        """One update from the live version's weights: the candidate, or None where nothing was to be learned."""
        self._load(batch.lineage, batch.live)
        self._loaded = None
        samples = list(batch.samples)
        if self.config.algorithm.group == "prompt":
            samples = yield from self._with_fresh_answers(batch)
        if self.live.shuffle_rewards:
            rewards = [sample.reward for sample in samples]
            Random(f"{self.config.train.seed}/{samples[0].id}").shuffle(rewards)
            samples = [replace(s, reward=reward) for s, reward in zip(samples, rewards, strict=True)]
        metrics = yield from self._awake(self._learner.pieces(samples))
        metrics["votes_agreement"] = _agreement(batch.scored)
        made = None
        if "tokens" in metrics:
            made = yield from self._write(batch, metrics)
        else:
            self._learner.update -= 1  # nothing was learned: the weights are those of the live version
        used = [one.id for one in batch.scored]
        self.learning.commit(self._owner, made, metrics, used, self.config.train.epochs, self._clock())
        for reason in self._brakes(metrics):
            self.policies.stop(batch.lineage, reason)
            log.warning("learning stops: %s", reason)
        if made is None:
            self._loaded = (batch.lineage, None if batch.live is None else batch.live.number)
            return None
        self._loaded = (batch.lineage, made.number)
        return self.policies.version(made.number)

    def _write(self, batch: Batch, metrics: Mapping[str, float]) -> Generator[None, None, NewVersion]:
        """The adapter and the checkpoint on disk, before any row names them; in a thread, since disks are slow."""
        number = self.policies.last_number() + 1
        path = self.folder / version_name(number)
        failure: list[BaseException] = []

        def write() -> None:
            try:
                write_checkpoint(self._learner, self._checkpoint(number), dict(metrics))
                with whole_folder(path) as partial:
                    save_adapter(self._model, partial)
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=write, name="versions")
        thread.start()
        while thread.is_alive():
            thread.join(0.02)
            yield
        if failure:
            raise failure[0]
        for old in sorted((self.folder / "checkpoints").glob("policy-*"))[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        parent = None if batch.live is None else batch.live.number
        return NewVersion(number, parent, batch.lineage, str(path))

    def _with_fresh_answers(self, batch: Batch) -> Generator[None, None, list[Sample]]:
        """Each turn beside fresh answers of the live policy to its prompt, judged against the same next state."""
        if self._judge is None:
            raise UserError("--group prompt needs the judge in the same process; leave out --no-judge.")
        live, tokenizer = batch.live, self._policy.tokenizer
        copies = self.live.answers - 1
        fresh = yield from answers(
            self._engine,
            [sample.prompt_ids for sample in batch.samples],
            replace(self._sample, max_new_tokens=max(len(s.answer_ids) for s in batch.samples)),
            end_ids=self._ends,
            seed=batch.scored[0].turn.index + (live.number if live else 0),
            lora=None if live is None else self.lora(live),
            copies=copies,
            policy_version=self._learner.update,
        )
        found: list[Sample] = []
        for i, (scored, sample) in enumerate(zip(batch.scored, batch.samples, strict=True)):
            group = replace(sample, group=sample.id)
            mine = fresh[i * copies : (i + 1) * copies]
            texts = [decode_answer(tokenizer, list(answer.answer_ids)).strip() for answer in mine]
            turns = [replace(scored.turn, answer=Message("assistant", text), verdict=None) for text in texts]
            verdicts = judge_turns(self._judge, turns, self.config.judge.votes, exact=self.config.judge.exact)
            yield
            found.append(group)
            found += [
                replace(
                    group,
                    id=f"{group.id}/{k}",
                    answer_ids=answer.answer_ids,
                    reward=verdict.reward,
                    rollout_logprobs=answer.logprobs,
                    temperature=answer.temperature,
                    policy_version=answer.policy_version,
                )
                for k, (answer, verdict) in enumerate(zip(mine, verdicts, strict=True))
                if verdict.reward is not None
            ]
        return found

    def _brakes(self, metrics: Mapping[str, float]) -> list[str]:
        """Why learning has to stop after an update."""
        live, low, high = self.live, *self.live.brake_judge
        rules = (
            (metrics.get("kl_ref", 0.0) <= live.brake_kl, "KL to the base model", "kl_ref", f"at most {live.brake_kl}"),
            (metrics.get("entropy", 9.0) >= live.brake_entropy, "entropy", "entropy", f"at least {live.brake_entropy}"),
            (
                metrics.get("response_length", 1e9) >= live.brake_length,
                "mean answer length",
                "response_length",
                f"at least {live.brake_length} tokens",
            ),
            (low <= metrics.get("reward_mean", low) <= high, "mean reward", "reward_mean", f"from {low} to {high}"),
        )
        return [f"{what} is {metrics[name]:.2f}, wanted {wanted}" for holds, what, name, wanted in rules if not holds]

    # The gate.

    def _gate(self, candidate: Version) -> Generator[None, None, None]:
        """Hold a candidate against the live version; then it is live, or rejected with the reasons."""
        live = self.policies.live(candidate.lineage)
        reasons: list[str] = []
        measures: dict[str, Any] = {}
        if not self._examiner.limits.no_gate:
            users = [candidate.lineage] if self.live.per_user else sorted(self.store.users())
            held = self.learning.held_out(users, candidate.created, 4 * self._examiner.limits.real_probes)
            reasons, measures = yield from self._examiner.examine(
                candidate,
                live,
                [one.turn for one in held],
                lora=self.lora,
                weights=lambda version: self._load(candidate.lineage, version),
                awake=self._awake,
            )
        if not self.policies.decide(candidate.number, reasons, measures):
            log.warning("%s is rejected: %s", candidate.name, self.policies.version(candidate.number).reason)
        serving = self.policies.live(candidate.lineage)
        for number in [n for n in self._loras if serving is None or n != serving.number]:
            self._engine.forget(self._loras.pop(number))

    def lora(self, version: Version) -> Lora:
        """A version as the engine takes it."""
        if version.number not in self._loras:
            self._loras[version.number] = load_lora(self._policy.model, version.name, version.path)
        return self._loras[version.number]

    # Weights.

    def _load(self, lineage: str, version: Version | None) -> None:
        """Put a version's weights, optimizer and baseline in place; the start of a lineage is the fresh adapter."""
        wanted = (lineage, None if version is None else version.number)
        if self._loaded == wanted:
            return
        self._loaded = None
        learner = self._learner
        learner.reset(self._start)
        if version is not None:
            path = self._checkpoint(version.number)
            if path.exists():
                load_checkpoint(learner, path)
            else:
                copy_adapter(self._model, version.path)
                learner.update = self._depth(version)
        self._loaded = wanted

    def _checkpoint(self, number: int) -> Path:
        return self.folder / "checkpoints" / version_name(number)

    def _awake(self, pieces: Generator[None, None, T]) -> Generator[None, None, T]:
        """The same pieces, with the adapter on inside each and off between them."""
        return within(partial(adapter_on, self._layers), pieces)


def fair(scored: Sequence[Scored], share: float) -> list[Scored]:
    """The same turns without the newest of whoever has more than `share` of them: nobody has, in what is left."""
    left = list(scored)
    while left:
        [(user, most)] = Counter(one.user for one in left).most_common(1)
        if most <= share * len(left):
            break
        left.pop(max(i for i, one in enumerate(left) if one.user == user))
    return left


def _chain(number: int | None, parents: Mapping[int, int | None]) -> list[int]:
    """A version and its ancestors, newest first."""
    chain: list[int] = []
    while number is not None:
        chain.append(number)
        number = parents[number]
    return chain


def _agreement(scored: Sequence[Scored]) -> float:
    """The share of valid votes that equal the reward of their turn."""
    pairs = [(v.label, s.turn.verdict.reward) for s in scored if s.turn.verdict for v in s.turn.verdict.votes]
    valid = [label == reward for label, reward in pairs if label is not None]
    return sum(valid) / len(valid) if valid else 1.0
