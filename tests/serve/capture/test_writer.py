import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from talktune.serve.capture.writer import Writer
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message


def turn(name: str, parent: str | None = None) -> NewTurn:
    return NewTurn(
        id=name, user="u", conversation=f"c-{name}", parent=parent, hash=name.encode().ljust(32),
        messages=(Message("user", "?"),), answer=Message("assistant", "!"), engine="e", created=1.0,
    )  # fmt: skip


def test_what_was_written_is_committed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    writer = Writer(store)

    async def client(i: int) -> None:
        await writer.write([turn(str(i))])
        assert store.show(f"c-{i}"), i

    async def clients() -> None:
        await asyncio.gather(*map(client, range(60)))

    asyncio.run(clients())
    writer.close()


def test_a_turn_that_is_refused_does_not_take_others_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    gate = threading.Event()

    class Slow:
        def add_turns(self, turns: Sequence[NewTurn]) -> None:
            gate.wait(10)
            store.add_turns(turns)

    writer = Writer(Slow())

    async def clients() -> list[Any]:
        waiting = [asyncio.ensure_future(writer.write([t])) for t in (turn("a"), turn("b", "nobody"), turn("c"))]
        await asyncio.sleep(0.1)
        gate.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    a, b, c = asyncio.run(clients())
    writer.close()
    assert a is None
    assert c is None
    assert "FOREIGN KEY" in str(b)
    assert {row.id for row in store.list_conversations()} == {"c-a", "c-c"}


def test_turns_that_wait_together_share_one_transaction() -> None:
    gate, batches = threading.Event(), list[int]()

    class Slow:
        def add_turns(self, turns: Sequence[NewTurn]) -> None:
            gate.wait(10)
            batches.append(len(turns))

    writer = Writer(Slow())

    async def clients() -> None:
        waiting = [asyncio.ensure_future(writer.write([turn(str(i))])) for i in range(20)]
        await asyncio.sleep(0.2)
        gate.set()
        await asyncio.gather(*waiting)

    asyncio.run(clients())
    writer.close()
    assert sum(batches) == 20
    assert len(batches) <= 2


def test_closing_commits_what_waits_even_where_its_client_has_gone() -> None:
    gate, kept = threading.Event(), list[str]()

    class Slow:
        def add_turns(self, turns: Sequence[NewTurn]) -> None:
            gate.wait(10)
            kept.extend(t.id for t in turns)

    writer = Writer(Slow())

    async def leave() -> None:
        waiting = [asyncio.ensure_future(writer.write([turn(str(i))])) for i in range(3)]
        await asyncio.sleep(0.1)
        for task in waiting:
            task.cancel()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            with pytest.raises(asyncio.CancelledError):
                raise result  # type: ignore[misc]
        gate.set()
        await asyncio.sleep(0.3)

    asyncio.run(leave())
    writer.close()
    assert sorted(kept) == ["0", "1", "2"]
