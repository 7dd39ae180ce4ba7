"""`talktune chat`: talk to a policy in the terminal; what is said can be kept for training."""

import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from talktune.commands.console import err, out, plain, warn
from talktune.commands.options import Seed, Url
from talktune.config import ModelConfig, SampleConfig
from talktune.errors import UserError
from talktune.types import Conversation, Message, Sampled

if TYPE_CHECKING:
    from talktune.commands.remote import Remote

COMMANDS = "/good and /bad judge the last answer, /say TEXT tells what it should have been, /undo takes it back"


def chat(
    *,
    model: ModelConfig = ModelConfig(),
    sample: SampleConfig = SampleConfig(),
    seed: Seed = 0,
    save: Path | None = None,
    url: Url | None = None,
) -> int:
    """Talk to a policy in the terminal, or with --url to a running server: it keeps the talk, and learns from it.

    With --url, /good and /bad judge the last answer, /say TEXT tells what it should have been, and /undo takes it back.

    Parameters
    ----------
    save
        Append the talk to this JSONL file, with the sampled tokens, for `talktune train`.
    """
    if url is not None:
        if (model, sample, seed, save) != (ModelConfig(), SampleConfig(), 0, None):
            raise UserError("--url: the server has a model, a way to sample and a store of its own; give it alone.")
        from talktune.commands.remote import Remote

        with Remote(url) as server:
            _Talk(server).run()
        return 0
    from talktune.conversations.records import conversation_to_dict
    from talktune.policy.load import Policy
    from talktune.policy.sample import sample_answers
    from talktune.policy.tokens import decode_answer, render_prompt

    if save is not None:
        _append(save, "")  # rather now than after the talk
    policy = Policy.load(model.model, model.adapter, device=model.device)
    ends = policy.end_ids
    messages: list[Message] = []
    sampled: dict[int, Sampled] = {}
    warn("Say something; an empty line or Ctrl-D ends the talk.")
    try:
        while (said := _ask()) is not None:
            messages.append(Message("user", said))
            prompt = render_prompt(policy.tokenizer, messages, ())
            show = _Printer(lambda ids: decode_answer(policy.tokenizer, ids))
            turn = seed + len(messages)
            [answer] = sample_answers(policy.model, [prompt], sample, end_ids=ends, seed=turn, on_tokens=show)
            out.print()
            sampled[len(messages)] = answer
            messages.append(Message("assistant", policy.text(answer)))
    finally:  # Ctrl-C is a way to end a talk, too
        if save is not None and sampled:
            talk = Conversation(f"chat-{uuid.uuid4().hex[:12]}", tuple(messages), sampled=sampled)
            _append(save, json.dumps(conversation_to_dict(talk), ensure_ascii=False) + "\n")
            warn(f"The talk is in {save}")
    return 0


class _Talk:
    """One conversation with a running server."""

    def __init__(self, server: "Remote") -> None:
        self.server = server
        self.model = server.model()
        self.session = f"chat-{uuid.uuid4().hex[:12]}"
        self.messages: list[dict[str, str]] = []
        self.answers: list[str] = []
        """The id of each answer that stands."""

    def run(self) -> None:
        """Talk until an empty line, Ctrl-D or Ctrl-C; what fails is said, and the talk goes on."""
        warn(f"Say something to {self.model}; an empty line or Ctrl-D ends the talk.\n{COMMANDS}.")
        try:
            while (said := _ask()) is not None:
                try:
                    self._command(said) if re.fullmatch("/[a-z]+", said.split()[0]) else self._say(said)
                except UserError as error:
                    warn(error)
        except KeyboardInterrupt:
            warn("")

    def _say(self, text: str) -> None:
        """Ask; an answer that fails, or that Ctrl-C stops, is no part of the talk, nor is its question."""
        asked = [*self.messages, {"role": "user", "content": text}]
        pieces: list[tuple[str, str]] = []
        try:
            for piece in self.server.answer(self.model, asked, self.session):
                pieces.append(piece)
                out.print(plain(piece[1]), end="", markup=False, highlight=False, soft_wrap=True)
        except KeyboardInterrupt:
            warn("\nStopped, and taken back.")
            return
        out.print()
        if not pieces:
            raise UserError(f"{self.server.url}: no answer came.")
        self.messages = [*asked, {"role": "assistant", "content": "".join(text for _, text in pieces)}]
        self.answers.append(pieces[-1][0])

    def _command(self, said: str) -> None:
        name, _, text = said.partition(" ")
        if name not in ("/good", "/bad", "/say", "/undo"):
            raise UserError(f"There is no {name}: {COMMANDS}.")
        if name == "/say" and not text.strip():
            raise UserError("/say what? Write the answer that you wanted behind it.")
        if not self.answers:
            raise UserError(f"{name}: there is no answer yet.")
        if name == "/undo":
            self.answers.pop()
            *self.messages, asked, _ = self.messages
            warn(f"Taken back: {asked['content']}")
            return
        what = {"better": text.strip()} if name == "/say" else {"thumbs": "up" if name == "/good" else "down"}
        self.server.feedback(self.answers[-1], **what)
        warn({"/good": "Noted: a good answer.", "/bad": "Noted: a bad answer."}.get(name, "Noted: the wanted answer."))


class _Printer:
    """Prints what one row's new tokens add to its text."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.ids: list[int] = []
        self.shown = ""

    def __call__(self, rows: list[int], tokens: list[int]) -> None:
        self.ids += tokens
        text = self.decode(self.ids)
        if not text.endswith("\ufffd"):  # half of a character: wait for the rest
            out.print(text[len(self.shown) :], end="", markup=False, highlight=False, soft_wrap=True)
            self.shown = text


def _ask() -> str | None:
    try:
        said = err.input("you: ").strip()
    except EOFError:
        return None
    return said or None


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"--save {path}: cannot be written ({error.strerror}).") from error
