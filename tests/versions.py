"""Versions of a policy, made without learning."""

import shutil
from pathlib import Path

import torch
from sqlalchemy import Connection, insert

from talktune.config import ModelConfig
from talktune.policy.adapter import attach_adapter, save_adapter
from talktune.policy.load import load_policy
from talktune.store import schema
from talktune.store.policies import version_name
from talktune.store.store import Store


def name_versions(store: Store, folder: Path, count: int) -> None:
    """Published versions without anything in them, for engines that do not look."""
    with store.engine.begin() as c:
        for number in range(1, count + 1):
            _publish(c, number, folder / version_name(number))


def make_versions(model: Path, store: Store, folder: Path, count: int, std: float = 0.3) -> None:
    """Published versions whose adapters are strong and differ; `std` is of their B."""
    tuned = attach_adapter(load_policy(ModelConfig(model=str(model), device="cpu")).model, ModelConfig(lora_rank=4), 0)
    with store.engine.begin() as c:
        for number in range(1, count + 1):
            generator = torch.Generator().manual_seed(number)
            for name, parameter in tuned.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(std=std, generator=generator)
            path = folder / version_name(number)
            save_adapter(tuned, path)
            _publish(c, number, path)


def make_candidate(store: Store, folder: Path, number: int, parent: int) -> None:
    """A version like its parent that the gate has yet to see."""
    path = folder / version_name(number)
    shutil.copytree(folder / version_name(parent), path)
    with store.engine.begin() as c:
        _publish(c, number, path, parent=parent, state="candidate")


def _publish(c: Connection, number: int, path: Path, *, parent: int | None = None, state: str = "published") -> None:
    before = parent or number - 1 or None
    new = {"number": number, "parent": before, "lineage": "", "path": str(path), "state": state}
    c.execute(insert(schema.versions).values(**new, reason="", created=0.0))
