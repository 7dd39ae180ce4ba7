"""Live updates on several ranks: the first one leads, the others wait for its word and take the same step.

Open it to see how `talktune learn` runs under torchrun.

The first rank has the model whole, since it samples from it, and so do the others: what is shared out are the packs of
an update. It alone knows the store; with every update the others are given all that decides it. A rank that dies, or
fails within an update, ends all of them, and the next start takes the same turns again.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

from talktune.config import Config, ModelConfig
from talktune.errors import UserError
from talktune.learner.ranks import Ranks
from talktune.learner.update import Learner, NotFiniteError
from talktune.policy.adapter import attach_adapter
from talktune.policy.load import load_policy
from talktune.policy.turnstile import ClosedError
from talktune.rl.advantage import RunningBaseline
from talktune.types import Sample

log = logging.getLogger(__name__)
GREETING_SECONDS = 600.0
"""So long the others hear nothing at most while nothing is to be done: nobody takes the first rank for dead."""
GREETING, END = "go on waiting", "end"


@dataclass(frozen=True)
class Update:
    """What decides an update, but for weights and the optimizer's numbers."""

    samples: Sequence[Sample]
    fresh: Sequence[Sample]
    pace: float
    taken: int
    """Updates before it."""
    running: RunningBaseline
    distill_weight: float
    kept: Sequence[Sequence[str]]
    """What the optimizer keeps of each trained parameter."""


class Followers:
    """The other ranks, as the first one speaks to them."""

    def __init__(self, ranks: Ranks, broken: Callable[[], None]) -> None:
        """`broken` is called when they can be spoken to no more; whoever speaks to them hears ClosedError then."""
        self.ranks = ranks
        self._break = broken
        self.failure = ""
        """Why they can be spoken to no more."""
        self._speaking = threading.Lock()
        self._heard = time.monotonic()

    @contextmanager
    def told(
        self, learner: Learner, samples: Sequence[Sample], fresh: Sequence[Sample], pace: float
    ) -> Generator[None]:
        """While this context is open, the other ranks take the step over these samples, as the caller does in it."""
        kept = [[*learner.optimizer.state.get(p, {})] for p in learner.trained.values()]
        update = Update(samples, fresh, pace, learner.update, learner.running, learner.distill_weight, kept)
        with self._speaking:
            self._say(update)
            try:
                _share_state(learner, self.ranks, kept)
                yield
            except NotFiniteError:  # on all of them alike
                raise
            except ClosedError:  # from here on the others may be in the middle of something
                self._give_up("stopped within an update")
                raise
            except Exception as error:
                log.exception("an update failed")
                self._give_up(f"an update failed ({type(error).__name__}: {error})")
                raise ClosedError from error

    def greet(self) -> None:
        """Say now and then that there is nothing to do."""
        with self._speaking:
            if time.monotonic() - self._heard > GREETING_SECONDS:
                self._say(GREETING)

    def end(self) -> None:
        """Let the others end; UserError where they cannot be told, so that torchrun has to end them."""
        if not self._speaking.acquire(blocking=False) or self.failure:  # it is kept: nobody speaks after this
            why = self.failure or "an update was under way"
            raise UserError(f"The ranks end ({why}); what was under way is taken up again by the next start.")
        with suppress(RuntimeError):  # who is gone needs no word
            self.ranks.of_first(lambda: END)

    def _say(self, word: Update | str) -> None:
        try:
            self.ranks.of_first(lambda: word)
        except RuntimeError as error:
            log.error("another rank is gone")
            self._give_up("another rank is gone")
            raise ClosedError from error
        self._heard = time.monotonic()

    def _give_up(self, why: str) -> None:
        self.failure = self.failure or why
        self._break()


def follow(config: Config, ranks: Ranks) -> None:
    """What every rank but the first does until that one ends: the steps that it is told to take."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a word is waited for where Python hears no signal
    policy = load_policy(ModelConfig(model=config.model.model, device=config.model.device))
    model = attach_adapter(policy.model, config.model, config.train.seed)
    learner = Learner(model, config, total_updates=1, copies=ranks)
    while True:
        try:
            word: Update | str = ranks.of_first(lambda: END)
        except RuntimeError as error:
            raise UserError("The first rank is gone.") from error
        if word == END:
            return
        if isinstance(word, Update):
            _take(learner, ranks, word)


def _take(learner: Learner, ranks: Ranks, update: Update) -> None:
    """The step that the first rank takes, from its weights and its state."""
    learner.update, learner.running = update.taken, update.running
    learner.distill_weight = update.distill_weight
    for parameter, keys in zip(learner.trained.values(), update.kept, strict=True):
        room = {key: torch.zeros(()) if key == "step" else torch.zeros_like(parameter.detach()) for key in keys}
        learner.optimizer.state[parameter] = room
    _share_state(learner, ranks, update.kept)
    with suppress(NotFiniteError):
        learner.step(update.samples, update.fresh, update.pace)


def _share_state(learner: Learner, ranks: Ranks, kept: Sequence[Sequence[str]]) -> None:
    """Let the weights and the optimizer's numbers be those of the first rank."""
    for parameter, keys in zip(learner.trained.values(), kept, strict=True):
        for tensor in (parameter.detach(), *(learner.optimizer.state[parameter][key] for key in keys)):
            ranks.copy(tensor)
