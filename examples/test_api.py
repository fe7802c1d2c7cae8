"""A client of a JSON API, tested against a server that answers as the test says, and fails on purpose.

python3 -m pytest -c /dev/null -p rawservers.testing.plugin examples/test_api.py
"""

import json
from http.client import HTTPException
from typing import Any
from urllib.request import urlopen

import pytest

from rawservers.testing import HTTPServer


def fetch_page(url: str) -> Any:
    with urlopen(url, timeout=5) as response:  # noqa: S310  # the scheme is known
        return json.load(response)


def fetch_names(url: str) -> list[str]:
    """The client under test. Names come in pages; a page that fails is requested once more."""
    names: list[str] = []
    while url:
        try:
            page = fetch_page(url)
        except (OSError, HTTPException):
            page = fetch_page(url)
        names += page["names"]
        url = page["next"]
    return names


LAST = {"names": ["Eve"], "next": None}


def test_pages(http_server: HTTPServer) -> None:
    first = {"names": ["Ada", "Bob"], "next": http_server.url("/users?page=2")}
    http_server.expect_request("/users", query="").respond_with_json(first)
    http_server.expect_request("/users", query="page=2").respond_with_json(LAST)
    assert fetch_names(http_server.url("/users")) == ["Ada", "Bob", "Eve"]


def test_a_second_attempt(http_server: HTTPServer) -> None:
    http_server.expect_request("/users").reset().then.respond_with_json(LAST)
    assert fetch_names(http_server.url("/users")) == ["Eve"]
    assert [request.path for request in http_server.requests] == ["/users", "/users"]


def test_half_a_page(http_server: HTTPServer) -> None:
    http_server.expect_request("/users").cut_after(5).respond_with_json(LAST).then.respond_with_json(LAST)
    assert fetch_names(http_server.url("/users")) == ["Eve"]


def test_an_outage(http_server: HTTPServer) -> None:
    with http_server.down(), pytest.raises(OSError, match="refused"):
        fetch_names(http_server.url("/users"))
