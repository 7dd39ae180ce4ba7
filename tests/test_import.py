"""What importing talktune costs and touches: no torch for `--help`, and nothing but torch in `rl/`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import talktune

RL = Path(talktune.__path__[0]) / "rl"


@pytest.mark.parametrize("module", ["talktune", "talktune.cli"])
def test_importing_needs_no_torch(module: str) -> None:
    heavy = ("torch", "transformers", "peft", "matplotlib")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("file", sorted(RL.glob("*.py")), ids=lambda file: file.name)
def test_rl_imports_torch_and_the_standard_library_only(file: Path) -> None:
    roots: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            ours = (node.module or "").startswith(("talktune.rl", "talktune.types", "talktune.errors"))
            roots.add("torch" if ours or node.level else (node.module or "").split(".")[0])
    assert roots <= {"torch", *sys.stdlib_module_names}
