import pytest

from talktune.serve.dialects.wire import BadRequest
from talktune.serve.engines.too_long import explained


@pytest.mark.parametrize(
    "said",
    [
        "The prompt has 13315 tokens, and with its answer it must fit in 8192.",
        "This model's maximum context length is 8192 tokens. However, you requested 13400 tokens (13315 in the "
        "messages, 85 in the completion). Please reduce the length of the messages or completion.",
        "This model's maximum context length is 8192 tokens. However, your request has 13315 input tokens. Please "
        "reduce the length of the input messages.",
        "The decoder prompt (length 13315) is longer than the maximum model length of 8192. Make sure that "
        "`max_model_len` is no smaller than the number of text tokens.",
        "The input (13315 tokens) is longer than the model's context length (8192 tokens).",
        "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total of "
        "17411 tokens: 13315 tokens from the input messages and 4096 tokens for the completion.",
        "request (13315 tokens) exceeds the available context size (8192 tokens), try increasing it",
    ],
)
def test_engines_words(said: str) -> None:
    error = explained(BadRequest(said)).body["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith("The prompt has 13315 tokens, and the model takes 8192, with its answer: ")
    assert "Qwen" in error["message"]


def test_words_without_numbers() -> None:
    error = explained(BadRequest("the request exceeds the available context size. try increasing it")).body["error"]
    assert error["code"] == "context_length_exceeded"
    assert "available context size" in error["message"]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("temperature is too high", 400),
        ("The context length is 8192", 500),
        ("'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 8192 "
         "tokens and your request has 6000 input tokens (4096 > 8192 - 6000).", 400),
    ],
)  # fmt: skip
def test_other_errors_stay(said: str, status: int) -> None:
    error = BadRequest(said, status=status)
    assert explained(error) is error
