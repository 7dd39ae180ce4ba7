"""`talktune feedback`: a person's own word on an answer, to a running server."""

from typing import Annotated, Literal

from cyclopts import Parameter

from talktune.commands.console import warn
from talktune.commands.options import Url


def feedback(
    id: Annotated[str, Parameter(help="The answer: the id of its chat completion.")],
    thumbs: Annotated[Literal["up", "down"], Parameter(help="Whether it was good; this overrules the judge.")],
    /,
    *,
    url: Url = "http://127.0.0.1:30000",
) -> int:
    """Say whether an answer of a running server was good; `talktune turns` names the answers."""
    from talktune.commands.remote import Remote

    with Remote(url) as server:
        server.feedback(id, thumbs=thumbs)
    warn(f"Thumbs {thumbs} for {id}: it counts instead of the judge's verdict.")
    return 0
