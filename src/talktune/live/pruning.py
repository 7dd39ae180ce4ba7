"""Removes the folders of versions that nobody needs any more, so that the disk does not fill.

Open it when a version's folder is gone.
"""

import logging
import shutil
from pathlib import Path

from talktune.store.holds import prune
from talktune.store.store import Store

log = logging.getLogger(__name__)


def prune_versions(store: Store, folder: Path, keep: int, now: float) -> None:
    """Remove the folders in `folder` of all versions but those that are needed (`store.holds.needed`).

    The store says first that a version is pruned: one that is killed in between is finished the next time.
    """
    for version in prune(store, keep, now):
        if version.path.parent == folder and version.path.exists():
            shutil.rmtree(version.path, ignore_errors=True)
            log.info("%s is old: its files are removed", version.name)
