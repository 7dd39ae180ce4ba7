"""The short `--help` of a command with many options: those that people need first; `--help-all` prints all."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

ALL = "--help-all"
EPILOGUE = f"`--help` prints the options that people need first, `{ALL}` all of them."
FIRST = frozenset(
    {
        "--config",
        "--host",
        "--port",
        "--upstream",
        "--store",
        "--keys",
        "--model",
        "--judge",
        "--batch-turns",
        "--per-user",
        "--notify",
    }
)
"""Options of `serve` and `learn` that people need first."""


class Brief:
    """Prints a panel with its options of FIRST only, and no panel without any (cyclopts' HelpFormatter)."""

    everything = False
    """Print all of them."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
        """Print one panel."""
        from cyclopts.help import DefaultFormatter

        entries = [one for one in panel.entries if self.everything or FIRST & {*one.all_options}]
        if entries:
            DefaultFormatter()(console, options, panel.copy(entries=entries))

    def render_usage(self, console: "Console", options: "ConsoleOptions", usage: Any) -> None:
        """As ever."""
        from cyclopts.help import DefaultFormatter

        DefaultFormatter().render_usage(console, options, usage)
