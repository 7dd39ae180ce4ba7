"""`memory`: what one training step holds, with GRPO and with PPO whose critic has the policy's size."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from talktune.config import LabConfig
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import finish
from talktune.report.plots import BLUE, GREEN, GREY, ORANGE, VERMILLION, new_figure
from talktune.rl.loss import grpo_tcr_loss

ROWS, TOKENS = 4, 192
VOCABULARY, HIDDEN, LAYERS = 8192, 384, 6
RANK = 16
MIB = 2**20


@dataclass(frozen=True)
class Bytes:
    """What one step holds, in bytes."""

    parameters: int
    """Of every model in memory, frozen ones included."""
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    activations: int
    """What autograd saved for the backward passes, each storage once, parameters left out."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.activations


def measure(method: str, *, lora: bool) -> Bytes:
    """One step of `grpo` or `ppo` on ROWS sequences of TOKENS tokens, on real tensors in float32.

    Both have a policy and a frozen reference. Full fine-tuning: the reference is a second model, the critic a
    third, trained. LoRA: the reference is the policy with its adapter off; the critic is a model of its own with
    its own adapter. Policy and critic run their forward passes before either goes backward, as one PPO loss does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = _model(lora)
        critic = _model(lora) if method == "ppo" else None
        reference = policy if lora else _model(False).requires_grad_(False)
        value_head = nn.Linear(HIDDEN, 1)
        ids = torch.randint(VOCABULARY, (ROWS, TOKENS))
    models: list[nn.Module] = [policy, *([] if lora else [reference]), *([critic, value_head] if critic else [])]
    trained = [p for model in models if model is not reference or lora for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    with torch.no_grad():
        ref = _logprobs(reference, ids)
    with _saved([p for model in models for p in model.parameters()]) as saved:
        new = _logprobs(policy, ids)
        loss, _ = grpo_tcr_loss(new, new.detach(), ref, torch.ones(ROWS), torch.ones_like(new), beta=0.02)
        if critic is not None:
            hidden = _decoder(critic)(ids).last_hidden_state
            loss = loss + value_head(hidden).pow(2).mean()
    loss.backward()
    optimizer.step()
    parameters = {p.data_ptr(): p for model in models for p in model.parameters()}
    return Bytes(
        parameters=_size(list(parameters.values())),
        gradients=_size([p.grad for p in trained if p.grad is not None]),
        optimizer=_size([t for state in optimizer.state.values() for t in state.values() if t.ndim]),
        activations=sum(saved.values()),
    )


def _model(lora: bool) -> nn.Module:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=int(2.75 * HIDDEN),
        num_hidden_layers=LAYERS,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    return (
        get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")) if lora else model
    )


def _decoder(model: nn.Module) -> nn.Module:
    return next(
        module for name, module in model.named_modules() if name.endswith("model") and hasattr(module, "layers")
    )


def _logprobs(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(ids, use_cache=False).logits[:, :-1]
    return torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None]).squeeze(2)


@contextmanager
def _saved(parameters: Sequence[Tensor]) -> Generator[dict[int, int]]:
    """Collects the storages that autograd saves inside: address -> bytes; those of parameters are left out."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    kept: list[Tensor] = []  # alive, so that no address is used twice
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield found


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    found: dict[str, Bytes] = {}
    for lora in (False, True):
        for method in ("grpo", "ppo"):
            name = f"{method.upper()}, {'LoRA' if lora else 'all weights'}"
            say(f"memory: one step of {name}")
            found[name] = measure(method, lora=lora)
    figure = new_figure(width=8.0, height=3.2)
    axes = figure.subplots()
    names = list(found)
    left = [0.0] * len(names)
    for part, colour in zip(
        ("parameters", "gradients", "optimizer", "activations"), (GREY, ORANGE, VERMILLION, BLUE), strict=True
    ):
        widths = [getattr(held, part) / MIB for held in found.values()]
        axes.barh(names, widths, left=left, color=colour, label=part, height=0.65)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, (name, end) in enumerate(zip(names, left, strict=True)):
        axes.text(end, place, f" {end:.0f}", va="center", fontsize=9, color=GREEN if "GRPO" in name else "black")
    axes.invert_yaxis()
    axes.set_xlim(right=1.12 * max(left))
    finish(axes, title="Memory of one step", x="memory (MiB)", y="", legend="lower right")
    axes.grid(visible=False)
    saved = {kind: 1 - found[f"GRPO, {kind}"].total / found[f"PPO, {kind}"].total for kind in ("all weights", "LoRA")}
    rows = [
        [name, *(f"{value / MIB:.1f}" for value in asdict(held).values()), f"{held.total / MIB:.1f}"]
        for name, held in found.items()
    ]
    return Finding(
        columns=["step", "parameters (MiB)", "gradients (MiB)", "optimizer (MiB)", "activations (MiB)", "total (MiB)"],
        rows=rows,
        numbers={
            "bytes": {name: asdict(held) | {"total": held.total} for name, held in found.items()},
            "saved_share": saved,
            "tokens": ROWS * TOKENS,
        },
        figure=figure,
        conclusion=(
            f"Without a critic one step of {ROWS * TOKENS} tokens holds {saved['all weights']:.0%} less with all "
            f"weights trained, and {saved['LoRA']:.0%} less with LoRA: nearly half, but not quite, because the frozen "
            "reference stays and only the policy has logits. A critic that shared the base model of a LoRA policy "
            "would cost less."
        ),
    )


EXPERIMENT = Experiment(
    title="What the missing critic saves",
    idea=(
        "PPO learns a value for every token with a second network, usually of the policy's size. GRPO takes the "
        "group's mean instead. The saving is often put at half; here both steps run on real tensors and are counted."
    ),
    formula="total = parameters + gradients + AdamW's moments + what autograd saved for the backward pass",
    look_at=(
        "The reference model is in memory in both; the activations hold the logits, which a critic does not have. "
        "With LoRA gradients and moments all but vanish, and what a critic costs is its frozen weights and activations."
    ),
    source="PPO: https://arxiv.org/abs/1707.06347; GRPO without a critic: https://arxiv.org/abs/2402.03300",
    run=_run,
)
