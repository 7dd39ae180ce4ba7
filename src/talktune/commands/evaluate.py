"""`talktune eval`: the same prompts to a policy before and after, side by side."""

import json
from dataclasses import asdict
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
    from talktune.api.evaluate import evaluate as run
    from talktune.conversations.prompt_files import read_prompts
    from talktune.policy.load import Policy

    asked = read_prompts(prompts)
    answers = run(Policy.load(model.model, model.adapter, device=model.device), asked, sample=sample, seed=seed)
    n = len(answers)
    figures = {
        "prompts": n,
        "changed": sum(one.before != one.after for one in answers),
        "mean_tokens_before": sum(one.tokens_before for one in answers) / n,
        "mean_tokens_after": sum(one.tokens_after for one in answers) / n,
    }
    if as_json:
        out.print_json(json.dumps({"summary": figures, "answers": [asdict(one) for one in answers]}), ensure_ascii=True)
        return 0
    texts = [(one.prompt, one.before, one.after) for one in answers]
    side_by_side(f"{model.model} and {model.adapter}", ("prompt", "before", "after"), texts)
    table("Summary", ("what", "value"), list(figures.items()))
    return 0
