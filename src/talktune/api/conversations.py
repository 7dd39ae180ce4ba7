"""Conversations in: from files, and from the stores of servers."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from talktune.conversations.readers import read_conversations
from talktune.errors import UserError
from talktune.store.opening import is_store, open_store
from talktune.types import Conversation

log = logging.getLogger(__name__)


def load_conversations(
    files: Path | str | Sequence[Path | str], *, strict: bool = False, say: Callable[[str], object] = log.warning
) -> tuple[Conversation, ...]:
    """Read conversations from a file or several: JSONL in OpenAI or ShareGPT form, scored files, a server's store.

    A line that cannot be used is left out, and `say` hears of it; with `strict` it is a UserError, as is a file that
    cannot be read, or one that holds no conversation.

    >>> conversations = load_conversations("examples/conversations.jsonl")
    >>> conversations[0].messages[0].content
    'How long do I boil an egg so the yolk stays runny?'
    """
    paths = [Path(files)] if isinstance(files, Path | str) else [Path(file) for file in files]
    stores = [path for path in paths if is_store(path)]
    stored = tuple(conversation for path in stores for conversation in open_store(path).export())
    if paths and len(stores) == len(paths):
        if not stored:
            raise UserError(f"{', '.join(map(str, stores))}: holds no conversation yet.")
        return stored
    found = read_conversations([path for path in paths if path not in stores], strict=strict, known=stored)
    for line in (*found.problems, *found.notes):
        say(str(line))
    if found.problems:
        say(f"{len(found.problems)} line(s) could not be used, {len(found.conversations)} conversations can.")
    return found.conversations
