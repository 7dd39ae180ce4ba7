"""The pages link to what is there."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from talktune.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_readme_is_one_screen_and_who_it_is_for() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 6000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^(?:\.venv/bin/|make install$|(?:make|pip|talktune) .*  #).*", text, re.MULTILINE)


COMMAND = re.compile(r"^ {4}(?:[A-Z_]+=\S+ )?(?:\.venv/bin/)?talktune (?P<rest>[a-z].*)$", re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """What stands in a page's blocks as commands of talktune; what `…` stands for is left out."""
    lines = COMMAND.finditer(text.replace("\\\n", " "))
    found = [shlex.split(line["rest"], comments=True) for line in lines]
    return [[word for word in words if word not in ("…", "&")] for words in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page: Path) -> None:
    for command in commands(page.read_text("utf-8")):
        if "--help" in command:
            continue
        try:
            app.parse_args(command, print_error=False, exit_on_error=False)
        except Exception as error:
            raise AssertionError(f"{page.name}: talktune {shlex.join(command)}: {error}") from error


def test_commands_are_found() -> None:
    found = [command[0] for page in PAGES for command in commands(page.read_text("utf-8"))]
    assert len(found) > 25
    assert {"serve", "learn", "judge", "train", "score", "eval", "chat", "policies", "status", "compare"} <= {*found}


def test_the_site_has_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    pages = re.findall(r"[\w-]+\.md", yaml.safe_dump(yaml.safe_load("nav:" + nav)))
    assert sorted(pages) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
