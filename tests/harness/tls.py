"""Certificates of a CA of the tests' own, and both sides' contexts."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
from functools import cache
from pathlib import Path
from typing import NamedTuple

import trustme

from rawservers.core.certificates import Certificate, load_context
from rawservers.core.phases import Preambles
from rawservers.core.protocol import Protocol
from rawservers.core.tls import SharedTLS, TLSConnection, TLSTransport
from tests.harness.core import Running
from tests.harness.waiting import DEADLINE

HOST = "localhost"


class Files(NamedTuple):
    """The files of a certificate, of its key, and of the CA's certificate."""

    certificate: Path
    key: Path
    ca: Path

    @property
    def options(self) -> tuple[str, ...]:
        """As a TOML table, and as options of the command."""
        return "--certificate", str(self.certificate), "--key", str(self.key)

    @property
    def toml(self) -> str:
        return f'{{ certificate = "{self.certificate}", key = "{self.key}" }}'


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def issue(folder: Path, *hosts: str, name: str = "site") -> Files:
    """A new certificate for these hosts, by default for localhost and 127.0.0.1."""
    issued = authority().issue_cert(*(hosts or (HOST, "127.0.0.1")))
    files = Files(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(files.certificate), append=number > 0)
    files.key.touch(0o600)
    issued.private_key_pem.write_to_path(str(files.key))
    authority().cert_pem.write_to_path(str(files.ca))
    return files


def make_dated(folder: Path, start: datetime.datetime, end: datetime.datetime) -> Path:
    """The file of a certificate of the CA with its key, valid from `start` to `end`."""
    issued = authority().issue_cert(HOST, "127.0.0.1", not_before=start, not_after=end)
    path = folder / "dated.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    path.chmod(0o600)
    return path


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Of a client that trusts the CA; version: the only one that it speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class TLSRunning(Running):
    """A running service with TLS."""

    def __init__(self, protocol: type[Protocol], files: Files, preambles: Preambles = (), **deadlines: float) -> None:
        super().__init__(
            protocol, lambda *arguments: TLSTransport(self.shared, *arguments), preambles, TLSConnection, 0, **deadlines
        )
        self.shared = SharedTLS(load_context([Certificate(str(files.certificate), str(files.key))]), self.loop.clock)

    def secure(self, context: ssl.SSLContext | None = None, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        return secure(self.connect(), context, session)


def secure(sock: socket.socket, context: ssl.SSLContext | None = None, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """`sock` with TLS, once the handshake is complete."""
    sock.settimeout(DEADLINE)
    return (context or client_context()).wrap_socket(sock, server_hostname=HOST, session=session, suppress_ragged_eofs=False)


class Client:
    """The client's side in memory, which asks for `host`. outgoing: ciphertext that it has to say."""

    def __init__(self, context: ssl.SSLContext | None = None, host: str = HOST) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or client_context()).wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.received = b""
        self.closed = False

    def hear(self, ciphertext: bytes) -> None:
        """Take what the server says."""
        self._incoming.write(ciphertext)
        try:
            self.tls.do_handshake()
            while data := self.tls.read(65536):
                self.received += data
            self.closed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # after its own
            self.closed = True

    def say(self, data: bytes = b"") -> bytes:
        """The ciphertext of `data`, behind what it has to say itself."""
        if data:
            self.tls.write(data)
        return self._outgoing.read()

    def close(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()
