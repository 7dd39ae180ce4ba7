"""Continuous batching: one loop in one thread owns the model; requests join and leave while it runs.

Open it to see how answers are sampled: `Engine.step` is one round.

`step()` is the engine: take in what is new, read one piece of the prompts, decode one token for every running
row. The shape (schedule, run, postprocess) is nano-vllm's. transformers' own continuous batching knows neither
adapters per request nor others who compute on the same device.
"""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from talktune.host.cache import SlotCache
from talktune.host.grammar import BrokenForm, steer
from talktune.host.lora import Lora, LoraRows
from talktune.host.sampling_request import Finish, SamplingRequest, SamplingSequence, Token
from talktune.host.slots import Slots
from talktune.policy.sample import choose
from talktune.policy.turnstile import Turnstile

PIECE_TOKENS = {"cpu": 64, "cuda": 2048}
"""Prompt tokens read between two decode steps: a longer prompt is read in pieces, so that it stalls nobody."""

log = logging.getLogger(__name__)


class Engine:
    """Samples the answers of all requests together, step by step, in its role's turn.

    `context` is the longest prompt plus answer in tokens, `budget` the size of the cache in tokens, `piece` the
    prompt tokens read between two decode steps. Others who compute on the device share `turnstile`.
    """

    def __init__(self, model: Any, *, context: int, budget: int, piece: int | None = None) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.context = min(context, budget)
        self.piece = piece or PIECE_TOKENS.get(self.device.type, PIECE_TOKENS["cpu"])
        self.loras = LoraRows(model)
        self.cache = SlotCache(model.config)
        self.slots = Slots(self.cache, budget=budget, spare=self.piece)
        self.waiting: deque[SamplingSequence] = deque()
        self.turnstile = Turnstile()
        self.steps = 0
        self.sampled = 0
        """Tokens sampled so far."""
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False

    # From any thread.

    def submit(self, request: SamplingRequest) -> None:
        """Queue a request: `copies` answers to its prompt."""
        seed = random.SystemRandom().getrandbits(64) if request.seed is None else request.seed
        rows = [
            SamplingSequence(request, i, [*request.prompt_ids], random.Random(f"{seed}/{i}"))
            for i in range(request.copies)
        ]
        self.call(lambda: self.waiting.extend(rows))

    def cancel(self, request: SamplingRequest) -> None:
        """Drop the rest of a request; its callbacks are not called any more."""
        request.cancelled = True
        self.call(lambda: None)

    def call(self, action: Callable[[], None]) -> None:
        """Run `action` in the engine's thread before its next step."""
        with self._wake:
            self._inbox.append(action)
            self._wake.notify()

    def stop(self) -> None:
        """End `run` after the current step."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def forget(self, lora: Lora) -> None:
        """Drop what is cached of an adapter that was unloaded; answers that use it are finished with it."""

        def drop() -> None:
            self.loras.forget(lora)
            self.slots.forget(lora)

        self.call(drop)

    def load(self) -> tuple[int, int]:
        """The number of sequences that run, and of those that wait."""
        return len(self.slots.rows), len(self.waiting)

    # In the engine's thread.

    def run(self) -> None:
        """Step until stopped; sleep while there is nothing to do."""
        while not self._stopping:
            try:
                worked = self.step()
            except Exception as error:
                log.exception("a step failed")
                self._fail_all(f"the engine failed ({type(error).__name__}); send the request again.")
                worked = True
            if not worked:
                with self._wake:
                    self._wake.wait_for(lambda: self._inbox or self._stopping)
        self._fail_all("the host is shutting down; send the request again.")

    def step(self) -> bool:
        """One round over all sequences; False when there was nothing to do."""
        self._take_in()
        if not self.slots.rows:
            return False
        most_urgent = min(row.request.role for row in self.slots.rows)
        with self.turnstile.lane(most_urgent), torch.inference_mode():
            self._read()
            self._decode()
        self.steps += 1
        return True

    def _take_in(self) -> None:
        """Run what other threads asked for, drop what was cancelled, admit rows while there is room."""
        while self._inbox:
            self._inbox.popleft()()
        self.waiting = deque(row for row in self.waiting if not row.request.cancelled)
        for row in [row for row in self.slots.rows if row.request.cancelled]:
            self.slots.retire(row)
        while self.waiting and self.slots.admit(self.waiting[0]):
            self.waiting.popleft()

    def _read(self) -> None:
        """One piece of prompt for the first rows that are not read yet; those that are done start to decode."""
        slots, first = self.slots, self.slots.decoding
        chunks: list[list[int]] = []
        width = 0
        for slot, row in enumerate(slots.rows[first:], start=first):
            if row.cached == 0:
                twin = slots.rows[slot - 1] if chunks else None
                if twin is not None and twin.request is row.request and twin.left > 1:
                    break  # the same prompt is read right now: next time it can be copied
                slots.share(slot)
            wider = max(width, min(row.left, self.piece))
            if chunks and wider * (len(chunks) + 1) > self.piece:
                break
            width = wider
            chunks.append(row.ids[row.cached : row.cached + width])
        if not chunks:
            return
        rows = slots.rows[first : first + len(chunks)]
        logits = self._forward(first, rows, chunks)
        done = [row for row in rows if row.left == 0]  # the first ones: only a row alone in a piece can be unfinished
        slots.decoding += len(done)
        self._sample(done, logits)

    def _decode(self) -> None:
        """One token for every row that decodes."""
        self.waiting.extendleft(self.slots.lengthen())
        rows = self.slots.rows[: self.slots.decoding]
        if rows:
            self._sample(rows, self._forward(0, rows, [row.ids[-1:] for row in rows]))

    def _forward(self, first: int, rows: Sequence[SamplingSequence], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Pass the next ids of neighbouring rows through the model -> logits after each row's last one (rows, V)."""
        width = max(len(chunk) for chunk in chunks)
        ids = torch.tensor([[*chunk, *[0] * (width - len(chunk))] for chunk in chunks], device=self.device)
        starts = torch.tensor([row.cached for row in rows], device=self.device)
        positions = starts[:, None] + torch.arange(width, device=self.device)
        last = [len(chunk) - 1 for chunk in chunks]
        kept = sorted(set(last))
        mask = self.cache.aim(first, positions)
        with self.loras.rows([row.request.lora for row in rows]):
            logits: Tensor = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=torch.tensor(kept, device=self.device),
            ).logits
        for row, chunk in zip(rows, chunks, strict=True):
            row.cached += len(chunk)
        return logits[list(range(len(rows))), [kept.index(i) for i in last]]

    def _sample(self, rows: Sequence[SamplingSequence], logits: Tensor) -> None:
        """Draw one token a row, tell the requests, retire the rows that are finished."""
        if not rows:
            return
        temperatures = torch.tensor([row.request.sample.temperature or 1.0 for row in rows], device=self.device)
        scores = torch.log_softmax(logits[: len(rows)].float() / temperatures[:, None], dim=-1)
        chosen = self._choose(rows, steer(scores, [row.guide for row in rows]))
        self.sampled += len(rows)
        logprobs = scores.gather(1, chosen[:, None]).squeeze(1).tolist()
        for i, (row, token, logprob) in enumerate(zip(rows, chosen.tolist(), logprobs, strict=True)):
            row.ids.append(token)
            top: list[tuple[int, float]] = []
            if row.request.top:
                best = scores[i].topk(row.request.top)
                top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            length = len(row.ids) - len(row.request.prompt_ids)
            enough = length >= row.request.sample.max_new_tokens or len(row.ids) >= self.context
            finish: Finish | None = "stop" if token in row.request.end_ids else "length" if enough else None
            if self._tell(row, Token(row.choice, token, logprob, top, finish)) or finish:
                self.slots.retire(row)

    def _choose(self, rows: Sequence[SamplingSequence], scores: Tensor) -> Tensor:
        """Chosen ids (rows,): the rows that are cut in the same way together, each at its own draw."""
        draws = torch.tensor([row.draws.random() for row in rows], dtype=torch.float64, device=self.device)
        chosen = torch.zeros(len(rows), dtype=torch.long, device=self.device)
        alike: dict[tuple[bool, float, int], list[int]] = {}
        for i, row in enumerate(rows):
            sample = row.request.sample
            alike.setdefault((sample.temperature == 0, sample.top_p, sample.top_k), []).append(i)
        for indices in alike.values():
            chosen[indices] = choose(scores[indices], rows[indices[0]].request.sample, draws[indices])
        return chosen

    def _tell(self, row: SamplingSequence, token: Token) -> bool:
        request = row.request
        try:
            if row.guide is not None:
                row.guide.take(token.id)
            return request.cancelled or request.on_token(token)
        except BrokenForm as error:
            reason = f"the response_format became too complex on the way ({error}); make its schema simpler."
        except Exception:
            log.exception("a listener failed")
            reason = "the answer could not be read; send the request again."
        request.cancelled = True
        self._fail([request], reason)
        return True

    def _fail_all(self, reason: str) -> None:
        requests = list(dict.fromkeys(row.request for row in [*self.slots.rows, *self.waiting]))
        self.waiting.clear()
        self.slots.clear()
        self._fail(requests, reason)

    def _fail(self, requests: Sequence[SamplingRequest], reason: str) -> None:
        for request in requests:
            try:
                request.on_failure(reason)
            except Exception:
                log.exception("a listener failed")
