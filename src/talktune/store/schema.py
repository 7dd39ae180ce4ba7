"""The tables of the store, and the ordered steps that bring an older database up to them.

Open it to add a column; add a step, too.

A conversation is a tree of turns: a turn holds what was new since the turn before it (its parent) and its answer.
An edited or regenerated history is a second child of one parent. So nothing is stored twice, and the history of a
turn is the chain of its parents.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import (
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    insert,
    inspect,
    literal,
    select,
    update,
)
from sqlalchemy.schema import CreateColumn

from talktune.conversations.marks import answer_mark, asked_mark
from talktune.conversations.messages import message_from_dict
from talktune.errors import UserError
from talktune.types import TurnKind

metadata = MetaData()

steps = Table("schema_steps", metadata, Column("number", Integer, primary_key=True, autoincrement=False))

texts = Table(
    "texts",
    metadata,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("body", Text, nullable=False),
    comment="system prompts and tool definitions, which come with every request: each is held once",
)
conversations = Table(
    "conversations",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("user", String(200), nullable=False),
    Column("session", String(200), comment="the client's own id, where it gave one"),
    Column("created", Float, nullable=False, comment="seconds since 1970, UTC; so are all times"),
    Column("touched", Float, nullable=False),
    Column("closed", Float),
)
Index("conversation_of_session", conversations.c.user, conversations.c.session, unique=True)
Index("conversations_by_age", conversations.c.user, conversations.c.created, conversations.c.id)
Index("open_conversations", conversations.c.closed, conversations.c.touched)

turns = Table(
    "turns",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("conversation", ForeignKey("conversations.id"), nullable=False),
    Column("parent", ForeignKey("turns.id")),
    Column("user", String(200), nullable=False),
    Column("hash", LargeBinary(32), nullable=False, comment="of all messages up to the answer, as a client sends them"),
    Column("continued", Integer, nullable=False, default=0, comment="1 once a later turn has this one as its parent"),
    Column("kind", String(10), nullable=False),
    Column("state", String(10), nullable=False, comment="complete, or partial: the client left, or the engine failed"),
    Column("messages", Text, nullable=False, comment="JSON: what was new since the parent's answer"),
    Column("answer", Text, nullable=False, comment="JSON: the answer as it was sent"),
    Column("system", ForeignKey("texts.hash")),
    Column("tools", ForeignKey("texts.hash")),
    Column("prompt_ids", LargeBinary),
    Column("answer_ids", LargeBinary),
    Column("logprobs", LargeBinary),
    Column("temperature", Float),
    Column("policy_version", Integer),
    Column("engine", String(80), nullable=False),
    Column("created", Float, nullable=False),
    Column("mark", LargeBinary(8), comment="of the answer: by it a changed history finds it"),
    Column("asked", LargeBinary(8), comment="of what the answer was given to"),
    Column(
        "history", LargeBinary, comment="hashes in `sent`: what the client sent before `messages`, where it was changed"
    ),
    Column("lost", String(10), comment="why no turn was found for the history that came with it"),
    Column("finish", String(40), comment="why the engine ended the answer: stop, length, tool_calls, …"),
)
Index("turns_by_mark", turns.c.user, turns.c.mark, turns.c.asked)
Index("turns_by_asked", turns.c.user, turns.c.asked)
Index("turns_by_hash", turns.c.user, turns.c.hash)
Index("turns_of_conversation", turns.c.conversation)
Index("turns_by_parent", turns.c.parent)
Index("turns_by_text", turns.c.system, turns.c.tools)
Index("turns_by_age", turns.c.user, turns.c.kind, turns.c.created, turns.c.id)

sent = Table(
    "sent",
    metadata,
    Column("conversation", ForeignKey("conversations.id"), primary_key=True),
    Column("hash", LargeBinary(16), primary_key=True),
    Column("body", Text, nullable=False),
    comment="messages of histories that a client changed, each once: its next request has most of them again",
)

feedback = Table(
    "feedback",
    metadata,
    Column("turn", ForeignKey("turns.id"), primary_key=True),
    Column("score", Float, nullable=False, comment="-1 … 1"),
    Column("created", Float, nullable=False),
    Column("better", Text, comment="JSON: the answer that was wanted, where the person said so"),
)
Index("feedback_by_age", feedback.c.created)
votes = Table(
    "votes",
    metadata,
    Column("turn", ForeignKey("turns.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("label", Integer),
    Column("confidence", Float),
    Column("judge", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("cost", Float, comment="seconds that the judge took for it"),
    Column("created", Float, nullable=False),
)
verdicts = Table(
    "verdicts",
    metadata,
    Column("turn", ForeignKey("turns.id"), primary_key=True),
    Column("reward", Float, nullable=False),
    Column("created", Float, nullable=False),
)
Index("verdicts_by_age", verdicts.c.created)
versions = Table(
    "versions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("parent", Integer),
    Column("lineage", String(200), nullable=False, server_default="", comment="whose: empty is everybody's, or a user"),
    Column("path", Text, nullable=False),
    Column("state", String(10), nullable=False, comment="candidate, published or rejected"),
    Column("reason", Text, nullable=False),
    Column("measures", Text, nullable=False, server_default="{}", comment="JSON: what the gate saw"),
    Column("created", Float, nullable=False),
    Column("pruned", Float, comment="since when its files are gone"),
)
holds = Table(
    "holds",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("owner", String(80), primary_key=True, comment="the server whose engines have it, or answer by it"),
    Column("until", Float, nullable=False),
    comment="versions whose files somebody needs besides those that are live",
)
identity = Table(
    "identity",
    metadata,
    Column("name", String(8), primary_key=True, comment="made once: engines tell this store's versions by it"),
)
updates = Table(
    "updates",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("version", ForeignKey("versions.number"), comment="none where nothing could be learned from its turns"),
    Column("metrics", Text, nullable=False, server_default="{}", comment="JSON"),
    Column("created", Float, nullable=False),
)
update_turns = Table(
    "update_turns",
    metadata,
    Column("update", ForeignKey("updates.number"), primary_key=True),
    Column("turn", String(80), primary_key=True, comment="no foreign key: that a turn was trained on outlives it"),
    Column("advantage", Float, comment="of each of its tokens in that update; none where the update says of none"),
)
Index("updates_of_turn", update_turns.c.turn)
readings = Table(
    "readings",
    metadata,
    Column("turn", ForeignKey("turns.id"), primary_key=True),
    Column("lineage", String(200), nullable=False),
    Column("update", ForeignKey("updates.number"), nullable=False, comment="the first that learned from the turn"),
    Column("place", Integer, nullable=False, comment="among the turns of that update"),
    Column("reader", Text, nullable=False, comment="who made it: readings of different readers are not compared"),
    Column("body", LargeBinary, nullable=False),
    comment="what a preference model knows of judged turns; their verdicts stand where they always do",
)
Index("readings_by_age", readings.c.lineage, readings.c.update, readings.c.place)
lineages = Table(
    "lineages",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("live", Integer, comment="the version that serves; none: the model as it was"),
    Column("stopped", Text, nullable=False, comment="why learning is stopped; empty while it goes on"),
)
notes = Table(
    "notes",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("lineage", String(200), nullable=False),
    Column("version", Integer, comment="that was promoted, or rolled back to; none: the model as it was"),
    Column("by", String(200), nullable=False),
    Column("text", Text, nullable=False, comment="JSON"),
    Column("created", Float, nullable=False),
    comment="why another version serves, in the words of who saw to it",
)
Index("notes_of_lineage", notes.c.lineage, notes.c.number)

# Work that waits: a row is there from the moment in which there is something to do until it is done.
judging = Table(
    "judging",
    metadata,
    Column("turn", ForeignKey("turns.id"), primary_key=True),
    Column("created", Float, nullable=False, comment="of the turn: the oldest goes first"),
    Column("after", Float, nullable=False, comment="not before"),
    Column("tries", Integer, nullable=False),
    Column("owner", String(80), comment="who judges it right now"),
    Column("until", Float, nullable=False, comment="when the claim runs out"),
)
Index("judging_by_age", judging.c.created, judging.c.turn)
learning = Table(
    "learning",
    metadata,
    Column("turn", ForeignKey("turns.id"), primary_key=True),
    Column("user", String(200), nullable=False),
    Column("bucket", Integer, nullable=False, comment="0 … 99, by the conversation: some are held out from training"),
    Column("created", Float, nullable=False, comment="of the verdict: the oldest goes first"),
    Column("uses", Integer, nullable=False, comment="updates that it was part of"),
)
Index("learning_by_age", learning.c.user, learning.c.created, learning.c.turn)
dropped = Table(
    "dropped",
    metadata,
    Column("why", String(200), primary_key=True),
    Column("turns", Integer, nullable=False),
    comment="turns with a verdict that no update could use",
)
leases = Table(
    "leases",
    metadata,
    Column("name", String(80), primary_key=True),
    Column("owner", String(80), nullable=False),
    Column("until", Float, nullable=False),
)
roles = Table(
    "roles",
    metadata,
    Column("name", String(80), primary_key=True, comment="judge or learner"),
    Column("trouble", Text, nullable=False, comment="why it does nothing right now; empty where it does"),
    Column("told", Float, nullable=False, comment="when it was last seen at work"),
)


def _first(connection: Connection) -> None:
    metadata.create_all(connection)


def _live(connection: Connection) -> None:
    """Queues and lineages: turns that an older talktune stored, and that were answered, wait to be judged."""
    if "metrics" not in {column["name"] for column in inspect(connection).get_columns("updates")}:
        updates.drop(connection)  # nothing was ever written to it
    metadata.create_all(connection)
    for table in (votes, versions):
        _add_columns(connection, table, table.columns.keys())
    t = turns.c
    waiting = select(t.id, t.created, literal(0.0), literal(0), literal(0.0)).where(
        t.continued == 1, t.kind == "main", t.state == "complete", t.id.not_in(select(verdicts.c.turn))
    )
    connection.execute(insert(judging).from_select(["turn", "created", "after", "tries", "until"], waiting))


def _roles(connection: Connection) -> None:
    """What the roles say of themselves."""
    metadata.create_all(connection)


def _marks(connection: Connection) -> None:
    """Marks by which changed histories are found, for older turns as well."""
    metadata.create_all(connection)
    _add_columns(connection, turns, ("mark", "asked", "history", "lost"))
    t = turns.c
    last = ""
    while rows := connection.execute(
        select(t.id, t.kind, t.answer, t.messages).where(t.id > last, t.mark.is_(None)).order_by(t.id).limit(1000)
    ).all():
        last = rows[-1].id
        known = [{"of": row.id} | marks_of(row.kind, row.messages, row.answer) for row in rows]
        connection.execute(update(turns).where(t.id == bindparam("of")), known)
    for index in turns.indexes:
        index.create(connection, checkfirst=True)


def marks_of(kind: TurnKind, messages: str, answer: str) -> dict[str, bytes | None]:
    """The marks of a stored turn, from its JSON."""
    asked = [message_from_dict(message) for message in json.loads(messages)]
    return {"mark": answer_mark(message_from_dict(json.loads(answer)), kind), "asked": asked_mark(asked)}


def _finish(connection: Connection) -> None:
    """Why an answer ended; not known of those that an older talktune stored."""
    _add_columns(connection, turns, ("finish",))


def _readings(connection: Connection) -> None:
    """What is known of judged turns; those that an older talktune learned from are not read again."""
    metadata.create_all(connection)


def _pages(connection: Connection) -> None:
    """Wanted answers, and what a page of turns, the newest first, is found by."""
    _add_columns(connection, feedback, ("better",))
    for table in (turns, feedback, verdicts):
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def _side_marks(connection: Connection) -> None:
    """Side turns by their longest lines, those of older stores as well: a summary comes back within other words."""
    t = turns.c
    last = ""
    while rows := connection.execute(
        select(t.id, t.kind, t.answer, t.messages).where(t.id > last, t.kind == "side").order_by(t.id).limit(1000)
    ).all():
        last = rows[-1].id
        known = [{"of": row.id} | marks_of(row.kind, row.messages, row.answer) for row in rows]
        connection.execute(update(turns).where(t.id == bindparam("of")), known)


def _notes(connection: Connection) -> None:
    """Notes, and advantages; those of older updates are not known."""
    metadata.create_all(connection)
    _add_columns(connection, update_turns, ("advantage",))


def _engines(connection: Connection) -> None:
    """A name of this store's own, what is pruned and what may not be, and how many turns were dropped."""
    metadata.create_all(connection)
    _add_columns(connection, versions, ("pruned",))
    if connection.execute(select(identity)).first() is None:
        connection.execute(insert(identity).values(name=secrets.token_hex(2)))


def _add_columns(connection: Connection, table: Table, names: Iterable[str]) -> None:
    """Add those of the columns that the table of an older talktune has not."""
    there = {column["name"] for column in inspect(connection).get_columns(table.name)}
    for name in names:
        if name not in there:
            made = CreateColumn(table.c[name]).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {made}")


STEPS: Sequence[Callable[[Connection], None]] = (
    _first,
    _live,
    _roles,
    _marks,
    _finish,
    _readings,
    _pages,
    _side_marks,
    _notes,
    _engines,
)
"""Step n brings a database from n to n + 1; a step that was released is never changed."""


def migrate(connection: Connection) -> None:
    """Run the steps that this database has not seen; UserError when a newer talktune made it."""
    have: set[int] = set()
    if inspect(connection).has_table("schema_steps"):
        have = set(connection.execute(select(steps.c.number)).scalars())
    if any(number >= len(STEPS) for number in have):
        raise UserError(f"The store is of a newer talktune (schema {len(have)}, known {len(STEPS)}): update talktune.")
    for number, step in enumerate(STEPS):
        if number not in have:
            step(connection)
            connection.execute(insert(steps).values(number=number))
