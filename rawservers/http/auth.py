"""Basic authentication (RFC 7617): which paths of a site need it, and what a request sends for it.

The path is the one by which everything else is found, normalised and decoded (target.py). Of the protected paths that it equals
or is below, the longest decides. A protected file protects its precompressed variants as well.

A link does not lead around it: what is opened must not be protected by other users than the path that was asked for
(`Protection.crosses`). An error page that the configuration names is sent nevertheless.

No response to a request with an Authorization field is stored in the response cache (`site.is_cacheable`), so each one is
verified. For other caches, it is "Cache-Control: private": those that are shared must not store a response to such a request
(RFC 9111 §3.5), but some do.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeAlias

from rawservers.core.record import Record
from rawservers.http.request import Request
from rawservers.settings import AuthConfig

# Takes a user and a password, and gives whether they fit; or a future, with which it is to be called again once it is done.
Verify: TypeAlias = Callable[[bytes, bytes, "Future[Any] | None"], "bool | Future[Any]"]

BASIC = r"(?i:basic) +([A-Za-z0-9+/]+={0,2})"
CONTROL = re.compile(rb"[\0-\x1f\x7f]")
VARIANT = rb"(?:\.(?:br|zst|gz))?\Z"


class ProtectedPath(Record):
    """What decides about a path.

    owns: matches the paths; users: the file of those who may have them, None: everybody may; challenge: for WWW-Authenticate.
    """

    owns: re.Pattern[bytes]
    users: str | None
    challenge: str


class Protection:
    """The protected paths of one site. verifiers: a function for each file of users."""

    def __init__(self, paths: Iterable[AuthConfig] = (), verifiers: Mapping[str, Verify] = {}) -> None:
        self.paths = [protected_path(each) for each in sorted(paths, key=lambda each: -len(each.path.rstrip("/")))]
        self._verifiers = verifiers

    def find(self, path: bytes) -> ProtectedPath | None:
        """What decides about `path`."""
        return next((each for each in self.paths if each.owns.match(path)), None)

    def users(self, path: bytes) -> str | None:
        """The file of the users of `path`; None: everybody may have it."""
        found = self.find(path)
        return found.users if found else None

    def crosses(self, path: bytes, other: bytes) -> bool:
        """Whether `other` is protected by other users than `path`, by which it was asked for."""
        users = self.users(other) if self.paths else None
        return users is not None and users != self.users(path)

    def verify(self, protected: ProtectedPath, request: Request, future: Future[Any] | None) -> bool | Future[Any]:
        """Whether the request may pass; its `user` is set then. A future: as for Verify. Raises what that raises."""
        credentials = parse_credentials(request)
        if credentials is None or protected.users is None:
            return False
        verified = self._verifiers[protected.users](*credentials, future)
        if verified is True:
            request.user = credentials[0].decode()
        return verified


UNPROTECTED = Protection()


def protected_path(config: AuthConfig) -> ProtectedPath:
    path = re.escape(config.path.rstrip("/").encode("utf-8", "surrogateescape"))
    realm = re.sub(r'(["\\])', r"\\\1", config.realm)
    return ProtectedPath(re.compile(path + b"(?:/|" + VARIANT + b")"), config.users, f'Basic realm="{realm}", charset="UTF-8"')


def parse_credentials(request: Request) -> tuple[bytes, bytes] | None:
    """The user and the password of the Authorization field (RFC 7617 §2); None if it is absent, malformed, or there are two."""
    match = re.fullmatch(BASIC, request.fields.get("authorization", ""))
    try:
        decoded = binascii.a2b_base64(match[1], strict_mode=True) if match else b""
        decoded.decode()  # what is not UTF-8 is no user's, nor could it be logged
    except ValueError:
        return None
    user, _, password = decoded.partition(b":")
    return (user, password) if user and b":" in decoded and not CONTROL.search(decoded) else None
