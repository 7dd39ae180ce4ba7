import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from talktune.conversations.marks import answer_mark, asked_mark, bare, lines_of, skeleton
from talktune.types import Message

TEXT = "# Plan\n\n1. **Buy** [tea](https://a.example/b), “quoted” café\n2. `run` it…\n\n```python\nprint(1)\n```"
AS_HTML = (
    "<h1>Plan</h1><ol><li><b>Buy</b> <a href='https://a.example/b'>tea</a>, &quot;quoted&quot; cafe\u0301</li>"
    "<li><code>run</code> it...</li></ol><pre>print(1)</pre>"
)


def test_markup_space_and_forms_do_not_count() -> None:
    for other in (AS_HTML, unicodedata.normalize("NFD", TEXT), f"<think>hm</think>\n{TEXT}\n ", f"so</think>{TEXT}"):
        assert skeleton(other) == skeleton(TEXT)
    assert skeleton("Plan: buy coffee") != skeleton("Plan: buy tea")
    assert skeleton("👍") == "👍"
    assert skeleton("+") != skeleton("-")


@given(st.text(), st.text(alphabet="abc <>/"))
def test_reasoning_goes_and_all_else_stays(reasoning: str, text: str) -> None:
    quiet = reasoning.replace("<", "").replace("[", "")
    assert bare(f"<think>{quiet}</think>{text}") == bare(text)
    assert bare("x < y") == "x < y"


def call(arguments: object, id: str = "a") -> Message:
    return Message("assistant", "", ({"id": id, "function": {"name": "f", "arguments": arguments}},))


def test_arguments_count_as_values_and_ids_do_not() -> None:
    one = answer_mark(call('{"b": 1, "a": "x"}'))
    assert one == answer_mark(call('{"a":"x","b":1.0,"c":null}', "other")) == answer_mark(call({"a": "x ", "b": 1}))
    assert one != answer_mark(call('{"b": 2, "a": "x"}'))
    assert answer_mark(call("broken {")) is not None


def test_nothing_said_has_no_mark_and_side_turns_have_their_own() -> None:
    assert answer_mark(Message("assistant", "<think>only</think> ")) is None
    assert answer_mark(Message("assistant", "OK"), "side") != answer_mark(Message("assistant", "OK"))
    assert asked_mark([Message("system", "x")]) is None
    said = [Message("user", "old"), Message("assistant", "y"), Message("user", "[10:00] Hi"), Message("user", "host")]
    assert asked_mark(said) == asked_mark([Message("user", "hi")])


def test_lines_are_those_of_the_text_and_of_what_tools_are_handed_without_drafts() -> None:
    text = "<think>hm</think><analysis>\nFirst\n</analysis>\n<summary>\n1. **One** thing\n\n- two\n</summary>"
    assert lines_of(Message("assistant", text)) == ["onething", "two"]
    assert lines_of(call('{"context": "One\\nTwo", "n": 3}')) == ["one", "two"]
    assert lines_of(call("broken {")) == lines_of(Message("assistant", " ")) == []
    assert lines_of(Message("assistant", "Only <analysis>a draft</analysis>")) == ["onlyadraft"]
