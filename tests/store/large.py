"""A store with as many turns as a busy year leaves, written straight into its tables."""

from pathlib import Path

from sqlalchemy import text

from talktune.store.store import Store

# SQLite makes them itself: a third of the time that rows of Python's would take.
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :turns) "
ROWS = {
    "conversations(id, user, created, touched)": "'c' || i, :user, i, i FROM n WHERE i % 2 = 0",
    "turns(id, conversation, parent, user, hash, continued, kind, state, messages, answer, engine, created)": """
        printf('t%07d', i), 'c' || (i - i % 2), iif(i % 2, printf('t%07d', i - 1), NULL), :user,
        CAST(printf('%032d', i) AS BLOB), i % 2 = 0, 'main', 'complete',
        json_array(json_object('role', 'user', 'content', 'Why is number ' || i || ' as it is?')),
        json_object('role', 'assistant', 'content', replace('........', '.', 'Because it comes after another. ')),
        'host', i FROM n""",
    "verdicts(turn, reward, created)": "printf('t%07d', i), iif(i * 7 % :turns < i, 1.0, -1.0), i FROM n",
    "votes(turn, number, label, confidence, judge, reason, created, cost)": """
        printf('t%07d', i), 0, iif(i * 7 % :turns < i, 1, -1), 0.9, 'local', '', i, 0.1 FROM n""",
}


def make_large(path: Path, turns: int, user: str = "local") -> None:
    """So many turns of a user, two to a conversation, each judged, liked more and more often."""
    store = Store(path)
    with store.engine.begin() as c:
        for table, rows in ROWS.items():
            c.execute(text(f"INSERT INTO {table} {NUMBERS} SELECT {rows}"), {"turns": turns, "user": user})
    store.close()
