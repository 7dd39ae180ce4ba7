"""Publishes an adapter that was trained elsewhere as the first version of a store.

Open it to see what `--adapter` does when a server starts.
"""

import shutil
import time
from pathlib import Path

from talktune.errors import UserError
from talktune.files import whole_folder
from talktune.store.policies import Policies, version_name

FILES = ("adapter_config.json", "adapter_model.safetensors")


def adopt(policies: Policies, folder: Path, adapter: Path) -> None:
    """Publish a copy of `adapter` (or of the one in a run directory) in a store that has no version yet.

    Raises UserError when there is no adapter.
    """
    if policies.last_number():
        return
    found = adapter / "adapter" if (adapter / "adapter" / FILES[0]).exists() else adapter
    if not all((found / name).exists() for name in FILES):
        raise UserError(f"--adapter {adapter}: no adapter there ({FILES[0]} or {FILES[1]} is missing).")
    path = folder.absolute() / version_name(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(path) as partial:
        for name in FILES:
            shutil.copyfile(found / name, partial / name)
    policies.adopt(1, path, f"given as {adapter.absolute().name}", time.time())
