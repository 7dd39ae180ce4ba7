"""The options of the server, of learning beside it, and of the gate. Open it to add one, or to see what one means."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from talktune.config.ranges import Count, Natural, NotAll, NotNegative, Positive, Range, Real, Share, SomeShare
from talktune.config.training import TrainConfig


@dataclass(frozen=True)
class ServeConfig:
    """The server: where it listens, what it forwards to, what it keeps, how much it takes."""

    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs a key (TALKTUNE_API_KEY or --keys)."""
    port: Annotated[int, Range(0, 2**16 - 1)] = 30000
    """Port to listen on; 0 takes a free one."""
    upstream: tuple[str, ...] = ()
    """Base URL of an OpenAI-compatible engine (vLLM, SGLang, llama.cpp, …), repeatable: requests are shared out among
    several; without it a host is started here."""
    engine: Literal["host", "llama.cpp"] = "host"
    """What answers here without --upstream: `host`, which judges and learns beside it, or `llama.cpp` (pip install
    'talktune[llama]'; --model a GGUF file), started again between two requests for each new version."""
    upstream_key_env: str = "TALKTUNE_UPSTREAM_KEY"
    """Name of the environment variable that holds the engine's key; never the key itself."""
    store: str = "talktune.db"
    """Where conversations are kept: a SQLite file, or a database URL (postgresql://…)."""
    keys: Path | None = None
    """File with a line `USER KEY` for each user (`USER KEY admin` for who may promote versions); users do not see each
    other's conversations."""
    allow_origin: tuple[str, ...] = ()
    """Origin of a web page that may talk to this server, like https://chat.example.org; none by default, repeatable."""
    forward: tuple[str, ...] = ()
    """Field of requests that goes on to the engine of --upstream besides the usual ones, like chat_template_kwargs, or
    image_url for pictures that the engine fetches itself; repeatable."""
    strict_models: bool = False
    """Refuse model names that the engine does not have; by default the live policy answers under any name."""
    temperature: Annotated[float, Range(0, 2)] = 0.8
    """Sampling temperature of requests that name none."""
    max_answer_tokens: Count = 4096
    """Longest answer in tokens; requests for more are clamped."""
    max_messages: Count = 10_000
    """Most messages of one request."""
    max_body_mib: Count = 16
    """Longest request body, in MiB."""
    max_running: Count = 256
    """Most requests answered at once; more are told to come again."""
    key_running: Count = 64
    """Most requests under way with one key, where keys are asked for; those that only read are counted apart."""
    key_body_mib: Count = 64
    """Most MiB of request bodies that one key may hold at once."""
    key_rate: Count = 1200
    """Most requests in a minute with one key; those that only read are counted apart."""
    idle_minutes: Positive = 60.0
    """A conversation is closed when nothing was said in it for so long."""
    grace: NotNegative = 20.0
    """Seconds that running answers may go on after SIGTERM."""
    side_patterns: tuple[str, ...] = ()
    """Regular expressions for side turns of your own clients, served and never trained: each is looked for in the
    ends of the system prompt and of what was said since the last answer. Titles, heartbeats and the like are known."""


@dataclass(frozen=True)
class LiveTrainConfig(TrainConfig):
    """The learner beside a server."""

    epochs: Count = 1
    """In how many updates each turn takes part."""
    batch_turns: Count = 16
    """Turns of one update; up to four times as many where they come faster than updates."""
    learning_rate: Positive = 1e-3
    microbatch_tokens: Count = 128
    """Tokens of one forward pass: more learn faster and take more memory; never changes the result."""


@dataclass(frozen=True)
class LiveConfig:
    """Judging and learning while the server serves."""

    policies: Path = Path("policies")
    """Where versions of the policy and checkpoints are kept."""
    keep_versions: Annotated[int, Range(2)] = 16
    """Versions of each lineage whose files stay on disk, with as many ancestors of the live one; none goes that an
    engine has."""
    no_judge: bool = False
    """Do not judge here (another process does, or nobody)."""
    no_learn: bool = False
    """Do not learn here (another process does, or nobody)."""
    per_user: bool = False
    """Every user has an adapter of their own, learned from their turns alone."""
    timer_minutes: Positive = 30.0
    """Update with fewer turns than --batch-turns when the oldest has waited for so long."""
    user_share: SomeShare = 0.5
    """Largest share of an update that one user can fill, where there are several."""
    answers: Annotated[int, Range(2)] = 4
    """With --group prompt: answers to each prompt, fresh ones judged against the same next state."""
    holdout: NotAll = 0.1
    """Share of the conversations that is kept from training: the gate asks them."""
    shuffle_rewards: bool = False
    """Deal the rewards out anew within each update: a control in which nothing can be learned."""
    notify: str | None = None
    """URL that gets a JSON POST of a new version, a rejected one, a brake, a judge that is down for five minutes."""
    brake_kl: NotNegative = 3.0
    """Learning stops when an update's KL to the base model is higher, in nats a token."""
    brake_entropy: NotNegative = 0.05
    """Learning stops when the entropy at the trained tokens is lower, in nats."""
    brake_length: NotNegative = 2.0
    """Learning stops when the mean answer of an update is shorter, in tokens."""
    brake_judge: tuple[Real, Real] = (-1.0, 1.0)
    """Learning stops when the mean reward of an update is outside of this band."""

    @property
    def brakes(self) -> tuple[tuple[str, str, float, float], ...]:
        """What an update's metrics must hold: words, the metric's name, least and most."""
        low, high = self.brake_judge
        return (
            ("KL to the base model", "kl_ref", -math.inf, self.brake_kl),
            ("entropy", "entropy", self.brake_entropy, math.inf),
            ("mean answer length", "response_length", self.brake_length, math.inf),
            ("mean reward", "reward_mean", low, high),
        )


@dataclass(frozen=True)
class GateConfig:
    """What a new version must hold on the probes before it goes live."""

    probes: Path | None = None
    """JSONL of {"prompt": …, "answer": [words]}, open ones without an answer; the shipped ones by default."""
    no_gate: bool = False
    """Let every version go live."""
    gate_upstream: str = ""
    """Base URL of a vLLM engine that serves, to be asked the probes in place of the learner's own copy of the model:
    what is examined is then what will answer. It must see the directory of --policies."""
    real_probes: Natural = 8
    """Recent prompts of held-out conversations that are asked besides."""
    probe_tokens: Count = 64
    """Longest answer to a probe."""
    gate_facts: Share = 0.8
    """Share of the facts that the base model knows which must still be right."""
    gate_ended: NotNegative = 0.7
    """Fewest answers that end by themselves, as a multiple of the base model's, however many versions it took."""
    gate_kl: NotNegative = 1.5
    """Largest KL to the base model, in nats a token."""
    gate_length_low: NotNegative = 0.1
    """Shortest mean answer, as a multiple of the base model's."""
    gate_length_high: NotNegative = 1.5
    """Longest mean answer, as a multiple of the base model's."""
    gate_repetition: Share = 0.1
    """By how much the share of repeated runs of words may exceed the live version's."""
    gate_distinct: NotNegative = 0.6
    """Smallest share of different answers, as a multiple of the base model's."""
    gate_empty: Share = 0.1
    """By how much the share of empty answers may exceed the base model's."""
