import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.conversations.readers import read_conversations
from talktune.errors import UserError
from talktune.types import Verdict


def chat(text: str = "Hi", **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Thanks!"},
    ]
    return {"messages": messages, **more}


def lines(*records: object) -> bytes:
    return b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records)


def write(folder: Path, data: bytes, name: str = "chats.jsonl") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_a_bad_line_is_reported_and_the_rest_is_used(tmp_path: Path) -> None:
    good = [chat(str(i)) for i in range(6)]
    path = write(tmp_path, lines(*good, b'{"messages": [', chat("last")))
    result = read_conversations([path])
    assert [c.messages[0].content for c in result.conversations] == ["0", "1", "2", "3", "4", "5", "last"]
    (problem,) = result.problems
    assert str(problem) == f"{path}, line 7: it is not JSON (Expecting value, column 15)"


def test_strict_stops_at_the_first_bad_line(tmp_path: Path) -> None:
    path = write(tmp_path, lines(chat(), b"oops", chat(), b"again"))
    with pytest.raises(UserError) as error:
        read_conversations([path], strict=True)
    assert str(error.value).startswith(f"{path}, line 2: it is not JSON")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b'{"messages": NaN}', "NaN"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "surrogate"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"3", "not a JSON object"),
        (b'{"messages": [{"role": "assistant", "content": "Hi"}]}', "starts with the assistant"),
        (b'{"messages": [{"role": "boss", "content": "Hi"}]}', "unknown role 'boss'"),
        (b'{"id": ' + b"9" * 5000 + b"}", "digit"),
    ],
)
def test_every_bad_line_has_one_clear_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    (problem,) = read_conversations([write(tmp_path, lines(chat(), line))]).problems
    assert problem.line == 2
    assert reason in problem.reason
    assert "\n" not in str(problem)


def test_whole_pairs_of_surrogates_are_text(tmp_path: Path) -> None:
    (conversation,) = read_conversations([write(tmp_path, lines(chat("\U0001f600")))]).conversations
    assert conversation.messages[0].content == "\U0001f600"


def test_blank_lines_byte_order_mark_and_carriage_returns_do_not_matter(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + lines(chat("a"), b"  ", chat("b")).replace(b"\n", b"\r\n")
    result = read_conversations([write(tmp_path, data)])
    assert (len(result.conversations), result.problems) == (2, ())


def test_a_line_separator_inside_text_ends_no_line(tmp_path: Path) -> None:
    line = json.dumps(chat("one\u2028two"), ensure_ascii=False).encode()
    (conversation,) = read_conversations([write(tmp_path, line)]).conversations
    assert conversation.messages[0].content == "one\u2028two"


def test_gzip_is_seen_by_its_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(lines(chat("a"), chat("b"))), "chats.data")
    assert len(read_conversations([path]).conversations) == 2


def test_damaged_gzip_keeps_what_came_before_and_says_so(tmp_path: Path) -> None:
    whole = gzip.compress(lines(*[chat(f"{i} {i * 7919 % 1009}") for i in range(2000)]))
    result = read_conversations([write(tmp_path, whole[: len(whole) // 2])])
    assert 0 < len(result.conversations) < 2000
    assert result.problems[-1].line == len(result.conversations) + 1 + len(result.problems[:-1])
    assert "gzip data is damaged" in result.problems[-1].reason


def test_a_json_list_is_read_entry_by_entry(tmp_path: Path) -> None:
    share = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}
    path = write(tmp_path, json.dumps([share, {"conversations": []}], indent=1).encode(), "share.json")
    result = read_conversations([path])
    assert len(result.conversations) == 1
    assert [(p.line, p.reason) for p in result.problems] == [(2, "there are no messages")]


def test_ids_given_twice_to_different_conversations_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path, lines(chat("a", id="x"), chat("b", id="x"), chat("c", id="x#2")))
    result = read_conversations([path])
    assert [c.id for c in result.conversations] == ["x", "x#2", "x#2#2"]
    assert [note.line for note in result.notes] == [2, 3]
    assert result.problems == ()


def test_equal_lines_without_ids_are_two_conversations(tmp_path: Path) -> None:
    result = read_conversations([write(tmp_path, lines(chat(), chat()))])
    first, second = result.conversations
    assert second.id == f"{first.id}#2"
    assert result.notes == ()


def test_one_conversation_on_two_lines_keeps_all_that_is_known(tmp_path: Path) -> None:
    scored = chat(id="x", turns=[{"index": 1, "votes": [], "reward": 1.0}])
    for records in ([chat(id="x"), scored], [scored, chat(id="x")]):
        result = read_conversations([write(tmp_path, lines(*records))])
        (conversation,) = result.conversations
        assert conversation.verdicts == {1: Verdict((), 1.0)}
        assert [note.line for note in result.notes] == [2]


def test_several_files_are_read_in_order(tmp_path: Path) -> None:
    paths = [write(tmp_path, lines(chat(name)), f"{name}.jsonl") for name in "ba"]
    assert [c.messages[0].content for c in read_conversations(paths).conversations] == ["b", "a"]


def test_files_that_cannot_be_used_give_one_sentence(tmp_path: Path) -> None:
    missing, empty = tmp_path / "no.jsonl", write(tmp_path, b"\n \n", "empty.jsonl")
    bad = write(tmp_path, b"{\nnonsense\n", "bad.jsonl")
    expected = {
        missing: f"{missing} does not exist; check the name of the file.",
        empty: f"{empty} is empty; give a file with one conversation a line.",
        tmp_path: f"{tmp_path} is a directory; name the files in it.",
        write(tmp_path, b"[]", "list.json"): "is empty",
        bad: f"There is no conversation that can be read in {bad}; the first problem is in {bad}, line 1: it",
    }
    for path, sentence in expected.items():
        with pytest.raises(UserError) as error:
            read_conversations([path])
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="name at least one file"):
        read_conversations([])


@given(st.lists(st.booleans(), min_size=1, max_size=12).filter(any))
def test_every_line_is_either_used_or_reported(tmp_path_factory: pytest.TempPathFactory, good: list[bool]) -> None:
    path = tmp_path_factory.mktemp("mix") / "mix.jsonl"
    path.write_bytes(lines(*[chat(str(i)) if ok else b"bad" for i, ok in enumerate(good)]))
    result = read_conversations([path])
    assert [p.line for p in result.problems] == [i for i, ok in enumerate(good, start=1) if not ok]
    assert len(result.conversations) == sum(good)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_it_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "noise.jsonl"
    path.write_bytes(lines(chat()) + data)
    assert len(read_conversations([path]).conversations) >= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"noise\.jsonl"):
        read_conversations([path])
