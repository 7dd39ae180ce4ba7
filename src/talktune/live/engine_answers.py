"""Answers sampled by the host's engine for the gate and for groups, in the same batches as the users' own.

Open it to see how work that is not a user's shares the engine.
"""

from collections.abc import Collection, Sequence
from queue import SimpleQueue

from talktune.config import SampleConfig
from talktune.host.engine import Engine
from talktune.host.lora import Lora
from talktune.host.sampling_request import SamplingRequest, Token
from talktune.policy.turnstile import Role
from talktune.types import Sampled

AT_ONCE = 16
"""Answers that are sampled beside the users' own at a time: more would make every step slower for them."""


class EngineGaveUpError(Exception):
    """The engine dropped a request; the work that needs the answers has to be done again."""


def answers(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    sample: SampleConfig | Sequence[SampleConfig],
    *,
    end_ids: Collection[int],
    seeds: Sequence[int],
    lora: Lora | None,
    role: Role = Role.FRESH_ANSWERS,
    copies: int = 1,
    policy_version: int | None = None,
) -> list[Sampled]:
    """Sample `copies` answers to each prompt, answer i·copies + j to prompt i, and wait for them.

    `sample` says how, for all prompts or for each; prompt i draws from `seeds[i]` alone. The engine must run in another
    thread. Raises EngineGaveUpError.
    """
    samples = [sample] * len(prompts) if isinstance(sample, SampleConfig) else sample
    rows: list[list[Token]] = [[] for _ in range(len(prompts) * copies)]
    ended: SimpleQueue[str] = SimpleQueue()
    """Hears of every row that is finished, with the reason where it failed."""

    def request(i: int) -> SamplingRequest:
        def on_token(token: Token) -> bool:
            rows[i * copies + token.choice].append(token)
            if token.finish is not None:
                ended.put("")
            return False

        ends, mine = frozenset(end_ids), tuple(prompts[i])
        return SamplingRequest(
            mine, samples[i], ends, on_token, ended.put, copies=copies, seed=seeds[i], lora=lora, role=role
        )

    requests: list[SamplingRequest] = []
    try:
        for done in range(len(rows)):
            while len(requests) < len(prompts) and len(requests) * copies - done < AT_ONCE:
                requests.append(request(len(requests)))
                engine.submit(requests[-1])
            if failure := ended.get():
                raise EngineGaveUpError(failure)
    finally:
        for one in requests:
            one.cancelled = True
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
