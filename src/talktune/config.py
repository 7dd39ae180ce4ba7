"""Every knob, once: these frozen dataclasses are the options, the TOML file and the Python API.

A docstring under a field is its `--help` text. Defaults are the spec's. No torch here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from talktune.errors import UserError

Aggregation = Literal["token", "sequence"]
Grouping = Literal["prompt", "conversation", "batch", "running", "none"]
Kl = Literal["k1", "k2", "k3", "k3xratio"]
OldLogprobs = Literal["rollout", "recomputed"]
PenaltyShape = Literal["linear", "quadratic"]
Schedule = Literal["constant", "linear", "cosine"]
ExportFormat = Literal["openai", "kto", "grpo"]
GROUPS: tuple[Grouping, ...] = ("prompt", "conversation", "batch", "running", "none")


@dataclass(frozen=True)
class ModelConfig:
    """Which causal language model, and where its LoRA adapter sits."""

    model: str = "smollm2"
    """Hugging Face id, a directory, or `smollm2` (the shipped SmolLM2-135M-Instruct)."""
    adapter: Path | None = None
    """A LoRA adapter in PEFT's format, or a run directory that holds one, to start from."""
    device: str = "auto"
    """`auto` (a GPU when there is one), `cpu`, `cuda`, `cuda:1`, …"""
    lora_rank: int = 16
    """Rank r of the adapter; 0 trains all weights."""
    lora_alpha: float = 32.0
    """The adapter's output is scaled by alpha / rank."""


@dataclass(frozen=True)
class JudgeConfig:
    """Who judges, and how often it is asked."""

    judge: str = "local"
    """`local` (a model here), `oracle` (knows the truth), `endpoint` (a server) or `package.module:function`."""
    votes: int = 5
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
    judge_timeout: float = 60.0
    """Seconds that one call to the endpoint may take."""
    judge_retries: int = 3
    """How often one failed call to the endpoint is tried again, with backoff."""
    judge_temperature: float = 0.7
    """Temperature of sampled votes (endpoint)."""
    judge_accuracy: float = 1.0
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
    eps_low: float = 0.2
    """Lower clip range: ratios under 1 − eps_low carry no gradient for bad answers."""
    eps_high: float = 0.28
    """Upper clip range, higher than the lower one so that rare good tokens can grow."""
    eps_high_end: float | None = None
    """Value of eps_high at the end of training, with a schedule."""
    eps_high_schedule: Schedule = "constant"
    """How eps_high moves from start to end."""
    beta: float = 0.02
    """Weight of the KL to the frozen reference."""
    kl: Kl = "k3xratio"
    """Estimator of that KL."""
    aggregation: Aggregation = "token"
    """Mean over all tokens of the update, or over samples first."""
    dual_clip: float | None = None
    """Bound c on −A·ratio for bad answers (3 is usual); off by default."""
    old: OldLogprobs = "rollout"
    """Old log-probs: as captured when sampled, or recomputed at the start of the update."""
    max_staleness: int = 4
    """A sample more than this many policy versions old is not used."""
    L_max: int = 1000
    """Answer length, in tokens, from which the length penalty is −1."""
    L_cache: int = 200
    """Width in tokens of the zone before L_max in which the penalty grows; 0 is a hard limit."""
    penalty_shape: PenaltyShape = "linear"
    """How the penalty grows in that zone."""


@dataclass(frozen=True)
class TrainConfig:
    """One run of the learner."""

    updates: int | None = None
    """Stop after this many updates; by default one pass over the samples."""
    epochs: int = 1
    """Passes over the samples of a file."""
    batch_turns: int = 16
    """Turns of one update."""
    learning_rate: float = 1e-4
    """Learning rate of AdamW."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradient norm is clipped to this."""
    microbatch_tokens: int = 2048
    """Tokens of one forward pass; changes memory, never the result."""
    no_packing: bool = False
    """One sample a forward pass, for architectures whose samples cannot share what they have in common."""
    max_tokens: int = 2048
    """Longest prompt plus answer, in tokens; longer turns are skipped and counted."""
    keep_checkpoints: int = 2
    """How many checkpoints stay on disk."""
    seed: int = 0
    """Everything random comes from this."""


@dataclass(frozen=True)
class SampleConfig:
    """How answers are sampled."""

    temperature: float = 0.8
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus cut; log-probs stay those before the cut."""
    top_k: int = 0
    """Sample from the k likeliest tokens only; 0 is all of them."""
    max_new_tokens: int = 256
    """Longest answer in tokens."""


@dataclass(frozen=True)
class DemoConfig:
    """The demo's rollouts: how many questions are asked at each update, and how often each is answered."""

    questions: int = 6
    """Held-in questions of one update."""
    answers: int = 8
    """G, answers sampled to each of them."""
    shuffle_rewards: bool = False
    """Deal the rewards out anew among the answers of an update: a control in which nothing can be learned."""


@dataclass(frozen=True)
class GreedySampleConfig(SampleConfig):
    """Sampling where a comparison wants the likeliest answer."""

    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""


@dataclass(frozen=True)
class DemoAlgorithmConfig(AlgorithmConfig):
    """GRPO-TCR as the demo runs it: the answers to one question are a group."""

    group: Grouping = "prompt"
    """What shares a baseline: `prompt`, `conversation`, `batch`, `running` or `none` (A = r)."""
    beta: float = 0.04
    """Weight of the KL to the frozen reference."""


@dataclass(frozen=True)
class DemoTrainConfig(TrainConfig):
    """The learner as the demo runs it."""

    updates: int | None = 30
    """Stop after this many updates."""
    learning_rate: float = 4e-4
    """Learning rate of AdamW."""
    microbatch_tokens: int = 512
    """Tokens of one forward pass; changes memory, never the result."""


@dataclass(frozen=True)
class DemoSampleConfig(SampleConfig):
    """Short answers, so that the demo is quick."""

    max_new_tokens: int = 48
    """Longest answer in tokens."""


@dataclass(frozen=True)
class LabConfig:
    """Sizes of the lab's experiments."""

    seed: int = 0
    """The first seed; experiments with several take the following ones too."""
    seeds: int = 5
    """How many seeds a training experiment runs, for its bands."""
    updates: int = 200
    """Updates of a training experiment, at most."""
    trials: int = 20_000
    """Simulated cases of an experiment that only draws votes or rewards."""


SIDE_PATTERNS = (
    r"(?i)\b(generate|create|write|suggest|give)\b[^.\n]{0,60}\b(title|name|headline|summary|tags?)\b[^.\n]{0,40}"
    r"\b(chat|conversation|discussion|session|dialogue|thread|history)\b",
    r"(?i)^#+ task:",
    r"HEARTBEAT",
)
"""Requests that clients make for themselves: titles (many), tasks (Open WebUI), heartbeats (OpenClaw)."""


@dataclass(frozen=True)
class ServeConfig:
    """The server: where it listens, what it forwards to, what it keeps, how much it takes."""

    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs a key (TALKTUNE_API_KEY or --keys)."""
    port: int = 30000
    """Port to listen on; 0 takes a free one."""
    upstream: str | None = None
    """Base URL of an OpenAI-compatible engine (vLLM, SGLang, llama.cpp, …); without it a host is started here."""
    upstream_key_env: str = "TALKTUNE_UPSTREAM_KEY"
    """Name of the environment variable that holds the engine's key; never the key itself."""
    store: str = "talktune.db"
    """Where conversations are kept: a SQLite file, or a database URL (postgresql://…)."""
    keys: Path | None = None
    """File with a line `USER KEY` for each user; users do not see each other's conversations."""
    allow_origin: tuple[str, ...] = ()
    """Origin of a web page that may talk to this server, like https://chat.example.org; none by default, repeatable."""
    strict_models: bool = False
    """Refuse model names that the engine does not have; by default the live policy answers under any name."""
    temperature: float = 0.8
    """Sampling temperature of requests that name none."""
    max_answer_tokens: int = 4096
    """Longest answer in tokens; requests for more are clamped."""
    max_messages: int = 10_000
    """Most messages of one request."""
    max_body_mib: int = 16
    """Longest request body, in MiB."""
    max_running: int = 256
    """Most requests answered at once; more are told to come again."""
    idle_minutes: float = 60.0
    """A conversation is closed when nothing was said in it for so long."""
    grace: float = 20.0
    """Seconds that running answers may go on after SIGTERM."""
    side_patterns: tuple[str, ...] = SIDE_PATTERNS
    """Regular expressions: a request whose last message matches one is a side turn, served and never trained."""


@dataclass(frozen=True)
class LiveTrainConfig(TrainConfig):
    """The learner beside a server."""

    epochs: int = 1
    """In how many updates each turn takes part."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW."""
    microbatch_tokens: int = 128
    """Tokens of one forward pass: more learn faster and take more memory; never changes the result."""


@dataclass(frozen=True)
class LiveConfig:
    """Judging and learning while the server serves."""

    policies: Path = Path("policies")
    """Where versions of the policy and checkpoints are kept."""
    no_judge: bool = False
    """Do not judge here (another process does, or nobody)."""
    no_learn: bool = False
    """Do not learn here (another process does, or nobody)."""
    per_user: bool = False
    """Every user has an adapter of their own, learned from their turns alone."""
    timer_minutes: float = 30.0
    """Update with fewer turns than --batch-turns when the oldest has waited for so long."""
    user_share: float = 0.5
    """Largest share of an update that one user can fill, where there are several."""
    answers: int = 4
    """With --group prompt: answers to each prompt, fresh ones judged against the same next state."""
    holdout: float = 0.1
    """Share of the conversations that is kept from training: the gate asks them."""
    shuffle_rewards: bool = False
    """Deal the rewards out anew within each update: a control in which nothing can be learned."""
    brake_kl: float = 3.0
    """Learning stops when an update's KL to the base model is higher, in nats a token."""
    brake_entropy: float = 0.05
    """Learning stops when the entropy at the trained tokens is lower, in nats."""
    brake_length: float = 2.0
    """Learning stops when the mean answer of an update is shorter, in tokens."""
    brake_judge: tuple[float, float] = (-1.0, 1.0)
    """Learning stops when the mean reward of an update is outside of this band."""


@dataclass(frozen=True)
class GateConfig:
    """What a new version must hold on the probes before it goes live."""

    probes: Path | None = None
    """JSONL of {"prompt": …, "answer": [words]}, open ones without an answer; the shipped ones by default."""
    no_gate: bool = False
    """Let every version go live."""
    real_probes: int = 8
    """Recent prompts of held-out conversations that are asked besides."""
    probe_tokens: int = 64
    """Longest answer to a probe."""
    gate_facts: float = 0.8
    """Share of the facts that the base model knows which must still be right."""
    gate_ended: float = 0.7
    """Fewest answers that end by themselves, as a multiple of the base model's, however many versions it took."""
    gate_kl: float = 1.5
    """Largest KL to the base model, in nats a token."""
    gate_length_low: float = 0.1
    """Shortest mean answer, as a multiple of the base model's."""
    gate_length_high: float = 1.5
    """Longest mean answer, as a multiple of the base model's."""
    gate_repetition: float = 0.1
    """By how much the share of repeated runs of words may exceed the live version's."""
    gate_distinct: float = 0.6
    """Smallest share of different answers, as a multiple of the base model's."""
    gate_empty: float = 0.1
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


PARTS: Mapping[str, type[Any]] = {
    "model": ModelConfig,
    "judge": JudgeConfig,
    "algorithm": AlgorithmConfig,
    "train": TrainConfig,
    "sample": SampleConfig,
    "demo": DemoConfig,
    "lab": LabConfig,
    "serve": ServeConfig,
    "live": LiveConfig,
    "gate": GateConfig,
}
"""Every section by its name."""


def config_to_json(config: Config) -> str:
    """The whole tree for another process."""
    return json.dumps(asdict(config), default=str)


def config_from_json(text: str) -> Config:
    """The inverse of `config_to_json`."""
    tree = {name: values for name, values in json.loads(text).items() if values is not None}
    return Config(**{name: _part(PARTS[name], values) for name, values in tree.items()})


def _part(kind: type[Any], values: Mapping[str, Any]) -> Any:
    def typed(value: Any, type: object) -> Any:
        if value is None:
            return None
        return tuple(value) if isinstance(value, list) else Path(value) if "Path" in str(type) else value

    return kind(**{f.name: typed(values[f.name], f.type) for f in fields(kind)})


def check_config(config: Config) -> Config:
    """Return `config` if its values make sense together; a UserError names the option that does not."""
    a, t, s, j, d, lab = config.algorithm, config.train, config.sample, config.judge, config.demo, config.lab
    v, live, gate = config.serve or ServeConfig(), config.live or LiveConfig(), config.gate or GateConfig()
    rules = (
        (live.timer_minutes > 0, "--timer-minutes", live.timer_minutes, "greater than 0"),
        (0 < live.user_share <= 1, "--user-share", live.user_share, "in (0, 1]"),
        (live.answers > 1, "--answers", live.answers, "2 or more"),
        (0 <= live.holdout < 1, "--holdout", live.holdout, "in [0, 1)"),
        (live.brake_judge[0] <= live.brake_judge[1], "--brake-judge", live.brake_judge, "a lower and a higher number"),
        (gate.real_probes >= 0, "--real-probes", gate.real_probes, "0 or more"),
        (gate.probe_tokens > 0, "--probe-tokens", gate.probe_tokens, "1 or more"),
        (0 <= gate.gate_facts <= 1, "--gate-facts", gate.gate_facts, "between 0 and 1"),
        (0 <= a.eps_low < 1, "--eps-low", a.eps_low, "between 0 and 1"),
        (a.eps_high >= 0, "--eps-high", a.eps_high, "0 or more"),
        (a.eps_high_end is None or a.eps_high_end >= 0, "--eps-high-end", a.eps_high_end, "0 or more"),
        (a.beta >= 0, "--beta", a.beta, "0 or more"),
        (a.dual_clip is None or a.dual_clip > 1, "--dual-clip", a.dual_clip, "greater than 1"),
        (a.L_max > 0, "--L-max", a.L_max, "1 or more"),
        (0 <= a.L_cache <= a.L_max, "--L-cache", a.L_cache, f"between 0 and L_max ({a.L_max})"),
        (a.max_staleness >= 0, "--max-staleness", a.max_staleness, "0 or more"),
        (t.updates is None or t.updates > 0, "--updates", t.updates, "1 or more"),
        (t.epochs > 0, "--epochs", t.epochs, "1 or more"),
        (t.batch_turns > 0, "--batch-turns", t.batch_turns, "1 or more"),
        (t.learning_rate > 0, "--learning-rate", t.learning_rate, "greater than 0"),
        (t.weight_decay >= 0, "--weight-decay", t.weight_decay, "0 or more"),
        (t.max_grad_norm > 0, "--max-grad-norm", t.max_grad_norm, "greater than 0"),
        (t.max_tokens > 0, "--max-tokens", t.max_tokens, "1 or more"),
        (0 <= t.seed < 2**32, "--seed", t.seed, "between 0 and 4294967295"),
        (t.microbatch_tokens > 0, "--microbatch-tokens", t.microbatch_tokens, "1 or more"),
        (t.keep_checkpoints > 0, "--keep-checkpoints", t.keep_checkpoints, "1 or more"),
        (config.model.lora_rank >= 0, "--lora-rank", config.model.lora_rank, "0 or more"),
        (config.model.lora_alpha > 0, "--lora-alpha", config.model.lora_alpha, "greater than 0"),
        (s.temperature >= 0, "--temperature", s.temperature, "0 or more"),
        (0 < s.top_p <= 1, "--top-p", s.top_p, "in (0, 1]"),
        (s.top_k >= 0, "--top-k", s.top_k, "0 or more"),
        (s.max_new_tokens > 0, "--max-new-tokens", s.max_new_tokens, "1 or more"),
        (j.votes > 0, "--votes", j.votes, "1 or more"),
        (0 <= j.judge_accuracy <= 1, "--judge-accuracy", j.judge_accuracy, "between 0 and 1"),
        (lab is None or 0 <= lab.seed < 2**32, "--seed", lab and lab.seed, "between 0 and 4294967295"),
        (lab is None or lab.seeds > 0, "--seeds", lab and lab.seeds, "1 or more"),
        (lab is None or lab.updates >= 20, "--updates", lab and lab.updates, "20 or more"),
        (lab is None or lab.trials > 0, "--trials", lab and lab.trials, "1 or more"),
        (d is None or d.questions > 0, "--questions", d and d.questions, "1 or more"),
        (d is None or d.answers > 0, "--answers", d and d.answers, "1 or more"),
        (0 <= v.port < 2**16, "--port", v.port, "between 0 and 65535"),
        (0 <= v.temperature <= 2, "--temperature", v.temperature, "between 0 and 2"),
        (v.max_answer_tokens > 0, "--max-answer-tokens", v.max_answer_tokens, "1 or more"),
        (v.max_messages > 0, "--max-messages", v.max_messages, "1 or more"),
        (v.max_body_mib > 0, "--max-body-mib", v.max_body_mib, "1 or more"),
        (v.max_running > 0, "--max-running", v.max_running, "1 or more"),
        (v.idle_minutes > 0, "--idle-minutes", v.idle_minutes, "greater than 0"),
        (v.grace >= 0, "--grace", v.grace, "0 or more"),
        (j.judge_timeout > 0, "--judge-timeout", j.judge_timeout, "greater than 0"),
        (j.judge_retries >= 0, "--judge-retries", j.judge_retries, "0 or more"),
    )
    for holds, option, value, wanted in rules:
        if not holds:
            raise UserError(f"{option} is {value}: it must be {wanted}.")
    for origin in v.allow_origin:
        if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#*]+", origin):
            raise UserError(f"--allow-origin {origin}: write it like https://chat.example.org, without a path.")
    for pattern in v.side_patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"--side-patterns {pattern!r}: is not a regular expression ({error}).") from error
    return config
