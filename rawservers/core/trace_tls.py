"""The trace of sockets with TLS: handshakes and close_notify as well, and of the data the plaintext and its sizes.

    TLS handshake  TLSv1.3, TLS_AES_256_GCM_SHA384, session resumed

EAGAIN is then what the transport says: no plaintext yet, whatever has arrived of a handshake.
"""

from __future__ import annotations

from rawservers.core.tls import TLSConnection, TLSTransport
from rawservers.core.trace import TracedConnection, TracedTransport


class TracedTLSTransport(TracedTransport, TLSTransport):
    """As a TracedTransport; the first of the other arguments is that of a TLSTransport."""

    def shake(self) -> bytes | None:
        try:
            data = super().shake()
        except OSError as error:
            self._add_error("TLS handshake", error)
            raise
        if self.is_open and self.engine is not None:
            self._add("TLS handshake", self.engine.describe())
        elif data == b"":
            self._add("FIN received")
        return data

    def send_file(self, fd: int, offset: int, count: int) -> int:
        return TLSTransport.send_file(self, fd, offset, count)  # which calls `send`

    def notify(self) -> None:
        if self.is_open:
            self._add("close_notify", "sent")
        super().notify()


class TracedTLSConnection(TracedConnection, TLSConnection):
    _sock: TracedTLSTransport
