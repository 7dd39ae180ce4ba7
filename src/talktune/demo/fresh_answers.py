"""Fresh answers of the demo; readings of its judged turns are kept in the run directory, so that it can be resumed."""

import base64
import json
from pathlib import Path

from talktune.demo.loop import Demo
from talktune.files import whole_file
from talktune.learner.asker import Asker
from talktune.learner.preference import WINDOW, Reading
from talktune.learner.readings import reading_from_bytes, reading_to_bytes
from talktune.types import Sample


class DemoFresh:
    """Makes the fresh answers of an update from the turns of this update and of those before."""

    def __init__(self, asker: Asker, demo: Demo, folder: Path) -> None:
        """`folder` has a file of readings and rewards for each update; it is made here."""
        self._asker, self._demo, self._folder = asker, demo, folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, update: int) -> tuple[list[Sample], dict[str, float]]:
        """Those of update n (from 1), whose turns the demo has just sampled, and its metrics of them."""
        samples = self._demo.learned
        turns = [self._demo.turns[sample.id] for sample in samples]
        readings = self._asker.read(turns, samples)
        with whole_file(self._folder / f"{update:05}.jsonl") as file:
            for sample, reading in zip(samples, readings, strict=True):
                body = base64.b64encode(reading_to_bytes(reading)).decode()
                file.write(json.dumps({"reward": sample.reward, "reading": body}).encode() + b"\n")
        known: list[tuple[Reading, float]] = []
        for n in range(update, 0, -1):
            if len(known) < WINDOW:
                known = self._kept(n) + known
        preference = self._asker.learn([reading for reading, _ in known], [reward for _, reward in known])
        return self._asker.ask(turns, samples, preference, f"{self._demo.config.train.seed}/{update}")

    def _kept(self, update: int) -> list[tuple[Reading, float]]:
        lines = (self._folder / f"{update:05}.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [(reading_from_bytes(base64.b64decode(row["reading"])), row["reward"]) for row in rows]
