"""What is in the store is what was sampled, by both kinds of engine."""

import json
from typing import Any

import httpx2
import openai
import pytest
import torch

from talktune.config import ModelConfig
from talktune.policy.load import Policy, load_policy
from talktune.policy.tokens import render_prompt
from talktune.store.store import Store
from talktune.types import Message, Sampled


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(ModelConfig(device="cpu"))


def hold(server: Any, temperature: float, stream: bool) -> list[tuple[list[Message], str, Sampled | None]]:
    """A conversation of three turns: prompts, answers, and what the store has of them."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    messages: list[Any] = []
    texts: list[str] = []
    for i, question in enumerate(("What is rain?", "And snow?", "Say it in five words.")):
        messages.append({"role": "user", "content": f"{question} ({temperature}, {stream})"})
        options: Any = {"model": model, "messages": messages, "max_tokens": 24, "temperature": temperature, "seed": i}
        if stream:
            chunks = client.chat.completions.create(**options, stream=True)
            texts.append("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))
        else:
            texts.append(client.chat.completions.create(**options).choices[0].message.content or "")
        messages.append({"role": "assistant", "content": texts[-1]})
    store = Store(server.store)
    (conversation,) = store.show(store.list_conversations(limit=1)[0].id)
    store.close()
    assert [m.content for m in conversation.messages[1::2]] == texts
    return [(list(conversation.messages[:i]), texts[i // 2], conversation.sampled.get(i)) for i in (1, 3, 5)]


def teacher_forced(policy: Policy, sampled: Sampled) -> torch.Tensor:
    with torch.no_grad():
        logits = policy.model(torch.tensor([sampled.prompt_ids + sampled.answer_ids])).logits[0].float()
    logits = logits[len(sampled.prompt_ids) - 1 : -1] / sampled.temperature
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(sampled.answer_ids)[:, None]).squeeze(1)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_host(before_host: Any, policy: Policy, temperature: float, stream: bool) -> None:
    for prompt, text, sampled in hold(before_host, temperature, stream):
        assert sampled is not None
        assert sampled.logprobs is not None
        assert sampled.prompt_ids == tuple(render_prompt(policy.tokenizer, prompt, ()))
        assert policy.tokenizer.decode(sampled.answer_ids, skip_special_tokens=True) == text
        error = (teacher_forced(policy, sampled) - torch.tensor(sampled.logprobs)).abs().max()
        assert error < 1e-4


FORM = {
    "type": "object",
    "properties": {"dry": {"type": "boolean"}},
    "required": ["dry"],
    "additionalProperties": False,
}
NAMED = {"name": "n", "schema": FORM}
ASKED = "Is rain dry?"
QUESTION = [{"role": "user", "content": ASKED}]


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (
            "chat/completions",
            {"messages": QUESTION, "response_format": {"type": "json_schema", "json_schema": NAMED}},
        ),
        ("responses", {"input": ASKED, "text": {"format": {"type": "json_schema", **NAMED}}}),
        (
            "messages",
            {
                "messages": QUESTION,
                "output_config": {"format": {"type": "json_schema", "schema": FORM}},
                "max_tokens": 50,
            },
        ),
    ],
)
def test_a_form_is_kept_in_every_dialect_and_its_logprobs_are_not(
    before_host: Any, route: str, body: dict[str, Any]
) -> None:
    """They are those of the whole distribution, which did not sample."""
    sent = body | {"model": "m", "session_id": f"form in {route}"}
    reply = httpx2.post(f"{before_host.url}/v1/{route}", json=sent, timeout=300)
    assert reply.status_code == 200, reply.text
    store = Store(before_host.store)
    (conversation,) = store.show(store.list_conversations(limit=1)[0].id)
    store.close()
    said = conversation.messages[-1].content
    assert said in ('{"dry": true}', '{"dry": false}')
    assert json.dumps(said) in reply.text
    sampled = conversation.sampled[1]
    assert len(sampled.answer_ids) > 3
    assert sampled.logprobs is None


@pytest.mark.parametrize("stream", [True, False])
def test_llama_cpp(before_llama: Any, policy: Policy, stream: bool) -> None:
    """Its weights are quantised and ours are not, so that the log-probs are alike on average only."""
    errors: list[torch.Tensor] = []
    for _prompt, text, sampled in hold(before_llama, 1.0, stream):
        if sampled is None:  # only where a character of several tokens came in a stream
            assert stream
            assert not text.isascii()
            continue
        assert sampled.logprobs is not None
        assert policy.tokenizer.decode(sampled.answer_ids, skip_special_tokens=True) == text
        assert policy.tokenizer.decode(sampled.prompt_ids).endswith("<|im_start|>assistant\n")
        errors.append((teacher_forced(policy, sampled) - torch.tensor(sampled.logprobs)).abs())
    assert errors
    assert torch.cat(errors).mean() < 0.15
