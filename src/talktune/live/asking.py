"""Answers from the engine for other work: sampled beside the users' own, in the same batches."""

from collections.abc import Collection, Generator, Sequence

from talktune.config import SampleConfig
from talktune.host.engine import Engine
from talktune.host.job import Job, Token
from talktune.host.lora import Lora
from talktune.types import Sampled

AT_ONCE = 16
"""Answers that are sampled beside the users' own at a time: more would make every step slower for them."""


class EngineGaveUpError(Exception):
    """The engine dropped a request: the work that needs it is to be done again."""


def answers(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    sample: SampleConfig | Sequence[SampleConfig],
    *,
    end_ids: Collection[int],
    seed: int,
    lora: Lora | None,
    copies: int = 1,
    policy_version: int | None = None,
) -> Generator[None, None, list[Sampled]]:
    """`copies` answers to each prompt, answer i·copies + j to prompt i; yields while they are being sampled.

    `sample` says how, for all prompts or for each. Must be driven from the engine's thread, where it tells of tokens.
    Raises EngineGaveUpError.
    """
    samples = [sample] * len(prompts) if isinstance(sample, SampleConfig) else sample
    rows: list[list[Token]] = [[] for _ in range(len(prompts) * copies)]
    ended: set[int] = set()
    failures: list[str] = []

    def listen(first: int) -> Job:
        def on_token(token: Token) -> bool:
            rows[first + token.choice].append(token)
            if token.finish is not None:
                ended.add(first + token.choice)
            return False

        ids, how = tuple(prompts[first // copies]), samples[first // copies]
        ends = frozenset(end_ids)
        return Job(ids, how, ends, on_token, failures.append, copies=copies, seed=seed + first, lora=lora)

    jobs: list[Job] = []
    try:
        while len(ended) < len(rows):
            while len(jobs) < len(prompts) and len(jobs) * copies - len(ended) < AT_ONCE:
                jobs.append(listen(len(jobs) * copies))
                engine.submit(jobs[-1])
            yield
            if failures:
                raise EngineGaveUpError(failures[0])
    finally:
        for job in jobs:
            job.cancelled = True
    return [
        Sampled(
            tuple(prompts[i // copies]),
            tuple(token.id for token in row),
            tuple(token.logprob for token in row),
            samples[i // copies].temperature or 1.0,
            policy_version,
        )
        for i, row in enumerate(rows)
    ]
