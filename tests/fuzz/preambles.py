"""The fuzz targets for what comes before a conversation: the PROXY header, and TLS records."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from rawservers.core.certificates import Certificate, load_context
from rawservers.core.peer import Clock
from rawservers.core.phases import Done, PreambleError
from rawservers.core.proxy import V2_LIMIT, ProxyHeader
from rawservers.core.tls import Engine, SharedTLS
from tests.fuzz.corpus import parts
from tests.harness.tls import Client, client_context, issue

SAID = b"GET /f HTTP/1.0\r\n\r\n"
FLIGHTS = 5  # more than a handshake takes


def read_header(pieces: Sequence[bytes]) -> object:
    """A Done whose rest is all that came after the header; the error; or None if more is needed."""
    header = ProxyHeader()
    for number, piece in enumerate(pieces, 1):
        try:
            done = header.feed(piece)
        except PreambleError as error:
            return str(error)
        if done is not None:
            return Done(done.rest + b"".join(pieces[number:]), done.address)
    return None


def proxy(folder: Path) -> Callable[[bytes], object]:
    def target(data: bytes) -> None:
        pieces, _ = parts(data)
        found = read_header([data[2:]] if data[2:] else [])
        assert found == read_header(pieces) == read_header([bytes([byte]) for byte in data[2:]])
        if found is None:
            assert len(data) < V2_LIMIT
        if isinstance(found, Done) and found.address and not found.address[0].startswith("unix:"):
            ipaddress.ip_address(found.address[0])
            assert 0 <= found.address[1] <= 65535

    return target


def taken(engine: Engine) -> bytes:
    output, engine.output = engine.output, b""
    return output


def tls(folder: Path) -> Callable[[bytes], object]:
    """The first byte says what the rest is: bits that flip in the flights of a good client, by three bytes each; or all input.

    What an engine makes of it is plaintext or an ssl.SSLError, and it leaves nothing to the next one, which works.
    """
    folder.mkdir(exist_ok=True)
    files = issue(folder)
    shared = SharedTLS(load_context([Certificate(str(files.certificate), str(files.key))]), Clock())
    context = client_context()

    def talk(changes: bytes) -> bytes:
        """What an engine reads of a client whose flights are changed so."""
        client, engine, heard = Client(context), Engine(shared), b""
        client.hear(b"")
        for flight in range(FLIGHTS):
            data = bytearray(client.say(SAID if engine.is_open else b""))
            for at in range(0, len(changes) - 2, 3):
                which, where, what = changes[at : at + 3]
                if data and which % FLIGHTS == flight:
                    data[(where * len(data)) // 256] ^= what
            heard += engine.receive(bytes(data)) if data else b""
            with contextlib.suppress(ssl.SSLError):
                client.hear(taken(engine))
            if heard or engine.eof:
                break
        return heard

    def target(data: bytes) -> None:
        engine = Engine(shared)
        with contextlib.suppress(ssl.SSLError):
            if data[:1] < b"\x80":
                pieces, _ = parts(data[1:])
                for piece in pieces:
                    assert engine.receive(piece) == b""  # nobody has shaken hands
            else:
                assert talk(data[1:]) in (b"", SAID)
        engine.close()
        assert not shared.incoming.pending
        assert not shared.outgoing.pending
        assert talk(b"") == SAID

    return target
