"""The judge that needs no server: a causal language model here, by default with a small verdict head.

Open it to see the three ways in which it judges.

Modes: `head` (voters on hidden states, one pass for all votes), `logprobs` (verdict words after worked examples,
another order of them for each vote), `reasoning` (a sampled text that ends in a boxed score).
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from talktune.config import SampleConfig
from talktune.errors import UserError
from talktune.judge.boxed import boxed_messages, parse_boxed
from talktune.judge.complaints import with_complaints
from talktune.judge.exchange import WORDS, Exchange, ask_tokens, encode, exchange_of, few_shot_tokens
from talktune.judge.head import SHIPPED_HEAD, check_model, head_probabilities, load_head
from talktune.policy.adapter import adapter_off
from talktune.policy.load import SHIPPED, Policy
from talktune.policy.sample import sample_answers
from talktune.policy.tokens import decode_answer, end_ids, render_prompt
from talktune.policy.turnstile import Lane
from talktune.rl.votes import LABELS
from talktune.types import Message, Role, Sampled, Turn, Vote

REMEMBERED = 4096
"""Exchanges whose probabilities are kept: votes are asked for in rounds, and one pass serves them all."""
ORDERS = 5
"""Orders of the worked examples that the distribution of `logprobs` is the mean of."""
AT_ONCE = 8
"""Exchanges of one forward pass over verdict words."""
REASONING = SampleConfig(temperature=0.7, max_new_tokens=256)

Mode = Literal["head", "logprobs", "reasoning"]
Sampler = Callable[[Sequence[Sequence[int]], SampleConfig, Collection[int], Sequence[int]], Sequence[Sampled]]
"""Prompts, how to sample, the ids that end an answer, and a seed for each prompt -> an answer to each."""


class LocalJudge:
    """Judges with a policy's model, an adapter being off meanwhile: one base model serves policy and judge.

    Vote k of mode `head` is that of voter k; of `logprobs`, that of the k-th order of worked examples; of
    `reasoning`, the k-th sampled text. No judgement depends on what is judged beside it, beyond float noise.

    >>> judge = LocalJudge()  # the shipped model with the shipped head
    >>> turns = score(load_conversations("examples/conversations.jsonl")[:1], judge)
    >>> turns[1].next_state[-1].content, turns[1].verdict.reward
    ('Good to know, thanks!', 1.0)
    """

    name = "local"

    def __init__(
        self,
        policy: Policy | str = SHIPPED,
        *,
        head: Path | str | None = None,
        mode: Mode = "head",
        seed: int = 0,
        lane: Lane | None = None,
        sample: Sampler | None = None,
    ) -> None:
        """Make a judge of a policy, or of a model by its name.

        `head` is the shipped one for `smollm2` by default; `seed` is that of sampled reasoning. With a `lane` it
        computes in its turn only, and lets others compute first between two layers of the model; with `sample` its
        reasoning is sampled by that. Raises UserError for a head that cannot be read or was made for another model.
        """
        if mode not in ("head", "logprobs", "reasoning"):
            raise UserError(f"judge_mode is {mode!r}: choose head, logprobs or reasoning.")
        if isinstance(policy, str):
            policy = Policy.load(policy)
        self.model = model = policy.model
        self.tokenizer: Any = policy.tokenizer
        self.mode: Mode = mode
        self.seed = seed
        self.head = None
        if mode == "head":
            path = SHIPPED_HEAD if head is None else Path(head)
            self.head = load_head(path)
            check_model(self.head, model, path)
        self._lane = nullcontext() if lane is None else lane
        if lane is not None:
            lane.stop_between_layers(model)
        self._sample = sample or self._sample_here
        self._known: OrderedDict[tuple[Exchange, int], tuple[float, ...]] = OrderedDict()
        self._shots: dict[int, _Shots] = {}

    def vote(self, asks: Sequence[tuple[Turn, int]]) -> list[Vote]:
        """One vote for each (turn, vote number), in the same order.

        Raises UserError for a vote number that the head has no voter for.
        """
        if self.mode == "reasoning":
            return self._reason(asks)
        if self.head is not None and asks and (most := max(k for _, k in asks)) >= self.head.voters:
            raise UserError(
                f"votes is {most + 1} or more, but this verdict head has {self.head.voters} voters: "
                f"ask for at most {self.head.voters} votes."
            )
        return [_vote(probs) for probs in self._probabilities([(exchange_of(turn), k) for turn, k in asks])]

    def distribution(self, turns: Sequence[Turn]) -> list[tuple[float, float, float] | None]:
        """(p(−1), p(0), p(+1)) of each turn, the mean over the voters; `None` in mode `reasoning`, which has none."""
        if self.mode == "reasoning":
            return [None] * len(turns)
        voters = ORDERS if self.head is None else self.head.voters
        probs = self._probabilities([(exchange_of(turn), k) for turn in turns for k in range(voters)])
        means = [torch.tensor(probs[i * voters : (i + 1) * voters]).mean(0) for i in range(len(turns))]
        return [(float(mean[0]), float(mean[1]), float(mean[2])) for mean in means]

    def _probabilities(self, asked: Sequence[tuple[Exchange, int]]) -> list[tuple[float, ...]]:
        new = list(dict.fromkeys(ask for ask in asked if ask not in self._known))
        found = self._by_head(new) if self.head is not None else self._by_words(new)
        # What this call needs must outlive the limit on what is remembered.
        at_hand = {ask: self._known[ask] for ask in asked if ask in self._known} | found
        self._known.update(found)
        while len(self._known) > REMEMBERED * (self.head.voters if self.head is not None else ORDERS):
            self._known.popitem(last=False)
        return [at_hand[ask] for ask in asked]

    def _by_head(self, asked: Sequence[tuple[Exchange, int]]) -> dict[tuple[Exchange, int], tuple[float, ...]]:
        assert self.head is not None
        read = partial(head_probabilities, self.head, self.model, self.tokenizer)
        exchanges = list(dict.fromkeys(exchange for exchange, _ in asked))
        if not exchanges:
            return {}
        with self._lane:
            probs = with_complaints(read(exchanges), exchanges, read).tolist()
        return {
            (exchange, k): tuple(row[k])
            for exchange, row in zip(exchanges, probs, strict=True)
            for k in range(self.head.voters)
        }

    def _by_words(self, asked: Sequence[tuple[Exchange, int]]) -> dict[tuple[Exchange, int], tuple[float, ...]]:
        found: dict[tuple[Exchange, int], tuple[float, ...]] = {}
        for k in sorted({k for _, k in asked}):
            with self._lane, adapter_off(self.model):
                if k not in self._shots:
                    self._shots[k] = _Shots(self.model, self.tokenizer, k)
                mine = [exchange for exchange, number in asked if number == k]
                for start in range(0, len(mine), AT_ONCE):
                    batch = mine[start : start + AT_ONCE]
                    for exchange, row in zip(batch, self._shots[k].probabilities(batch), strict=True):
                        found[exchange, k] = tuple(row)
        return found

    def _reason(self, asks: Sequence[tuple[Turn, int]]) -> list[Vote]:
        prompts: list[list[int]] = []
        seeds: list[int] = []
        for turn, k in asks:
            messages = [Message(cast(Role, message["role"]), message["content"]) for message in boxed_messages(turn)]
            prompts.append(render_prompt(self.tokenizer, messages))
            key = f"{self.seed} {k} {' '.join(map(str, prompts[-1]))}"  # what else is judged does not change a vote
            seeds.append(int.from_bytes(blake2b(key.encode(), digest_size=7).digest()))
        ends = end_ids(self.tokenizer, getattr(self.model, "generation_config", None))
        votes: list[Vote] = []
        for sampled in self._sample(prompts, REASONING, ends, seeds):
            text = decode_answer(self.tokenizer, sampled.answer_ids)
            label = parse_boxed(text)
            reason = text.strip() if label is not None else "the reasoning did not end in one boxed score"
            votes.append(Vote(label, judge=self.name, reason=reason))
        return votes

    def _sample_here(
        self, prompts: Sequence[Sequence[int]], how: SampleConfig, ends: Collection[int], seeds: Sequence[int]
    ) -> list[Sampled]:
        found: list[Sampled] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            with self._lane, adapter_off(self.model):
                found += sample_answers(self.model, [prompt], how, end_ids=ends, seed=seed)
        return found


class _Shots:
    """One order of the worked examples, read once: its KV cache, and what an empty reaction gets after it."""

    def __init__(self, model: Any, tokenizer: Any, order: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = next(model.parameters()).device
        self.words = [encode(tokenizer, WORDS[label])[0] for label in LABELS]
        if len(set(self.words)) < len(LABELS):
            raise UserError("The judge model's tokenizer cannot tell the verdict words apart: use mode head.")
        prefix = few_shot_tokens(tokenizer, order)
        self.length = len(prefix)
        self.cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            ids = torch.tensor([prefix], device=self.device)
            model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.empty = {
            role: self._scores([Exchange("", "", role, "")])[0] for role in ("user", "tool")
        }  # contextual calibration: arXiv 2102.09690

    def probabilities(self, exchanges: Sequence[Exchange]) -> list[list[float]]:
        """softmax(log-probs of the verdict words − those after an empty reaction), for each exchange."""
        scores = self._scores(exchanges)
        empty = torch.stack([self.empty["tool" if e.role == "tool" else "user"] for e in exchanges])
        return (scores - empty).softmax(dim=-1).tolist()

    @torch.inference_mode()
    def _scores(self, exchanges: Sequence[Exchange]) -> Tensor:
        """(B, 3) log-probs of the verdict words; rows are padded on the left, between prefix and exchange."""
        rows = [ask_tokens(self.tokenizer, exchange) for exchange in exchanges]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=self.device)
        mask = torch.tensor(
            [[1] * self.length + [0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.device
        )
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(len(rows))
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1)[:, self.length :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits.double().log_softmax(dim=-1)[:, self.words].cpu()


def _vote(probs: tuple[float, ...]) -> Vote:
    best = max(range(len(LABELS)), key=lambda i: probs[i])
    return Vote(LABELS[best], confidence=probs[best], judge=LocalJudge.name)
