"""Paths and links that lead outside the root: the real process serves nothing there."""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path

import pytest

from tests.harness.http_client import take_body
from tests.harness.needs import need
from tests.harness.server import Server
from tests.harness.waiting import DEADLINE

OUTSIDE = """
    /../../etc/passwd /%2e%2e/%2e%2e/etc/passwd /%252e%252e/etc/passwd /..%2f..%2fetc/passwd //etc/passwd
    /out /.git/config /dir/../../outside /folder/outside
"""


@pytest.mark.parametrize("target", OUTSIDE.split())
def test_nothing_outside_is_served(folder: Path, server: Server, target: str) -> None:
    (folder.parent / "outside").write_text("canary root:x:0:0")
    (folder / "out").symlink_to(folder.parent / "outside")
    (folder / "folder").symlink_to(folder.parent)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("canary")
    done = subprocess.run([need("curl"), "-si", "--path-as-is", server.url + target], capture_output=True, timeout=DEADLINE)
    assert re.match(rb"HTTP/1\.0 40[034] ", done.stdout)
    assert b"canary" not in done.stdout
    assert b"root:x" not in done.stdout


@pytest.mark.parametrize("requests", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_link_that_flips_never_leads_outside(folder: Path, server: Server, requests: int) -> None:
    (folder.parent / "outside").write_text("canary")
    (folder / "inside").write_text("inside")
    (folder / "link").symlink_to("inside")
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            for target in (folder.parent / "outside", Path("inside")):
                (folder / "new").symlink_to(target)
                (folder / "new").rename(folder / "link")

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        bodies = set()
        with server.connect() as sock:
            for _ in range(requests):
                sock.sendall(b"GET /link HTTP/1.1\r\nHost: h\r\n\r\n")
                head = take_body(sock)
                bodies.add(head)
    finally:
        stop.set()
        flipping.join()
    assert b"inside" in bodies
    assert not [body for body in bodies if b"canary" in body]
