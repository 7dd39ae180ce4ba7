"""Pictures of the page of a running server, as the documentation has them: two widths, light and dark.

    .venv/bin/talktune serve --store STORE                                  # one with a history
    .venv/bin/python scripts/picture_page.py http://127.0.0.1:30000 docs

A few questions are asked, like any others, and the last answer is liked. Needs Chromium.
"""

import sys
import tempfile
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.serve.browser import Browser, browser  # noqa: E402

QUESTIONS = ("Why do we have seasons?", "And why is it warmer in summer?", "What is a rainbow made of?")
SIZES = {1280: 900, 390: 844}
SCROLL = "scrollTo(0, document.querySelector({}).getBoundingClientRect().top + scrollY - 60)"


def talk(page: Browser) -> str:
    """Questions, the last of which is answered as it should be; what the picture begins with."""
    page.wait("document.querySelector('.plot') && document.querySelector('tr.live')")
    for number, question in enumerate(QUESTIONS, 1):
        page.type("#words", question)
        page.press_enter()
        page.wait(f"document.querySelectorAll('.answer .verdict').length === {number}")
    page.run("[...document.querySelectorAll('.answer .thumb[data-score=\"1\"]')].at(-1).click()")
    page.wait("document.querySelector('.answer .thumb[aria-pressed=true]')")
    page.wait("document.querySelector('.turn .badge').className.includes('good')")
    return "header"


def open_turn(page: Browser) -> str:
    """The newest answer that was disliked, by what learning did to its tokens."""
    page.click("[data-filter='bad=1']")
    page.wait("document.querySelector('.turn .badge.bad')")
    page.click(".turn > summary")
    page.click(".turn input[value=change]")
    page.wait("document.querySelector('.turn .legend').textContent.includes('nats a token')")
    return "#turns"


def versions(page: Browser) -> str:
    """All of them, with what was noted."""
    page.wait("document.querySelector('.notes')")
    return "#versions"


def main(url: str, folder: Path) -> None:
    """Take them."""
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as page:
        page.size(1280, 900)
        page.open(url)
        page.run("document.documentElement.style.scrollBehavior = 'auto'")
        for name, scene in {"page": talk, "page-turn": open_turn, "page-versions": versions}.items():
            there = scene(page)
            page.run("document.activeElement.blur()")
            for (width, height), scheme in product(SIZES.items(), ("light", "dark")):
                page.size(width, height, mobile=width < 600)
                page.dark(scheme == "dark")
                page.run(SCROLL.format(repr(there)))
                page.run("document.querySelector('#said').scrollTop = 1e6")
                (folder / f"{name}-{width}-{scheme}.png").write_bytes(page.picture())
            page.size(1280, 900)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
