"""Fresh answers beside a server: the readings of judged turns are kept in the store, and learned from.

Open it to see how a user's preference model grows from update to update.

batch -> its readings, after those of the updates before -> preference model -> trust -> fresh samples
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from random import Random

from talktune.config import Config, LiveConfig
from talktune.learner.asker import WANTED, Asker
from talktune.learner.preference import READER, WINDOW
from talktune.learner.readings import reading_from_bytes, reading_to_bytes
from talktune.live.batches import Batch
from talktune.store.readings import KeptReading, NewReadings, kept_readings, read_before
from talktune.store.store import Store
from talktune.types import Sample, Turn, Verdict


@dataclass(frozen=True)
class FreshAnswers:
    """The fresh answers of an update, as samples, with their metrics and the readings to be kept."""

    samples: Sequence[Sample] = ()
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    readings: NewReadings | None = None


NOTHING = FreshAnswers()


class Fresh:
    """Makes the fresh answers of an update: a pure function of the seed, the store and the live version."""

    def __init__(self, asker: Asker, store: Store, config: Config) -> None:
        """The asker's model must have the live version's weights whenever it is used."""
        self._asker, self._store, self._seed = asker, store, config.train.seed
        self._shuffled = (config.live or LiveConfig()).shuffle_rewards
        self._reader = f"{READER} {config.model.model}"

    def of(self, batch: Batch, rewards: Mapping[str, float]) -> FreshAnswers:
        """The fresh answers of a batch; `rewards` are those of its turns by sample id."""
        known = read_before(self._store, self._reader, [one.id for one in batch.scored])
        new = [i for i, one in enumerate(batch.scored) if one.id not in known]
        turns = [
            replace(one.turn, verdict=Verdict(one.turn.verdict.votes if one.turn.verdict else (), rewards[one.id]))
            for one in batch.scored
        ]
        readings = self._asker.read([turns[i] for i in new], [batch.samples[i] for i in new])
        kept = kept_readings(self._store, batch.lineage, self._reader)
        preference = self._asker.learn(
            [*(reading_from_bytes(one.body) for one in kept), *readings],
            [*self._labels(kept), *(rewards[batch.scored[i].id] for i in new)],
            self._wanted(kept, [turns[i] for i in new]),
        )
        seed = f"{self._seed}/{batch.live.number if batch.live else 0}/{batch.scored[0].id}"
        samples, metrics = self._asker.ask(turns, batch.samples, preference, seed)
        bodies = [(batch.scored[i].id, reading_to_bytes(one)) for i, one in zip(new, readings, strict=True)]
        return FreshAnswers(samples, metrics, NewReadings(batch.lineage, self._reader, bodies, WINDOW))

    def _wanted(self, kept: Sequence[KeptReading], new: Sequence[Turn]) -> list[Turn]:
        """The turns whose person said what the answer should have been; none where verdicts are to say nothing."""
        if self._shuffled:
            return []
        ids = [one.turn for one in kept if one.wanted][-WANTED:]
        found = self._store.turns(ids) if ids else {}
        return [*(found[id] for id in ids if id in found), *(turn for turn in new if turn.wanted is not None)]

    def _labels(self, kept: Sequence[KeptReading]) -> list[float]:
        """The verdicts as they are now; dealt out anew within each update, where the rewards were."""
        if not self._shuffled:
            return [one.reward for one in kept]
        updates = [list(group) for _, group in groupby(kept, key=lambda one: one.update)]
        return [x for group in updates for x in dealt([one.reward for one in group], self._seed, group[0].turn)]


def dealt(rewards: Sequence[float], seed: int, name: str) -> list[float]:
    """The rewards of an update dealt out anew (a control); `name` is that of its first turn."""
    shuffled = list(rewards)
    Random(f"{seed}/{name}").shuffle(shuffled)
    return shuffled
