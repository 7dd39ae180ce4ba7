"""Self-distillation here and in TRL 1.16 (`trl.experimental.sdpo`), on one batch: where they agree, and where not.

    python bench/distill_trl.py            needs trl==1.16.* beside talktune

Both read the same prompts, the same prompts with the reaction, and the same answers, with the same adapter; the
teacher is the bare model in both (`teacher_model_kind="base"`), the divergence TRL's reverse KL
(`distillation_alpha=1`). What is compared is the gradient of every adapter weight: ours has the value zero on the
first step by its centring.
"""

import logging
import tempfile
import warnings
from functools import partial
from typing import Any

import torch

from talktune.config import AlgorithmConfig, Config, ModelConfig
from talktune.learner import update
from talktune.learner.update import Learner
from talktune.policy.adapter import attach_adapter
from talktune.rl.distill import centred_gaps, distill_loss
from talktune.types import Sample

VOCABULARY, K = 101, 20
UNBOUND = 1e9
SAMPLES = [
    Sample("0", (5, 9, 13), (40, 41, 7, 52, 1), -1.0, "g", teacher_prompt_ids=(5, 60, 61, 62, 9, 13)),
    Sample("1", (5, 9, 17, 18), (33, 41, 90, 15, 1), -1.0, "g", teacher_prompt_ids=(5, 71, 72, 9, 17, 18)),
    Sample("2", (5, 21), (64, 8, 8, 27, 1), -1.0, "g", teacher_prompt_ids=(5, 60, 61, 62, 63, 64, 65, 21)),
]
"""Answers of equal length, so that TRL's mean of means over answers is the mean over tokens that is ours."""


def make_model() -> Any:
    """A small random Llama in float64, with an adapter that already does something."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = attach_adapter(LlamaForCausalLM(config).double().eval(), ModelConfig(lora_rank=4), seed=1).double()
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def ours(k: int, bound: float) -> torch.Tensor:
    """The gradient of the learner's update, of which only the distillation is left: no group has variance."""
    update.CANDIDATES, update.distill_loss = k, partial(distill_loss, bound=bound)
    learner = Learner(make_model(), Config(algorithm=AlgorithmConfig(distill=1.0, beta=0.0)), total_updates=1)
    learner.gradient(SAMPLES)
    return flat(learner.model)


def flat(model: Any) -> torch.Tensor:
    """Every adapter gradient, one after the other."""
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return torch.cat([found[name].flatten() for name in sorted(found)]).double()


def theirs(**options: Any) -> tuple[torch.Tensor, float]:
    """The gradient and the value of TRL's loss, by its own trainer."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w2")), eos_token="w1", pad_token="w0"
    )
    arguments = SDPOConfig(
        tempfile.mkdtemp(), per_device_train_batch_size=3, num_generations=3, report_to=[], use_cpu=True, bf16=False,
        gradient_checkpointing=False, max_completion_length=5, disable_tqdm=True, teacher_model_kind="base",
        distillation_alpha=1.0, distillation_is_clip=None, temperature=1.0, **options,
    )  # fmt: skip
    trainer = SDPOTrainer(
        model=make_model(),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["w3 w4"] * 6}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    prompts, prompt_mask = left_padded([s.prompt_ids for s in SAMPLES])
    told, told_mask = left_padded([s.teacher_prompt_ids or () for s in SAMPLES])
    answers = torch.tensor([s.answer_ids for s in SAMPLES])
    inputs = {
        "prompt_ids": prompts, "prompt_mask": prompt_mask, "completion_ids": answers,
        "completion_mask": torch.ones_like(answers), "self_distillation_mask": torch.ones(len(SAMPLES)),
        "teacher_input_ids": torch.cat([told, answers], 1),
        "teacher_attention_mask": torch.cat([told_mask, torch.ones_like(answers)], 1),
    }  # fmt: skip
    loss = trainer.compute_loss(trainer.model.train(), inputs)
    loss.backward()
    return flat(trainer.model), loss.item()


def left_padded(rows: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, (B, longest)."""
    longest = max(map(len, rows))
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row)
        mask[i, longest - len(row) :] = 1
    return ids, mask


def show(what: str, mine: torch.Tensor, other: torch.Tensor) -> None:
    """Norms, the largest difference and the cosine of two gradients."""
    cosine = torch.nn.functional.cosine_similarity(mine, other, dim=0).item()
    apart = ((mine - other).norm() / other.norm()).item()
    print(f"{what:<58} ours {mine.norm():.9f}   TRL {other.norm():.9f}   apart {apart:.1e}   cosine {cosine:.9f}")


def by_token() -> None:
    """TRL's own function on K candidates, weighted by what these hold of the probability: it is ours."""
    from trl.experimental.sdpo.loss_utils import compute_topk_self_distillation_loss

    torch.manual_seed(3)
    student, teacher = torch.randn(2, 3, 5, VOCABULARY, dtype=torch.float64)
    student.requires_grad_()
    top = student.topk(K).indices
    new, told = student.log_softmax(-1).gather(2, top), teacher.log_softmax(-1).gather(2, top)
    loss, _ = distill_loss(new, new, told, torch.ones(3, 5), bound=UNBOUND)
    (mine,) = torch.autograd.grad(loss, student, retain_graph=True)
    their_tokens = compute_topk_self_distillation_loss(
        student, teacher, distillation_topk=K, distillation_alpha=1.0, distillation_add_tail=False
    )
    held = new.detach().exp().sum(-1)
    (other,) = torch.autograd.grad((held * their_tokens).mean(), student)
    show(f"K = {K}, TRL's tokens weighted by P_t (by logits)", mine.flatten(), other.flatten())
    by_hand = -(new.detach().exp() * centred_gaps(told, new, UNBOUND)) / 15
    show("   and by hand: −π Δ / N at the candidates", by_hand.flatten(), mine.gather(2, top).flatten())


def main() -> None:
    """Print both numbers of each comparison."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    full, value = theirs(distillation_mode="full_logits")
    everything = ours(VOCABULARY, UNBOUND)
    print(f"TRL's loss on the batch, KL(student ‖ teacher) over the vocabulary: {value:.9f} nats a token\n")
    show("the whole vocabulary, no clip: the same", everything, full)
    by_token()
    print("\nWhere they differ:")
    some, _ = theirs(distillation_mode="topk_logits", distillation_topk=K)
    show(f"K = {K}: TRL does not weigh a token by P_t", ours(K, UNBOUND), some)
    tail, _ = theirs(distillation_mode="topk_logits", distillation_topk=K, distillation_add_tail=True)
    show(f"K = {K}: TRL counts the rest as one more candidate", ours(K, UNBOUND), tail)
    show(f"K = {K}, gaps clipped to ±1 nat: only ours", ours(K, 1.0), some)
    sampled, _ = theirs(distillation_mode="sampled_token")
    show("TRL's default: the sampled token alone, not centred", ours(K, 1.0), sampled)


if __name__ == "__main__":
    main()
