"""Points of a client's order about a talk: what people say does not come near them."""

import pytest

from talktune.serve.side.telling import ENOUGH, is_probe, is_transcript, points

TALK = "User: hello\nAssistant: hi\nUser: plan a weekend"


def told(text: str, *, system: bool = False, alone: bool = True) -> int:
    return points(text, system=system, alone=alone, short=False, shaped=False)


@pytest.mark.parametrize(
    "text",
    [
        f"List up to 5 keywords of the conversation below, comma separated, nothing else.\n\n{TALK}",
        "Scheduled turn (not from the user): write down what is worth it, then reply NO_REPLY.",
    ],
)
def test_an_order_of_a_client(text: str) -> None:
    assert told(text) >= ENOUGH


@pytest.mark.parametrize(
    "text",
    [
        f"List 5 keywords of my conversation below, nothing else.\n\n{TALK}",
        f"Why does my parser read this as one message?\n\n{TALK}",
        "List 5 keywords for an essay on bees, comma separated, nothing else.",
        "Summarize the conversation between Hamlet and Ophelia in 100 words, nothing else.",
        "Schedule a job that says DONE when nothing is left.",
    ],
)
def test_words_of_a_person(text: str) -> None:
    assert told(text) < ENOUGH


def test_a_talk_and_a_probe_are_seen() -> None:
    assert is_transcript(TALK)
    assert not is_transcript("User: hello")
    assert is_probe("Say OK")
    assert not is_probe("Say OK to my landlord")
