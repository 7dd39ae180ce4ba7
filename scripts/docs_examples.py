"""For mkdocstrings: the doctests in docstrings are shown as code, which Markdown would take for quotes."""

import re
from typing import Any

from griffe import Extension, Object

_DOCTEST = re.compile(r"(?:^[ ]*(?:>>>|\.\.\.).*\n(?:^(?!\s*$|[ ]*>>>).*\n)*)+", re.MULTILINE)


class Examples(Extension):
    """Puts a fence around each run of `>>>` lines with what they print."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change one object's docstring."""
        if obj.docstring is not None:
            text = obj.docstring.value + "\n"
            obj.docstring.value = _DOCTEST.sub(lambda found: f"```pycon\n{found[0]}```\n", text).rstrip()
