"""Makes a candidate: one update from the live version's weights, for the gate to judge.

Open it to see what an update of a running server is made of, and when a brake stops it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from talktune.config import Config, LiveConfig, SampleConfig
from talktune.errors import UserError
from talktune.host.engine import Engine
from talktune.host.lora import Lora
from talktune.judge.panel import Judge, judge_turns
from talktune.learner.samples import sample_of_answer
from talktune.learner.update import NotFiniteError, learned
from talktune.live.batches import Batch
from talktune.live.engine_answers import answers
from talktune.live.fresh_answers import NOTHING, Fresh, dealt
from talktune.live.weights import Weights
from talktune.policy.load import Policy
from talktune.policy.tokens import decode_answer
from talktune.rl.schedule import headroom
from talktune.store.learning import Learning, NewVersion, Scored
from talktune.store.policies import Policies, Version
from talktune.types import Message, Sample

log = logging.getLogger(__name__)


class Candidates:
    """Makes candidates; an update counts once the transaction that names its turns and its version is committed."""

    def __init__(
        self,
        weights: Weights,
        learning: Learning,
        policies: Policies,
        engine: Engine,
        policy: Policy,
        end_ids: frozenset[int],
        config: Config,
        *,
        lora: Callable[[Version], Lora],
        judge: Judge | None,
        sample: SampleConfig,
        fresh: Fresh | None,
    ) -> None:
        """`judge`, `sample` and `lora`, which loads a version, are for the answers of `--group prompt`.

        `fresh` makes those that nobody judges.
        """
        self._weights, self._learning, self._policies, self._lora = weights, learning, policies, lora
        self._engine, self._policy, self._ends = engine, policy, end_ids
        self._config, self._live = config, config.live or LiveConfig()
        self._judge, self._sample, self._fresh = judge, sample, fresh

    def make(self, batch: Batch, owner: str, now: float) -> Version | None:
        """Take one update from the live version's weights: the candidate, or None where there was nothing to learn."""
        live, learner = batch.live, self._weights.learner
        number = None if live is None else live.number
        self._weights.load(batch.lineage, live)
        samples = self._with_fresh_answers(batch) if self._config.algorithm.group == "prompt" else batch.samples
        if self._live.shuffle_rewards:
            samples = _shuffled(samples, self._config.train.seed)
        fresh = NOTHING if self._fresh is None else self._fresh.of(batch, {s.id: s.reward for s in samples})
        learner.hear_probe(fresh.metrics)
        self._weights.changed()
        used = [one.id for one in batch.scored]
        try:
            pace = headroom([sample.reward for sample in batch.samples])
            metrics = self._weights.step(samples, fresh.samples, pace) | {"votes_agreement": _agreement(batch.scored)}
        except NotFiniteError as error:  # the same turns would fail again: they leave, learning goes on
            log.error("%s They are not learned from.", error)
            self._learning.drop(dict.fromkeys(used, "what they gave was not finite"))
            self._weights.now_of(batch.lineage, number)
            return None
        metrics |= fresh.metrics
        made = place = None
        if learned(metrics):
            self._learning.hold(owner)  # else another process may have made, and published, a version of this number
            new = self._policies.last_number() + 1
            place = partial(self._weights.place, self._weights.write(owner, metrics, self._learning.holder), new)
            made = NewVersion(new, number, batch.lineage, str(self._weights.path(new)))
        else:
            learner.update -= 1  # nothing was learned: the weights are those of the live version
        epochs, advantages = self._config.train.epochs, learner.advantages
        self._learning.commit(owner, made, metrics, used, epochs, now, fresh.readings, advantages, place)
        if reasons := brakes(metrics, self._live):
            self._policies.stop(batch.lineage, " and ".join(reasons))
        self._weights.now_of(batch.lineage, number if made is None else made.number)
        return None if made is None else self._policies.version(made.number)

    def _with_fresh_answers(self, batch: Batch) -> list[Sample]:
        """Each turn beside fresh answers of the live policy to its prompt, judged against the same next state."""
        if self._judge is None:
            raise UserError("--group prompt needs the judge in the same process; leave out --no-judge.")
        copies = self._live.answers - 1
        seed = batch.scored[0].turn.index + (batch.live.number if batch.live else 0)
        fresh = answers(
            self._engine,
            [sample.prompt_ids for sample in batch.samples],
            replace(self._sample, max_new_tokens=max(len(s.answer_ids) for s in batch.samples)),
            end_ids=self._ends,
            seeds=[seed + i * copies for i in range(len(batch.samples))],
            lora=None if batch.live is None else self._lora(batch.live),
            copies=copies,
            policy_version=self._weights.learner.update,
        )
        texts = [decode_answer(self._policy.tokenizer, list(answer.answer_ids)).strip() for answer in fresh]
        turns = [one.turn for one in batch.scored for _ in range(copies)]
        asked = [replace(t, answer=Message("assistant", s), verdict=None) for t, s in zip(turns, texts, strict=True)]
        verdicts = judge_turns(self._judge, asked, self._config.judge.votes, exact=self._config.judge.exact)
        asked_for = [sample.id for sample in batch.samples for _ in range(copies)]
        return [replace(sample, group=sample.id) for sample in batch.samples] + [
            sample_of_answer(answer, id=f"{id}/{k}", reward=verdict.reward, group=id)
            for k, (id, answer, verdict) in enumerate(zip(asked_for, fresh, verdicts, strict=True))
            if verdict.reward is not None
        ]


def brakes(metrics: Mapping[str, float], live: LiveConfig) -> list[str]:
    """The reasons why learning has to stop after an update, each in a few words; empty where it may go on.

    Turns may be of earlier versions, and their KL then hangs on a few large ratios: where there are fresh answers,
    which the version itself gave, theirs counts.
    """
    return [
        f"{what}{whose} is {metrics[of + name]:.2f}, wanted {least:g} to {most:g}"
        for what, name, least, most in live.brakes
        for of, whose in (("", ""), ("fresh_", " of the fresh answers"))
        if of + name in metrics and not least <= metrics[of + name] <= most
        if (of, name) != ("", "kl_ref") or "fresh_kl_ref" not in metrics
    ]


def _shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The same samples with their rewards dealt out anew, and nobody to teach or show them anything."""
    rewards = dealt([sample.reward for sample in samples], seed, samples[0].id)
    return [
        replace(s, reward=reward, teacher_prompt_ids=None, wanted_ids=None)
        for s, reward in zip(samples, rewards, strict=True)
    ]


def _agreement(scored: Sequence[Scored]) -> float:
    """The share of valid votes that equal the reward of their turn."""
    pairs = [(v.label, s.turn.verdict.reward) for s in scored if s.turn.verdict for v in s.turn.verdict.votes]
    valid = [label == reward for label, reward in pairs if label is not None]
    return sum(valid) / len(valid) if valid else 1.0
