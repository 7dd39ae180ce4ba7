"""Who asks: API keys and the users they stand for. Keys are held as hashes and compared in constant time."""

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from talktune.errors import UserError
from talktune.serve.wire import BadRequest

KEY_ENV = "TALKTUNE_API_KEY"
LOCAL_USER = "local"
"""Who everybody is where no key is asked for."""


class Keys:
    """Hashes of keys with their users; without any, everyone on this machine is one user."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """`keys` are user by key."""
        self._users = [(hashlib.sha256(key.encode()).digest(), user) for key, user in keys.items()]

    def __bool__(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._users)

    def user(self, headers: Mapping[str, str]) -> str:
        """The user of a request's key; raises BadRequest (401, or 403 for a web page's own request)."""
        if not self._users:
            _refuse_strangers(headers)
            return LOCAL_USER
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode()).digest()
        found = None
        for known, user in self._users:  # all of them: the time tells nothing
            if hmac.compare_digest(known, given):
                found = user
        if found is None or scheme.lower() != "bearer":
            raise BadRequest(
                "The API key is missing or not known: send it as Authorization: Bearer KEY.",
                status=401,
                type="authentication_error",
                code="invalid_api_key",
            )
        return found


def load_keys(path: Path | None) -> Keys:
    """Keys of the environment variable TALKTUNE_API_KEY (user `local`) and of a file of lines `USER KEY`."""
    keys: dict[str, str] = {}
    if own := os.environ.get(KEY_ENV, "").strip():
        keys[own] = LOCAL_USER
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--keys {path}: cannot be read ({error}).") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            parts = line.split()
            if len(parts) != 2 or parts[1] in keys:
                raise UserError(f"--keys {path}, line {number}: write one user and a key of their own, with a space.")
            keys[parts[1]] = parts[0]
        if not keys:
            raise UserError(f"--keys {path}: there is no key in it; write a line `USER KEY` for each user.")
    return Keys(keys)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost" or address.endswith(".localhost")


def _refuse_strangers(headers: Mapping[str, str]) -> None:
    """Without a key, a web page that the user happens to visit must not talk here, nor one that faked its name."""
    origin = headers.get("origin")
    names = [urlsplit("//" + headers.get("host", "")).hostname]
    if origin is not None:
        names.append(urlsplit(origin).hostname)
    if not all(name is None or is_loopback(name) for name in names):
        raise BadRequest(
            "Requests of web pages and for other host names need an API key: set TALKTUNE_API_KEY.",
            status=403,
            type="permission_error",
        )
