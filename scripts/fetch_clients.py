"""Fetch the clients that the server is tested with: npm's into .cache/npm, Python's into .cache/clients-venv.

Beside npm's is axe-core, which looks at the page.

Where npm is not there, or Python's cannot be installed, their tests are skipped.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"
NODE = {
    "axe-core": "4.14.1",
    "openai": "7.57.0",
    "@mariozechner/pi-ai": "0.73.1",
    "ai": "7.0.173",
    "@ai-sdk/openai": "4.0.118",
    "@ai-sdk/openai-compatible": "3.0.92",
}
PYTHON = (
    "anthropic==2.14.0",
    "langchain-openai==1.7.4",
    "litellm==1.110.2",
    "llm==0.36",
    "openai==3.57.0",
    "openai-agents==0.24.0",
)


def main() -> None:
    """Install what the cache lacks."""
    _node(CACHE / "npm")
    _python(CACHE / "clients-venv")


def _node(folder: Path) -> None:
    npm = shutil.which("npm")
    wanted = json.dumps({"private": True, "dependencies": NODE})
    done = folder / "installed.json"
    if npm is None or (done.is_file() and done.read_text() == wanted):
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(wanted)
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    done.write_text(wanted)


def _python(folder: Path) -> None:
    """Apart from .venv: these bring dozens of packages, whose versions are nobody's business there."""
    wanted = "\n".join(PYTHON)
    done = folder / "installed.txt"
    if done.is_file() and done.read_text() == wanted:
        return
    done.unlink(missing_ok=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *PYTHON]
    try:
        if not python.is_file():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run(install, check=True, stdout=sys.stderr)
    except subprocess.CalledProcessError as error:
        print(f"Python's clients could not be installed ({error}): their tests are skipped.", file=sys.stderr)
        return
    done.write_text(wanted)


if __name__ == "__main__":
    main()
