"""A prompt with the reaction in it: where it stands, who gets one, and what stays as it was sampled from."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from talktune.config import TrainConfig
from talktune.learner.hindsight import reaction_of, teacher_prompt, with_reaction
from talktune.learner.samples import samples_from
from talktune.policy.tokens import render_answer, render_prompt
from talktune.types import Message, Sampled, Turn, Verdict, Vote

BAD = Verdict((Vote(-1),), -1.0)
TURN = Turn(
    conversation_id="c",
    index=3,
    prompt=(
        Message("system", "Be kind."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Why?"),
    ),
    answer=Message("assistant", "So."),
    next_state=(Message("user", "Too short!"),),
    verdict=BAD,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


def test_the_reaction_stands_before_the_question_in_the_last_user_message() -> None:
    told = with_reaction((*TURN.prompt, Message("tool", "42")), " Too short!\n")
    assert told is not None
    assert told[3] == Message("user", "Too short!\n\nWhy?")
    assert (told[:3], told[4]) == (TURN.prompt[:3], Message("tool", "42"))
    assert with_reaction(TURN.prompt, " ") is None
    assert with_reaction(TURN.prompt[:1], "Too short!") is None


def test_only_what_a_user_said_of_a_disliked_answer_teaches() -> None:
    assert reaction_of(TURN) == "Too short!"
    two = replace(TURN, next_state=(*TURN.next_state, Message("user", "Really.")))
    assert reaction_of(two) == "Too short!\nReally."
    assert reaction_of(replace(TURN, verdict=Verdict((Vote(0),), 0.0))) is None
    assert reaction_of(replace(TURN, verdict=Verdict((Vote(None),), None))) is None
    assert reaction_of(replace(TURN, verdict=None)) is None
    assert reaction_of(replace(TURN, next_state=())) is None
    assert reaction_of(replace(TURN, next_state=(Message("tool", "error"),))) is None


def test_the_wanted_answer_is_the_hint_where_it_stands() -> None:
    wanted = replace(TURN, wanted="Since it rains.")
    assert reaction_of(wanted) == "Since it rains."
    assert reaction_of(replace(wanted, next_state=())) == "Since it rains."
    assert reaction_of(replace(wanted, verdict=Verdict((), 1.0))) is None
    for nothing in ("", " \n"):  # a slip on the page, or a file's: the reaction is still there
        assert reaction_of(replace(TURN, wanted=nothing)) == "Too short!"


def test_what_came_before_stays_as_it_was_sampled_from(tokenizer: PreTrainedTokenizerBase) -> None:
    plain = tuple(render_prompt(tokenizer, TURN.prompt))
    told = with_reaction(TURN.prompt, "Too short!")
    assert told is not None
    assert teacher_prompt(TURN, plain, tokenizer) == tuple(render_prompt(tokenizer, told))
    odd = (0, 0, *plain[5:])  # another start, as an engine's own template may write it
    found = teacher_prompt(TURN, odd, tokenizer)
    assert found is not None
    assert found[:20] == odd[:20]
    assert tokenizer.decode(found[20:]).endswith("user\nToo short!\n\nWhy?<|im_end|>\n<|im_start|>assistant\n")
    assert teacher_prompt(TURN, plain[:-1], tokenizer) is None  # another end: the gap would not be the reaction's
    assert teacher_prompt(replace(TURN, verdict=None), plain, tokenizer) is None


def test_samples_carry_it_where_it_is_wanted_and_fits(tokenizer: PreTrainedTokenizerBase) -> None:
    plain = tuple(render_prompt(tokenizer, TURN.prompt))
    turns = [
        TURN,
        replace(TURN, index=5, sampled=Sampled(plain, (9, 8, 2), (-1.0, -1.0, -1.0), 0.7)),
        replace(TURN, index=7, verdict=Verdict((Vote(1),), 1.0)),
        replace(TURN, index=9, next_state=(Message("user", "x" * 300),)),
    ]
    config = TrainConfig(max_tokens=300)
    intake = samples_from(turns, tokenizer, "batch", config, teach=True)
    assert [s.teacher_prompt_ids is not None for s in intake.samples] == [True, True, False, False]
    assert intake.taught == 2
    without = samples_from(turns, tokenizer, "batch", config)
    assert without.samples == [replace(s, teacher_prompt_ids=None) for s in intake.samples]
    assert without.taught == 0


def test_samples_carry_the_wanted_answer_as_the_model_would_give_it(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [replace(TURN, wanted=text) for text in (" Since it rains.\n", " ", None, "x" * 300, "<|im_end|>")]
    intake = samples_from(turns, tokenizer, "batch", TrainConfig(max_tokens=300))
    first, *others = [sample.wanted_ids for sample in intake.samples]
    assert first == tuple(render_answer(tokenizer, TURN.prompt, Message("assistant", "Since it rains.")))
    assert tokenizer.decode(first) == "Since it rains.<|im_end|>"
    assert others == [None] * 4, "nothing, what is too long, and what no answer can say"
    assert intake.as_dict()["wanted"] == 1
    assert [replace(s, wanted_ids=None) for s in intake.samples] == [intake.samples[1]] * 5
