"""The router: which site answers, by the host that is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from rawservers.core.peer import Clock
from rawservers.settings import SiteConfig
from tests.harness.http import Client, get, router


def test_sites_by_host(clock: Clock, tmp_path: Path) -> None:
    for name in ("one", "two", "default"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    sites = [
        SiteConfig(str(tmp_path / "default")),
        SiteConfig(str(tmp_path / "one"), hosts=("one.example", "www.One.example")),
        SiteConfig(str(tmp_path / "two"), hosts=("two.example",)),
    ]

    def body(host: str, path: str = "/f") -> bytes:
        return get(clock, *sites, path=path, Host=host).body

    assert body("one.example") == body("ONE.example:8080") == body("one.example.") == body("www.one.example") == b"one"
    assert body("two.example") == b"two"
    assert body("three.example") == body("127.0.0.1") == b"default"
    assert body("one.example", path="http://two.example/f") == b"two"  # RFC 9112 §3.2.2


def test_an_answer_is_remembered_for_its_own_host_alone(clock: Clock, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    client = Client(router(clock, *(SiteConfig(str(tmp_path / name), hosts=(name,)) for name in ("one", "two"))), clock)
    for _ in range(3):
        for name in ("one", "two"):
            client.send(f"GET /f HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    assert [reply.body for reply in client.replies()] == [b"one", b"two"] * 3


def test_sites_by_address(clock: Clock, tmp_path: Path) -> None:
    """In any way to write it; its zone is the client's own business (RFC 6874 §4)."""
    for name in ("default", "local", "link"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    sites = [
        SiteConfig(str(tmp_path / "default")),
        SiteConfig(str(tmp_path / "local"), hosts=("[0:0:0:0:0:0:0:1]", "127.0.0.1")),
        SiteConfig(str(tmp_path / "link"), hosts=("[FE80::A%eth0]",)),
    ]

    def bodies(*hosts: str) -> set[bytes]:
        return {get(clock, *sites, path="/f", Host=host).body for host in hosts}

    assert bodies("[::1]", "[::1]:8080", "[0::0.0.0.1]", "[::1%lo]", "127.0.0.1:80") == {b"local"}
    assert bodies("[fe80::a%eth1]", "[fe80::a%25eth1]:80", "[FE80::000a]") == {b"link"}
    assert bodies("", "[::2]", "[v1.::1]", "1") == {b"default"}


def test_a_site_with_a_malformed_host(clock: Clock, tmp_path: Path) -> None:
    for host in ("a b", "", "[::1", "[1:2]", "."):
        with pytest.raises(ValueError, match="host"):
            router(clock, SiteConfig(str(tmp_path)), SiteConfig(str(tmp_path), hosts=(host,)))
