"""Which requests are expected, and how a request differs from that."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from http import HTTPMethod
from typing import Any, TypeAlias, TypedDict
from urllib.parse import parse_qs

from rawservers.core.peer import Address
from rawservers.http.request import HeaderFields, Request

UNDEFINED: Any = type("Undefined", (), {"__repr__": lambda self: "UNDEFINED"})()  # None is JSON, too

SHOWN = 60  # characters of a value in a message


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
        return cls(request.method, path, query, request.headers, request.body, raw, address)

    def __str__(self) -> str:
        return f"{self.method} {self.path}{'?' * bool(self.query)}{self.query}"

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)


Query: TypeAlias = str | bytes | Mapping[str, str | int | Sequence[str | int]]


class PatternFields(TypedDict, total=False):
    """Those fields of `RequestPattern` that are arguments of `HTTPServer.expect_request`."""

    query: Query | None
    headers: Mapping[str, str] | None
    data: str | bytes | None
    json: Any


@dataclass(frozen=True, slots=True)
class RequestPattern:
    """Expected requests. None, and an empty path: any.

    path: the decoded path, or a regular expression that matches at its beginning; methods: names of methods; query: the exact
    text after the "?", or a mapping of all names in it to their values (a list: all of them; else the first one); headers:
    fields with exactly these values; data: the body, text in UTF-8; json: its value, whatever the Content-Type.
    """

    path: str | re.Pattern[str] = ""
    methods: tuple[str, ...] | None = None
    query: Query | None = None
    headers: Mapping[str, str] | None = None
    data: str | bytes | None = None
    json: Any = UNDEFINED

    def __post_init__(self) -> None:
        if isinstance(self.path, str) and self.path and not self.path.startswith("/"):
            raise ValueError(f"the path must begin with a slash: {self.path!r}")
        if isinstance(self.path, str) and "?" in self.path:
            raise ValueError(f"the path contains a query, which is an argument of its own (query=): {self.path!r}")
        if isinstance(self.query, str) and self.query.startswith("?"):
            raise ValueError(f'the query is written without its "?": {self.query!r}')
        for method in self.methods or ():
            if method not in HTTPMethod.__members__:
                raise ValueError(f"unknown method {method!r} (one name in upper case, or None for any)")
        if self.data is not None and self.json is not UNDEFINED:
            raise ValueError("data and json exclude each other")

    def __str__(self) -> str:
        path = self.path if isinstance(self.path, str) else f"re.compile({self.path.pattern!r})"
        query = f" with query {self.query!r}" if self.query is not None else ""
        return f"{self.methods[0] if self.methods else 'a request for'} {path or 'any path'}{query}"

    def differences(self, request: RecordedRequest) -> list[str]:
        """How `request` differs from what is expected, the path first; empty: it does not."""
        found = []
        if not self._is_path(request.path):
            found.append("path differs")
        if self.methods is not None and request.method not in self.methods:
            found.append("method differs")
        expected, actual = self._queries(request.query)
        if expected is not None and expected != actual:
            found.append(f"query differs: {compare(expected, actual)}")
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

    def _queries(self, query: str) -> tuple[object, object]:
        """What is expected as the query, and the query of a request, in the same form."""
        if not isinstance(self.query, Mapping):
            return self.query, query.encode("latin-1") if isinstance(self.query, bytes) else query
        lists = {name: value for name, value in self.query.items() if isinstance(value, list | tuple)}
        expected = {name: list(map(str, lists[name])) if name in lists else str(value) for name, value in self.query.items()}
        found = parse_qs(query, keep_blank_values=True)
        return expected, {name: values if name in lists else values[0] for name, values in found.items()}

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
