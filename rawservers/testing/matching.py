"""Which requests are expected, and how a request differs from that."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from http import HTTPMethod
from typing import Any, TypedDict
from urllib.parse import parse_qsl

from rawservers.core.peer import Address
from rawservers.http.request import Request

UNDEFINED: Any = type("Undefined", (), {"__repr__": lambda self: "UNDEFINED"})()  # None is JSON, too

SHOWN = 60  # characters of a value in a message


class HeaderFields(dict[str, str]):
    """Header fields by name, in lower case; look-ups ignore case."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that a server has received.

    path: percent-decoded; query: as sent, without its "?"; headers: repeated ones are joined by ", "; body: decoded, if it was
    chunked; raw: the head exactly as it was sent, and the body; address: the client's.
    """

    method: str
    path: str
    query: str
    headers: HeaderFields
    body: bytes
    raw: bytes
    address: Address

    @classmethod
    def make(cls, request: Request, address: Address) -> RecordedRequest:
        """The record of `request`, with its body."""
        path, query = request.path or request.target, request.query.removeprefix("?")
        raw = request.head + request.body
        return cls(request.method, path, query, HeaderFields(request.fields), request.body, raw, address)

    def __str__(self) -> str:
        return f"{self.method} {self.path}{'?' * bool(self.query)}{self.query}"

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)


class PatternFields(TypedDict, total=False):
    """Those fields of `RequestPattern` that are arguments of `HTTPServer.expect_request`."""

    query: str | bytes | Mapping[str, str] | None
    headers: Mapping[str, str] | None
    data: str | bytes | None
    json: Any


@dataclass(frozen=True, slots=True)
class RequestPattern:
    """Expected requests. None, and an empty path: any.

    path: the decoded path, or a regular expression that matches at its beginning; methods: names of methods; query: the exact
    text after the "?", or a mapping (of a repeated name the first value counts); headers: fields with exactly these values;
    data: the body, text in UTF-8; json: its value, whatever the Content-Type.
    """

    path: str | re.Pattern[str] = ""
    methods: tuple[str, ...] | None = None
    query: str | bytes | Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None
    data: str | bytes | None = None
    json: Any = UNDEFINED

    def __post_init__(self) -> None:
        if isinstance(self.path, str) and self.path and not self.path.startswith("/"):
            raise ValueError(f"the path must begin with a slash: {self.path!r}")
        if isinstance(self.path, str) and "?" in self.path:
            raise ValueError(f"the path contains a query, which is an argument of its own (query=): {self.path!r}")
        for method in self.methods or ():
            if method not in HTTPMethod.__members__:
                raise ValueError(f"unknown method {method!r}")
        if self.data is not None and self.json is not UNDEFINED:
            raise ValueError("data and json exclude each other")

    def __str__(self) -> str:
        path = self.path if isinstance(self.path, str) else f"re.compile({self.path.pattern!r})"
        query = f" with query {self.query!r}" if self.query is not None else ""
        return f"{self.methods[0] if self.methods else 'any method'} {path or 'any path'}{query}"

    def differences(self, request: RecordedRequest) -> list[str]:
        """How `request` differs from what is expected, the path first; empty: it does not."""
        found = []
        if not self._is_path(request.path):
            found.append("path differs")
        if self.methods is not None and request.method not in self.methods:
            found.append("method differs")
        if self.query is not None and self.query != (actual := self._query_like(request.query)):
            found.append(f"query differs: {compare(self.query, actual)}")
        for name, value in (self.headers or {}).items():
            if request.headers.get(name) != value:
                found.append(f"header {name} differs: {compare(value, request.headers.get(name))}")
        data = self.data.encode() if isinstance(self.data, str) else self.data
        if data is not None and request.body != data:
            found.append(f"body differs: {compare(data, request.body)}")
        if self.json is not UNDEFINED and not self._is_json(request.body):
            found.append(f"JSON differs: {compare(self.json, request.body)}")
        return found

    def likeness(self, request: RecordedRequest) -> tuple[int, float]:
        """A key to sort by: the most for the pattern that is nearest to `request`."""
        path = self.path if isinstance(self.path, str) else self.path.pattern
        return -len(self.differences(request)), SequenceMatcher(None, path, request.path).ratio()

    def _is_path(self, path: str) -> bool:
        if isinstance(self.path, str):
            return self.path in ("", path)
        return self.path.match(path) is not None

    def _query_like(self, query: str) -> object:
        """The query of a request as what it is compared with."""
        if isinstance(self.query, Mapping):
            return dict(reversed(parse_qsl(query, keep_blank_values=True)))  # reversed: the first of a name stays
        return query.encode("latin-1") if isinstance(self.query, bytes) else query

    def _is_json(self, body: bytes) -> bool:
        try:
            return bool(json.loads(body) == self.json)
        except ValueError:
            return False


def compare(expected: object, actual: object) -> str:
    """Both values, as text for a message."""
    return f"expected {shorten(expected)}, got {shorten(actual)}"


def shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
