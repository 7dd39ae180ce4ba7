"""Many requests on one model: every answer is what it would be alone, whatever joins, leaves or waits beside it."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from talktune.config import ModelConfig, SampleConfig
from talktune.host.engine import Engine
from talktune.host.lora import Lora, load_lora
from talktune.host.sampling_request import SamplingRequest, Token
from talktune.policy.adapter import attach_adapter, load_adapter, save_adapter
from talktune.policy.load import load_policy
from talktune.policy.tokens import render_prompt
from talktune.policy.turnstile import Role
from talktune.types import Message

LONG = "Why is the sky blue, and what has that to do with sunsets in summer? " * 3


def fresh(model: Path | str) -> Any:
    return load_policy(ModelConfig(model=str(model), device="cpu"))


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Any:
    return fresh(tiny_model)


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters that matter, of different ranks."""
    paths: list[Path] = []
    for rank in (4, 8):
        model = attach_adapter(fresh(tiny_model).model, ModelConfig(lora_rank=rank), seed=rank)
        generator = torch.Generator().manual_seed(rank)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.2, generator=generator)
        paths.append(tmp_path_factory.mktemp("adapters") / f"policy-{rank}")
        save_adapter(model, paths[-1])
    return paths


class Heard:
    """A job, and what came back."""

    def __init__(
        self,
        prompt: list[int],
        tokens: int = 12,
        *,
        seed: int = 0,
        lora: Lora | None = None,
        stop: Callable[[Token], bool] = lambda _token: False,
        **sample: Any,
    ) -> None:
        self.tokens: list[Token] = []
        self.failure = ""
        self.stop = stop
        copies, ends, top = sample.pop("copies", 1), sample.pop("ends", ()), sample.pop("top", 0)
        self.job = SamplingRequest(
            tuple(prompt),
            SampleConfig(**{"max_new_tokens": tokens, "temperature": 0.7, **sample}),
            frozenset(ends),
            self.on_token,
            self.on_failure,
            copies=copies,
            seed=seed,
            lora=lora,
            top=top,
        )

    def on_token(self, token: Token) -> bool:
        self.tokens.append(token)
        return self.stop(token)

    def on_failure(self, reason: str) -> None:
        self.failure = reason

    def ids(self, choice: int = 0) -> list[int]:
        return [token.id for token in self.tokens if token.choice == choice]


def teacher_forced(model: Any, heard: Heard, choice: int = 0) -> torch.Tensor:
    ids = heard.ids(choice)
    whole = torch.tensor([[*heard.job.prompt_ids, *ids]])
    with torch.no_grad():
        logits = model(whole).logits[0, len(heard.job.prompt_ids) - 1 : -1]
    scores = torch.log_softmax(logits / (heard.job.sample.temperature or 1.0), -1)
    return scores.gather(1, torch.tensor(ids)[:, None])[:, 0]


def assert_exact(model: Any, heard: Heard) -> None:
    for choice in range(heard.job.copies):
        given = torch.tensor([token.logprob for token in heard.tokens if token.choice == choice])
        assert len(given)
        torch.testing.assert_close(given, teacher_forced(model, heard, choice), rtol=0, atol=1e-4)


def drain(engine: Engine) -> None:
    for _ in range(2000):
        if not engine.step():
            return
    raise AssertionError("the engine never came to an end")


def engine_for(policy: Any, **options: Any) -> Engine:
    return Engine(policy.model, **{"context": 512, "budget": 1 << 14, "piece": 16, **options})


def prompt_of(policy: Any, text: str) -> list[int]:
    return render_prompt(policy.tokenizer, [Message("user", text)])


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_logprobs_equal_a_teacher_forced_pass(tiny_model: Path, name: str) -> None:
    policy = fresh(tiny_model if name == "tiny" else name)
    engine = engine_for(policy)
    jobs = [
        Heard(prompt_of(policy, "Hi"), 9, temperature=1.0, copies=3),
        Heard(prompt_of(policy, "What is a prime number?"), 20, top_k=20),
        Heard(prompt_of(policy, LONG), 6, temperature=0.0),
    ]
    for job in jobs:
        engine.submit(job.job)
        engine.step()  # so that they join one after the other
    drain(engine)
    assert [len(job.tokens) for job in jobs] == [27, 20, 6]
    for job in jobs:
        assert_exact(policy.model, job)


def test_a_seed_gives_the_same_answer_alone_and_among_others(tiny: Any) -> None:
    def answer(others: int) -> list[int]:
        engine = engine_for(tiny)
        mine = Heard(prompt_of(tiny, "What is a prime number?"), 15, seed=7, copies=2)
        for i in range(others):
            engine.submit(Heard(prompt_of(tiny, f"{i} {LONG}"), 5 + i, seed=i).job)
            engine.step()
        engine.submit(mine.job)
        drain(engine)
        return [*mine.ids(0), *mine.ids(1)]

    alone = answer(0)
    assert answer(5) == alone
    assert alone[:15] != alone[15:]


def test_a_late_request_gets_its_first_token_while_the_others_run(tiny: Any) -> None:
    engine = engine_for(tiny)
    early = [Heard(prompt_of(tiny, f"{i}"), 200) for i in range(4)]
    for job in early:
        engine.submit(job.job)
    for _ in range(20):
        engine.step()
    late = Heard(prompt_of(tiny, "Hi"), 5)
    before = [len(job.tokens) for job in early]
    engine.submit(late.job)
    steps = 0
    while not late.tokens:
        engine.step()
        steps += 1
    assert steps <= 3
    assert [len(job.tokens) for job in early] == [n + steps for n in before]
    drain(engine)
    assert len(late.tokens) == 5


def test_eight_requests_take_the_steps_of_one(tiny: Any) -> None:
    """A step reads the weights once, whatever the number of rows; `bench/host.py` measures what that gains."""
    steps: list[int] = []
    for count in (1, 8):
        engine = engine_for(tiny, piece=512)
        for i in range(count):
            engine.submit(Heard(prompt_of(tiny, f"Hi {i}"), 30, seed=i).job)
        drain(engine)
        steps.append(engine.steps)
    assert steps[1] == steps[0]


def test_a_long_prompt_is_read_in_pieces_and_stalls_nobody(tiny: Any) -> None:
    engine = engine_for(tiny)
    running = Heard(prompt_of(tiny, "Hi"), 300)
    engine.submit(running.job)
    while not running.tokens:
        engine.step()
    slow = Heard(prompt_of(tiny, LONG), 5)
    engine.submit(slow.job)
    before = len(running.tokens)
    steps = 0
    while not slow.tokens:
        engine.step()
        steps += 1
    assert steps >= len(slow.job.prompt_ids) // 16
    assert len(running.tokens) == before + steps
    drain(engine)
    assert_exact(tiny.model, slow)


def test_an_answer_ends_at_its_end_token_its_length_its_listener_and_the_context(tiny: Any) -> None:
    engine = engine_for(tiny, context=60)
    prompt = prompt_of(tiny, "Hi")
    free = Heard(prompt, 20, seed=1)
    engine.submit(free.job)
    drain(engine)
    assert [token.finish for token in free.tokens] == [None] * 19 + ["length"]
    end = free.ids()[4]
    ended = Heard(prompt, 20, seed=1, ends=[end])
    heard_enough = Heard(prompt, 20, seed=1, stop=lambda token: token.id == end)
    endless = Heard(prompt, 2000, seed=1)
    for job in (ended, heard_enough, endless):
        engine.submit(job.job)
    drain(engine)
    first = free.ids().index(end) + 1
    assert ended.ids() == heard_enough.ids() == free.ids()[:first]
    assert ended.tokens[-1].finish == "stop"
    assert len(prompt) + len(endless.tokens) == 60


def test_a_cancelled_job_is_dropped_at_once(tiny: Any) -> None:
    engine = engine_for(tiny)
    gone, stays = Heard(prompt_of(tiny, "Hi"), 500, copies=2), Heard(prompt_of(tiny, "Ho"), 12)
    engine.submit(gone.job)
    engine.submit(stays.job)
    for _ in range(5):
        engine.step()
    heard = len(gone.tokens)
    engine.cancel(gone.job)
    drain(engine)
    assert len(gone.tokens) == heard
    assert len(stays.tokens) == 12
    assert_exact(tiny.model, stays)
    assert engine.load() == (0, 0)


def test_a_failing_listener_ends_its_own_answer_only(tiny: Any) -> None:
    def broken(_token: Token) -> bool:
        raise RuntimeError("no")

    engine = engine_for(tiny)
    bad, good = Heard(prompt_of(tiny, "Hi"), stop=broken), Heard(prompt_of(tiny, "Ho"))
    engine.submit(bad.job)
    engine.submit(good.job)
    drain(engine)
    assert (len(bad.tokens), len(good.tokens)) == (1, 12)
    assert (bool(bad.failure), good.failure) == (True, "")


def test_the_likeliest_tokens_are_told(tiny: Any) -> None:
    engine = engine_for(tiny)
    greedy = Heard(prompt_of(tiny, "Hi"), 4, temperature=0.0, top=3)
    engine.submit(greedy.job)
    drain(engine)
    for token in greedy.tokens:
        assert len(token.top) == 3
        assert token.top[0] == (token.id, token.logprob)
        assert token.top[0][1] >= token.top[1][1] >= token.top[2][1]


def test_adapters_are_mixed_in_one_batch_and_equal_peft(tiny: Any, tiny_model: Path, adapters: list[Path]) -> None:
    engine = engine_for(tiny)
    loras = [load_lora(tiny.model, path.name, path) for path in adapters]
    jobs = [Heard(prompt_of(tiny, text), 10, lora=lora) for text in ("Hi", LONG) for lora in (None, *loras)]
    for job in jobs:
        engine.submit(job.job)
    drain(engine)
    references = [fresh(tiny_model).model, *(load_adapter(fresh(tiny_model).model, path) for path in adapters)]
    for job, reference in zip(jobs, references * 2, strict=True):
        assert_exact(reference, job)
    assert len({tuple(job.ids()) for job in jobs[3:]}) == 3


def test_a_second_turn_copies_what_the_first_left_but_not_across_adapters(tiny: Any, adapters: list[Path]) -> None:
    engine = engine_for(tiny)
    lora = load_lora(tiny.model, "one", adapters[0])
    first = Heard(prompt_of(tiny, LONG), 8)
    engine.submit(first.job)
    drain(engine)
    following = [*first.job.prompt_ids, *first.ids(), *prompt_of(tiny, "And then?")]
    other, second = Heard(following, 8, lora=lora), Heard(following, 8)
    for job, quick in ((other, False), (second, True)):
        engine.submit(job.job)
        steps = 0
        while not job.tokens:
            engine.step()
            steps += 1
        assert (steps <= 3) == quick
        drain(engine)
    assert_exact(tiny.model, second)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_comes_and_goes_every_answer_stays_exact(tiny: Any, data: st.DataObject) -> None:
    """Little memory, so that rows wait, leave and come back; a few are cancelled."""
    engine = engine_for(tiny, budget=data.draw(st.sampled_from([600, 1100, 4096])))
    jobs: list[Heard] = []
    for i in range(data.draw(st.integers(2, 7))):
        text = data.draw(st.sampled_from(["Hi", "Hi there", LONG, LONG + "?", LONG[::-1]]))
        copies, tokens = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 7, 40]))
        jobs.append(Heard(prompt_of(tiny, text), tokens, seed=i, copies=copies))
        engine.submit(jobs[-1].job)
        for _ in range(data.draw(st.integers(0, 20))):
            engine.step()
    cancelled = data.draw(st.lists(st.sampled_from(jobs), max_size=2))
    for job in cancelled:
        engine.cancel(job.job)
    drain(engine)
    for job in jobs:
        if job not in cancelled:
            assert len(job.tokens) == job.job.copies * job.job.sample.max_new_tokens
            assert_exact(tiny.model, job)


def test_each_step_is_taken_in_the_turn_of_the_most_urgent_job(tiny: Any) -> None:
    engine = engine_for(tiny)
    asked: list[Role] = []
    enter = engine.turnstile.enter
    engine.turnstile.enter = lambda role: (asked.append(role), enter(role))[-1]  # type: ignore[method-assign]
    probe, person = Heard(prompt_of(tiny, "Hi"), 20), Heard(prompt_of(tiny, "Hello"), 2)
    probe.job.role = Role.FRESH_ANSWERS
    engine.submit(probe.job)
    engine.step()
    engine.submit(person.job)
    drain(engine)
    assert asked[0] is asked[-1] is Role.FRESH_ANSWERS
    assert Role.ANSWERS in asked


def test_a_failed_step_is_told_to_those_who_wait_and_the_engine_goes_on(tiny: Any) -> None:
    engine = engine_for(tiny)
    done = threading.Event()
    lost = Heard([10**9], 5)  # no such token
    lost.job.on_failure = lambda reason: (lost.on_failure(reason), done.set())[-1]
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        engine.submit(lost.job)
        assert done.wait(60)
        assert "send the request again" in lost.failure
        done.clear()
        fine = Heard(prompt_of(tiny, "Hi"), 5, stop=lambda token: bool(token.finish and done.set()))
        engine.submit(fine.job)
        assert done.wait(60)
        assert_exact(tiny.model, fine)
    finally:
        engine.stop()
        thread.join()
