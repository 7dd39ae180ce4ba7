"""A real OpenAI-compatible server for the endpoint judge: llama.cpp's, with the shipped model."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from talktune.policy.shipped import shipped_gguf

# One thread: two that wait for each other are slower when the machine is busy. Small batches: a call that was
# given up ends soon. The grammar lets this small model end in a score; the server itself is the real one.
SERVER = r"""
import sys
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.port = 0
params.n_parallel = 3
params.n_ctx = 3 * 2048
params.n_batch = params.n_ubatch = 128
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.verbosity = 0
params.warmup = False
params.api_keys = ["sekret-key"]
params.sampling.grammar = xllamacpp.CommonGrammar(
    xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_USER,
    r'root ::= "Score: \\boxed{" ("-1" | "0" | "1") "}"',
)
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def llama_server() -> Iterator[str]:
    """The base URL (`…/v1`) of a server in a process of its own; it wants the key `sekret-key`."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(shipped_gguf())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://"), "the server did not start"
            yield f"{address}/v1"
        finally:
            process.kill()
