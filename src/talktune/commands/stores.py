"""`talktune forget`: really delete a user or a conversation from a store."""

from pathlib import Path

from talktune.commands.console import table, warn
from talktune.errors import UserError
from talktune.store.opening import open_store


def forget(store: Path, /, *, user: str | None = None, conversation: str | None = None) -> int:
    """Really delete what a user said, or one conversation, and say which policy versions were trained on it.

    Parameters
    ----------
    store
        The store's file.
    user
        Everything of this user.
    conversation
        One conversation, by its id; together with --user only if it is that user's.
    """
    if user is None and conversation is None:
        raise UserError("Give --user or --conversation: without them there is nothing to forget.")
    forgotten = open_store(store).forget(user=user, conversation=conversation)
    if not forgotten.conversations:
        raise UserError(f"{store}: holds nothing of {' and '.join(x for x in (user, conversation) if x)}.")
    rows = [("conversations", forgotten.conversations), ("turns", forgotten.turns)]
    table("Deleted", ("what", "number"), rows)
    if forgotten.versions:
        warn(f"Policy versions that were trained on it: {', '.join(map(str, forgotten.versions))}.")
    else:
        warn("No policy version was trained on it.")
    return 0
