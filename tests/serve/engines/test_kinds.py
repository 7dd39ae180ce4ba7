import pytest

from talktune.serve.dialects.form import without_tokens
from talktune.serve.engines.kinds import EngineKind, Tokens, detect, with_tokens
from talktune.types import Message

SAID = Message("assistant", "xy")


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"/version": {"version": "0.1.0", "engine": "talktune"}}, "host"),
        ({"/version": {"version": "0.11.0"}, "/props": None}, "vllm"),
        ({"/version": None, "/props": {"default_generation_settings": {}, "total_slots": 4}}, "llama.cpp"),
        ({"/version": None, "/model_info": {"model_path": "m", "is_generation": True}, "/props": None}, "sglang"),
        ({"/version": None, "/props": None}, "other"),
        ({"/version": "text", "/props": ["text"]}, "other"),
        ({}, "other"),
    ],
)
def test_engines_are_told_apart(answers: dict[str, object], kind: EngineKind) -> None:
    assert detect(answers) == kind


def test_each_is_asked_in_its_own_way_and_the_clients_wishes_stay() -> None:
    body = {"model": "m", "logprobs": False, "temperature": 0.5}
    assert with_tokens(body, "other") == body
    assert with_tokens(body, "llama.cpp") == body | {"logprobs": True, "top_logprobs": 1}
    for kind in ("host", "vllm"):
        assert with_tokens(body, kind) == body | {"logprobs": True, "return_token_ids": True}
    assert body["logprobs"] is False
    meta = {"logprobs": True, "return_prompt_token_ids": True, "return_meta_info": True}
    assert with_tokens(body, "sglang") == body | meta
    streamed = body | {"stream": True, "tools": [{}]}
    assert with_tokens(streamed, "sglang") == streamed
    assert with_tokens(streamed, "llama.cpp") == streamed


def test_token_ids_of_sglang() -> None:
    tokens = Tokens("sglang")
    meta = {"output_token_logprobs": [[-0.5, 4, "a"], [-0.25, 5, None]]}
    tokens.add({}, {"message": {}, "prompt_token_ids": [1, 2], "meta_info": meta, "logprobs": {"content": []}})
    sampled = tokens.sampled(SAID, 0.7, None)
    assert sampled is not None
    assert (sampled.prompt_ids, sampled.answer_ids, sampled.logprobs) == ((1, 2), (4, 5), (-0.5, -0.25))


def test_llama_cpp_streams_do_not_give_tokens_that_end_within_a_character() -> None:
    tokens = Tokens("llama.cpp", prompt_ids=(9,))
    tokens.add({}, {"logprobs": {"content": [entry(-0.5, 4)]}})
    assert tokens.sampled(Message("assistant", "x"), 1.0, None) is not None
    assert tokens.sampled(Message("assistant", "x😉"), 1.0, None) is None


def entry(logprob: float, id: int | None = None) -> dict[str, object]:
    return {"token": "x", "logprob": logprob, "bytes": [120 + (id or 0) % 4]} | ({} if id is None else {"id": id})


@pytest.mark.parametrize("kind", ["host", "vllm"])
def test_token_ids_of_a_stream(kind: EngineKind) -> None:
    tokens = Tokens(kind)
    tokens.add({"prompt_token_ids": [1, 2]}, {"delta": {"role": "assistant"}})
    tokens.add({}, {"token_ids": [5, 6], "logprobs": {"content": [entry(-0.5), entry(-0.25)]}})
    tokens.add({}, {"token_ids": [7], "logprobs": {"content": [entry(-1.0)]}, "finish_reason": "stop"})
    tokens.add({}, {"delta": {}, "logprobs": None, "token_ids": None})
    sampled = tokens.sampled(SAID, 0.5, 3)
    assert sampled is not None
    assert (sampled.prompt_ids, sampled.answer_ids, sampled.temperature, sampled.policy_version) == (
        (1, 2),
        (5, 6, 7),
        0.5,
        3,
    )
    assert sampled.logprobs == ((-0.5, -0.25, -1.0) if kind == "host" else None)
    assert tokens.sampled(SAID, 1.0, None).logprobs == (-0.5, -0.25, -1.0)  # type: ignore[union-attr]


def test_token_ids_of_llama_cpp() -> None:
    tokens = Tokens("llama.cpp", prompt_ids=(9,))
    tokens.add({}, {"logprobs": {"content": [entry(-0.5, 4), entry(-0.25, 5)]}})
    sampled = tokens.sampled(SAID, 0.0, None)
    assert sampled is not None
    assert (sampled.answer_ids, sampled.logprobs, sampled.temperature) == ((4, 5), (-0.5, -0.25), 1.0)


@pytest.mark.parametrize(
    "choice",
    [
        {"token_ids": [5, 6], "logprobs": {"content": [entry(-0.5)]}},
        {"token_ids": [5], "logprobs": None},
        {"token_ids": ["5"], "logprobs": {"content": [entry(-0.5)]}},
    ],
)
def test_half_of_the_tokens_is_none(choice: dict[str, object]) -> None:
    tokens = Tokens("vllm", prompt_ids=(1,))
    tokens.add({}, {"token_ids": [3], "logprobs": {"content": [entry(-0.5)]}})
    tokens.add({}, choice)
    assert tokens.sampled(SAID, 1.0, None) is None


def test_without_a_prompt_or_an_answer_there_is_nothing_to_train_on() -> None:
    assert Tokens("vllm", prompt_ids=(1,)).sampled(SAID, 1.0, None) is None
    tokens = Tokens("vllm")
    tokens.add({}, {"token_ids": [3], "logprobs": {"content": [entry(-0.5)]}})
    assert tokens.sampled(SAID, 1.0, None) is None
    other = Tokens("other", prompt_ids=(1,))
    other.add({}, {"token_ids": [3], "logprobs": {"content": [entry(-0.5)]}})
    assert other.sampled(SAID, 1.0, None) is None


def test_a_client_gets_what_it_asked_for() -> None:
    def body() -> dict[str, object]:
        return {"prompt_token_ids": [1], "choices": [{"token_ids": [2], "logprobs": {"content": []}, "index": 0}]}

    assert without_tokens(body(), logprobs=False, token_ids=False) == {"choices": [{"index": 0}]}
    assert without_tokens(body(), logprobs=True, token_ids=True) == body()
    assert "logprobs" in without_tokens(body(), logprobs=True, token_ids=False)["choices"][0]
    assert without_tokens({"object": "x"}, logprobs=False, token_ids=False) == {"object": "x"}
