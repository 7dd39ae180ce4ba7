"""`talktune serve`: the server, with an engine of its own or in front of one."""

from talktune.commands.console import out
from talktune.config import ModelConfig, ServeConfig
from talktune.serve.run import serve as run


def serve(config: ServeConfig, model: ModelConfig) -> int:
    """The command: say where it serves, then serve until it is told to end."""
    arguments = ["--model", model.model, "--device", model.device]
    if model.adapter is not None:
        arguments += ["--adapter", str(model.adapter)]
    run(config, arguments, lambda line: out.print(line, markup=False, highlight=False, soft_wrap=True))
    return 0
