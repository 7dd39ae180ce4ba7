"""The nouns of talktune, frozen. Everything else is a function from some of these to others.

Conversation -> Turn -> Vote -> Verdict -> Sample -> (update)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Label = Literal[-1, 0, 1]
TurnKind = Literal["main", "side"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message in OpenAI chat form; `developer` has become `system`, content parts have become text."""

    role: Role
    content: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    name: str | None = None
    has_image: bool = False
    """True when a content part was an image: the turn is served, never trained."""
    words: str | None = None
    """What of the content is its author's, where a client was seen to put more into it; empty for a message that only
    passed by: a later history no longer has it. None where all of it counts."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the engine really sampled for one answer: it is trained on exactly as it is.

    `logprobs` are of softmax(logits / temperature), one per id of `answer_ids`, and None where those that sampled
    are not known: so they are when one of them is no finite number.
    """

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    temperature: float
    policy_version: int | None = None

    def __post_init__(self) -> None:
        if self.logprobs is not None and not all(map(isfinite, self.logprobs)):
            object.__setattr__(self, "logprobs", None)


@dataclass(frozen=True, slots=True)
class Vote:
    """One judgement of one turn: +1 good, 0 neutral, -1 bad, or `None` for a vote that failed."""

    label: Label | None
    confidence: float | None = None
    """Probability in (0, 1] that the judge gives to its own label, where it has one."""
    judge: str = ""
    reason: str = ""
    """Why a vote failed (an error in one sentence), or the judge's words where it gave some."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The votes on one turn and the reward made of them; `reward` is `None` while a turn is unscored."""

    votes: tuple[Vote, ...]
    reward: float | None


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant message with everything before it (the prompt) and its next state."""

    conversation_id: str
    index: int
    """Position of the assistant message among the conversation's messages, from 0."""
    prompt: tuple[Message, ...]
    """As the client sent it."""
    answer: Message
    next_state: tuple[Message, ...] = ()
    """The user's reply, or all results of this message's tool calls; empty when nothing followed."""
    tools: tuple[Mapping[str, Any], ...] = ()
    kind: TurnKind = "main"
    sampled: Sampled | None = None
    verdict: Verdict | None = None
    before: tuple[Message, ...] | None = None
    """The conversation's own messages before the answer, where the client had sent others as its history."""
    finish: str | None = None
    """Why the engine ended the answer, in OpenAI's words (stop, length, …), where it is known."""
    wanted: str | None = None
    """The answer that the person wanted, where they said so."""

    @property
    def id(self) -> str:
        """What commands, samples and files call the turn."""
        return f"{self.conversation_id}:{self.index}"

    @property
    def cut_off(self) -> bool:
        """Whether the answer was ended by something else than the model."""
        return self.finish in ("length", "content_filter")


@dataclass(frozen=True, slots=True)
class Conversation:
    """One session: ordered messages, and what is already known of its turns (by message index)."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    kinds: Mapping[int, TurnKind] = field(default_factory=dict[int, TurnKind])
    sampled: Mapping[int, Sampled] = field(default_factory=dict[int, Sampled])
    verdicts: Mapping[int, Verdict] = field(default_factory=dict[int, Verdict])
    prompts: Mapping[int, tuple[Message, ...]] = field(default_factory=dict[int, tuple[Message, ...]])
    """What an answer was given to, where that is not just the messages before it: clients shorten and change what
    they send."""
    finishes: Mapping[int, str] = field(default_factory=dict[int, str])
    wanted: Mapping[int, str] = field(default_factory=dict[int, str])
    """What people wanted to be answered."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One scored answer as token ids: all that the learner needs to know of a turn."""

    id: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    reward: float
    """From the votes, before length shaping."""
    group: str
    """Samples of one group share a baseline."""
    rollout_logprobs: tuple[float, ...] | None = None
    temperature: float = 1.0
    policy_version: int | None = None
    retokenised: bool = False
    """True when the log had no token ids and the chat template rendered them again."""
    teacher_prompt_ids: tuple[int, ...] | None = None
    """The same prompt with the reaction to a disliked answer in it, where the learner is to be taught by that."""
    wanted_ids: tuple[int, ...] | None = None
    """The answer that the person wanted, with the token that ends it, where they said so."""
