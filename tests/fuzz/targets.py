"""The fuzz targets. Each is made once, and then takes any bytes; an AssertionError, or any other exception, is a finding."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

from rawservers.config import toml
from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Closing, Deadline, FileSlice, Urgent
from rawservers.daemon import scoreboard
from rawservers.daemon.double_buffer import MAX_SEQUENCE, DoubleBuffer
from rawservers.daemon.socket_table import parse_table
from rawservers.http import conversation
from rawservers.http.chunked import ChunkedBody
from rawservers.http.framing import cut_head
from rawservers.http.request import REQUEST_LINE, HTTPError, parse
from rawservers.http.target import decode_target
from rawservers.services import default_addresses
from rawservers.settings import ConfigError, SiteConfig
from rawservers.sockets import parse_json
from rawservers.status import as_json, as_prometheus, as_text
from rawservers.telnet import session as telnet
from rawservers.telnet.echo import echo
from tests.fuzz.corpus import parts
from tests.fuzz.preambles import proxy, tls
from tests.harness.http import Client, Reply, vector_folder
from tests.harness.http import echo as echo_body
from tests.harness.http_cache import Remembering
from tests.harness.telnet import CHARACTERS, neat, start
from tests.servers.telnet_services import calculate, login

SECRET = b"secret"  # what the files outside, and the hidden ones, hold
UNLIMITED = 1 << 30  # steps
Target = Callable[[bytes], object]


def make(name: str, folder: Path) -> Target:
    """The target with this name. folder: an empty one, for its files."""
    return MAKERS[name](folder)


def holds_a_simple_request(data: bytes) -> bool:
    """HTTP/0.9 alone may depend on the cut: nothing but the cut says where such a request ends."""
    lines = (REQUEST_LINE.fullmatch(line.decode("latin-1") + "\n") for line in data.split(b"\n")[:-1])
    return any(match and match[1] == "GET" and match[3] is None for match in lines)


# HTTP, its parts


def heads(pieces: Sequence[bytes]) -> Iterator[object]:
    """What is made of each head in the stream, up to the first error."""
    buffer, scanned = bytearray(), 0
    for piece in pieces:
        buffer += piece
        while buffer:
            try:
                data = cut_head(buffer, scanned)
                scanned = 0 if data else len(buffer)
                if not data:
                    break
                request = parse(data)
                decode_target(request)
            except HTTPError as error:
                yield error.status, error.message
                return
            path = request.path_bytes
            assert path[:1] in (b"/", b"")
            assert not {b"", b".", b".."} & set(path.split(b"/")[1:-1])
            assert path.rpartition(b"/")[2] not in (b".", b"..")
            assert b"\0" not in path
            yield request.method, request.target, path, request.version, request.length, dict(request.fields)


def head(folder: Path) -> Target:
    def target(data: bytes) -> None:
        pieces, _ = parts(data)
        if not holds_a_simple_request(data[2:]):
            assert list(heads([data[2:]])) == list(heads(pieces)) == list(heads([bytes([byte]) for byte in data[2:]]))

    return target


def decoded(pieces: Sequence[bytes], steps: int) -> object:
    """The data of a chunked body, and what is left behind it; or its error. None: it is incomplete."""
    body, buffer = ChunkedBody(100), bytearray()
    try:
        for piece in pieces:
            buffer += piece
            while body.decode(buffer, steps) == steps:
                pass
    except HTTPError as error:
        return error.status
    return (bytes(body.data), bytes(buffer)) if body.complete else None


class Received:
    """What http.client takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def chunked(folder: Path) -> Target:
    def target(data: bytes) -> None:
        pieces, steps = parts(data)
        found = decoded([data[2:]], UNLIMITED)
        assert found == decoded(pieces, steps)
        if isinstance(found, tuple):  # then those who are less strict must take it for the same
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            response = http.client.HTTPResponse(Received(head + data[2:]))  # type: ignore[arg-type]
            response.begin()
            assert response.read() == found[0]

    return target


# HTTP, whole


class Watching(Client):
    """A client that looks where the files are that it is sent."""

    root = b""

    def take(self, chunks: object) -> None:
        for chunk in chunks:  # type: ignore[attr-defined]
            if isinstance(chunk, FileSlice):
                assert os.readlink(b"/proc/self/fd/%d" % chunk.file.fd).startswith(self.root + b"/")
        super().take(chunks)  # type: ignore[arg-type]


class Sites:
    """The site of the vectors twice: once with caches, and once without."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        root = vector_folder(folder)
        Watching.root = os.path.realpath(root).encode()
        self.clock = Clock(now=100.0, time=2_000_000_000.0)
        handlers = (("/fn", echo_body),)
        self.warm = Remembering(self.clock, SiteConfig(str(root)), handlers=handlers)
        self.cold = Remembering(self.clock, SiteConfig(str(root)), handlers=handlers, answers=0, files=0)

    def said(self, service: Remembering, pieces: Sequence[bytes], steps: int = UNLIMITED) -> tuple[bytes, bool, Client]:
        """All that is said for these pieces, whether the connection goes on, and the client."""
        client = Watching(service.router, self.clock)
        with mock.patch.object(conversation, "STEPS", steps):
            client.send(*pieces)
        assert SECRET not in client.said
        return client.said, client.closing is Closing.KEEP, client


def whole(folder: Path) -> Target:
    sites = Sites(folder)

    def target(data: bytes) -> None:
        pieces, steps = parts(data)
        if not pieces:
            return
        expected = sites.said(sites.cold, [data[2:]])[:2]
        assert sites.said(sites.warm, [data[2:]])[:2] == expected
        assert sites.said(sites.warm, [data[2:]], steps)[:2] == expected
        if not holds_a_simple_request(data[2:]):
            assert sites.said(sites.warm, pieces, steps)[:2] == expected

    return target


FIELD = re.compile(rb"(?i)(Accept|Accept-Encoding|Range|If-Range|If-None-Match|If-Match|If-(?:Unm|M)odified-Since):[^\0\r\n]*")
SPAN = re.compile(r"bytes (\d+)-(\d+)/40000")


def fields(folder: Path) -> Target:
    """Lines of the fields on which the response for a file depends."""
    sites = Sites(folder)
    content = bytes(range(250)) * 160  # of /big

    def target(data: bytes) -> None:
        lines = [line for line in data.split(b"\n")[:20] if FIELD.fullmatch(line)]
        request = b"\r\n".join([b"GET /big HTTP/1.1", b"Host: h", *lines, b"", b""])
        said, _, client = sites.said(sites.warm, [request])
        assert said == sites.said(sites.cold, [request])[0]
        (reply,) = client.replies()
        check_range(reply, content)

    return target


def check_range(reply: Reply, content: bytes) -> None:
    """A response is of the whole file, of a part of it, of several, or of none."""
    found = {name.lower(): value for name, value in reply.headers}
    assert reply.status in {200, 206, 304, 400, 412, 416, 431}
    if reply.status == 200:
        assert reply.body == content
    elif reply.status == 304:
        assert reply.body == b""
    elif reply.status == 206 and "content-range" in found:
        match = SPAN.fullmatch(found["content-range"])
        assert match
        assert reply.body == content[int(match[1]) : int(match[2]) + 1] != b""
    elif reply.status == 206:
        spans = SPAN.findall(reply.body.decode("latin-1"))
        assert 1 < len(spans) <= 64
        assert len(reply.body) <= len(content) + 200 * len(spans)


def path(folder: Path) -> Target:
    sites = Sites(folder)

    def target(data: bytes) -> None:
        for service in (sites.cold, sites.warm):
            service.router.encoded_slash = bool(data[:1] > b"\x7f")
        name = data[1:].translate(None, b"\r\n\0 ")
        for method in (b"GET", b"HEAD"):
            request = b"%b %b HTTP/1.1\r\nHost: h\r\n\r\n" % (method, name)
            assert sites.said(sites.warm, [request])[0] == sites.said(sites.cold, [request])[0]

    return target


# Telnet


def telnet_said(pieces: Sequence[tuple[bytes, bool]], kind: int, steps: int) -> tuple[bytes, int, Closing]:
    """All that a session says, where the last urgent byte stands in it, and how it ends. kind: of the session."""
    session = start(Peer(("192.0.2.1", 40000), Clock()), (echo, login, calculate)[kind % 3], 20 if kind & 4 else 4096)
    out, urgent = b"", -1

    def take(chunks: Sequence[object]) -> None:
        nonlocal out, urgent
        assert neat(chunks)  # type: ignore[arg-type]
        for chunk in chunks:
            assert isinstance(chunk, bytes)
            urgent = len(out) if isinstance(chunk, Urgent) else urgent
            out += chunk

    with mock.patch.object(telnet, "STEPS", steps):
        for data, is_urgent in ([(CHARACTERS, False)] if kind & 8 else []) + list(pieces):
            take(session.receive(data, is_urgent))
            while session.waiting is Deadline.TURN:
                take(session.resume())
        take(session.end())
        while session.waiting is Deadline.TURN:
            take(session.resume())
    return out, urgent, session.closing


def telnet_session(folder: Path) -> Target:
    """The third byte says what kind of session it is; its highest bit, that the first part lies before a Synch's mark."""

    def target(data: bytes) -> None:
        kind = data[2] if len(data) > 2 else 0
        pieces, steps = parts(data[:2] + data[3:])
        urgent = [piece for piece in pieces[:1] if kind > 0x7F]
        rest = b"".join(pieces[len(urgent) :])
        first = [(piece, True) for piece in urgent]
        expected = telnet_said([*first, *([(rest, False)] if rest else [])], kind, UNLIMITED)
        assert telnet_said([*first, *[(piece, False) for piece in pieces[len(urgent) :]]], kind, steps) == expected

    return target


# What is read


def configuration(folder: Path) -> Target:
    def target(data: bytes) -> None:
        errors: list[str] = []
        try:
            toml.load(data, str(folder / "conf"), default_addresses())
        except ConfigError as error:
            errors = error.errors or [""]
        for line in errors:
            assert line.startswith(f"{folder}/conf:")
            assert line.isprintable()
            assert len(line) < 1000

    return target


def memory(folder: Path) -> Target:
    """Shared memory in which another process has written anything."""
    shared = mmap.mmap(-1, scoreboard.MEMORY_SIZE)
    board = scoreboard.Scoreboard.of(shared)
    buffer = DoubleBuffer(shared, 0, scoreboard.SLOT_SIZE)
    beginning = struct.pack("qd", 1, 1.0) + struct.pack("q", 0)

    def target(data: bytes) -> None:
        for number, piece in enumerate((data, data[::-1])):
            start = number * scoreboard.SLOT_SIZE
            shared[start : start + 4 * 4096] = bytes(4 * 4096)
            text = struct.pack("q", len(piece)) + piece
            said = beginning + text if data[:1] < b"\x80" else piece
            shared[start : start + len(said)] = said
        found = scoreboard.make_status(board.total(), 1.0)
        for said in (as_text(found), as_json(found), as_prometheus(found)):
            assert said.replace("\n", "").isprintable()
        board.workers()
        json.loads(as_json(found))
        parse_table(data, 1, 1.0)
        with contextlib.suppress(ValueError):
            parse_json(data.decode("latin-1"))
        assert len(buffer.read()) <= buffer.max_text
        if abs(buffer.sequence) < MAX_SEQUENCE - 1:
            buffer.write(data[: buffer.max_text])
            assert buffer.read() == data[: buffer.max_text]

    return target


MAKERS: dict[str, Callable[[Path], Target]] = {
    "head": head,
    "chunked": chunked,
    "conversation": whole,
    "fields": fields,
    "path": path,
    "telnet": telnet_session,
    "configuration": configuration,
    "memory": memory,
    "proxy": proxy,
    "tls": tls,
}
