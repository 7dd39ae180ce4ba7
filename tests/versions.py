"""Versions of a policy, made without learning."""

import shutil
from pathlib import Path

import torch

from talktune.config import ModelConfig
from talktune.policy.adapter import attach_adapter, save_adapter
from talktune.policy.load import load_policy
from talktune.store.policies import version_name
from talktune.store.store import Store


def make_versions(model: Path, store: Store, folder: Path, count: int) -> None:
    """Published versions whose adapters are strong and differ."""
    tuned = attach_adapter(load_policy(ModelConfig(model=str(model), device="cpu")).model, ModelConfig(lora_rank=4), 0)
    with store.engine.begin() as c:
        for number in range(1, count + 1):
            generator = torch.Generator().manual_seed(number)
            for name, parameter in tuned.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(std=0.3, generator=generator)
            path = folder / version_name(number)
            save_adapter(tuned, path)
            c.exec_driver_sql(
                "INSERT INTO versions (number, parent, lineage, path, state, reason, measures, created) "
                "VALUES (?, ?, '', ?, 'published', '', '{}', 0)",
                (number, number - 1 or None, str(path)),
            )


def make_candidate(store: Store, folder: Path, number: int, parent: int) -> None:
    """A version like its parent that the gate has yet to see."""
    path = folder / version_name(number)
    shutil.copytree(folder / version_name(parent), path)
    with store.engine.begin() as c:
        c.exec_driver_sql(
            "INSERT INTO versions (number, parent, lineage, path, state, reason, measures, created) "
            "VALUES (?, ?, '', ?, 'candidate', '', '{}', 0)",
            (number, parent, str(path)),
        )
