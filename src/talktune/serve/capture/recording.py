"""Records one request and its answers while they come, and makes turns of them.

Open it to see what of an answer is stored: `Recording.turn`.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from talktune.serve.capture.find_turn import Place
from talktune.serve.capture.history_hash import extend
from talktune.serve.dialects.chat_request import ChatRequest
from talktune.serve.dialects.recorder import Recorder
from talktune.serve.engines.kinds import EngineKind, Tokens, steered
from talktune.serve.engines.versions import VERSION
from talktune.store.rows import NewTurn, TurnState, new_id


@dataclass
class _Choice:
    recorder: Recorder
    tokens: Tokens
    kept: bool = False


@dataclass
class Recording:
    """A request, the turn that it continues, and its choices by index."""

    asked: ChatRequest
    user: str
    kind: EngineKind
    temperature: float
    """That the engine was asked for."""
    scaled: bool = False
    """Whether this engine's log-probs are of softmax(logits / temperature)."""
    version: int | None = None
    """Of the policy that answers; None for the engine's own model."""
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    """The client's form has its own."""
    place: Place | None = None
    prompt_ids: tuple[int, ...] | None = None
    """For an engine that tells them on another route."""
    model: str = ""
    choices: dict[int, _Choice] = field(default_factory=dict[int, _Choice])

    @property
    def begun(self) -> bool:
        """Whether anything was said."""
        return any(choice.recorder.begun for choice in self.choices.values())

    def add(self, body: Mapping[str, Any]) -> list[int]:
        """Take in one chunk, or a whole reply; returns the choices that ended with it."""
        self.model = str(body.get("model") or self.model)
        ended: list[int] = []
        for entry in body.get("choices") or ():
            index = int(entry.get("index") or 0)
            choice = self.choices.setdefault(index, _Choice(Recorder(), Tokens(self.kind)))
            choice.recorder.add(entry)
            choice.tokens.add(body, entry)
            if choice.recorder.finish is not None and not choice.kept:
                ended.append(index)
        return ended

    def turn(self, index: int, state: TurnState = "complete") -> NewTurn:
        """Make the turn of one choice, which is committed once. The place must be known."""
        assert self.place is not None
        choice = self.choices[index]
        choice.kept = True
        if choice.tokens.prompt_ids is None:
            choice.tokens.prompt_ids = self.prompt_ids
        sampled = choice.recorder.message()
        answer = self.place.whole(sampled)
        named = VERSION.search(self.model)  # an engine that chose a version by itself says so
        version = int(named[1]) if self.version is None and named else self.version
        return NewTurn(
            id=self.id if index == 0 else f"{self.id}-{index}",
            user=self.user,
            conversation=self.place.conversation,
            parent=self.place.parent,
            hash=extend(self.place.state, answer),
            messages=self.place.messages,
            answer=answer,
            engine=f"{self.kind} {self.model}"[:80],
            created=time.time(),
            system=self.asked.system,
            tools=self.asked.tools,
            kind=self.asked.kind,
            state=state,
            finish=choice.recorder.ended,
            sampled=choice.tokens.sampled(
                sampled, self.temperature, version, scaled=self.scaled, cut=steered(self.asked.raw)
            ),
            session=self.asked.session,
            history=self.place.history,
            lost=self.place.lost,
        )

    def keep_again(self, indices: Iterable[int]) -> None:
        """Mark these choices as not stored, because their turns could not be committed."""
        for index in indices:
            self.choices[index].kept = False

    def left(self) -> list[NewTurn]:
        """Make partial turns of choices that had begun and never ended: the client left, or the engine broke off."""
        if self.place is None:
            return []
        begun = [i for i, choice in self.choices.items() if not choice.kept and choice.recorder.begun]
        return [self.turn(i, "partial") for i in begun]
