"""Fresh answers: the prompts of judged turns are asked again, and the preference model says what they would earn.

judged turns -> prompts, some with the complaint before them -> answers -> readings -> rewards -> samples
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from talktune.learner.hindsight import reaction_of, with_reaction
from talktune.learner.preference import Answer, Preference, read_answers
from talktune.learner.samples import Sampler, prompt_ids, sample_of_answer
from talktune.policy.tokens import decode_answer, render_prompt
from talktune.rl.advantage import pooled_advantages
from talktune.types import Message, Sample, Sampled, Turn


def fresh_prompts(
    turns: Sequence[Turn], tokenizer: Any, count: int, guided: int
) -> list[tuple[int, tuple[int, ...], bool]]:
    """What to ask: the turn's place, the ids to sample from, and whether the complaint is among them.

    Every prompt is asked `count` times; where the turn was disliked, `guided` of them with the user's words before it.
    """
    asked: list[tuple[int, tuple[int, ...], bool]] = []
    for place, turn in enumerate(turns):
        plain = prompt_ids(turn, tokenizer)
        with_help = guided_prompt(turn)
        helped = guided if with_help is not None else 0
        asked += [(place, plain, False)] * (count - helped)
        if with_help is not None and helped:
            asked += [(place, tuple(render_prompt(tokenizer, with_help, turn.tools)), True)] * helped
    return asked


def guided_prompt(turn: Turn) -> tuple[Message, ...] | None:
    """The prompt with the user's complaint before what they said last; None where there was no complaint."""
    reaction = reaction_of(turn)
    if reaction is None or not turn.prompt or turn.prompt[-1].role != "user":
        return None
    return with_reaction(turn.prompt, reaction)


def answer_of(turn: Turn, sampled: Sampled, tokenizer: Any, ends: Collection[int]) -> Answer:
    """One answer to the turn's prompt, to be read."""
    return Answer(
        prompt_ids(turn, tokenizer),
        sampled.answer_ids,
        turn.prompt[-1].content if turn.prompt else "",
        decode_answer(tokenizer, list(sampled.answer_ids)).strip(),
        sampled.answer_ids[-1] in ends,
    )


def fresh_samples(
    turns: Sequence[Turn],
    preference: Preference,
    sample: Sampler,
    model: Any,
    tokenizer: Any,
    ends: Collection[int],
    *,
    count: int,
    guided: int = 0,
    learned: float = 0.5,
) -> list[Sample]:
    """Fresh answers to the prompts of `turns`; the reward of each is its advantage as one term of an update.

    `sample` draws at the temperature and up to the length of the real turns.

    Each of them counts as much as a real turn, times the trust. Answers to one prompt are a group. The share
    `learned` of them whose advantages are largest is returned: the others would cost as much and say little
    (down-sampling of rollouts, arXiv 2504.13818). Nothing is sampled without trust. A guided answer counts as one
    to the plain prompt; its old log-probs are recomputed, since another prompt drew it.
    """
    if preference.trust <= 0:
        return []
    asked = fresh_prompts(turns, tokenizer, count, guided)
    drawn = sample([ids for _, ids, _ in asked])
    answers = [answer_of(turns[place], one, tokenizer, ends) for (place, _, _), one in zip(asked, drawn, strict=True)]
    rewards = preference.rewards(read_answers(model, answers))
    advantages = pooled_advantages(rewards, [place for place, _, _ in asked]).tolist()
    order = sorted(range(len(asked)), key=lambda i: -abs(advantages[i]))
    chosen = sorted(order[: round(learned * len(order))])
    weight = preference.trust * len(chosen) / len(turns)  # a term is a mean: of so many more answers
    made: list[Sample] = []
    for i in chosen:
        place, _, helped = asked[i]
        one = replace(drawn[i], prompt_ids=answers[i].prompt_ids, logprobs=None) if helped else drawn[i]
        turn = turns[place]
        name = f"{turn.conversation_id}:{turn.index}"
        reward = weight * advantages[i]
        made.append(sample_of_answer(one, id=f"{name}/{i}", reward=reward, group=name))
    return [one for one in made if one.reward]
