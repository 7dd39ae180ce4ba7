"""Asks another engine for the rest of an answer whose engine broke off in the middle.

Open it to see when a broken answer can go on, and when it cannot.

The client has the beginning already: the other engine is given it as the beginning of its own answer
(`continue_final_message`, which vLLM and talktune's host know), and what it samples follows. The turn's tokens are
kept only if the other engine read the prompt and the beginning as the very tokens that were sampled.
"""

from typing import Any

from talktune.serve.capture.recording import Recording
from talktune.serve.engines.engine_error import EngineError
from talktune.serve.engines.kinds import steered


def going_on(body: dict[str, Any], recording: Recording) -> dict[str, Any]:
    """Make the request for the rest of an answer; raises EngineError where the rest cannot be asked for.

    That is so for a kind of engine that has no such request, for several choices, and for anything but plain text: a
    thought, a call of a tool that has begun, an answer that must have a form.
    """
    choices = list(recording.choices.values())
    recorders = [choice.recorder for choice in choices]
    plain = not any(recorder.calls or any(recorder.reasoning) or any(recorder.refusal) for recorder in recorders)
    shaped = steered({key: value for key, value in body.items() if key in _FORMS})
    if recording.kind not in ("host", "vllm") or len(choices) != 1 or body.get("n", 1) != 1 or not plain or shaped:
        raise EngineError("The engine broke off its answer, and no other can go on with it.")
    said = recorders[0].message().content
    messages = [dict(message) for message in body["messages"]]
    if body.get("continue_final_message"):  # the client wrote the beginning of the beginning
        messages[-1]["content"] = f"{messages[-1]['content']}{said}"
    else:
        messages.append({"role": "assistant", "content": said})
    had = max(len(choices[0].tokens.ids), 1)
    left = {"max_tokens": max(int(body["max_tokens"]) - had, 1)} if "max_tokens" in body else {}
    return body | left | {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}


_FORMS = (
    "response_format", "tool_choice", "tools", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "structured_outputs", "structural_tag", "regex", "ebnf", "json_schema", "grammar",
)  # fmt: skip
