"""Every knob, once: these frozen dataclasses are the options, the TOML file and the Python API.

A docstring under a field is its `--help` text, its type holds its range. No torch here.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from talktune.errors import UserError

Aggregation = Literal["token", "sequence"]
Grouping = Literal["prompt", "conversation", "batch", "running", "none"]
Kl = Literal["k1", "k2", "k3", "k3xratio"]
OldLogprobs = Literal["rollout", "recomputed"]
PenaltyShape = Literal["linear", "quadratic"]
Schedule = Literal["constant", "linear", "cosine"]
ExportFormat = Literal["openai", "kto", "grpo"]
Auto = Literal["auto", "off"]
Tracker = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True)
class Range:
    """Which numbers an option takes: an interval, whose ends are in it or not."""

    low: float = -math.inf
    high: float = math.inf
    ends: str = "[]"

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        return above and (value <= self.high if self.ends[1] == "]" else value < self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{self.low} or more" if self.ends[0] == "[" else f"greater than {self.low}"
        if self.ends == "[]":
            return f"between {self.low} and {self.high}"
        return f"in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Real = Annotated[float, Range()]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, ends="(]")]
Share = Annotated[float, Range(0, 1)]
SomeShare = Annotated[float, Range(0, 1, "(]")]
NotAll = Annotated[float, Range(0, 1, "[)")]


@dataclass(frozen=True)
class ModelConfig:
    """Which causal language model, and where its LoRA adapter sits."""

    model: str = "smollm2"
    """Hugging Face id, a directory, a GGUF file, ollama:NAME, or `smollm2` (the shipped SmolLM2-135M-Instruct)."""
    adapter: Path | None = None
    """A LoRA adapter in PEFT's format, or a run directory that holds one, to start from."""
    device: str = "auto"
    """`auto` (a GPU when there is one), `cpu`, `cuda`, `cuda:1`, …"""
    lora_rank: Natural = 16
    """Rank r of the adapter; 0 trains all weights."""
    lora_alpha: Positive = 32.0
    """The adapter's output is scaled by alpha / rank."""


@dataclass(frozen=True)
class JudgeConfig:
    """Who judges, and how often it is asked."""

    judge: str = "local"
    """`local` (a model here), `oracle` (knows the truth), `endpoint` (a server) or `package.module:function`."""
    votes: Count = 5
    """m, votes a turn; odd avoids ties."""
    exact: bool = False
    """Take the mode of the judge's own distribution (m → ∞ votes) instead of m votes; one pass, no sampling."""
    judge_mode: Literal["head", "logprobs", "reasoning"] = "head"
    """Local judge: a small head on hidden states, verdict log-probs, or sampled reasoning with a boxed score."""
    judge_model: str = "smollm2"
    """Model of the local judge, or the model name that an endpoint is asked for."""
    judge_head: Path | None = None
    """Verdict head made by `talktune judge-train`; the shipped one by default for `smollm2`."""
    judge_url: str = "http://127.0.0.1:8000/v1"
    """Base URL of the endpoint judge's OpenAI-compatible server."""
    judge_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the endpoint's key; never the key itself."""
    judge_timeout: Positive = 60.0
    """Seconds that one call to the endpoint may take."""
    judge_retries: Natural = 3
    """How often one failed call to the endpoint is tried again, with backoff."""
    judge_temperature: NotNegative = 0.7
    """Temperature of sampled votes (endpoint)."""
    judge_accuracy: Share = 1.0
    """Share of votes that the oracle gets right."""


@dataclass(frozen=True)
class AlgorithmConfig:
    """GRPO-TCR: group-relative advantages, Token-level loss, Clip-higher, overlong Reward shaping."""

    group: Grouping = "batch"
    """What shares a baseline: `prompt`, `conversation`, `batch`, `running` or `none` (A = r)."""
    scale: Literal["std", "none"] = "std"
    """Divide advantages by the group's standard deviation, or not (Dr. GRPO)."""
    baseline: Literal["mean", "leave-one-out"] = "mean"
    """The group's mean, or the mean of the others (RLOO)."""
    eps_low: NotAll = 0.2
    """Lower clip range: ratios under 1 − eps_low carry no gradient for bad answers."""
    eps_high: NotNegative = 0.28
    """Upper clip range, higher than the lower one so that rare good tokens can grow."""
    eps_high_end: NotNegative | None = None
    """Value of eps_high at the end of training, with a schedule."""
    eps_high_schedule: Schedule = "constant"
    """How eps_high moves from start to end."""
    beta: NotNegative = 0.2
    """Weight of the KL to the frozen reference."""
    kl: Kl = "k3xratio"
    """Estimator of that KL."""
    aggregation: Aggregation = "token"
    """Mean over all tokens of the update, or over samples first."""
    dual_clip: Annotated[float, Range(1, ends="(]")] | None = None
    """Bound c on −A·ratio for bad answers (3 is usual); off by default."""
    old: OldLogprobs = "rollout"
    """Old log-probs: as captured when sampled, or recomputed at the start of the update."""
    max_staleness: Natural = 4
    """A sample more than this many policy versions old is not used."""
    L_max: Count = 1000
    """Answer length, in tokens, from which the length penalty is −1."""
    L_cache: Natural = 200
    """Width in tokens of the zone before L_max in which the penalty grows; 0 is a hard limit."""
    penalty_shape: PenaltyShape = "linear"
    """How the penalty grows in that zone."""
    distill: Auto | NotNegative = "off"
    """Weight in the loss of what the model says to a disliked turn once it has read the complaint (0.1, say); `off`; or
    `auto`: on where a probe shows that such answers are better."""

    wanted: Share = 0.1
    """Weight of an answer that a person said they wanted, as a multiple of a real turn; 0 is off."""

    @property
    def distills(self) -> bool:
        """Whether disliked turns are given a teacher, which may yet be asked for nothing with `auto`."""
        return self.distill not in ("off", 0)


@dataclass(frozen=True)
class FreshConfig:
    """Answers that nobody judged, scored by a model of what this user likes."""

    fresh_answers: Natural = 6
    """Fresh answers to the prompt of each judged turn, learned from as far as this user's verdicts can be foretold;
    0 is off."""
    guided: Natural = 0
    """Of them, those that are sampled with the complaint before the question, where a turn was disliked in words."""


@dataclass(frozen=True)
class TrainConfig:
    """One run of the learner."""

    updates: Count | None = None
    """Stop after this many updates; by default one pass over the samples."""
    epochs: Count = 1
    """Passes over the samples of a file."""
    batch_turns: Count = 16
    """Turns of one update."""
    learning_rate: Positive = 1e-4
    """Learning rate of AdamW."""
    weight_decay: NotNegative = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: Positive = 1.0
    """Gradient norm is clipped to this."""
    microbatch_tokens: Count = 2048
    """Tokens of one forward pass; changes memory, never the result."""
    base_4bit: bool = False
    """`talktune train`: hold the frozen base in 4 bits beside the adapter (QLoRA; needs bitsandbytes)."""
    checkpoint_layers: bool = False
    """Keep only what enters each layer and compute the rest again on the way back: less memory, a third more time."""
    piece_tokens: Count | None = None
    """Cut a sample that is longer into passes of so many tokens, whose keys and values are kept: less memory, the same
    gradient, for one more pass forward. Off by default."""
    no_packing: bool = False
    """One sample a forward pass, for architectures whose samples cannot share what they have in common."""
    max_tokens: Count = 2048
    """Longest prompt plus answer, in tokens; longer turns are skipped and counted."""
    truncated: Literal["train", "skip"] = "train"
    """Answers that were cut off (token limit, content filter): trained as far as they go, or left out (as in DAPO)."""
    keep_checkpoints: Count = 2
    """How many checkpoints stay on disk."""
    track: Tracker | None = None
    """Tell TensorBoard, Weights & Biases or trackio the metrics of each update, too; their package is needed."""
    seed: Seed = 0
    """Everything random comes from this."""


@dataclass(frozen=True)
class SampleConfig:
    """How answers are sampled."""

    temperature: NotNegative = 0.8
    """Sampling temperature; 0 is greedy."""
    top_p: SomeShare = 1.0
    """Nucleus cut; log-probs stay those before the cut."""
    top_k: Natural = 0
    """Sample from the k likeliest tokens only; 0 is all of them."""
    max_new_tokens: Count = 256
    """Longest answer in tokens."""


@dataclass(frozen=True)
class DemoConfig:
    """The demo's rollouts: how many questions are asked at each update, and how often each is answered."""

    questions: Count = 6
    """Held-in questions of one update."""
    answers: Count = 8
    """G, answers to each of them that the user reacts to."""
    shuffle_rewards: bool = False
    """Deal the rewards out anew among the answers of an update: a control in which nothing can be learned."""


@dataclass(frozen=True)
class GreedySampleConfig(SampleConfig):
    """Sampling where a comparison wants the likeliest answer."""

    temperature: NotNegative = 0.0


@dataclass(frozen=True)
class DemoAlgorithmConfig(AlgorithmConfig):
    """GRPO-TCR as the demo runs it: the answers to one question are a group."""

    group: Grouping = "prompt"
    beta: NotNegative = 0.04


@dataclass(frozen=True)
class DemoFreshConfig(FreshConfig):
    """Fresh answers in the demo, whose user reacts to eight answers to each question."""

    fresh_answers: Natural = 0


@dataclass(frozen=True)
class DemoTrainConfig(TrainConfig):
    """The learner as the demo runs it."""

    updates: Count | None = 30
    """Stop after this many updates."""
    learning_rate: Positive = 4e-4
    microbatch_tokens: Count = 512


@dataclass(frozen=True)
class DemoSampleConfig(SampleConfig):
    """Short answers, so that the demo is quick."""

    max_new_tokens: Count = 48


@dataclass(frozen=True)
class LabConfig:
    """Sizes of the lab's experiments."""

    seed: Seed = 0
    """The first seed; experiments with several take the following ones too."""
    seeds: Count = 5
    """How many seeds a training experiment runs, for its bands."""
    updates: Annotated[int, Range(20)] = 200
    """Updates of a training experiment, at most."""
    trials: Count = 20_000
    """Simulated cases of an experiment that only draws votes or rewards."""


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


@dataclass(frozen=True)
class Config:
    """The whole tree, as written to `config.toml` in a run directory."""

    model: ModelConfig = field(default_factory=ModelConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    demo: DemoConfig | None = None
    lab: LabConfig | None = None
    serve: ServeConfig | None = None
    live: LiveConfig | None = None
    gate: GateConfig | None = None
    fresh: FreshConfig | None = None


def config_to_json(config: Config) -> str:
    """The whole tree for another process."""
    return json.dumps(asdict(config), default=str)


def config_from_json(text: str) -> Config:
    """The inverse of `config_to_json`."""
    return _typed(json.loads(text), Config)


def _typed(value: Any, kind: Any) -> Any:
    """A value from JSON as a field of type `kind`, or `kind | None`, holds it."""
    if isinstance(value, dict):
        part: Any = next(filter(is_dataclass, (kind, *get_args(kind))))
        return part(**{f.name: _typed(value[f.name], f.type) for f in fields(part)})
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in (kind, *get_args(kind)) else value


def _installed(package: str) -> bool:
    """Whether there is such a package; a folder of that name without code, as trackers leave, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None


Part = TypeVar("Part")


def check_config(config: Part) -> Part:
    """Return a tree or a part of it if its values make sense, alone and together; a UserError names the option."""
    kinds = {f.name: f.type for f in fields(config)}  # type: ignore[arg-type]
    check_values({name: getattr(config, name) for name in kinds}, kinds)
    match config:
        case AlgorithmConfig(L_cache=zone, L_max=longest) if zone > longest:
            raise UserError(f"--L-cache is {zone}: it must be between 0 and L_max ({longest}).")
        case AlgorithmConfig(distill=str(word)) if word not in get_args(Auto):
            raise UserError(f"--distill is {word}: it must be auto, off or a weight.")
        case TrainConfig(track=str(tracker)) if not _installed(tracker):
            raise UserError(f"--track {tracker}: its package is missing; install it with `pip install {tracker}`.")
        case FreshConfig(fresh_answers=count, guided=guided) if guided > count:
            raise UserError(f"--guided is {guided}: it must be at most --fresh-answers ({count}).")
        case FreshConfig(fresh_answers=1):
            raise UserError(
                "--fresh-answers is 1: one answer has nothing to be compared with; it must be 0, 2 or more."
            )
        case LiveConfig(notify=str(url)) if not re.match(r"https?://[^/\s]", url):
            raise UserError(f"--notify {url}: write it like https://hooks.example.org/talktune.")
        case LiveConfig(brake_judge=(low, high)) if low > high:
            raise UserError(f"--brake-judge is {(low, high)}: it must be a lower and a higher number.")
        case GateConfig(gate_length_low=low, gate_length_high=high) if low > high:
            raise UserError(f"--gate-length-low is {low}: it must be at most --gate-length-high ({high}).")
        case ServeConfig(side_patterns=patterns, allow_origin=origins):
            for origin in origins:
                if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#*]+", origin):
                    raise UserError(f"--allow-origin {origin}: write it like https://chat.example.org, without a path.")
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise UserError(f"--side-patterns {pattern!r}: is not a regular expression ({error}).") from error
        case _:
            pass
    return config


def check_values(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raise a UserError for the first option whose value is not finite, or not in the range that its type holds."""
    for name, value in values.items():
        if is_dataclass(value):
            check_config(value)
        elif value is not None and (allowed := range_of(kinds.get(name))):
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, str):
                    continue  # a word beside numbers, like `off`
                if number not in allowed or abs(number) == math.inf:
                    wanted = str(allowed) if abs(number) < math.inf else "a finite number"
                    raise UserError(f"--{name.replace('_', '-')} is {value}: it must be {wanted}.")


def range_of(kind: Any) -> Range | None:
    """The range that a type holds somewhere: `Count`, `Count | None`, `tuple[Real, Real]`."""
    return kind if isinstance(kind, Range) else next(filter(None, map(range_of, get_args(kind))), None)
