"""`talktune serve`, `judge` and `learn`: the roles as commands."""

from pathlib import Path

from talktune.commands.console import out
from talktune.commands.options import Seed, Store
from talktune.config import (
    AlgorithmConfig,
    Config,
    FreshConfig,
    GateConfig,
    JudgeConfig,
    LiveConfig,
    LiveTrainConfig,
    ModelConfig,
    ServeConfig,
    config_to_json,
)
from talktune.errors import UserError
from talktune.policy.shipped import SHIPPED, shipped_gguf


def serve(
    *,
    server: ServeConfig = ServeConfig(),
    model: ModelConfig = ModelConfig(),
    judge: JudgeConfig = JudgeConfig(),
    algorithm: AlgorithmConfig = AlgorithmConfig(),
    train: LiveTrainConfig = LiveTrainConfig(),
    live: LiveConfig = LiveConfig(),
    gate: GateConfig = GateConfig(),
    fresh: FreshConfig = FreshConfig(),
) -> int:
    """Serve a model to any OpenAI client, keep every conversation with its exact tokens, judge it and learn from it.

    With --upstream or --engine llama.cpp it is only served: run `talktune judge` and `talktune learn` beside this.
    """
    option = "--upstream" if server.upstream else "--engine llama.cpp" if server.engine == "llama.cpp" else None
    if option is not None and live.notify is not None:
        raise UserError(f"--notify: with {option} nobody learns here; give it to `talktune learn`.")
    if train.track is not None and (option is not None or live.no_learn):
        raise UserError("--track: nobody learns here; give it to `talktune learn`.")
    if server.upstream and server.engine != "host":
        raise UserError(f"--engine {server.engine}: with --upstream no engine is started here; leave one of them out.")
    gguf = _gguf(model.model) if server.engine == "llama.cpp" else None
    from talktune.serve.process import serve as run

    config = Config(model, judge, algorithm, train, serve=server, live=live, gate=gate, fresh=fresh)
    run(server, ["-P", "-m", "talktune.live"], config_to_json(config), _say, per_user=live.per_user, gguf=gguf)
    return 0


def judge(*, store: Store = "talktune.db", judge: JudgeConfig = JudgeConfig(), seed: Seed = 0) -> int:
    """Judge what a server stores, as a process of its own: votes and verdicts on every turn that was reacted to."""
    from talktune.live.roles import run_judge

    run_judge(Config(judge=judge, train=LiveTrainConfig(seed=seed), serve=ServeConfig(store=store)), _say)
    return 0


def learn(
    *,
    store: Store = "talktune.db",
    model: ModelConfig = ModelConfig(),
    judge: JudgeConfig = JudgeConfig(),
    algorithm: AlgorithmConfig = AlgorithmConfig(),
    train: LiveTrainConfig = LiveTrainConfig(),
    live: LiveConfig = LiveConfig(),
    gate: GateConfig = GateConfig(),
    fresh: FreshConfig = FreshConfig(),
) -> int:
    """Learn from what a server stores and a judge judged, as a process of its own: versions come out.

    Several processes of torchrun share its updates: `torchrun --nproc-per-node 2 -m talktune learn …`.
    """
    from talktune.learner.ranks import joined
    from talktune.live.roles import run_learner

    server = ServeConfig(store=store)
    config = Config(model, judge, algorithm, train, serve=server, live=live, gate=gate, fresh=fresh)
    with joined() as ranks:
        run_learner(config, _say, ranks)
    return 0


def _gguf(model: str) -> Path:
    """The file of the model that llama.cpp is to serve."""
    if model == SHIPPED:
        return shipped_gguf()
    if not model.endswith(".gguf") or not Path(model).is_file():
        raise UserError(f"--model {model}: llama.cpp needs a GGUF file: name one that ends in .gguf, or {SHIPPED}.")
    return Path(model).absolute()


def _say(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)
