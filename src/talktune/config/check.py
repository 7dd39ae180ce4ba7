"""Whether the values of the options make sense, alone and together. Open it for a rule that a range cannot say."""

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from typing import Any, TypeVar, get_args

from talktune.config.ranges import range_of
from talktune.config.serving import GateConfig, LiveConfig, ServeConfig
from talktune.config.training import AlgorithmConfig, Auto, FreshConfig, TrainConfig
from talktune.errors import UserError


def _installed(package: str) -> bool:
    """Whether there is such a package; a folder of that name without code, as trackers leave, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None


Part = TypeVar("Part")


def check_config(config: Part) -> Part:
    """Return a tree or a part of it if its values make sense, alone and together; a UserError names the option."""
    kinds = {f.name: f.type for f in fields(config)}  # type: ignore[arg-type]
    check_values({name: getattr(config, name) for name in kinds}, kinds)
    match config:
        case AlgorithmConfig(L_cache=zone, L_max=longest) if zone > longest:
            raise UserError(f"--L-cache is {zone}: it must be between 0 and L_max ({longest}).")
        case AlgorithmConfig(distill=str(word)) if word not in get_args(Auto):
            raise UserError(f"--distill is {word}: it must be auto, off or a weight.")
        case TrainConfig(track=str(tracker)) if not _installed(tracker):
            raise UserError(f"--track {tracker}: its package is missing; install it with `pip install {tracker}`.")
        case FreshConfig(fresh_answers=count, guided=guided) if guided > count:
            raise UserError(f"--guided is {guided}: it must be at most --fresh-answers ({count}).")
        case FreshConfig(fresh_answers=1):
            raise UserError(
                "--fresh-answers is 1: one answer has nothing to be compared with; it must be 0, 2 or more."
            )
        case LiveConfig(notify=str(url)) if not re.match(r"https?://[^/\s]", url):
            raise UserError(f"--notify {url}: write it like https://hooks.example.org/talktune.")
        case LiveConfig(brake_judge=(low, high)) if low > high:
            raise UserError(f"--brake-judge is {(low, high)}: it must be a lower and a higher number.")
        case GateConfig(gate_length_low=low, gate_length_high=high) if low > high:
            raise UserError(f"--gate-length-low is {low}: it must be at most --gate-length-high ({high}).")
        case ServeConfig(side_patterns=patterns, allow_origin=origins):
            for origin in origins:
                if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#*]+", origin):
                    raise UserError(f"--allow-origin {origin}: write it like https://chat.example.org, without a path.")
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise UserError(f"--side-patterns {pattern!r}: is not a regular expression ({error}).") from error
        case _:
            pass
    return config


def check_values(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raise a UserError for the first option whose value is not finite, or not in the range that its type holds."""
    for name, value in values.items():
        if is_dataclass(value):
            check_config(value)
        elif value is not None and (allowed := range_of(kinds.get(name))):
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, str):
                    continue  # a word beside numbers, like `off`
                if number not in allowed or abs(number) == math.inf:
                    wanted = str(allowed) if abs(number) < math.inf else "a finite number"
                    raise UserError(f"--{name.replace('_', '-')} is {value}: it must be {wanted}.")
