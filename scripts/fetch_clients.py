"""Fetch the npm clients that the server is tested with into .cache/npm, where npm is there at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "npm"
PACKAGES = {"openai": "7.57.0", "@mariozechner/pi-ai": "0.73.1"}


def main() -> None:
    """Install what the cache lacks."""
    npm = shutil.which("npm")
    wanted = json.dumps({"private": True, "dependencies": PACKAGES})
    done = CACHE / "installed.json"
    if npm is None or (done.is_file() and done.read_text() == wanted):
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "package.json").write_text(wanted)
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
    subprocess.run(command, cwd=CACHE, check=True, stdout=sys.stderr)
    done.write_text(wanted)


if __name__ == "__main__":
    main()
