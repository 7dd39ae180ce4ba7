"""`talktune eval`: the same prompts to a policy before and after, side by side."""

import json
from dataclasses import replace
from pathlib import Path

from talktune.commands.console import out, side_by_side, table
from talktune.commands.options import AsJson, Seed
from talktune.config import GreedySampleConfig, ModelConfig
from talktune.errors import UserError


def evaluate(
    *,
    prompts: Path,
    model: ModelConfig = ModelConfig(),
    sample: GreedySampleConfig = GreedySampleConfig(),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> int:
    """Ask the same prompts before and after training, and show the answers side by side.

    Parameters
    ----------
    prompts
        Text, one prompt a line, or JSONL of {"prompt": …} or {"messages": […]}.
    """
    if model.adapter is None:
        raise UserError("--adapter is missing: give the adapter or run directory to compare with.")
    from talktune.conversations.prompts import read_prompts
    from talktune.policy.adapter import adapter_off, load_adapter
    from talktune.policy.load import load_policy
    from talktune.policy.sample import sample_answers
    from talktune.policy.tokens import decode_answer, end_ids, render_prompt

    asked = read_prompts(prompts)
    policy = load_policy(replace(model, adapter=None))
    tuned = load_adapter(policy.model, model.adapter)
    ends = end_ids(policy.tokenizer, policy.model.generation_config)
    ids = [render_prompt(policy.tokenizer, prompt, ()) for prompt in asked]
    with adapter_off(tuned):
        before = sample_answers(tuned, ids, sample, end_ids=ends, seed=seed)
    after = sample_answers(tuned, ids, sample, end_ids=ends, seed=seed)
    rows = [
        {
            "prompt": prompt[-1].content,
            "before": decode_answer(policy.tokenizer, list(old.answer_ids)),
            "after": decode_answer(policy.tokenizer, list(new.answer_ids)),
            "tokens_before": len(old.answer_ids),
            "tokens_after": len(new.answer_ids),
        }
        for prompt, old, new in zip(asked, before, after, strict=True)
    ]
    n = len(rows)
    figures = {
        "prompts": n,
        "changed": sum(r["before"] != r["after"] for r in rows),
        "mean_tokens_before": sum(len(s.answer_ids) for s in before) / n,
        "mean_tokens_after": sum(len(s.answer_ids) for s in after) / n,
    }
    if as_json:
        out.print_json(json.dumps({"summary": figures, "answers": rows}), ensure_ascii=True)
        return 0
    texts = [(str(r["prompt"]), str(r["before"]), str(r["after"])) for r in rows]
    side_by_side(f"{policy.name} and {model.adapter}", ("prompt", "before", "after"), texts)
    table("Summary", ("what", "value"), list(figures.items()))
    return 0
