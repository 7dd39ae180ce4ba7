"""The gate's arithmetic: what is held against what, and what counts as noise."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.config import GateConfig
from talktune.errors import UserError
from talktune.learner.gate import Measures, Preference, objections, preference, read_probes
from talktune.learner.texts import repetition, says

BASE = Measures(
    facts=(True,) * 20 + (False,) * 4,
    ended=(True,) * 8,
    tokens=50.0,
    repetition=0.05,
    distinct=1.0,
    empty=0.0,
    kl=0.0,
)
LIMITS = GateConfig()


def against(candidate: Measures, live: Measures = BASE, judged: Preference | None = None) -> list[str]:
    return objections(candidate, live, BASE, judged, LIMITS)


def test_the_same_again_may_go_live() -> None:
    assert against(BASE) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"facts": (True,) * 15 + (False,) * 9}, "facts: 15 of 20"),
        ({"kl": 1.6}, "KL to the base model 1.60"),
        ({"kl": float("nan")}, "KL"),
        ({"tokens": 80.0}, "length 80"),
        ({"tokens": 4.0}, "length 4"),
        ({"repetition": 0.2}, "repetition 0.20"),
        ({"distinct": 0.5}, "only 50%"),
        ({"empty": 0.25}, "25% of its answers are empty"),
        ({"ended": (False,) * 8}, "8 lost and 0 gained"),
    ],
)
def test_each_limit_names_itself(change: dict[str, object], word: str) -> None:
    [reason] = [r for r in against(replace(BASE, **change)) if word in r]  # type: ignore[arg-type]
    assert reason


def test_a_few_facts_lost_are_noise_and_many_are_not() -> None:
    few = replace(BASE, facts=(False,) * 3 + (True,) * 21)
    assert against(few) == []
    live = replace(BASE, facts=(True,) * 24)
    worse = replace(BASE, facts=(True,) * 18 + (False,) * 6)
    assert any("6 lost and 0 gained" in reason for reason in against(worse, live))


def test_what_is_lost_little_by_little_is_held_against_the_base_model() -> None:
    def ending(count: int) -> Measures:
        return replace(BASE, ended=(True,) * count + (False,) * (8 - count))

    assert against(ending(6), ending(7)) == []
    assert against(ending(5), ending(6)) == ["5 answers end by themselves, wanted 6 (the base model: 8)"]


def test_ends_that_only_learning_has_brought_may_go_again() -> None:
    """The base model ends 23 of 32 answers, the live one, grown short, all: longer ones are not thereby endless."""
    base = replace(BASE, ended=(True,) * 23 + (False,) * 9)
    live = replace(BASE, ended=(True,) * 32)
    assert objections(base, live, base, None, LIMITS) == []
    worse = replace(BASE, ended=(True,) * 18 + (False,) * 5 + (True,) * 9)
    assert objections(worse, live, base, None, LIMITS) == [
        "answers that end by themselves: 5 lost and 0 gained against the live version"
    ]


def test_the_judge_counts_beyond_two_standard_errors() -> None:
    assert against(BASE, judged=Preference(-0.1, 0.06, 20)) == []
    assert any("moves away" in reason for reason in against(BASE, judged=Preference(-0.1, 0.04, 20)))


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-2, 2)), min_size=8, max_size=40))
def test_preference_has_the_sign_of_what_moved(pairs: list[tuple[float, float]]) -> None:
    rewards, gains = [r for r, _ in pairs], [g for _, g in pairs]
    found = preference(rewards, gains)
    if len(set(rewards)) == 1:
        assert found is None
        return
    assert found is not None
    mirrored = preference(rewards, [-g for g in gains])
    assert mirrored is not None
    assert mirrored.mean == pytest.approx(-found.mean)
    towards = preference(rewards, rewards)
    assert towards is not None
    assert towards.mean > 0


def test_too_few_verdicts_say_nothing() -> None:
    assert preference([1.0, -1.0] * 3, [0.1] * 6) is None


def test_texts() -> None:
    assert says("It is PARIS.", ["paris"])
    assert not says("Comparison", ["paris"])
    assert repetition("a b c d e f") == 0
    assert repetition("a b c a b c") == pytest.approx(0.25)
    assert repetition("") == 0


def test_shipped_probes() -> None:
    probes = read_probes(None)
    assert sum(bool(p.accepted) for p in probes) == 24
    assert sum(not p.accepted for p in probes) == 8


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("nonsense", "line 2"),
        ('["a"]', "no object"),
        ('{"prompt": "q", "answer": 3}', '"answer" is not a list of words'),
        ('{"answer": ["a"]}', "prompt"),
    ],
)
def test_a_bad_probe_is_named(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text(f'{{"prompt": "How are you?"}}\n{line}\n')
    with pytest.raises(UserError, match="line 2") as error:
        read_probes(path)
    assert what in str(error.value)


def test_probes_without_an_open_one(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text('{"prompt": "Capital of France?", "answer": "paris"}\n')
    with pytest.raises(UserError, match="no open probe"):
        read_probes(path)
