from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from talktune.serve.capture.history_hash import history_hash, prefixes
from talktune.types import Message

texts = st.text(alphabet="ab ", max_size=3)
messages = st.lists(
    st.one_of(
        st.builds(Message, st.sampled_from(["user", "assistant", "system"]), texts),
        st.builds(lambda text: Message("tool", text, tool_call_id="c1"), texts),
    ),
    max_size=8,
)


@given(messages)
def test_prefixes_are_the_histories_that_end_with_an_answer_longest_first(found: list[Message]) -> None:
    made = prefixes(found)
    ends = [i + 1 for i, m in enumerate(found) if m.role == "assistant"][::-1]
    assert list(made.ends) == ends
    assert list(made.hashes) == [history_hash(found[:n]) for n in ends]
    for hash, end in zip(made.hashes, made.ends, strict=True):
        first = made.ends[made.hashes.index(hash)]
        assert made.rest(hash, found) == tuple(m for m in found[first:] if m.role != "system")
        assert first >= end
    assert made.rest(None, found) == tuple(m for m in found if m.role != "system")


@given(messages, messages)
def test_equal_hashes_mean_equal_histories(a: list[Message], b: list[Message]) -> None:
    def bare(found: list[Message]) -> list[Message]:
        return [replace(m, content=m.content.strip()) for m in found if m.role != "system"]

    assert (history_hash(a) == history_hash(b)) == (bare(a) == bare(b))


def call(arguments: str, id: str = "c1") -> Message:
    return Message(
        "assistant", "", ({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}},)
    )


def test_what_clients_change_on_the_way_back_does_not_count() -> None:
    said = Message("user", "Hi")
    assert history_hash([said, Message("assistant", "Yes.\n", reasoning_content="hm")]) == history_hash(
        [Message("system", "It is noon."), said, Message("assistant", "Yes.")]
    )
    assert history_hash([said, call('{"b":1,"a":[2]}')]) == history_hash([said, call('{"a": [2], "b": 1}')])


def test_what_was_really_changed_does() -> None:
    said = Message("user", "Hi")
    histories = [
        [said],
        [said, Message("assistant", "Yes.")],
        [said, Message("assistant", "No.")],
        [said, Message("user", "Yes.")],
        [said, call('{"a": 1}')],
        [said, call('{"a": 2}')],
        [said, call('{"a": 1}', id="c2")],
        [said, call("broken {")],
        [replace(said, has_image=True)],
    ]
    assert len({history_hash(history) for history in histories}) == len(histories)
