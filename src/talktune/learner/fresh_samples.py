"""Makes training samples of fresh answers to the prompts of judged turns, with the rewards that are predicted for them.

Open it to see which prompts are asked again, and what a fresh answer weighs.

judged turns -> prompts, some with the complaint before them -> answers -> readings -> rewards -> samples
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from math import inf
from typing import Any, NamedTuple

from talktune.errors import UserError
from talktune.learner.hindsight import teacher_prompt
from talktune.learner.preference import Answer
from talktune.learner.samples import prompt_ids, sample_of_answer
from talktune.policy.tokens import decode_answer
from talktune.rl.advantage import pooled_advantages
from talktune.types import Sample, Sampled, Turn


class Ask(NamedTuple):
    """One request for a fresh answer."""

    place: int
    """Of the turn whose prompt is asked again."""
    prompt_ids: tuple[int, ...]
    guided: bool
    """Whether the complaint is among them, before what was said last."""


def fresh_prompts(turns: Sequence[Turn], tokenizer: Any, count: int, guided: int, longest: float = inf) -> list[Ask]:
    """Each prompt `count` times; where the turn was disliked in words, `guided` of these have the complaint before the
    question.

    Prompts of more than `longest` tokens, and those that the template cannot say, are not asked.
    """
    asked: list[Ask] = []
    for place, turn in enumerate(turns):
        try:
            plain = prompt_ids(turn, tokenizer)
        except UserError:
            continue
        if len(plain) > longest:
            continue
        told = teacher_prompt(turn, plain, tokenizer) if guided else None
        helped = guided if told is not None and len(told) <= longest else 0
        asked += [Ask(place, plain, guided=False)] * (count - helped)
        asked += [Ask(place, told or (), guided=True)] * helped
    return asked


def answer_of(turn: Turn, sampled: Sampled, tokenizer: Any, ends: Collection[int]) -> Answer:
    """One answer to the turn's prompt, in the form that the preference model reads."""
    return Answer(
        prompt_ids(turn, tokenizer),
        sampled.answer_ids,
        turn.prompt[-1].content if turn.prompt else "",
        decode_answer(tokenizer, list(sampled.answer_ids)).strip(),
        bool(sampled.answer_ids) and sampled.answer_ids[-1] in ends,
    )


def fresh_samples(
    turns: Sequence[Turn],
    trust: float,
    sample: Callable[[Sequence[Ask]], Sequence[Sampled]],
    score: Callable[[Sequence[Answer]], Sequence[float]],
    tokenizer: Any,
    ends: Collection[int],
    *,
    count: int,
    guided: int = 0,
    longest: float = inf,
    learned: float = 0.5,
) -> list[Sample]:
    """Fresh answers to the prompts of `turns`; the reward of each is its advantage as one term of an update.

    `sample` draws at the temperature and up to the length of the real turns, `score` says what answers would earn.

    Each of them counts as much as a real turn, times the trust. Answers to one prompt are a group. The share
    `learned` of them whose advantages are largest is returned: the others would cost as much and say little
    (down-sampling of rollouts, arXiv 2504.13818). Nothing is sampled without trust. A guided answer counts as one
    to the plain prompt; its old log-probs are recomputed, since another prompt drew it.
    """
    asked = fresh_prompts(turns, tokenizer, count, guided, longest) if trust > 0 else []
    if not asked:
        return []
    drawn = sample(asked)
    answers = [answer_of(turns[ask.place], one, tokenizer, ends) for ask, one in zip(asked, drawn, strict=True)]
    advantages = pooled_advantages(score(answers), [ask.place for ask in asked]).tolist()
    order = sorted(range(len(asked)), key=lambda i: -abs(advantages[i]))
    chosen = sorted(order[: round(learned * len(order))])
    weight = trust * len(chosen) / len(turns)  # a term is a mean: of so many more answers
    made: list[Sample] = []
    for i in chosen:
        place, _, helped = asked[i]
        one = replace(drawn[i], prompt_ids=answers[i].prompt_ids, logprobs=None) if helped else drawn[i]
        turn = turns[place]
        name = turn.id
        reward = weight * advantages[i]
        made.append(sample_of_answer(one, id=f"{name}/{i}", reward=reward, group=name))
    return [one for one in made if one.reward]
