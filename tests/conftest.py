"""What all tests may use: a tiny random model, PostgreSQL, and commands as a shell would run them."""

import functools
import gc
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from hypothesis import settings

# Of this process and of those that it starts, before any of them loads torch. Small models gain nothing from a second
# thread, and on two cores a thread that spins takes the time of a server that it waits for.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Else each of the processes, a hundred or two, compiles all of talktune anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A machine that is busy for a moment makes no test wrong. `make test-all` looks for more examples than `make test`.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("full", deadline=None, max_examples=100)
settings.load_profile("quick")

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_collection_finish() -> None:
    """Look for garbage only among what the tests make, not among all that was imported."""
    gc.freeze()


TOGETHER = ("judge", "lab", "store")
"""Folders whose tests share what takes long to make: one process runs them all."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 2` the tests of a file stay in one process and in their order, for what they share."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.split("::", 1)[0])
            folder = path.parts[1] if len(path.parts) > 1 else ""
            return folder if folder in TOGETHER else str(path)

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """A request of its own reads all of the system's certificates, which takes longer than a server's answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", functools.cache(httpcore2.default_ssl_context))
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a two-layer random Llama with a byte-level tokenizer and a ChatML template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(special + alphabet)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("tiny-model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that a user's mistake is answered with."""
        assert self.code == 2, self.err
        assert "Traceback" not in self.err
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("talktune: ")
        return lines[0]


Run = Callable[..., Said]


@pytest.fixture(scope="session")
def talktune() -> Run:
    from talktune.cli import main

    def run(*arguments: object, stdin: str = "") -> Said:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr("sys.argv", ["talktune", *map(str, arguments)])
            patch.setattr("sys.stdin", io.StringIO(stdin))
            patch.setenv("TOKENIZERS_PARALLELISM", "false")
            with pytest.raises(SystemExit) as end:
                main()
        return Said(int(end.value.code or 0), out.getvalue(), err.getvalue())

    return run


NAMED = os.environ.get("TALKTUNE_TEST_DATABASE")
DEBIAN = Path("/usr/lib/postgresql")


def _binaries() -> Path | None:
    """The folder of PostgreSQL's programs, the newest of several: Debian's are not on the PATH."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@dataclass(frozen=True)
class Cluster:
    """PostgreSQL with one database, for one run of the tests."""

    binaries: Path
    folder: Path

    @property
    def url(self) -> str:
        return f"postgresql://talktune@/postgres?host={self.folder}"

    def make(self) -> None:
        self._run("initdb", "-D", f"{self.folder}/data", "-U", "talktune", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        root = os.geteuid() == 0  # which PostgreSQL refuses to run as
        command = [*(["runuser", "-u", "postgres", "--"] if root else []), str(self.binaries / program), *arguments]
        # Into a file: the server inherits it, and would keep a pipe open.
        with (self.folder / f"{program}.out").open("w+") as out:
            done = subprocess.run(command, cwd=self.folder, stdout=out, stderr=out, check=False)
            out.seek(0)
            assert done.returncode == 0, out.read()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running PostgreSQL of the tests' own; skipped where it is not installed."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    # Not pytest's folder: only its owner may enter it, and a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="talktune-pg-") as folder:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        made = Cluster(binaries, Path(folder))
        made.make()
        made.start()
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="session")
def postgresql(request: pytest.FixtureRequest) -> str:
    """The URL of a database: the one that a variable names, or a cluster's; skipped where there is none."""
    return NAMED or request.getfixturevalue("cluster").url
