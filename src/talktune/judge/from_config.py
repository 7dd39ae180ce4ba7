"""Makes the judge that the config names.

Open it to add a kind of judge.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from talktune.config import JudgeConfig, ModelConfig
from talktune.errors import UserError
from talktune.judge.endpoint import EndpointJudge
from talktune.judge.function import CallJudge, load_function
from talktune.judge.oracle import OracleJudge
from talktune.judge.panel import Judge
from talktune.types import Label, Turn

if TYPE_CHECKING:
    from talktune.judge.local import Sampler
    from talktune.policy.load import Policy
    from talktune.policy.turnstile import Lane

Truth = Callable[[Turn], Label | None]


def make_judge(
    config: JudgeConfig,
    *,
    policy: "Policy | None" = None,
    truth: Truth | None = None,
    seed: int = 0,
    lane: "Lane | None" = None,
    sample: "Sampler | None" = None,
) -> Judge:
    """The judge named by `config.judge`: local, oracle, endpoint, or a `package.module:function`.

    The local judge uses the model of `policy` when that is the one it needs (one copy in memory), else it
    loads its own; it computes in its turn at `lane`, and `sample` samples the reasoning of that model, where
    given. The oracle needs `truth`, and `seed` decides its errors. Raises UserError for an unknown name and for an
    oracle without truth.
    """
    if config.judge == "local":
        return _local(config, policy, seed, lane, sample)
    if config.judge == "oracle":
        if truth is None:
            raise UserError("The oracle judge needs the truth, which these turns lack: take another judge.")
        return OracleJudge(truth, config.judge_accuracy, seed)
    if config.judge == "endpoint":
        return EndpointJudge(
            config.judge_url,
            config.judge_model,
            key_env=config.judge_key_env,
            timeout=config.judge_timeout,
            retries=config.judge_retries,
            temperature=config.judge_temperature,
        )
    if ":" in config.judge:
        return CallJudge(load_function(config.judge), name=config.judge)
    choices = "local, oracle, endpoint or package.module:function"
    raise UserError(f"There is no judge {config.judge!r}: choose {choices}.")


def _local(
    config: JudgeConfig,
    policy: "Policy | None",
    seed: int,
    lane: "Lane | None",
    sample: "Sampler | None",
) -> Judge:
    # Imported here, since torch is slow to load and the other judges do without.
    from talktune.judge.local import LocalJudge
    from talktune.policy.load import load_policy

    if policy is None or policy.name != config.judge_model:
        policy, sample = load_policy(ModelConfig(model=config.judge_model)), None
    return LocalJudge(
        policy,
        head=config.judge_head,
        mode=config.judge_mode,
        seed=seed,
        lane=lane,
        sample=sample,
    )
