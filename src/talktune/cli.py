"""The command line: parses, calls, prints. torch and transformers load when a command runs, not before."""

# cyclopts reads the defaults from the signature; they are frozen, so sharing them is safe.
# ruff: noqa: B008

import importlib.metadata
import os
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, Token

from talktune.config import (
    PARTS,
    AlgorithmConfig,
    Config,
    DemoAlgorithmConfig,
    DemoConfig,
    DemoSampleConfig,
    DemoTrainConfig,
    ExportFormat,
    GateConfig,
    GreedySampleConfig,
    JudgeConfig,
    LabConfig,
    LiveConfig,
    LiveTrainConfig,
    ModelConfig,
    SampleConfig,
    ServeConfig,
    TrainConfig,
    check_config,
)
from talktune.errors import UserError

Flat = Parameter(name="*")
Model = Annotated[ModelConfig, Flat]
Judge = Annotated[JudgeConfig, Flat]
Algorithm = Annotated[AlgorithmConfig, Flat]
Train = Annotated[TrainConfig, Flat]
Sample = Annotated[SampleConfig, Flat]
Lab = Annotated[LabConfig, Flat]
LiveTrain = Annotated[LiveTrainConfig, Flat]
Live = Annotated[LiveConfig, Flat]
Gate = Annotated[GateConfig, Flat]

INTERRUPTED = 130
BROKEN_BY_USER = 2

app = App(
    name="talktune",
    help="Train a language model on how people react to its answers (GRPO-TCR). Every option of a command "
    "can also stand in a TOML file: --config FILE.",
    version=lambda: importlib.metadata.version("talktune"),
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # `main` says how to go on
)


# Both: the meta app calls the app.
app.meta.suppress_keyboard_interrupt = False


@app.command
def score(
    files: list[Path],
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    judge: Judge = JudgeConfig(),
    strict: bool = False,
    seed: int = 0,
) -> int:
    """Judge every turn of some conversations: conversations in, verdicts on every turn out.

    Run it again with the same output to finish turns that stayed unscored (exit code 3).

    Parameters
    ----------
    files
        JSONL (also gzip): OpenAI or ShareGPT conversations, or an earlier output.
    output
        The scored file to write or to go on with.
    strict
        Stop at the first bad line instead of reporting it.
    seed
        Everything random comes from this.
    """
    check_config(Config(judge=judge))
    from talktune.commands.score import score as run

    return run(files, judge, output, strict=strict, seed=seed)


@app.command
def train(
    files: list[Path],
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")] = Path("runs/train"),
    model: Model = ModelConfig(),
    judge: Judge = JudgeConfig(),
    algorithm: Algorithm = AlgorithmConfig(),
    train: Train = TrainConfig(),
    resume: bool = False,
    strict: bool = False,
) -> int:
    """Train on scored or raw conversations; what has no verdict yet is judged first. An adapter comes out.

    Parameters
    ----------
    files
        JSONL (also gzip): OpenAI or ShareGPT conversations, or the output of `talktune score`.
    output
        The run directory to make: adapter, checkpoints, metrics, report.
    resume
        Go on with the run in that directory.
    strict
        Stop at the first bad line instead of reporting it.
    """
    config = check_config(Config(model, judge, algorithm, train))
    from talktune.commands.train import train as run

    return run(files, config, output, resume=resume, strict=strict)


@app.command
def chat(
    *, model: Model = ModelConfig(), sample: Sample = SampleConfig(), seed: int = 0, save: Path | None = None
) -> int:
    """Talk to a policy in the terminal.

    Parameters
    ----------
    seed
        Everything random comes from this.
    save
        Append the talk to this JSONL file, with the sampled tokens, for `talktune train`.
    """
    check_config(Config(model=model, sample=sample))
    from talktune.commands.chat import chat as run

    return run(model, sample, seed=seed, save=save)


@app.command(name="eval")
def evaluate(
    *,
    prompts: Path,
    model: Model = ModelConfig(),
    sample: Annotated[GreedySampleConfig, Flat] = GreedySampleConfig(),
    seed: int = 0,
    json: bool = False,
) -> int:
    """Ask the same prompts before and after training, and show the answers side by side.

    Parameters
    ----------
    prompts
        Text, one prompt a line, or JSONL of {"prompt": …} or {"messages": […]}.
    seed
        Everything random comes from this.
    json
        Print JSON instead of tables.
    """
    check_config(Config(model=model, sample=sample))
    if model.adapter is None:
        raise UserError("--adapter is missing: give the adapter or run directory to compare with.")
    from talktune.commands.evaluate import evaluate as run

    return run(model, model.adapter, prompts, sample, seed, json)


@app.command
def judge_eval(file: Path, /, *, judge: Judge = JudgeConfig(), json: bool = False, seed: int = 0) -> int:
    """Measure a judge on labelled lines: accuracy, confusion, more and fewer votes.

    Parameters
    ----------
    file
        JSONL of {"request", "response", "role", "next_state", "label"}, label -1, 0 or 1.
    json
        Print JSON instead of tables.
    seed
        Everything random comes from this.
    """
    check_config(Config(judge=judge))
    from talktune.commands.judging import judge_eval as run

    return run(file, judge, json, seed)


@app.command
def judge_train(
    file: Path, /, *, output: Annotated[Path, Parameter(alias="-o")], model: Model = ModelConfig(), seed: int = 0
) -> int:
    """Fit a small verdict head for a judge from labelled lines; use it with --judge-head.

    Parameters
    ----------
    file
        JSONL of {"request", "response", "role", "next_state", "label"}, label -1, 0 or 1.
    output
        The head file to write.
    seed
        Everything random comes from this.
    """
    from talktune.commands.judging import judge_train as run

    return run(file, model, output, seed)


@app.command
def demo(
    *,
    output: Annotated[Path, Parameter(alias="-o")] = Path("runs/demo"),
    judge: Judge = JudgeConfig(),
    algorithm: Annotated[DemoAlgorithmConfig, Flat] = DemoAlgorithmConfig(),
    train: Annotated[DemoTrainConfig, Flat] = DemoTrainConfig(),
    sample: Annotated[DemoSampleConfig, Flat] = DemoSampleConfig(),
    rollout: Annotated[DemoConfig, Flat] = DemoConfig(),
    model: Model = ModelConfig(),
    resume: bool = False,
) -> int:
    """Watch the whole loop on the shipped model: a scripted user complains and praises, the model learns.

    Parameters
    ----------
    output
        The run directory to make.
    resume
        Go on with the run in that directory.
    """
    config = check_config(Config(model, judge, algorithm, train, sample, rollout))
    from talktune.commands.demo import demo as run

    return run(config, output, resume=resume)


@app.command
def lab(
    name: str, /, *, output: Annotated[Path, Parameter(alias="-o")] = Path("runs/lab"), sizes: Lab = LabConfig()
) -> int:
    """Run an experiment of the course, or all of them: a table, a picture and its numbers; `all` makes a page too.

    Parameters
    ----------
    name
        voting, advantages, overlong, clip, training, summary, dynamic-clip, weighted-voting, judge-quality,
        group-size, biased-judge, ablation, memory, or all (which keeps what it finished before).
    output
        The directory for pictures, numbers and page.
    """
    check_config(Config(lab=sizes))
    from talktune.commands.lab import lab as run

    return run(name, sizes, output)


@app.command
def report(run: Path, /) -> int:
    """Draw the plots and the HTML page of a run again.

    Parameters
    ----------
    run
        A run directory.
    """
    from talktune.report.page import make_report

    print(make_report(run))
    return 0


@app.command
def export(
    files: list[Path],
    /,
    *,
    format: ExportFormat,
    output: Annotated[Path, Parameter(alias="-o")],
    strict: bool = False,
) -> int:
    """Write conversations for other trainers: JSONL, or Parquet when the output ends in .parquet.

    Parameters
    ----------
    files
        JSONL (also gzip): OpenAI or ShareGPT conversations, or the output of `talktune score`.
    format
        `openai` messages, `kto` for TRL's KTO trainer, `grpo` with rewards, groups, token ids and log-probs.
    output
        The file to write.
    strict
        Stop at the first bad line instead of reporting it.
    """
    from talktune.commands.export import export as run

    return run(files, format, output, strict)


@app.command
def forget(store: Path, /, *, user: str | None = None, conversation: str | None = None) -> int:
    """Really delete what a user said, or one conversation, and say which policy versions were trained on it.

    Parameters
    ----------
    store
        The store's file.
    user
        Everything of this user.
    conversation
        One conversation, by its id; together with --user only if it is that user's.
    """
    from talktune.commands.stores import forget as run

    return run(store, user, conversation)


@app.command
def serve(
    *,
    config: Annotated[ServeConfig, Flat] = ServeConfig(),
    model: Model = ModelConfig(),
    judge: Judge = JudgeConfig(),
    algorithm: Algorithm = AlgorithmConfig(),
    train: LiveTrain = LiveTrainConfig(),
    live: Live = LiveConfig(),
    gate: Gate = GateConfig(),
) -> int:
    """Serve a model to any OpenAI client, keep every conversation with its exact tokens, judge it and learn from it.

    With --upstream the engine is somebody else's: run `talktune judge` and `talktune learn` beside this.
    """
    config_tree = check_config(Config(model, judge, algorithm, train, serve=config, live=live, gate=gate))
    from talktune.commands.serve import serve as run

    return run(config_tree)


@app.command(name="judge")
def judge_alone(*, store: str = "talktune.db", judge: Judge = JudgeConfig(), seed: int = 0) -> int:
    """Judge what a server stores, as a process of its own: votes and verdicts on every turn that was reacted to.

    Parameters
    ----------
    store
        The server's store: a SQLite file, or a database URL.
    seed
        Everything random comes from this.
    """
    tree = check_config(Config(judge=judge, train=LiveTrainConfig(seed=seed), serve=ServeConfig(store=store)))
    from talktune.commands.serve import judge as run

    return run(tree)


@app.command
def learn(
    *,
    store: str = "talktune.db",
    model: Model = ModelConfig(),
    judge: Judge = JudgeConfig(),
    algorithm: Algorithm = AlgorithmConfig(),
    train: LiveTrain = LiveTrainConfig(),
    live: Live = LiveConfig(),
    gate: Gate = GateConfig(),
) -> int:
    """Learn from what a server stores and a judge judged, as a process of its own: versions come out.

    Parameters
    ----------
    store
        The server's store: a SQLite file, or a database URL.
    """
    server = ServeConfig(store=store)
    tree = check_config(Config(model, judge, algorithm, train, serve=server, live=live, gate=gate))
    from talktune.commands.serve import learn as run

    return run(tree)


@app.command
def status(*, store: str = "talktune.db", watch: bool = False, json: bool = False) -> int:
    """What waits, what is judged, the reward over time, the versions: one screen.

    Parameters
    ----------
    store
        The server's store: a SQLite file, or a database URL.
    watch
        Show it again and again, until Ctrl-C.
    json
        Print JSON instead.
    """
    from talktune.commands.status import status as run

    return run(store, watch, json)


policies = App(name="policies", help="Versions of the policy: list, show, promote, roll back.")
app.command(policies)


@policies.command(name="list")
def list_policies(*, store: str = "talktune.db", json: bool = False) -> int:
    """All versions: which is live, which was rejected, and why.

    Parameters
    ----------
    store
        The server's store: a SQLite file, or a database URL.
    json
        Print JSON instead of a table.
    """
    from talktune.commands.policies import list_versions

    return list_versions(store, json)


@policies.command(name="show")
def show_policy(number: int, /, *, store: str = "talktune.db") -> int:
    """One version: where it is, what the gate saw, the metrics of its update.

    Parameters
    ----------
    number
        The version's number.
    store
        The server's store: a SQLite file, or a database URL.
    """
    from talktune.commands.policies import show

    return show(store, number)


@policies.command
def promote(number: int, /, *, store: str = "talktune.db") -> int:
    """Make a version live from the next request on, whatever the gate said; learning goes on from it.

    Parameters
    ----------
    number
        The version's number.
    store
        The server's store: a SQLite file, or a database URL.
    """
    from talktune.commands.policies import promote as run

    return run(store, number)


@policies.command
def rollback(*, store: str = "talktune.db", user: str | None = None) -> int:
    """Go back to the version before the live one from the next request on; learning goes on from it.

    Parameters
    ----------
    store
        The server's store: a SQLite file, or a database URL.
    user
        With --per-user: whose version.
    """
    from talktune.commands.policies import rollback as run

    return run(store, user)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], config: Path | None = None
) -> int:
    """Run a command.

    Parameters
    ----------
    config
        TOML file with options, in sections or not; the command line wins over it.
    """
    app.config = () if config is None else (_from_toml(config),)
    return app(tokens, exit_on_error=False, print_error=False, result_action="return_value") or 0


def _from_toml(path: Path) -> Callable[[App, tuple[str, ...], ArgumentCollection], None]:
    """Options of a TOML file as defaults of whatever command runs; an unknown name is an error."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"--config {path}: is not TOML ({error}).") from error
    options: dict[str, Any] = {}
    for name, value in tree.items():
        options |= value if isinstance(value, dict) else {name: value}
    known = {field for part in PARTS.values() for field in part.__dataclass_fields__} | _OWN_OPTIONS
    if unknown := sorted({name.replace("-", "_") for name in options} - known):
        raise UserError(f"--config {path}: there is no option {', '.join(unknown)}; see --help for the names.")

    def fill(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        given = {f"--{name.replace('_', '-')}".lower(): value for name, value in options.items()}
        for argument in arguments:
            if argument.tokens or (name := argument.name.lower()) not in given:
                continue
            values = given[name] if isinstance(given[name], list) else [given[name]]
            for value in values:
                argument.append(Token(keyword=argument.name, value=str(value), source=str(path)))

    return fill


_OWN_OPTIONS = {
    "output",
    "resume",
    "strict",
    "seed",
    "save",
    "prompts",
    "json",
    "format",
    "user",
    "conversation",
    "watch",
}


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 2, Ctrl-C ends with 130."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = app.meta(sys.argv[1:], exit_on_error=False, print_error=False, result_action="return_value")
    except UserError as error:
        code = _complain(str(error))
    except CycloptsError as error:
        code = _complain(str(error).strip())
    except KeyboardInterrupt:
        code = _complain("Interrupted; what was finished is kept. Add --resume (train, demo), or run it again.")
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str) -> int:
    print(f"talktune: {text}", file=sys.stderr)
    return BROKEN_BY_USER
