"""Every answer to a vector, and those of a site with every setting, as httplint sees them."""

from __future__ import annotations

import gzip
import os
import re
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
from tests.harness.http import CASES, Client, bytes_of, echo, router, vector_site

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
def genuine(vector_files: Path) -> Path:
    """The vectors' files with content that is what it is called, since httplint looks into it."""
    content = (vector_files / "page.html").read_bytes()
    for name, body in {
        "page.html.br": brotli.compress(content),
        "page.html.gz": gzip.compress(content, mtime=0),
        "private/page.html.gz": gzip.compress(b"private", mtime=0),
        "what?.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9",
    }.items():
        kept = (vector_files / name).stat().st_mtime_ns
        (vector_files / name).write_bytes(body)
        os.utime(vector_files / name, ns=(kept, kept))
    return vector_files


def criticized(data: bytes, site: SiteConfig) -> Iterator[tuple[HttpResponseLinter, Note]]:
    """The warnings and errors that the answers to `data` earn, each with the answer that earned it."""
    clock = Clock(now=100.0, time=2_000_000_000.0)
    client = Client(router(clock, site, handlers=(("/fn", echo),)), clock).send(data).end()
    behind = 0
    for record, reply in zip(client.records, client.replies(), strict=True):
        line = b"" if record.line == "(TLS handshake)" else record.line.encode("latin-1")
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_httplint_of_the_answers_to_a_vector(case: dict[str, Any], genuine: Path) -> None:
    assert not unacceptable(bytes_of(case), vector_site(genuine))


def test_a_refused_head_has_no_body_either(genuine: Path) -> None:
    site = vector_site(genuine)
    for head in ("/f HTTP/1.1\r\nHost: a\r\nHost: b", "/%zz HTTP/1.0", "/f HTTP/3.0", "/ x HTTP/1.0", "/f HTTP/1.0\r\nX : y"):
        assert not unacceptable(f"HEAD {head}\r\n\r\n".encode(), site)


def test_nothing_is_accepted_in_vain(genuine: Path) -> None:
    site = vector_site(genuine)
    seen = {type(note).__name__ for case in CASES for _, note in criticized(bytes_of(case), site)}
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
