"""Answers of a given form: whatever the model would like to say, what comes fits the schema."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from talktune.config import SampleConfig
from talktune.host.engine import Engine
from talktune.host.grammar import BrokenForm, Grammars, steer
from talktune.host.sampling_request import SamplingRequest, Token
from talktune.policy.tokens import encode_text, end_ids
from talktune.serve.dialects.wire import BadRequest


def an_object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties)[1:],
        "additionalProperties": False,
    }


def nested(depth: int) -> dict[str, Any]:
    return {"type": "array", "items": nested(depth - 1)} if depth else {}


VALUES = st.recursive(
    st.sampled_from(
        [
            {"type": "string", "maxLength": 4},
            {"type": "integer", "minimum": -9, "maximum": 99},
            {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 99},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": ["good", "bad", 3, "ö ☃ \u2028"]},
            {"type": "string", "format": "date"},
            {"type": "string", "pattern": "^[a-z]{2,3}$"},
        ]
    ),
    lambda inner: (
        st.builds(lambda one: {"type": "array", "items": one, "minItems": 1, "maxItems": 2}, inner)
        | st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner)
        | st.dictionaries(st.sampled_from(["a", "b c", "ä", '"']), inner, max_size=3).map(an_object)
    ),
    max_leaves=4,
)
OBJECT = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}


TOKENIZERS = Path(__file__).parents[2] / ".cache" / "tokenizers"
CALL = {
    "type": "object",
    "properties": {"name": {"enum": ["f"]}, "arguments": {"type": "object"}},
    "required": ["name", "arguments"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, end_ids(tokenizer))


class Heard:
    """A job, and what came back."""

    def __init__(self, tokenizer: Any, sample: SampleConfig, **more: Any) -> None:
        prompt = tuple(encode_text(tokenizer, "Say something in a form."))
        self.tokens: dict[int, list[Token]] = {}
        self.failure = ""
        self.job = SamplingRequest(prompt, sample, end_ids(tokenizer), self.hear, self.fail, **more)

    def hear(self, token: Token) -> bool:
        self.tokens.setdefault(token.choice, []).append(token)
        return False

    def fail(self, reason: str) -> None:
        self.failure = reason

    def ids(self, choice: int) -> list[int]:
        return [token.id for token in self.tokens[choice]]


def run(model: Any, jobs: list[Heard], budget: int = 1 << 15) -> None:
    engine = Engine(model, context=900, budget=budget, piece=16)
    for job in jobs:
        engine.submit(job.job)
    while engine.step():
        pass


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    schema=VALUES,
    temperature=st.sampled_from([0.0, 0.7, 2.0]),
    cut=st.sampled_from([{}, {"top_p": 0.5}, {"top_k": 5}]),
    budget=st.sampled_from([500, 1 << 15]),  # little memory: rows leave and come back
    seed=st.integers(0, 9),
)
def test_every_answer_fits_its_schema_beside_others_that_have_none(
    model: Any,
    tokenizer: Any,
    grammars: Grammars,
    schema: dict[str, Any],
    temperature: float,
    cut: dict[str, Any],
    budget: int,
    seed: int,
) -> None:
    sample = SampleConfig(temperature=temperature, max_new_tokens=600, **cut)
    guided = [Heard(tokenizer, sample, copies=2, seed=seed, guides=grammars.guides(schema, 2)) for _ in range(2)]
    free = [Heard(tokenizer, SampleConfig(max_new_tokens=30), seed=seed) for _ in range(2)]
    run(model, [guided[0], free[0]], budget)
    run(model, [guided[1]])
    run(model, [free[1]])
    assert free[0].ids(0) == free[1].ids(0)
    for choice in range(2):
        ids = guided[0].ids(choice)
        assert guided[1].ids(choice) == ids
        assert guided[0].tokens[choice][-1].finish == "stop"
        jsonschema.validate(json.loads(tokenizer.decode(ids[:-1])), schema)
        whole = torch.tensor([[*guided[0].job.prompt_ids, *ids]])
        with torch.no_grad():
            scores = torch.log_softmax(model(whole).logits[0, -len(ids) - 1 : -1] / (temperature or 1.0), -1)
        told = torch.tensor([token.logprob for token in guided[0].tokens[choice]])
        torch.testing.assert_close(told, scores.gather(1, torch.tensor(ids)[:, None])[:, 0], rtol=0, atol=1e-4)


def test_an_answer_that_is_cut_off_is_the_beginning_of_the_whole_one(
    model: Any, tokenizer: Any, grammars: Grammars
) -> None:
    schema = {"type": "string", "minLength": 20, "maxLength": 20}
    short, whole = (
        Heard(tokenizer, SampleConfig(max_new_tokens=limit), seed=1, guides=grammars.guides(schema, 1))
        for limit in (6, 500)
    )
    run(model, [short, whole])
    assert short.tokens[0][-1].finish == "length"
    assert short.ids(0) == whole.ids(0)[:6]
    assert len(json.loads(tokenizer.decode(whole.ids(0)[:-1]))) == 20


def test_any_object_is_an_object(tokenizer: Any, grammars: Grammars) -> None:
    (guide,) = grammars.guides({"type": "object"}, 1)
    for token in encode_text(tokenizer, '{"a": [1, {"b": null}], "ä": "\\n"}'):
        allowed = guide.allowed(len(tokenizer))
        assert allowed[token]
        assert not allowed[sorted(end_ids(tokenizer))].any()
        guide.take(token)
    assert guide.allowed(len(tokenizer)).nonzero().flatten().tolist() == sorted(end_ids(tokenizer))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"properties": 3},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/x"},
        {"enum": []},
        {"type": "string", "pattern": "(["},
        {"type": "string", "pattern": "^(?=a)b$"},
        {"not": {"type": "string"}},
        {"enum": ["x" * 70_000]},
        {"type": "integer", "multipleOf": 1_000_003},
        {"allOf": [{"type": "integer", "multipleOf": 997}, {"type": "integer", "multipleOf": 991}]},
        nested(200),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(grammars: Grammars, schema: Any) -> None:
    with pytest.raises(BadRequest, match=r"^The JSON schema of response_format cannot be followed: .*\.$") as caught:
        grammars.guides(schema, 1)
    assert caught.value.body["error"]["param"] == "response_format"
    assert len(str(caught.value)) < 400


def test_rows_without_a_form_stay_as_they_are(tokenizer: Any, grammars: Grammars) -> None:
    (guide,) = grammars.guides(OBJECT, 1)
    wider = len(tokenizer) + 5  # models' vocabularies are padded
    scores = torch.log_softmax(torch.randn(2, wider), dim=-1)
    assert steer(scores, [None, None]) is scores
    steered = steer(scores, [None, guide])
    assert torch.equal(steered[0], scores[0])
    assert torch.isclose(steered[1].exp().sum(), torch.tensor(1.0))
    assert steered[1].isfinite().nonzero().flatten().tolist() == encode_text(tokenizer, "{")


def test_a_form_that_breaks_fails_its_own_request_only(model: Any, tokenizer: Any, grammars: Grammars) -> None:
    (guide,) = grammars.guides(OBJECT, 1)
    with pytest.raises(BrokenForm):
        guide.take(encode_text(tokenizer, "x")[0])
    broken, fine = (
        Heard(tokenizer, SampleConfig(max_new_tokens=5), seed=1, **more) for more in ({"guides": [guide]}, {})
    )
    run(model, [broken, fine])
    assert "make its schema simpler" in broken.failure
    assert (broken.tokens, fine.failure, len(fine.ids(0))) == ({}, "", 5)


def test_tool_calls_may_come_in_the_place_of_a_form() -> None:
    """Where the tags are tokens of their own (Qwen), and where they are text."""
    call = '{"name": "f", "arguments": {"x": [1]}}'
    marked = f"<tool_call>\n{call}\n</tool_call>"
    for name in ("qwen3", "llama3_1"):
        if not (TOKENIZERS / name).is_dir():
            pytest.skip("`make tokenizers` fetches it")
        own: Any = AutoTokenizer.from_pretrained(TOKENIZERS / name)
        grammars = Grammars(own, end_ids(own))

        def fits(text: str, marked: bool, own: Any = own, grammars: Grammars = grammars) -> bool:
            (guide,) = grammars.guides(OBJECT, 1, CALL, marked=marked)
            size = len(own)
            for token in own.encode(text, add_special_tokens=False):
                if not guide.allowed(size)[token]:
                    return False
                guide.take(token)
            return bool(guide.allowed(size)[min(end_ids(own))])

        assert fits('{"mood": "good"}', True)
        assert fits(marked, True)
        assert fits(f"{marked}\n{marked}", True)
        assert fits(call, False)
        assert not fits(call, True)
        assert not fits(marked, False)
        assert not fits(marked.replace("f", "g", 1), True)
        assert not fits(marked.replace('"f"', '"g"'), True)
        assert not fits("Hello", True)
