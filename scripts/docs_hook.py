"""For MkDocs: what a page links to outside of docs/ is named by its path, as the site does not hold it."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)#\s]+)(?:#[^)]*)?\)")
_INSIDE = re.compile(r"\]\(docs/")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """`[words](../path)` becomes words (`path`); a page of the repository's root that is shown here links inside."""

    def named(found: re.Match[str]) -> str:
        words, path = found.groups()
        return f"`{path}`" if words.strip("`").rstrip("/") == path else f"{words} (`{path}`)"

    return _INSIDE.sub("](", _OUTSIDE.sub(named, markdown))
