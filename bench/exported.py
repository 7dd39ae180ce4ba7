"""`make bench-trl`: what `talktune export` writes is taken by TRL's trainers as it is.

A log with tool calls goes through the command into each format and both kinds of file, is read as a user of `datasets`
reads it, and trains a tiny random model with the shipped tokenizer for two steps on a CPU. It is the form that is
tried, not what is learned.
"""

import json
import math
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from talktune.policy.load import shipped_model

EXAMPLES = Path(__file__).parents[1] / "examples" / "conversations.jsonl"
STEPS = 2
# ChatML with tools in Hermes' form: the shipped model's own template knows none.
TEMPLATE = """{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role + '\\n' }}{% if message.content %}\
{{ message.content }}{% endif %}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {% if call.function.arguments is string %}\
{{ call.function.arguments }}{% else %}{{ call.function.arguments | tojson }}{% endif %}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
# Tools and arguments for which no table of typed columns has room.
ODD: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "Add one to x."},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"to": ["x", 1], "city": 7}'}},
        ]},
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
        {"role": "assistant", "content": "Done.", "reasoning_content": "It said ok."},
        {"role": "user", "content": "Thanks!"},
    ],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"enum": [1, "x", None], "default": 3}}}],
}  # fmt: skip


def scored_log(path: Path) -> None:
    """The examples and the odd one, each turn that somebody reacted to judged, good and bad by turns."""
    lines = [json.loads(line) for line in EXAMPLES.read_text().splitlines()] + [ODD]
    good = True
    for line in lines:
        turns: list[dict[str, Any]] = []
        for index, message in enumerate(line["messages"][:-1]):
            if message["role"] == "assistant":
                good = not good
                label = 1 if good else -1
                sampled = {"prompt_ids": [1, 2], "answer_ids": [3], "logprobs": [-0.5], "temperature": 1.0}
                known = {"sampled": sampled} if index % 4 == 1 else {}
                turns.append({"index": index, "votes": [{"label": label}], "reward": label} | known)
        line["turns"] = turns
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def tiny_model(tokenizer: Any, folder: Path) -> str:
    """A folder with two layers of random weights; a name, since the trainers load the reference by it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def options(folder: Path) -> dict[str, Any]:
    """What all trainers are told."""
    return {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False,
        "report_to": "none", "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
    }  # fmt: skip


def by_kto(model: str, rows: datasets.Dataset, tokenizer: Any, folder: Path) -> Any:
    """KTOTrainer on labelled turns."""
    arguments = KTOConfig(**options(folder), max_length=512)
    return KTOTrainer(model, args=arguments, train_dataset=rows, processing_class=tokenizer)


def by_grpo(model: str, rows: datasets.Dataset, tokenizer: Any, folder: Path) -> Any:
    """GRPOTrainer on the prompts; the reward of a fresh answer is how near it is to the logged one's length, signed."""

    def reward(completions: list[Any], reward: list[float], **columns: Any) -> list[float]:
        assert {"group", "prompt_ids", "logprobs", "finish_reason"} <= set(columns)
        return [sign * len(one[0]["content"]) for one, sign in zip(completions, reward, strict=True)]

    arguments = GRPOConfig(**options(folder), num_generations=2, max_completion_length=8)
    return GRPOTrainer(model, reward, args=arguments, train_dataset=rows, processing_class=tokenizer)


def by_sft(model: str, rows: datasets.Dataset, tokenizer: Any, folder: Path) -> Any:
    """SFTTrainer on whole conversations."""
    arguments = SFTConfig(**options(folder), max_length=512)
    return SFTTrainer(model, args=arguments, train_dataset=rows, processing_class=tokenizer)


TRAINERS: dict[str, Callable[[str, datasets.Dataset, Any, Path], Any]] = {
    "kto": by_kto,
    "grpo": by_grpo,
    "openai": by_sft,
}


def main() -> int:
    """Export, read, train; 1 where any of it fails."""
    tokenizer = AutoTokenizer.from_pretrained(shipped_model())
    tokenizer.chat_template = TEMPLATE
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny_model(tokenizer, folder / "model")
        scored_log(folder / "scored.jsonl")
        for format, trainer in TRAINERS.items():
            for kind in ("jsonl", "parquet"):
                file = folder / f"{format}.{kind}"
                command = [sys.executable, "-m", "talktune", "export", str(folder / "scored.jsonl")]
                subprocess.run([*command, "--format", format, "--output", str(file)], check=True, capture_output=True)
                try:
                    reader = {"jsonl": "json"}.get(kind, kind)
                    rows = datasets.load_dataset(
                        reader, data_files=str(file), split="train", cache_dir=str(folder / kind)
                    )
                    made = trainer(model, rows, tokenizer, folder / "run")
                    made.train()
                    steps = [log for log in made.state.log_history if "loss" in log]
                    assert len(steps) == STEPS, steps
                    assert all(math.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in steps), steps
                    print(f"{format} {kind}: {len(rows)} rows, {STEPS} steps", flush=True)
                except Exception as error:
                    failed += 1
                    print(f"{format} {kind}: {type(error).__name__}: {str(error)[:600]}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    sys.exit(main())
