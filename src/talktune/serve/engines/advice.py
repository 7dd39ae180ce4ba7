"""Advice for when an engine refuses an adapter: which option of vLLM to set.

Open it when vLLM's words have changed.

vLLM's own words are in `vllm/lora/` and `vllm/entrypoints/openai/` of https://github.com/vllm-project/vllm, its options
in https://docs.vllm.ai/en/stable/features/lora.html.
"""

import re

START = "--enable-lora --max-loras 2, with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
"""How vLLM must be started for versions to go live while it serves."""
ONE_AT_ONCE = (
    "it answers by one adapter at a time (--max-loras 1): when a version goes live, its first requests wait until the "
    "last answer of the version before has ended; start it with --max-loras 2"
)
_RANK = re.compile(r"rank (\d+) is greater than max_lora_rank (\d+)")
_NO_PATH = re.compile(r"(?i)no adapter found|no such file|does not exist|not a valid|can't find|cannot find|repo id")
_OFF = re.compile(r"(?i)lora is not enabled|lora.{0,40}disabled")


def advice(status: int, said: str, path: str) -> str:
    """Why the engine did not take the adapter at `path`, from what it said, with what to do about it."""
    if (found := _RANK.search(said)) is not None:
        rank, most = found.groups()
        return (
            f"its rank {rank} is over the engine's max_lora_rank {most}: start the engine with --max-lora-rank {rank}, "
            f"or learn with --lora-rank {most}"
        )
    if _OFF.search(said):
        return f"the engine takes no adapters: start vLLM with {START}"
    if status == 404 and said.strip(". ").lower() in ("not found", ""):
        return f"the engine has adapters only that it was started with: start vLLM with {START}"
    if status == 405:
        return f"the engine has no route for adapters: start vLLM with {START}"
    if status == 404 or _NO_PATH.search(said):
        return (
            f"the engine does not see {path}: give it the directory of --policies under the same path "
            f"(a shared volume); it said: {said}"
        )
    return said
