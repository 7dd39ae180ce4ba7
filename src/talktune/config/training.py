"""The options of the model, the judge, the method and the learner. Open it to add one, or to see what one means."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from talktune.config.ranges import Count, Natural, NotAll, NotNegative, Positive, Range, Seed, Share, SomeShare

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
