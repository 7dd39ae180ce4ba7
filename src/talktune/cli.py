"""The command line: names the commands, reads --config, answers mistakes.

A command's signature and docstring stand in its own file, which imports what is heavy only when the command runs.
"""

import importlib.metadata
import os
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, CycloptsError, Group, Parameter, Token

from talktune import config as knobs
from talktune.commands import brief
from talktune.commands.chat import chat
from talktune.commands.compare import compare
from talktune.commands.demo import demo
from talktune.commands.evaluate import evaluate
from talktune.commands.export import export
from talktune.commands.feedback import feedback
from talktune.commands.judging import judge_eval, judge_train
from talktune.commands.lab import lab
from talktune.commands.policies import list_versions, promote, rollback, show
from talktune.commands.report import report
from talktune.commands.score import score
from talktune.commands.serve import judge, learn, serve
from talktune.commands.status import status
from talktune.commands.stores import forget
from talktune.commands.train import train
from talktune.commands.turns import fix, list_turns
from talktune.commands.waiting import wait_briefly
from talktune.errors import UserError
from talktune.files import OUTSIDE
from talktune.terminal import complain, log_to_stderr, rank_of_torchrun

INTERRUPTED = 130
BROKEN_BY_USER = 2

app = App(
    name="talktune",
    help="Train a language model on how people react to its answers (GRPO-TCR). Every option of a command "
    "can also stand in a TOML file: --config FILE.",
    version=lambda: importlib.metadata.version("talktune"),
    default_parameter=Parameter(negative=()),
)
app.meta.suppress_keyboard_interrupt = False  # `main` says how to go on

PANELS = {
    knobs.ServeConfig: "Server",
    knobs.ModelConfig: "Model",
    knobs.JudgeConfig: "Judge",
    knobs.AlgorithmConfig: "Algorithm",
    knobs.FreshConfig: "Algorithm",
    knobs.TrainConfig: "Training",
    knobs.SampleConfig: "Sampling",
    knobs.LiveConfig: "Live",
    knobs.GateConfig: "Gate",
    knobs.DemoConfig: "Demo",
    knobs.LabConfig: "Lab",
}
"""What options are called together: a panel of `--help`, a section of a TOML file."""
_groups = {name: Group.create_ordered(name) for name in dict.fromkeys(PANELS.values())}
for part in vars(knobs).values():
    if isinstance(part, type) and (of := next((kind for kind in PANELS if issubclass(part, kind)), None)):
        Parameter(name="*", group=_groups[PANELS[of]])(part)  # a command takes its fields as options of their own names

for command in (score, train, chat, judge_eval, judge_train, demo, lab, report, compare, export):
    app.command(command)
for command in (judge, status, feedback, forget):
    app.command(command)
_brief = brief.Brief()
for command in (serve, learn):
    app.command(command, help_formatter=_brief, help_epilogue=brief.EPILOGUE)
app.command(evaluate, name="eval")
policies = App(name="policies", help="Versions of the policy: list, show, promote, roll back.")
policies.command(list_versions, name="list")
for command in (show, promote, rollback):
    policies.command(command)
app.command(policies)
turns = App(name="turns", help="Answers with their verdicts, the newest first; `turns fix` corrects one.")
turns.default(list_turns)
turns.command(fix)
app.command(turns)


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
    command, given, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    if command not in (train, learn) and rank_of_torchrun() is not None:
        raise UserError("torchrun starts several processes, which only `train` and `learn` share out; run it without.")
    knobs.check_values(given.arguments, command.__annotations__)
    return command(*given.args, **given.kwargs) or 0


def _from_toml(path: Path) -> Callable[[App, tuple[str, ...], ArgumentCollection], None]:
    """Options of a TOML file as defaults of whatever command runs; an unknown name is an error.

    Not cyclopts' own: its sections are commands, and it takes the option `judge` for the command of that name.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"--config {path}: is not TOML ({error}).") from error
    options: dict[str, Any] = {}
    for name, value in tree.items():
        options |= value if isinstance(value, dict) else {name: value}
    given = {f"--{name.replace('_', '-')}".lower(): value for name, value in options.items()}
    if unknown := sorted(given.keys() - _options(app)):
        names = ", ".join(name.removeprefix("--") for name in unknown)
        raise UserError(f"--config {path}: there is no option {names}; see --help for the names.")

    def fill(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        for argument in arguments:
            if not argument.tokens and (name := argument.name.lower()) in given:
                for value in given[name] if isinstance(given[name], list) else [given[name]]:
                    argument.append(Token(keyword=argument.name, value=str(value), source=str(path)))

    return fill


def _options(app: App) -> set[str]:
    """What the options of all commands are called."""
    own = app.assemble_argument_collection() if app.default_command else ()
    return {argument.name.lower() for argument in own}.union(
        *(_options(app[name]) for name in app if not name.startswith("-"))
    )


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 2, Ctrl-C ends with 130."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    log_to_stderr()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    wait_briefly()
    os.umask(0o077)  # conversations, versions and logs are their owner's alone
    arguments = sys.argv[1:]
    _brief.everything = brief.ALL in arguments
    arguments = ["--help" if one == brief.ALL else one for one in arguments]
    try:
        code = app.meta(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except UserError as error:
        code = _complain(str(error))
    except CycloptsError as error:
        code = _complain(str(error).strip())
    except KeyboardInterrupt:
        code = _complain("Interrupted; what was finished is kept. Add --resume (train, demo), or run it again.")
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        code = _complain(
            f"{error.filename or 'a file'}: {error.strerror}; what was finished is kept. Mend that, and run it again "
            "(train, demo: with --resume)."
        )
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str) -> int:
    complain(text)
    return BROKEN_BY_USER
