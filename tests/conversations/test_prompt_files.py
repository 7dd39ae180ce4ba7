import json
from pathlib import Path

import pytest

from talktune.conversations.prompt_files import read_prompts
from talktune.errors import UserError
from talktune.types import Message


def test_plain_text_is_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("What is rain?\n\n  Why?  \n{not json}\n")
    assert read_prompts(path) == [(Message("user", t),) for t in ("What is rain?", "Why?", "{not json}")]


def test_json_lines_hold_text_or_messages(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    records = [{"prompt": "What is rain?"}, {"prompt": messages}, {"messages": messages}]
    path.write_text("\n".join(map(json.dumps, records)))
    asked = (Message("system", "Be brief."), Message("user", "Why?"))
    assert read_prompts(path) == [(Message("user", "What is rain?"),), asked, asked]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty; give one prompt a line."),
        (b'{"prompt": "a"}\n{"prompt": \n', "line 2: it is not JSON"),
        (b'{"question": "a"}', 'line 1: it has no "prompt"'),
        (b'{"prompt": ""}', 'line 1: it has no "prompt"'),
        (b'{"prompt": [{"role": "assistant", "content": "a"}]}', "last message is not the user's"),
        (b'{"prompt": [{"role": "king", "content": "a"}]}', "unknown role 'king'"),
        (b"caf\xe9", "line 1: it is not UTF-8 text"),
        (b"\x1f\x8b\x08", "gzip data is damaged"),
    ],
)
def test_a_file_that_cannot_be_used_gives_one_sentence(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_prompts(path)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_gives_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")
