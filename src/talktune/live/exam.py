"""The exam of a candidate: its answers to the probes, its KL to the base model, its preference for what was liked.

Open it to see what the gate's numbers are measured on.

Answers come from the engine, in batches with the users' own; of a learner on another machine, from the engine that
serves. Those of the live version and of the base model are kept from gate to gate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from talktune.config import GateConfig, SampleConfig
from talktune.errors import UserError
from talktune.learner.gate import Measures, Preference, Probe, measure, objections, preference, read_probes
from talktune.learner.samples import sample_of, sample_of_answer
from talktune.learner.update import Learner
from talktune.policy.tokens import decode_answer, render_prompt
from talktune.store.policies import Version
from talktune.types import Sample, Sampled, Turn

FACT_TOKENS = 64
"""Room for an answer in one sentence to end by itself, a long sentence too; one that does not goes on and on."""
TEMPERATURE = 0.8
Ask = Callable[[Sequence[Sequence[int]], Sequence[SampleConfig], Version | None], list[Sampled]]
"""An answer to each prompt, sampled as is said for each, by a version (None: the base model); the same every time."""


class Examiner:
    """Asks versions the probes, and compares their answers."""

    def __init__(
        self,
        learner: Learner,
        ask: Ask,
        context: Callable[[], int],
        tokenizer: Any,
        end_ids: frozenset[int],
        limits: GateConfig,
    ) -> None:
        """Read the probes; UserError when they cannot be. `context` is the most tokens of what `ask` can be asked."""
        self.limits = limits
        self._learner = learner
        self._ask, self._context = ask, context
        self._tokenizer = tokenizer
        self._ends = end_ids
        probes = read_probes(limits.probes)
        self._facts = [probe for probe in probes if probe.accepted]
        self._open = [probe for probe in probes if not probe.accepted]
        self._answered: dict[tuple[int | None, tuple[int, ...]], Sampled] = {}
        self._base: dict[tuple[int, ...], list[float]] = {}
        """Log-probs under the base model, by prompt and answer."""
        self._judged: dict[tuple[int | None, str], float] = {}
        """Mean log-prob a token of a held-out turn's answer, by version and turn."""

    def examine(
        self,
        candidate: Version,
        live: Version | None,
        held: Sequence[Turn],
        *,
        weights: Callable[[Version], None],
    ) -> tuple[list[str], dict[str, Any]]:
        """Examine a candidate: the reasons why it must not go live (none: it may), and what was measured.

        `held` are judged turns that were kept from training; `weights` loads a version into the learner.
        """
        real = [turn for turn in held if turn.prompt][-self.limits.real_probes :] if self.limits.real_probes else []
        facts = self._asked(self._facts)
        asked = self._asked([*self._open, *(Probe(turn.prompt) for turn in real)])
        opened = [ids for ids in asked if ids not in facts]
        base = self._measure(None, facts, opened, weights)
        now = base if live is None else self._measure(live, facts, opened, weights)
        new = self._measure(candidate, facts, opened, weights)
        judged = self._preference(candidate, live, held, weights)
        reasons = objections(new, now, base, judged, self.limits)
        measures = {"candidate": new.as_dict(), "live": now.as_dict(), "base": base.as_dict()}
        if judged is not None:
            measures["preference"] = asdict(judged)
        kept = {None, candidate.number, None if live is None else live.number}
        self._answered = {key: value for key, value in self._answered.items() if key[0] in kept}
        self._judged = {key: value for key, value in self._judged.items() if key[0] in kept}
        return reasons, measures

    def _asked(self, probes: Sequence[Probe]) -> dict[tuple[int, ...], Probe]:
        """The probes by their token ids, each once, without those that the model has no room for."""
        asked = {tuple(render_prompt(self._tokenizer, probe.prompt)): probe for probe in probes}
        room = self._context() - max(self.limits.probe_tokens, FACT_TOKENS)
        return {ids: probe for ids, probe in asked.items() if len(ids) < room}

    def _measure(
        self,
        version: Version | None,
        facts: Mapping[tuple[int, ...], Probe],
        opened: Sequence[tuple[int, ...]],
        weights: Callable[[Version], None],
    ) -> Measures:
        answered = self._answers(version, facts, opened)
        said, told = answered[: len(opened)], answered[len(opened) :]
        kl = 0.0 if version is None else self._kl(version, said, weights)
        return measure(
            list(facts.values()),
            [self._text(answer) for answer in told],
            [self._text(answer) for answer in said],
            [answer.answer_ids[-1] in self._ends for answer in answered],
            sum(len(answer.answer_ids) for answer in said) / len(said),
            kl,
        )

    def _answers(
        self,
        version: Version | None,
        facts: Mapping[tuple[int, ...], Probe],
        opened: Sequence[tuple[int, ...]],
    ) -> list[Sampled]:
        """Answers to the open probes, drawn, then to the facts, greedily, in one go."""
        number = None if version is None else version.number
        drawn = SampleConfig(temperature=TEMPERATURE, max_new_tokens=self.limits.probe_tokens)
        greedy = SampleConfig(temperature=0.0, max_new_tokens=FACT_TOKENS)
        prompts = dict.fromkeys(opened, drawn) | dict.fromkeys(facts, greedy)
        new = [prompt for prompt in prompts if (number, prompt) not in self._answered]
        if new:
            made = self._ask(new, [prompts[prompt] for prompt in new], version)
            self._answered |= {(number, prompt): answer for prompt, answer in zip(new, made, strict=True)}
        return [self._answered[number, prompt] for prompt in prompts]

    def _kl(self, version: Version, said: Sequence[Sampled], weights: Callable[[Version], None]) -> float:
        """Mean over tokens of the k3 estimate e^(−d) − 1 + d, d = log-prob under the version − under the base model."""
        samples = [sample_of_answer(one, id=str(i), reward=0.0, group="") for i, one in enumerate(said)]
        keys = [sample.prompt_ids + sample.answer_ids for sample in samples]
        new = [i for i, key in enumerate(keys) if key not in self._base]
        rows = self._learner.answer_logprobs([samples[i] for i in new], bare=True)
        self._base = {key: self._base[key] for key in keys if key in self._base}
        self._base |= {keys[i]: row for i, row in zip(new, rows, strict=True)}
        own = [list(s.rollout_logprobs) for s in samples if s.rollout_logprobs is not None]
        if len(own) < len(samples):  # the engine did not tell them
            weights(version)
            own = self._learner.answer_logprobs(samples)
        d = torch.cat([torch.tensor(o) - torch.tensor(self._base[k]) for o, k in zip(own, keys, strict=True)])
        return float((torch.exp(-d) - 1 + d).mean())

    def _preference(
        self,
        candidate: Version,
        live: Version | None,
        held: Sequence[Turn],
        weights: Callable[[Version], None],
    ) -> Preference | None:
        samples: list[Sample] = []
        context = self._context()
        for turn in held:
            try:
                assert turn.verdict is not None
                made = sample_of(turn, turn.verdict.reward or 0.0, self._tokenizer, "batch")
            except UserError:  # a template that cannot say this turn
                continue
            if len(made.prompt_ids) + len(made.answer_ids) < context:
                samples.append(made)
        if preference([s.reward for s in samples], [0.0] * len(samples)) is None:
            return None
        means: list[list[float]] = []
        for version in (candidate, live):
            number = None if version is None else version.number
            new = [s for s in samples if (number, s.id) not in self._judged]
            if new:
                if version is not None:
                    weights(version)
                rows = self._learner.answer_logprobs(new, bare=version is None)
                self._judged |= {(number, s.id): sum(row) / len(row) for s, row in zip(new, rows, strict=True)}
            means.append([self._judged[number, s.id] for s in samples])
        gains = [now - before for now, before in zip(*means, strict=True)]
        return preference([s.reward for s in samples], gains)

    def _text(self, answer: Sampled) -> str:
        return decode_answer(self._tokenizer, list(answer.answer_ids)).strip()
