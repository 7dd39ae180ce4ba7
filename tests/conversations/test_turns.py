from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from talktune.conversations.messages import caller_of
from talktune.conversations.turns import skip_reason, turns_of
from talktune.types import Conversation, Message, Sampled, Turn, Verdict


def user(text: str = "Hi", **more: Any) -> Message:
    return Message("user", text, **more)


def says(text: str = "Hello.", **more: Any) -> Message:
    return Message("assistant", text, **more)


def calls(*ids: str, text: str = "") -> Message:
    made = tuple({"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in ids)
    return Message("assistant", text, tool_calls=made)


def result(call: str | None, text: str = "done") -> Message:
    return Message("tool", text, tool_call_id=call)


def turns(*messages: Message, **more: Any) -> list[Turn]:
    return turns_of(Conversation("c", messages, **more))


def next_states(*messages: Message) -> list[tuple[Message, ...]]:
    return [turn.next_state for turn in turns(*messages)]


def test_every_answer_is_a_turn_with_all_that_came_before() -> None:
    messages = (Message("system", "Be kind."), user("a"), says("b"), user("c"), says("d"))
    first, last = turns(*messages)
    assert (first.index, first.prompt, first.answer, first.next_state) == (
        2,
        messages[:2],
        says("b"),
        (user("c"),),
    )
    assert (last.index, last.prompt, last.answer, last.next_state) == (4, messages[:4], says("d"), ())
    assert first.conversation_id == "c"


def test_parallel_tool_results_are_one_next_state() -> None:
    one, two = result("1"), result("2", "error")
    assert next_states(user(), calls("1", "2"), one, two, says(), user("ta")) == [(one, two), (user("ta"),)]


def test_results_are_found_by_id_wherever_they_stand_and_no_others() -> None:
    one, two = result("1"), result("2")
    messages = (user(), calls("1"), calls("2"), two, one, says("both done"), user("thanks"))
    assert next_states(*messages) == [(one,), (two,), (user("thanks"),)]
    late = (user(), calls("1"), says("working on it"), one, user("fine"), says("bye"))
    assert next_states(*late) == [(one,), (user("fine"),), ()]


def test_an_id_used_again_belongs_to_the_later_call() -> None:
    one, two = result("0", "first"), result("0", "second")
    assert next_states(user(), calls("0"), one, calls("0"), two, says()) == [(one,), (two,), ()]


def test_results_without_ids_belong_to_the_calls_before_them() -> None:
    one, two = result(None, "first"), result(None, "second")
    assert next_states(user(), calls("a", "b"), one, two, says()) == [(one, two), ()]


def test_a_call_that_was_never_run_is_followed_by_the_user() -> None:
    assert next_states(user(), calls("1"), user("stop!"), says()) == [(user("stop!"),), ()]


def test_of_two_answers_in_a_row_the_first_has_no_next_state() -> None:
    assert next_states(user(), says("a"), says("b"), user("good")) == [(), (user("good"),)]


def test_the_whole_reply_counts_and_system_messages_do_not() -> None:
    reply = (user("no"), user("shorter please"))
    assert next_states(user(), says(), Message("system", "It is noon."), *reply, says()) == [reply, ()]


def test_a_retry_is_not_feedback_but_a_changed_request_is() -> None:
    again = (user("Why is the sky blue?"), says("Hm."), user(" Why is the sky blue?\n"), says("Rayleigh."))
    assert next_states(*again) == [(), ()]
    changed = user("Why is the sky blue? In one line.")
    assert next_states(user("Why is the sky blue?"), says("Hm."), changed, says("Rayleigh.")) == [
        (changed,),
        (),
    ]


def test_a_retry_is_recognised_after_tool_calls_and_may_be_followed_by_words() -> None:
    words = user("you did not answer")
    assert next_states(user("x"), calls("1"), result("1"), says("y"), user("x"), words) == [
        (result("1"),),
        (words,),
    ]


def test_a_blank_reply_says_nothing() -> None:
    assert next_states(user(), says(), user("  \n"), says()) == [(), ()]
    assert next_states(user(), calls("1"), result("1", ""), says()) == [(result("1", ""),), ()]


def test_reasoning_tools_and_what_is_known_travel_with_the_turn() -> None:
    answer = says("4", reasoning_content="2 + 2")
    sampled, verdict = Sampled((1,), (2,), (-0.5,), 0.7, 3), Verdict((), 1.0)
    (turn,) = turns(
        user("2+2"), answer, tools=({"type": "function"},), kinds={1: "side"}, sampled={1: sampled},
        verdicts={1: verdict},
    )  # fmt: skip
    assert turn.answer.reasoning_content == "2 + 2"
    assert (turn.tools, turn.kind, turn.sampled, turn.verdict) == (
        ({"type": "function"},),
        "side",
        sampled,
        verdict,
    )


def test_reasons_to_skip() -> None:
    def reasons(*messages: Message, **more: Any) -> list[str | None]:
        return [skip_reason(turn) for turn in turns(*messages, **more)]

    assert reasons(user(), says(), user("ok"), says()) == [None, "no next state"]
    assert reasons(user(), says(), user("ok"), kinds={1: "side"}) == ["side"]
    assert reasons(user(has_image=True), says(), user("ok"), says(), user("ok")) == ["image", "image"]
    assert reasons(user(), says(), user("look", has_image=True)) == ["image"]
    assert reasons(user(), says(" "), user("you said nothing")) == ["empty answer"]
    assert reasons(user(), calls("1"), result("1")) == [None]
    assert reasons(Message("system", "Greet."), says("Welcome!"), user("hi"), says()) == [
        "no prompt",
        "no next state",
    ]


def test_what_was_really_sampled_is_no_empty_answer() -> None:
    (turn,) = turns(user(), says(""), user("hello?"), sampled={1: Sampled((1,), (2,), None, 1.0)})
    assert skip_reason(turn) is None


def test_a_turn_that_has_its_reward_needs_no_next_state() -> None:
    (scored,) = turns(user(), says(), verdicts={1: Verdict((), -1.0)})
    (failed,) = turns(user(), says(), verdicts={1: Verdict((), None)})
    assert (skip_reason(scored), skip_reason(failed)) == (None, "no next state")


blocks = st.lists(
    st.sampled_from(
        [
            (user("a"),),
            (user("b"),),
            (says(),),
            (calls("1"), result("1")),
            (calls("1", "2"), result("2"), result("1")),
        ]
    ),
    max_size=8,
)


@given(blocks)
def test_next_states_never_overlap_and_never_precede_the_answer(parts: list[tuple[Message, ...]]) -> None:
    messages = tuple(m for part in parts for m in part)
    taken: list[int] = []
    for turn in turns(*messages):
        later = range(turn.index + 1, len(messages))
        roles = {m.role for m in turn.next_state}
        assert roles in (set(), {"user"}, {"tool"})
        if roles == {"tool"}:
            own = [i for i in later if messages[i].role == "tool" and caller_of(messages, i) == turn.index]
            assert len(turn.next_state) == len(own)
            taken += own
    assert len(taken) == len(set(taken)) == sum(m.role == "tool" for m in messages)
