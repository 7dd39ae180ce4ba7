"""API keys and the users they stand for. Keys are held as hashes and compared in constant time.

Open it to see who is an admin, and who needs no key.
"""

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from talktune.errors import UserError
from talktune.serve.dialects.wire import BadRequest

KEY_ENV = "TALKTUNE_API_KEY"
LOCAL_USER = "local"
"""Who everybody is where no key is asked for."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The user of a request, and whether they are an admin."""

    user: str
    admin: bool
    """Whether they may say which version serves everybody, and hear why something does not work."""


class Keys:
    """Hashes of keys with their users; without any, everyone on this machine is one user."""

    def __init__(self, keys: Mapping[str, str], origins: Collection[str] = (), admins: Collection[str] = ()) -> None:
        """`keys` are user by key, of which `admins` may also say which version serves.

        Pages of `origins` may talk without one, where nobody needs one.
        """
        self._origins = frozenset(origins)
        self._users = [
            (hashlib.sha256(key.encode()).digest(), Caller(user, key in admins)) for key, user in keys.items()
        ]

    def __bool__(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._users)

    def user(self, headers: Mapping[str, str]) -> str:
        """The user of a request's key; raises BadRequest (401, or 403 for a web page's own request)."""
        return self.caller(headers).user

    def caller(self, headers: Mapping[str, str]) -> "Caller":
        """The user of a request's key, and whether they run this server: who needs no key does."""
        refuse_forms(headers)
        if not self._users:
            _refuse_strangers(headers, self._origins)
            return Caller(LOCAL_USER, True)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        keys = (key if scheme.lower() == "bearer" else "", headers.get("x-api-key", ""))
        given = [hashlib.sha256(key.strip().encode()).digest() for key in keys]
        found = None
        for known, caller in self._users:  # all of them: the time tells nothing
            for one in given:
                if hmac.compare_digest(known, one):
                    found = caller
        if found is None:
            raise BadRequest(
                "The API key is missing or not known: send it as Authorization: Bearer KEY, or as X-API-Key: KEY.",
                status=401,
                type="authentication_error",
                code="invalid_api_key",
            )
        return found


def load_keys(path: Path | None, origins: Collection[str] = ()) -> Keys:
    """Keys of the environment variable TALKTUNE_API_KEY (user `local`, an admin) and of a file of lines `USER KEY`.

    A line `USER KEY admin` makes another admin.
    """
    keys: dict[str, str] = {}
    admins: set[str] = set()
    if own := os.environ.get(KEY_ENV, "").strip():
        keys[own] = LOCAL_USER
        admins.add(own)
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--keys {path}: cannot be read ({error}).") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            parts = line.split()
            if len(parts) not in (2, 3) or parts[1] in keys or parts[2:] not in ([], ["admin"]):
                raise UserError(
                    f"--keys {path}, line {number}: write one user and a key of their own, with a space; "
                    "behind it admin for who may promote versions."
                )
            keys[parts[1]] = parts[0]
            admins |= {parts[1]} if parts[2:] else set()
        if not keys:
            raise UserError(f"--keys {path}: there is no key in it; write a line `USER KEY` for each user.")
    return Keys(keys, origins, admins)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost" or address.endswith(".localhost")


def _refuse_strangers(headers: Mapping[str, str], origins: Collection[str]) -> None:
    """Without a key, a web page that the user happens to visit must not talk here, nor one that faked its name."""
    if not _is_here("//" + headers.get("host", "")):
        raise _forbidden(f"Requests for other host names need an API key: set {KEY_ENV}.")
    origin = headers.get("origin")
    if origin is None or origin in origins:
        return
    # A page that hides where it is from says null, as any page can.
    if origin == "null" or not _is_here(origin):
        raise _forbidden(
            f"Web pages of {origin[:200]} may not talk to this server: start it with --allow-origin {origin[:200]}."
        )


def refuse_forms(headers: Mapping[str, str], *, empty: bool = False) -> None:
    """Refuse bodies that are not JSON: a web page may send a form or a blob to any server without asking the browser.

    A request without a body is let through, but for those that change something by their path alone (`empty`).
    """
    bare = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    if "origin" not in headers or (bare and not empty):
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"A web page must send its body as application/json, not as {kind[:100] or 'nothing'}."
        raise BadRequest(message, status=415)


@lru_cache(maxsize=256)
def _is_here(url: str) -> bool:
    """Whether a URL names this machine, or no machine at all."""
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return False
    return name is None or is_loopback(name)


def _forbidden(message: str) -> BadRequest:
    return BadRequest(message, status=403, type="permission_error")
