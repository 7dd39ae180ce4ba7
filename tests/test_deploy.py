"""What is in deploy/ names services, volumes and commands that exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from talktune.cli import app

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE: Any = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def understood(command: list[str]) -> Any:
    """The options of a command as it would get them; SystemExit for one that it does not know."""
    _, bound, _ = app.parse_args(command, print_error=False, exit_on_error=False)
    return bound.arguments


@pytest.mark.parametrize("name", ["server", "judge", "learner"])
def test_compose_starts_roles_that_fit_together(name: str) -> None:
    command = SERVICES[name]["command"]
    told = understood(command)
    store = told["server"].store if name == "server" else told["store"]
    assert store == "postgresql://talktune@database/talktune"
    assert SERVICES[name]["environment"]["PGPASSWORD"], "the password is in no argument"
    for url in (part for part in command if part.startswith("http://")):
        host = re.fullmatch(r"http://([\w-]+):8000", url)
        assert host is not None
        assert host[1] in SERVICES
    for volume in SERVICES[name]["volumes"]:
        assert volume.split(":")[0] in COMPOSE["volumes"]


def test_the_engines_see_what_the_learner_writes() -> None:
    learned = understood(SERVICES["learner"]["command"])
    folder, model = str(learned["live"].policies), learned["model"].model
    for name in ("vllm-1", "vllm-2"):
        engine = SERVICES[name]
        assert any(volume.split(":")[:2] == ["policies", folder] for volume in engine["volumes"])
        assert engine["command"][0] == model
        assert "ports" not in engine, "who reaches an engine may load adapters into it"
        rank = engine["command"][engine["command"].index("--max-lora-rank") + 1]
        assert int(rank) >= learned["model"].lora_rank
    gpus = [
        device
        for service in SERVICES.values()
        for wanted in service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        for device in wanted["device_ids"]
    ]
    assert gpus == ["0", "1", "2"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_start_commands_that_exist(unit: Path) -> None:
    text = unit.read_text("utf-8")
    line = re.search(r"^ExecStart=/opt/talktune/bin/talktune (.*)$", text, re.MULTILINE)
    assert line is not None
    command = shlex.split(line[1])
    assert unit.stem == f"talktune-{command[0]}"
    understood(command)
    assert "password" not in line[1].lower()
