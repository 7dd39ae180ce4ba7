"""The adapter in training: a version's weights are loaded into it, and a new version is written from it.

Open it to see how a version gets onto the disk.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from talktune.config import Config
from talktune.files import put_in_place, whole_folder
from talktune.learner.checkpoint import is_ours, load_checkpoint, write_checkpoint
from talktune.learner.ranks import ALONE
from talktune.learner.update import Learner
from talktune.live.followers import Followers
from talktune.policy.adapter import attach_adapter, copy_adapter, save_adapter
from talktune.policy.load import Policy
from talktune.policy.turnstile import Lane
from talktune.policy.view import view_of
from talktune.store.policies import Policies, Version, ancestry, version_name
from talktune.types import Sample

KEPT = 8
"""Checkpoints that stay on disk; a version without one goes on with a fresh optimizer."""
UNPLACED = ".new-"
"""How the folder begins in which a learner keeps what is no version yet; its name follows."""


class Weights:
    """A learner with an adapter on a view of its own of the policy's model."""

    def __init__(
        self,
        policy: Policy,
        policies: Policies,
        config: Config,
        folder: Path,
        lane: Lane,
        followers: Followers | None = None,
    ) -> None:
        """Versions are written to `folder`; it computes in its turn at `lane`, and `followers` share the steps."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._policies = policies
        self._model = attach_adapter(view_of(policy.model), config.model, config.train.seed)
        self.learner = Learner(
            self._model, config, total_updates=1, lane=lane, copies=ALONE if followers is None else followers.ranks
        )
        self._followers = followers
        self._start = {name: p.detach().clone() for name, p in self.learner.trained.items()}
        self._loaded: tuple[str, int | None] | None = None
        """Lineage and version whose weights and optimizer are in place."""

    def load(self, lineage: str, version: Version | None) -> None:
        """Load a version's weights, optimizer state and baseline; a lineage without a version starts from the fresh
        adapter.
        """
        wanted = (lineage, None if version is None else version.number)
        if self._loaded == wanted:
            return
        self._loaded = None
        self.learner.reset(self._start)
        if version is not None:
            path = self._checkpoint(version.number)
            if is_ours(path):
                load_checkpoint(self.learner, path)
            else:
                copy_adapter(self._model, version.path)
                self.learner.update = len(ancestry(version.number, self._policies.parents()))
        self._loaded = wanted

    def step(self, samples: Sequence[Sample], fresh: Sequence[Sample], pace: float) -> dict[str, float]:
        """`Learner.step`, on every rank."""
        with nullcontext() if self._followers is None else self._followers.told(self.learner, samples, fresh, pace):
            return self.learner.step(samples, fresh, pace)

    def changed(self) -> None:
        """Say that an update has changed the weights in memory, so that they are no stored version's until `now_of`."""
        self._loaded = None

    def now_of(self, lineage: str, number: int | None) -> None:
        """Note that the weights are those of this version."""
        self._loaded = (lineage, number)

    def write(self, owner: str, metrics: Mapping[str, float], holder: Callable[[], str | None]) -> Path:
        """Write adapter and checkpoint to a folder of the `owner`'s own, before they belong to a version.

        The learner may be suspended on the way for longer than its lease is good: nothing here touches what a second
        one, the `holder` of the lease by now, has made of it or is writing.
        """
        written = self._unplaced(owner)
        left = list(self.folder.glob(f"{UNPLACED}*"))  # before the holder is asked for: a later one is not in it
        at_work = holder()
        kept = None if at_work in (None, owner) else self._unplaced(at_work)
        for old in left:  # of learners that ended before theirs was placed
            if old != kept:
                shutil.rmtree(old, ignore_errors=True)
        write_checkpoint(self.learner, written / "checkpoint", dict(metrics))
        with whole_folder(written / "adapter") as partial:
            save_adapter(self._model, partial)
        return written

    def place(self, written: Path, number: int) -> None:
        """Move what was written to the place of version `number`, within the transaction that names it; nobody else
        learns then.

        What is at the version's place already, a transaction that failed has left there.
        """
        put_in_place(written / "checkpoint", self._checkpoint(number))
        put_in_place(written / "adapter", self.path(number))
        shutil.rmtree(written, ignore_errors=True)
        for old in sorted((self.folder / "checkpoints").glob("policy-*"))[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def _unplaced(self, owner: str) -> Path:
        return self.folder / f"{UNPLACED}{owner.replace(':', '-')}"

    def path(self, number: int) -> Path:
        """The folder of a version's adapter, whether it exists yet or not."""
        return self.folder / version_name(number)

    def _checkpoint(self, number: int) -> Path:
        return self.folder / "checkpoints" / version_name(number)
