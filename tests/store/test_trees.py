from hypothesis import given
from hypothesis import strategies as st

from talktune.store.trees import StoredTurn, conversations_of
from talktune.types import Message

parents = st.lists(st.integers(-1, 30), min_size=1, max_size=25)


def made(found: list[int]) -> list[StoredTurn]:
    return [
        StoredTurn(
            id=f"t{i}",
            parent=None if p < 0 or i == 0 else f"t{p % i}",
            messages=(Message("user", f"u{i}"),),
            answer=Message("assistant", f"a{i}"),
            system="",
            tools=(),
            kind="main",
            state="complete",
            engine="e",
        )
        for i, p in enumerate(found)
    ]


@given(parents)
def test_every_turn_is_trainable_in_one_line_and_has_its_own_history(found: list[int]) -> None:
    turns = made(found)
    by_id = {turn.id: turn for turn in turns}
    lines = conversations_of("c", turns)
    assert lines[0].id == "c"
    assert len({line.id for line in lines}) == len(lines)
    trainable: list[str] = []
    for line in lines:
        ids = line.metadata["turns"]
        for index, name in ids.items():
            history: list[str] = []
            turn: StoredTurn | None = by_id[name]
            while turn is not None:
                history[:0] = [turn.messages[0].content, turn.answer.content]
                turn = by_id[turn.parent] if turn.parent else None
            assert [m.content for m in line.messages[: int(index) + 1]] == history
            if line.kinds.get(int(index), "main") == "main":
                trainable.append(name)
    assert sorted(trainable) == sorted(by_id)


@given(parents)
def test_the_main_line_is_the_longest(found: list[int]) -> None:
    lines = conversations_of("c", made(found))
    assert len(lines[0].messages) == max(len(line.messages) for line in lines)
