"""Samples fresh answers of the model in training, and reads them for the preference model, piece by piece.

Open it to see what `--fresh-answers` computes.

Not by the engine that answers users: whoever else is answered in its batches changes the last bits of every
log-prob there, and an update that is taken again after a kill must be the same to the last bit.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from math import inf
from typing import Any, NamedTuple

from peft import PeftModel

from talktune.config import Config, FreshConfig, SampleConfig
from talktune.learner.fresh_samples import Ask, answer_of, fresh_samples
from talktune.learner.preference import WINDOW, Answer, Preference, Reading, learn_preference, read_answers
from talktune.learner.probe import Prompt, probe
from talktune.learner.samples import prompt_ids, wanted_ids
from talktune.policy.adapter import adapter_off
from talktune.policy.linear import ready_to_decode
from talktune.policy.sample import sample_answers
from talktune.policy.turnstile import Lane
from talktune.policy.view import decoder_layers
from talktune.types import Sample, Sampled, Turn

log = logging.getLogger(__name__)
ROWS = 32
"""Answers that are sampled side by side."""
PROMPT_TOKENS, ALL_TOKENS = 512, 8192
"""Prompts that are read at once, and all that is kept of such answers: one bounds the time of a layer, the other
memory."""
PROBED = 12
"""Disliked turns of an update that are asked with and without their complaint, for `--distill auto`."""
WANTED = 32
"""Wanted answers that are fitted, the latest ones."""
READ_AT_ONCE = 4
"""Answers that are read at once, as many as a judge reads."""


class Part(NamedTuple):
    """Copies of one prompt that are sampled together."""

    temperature: float
    prompt: Prompt
    number: int
    """Among the parts of this prompt: so many copies as memory allows are one."""


class Asker:
    """Reads the answers of judged turns, and samples new answers to their prompts."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        end_ids: Collection[int],
        *,
        config: FreshConfig,
        max_tokens: int,
        probes: bool = False,
        lane: Lane | None = None,
    ) -> None:
        """`max_tokens` of prompt and answer; with a `lane`, in its turn only.

        `probes` asks at each update whether complaints make better answers, for `--distill auto`.
        """
        self._model, self._tokenizer, self._ends, self._config = model, tokenizer, end_ids, config
        self._probes = probes
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._room = min(max_tokens, room or inf)
        self._lane = nullcontext() if lane is None else lane
        self._pass_by = (lambda: None) if lane is None else lane.pass_by
        self._read_wanted: dict[Answer, Reading] = {}

    def read(self, turns: Sequence[Turn], samples: Sequence[Sample]) -> list[Reading]:
        """Readings of judged turns, one for each sample."""
        told = [Sampled(s.prompt_ids, s.answer_ids, None, s.temperature) for s in samples]
        with self._lane:
            return self._read(self._answers(turns, told))

    def learn(self, readings: Sequence[Reading], labels: Sequence[float], turns: Sequence[Turn] = ()) -> Preference:
        """Fit the preference model on judged turns, oldest first; in `turns` a person said what they wanted."""
        with self._lane:
            wanted = self._wanted(turns[-WANTED:])
            return learn_preference(readings, labels, pass_by=self._pass_by, wanted=wanted)

    def _wanted(self, turns: Sequence[Turn]) -> list[Reading]:
        """Readings of wanted answers, kept while they are wanted.

        Each is read alone, so that it is the same to the last bit whatever else is to be read.
        """
        answers = [one for turn in turns if (one := self._wanted_answer(turn)) is not None]
        self._read_wanted = {one: self._read_wanted.get(one) or self._read([one])[0] for one in answers}
        return [*self._read_wanted.values()]

    def _wanted_answer(self, turn: Turn) -> Answer | None:
        ids = wanted_ids(turn, self._tokenizer)
        if ids is None or turn.wanted is None:
            return None
        prompt = prompt_ids(turn, self._tokenizer)
        if len(prompt) + len(ids) > self._room:
            return None
        return Answer(prompt, ids, turn.prompt[-1].content if turn.prompt else "", turn.wanted.strip(), ended=True)

    def ask(
        self, turns: Sequence[Turn], samples: Sequence[Sample], preference: Preference, seed: str
    ) -> tuple[list[Sample], dict[str, float]]:
        """Fresh samples for the update over these turns, and the metrics of these samples.

        They are sampled as the turns were: at the temperature of each, and no longer than the longest of them.
        """
        most = max((len(sample.answer_ids) for sample in samples), default=0)
        metrics = {"trust": preference.trust, "gain": preference.gain, "fresh_answers": 0.0}

        def sample(asked: Sequence[Ask]) -> list[Sampled]:
            metrics["fresh_answers"] = float(len(asked))
            metrics["fresh_guided"] = float(sum(ask.guided for ask in asked))
            prompts = [ask.prompt_ids for ask in asked]
            return self._sample(prompts, [samples[ask.place].temperature for ask in asked], most, seed)

        def score(answers: Sequence[Answer]) -> list[float]:
            return self._score(preference, answers)

        fresh = fresh_samples(
            turns, preference.trust, sample, score, self._tokenizer, self._ends,
            count=self._config.fresh_answers, guided=self._config.guided, longest=self._room - most,
        )  # fmt: skip
        if self._probes:
            metrics["complaints_help"] = float(self._helps(turns, samples, preference, seed))
        return fresh, metrics | {"fresh_learned": float(len(fresh))}

    def _helps(self, turns: Sequence[Turn], samples: Sequence[Sample], preference: Preference, seed: str) -> bool:
        """Whether the bare model answers better once it has read the complaint; never without trust in who says so."""
        if preference.trust <= 0 or not samples:
            return False
        most = max(len(sample.answer_ids) for sample in samples)

        def sample(prompts: Sequence[Prompt]) -> list[Sampled]:
            return self._sample(prompts, [samples[0].temperature] * len(prompts), most, f"{seed}/probe", bare=True)

        def score(asked: Sequence[Turn], drawn: Sequence[Sampled]) -> list[float]:
            return self._score(preference, self._answers(asked, drawn))

        finding = probe(
            turns, self._tokenizer, sample, score,
            seed=_seed(seed), most=PROBED, copies=2, longest=self._room - most,
        )  # fmt: skip
        log.info("%s", finding)
        return finding.helps

    def _answers(self, turns: Sequence[Turn], drawn: Sequence[Sampled]) -> list[Answer]:
        return [answer_of(t, one, self._tokenizer, self._ends) for t, one in zip(turns, drawn, strict=True)]

    def _score(self, preference: Preference, answers: Sequence[Answer]) -> list[float]:
        with self._lane:
            return preference.rewards(self._read(answers), self._pass_by)

    def _read(self, answers: Sequence[Answer]) -> list[Reading]:
        parts = [answers[i : i + READ_AT_ONCE] for i in range(0, len(answers), READ_AT_ONCE)]
        return [reading for part in parts for reading in read_answers(self._model, part)]

    def _sample(
        self, asked: Sequence[Prompt], temperatures: Sequence[float], most: int, seed: str, *, bare: bool = False
    ) -> list[Sampled]:
        """One answer to each prompt, what is drawn a function of the seed and of what is asked; `bare`: no adapter."""
        places: dict[Part, list[int]] = {}
        counts: Counter[tuple[float, Prompt]] = Counter()
        for i, (prompt, temperature) in enumerate(zip(asked, temperatures, strict=True)):
            copies = max(1, min(ROWS, ALL_TOKENS // (len(prompt) + most)))
            part = Part(temperature, prompt, counts[temperature, prompt] // copies)
            places.setdefault(part, []).append(i)
            counts[temperature, prompt] += 1
        found: dict[int, Sampled] = {}
        cpu = next(self._model.parameters()).device.type == "cpu"
        # Elsewhere a second copy of the weights may not fit. It is made before the lane is taken: it has no layers.
        with (
            adapter_off(self._model) if bare else nullcontext(),
            ready_to_decode(self._model, ROWS) if cpu else nullcontext(),
            self._lane,
        ):
            for number, (copies, parts) in enumerate(_pieces(places, most)):
                drawn = sample_answers(
                    self._model,
                    [part.prompt for part in parts],
                    SampleConfig(temperature=parts[0].temperature, max_new_tokens=most),
                    end_ids=self._ends,
                    seed=_seed(f"{seed}/{number}"),
                    copies=copies,
                    merge=False,
                )
                found |= dict(zip((i for part in parts for i in places[part]), drawn, strict=True))
        return [found[i] for i in range(len(asked))]


def make_asker(
    model: Any, tokenizer: Any, end_ids: Collection[int], config: Config, lane: Lane | None = None
) -> Asker | None:
    """The asker of a config; None where fresh answers are off, or the model cannot read answers, which is said."""
    fresh, probes = config.fresh, config.algorithm.distill == "auto"
    if fresh is None or fresh.fresh_answers == 0:
        if probes:
            log.warning("--distill auto is off: without --fresh-answers nobody says whether complaints help.")
        return None
    if not isinstance(model, PeftModel):
        log.warning("--fresh-answers is off: with rank 0 no frozen model is kept to read answers with.")
        return None
    if decoder_layers(model) is None:
        log.warning("--fresh-answers is off: the model %s has no list of its layers.", type(model).__name__)
        return None
    return Asker(model, tokenizer, end_ids, config=fresh, max_tokens=config.train.max_tokens, probes=probes, lane=lane)


class Logged:
    """Makes the fresh answers of a run over logged turns, which were judged long ago."""

    def __init__(self, asker: Asker, plan: Sequence[Sequence[Sample]], turns: Mapping[str, Turn], seed: int) -> None:
        """`plan` are the samples of each update, `turns` what they were made of, by their ids."""
        self._asker, self._plan, self._turns, self._seed = asker, plan, turns, seed
        self._readings: dict[str, Reading] = {}
        """Of the last turns, oldest first: no more are learned from."""
        self._read = 0

    def __call__(self, update: int) -> tuple[list[Sample], dict[str, float]]:
        """Those of update n (from 1), and its metrics of them; a resumed run reads the turns before it again."""
        seen = {sample.id: sample for batch in self._plan[:update] for sample in batch}
        last = {id: seen[id] for id in [*seen][-WINDOW:]}
        for batch in self._plan[self._read : update]:  # by whole batches, so that a resumed run reads the same bits
            new = [sample for sample in batch if sample.id not in self._readings]
            if any(sample.id in last for sample in new):
                found = self._asker.read([self._turns[sample.id] for sample in new], new)
                self._readings |= {sample.id: reading for sample, reading in zip(new, found, strict=True)}
        self._read = update
        self._readings = {id: self._readings[id] for id in last}
        batch = self._plan[update - 1]
        wanted = [turn for id in last if (turn := self._turns[id]).wanted is not None]
        rewards = [sample.reward for sample in last.values()]
        preference = self._asker.learn([*self._readings.values()], rewards, wanted)
        return self._asker.ask([self._turns[s.id] for s in batch], batch, preference, f"{self._seed}/{update}")


def _pieces(places: Mapping[Part, Sequence[int]], most: int) -> Iterator[tuple[int, list[Part]]]:
    """Copies, and the parts that are sampled side by side: alike but for the prompt, alike lengths."""
    alike: dict[tuple[float, int], list[Part]] = {}
    for part, of in places.items():
        alike.setdefault((part.temperature, len(of)), []).append(part)
    for (_, copies), parts in alike.items():
        parts.sort(key=lambda part: len(part.prompt))
        piece: list[Part] = []
        for part in parts:  # rising lengths: the last is the longest
            n = len(piece) + 1
            full = n * copies > ROWS or n * len(part.prompt) > PROMPT_TOKENS
            if piece and (full or n * copies * (len(part.prompt) + most) > ALL_TOKENS):
                yield copies, piece
                piece = []
            piece.append(part)
        yield copies, piece


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
