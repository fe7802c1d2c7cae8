"""Addresses to listen on: how they are written, and what is none."""

from __future__ import annotations

import pytest

from rawservers.core.bind import Endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:80", Endpoint("127.0.0.1", 80)),
        ("localhost:0", Endpoint("localhost", 0)),
        ("[::1]:8080", Endpoint("::1", 8080)),
        ("8080", Endpoint("127.0.0.1", 8080)),
        (":8080", Endpoint(None, 8080)),
        ("unix:/run/x", Endpoint(path="/run/x")),
        ("fd:3", Endpoint(fd=3)),
    ],
)
def test_an_address(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text", ["", ":", "host", "h:", "h:x", "::1:80", "[::1]", "h:65536", "-1", "h:-1", "8 0", "unix:", "[::1]:"]
)
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port|path"):
        Endpoint.parse(text)
