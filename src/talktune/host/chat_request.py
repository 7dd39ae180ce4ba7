"""Reads and checks a chat completion request: OpenAI's fields and the few of vLLM that talktune uses.

Open it when the host refuses a request, or to let it take another field.

Names and limits as in OpenAI's chat completions reference and vLLM's OpenAI-compatible server. What would change the
answer and cannot be done is refused in a sentence; a field that asks for nothing of the kind (`user`, `store`,
`metadata`, …) is allowed and not read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from talktune.config import SampleConfig
from talktune.conversations.messages import BadConversation, message_from_dict
from talktune.errors import UserError
from talktune.policy.tokens import TooLongError, check_length, encode_text, render_answer, render_prompt
from talktune.serve.dialects.wire import BadRequest, Fields
from talktune.types import Message

MAX_COPIES = 64
MAX_TOP = 20
MAX_STOPS = 16


NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "stop_token_ids": ([],),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "echo": (False,),
    "prompt_logprobs": (0,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": ({},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "logits_processors": ([],),
}
"""Fields that would change the answer and cannot be honoured, with the values that ask for nothing."""


@dataclass(frozen=True)
class ChatRequest:
    """What a client asks for."""

    messages: tuple[Message, ...]
    begun: Message | None
    """The last message where it is an answer to be continued; it is not among `messages` then."""
    tools: tuple[Mapping[str, Any], ...]
    """Empty also when `tool_choice` is none."""
    forced_tool: str | None
    """The tool that must be called; its call is begun in the prompt."""
    named_tool: bool
    """True when the client named that tool."""
    any_tool: bool
    """True when one of several tools must be called."""
    schema: Mapping[str, Any] | None
    """The JSON schema of the answer, where it must have one and is no tool call."""
    model: str | None
    sample: SampleConfig
    """`max_new_tokens` as asked for; 0 when the request sets no limit."""
    copies: int
    seed: int | None
    stops: tuple[str, ...]
    logprobs: bool
    top: int
    stream: bool
    include_usage: bool
    token_ids: bool
    tokens_as_ids: bool

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Names of the tools on offer."""
        return tuple(tool["function"]["name"] for tool in self.tools)


def parse_request(raw: object) -> ChatRequest:
    """Read a request's JSON; raises BadRequest naming the field."""
    if not isinstance(raw, dict):
        raise BadRequest("The body must be a JSON object.")
    body = Fields(cast(dict[str, Any], raw))
    _refuse_unable(body)
    messages, begun = _messages(body)
    tools = _tools(body)
    choice = body.raw.get("tool_choice")
    forced = _forced(choice, tools)
    if choice not in (None, "none", "auto") and begun is not None:
        raise BadRequest("An answer that is continued cannot be made to call a tool.", param="tool_choice")
    schema = _schema(body.raw.get("response_format"))
    if schema is not None and begun is not None:
        message = "A response_format cannot be kept beside an answer that is continued; leave one out."
        raise BadRequest(message, param="response_format")
    options = body.get("stream_options", dict) or {}
    limit = body.number("max_completion_tokens", int, 1, None)
    limit = limit if limit is not None else body.number("max_tokens", int, 1, None)
    temperature = body.number("temperature", float, 0, 2)
    top_p = body.number("top_p", float, 0, 1)
    top_k = body.number("top_k", int, -1, None)
    logprobs = body.get("logprobs", bool) or False
    return ChatRequest(
        messages=messages,
        begun=begun,
        tools=() if choice == "none" else tools,
        forced_tool=forced,
        named_tool=isinstance(choice, dict),
        any_tool=choice == "required" and forced is None,
        schema=schema,
        model=body.get("model", str),
        sample=SampleConfig(
            temperature=1.0 if temperature is None else temperature,
            top_p=top_p or 1.0,  # 0 is sent by clients that mean "not set"
            top_k=max(top_k or 0, 0),
            max_new_tokens=limit or 0,
        ),
        copies=body.number("n", int, 1, MAX_COPIES) or 1,
        seed=body.number("seed", int, None, None),
        stops=_stops(body),
        logprobs=logprobs,
        top=(body.number("top_logprobs", int, 0, MAX_TOP) or 0) if logprobs else 0,
        stream=body.get("stream", bool) or False,
        include_usage=bool(cast(dict[str, Any], options).get("include_usage")),
        token_ids=body.get("return_token_ids", bool) or False,
        tokens_as_ids=body.get("return_tokens_as_token_ids", bool) or False,
    )


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, and the beginning of the answer that it already holds."""

    ids: tuple[int, ...]
    thinking: bool
    """True when it ends inside an open `<think>`."""
    calling: bool = False
    """True when it ends inside an open `<tool_call>`, of any tool."""
    schema: Mapping[str, Any] | None = None
    """The JSON schema of what is to come, where it must have one."""
    call: Mapping[str, Any] | None = None
    """That of a tool call, which may come in its place."""
    marked: bool = True
    """Whether such a call stands in tags."""


def render(tokenizer: PreTrainedTokenizerBase, request: ChatRequest, context: int) -> Prompt:
    """The prompt's ids through the chat template; raises BadRequest when the template refuses the messages.

    A prompt whose length in characters says that it is longer than `context` tokens is refused before it is tokenised.

    A template that knows no tools gets them, and earlier calls, as text in Hermes' form. A tool that `tool_choice`
    names is already begun in the prompt, so that the model can only write its arguments; one that it leaves open must
    have the form of a call; an answer that is to be continued stands there without its end.
    """
    template = str(tokenizer.chat_template)
    messages: Sequence[Message] = request.messages
    if "tools" not in template and (request.tools or any(m.tool_calls or m.role == "tool" for m in messages)):
        messages = _tools_as_text(messages, request.tools)
    try:
        ids = render_prompt(tokenizer, messages, request.tools, most=context)
        if request.begun is not None:
            check_length(tokenizer, request.begun.content, context)
            ids += render_answer(tokenizer, messages, request.begun, request.tools, cut_off=True)
    except TooLongError as error:
        message = f"{error}, and with its answer it must fit in {context}."
        raise BadRequest(message, param="messages", code="context_length_exceeded") from error
    except UserError as error:
        raise BadRequest(str(error), param="messages") from error
    if request.begun is not None:
        said = request.begun.content
        return Prompt(tuple(ids), said.rfind("<think>") > said.rfind("</think>"))
    bare = "tools" in template and "<tool_call>" not in template
    if request.any_tool:
        ids += [] if bare else encode_text(tokenizer, "<tool_call>\n")
        return Prompt(tuple(ids), False, not bare, _any_call(request.tool_names, bare))
    if request.forced_tool is not None:
        call = f'{{"name": {json.dumps(request.forced_tool)}, "{"parameters" if bare else "arguments"}": {{'
        ids += encode_text(tokenizer, call if bare else f"<tool_call>\n{call}")
        return Prompt(tuple(ids), False)
    ending = str(tokenizer.decode(ids[-8:], skip_special_tokens=False)).rstrip()
    thinking = ending.endswith("<think>")
    if thinking and request.schema is not None:  # the form leaves no place for it
        ids += encode_text(tokenizer, "\n</think>\n\n")
        thinking = False
    call = _any_call(request.tool_names, bare) if request.tools and request.schema is not None else None
    return Prompt(tuple(ids), thinking, schema=request.schema, call=call, marked=not bare)


def _refuse_unable(body: Fields) -> None:
    for name, neutral in NEUTRAL.items():
        value = body.raw.get(name)
        if value is not None and not any((value == one and type(value) is not bool) or value is one for one in neutral):
            raise BadRequest(f"{name} is not supported by talktune's own engine; leave it out.", param=name)


def _schema(form: Any) -> Mapping[str, Any] | None:
    """The JSON schema that a `response_format` asks for."""
    kind = form.get("type", "text") if isinstance(form, dict) else form
    if kind in (None, "text"):
        return None
    schema: Any = {"type": "object"} if kind == "json_object" else None
    if kind == "json_schema" and isinstance(form, dict):
        named: Any = form.get("json_schema")
        schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise BadRequest(
            "response_format must be of the type text, json_object, or json_schema with an object json_schema.schema.",
            param="response_format",
        )
    return cast(Mapping[str, Any], schema)


def _any_call(names: Sequence[str], bare: bool) -> Mapping[str, Any]:
    """The JSON schema of a call of one of these tools. Its arguments are any object, as in every other call."""
    arguments = "parameters" if bare else "arguments"
    return {
        "type": "object",
        "properties": {"name": {"enum": [*names]}, arguments: {"type": "object"}},
        "required": ["name", arguments],
        "additionalProperties": False,
    }


def _messages(body: Fields) -> tuple[tuple[Message, ...], Message | None]:
    """All messages, and the last one apart where it is an answer to be continued."""
    raw = body.raw.get("messages")
    if not isinstance(raw, list) or not raw:
        raise BadRequest("messages must be a list with at least one message.", param="messages")
    try:
        found = [message_from_dict(m, f"message {i}") for i, m in enumerate(cast(list[object], raw), start=1)]
    except BadConversation as error:
        raise BadRequest(f"{error}.", param="messages") from error
    for i, message in enumerate(found, start=1):
        if message.has_image:
            raise BadRequest(
                f"message {i} holds an image, audio or a file: this model reads text only.", param="messages"
            )
    wanted = body.get("continue_final_message", bool)
    fresh = wanted is False or body.get("add_generation_prompt", bool) is True
    last = found[-1]
    if wanted and fresh:
        raise BadRequest(
            "continue_final_message and add_generation_prompt exclude each other.", param="continue_final_message"
        )
    if last.role != "assistant" or fresh:
        if wanted:
            raise BadRequest(
                "continue_final_message needs an assistant message at the end.", param="continue_final_message"
            )
        return tuple(found), None
    if last.tool_calls or (last.reasoning_content and not last.content):
        raise BadRequest("The last message can be continued only in its text.", param="messages")
    if len(found) == 1:
        raise BadRequest("There is nothing that the answer to be continued answers.", param="messages")
    return tuple(found[:-1]), last if last.content else None


def _tools(body: Fields) -> tuple[Mapping[str, Any], ...]:
    raw = body.raw.get("tools")
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise BadRequest("tools must be a list.", param="tools")
    for tool in cast(list[Any], raw):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(cast(Any, function).get("name"), str):
            raise BadRequest("Each tool must be an object with a function that has a name.", param="tools")
    return tuple(cast(list[Mapping[str, Any]], raw))


def _forced(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """The tool that must be called: the named one, or with `required` the only one."""
    if choice is None or choice in ("none", "auto"):
        return None
    names = [tool["function"]["name"] for tool in tools]
    if choice == "required":
        if not names:
            raise BadRequest("tool_choice is required, and there are no tools.", param="tool_choice")
        return names[0] if len(names) == 1 else None
    name = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    if name not in names:
        raise BadRequest("tool_choice must be none, auto, required or name one of the tools.", param="tool_choice")
    return name


def _stops(body: Fields) -> tuple[str, ...]:
    raw = body.raw.get("stop")
    stops: list[Any] = [] if raw is None else [raw] if isinstance(raw, str) else raw
    if not isinstance(raw, list | str | None) or not all(isinstance(stop, str) for stop in stops):
        raise BadRequest("stop must be text or a list of texts.", param="stop")
    if len(stops) > MAX_STOPS:
        raise BadRequest(f"stop may hold at most {MAX_STOPS} texts.", param="stop")
    return tuple(stop for stop in stops if stop)


def _tools_as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The same talk in plain messages: offers in the system message, calls and results between Hermes' tags."""
    out = [_plain(message) for message in messages]
    if not tools:
        return out
    offers = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = (
        f"You may call these tools:\n<tools>\n{offers}\n</tools>\nTo call one, answer with\n<tool_call>\n"
        '{"name": <its name>, "arguments": <an object of arguments>}\n</tool_call>'
    )
    if out and out[0].role == "system":
        out[0] = replace(out[0], content=f"{out[0].content}\n\n{text}")
    else:
        out.insert(0, Message("system", text))
    return out


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.tool_calls:
        return message
    calls = [
        f'<tool_call>\n{{"name": {json.dumps(call["function"]["name"])}, '
        f'"arguments": {call["function"]["arguments"]}}}\n</tool_call>'
        for call in message.tool_calls
    ]
    return replace(message, content="\n".join([*([message.content] if message.content else []), *calls]), tool_calls=())
