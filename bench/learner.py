"""`make bench`: the cost of learning and sampling, each row a ratio against a named baseline of the same run.

Every measurement has a process of its own; the variants of a row take turns, and the fastest round of each counts.
Models have real shapes and random weights. `--only ROW` runs one row, `--output FILE` keeps the figures as JSON.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from common import keep
from rich.console import Console
from rich.table import Table

from talktune.config import AlgorithmConfig, Config, ModelConfig, SampleConfig, TrainConfig
from talktune.types import Sample

TURN = 35
"""Tokens of a user's message, and of an answer: 70 a turn."""
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": {
        "kind": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
        "max_position_embeddings": 8192, "rope_theta": 100000.0,
    },
    "qwen3-0.6b": {
        "kind": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    },
    "qwen3-1.7b": {
        "kind": "qwen3", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "head_dim": 128,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    },
}  # fmt: skip
"""SmolLM2-135M, Qwen3-0.6B and Qwen3-1.7B, as their config.json on the Hugging Face Hub gives them."""


# The variants of every row: each runs in a process of its own and returns what it measured.


def make_model(shape: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A model of that shape with random weights and a fresh LoRA adapter."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from talktune.policy.adapter import attach_adapter

    options = dict(SHAPES[shape])
    config, kind = (
        (LlamaConfig, LlamaForCausalLM) if options.pop("kind") == "llama" else (Qwen3Config, Qwen3ForCausalLM)
    )
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = kind(config(**options, bos_token_id=None, eos_token_id=0, pad_token_id=None)).to(dtype).eval()
        return attach_adapter(model, ModelConfig(), seed=0)


def conversation_samples(turns: int, conversations: int, vocabulary: int) -> list[Sample]:
    """Every turn of some conversations of random tokens: its prompt is all that came before."""
    rng = Random(0)
    samples: list[Sample] = []
    for c in range(conversations):
        history: tuple[int, ...] = ()
        for t in range(turns):
            user, answer = (tuple(rng.randrange(10, vocabulary) for _ in range(TURN)) for _ in range(2))
            history += user
            samples.append(Sample(f"{c}-{t}", history, answer, rng.choice((-1.0, 1.0)), "batch"))
            history += answer
    return samples


def prompt_samples(vocabulary: int) -> list[Sample]:
    """Eight answers of 40 tokens to one prompt of 400."""
    rng = Random(0)
    prompt = tuple(rng.randrange(10, vocabulary) for _ in range(400))
    return [
        Sample(str(i), prompt, tuple(rng.randrange(10, vocabulary) for _ in range(40)), float(i % 2), "p")
        for i in range(8)
    ]


def learn_talktune(samples: list[Sample], beta: float, budget: int, shape: str = "smollm2") -> dict[str, float]:
    """One update of talktune's learner."""
    from talktune.learner.update import Learner

    model = make_model(shape)
    config = Config(algorithm=AlgorithmConfig(group="batch", beta=beta), train=TrainConfig(microbatch_tokens=budget))
    learner = Learner(model, config, 100)
    return measure(lambda: learner.step(samples))


def learn_padded(samples: list[Sample], beta: float, rows: int) -> dict[str, float]:
    """Turn by turn with padding, `rows` at a time: forward on the padded batch, log-softmax of the answer tokens."""
    from talktune.rl.advantage import compute_grpo_advantages

    model = make_model("smollm2")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    advantages = compute_grpo_advantages([s.reward for s in samples]).float()
    total = sum(len(s.answer_ids) for s in samples)

    def logprobs(batch: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(s.prompt_ids) + len(s.answer_ids) for s in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        seen, mask = torch.zeros_like(ids), torch.zeros(len(batch), longest - 1)
        for i, s in enumerate(batch):
            n, m = len(s.prompt_ids), len(s.prompt_ids) + len(s.answer_ids)
            ids[i, :m] = torch.tensor(s.prompt_ids + s.answer_ids)
            seen[i, :m] = 1
            mask[i, n - 1 : m - 1] = 1
        keep = int(mask.any(0).int().argmax())  # no logits before the first answer token of the batch
        logits = model(ids, attention_mask=seen, use_cache=False, logits_to_keep=longest - keep).logits[:, :-1]
        chosen = torch.log_softmax(logits, -1).gather(2, ids[:, keep + 1 :, None]).squeeze(2)
        return chosen, mask[:, keep:]

    def step() -> None:
        for start in range(0, len(samples), rows):
            batch = samples[start : start + rows]
            reference = None
            if beta:
                with torch.no_grad(), model.disable_adapter():
                    reference = logprobs(batch)[0]
            new, mask = logprobs(batch)
            ratio = (new - new.detach()).exp()
            a = advantages[start : start + rows, None]
            gain = torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a)
            if reference is not None:
                d = new - reference
                gain = gain - beta * (torch.expm1(-d) + d)
            (-(gain * mask).sum() / total).backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return measure(step)


def learn_trl(samples: list[Sample], beta: float, rows: int, *, checkpointing: bool) -> dict[str, float]:
    """TRL's GRPO trainer on the same samples: its own loss, on its own left- and right-padded batch."""
    import tempfile
    import warnings

    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    warnings.filterwarnings("ignore")
    model = make_model("smollm2")
    from talktune.rl.advantage import compute_grpo_advantages

    advantages = compute_grpo_advantages([s.reward for s in samples]).float()
    total = sum(len(s.answer_ids) for s in samples)
    words = {f"w{i}": i for i in range(100)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")), eos_token="w0", pad_token="w0"
    )
    folder = tempfile.mkdtemp()
    arguments = GRPOConfig(
        folder, beta=beta, per_device_train_batch_size=rows, num_generations=rows, report_to=[], use_cpu=True,
        bf16=False, gradient_checkpointing=checkpointing, max_completion_length=TURN, learning_rate=1e-4,
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["w2 w3"] * 2 * rows}),
        processing_class=tokenizer,
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = len(samples) // rows
    model = trainer.model.train()

    def batch(part: list[Sample], start: int) -> dict[str, torch.Tensor]:
        before, after = max(len(s.prompt_ids) for s in part), max(len(s.answer_ids) for s in part)
        ids, mask = torch.zeros(2, len(part), before + after, dtype=torch.long)
        for i, s in enumerate(part):
            n, m = before - len(s.prompt_ids), before + len(s.answer_ids)
            ids[i, n:m] = torch.tensor(s.prompt_ids + s.answer_ids)
            mask[i, n:m] = 1
        return {
            "prompt_ids": ids[:, :before], "prompt_mask": mask[:, :before], "completion_ids": ids[:, before:],
            "completion_mask": mask[:, before:], "advantages": advantages[start : start + len(part)],
            "num_items_in_batch": torch.tensor(total),
        }  # fmt: skip

    def step() -> None:
        for start in range(0, len(samples), rows):
            inputs: dict[str, Any] = batch(samples[start : start + rows], start)
            if beta:
                with torch.no_grad(), model.disable_adapter():
                    inputs["ref_per_token_logps"] = trainer._get_per_token_logps_and_entropies(
                        model,
                        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
                        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
                        inputs["completion_ids"].shape[1],
                    )[0]
            trainer.compute_loss(model, inputs).backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return measure(step)


def head(which: str, tokens: int, vocabulary: int = 151_936, width: int = 1024) -> dict[str, float]:
    """The loss head alone, forward and backward for the hidden states."""
    from talktune.rl.head import selective_log_softmax

    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width) / width**0.5
    target = torch.randint(vocabulary, (tokens,))
    ones = torch.ones(tokens)

    def ours() -> None:
        selective_log_softmax(hidden, weight, target, ones)[0].sum().backward()

    def naive() -> None:
        scores = torch.log_softmax(hidden @ weight.T, -1)
        scores.gather(1, target[:, None]).sum().backward()

    return measure(ours if which == "talktune" else naive)


def sampler(which: str, adapter: bool) -> dict[str, float]:
    """Four prompts, eight answers each, 64 tokens; tokens per second, and for ours the largest error of a log-prob."""
    from talktune.policy.sample import sample_answers

    model = make_model("smollm2")
    if adapter:  # a fresh adapter adds nothing; this one does
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.normal_(std=0.02)
    else:
        model = model.unload()
    rng = Random(0)
    prompts = [tuple(rng.randrange(10, 49152) for _ in range(40)) for _ in range(4)]
    config = SampleConfig(temperature=1.0, max_new_tokens=64)
    answers: list[Any] = []

    def ours() -> None:
        answers[:] = sample_answers(model, prompts, config, end_ids=[], seed=0, copies=8)

    def generate() -> None:
        model.generate(
            torch.tensor(prompts), do_sample=True, min_new_tokens=64, max_new_tokens=64, num_return_sequences=8,
            top_k=0, pad_token_id=0,
        )  # fmt: skip

    found = measure(ours if which == "talktune" else generate)
    found["tokens_per_second"] = 4 * 8 * 64 / found["seconds"]
    if which == "talktune":
        worst = 0.0
        with torch.no_grad():
            for a in answers:
                ids = torch.tensor([a.prompt_ids + a.answer_ids])
                logits = model(ids).logits[0, len(a.prompt_ids) - 1 : -1]
                true = torch.log_softmax(logits, -1).gather(1, torch.tensor(a.answer_ids)[:, None]).squeeze(1)
                worst = max(worst, float((true - torch.tensor(a.logprobs)).abs().max()))
        found["largest_error"] = worst
    return found


def gpu_learn(shape: str) -> dict[str, float]:
    """Share of peak bf16 FLOP/s of one update at a budget of 16k tokens, counted on unique tokens."""
    from talktune.learner.update import Learner

    model = make_model(shape, "cuda", torch.bfloat16)
    samples = conversation_samples(8, 64, SHAPES[shape]["vocab_size"])
    learner = Learner(
        model,
        Config(algorithm=AlgorithmConfig(beta=0.0), train=TrainConfig(microbatch_tokens=16384)),
        100,
    )
    found = measure(lambda: learner.step(samples))
    base = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    unique = 64 * 8 * 2 * TURN
    # 2 a weight and token forward, 2 backward for the activations, 2 more only where a weight is trained
    found["flops"] = (4 * base + 6 * trained) * unique / found["seconds"]
    found["unique_tokens_per_second"] = unique / found["seconds"]
    return found


def gpu_head(which: str) -> dict[str, float]:
    """The loss head alone on a GPU in bf16: ours, naive, or Liger's fused GRPO loss (which takes rows of tokens)."""
    from talktune.rl.head import selective_log_softmax

    rows, width, vocabulary, hidden_size = 16, 512, 151_936, 1024
    tokens = rows * width
    options: Any = {"device": "cuda", "dtype": torch.bfloat16}
    torch.manual_seed(0)
    hidden = torch.randn(tokens, hidden_size, **options).requires_grad_()
    weight = torch.randn(vocabulary, hidden_size, **options) / hidden_size**0.5
    target = torch.randint(vocabulary, (tokens,), device="cuda")
    ones = torch.ones(tokens, device="cuda")

    def ours() -> None:
        selective_log_softmax(hidden, weight, target, ones)[0].sum().backward()

    def naive() -> None:
        torch.log_softmax((hidden @ weight.T).float(), -1).gather(1, target[:, None]).sum().backward()

    if which != "liger":
        return measure(ours if which == "talktune" else naive, repeats=5)
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    fused = LigerFusedLinearGRPOLoss(beta=0.0, use_ref_model=False)
    mask, advantages = torch.ones(rows, width, device="cuda"), torch.ones(rows, device="cuda")

    def liger() -> None:
        loss, _ = fused(hidden.view(rows, width, -1), weight, target.view(rows, width), mask, advantages)
        loss.backward()

    return measure(liger, repeats=5)


def gpu_equal(shape: str) -> dict[str, float]:
    """The largest relative difference of a LoRA gradient in bf16 between packed and one sample at a time."""
    from talktune.learner.update import Learner

    model = make_model(shape, "cuda", torch.bfloat16)
    samples = conversation_samples(4, 2, SHAPES[shape]["vocab_size"])
    found: list[dict[str, torch.Tensor]] = []
    for no_packing in (False, True):
        train = TrainConfig(microbatch_tokens=16384, no_packing=no_packing)
        learner = Learner(model, Config(algorithm=AlgorithmConfig(beta=0.0), train=train), 100)
        learner.gradient(samples)
        found.append({name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    packed, apart = (torch.cat([g.flatten() for _, g in sorted(one.items())]) for one in found)
    return {"seconds": 0.0, "extra_mib": 0.0, "largest_error": float((packed - apart).norm() / apart.norm())}


# Measuring.


def measure(run: Callable[[], object], repeats: int = 1) -> dict[str, float]:
    """Seconds of the fastest run after a first one, and the extra memory at the peak of that first one, in MiB."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        extra = (torch.cuda.max_memory_allocated() - before) / 2**20
    else:
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak: proc(5)
        run()
        extra = (_resident("VmHWM") - before) / 1024
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "extra_mib": extra}


def _resident(field: str) -> int:
    """KiB, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}: this benchmark needs Linux")


# The rows: variants by name, the first is talktune's.

ROWS: dict[str, dict[str, Callable[[], dict[str, float]]]] = {}


def conversations(turns: int) -> int:
    """How many conversations of that many turns an update has; one of 32 turns takes the padded way minutes."""
    return 1 if turns >= 16 else 2


def _conversations(turns: int, beta: float, *, trl: bool) -> dict[str, Callable[[], dict[str, float]]]:
    samples = conversation_samples(turns, conversations(turns), 49152)
    rows = max(32 // turns, 1)  # 2240 padded tokens a micro-batch, as ours has 2048; TRL gets its default of 8 rows
    found: dict[str, Callable[[], dict[str, float]]] = {
        "talktune": lambda: learn_talktune(samples, beta, 2048),
        "(a) padded": lambda: learn_padded(samples, beta, rows),
    }
    if trl:
        found["(b) TRL"] = lambda: learn_trl(samples, beta, 8, checkpointing=False)
        if not beta:
            found["(b) TRL, checkpointing"] = lambda: learn_trl(samples, beta, 8, checkpointing=True)
    return found


ROWS["conversation-8"] = _conversations(8, 0.0, trl=True)
ROWS["conversation-8-kl"] = _conversations(8, 0.02, trl=True)
ROWS["conversation-16"] = _conversations(16, 0.0, trl=False)
for _turns in (2, 4, 32):
    ROWS[f"conversation-{_turns}"] = _conversations(_turns, 0.0, trl=False)
ROWS["group"] = {
    "talktune": lambda: learn_talktune(prompt_samples(49152), 0.0, 2048),
    "(a) padded": lambda: learn_padded(prompt_samples(49152), 0.0, 8),
}
ROWS["head"] = {"talktune": lambda: head("talktune", 4096), "(d) naive logits": lambda: head("naive", 4096)}
ROWS["sampler"] = {
    "talktune": lambda: sampler("talktune", adapter=False),
    "generate": lambda: sampler("generate", adapter=False),
}
ROWS["sampler-adapter"] = {
    "talktune": lambda: sampler("talktune", adapter=True),
    "generate": lambda: sampler("generate", adapter=True),
}
GPU_ROWS: dict[str, dict[str, Callable[[], dict[str, float]]]] = {
    f"gpu-{shape}": {"talktune": lambda shape=shape: gpu_learn(shape)} for shape in ("qwen3-0.6b", "qwen3-1.7b")
}

GPU_ROWS["gpu-head"] = {
    "talktune": lambda: gpu_head("talktune"),
    "(d) naive logits": lambda: gpu_head("naive"),
    "(c) Liger": lambda: gpu_head("liger"),
}
GPU_ROWS["gpu-bf16-equality"] = {"talktune": lambda: gpu_equal("qwen3-0.6b")}


def run_row(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """Each variant of a row in a process of its own, in turns; the fastest round of each, the smallest memory."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for variant in (ROWS | GPU_ROWS)[name]:
            command = [sys.executable, "-W", "ignore", __file__, "--work", name, variant]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}, {variant}: {done.stderr[-2000:]}")
            new = json.loads(done.stdout.splitlines()[-1])
            old = found.get(variant, new)
            found[variant] = {key: (max if "per_second" in key else min)(old[key], new[key]) for key in new}
    return found


def _ratios(name: str, found: dict[str, dict[str, float]], table: Table) -> None:
    ours = found["talktune"]
    for variant, theirs in found.items():
        faster = "" if theirs is ours else f"{theirs['seconds'] / ours['seconds']:.2f}"
        memory = "" if theirs is ours else f"{ours['extra_mib'] / theirs['extra_mib']:.3f}"
        error = f"{theirs['largest_error']:.1e}" if "largest_error" in theirs else ""
        table.add_row(name, variant, f"{theirs['seconds']:.2f}", faster, f"{theirs['extra_mib']:.0f}", memory, error)


def slope(results: dict[str, dict[str, dict[str, float]]], variant: str) -> float | None:
    """Least-squares slope of log seconds a conversation over log turns."""
    turns = [t for t in (2, 4, 8, 16, 32) if f"conversation-{t}" in results]
    if len(turns) < 3:
        return None
    xs = [math.log(t) for t in turns]
    ys = [math.log(results[f"conversation-{t}"][variant]["seconds"] / conversations(t)) for t in turns]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


def main() -> None:
    """Run the rows, print the table, keep the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="rows to run")
    parser.add_argument("--rounds", type=int, default=1, help="more than one: the best counts")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        row, variant = args.work
        print(json.dumps((ROWS | GPU_ROWS)[row][variant]()))
        return
    console = Console()
    names = args.only or [*ROWS, *(GPU_ROWS if torch.cuda.is_available() else ())]
    table = Table("row", "variant", "seconds", "talktune faster by", "extra MiB", "our memory / its", "log-prob error")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        console.print(f"measuring {name} …", style="dim")
        results[name] = run_row(name, args.rounds)
        _ratios(name, results[name], table)
    console.print(table)
    slopes = {variant: slope(results, variant) for variant in ("talktune", "(a) padded")}
    if slopes["talktune"] is not None:
        console.print(f"log-log slope of seconds over turns: {slopes}")
    if not torch.cuda.is_available():
        console.print("No GPU here: the rows of a GPU are owed (python bench/learner.py --only gpu-qwen3-0.6b …).")
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    keep(args.output, gpu | {"slopes": slopes, "rows": results})


if __name__ == "__main__":
    main()
