"""What notebooks and commands call: judges of every kind, scoring that goes on, corrections that count."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import talktune
from talktune import (
    Conversation,
    FreshConfig,
    JudgeConfig,
    Message,
    ModelConfig,
    Policy,
    Run,
    SampleConfig,
    TrainConfig,
    Turn,
    UserError,
)
from talktune.types import Vote

QUICK = TrainConfig(updates=2, batch_turns=3, learning_rate=0.05)
GREEDY = SampleConfig(temperature=0.0, max_new_tokens=8)


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    said = ("Question?", "ab" * 5, "ok", "cd" * 4, "thanks")
    roles = ("user", "assistant", "user", "assistant", "user")
    return [
        Conversation(f"c{i}", tuple(Message(role, f"{text} {i}") for role, text in zip(roles, said, strict=True)))
        for i in range(4)
    ]


def by_length(turn: Turn) -> int | None:
    """Cannot say anything of the last conversation."""
    return None if turn.conversation_id == "c3" else 1 if turn.answer.content.startswith("cd") else -1


@pytest.fixture(scope="module")
def run(conversations: list[Conversation], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("api") / "run"
    return train(talktune.score(conversations, by_length, votes=1), output, tiny_model)


def train(turns: talktune.ScoredTurns, output: Path, model: Path) -> Run:
    return talktune.train(
        turns,
        output,
        model=ModelConfig(model=str(model), device="cpu", lora_rank=4),
        train=QUICK,
        fresh=FreshConfig(fresh_answers=0),
    )


class Slow:
    """A judge that is interrupted after so many turns."""

    name = "slow"

    def __init__(self, turns: int) -> None:
        self.left = turns
        self.asked: list[str] = []

    def vote(self, asks: Sequence[tuple[Turn, int]]) -> list[Vote]:
        for turn, _ in asks:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.asked.append(turn.id)
        return [Vote(1, judge=self.name) for _ in asks]


def test_scoring_goes_on_where_it_was_interrupted(
    conversations: list[Conversation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("talktune.api.score.HANDFUL", 2)
    file = tmp_path / "scored.jsonl"
    with pytest.raises(KeyboardInterrupt):
        talktune.score(conversations, Slow(5), votes=1, output=file)
    later = Slow(99)
    told: list[tuple[str, int, int]] = []
    turns = talktune.score(
        conversations, later, votes=1, output=file, on_progress=lambda *how_far: told.append(how_far)
    )
    assert later.asked == ["c2:1", "c2:3", "c3:1", "c3:3"]
    assert [turn.verdict.reward for turn in turns if turn.verdict] == [1.0] * 8
    assert told[-1] == ("judging conversations", 4, 4)
    assert talktune.load_conversations(file) == turns.conversations
    again = Slow(0)
    assert list(talktune.score(turns, again)) == list(turns), "nothing is left to ask"


def test_votes_are_those_that_were_asked_for(conversations: list[Conversation]) -> None:
    failing = talktune.score(conversations[:1], lambda turn: None, votes=3)
    assert [len(turn.verdict.votes) for turn in failing if turn.verdict] == [2, 2], "two failed of three: no quorum"
    assert len(failing.waiting()) == 2
    options = JudgeConfig(judge="tests.nothing:judge", votes=1)
    with pytest.raises(UserError, match=r"tests\.nothing"):
        talktune.score(conversations, options)
    with pytest.raises(UserError, match="--votes is 0"):
        talktune.score(conversations, by_length, votes=0)


def test_a_correction_counts_and_leaves_what_was_there(conversations: list[Conversation], tmp_path: Path) -> None:
    turns = talktune.score(conversations, by_length, votes=1)
    better = turns.corrected(turns[0], 1)
    verdicts = [turn.verdict for turn in (turns[0], better[0])]
    assert [verdict.reward for verdict in verdicts if verdict] == [-1.0, 1.0]
    assert verdicts[0] is not None
    assert better[0].verdict == replace(verdicts[0], reward=1.0), "the votes stay"
    assert list(better)[1:] == list(turns)[1:]
    better.save(tmp_path / "better.jsonl")
    assert talktune.load_conversations(tmp_path / "better.jsonl") == better.conversations
    with pytest.raises(UserError, match="there is no turn c9:1"):
        turns.corrected("c9:1", 1)


def test_training_learns_from_the_turns_as_they_are(
    conversations: list[Conversation], run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    turns = talktune.score(conversations, by_length, votes=1)
    for turn in turns:
        if turn.verdict is not None and turn.verdict.reward is not None:
            turns = turns.corrected(turn, -turn.verdict.reward)
    other = train(turns, tmp_path / "other", tiny_model)
    assert [one["reward_mean"] for one in other.metrics] == [-one["reward_mean"] for one in run.metrics]
    assert not (run.path / "scored.jsonl").exists(), "nobody was asked again"
    assert (run.summary["turns"]["unscored"], run.summary["turns"]["trained"]) == (2, 6)
    with pytest.raises(UserError, match="already exists"):
        train(turns, run.path, tiny_model)


def test_a_run_says_what_it_learned(run: Run, tiny_model: Path) -> None:
    assert [one["update"] for one in run.metrics] == [1, 2]
    assert run.policy is run.policy, "loaded once"
    assert run.policy.adapted
    assert run.plot()._repr_png_()[:4] == b"\x89PNG"  # type: ignore[attr-defined]
    answers = talktune.evaluate(run.policy, ["Question? 1", [Message("user", "Who?")]], sample=GREEDY)
    bare = Policy.load(str(tiny_model), device="cpu")
    assert [one.before for one in answers] == [bare.answer(one.prompt, sample=GREEDY) for one in answers]
    assert [one.after for one in answers] == [run.policy.answer(one.prompt, sample=GREEDY) for one in answers]
    assert any(one.before != one.after for one in answers)
    with pytest.raises(UserError, match="no adapter"):
        talktune.evaluate(bare, ["Who?"])
    with pytest.raises(UserError, match="no prompt"):
        talktune.evaluate(run.policy, [])


def test_an_exported_policy_is_a_model_for_transformers(run: Run, tmp_path: Path) -> None:
    import torch

    run.policy.export(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, run.policy.model(ids).logits, atol=1e-5)
        with run.policy.model.disable_adapter():
            assert not torch.allclose(model(ids).logits, run.policy.model(ids).logits, atol=1e-3)
    prompt = [{"role": "user", "content": "Who?"}]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.apply_chat_template(prompt) == run.policy.tokenizer.apply_chat_template(prompt)
    with pytest.raises(UserError, match="already exists"):
        run.policy.export(tmp_path / "model")


def test_a_run_of_all_weights_says_so(run: Run) -> None:
    whole = replace(run, config={"model": {"lora_rank": 0}})
    with pytest.raises(UserError, match="whole model"):
        _ = whole.policy


def test_a_line_that_cannot_be_used_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    line = '{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}'
    file.write_text(f"{line}\nno JSON\n")
    said: list[str] = []
    assert len(talktune.load_conversations([file], say=said.append)) == 1
    assert "line 2" in said[0]
    with pytest.raises(UserError, match="line 2"):
        talktune.load_conversations(str(file), strict=True)


def test_a_judge_that_is_a_word_is_no_judge(conversations: list[Conversation]) -> None:
    with pytest.raises(UserError, match="JudgeConfig"):
        talktune.score(conversations, "endpoint")  # pyright: ignore[reportArgumentType]
