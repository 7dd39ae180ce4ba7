"""What the page's routes make of a store that fails."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from talktune.errors import StoreDownError, UserError
from talktune.serve.dialects.wire import BadRequest
from talktune.serve.page.watching import Watching


@pytest.mark.parametrize(("fault", "becomes"), [(StoreDownError, StoreDownError), (UserError, BadRequest)])
def test_a_database_that_is_down_is_no_conflict(fault: type[Exception], becomes: type[Exception]) -> None:
    """The former is answered with 503 and Retry-After, the latter with 409."""
    watching: Any = object.__new__(Watching)

    def work() -> None:
        raise fault("no")

    with ThreadPoolExecutor(1) as readers:
        watching._service = SimpleNamespace(readers=readers)
        with pytest.raises(becomes):
            asyncio.run(watching._change(work))
