"""What two critics of HTTP say of the answers: httplint of every answer to a vector, redbot of the live server."""

from __future__ import annotations

import gzip
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brotli
import pytest
from httplint import HttpRequestLinter, HttpResponseLinter
from httplint.note import Note, levels

from rawservers.core.peer import Clock
from rawservers.http.response import REASONS
from rawservers.settings import SiteConfig
from tests.harness.server import DEADLINE, Server
from tests.unit.http import test_conversation as test_http

root = test_http.root  # the fixture: the same files as for the vectors

# httplint's warnings and errors that stand, by their names, with the answers that they may be about.
ACCEPTED = {
    # These only tell what the status means: that the request was at fault. It was.
    "STATUS_BAD_REQUEST": lambda answer: answer.status_code == 400,
    "STATUS_URI_TOO_LONG": lambda answer: answer.status_code == 414,
    "STATUS_VERSION_NOT_SUPPORTED": lambda answer: answer.status_code == 505,
    # An age limit is the site's to choose (max_age); without one, caches go by Last-Modified, as with any other server.
    "FRESHNESS_HEURISTIC": lambda answer: True,
    # Of several ranges each part has its own Content-Range, and the whole must have none (RFC 9110 §15.3.7.2).
    "PARTIAL_WITHOUT_RANGE": lambda answer: dict(answer.headers.text)["Content-Type"].startswith("multipart/byteranges;"),
}


@pytest.fixture(scope="module")
def genuine(root: Path) -> Path:
    """The vectors' files with content that is what it is called, since httplint looks into it."""
    content = (root / "page.html").read_bytes()
    for name, body in {
        "page.html.br": brotli.compress(content),
        "page.html.gz": gzip.compress(content, mtime=0),
        "what?.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9",
    }.items():
        kept = (root / name).stat().st_mtime_ns
        (root / name).write_bytes(body)
        os.utime(root / name, ns=(kept, kept))
    return root


def criticized(data: bytes, site: SiteConfig) -> Iterator[tuple[HttpResponseLinter, Note]]:
    """The warnings and errors that the answers to `data` earn, each with the answer that earned it."""
    clock = Clock(now=100.0, time=2_000_000_000.0)
    client = test_http.Client(test_http.router(clock, site), clock).send(data).end()
    behind = 0
    for record, reply in zip(client.records, client.replies(), strict=True):
        line = record.line.encode("latin-1")
        behind = data.index(line, behind) + len(line)
        if not reply.status:  # HTTP/0.9 has no head to speak of
            continue
        method, _, rest = line.partition(b" ")
        target, _, version = rest.rpartition(b" ")
        request = HttpRequestLinter()
        request.process_request_topline(method, target, version)
        request.process_headers(re.findall(rb"^([!-9;-~]+):[ \t]*(.*?)\r?$", data[behind:].split(b"\r\n\r\n")[0], re.MULTILINE))
        answer = HttpResponseLinter(start_time=clock.time)
        answer.request = request
        answer.is_head_response = method == b"HEAD"
        answer.process_response_topline(b"HTTP/1.0", b"%d" % reply.status, REASONS[reply.status].encode())
        answer.process_headers([(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers])
        answer.feed_content(reply.body)
        answer.finish_content(True)
        for note in every(answer.notes):
            if note.level in {levels.WARN, levels.BAD}:
                yield answer, note


def every(notes: Any) -> Iterator[Note]:
    for note in notes:
        yield note
        yield from every(note.subnotes)


def unacceptable(data: bytes, site: SiteConfig) -> list[tuple[int | None, str, str]]:
    found = []
    for answer, note in criticized(data, site):
        name = type(note).__name__
        if name not in ACCEPTED or not ACCEPTED[name](answer):
            found.append((answer.status_code, name, note.summary))
    return found


@pytest.mark.parametrize("case", test_http.CASES, ids=lambda case: case["name"])
def test_httplint_of_the_answers_to_a_vector(case: dict[str, Any], genuine: Path) -> None:
    assert not unacceptable(test_http.bytes_of(case), SiteConfig(str(genuine)))


def test_a_refused_head_has_no_body_either(genuine: Path) -> None:
    site = SiteConfig(str(genuine))
    for head in ("/f HTTP/1.1\r\nHost: a\r\nHost: b", "/%zz HTTP/1.0", "/f HTTP/3.0", "/ x HTTP/1.0", "/f HTTP/1.0\r\nX : y"):
        assert not unacceptable(f"HEAD {head}\r\n\r\n".encode(), site)


def test_nothing_is_accepted_in_vain(genuine: Path) -> None:
    site = SiteConfig(str(genuine))
    seen = {type(note).__name__ for case in test_http.CASES for _, note in criticized(test_http.bytes_of(case), site)}
    assert seen == set(ACCEPTED)


DRESSED = """
    /f /page.html /nothing /nope /.git/config /dir /dir/ /empty/ / /gone/x /app/route /what%3f.jpg /fifo
"""


@pytest.mark.parametrize("target", DRESSED.split())
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "BREW"])
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_httplint_of_a_site_with_every_setting(method: str, target: str, accept: str, genuine: Path) -> None:
    site = SiteConfig(
        str(genuine),
        listing=True,
        max_age=3600,
        headers=(("/app/*", "Access-Control-Allow-Origin", "*"), ("*", "X-Content-Type-Options", "nosniff")),
        redirects=(("/gone/*", "/dir/*"),),
        error_pages=((404, "/page.html"), (405, "/page.html")),
        fallback="/dir/index.html",
    )
    for fields in ("", "Range: bytes=1-3\r\n", "If-None-Match: *\r\n", 'If-Match: "x"\r\n', "Accept-Encoding: br, gzip\r\n"):
        head = f"{method} {target} HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n{fields}\r\n"
        assert not unacceptable(head.encode(), site)


# All that redbot may say of a good file. The first two of the caching category follow from there being no max_age.
PRAISE = r"""
    The server's clock is correct\.
    The resource last changed .* ago\.
    The Content-Length header is correct\.
    This response allows all caches to store it\.
    This response allows caches to assign their own freshness lifetimes to it\.
    In exceptional circumstances, caches can serve this response stale\.
    If-None-Match conditional requests are supported\.
    If-Modified-Since conditional requests are supported\.
    A ranged request returned the correct partial content\.
""".strip().split("\n    ")
COMPRESSED = r"Content negotiation for gzip compression is supported, saving \d\d%\."


def test_redbot_of_a_page_a_big_file_and_a_precompressed_script(folder: Path, server: Server) -> None:
    script = b"".join(b"export const name%d = %d;\n" % (i, i) for i in range(3000))
    (folder / "page.html").write_text('<!DOCTYPE html>\n<html lang="en">\n<title>A page</title>\n<p>' + "Some text. " * 500)
    (folder / "big.bin").write_bytes(random.Random(1).randbytes(3_000_000))
    (folder / "app.js").write_bytes(script)
    (folder / "app.js.gz").write_bytes(gzip.compress(script))
    for path in folder.iterdir():
        os.utime(path, (784111777, 784111777))  # of a change in this very second, it does not say how long ago it was
    for name, expected in {"page.html": PRAISE, "big.bin": PRAISE, "app.js": [*PRAISE, COMPRESSED]}.items():
        command = [Path(sys.executable).with_name("redbot"), "-o", "text", f"{server.url}/{name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("HTTP/1.0 200 OK\n")
        said = re.findall(r"^ *\* (.*\.)$", done.stdout, re.MULTILINE)
        assert len(said) == len(expected), done.stdout
        for pattern in expected:
            assert [line for line in said if re.fullmatch(pattern, line)], (pattern, done.stdout)
    assert [line for line in server.log() if "RED/" in line and '" 304 ' in line]
    assert "Traceback" not in server.stderr()
