"""Chooses the judged turns of the next update, and says why there is none where there are too few.

Open it to see when an update begins, and whose turns are in it.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil
from statistics import mean

from transformers import PreTrainedTokenizerBase

from talktune.config import Config, LiveConfig
from talktune.conversations.turns import skip_reason
from talktune.errors import UserError
from talktune.learner.samples import CUT_OFF, sample_of, with_teacher, with_wanted
from talktune.store.learning import Learning, Scored, Waiting, quotas
from talktune.store.policies import EVERYBODY, Policies, Version, ancestry
from talktune.types import Sample

log = logging.getLogger(__name__)
MOST_TIMES = 4
"""An update takes at most so many times --batch-turns, where turns come faster than updates."""
NAMED = 5
"""Users of whom it is said what is missing, with `--per-user`: those who are nearest to an update."""


@dataclass(frozen=True)
class Batch:
    """The turns of one update, as samples."""

    lineage: str
    live: Version | None
    scored: tuple[Scored, ...]
    samples: tuple[Sample, ...]


class Batches:
    """Takes waiting turns, the oldest verdicts first; where several users wait, nobody fills more than their share."""

    def __init__(
        self, learning: Learning, policies: Policies, tokenizer: PreTrainedTokenizerBase, config: Config
    ) -> None:
        """Of this queue, for the versions of `policies`."""
        self.learning = learning
        self.policies = policies
        self.trouble = ""
        """Why nothing is learned right now, in sentences; empty while there is something to do."""
        self._tokenizer = tokenizer
        self._config = config
        self._live = config.live or LiveConfig()
        self._staleness = config.algorithm.max_staleness

    def due(self, now: float) -> str | None:
        """The lineage that has enough waiting turns for an update, by counts alone; None, and `trouble`, where none
        has.
        """
        stopped = {name: why for name, (_, why) in self.policies.lineages().items() if why}
        lineages = {name: waiting for name, waiting in self._lineages().items() if name not in stopped}
        nearest = sorted(lineages, key=lambda name: -sum(_counts(lineages[name]).values()))
        missing = {name: self._missing(lineages[name], now) for name in nearest}
        ready = [lineage for lineage, sentence in missing.items() if not sentence]
        reasons = [f"learning of {name or 'everybody'} is stopped: {why}" for name, why in stopped.items()]
        reasons += [f"{name}: {why}" if name else why for name, why in missing.items()][:NAMED]
        reasons += [f"{len(missing) - NAMED} more users are further from theirs"] if len(missing) > NAMED else []
        self.trouble = "" if ready else "; ".join(reasons)
        return min(ready, default=None)

    def take(self, lineage: str, now: float) -> Batch | None:
        """Take the turns of the next update, if there are enough; turns that no update can use leave the queue."""
        live, parents = self.policies.live(lineage), self.policies.parents()
        while (waiting := self._lineages().get(lineage)) and not self._missing(waiting, now):
            counts = _counts(waiting)
            age = self._age(counts, live, parents)
            n = turns_of_update(sum(counts.values()), self._config.train.batch_turns, self._staleness, age)
            found = self.learning.oldest(quotas(counts, n, self._live.user_share), n)
            samples: list[Sample] = []
            gone: dict[str, str] = {}
            for one in found:
                try:
                    samples.append(self._sample_of(one, live, parents))
                except UserError as why:
                    gone[one.id] = str(why)
            if not gone:
                return Batch(lineage, live, tuple(found), tuple(samples))
            log.warning("%d turns cannot be learned from: %s", len(gone), dict(Counter(gone.values())))
            self.learning.drop(gone)
        return None

    def _lineages(self) -> dict[str, dict[str, Waiting]]:
        """What waits, by user, for each lineage: everybody's one, or each user's."""
        waiting = self.learning.waiting()
        if self._live.per_user:
            return {user: {user: mine} for user, mine in waiting.items()} or {EVERYBODY: {}}
        return {EVERYBODY: waiting}

    def _missing(self, waiting: Mapping[str, Waiting], now: float) -> str:
        """What is missing until these turns make an update, in a sentence; empty when nothing is."""
        n, minutes = self._config.train.batch_turns, self._live.timer_minutes
        counts = _counts(waiting)
        held = sum(mine.held_out for mine in waiting.values())
        usable = min(n, sum(quotas(counts, n, self._live.user_share).values()))
        oldest = min((waiting[user].since for user in counts), default=now)
        late = now - oldest > minutes * 60
        if usable >= (2 if late else n):
            return ""
        sentence = f"{usable} of {n} verdicts until the next update"
        if held:
            sentence += f", {held} more {'is' if held == 1 else 'are'} held out"
        if usable < min(n, total := sum(counts.values())):
            user, most = max(counts.items(), key=lambda item: item[1])
            share = f"{self._live.user_share:.0%} of an update while others wait too (--user-share)"
            sentence += f"; {most} of the {total} that wait are from {user or 'one user'}, who may fill {share}"
        if usable >= 2:
            begins = datetime.fromtimestamp(oldest + minutes * 60).astimezone()
            sentence += f"; with fewer it begins at {begins:%H:%M}, {minutes:g} minutes after the oldest"
            sentence += " (--timer-minutes)"
        return sentence

    def _age(self, counts: Mapping[str, int], live: Version | None, parents: Mapping[int, int | None]) -> int:
        """How many versions old the next turns are on average, rounded up, where more wait than an update takes."""
        n = self._config.train.batch_turns
        if sum(counts.values()) <= n:
            return 1
        found = self.learning.oldest(quotas(counts, n, self._live.user_share), n)
        sampled = [one.turn.sampled for one in found if one.turn.sampled is not None]
        ages = [_apart(live, one.policy_version, parents) for one in sampled if one.policy_version in (None, *parents)]
        return max(1, ceil(mean(ages))) if ages else 1

    def _sample_of(self, one: Scored, live: Version | None, parents: Mapping[int, int | None]) -> Sample:
        """A waiting turn as a sample; UserError says why it cannot be one."""
        turn, train = one.turn, self._config.train
        reason = skip_reason(turn)
        if reason is not None:
            raise UserError(reason)
        if turn.verdict is None or turn.verdict.reward is None:
            raise UserError("unscored")
        if turn.cut_off and train.truncated == "skip":
            raise UserError(CUT_OFF)
        made = sample_of(turn, turn.verdict.reward, self._tokenizer, self._config.algorithm.group)
        if len(made.prompt_ids) + len(made.answer_ids) > train.max_tokens:
            raise UserError(f"longer than {train.max_tokens} tokens")
        if self._config.algorithm.distills:
            made = with_teacher(made, turn, self._tokenizer, train.max_tokens)
        made = with_wanted(made, turn, self._tokenizer, train.max_tokens)
        if made.policy_version is not None and made.policy_version not in parents:
            raise UserError("from a version that this store does not know")
        staleness = _apart(live, made.policy_version, parents)
        if staleness > self._staleness:
            raise UserError(f"more than {self._staleness} versions old")
        taken = len(ancestry(None if live is None else live.number, parents))
        return replace(made, id=one.id, policy_version=taken - staleness)


def _apart(live: Version | None, version: int | None, parents: Mapping[int, int | None]) -> int:
    """Updates between a version and the live one, back and forth over their common ancestor.

    Back, too: a version that was rolled back may have answered.
    """
    ours = ancestry(None if live is None else live.number, parents)
    return len(set(ours) ^ set(ancestry(version, parents)))


def turns_of_update(waiting: int, usual: int, max_staleness: int, age: int = 1) -> int:
    """How many turns an update takes: min(max(usual, ⌈waiting / (max_staleness − age)⌉), 4 usual).

    Of updates of n turns, the last that waits is in the one after ⌊(waiting − 1) / n⌋ others, by so many versions
    older than now, and `age` versions went live before it came: people take their time to react. So it is at most
    `max_staleness` old as long as n is no less than this. Where turns come faster than even such updates, the oldest
    are left out.
    """
    wanted = -(-waiting // max(1, max_staleness - age))
    return min(max(usual, wanted), MOST_TIMES * usual)


def _counts(waiting: Mapping[str, Waiting]) -> dict[str, int]:
    """Turns that wait, of each user who has some."""
    return {user: mine.count for user, mine in waiting.items() if mine.count}
