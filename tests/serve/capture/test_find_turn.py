"""Where a request belongs, asked of a store without a server."""

from pathlib import Path

from talktune.config import ServeConfig
from talktune.serve.capture.find_turn import place
from talktune.serve.dialects.chat_request import parse_request
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message

SUMMARY = "The person asked for the first of all things to be done, and it was done as far as anybody can tell. " * 3


def test_a_session_of_its_own_is_not_put_behind_the_summary_of_another(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    more = {"user": "ann", "conversation": "c", "engine": "x"}
    asked, summed = (Message("user", text) for text in ("Do it.", "Sum it all up."))
    store.add_turns(
        [
            NewTurn(
                "a",
                hash=b"1",
                parent=None,
                messages=(asked,),
                answer=Message("assistant", "Done."),
                created=1.0,
                **more,
            ),
            NewTurn(
                "b",
                hash=b"2",
                parent="a",
                messages=(summed,),
                answer=Message("assistant", SUMMARY),
                created=2.0,
                kind="side",
                **more,
            ),
        ]
    )
    body = {"messages": [{"role": "user", "content": SUMMARY}, {"role": "user", "content": "What is next?"}]}

    def placed(**headers: str) -> str:
        return place(
            store, "ann", parse_request(body, {k.replace("_", "-"): v for k, v in headers.items()}, ServeConfig())
        ).conversation

    assert placed() == "c"
    assert placed(x_session_id="new") != "c"
    store.close()
