"""Validators of the real process: files of one size and mtime, as in /nix/store or a container image, are never mixed up."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import requests

from tests.harness.needs import need
from tests.harness.server import Server
from tests.harness.waiting import DEADLINE, until

CURL = ["curl", "--silent", "--noproxy", "*", "--max-time", str(DEADLINE)]
WGET = ["wget", "--no-config", "--no-proxy", "--quiet", "--tries=1", f"--timeout={DEADLINE}"]
SIZES = pytest.mark.parametrize("size", [100, 100_000], ids=["small", "large"])
TIMES = pytest.mark.parametrize("mtime", [1, 4_000_000_000], ids=["1970", "future"])


def write(path: Path, content: bytes, mtime: int, replaced: bool = False) -> bytes:
    """Give the file this content and mtime, in place or by a rename."""
    target = path.with_name("new") if replaced else path
    target.write_bytes(content)
    os.utime(target, (mtime, mtime))
    target.replace(path)
    return content


def await_tag(server: Server) -> str:
    """The entity tag of /f, which a large file has once the file system's clock has ticked after its last change."""
    tags: list[str] = []

    def has_tag() -> bool:
        tags.append(requests.head(f"{server.url}/f", timeout=DEADLINE).headers.get("ETag", ""))
        return bool(tags[-1])

    until(has_tag, "the file has an entity tag")
    return tags[-1]


@TIMES
@SIZES
def test_another_content_is_never_mixed_in(server: Server, folder: Path, size: int, mtime: int) -> None:
    tags = {'"none"'}
    statuses = set()
    with requests.Session() as session:
        for number in range(61):
            content = write(folder / "f", b"%04d" % number * (size // 4), mtime, replaced=number % 3 == 0)
            for tag in sorted(tags):
                for field in ("If-None-Match", "If-Range"):
                    reply = session.get(f"{server.url}/f", headers={field: tag, "Range": "bytes=4-"}, timeout=DEADLINE)
                    whole = 206 if field == "If-None-Match" else 200
                    assert (reply.status_code, reply.content) == (whole, content[4:] if whole == 206 else content)
            if number % 15 == 0:
                tag = await_tag(server)
                assert tag not in tags
                for field, status in (("If-None-Match", 304), ("If-Range", 206)):
                    reply = session.get(f"{server.url}/f", headers={field: tag, "Range": "bytes=4-"}, timeout=DEADLINE)
                    statuses.add(reply.status_code)
                    assert (reply.status_code, reply.content) == (status, content[4:] if status == 206 else b"")
                tags.add(tag)
    assert statuses == {304, 206}


@TIMES
@SIZES
def test_curl_and_wget_do_not_resume_another_content(
    server: Server, folder: Path, tmp_path: Path, size: int, mtime: int
) -> None:
    """wget takes a 200 for a server without ranges, skips what it has and appends the rest, so it has to ask by If-Match."""
    copy = tmp_path / "f"
    old = write(folder / "f", b"old " * (size // 4), mtime)
    tag = await_tag(server)
    curl = [*CURL, "-C", "-", "-o", str(copy), "-H", f"If-Range: {tag}", f"{server.url}/f"]
    wget = [*WGET, "-c", "-P", str(tmp_path), f"--header=If-Match: {tag}", f"{server.url}/f"]
    for client in (curl, wget):
        copy.write_bytes(old[:50])
        assert subprocess.run([need(client[0]), *client[1:]], timeout=DEADLINE).returncode == 0
        assert copy.read_bytes() == old
    write(folder / "f", b"new " * (size // 4), mtime)
    for client, status in ((curl, 33), (wget, 8)):
        copy.write_bytes(old[:50])
        assert subprocess.run([need(client[0]), *client[1:]], timeout=DEADLINE).returncode == status
        assert copy.read_bytes() == old[:50]


@SIZES
def test_curl_and_wget_ask_for_what_is_newer(server: Server, folder: Path, tmp_path: Path, size: int) -> None:
    """No time says that there is nothing newer."""
    copy = tmp_path / "f"
    curl = [need(CURL[0]), *CURL[1:], "--fail", "-R", "-z", copy, "-o", copy, f"{server.url}/f"]
    wget = [need(WGET[0]), *WGET[1:], "-N", "-P", tmp_path, f"{server.url}/f"]
    for letter in (b"a", b"b", b"c"):
        for client, text in ((curl, letter), (wget, letter.upper())):
            content = write(folder / "f", text * size, 1)
            subprocess.run(client, timeout=DEADLINE, check=True)
            assert copy.read_bytes() == content
