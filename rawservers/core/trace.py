"""The trace of sockets: a line for each event in the life of each one.

    12:01:03.120442    4712    8  accept        127.0.0.1:53412 -> 127.0.0.1:8080 (http)

These are the time, the process, the descriptor, the event, and what it was about. The events are the system calls on the
sockets, with their results; a receive of no bytes is shown as "FIN received", shutdown(2) as "FIN sent", and a close that makes
the kernel send a RST is preceded by "RST sent". Errors of the network are shown where they are met.

All this is in subclasses that a traced listener uses in place of the plain ones. Without a trace nothing of it is called.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from rawservers.core.connection import Connection
from rawservers.core.errors import os_error_text
from rawservers.core.peer import address_text, peer_address
from rawservers.core.phases import Phase
from rawservers.core.protocol import Closing, Deadline
from rawservers.core.redaction import Redactor, escape
from rawservers.core.transport import Transport

EMPTY, FULL = "nothing yet (EAGAIN)", "no room in the send buffer (EAGAIN)"
RESET_ERRNOS = {errno.ECONNRESET, errno.EPIPE}
SHOWN_SIZE = 1024  # bytes of output in which its first line is looked for
OOB, MORE = int(socket.MSG_OOB), int(socket.MSG_MORE)

# Colours of a terminal (SGR), by the first word of an event
COLOURS = {"accept": 32, "receive": 36, "send": 34, "sendfile": 34, "FIN": 33, "RST": 31, "error": 31, "close": 35}


class Trace:
    """write: called with each line; colour: whether they are for a terminal that has colours."""

    def __init__(self, write: Callable[[bytes], None], colour: bool = False) -> None:
        self._write, self._colour = write, colour

    def add(self, fd: int, event: str, detail: str = "") -> None:
        """Add the line of an event. Both texts are printable ASCII."""
        now = time.time()
        clock = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1e6):06}"
        name = f"{event:12}"
        if self._colour:
            clock, name = f"\x1b[2m{clock}\x1b[0m", f"\x1b[{COLOURS.get(event.partition(' ')[0], 1)}m{name}\x1b[0m"
        self._write(f"{clock} {os.getpid():7} {fd:4}  {name}  {detail}".rstrip().encode() + b"\n")


class TracedServerSocket(socket.socket):
    """A server socket. Arguments after the trace are those of socket.socket."""

    def __init__(self, trace: Trace, *arguments: int, **options: int) -> None:
        super().__init__(*arguments, **options)
        self._trace = trace
        how = f"{sockaddr_text(self.getsockname())}, inherited" if options else self.family.name
        trace.add(self.fileno(), "socket", how)

    def bind(self, address: Any) -> None:
        super().bind(address)
        self._trace.add(self.fileno(), "bind", sockaddr_text(self.getsockname()))

    def listen(self, backlog: int = 0) -> None:
        super().listen(backlog)
        self._trace.add(self.fileno(), "listen", sockaddr_text(self.getsockname()))

    def close(self) -> None:
        if self.fileno() >= 0:
            self._trace.add(self.fileno(), "close", f"listener on {sockaddr_text(self.getsockname())}")
        super().close()


class TracedTransport(Transport):
    """An accepted socket. service: its name; arguments: those of a plain one; connection: the one that uses it.

    Without __slots__, so that it can be combined with other transports, see trace_tls.py.
    """

    def __init__(self, trace: Trace, service: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._trace = trace
        self._started_at = time.monotonic()
        self._received = self._sent = 0  # bytes
        self._in_message = self._resets = False
        self._shown_input = Redactor()
        self.connection: TracedConnection | None = None
        try:
            peer = sockaddr_text(self.getpeername())
        except OSError:  # it has sent a RST already
            peer = "(gone)"
        self._add("accept", f"{peer} -> {sockaddr_text(self.getsockname())} ({service})")

    def recv(self, size: int, flags: int = 0) -> bytes:
        try:
            data = super().recv(size, flags)
        except OSError as error:
            self._add_error("receive", error, EMPTY)
            raise
        self._received += len(data)
        if data:
            text = self._shown_input.show(data)
            note = self.connection.hidden_input if self.connection else ""
            self._add("receive", f"{len(data)} bytes{f' ({note})' if note else f': {text}' if text else ''}")
        else:
            self._add("FIN received")
        return data

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]
        try:
            sent = super().send(data, flags)
        except OSError as error:
            self._add_error("send", error, FULL)
            raise
        self._sent += sent
        text = "" if self._in_message else Redactor().show(bytes(data[:SHOWN_SIZE]))
        urgent, more = " urgent" * bool(flags & OOB), ", more follows" * bool(flags & MORE)
        self._add("send", f"{sent} of {len(data)}{urgent} bytes{more}{f': {text}' if text else ''}")
        self._in_message = sent < len(data)  # what is sent next is its rest
        return sent

    def send_file(self, fd: int, offset: int, count: int) -> int:
        try:
            sent = super().send_file(fd, offset, count)
        except OSError as error:
            self._add_error("sendfile", error, FULL)
            raise
        self._sent += sent
        self._add("sendfile", f"{sent} of {count} bytes, from offset {offset}")
        return sent

    def shutdown(self, how: int) -> None:
        try:
            super().shutdown(how)
        except OSError as error:
            self._add_error("FIN sent", error)
            raise
        self._add("FIN sent")

    def reset(self) -> None:
        super().reset()
        self._resets = True

    def close(self) -> None:
        if self.fileno() >= 0:
            why = self.connection.reason if self.connection else "too many connections from its address"
            if self._resets or self.has_unread():
                self._add("RST sent", "" if self._resets else "input is unread")
            seconds = time.monotonic() - self._started_at
            self._add("close", f"{why}; after {seconds:.3f} s, {self._received} bytes received, {self._sent} sent")
        self.connection = None
        super().close()

    def trace_reset(self) -> None:
        """Add the line of a RST that epoll has reported."""
        self._add("RST received", "poll: EPOLLHUP")

    def _add(self, event: str, detail: str = "") -> None:
        self._trace.add(self.fileno(), event, detail)

    def _add_error(self, event: str, error: OSError, waits: str = "") -> None:
        """Add the line of a call that has failed. waits: the text for EAGAIN."""
        if isinstance(error, BlockingIOError):
            self._add(event, waits)
        elif error.errno in RESET_ERRNOS:
            self._add("RST received", f"{event}: {os_error_text(error)}")
        else:
            self._add("error", f"{event}: {os_error_text(error)}")


class TracedConnection(Connection):
    """A connection over a TracedTransport, which it tells why it is closed, and what of its input must not be shown."""

    _sock: TracedTransport

    def __init__(self, sock: TracedTransport, *arguments: Any) -> None:
        super().__init__(sock, *arguments)
        self._drained = self._in_burst = False
        self._reason = ""
        sock.connection = self

    @property
    def reason(self) -> str:
        """Why it is closed now."""
        if self._reason:
            return self._reason
        if self._phase is not Phase.LINGERING and self._eof_received:
            return "the peer's FIN"
        if self._drained:
            return "the server is stopping"
        is_done = self._phase is Phase.LINGERING or self._protocol.closing is not Closing.KEEP
        return "done" if is_done else "the server has stopped"

    @property
    def hidden_input(self) -> str:
        """Why input that is received now is not shown; "" if it is. What it means depends on all earlier input."""
        if self._phase is Phase.LINGERING:
            return "discarded"
        if self._protocol.hidden:
            return "hidden"
        if self._protocol.waiting is Deadline.BODY:
            return "of a body"
        return "the rest of it" if self._in_burst else ""

    def _recv_rest(self, data: bytes, urgent: bool) -> bytes:
        self._in_burst = True  # the protocol has not seen the beginning, which may be followed by what it hides
        try:
            return super()._recv_rest(data, urgent)
        finally:
            self._in_burst = False

    def _expire(self) -> None:
        self._reason = self._reason or f"{self.waits_for.name} deadline"
        super()._expire()
        if self._protocol.closing is Closing.KEEP and self._phase is not Phase.LINGERING:
            self._reason = ""

    def _abort(self, error: OSError) -> None:
        if isinstance(error, ConnectionResetError) and error.errno is None:  # from EPOLLHUP, and not from a call on the socket
            self._sock.trace_reset()
        self._reason = self._reason or f"error: {os_error_text(error)}"
        super()._abort(error)

    def drain(self) -> None:
        self._drained = True
        super().drain()

    def evict(self) -> None:
        self._reason = "evicted for a new connection"
        super().evict()

    def failed(self) -> None:
        self._reason = "error in the service"
        super().failed()


def sockaddr_text(address: tuple[Any, ...] | str | bytes) -> str:
    """A socket address of any family, as printable ASCII."""
    return escape(os.fsencode(address_text(peer_address(os.fsdecode(address) if isinstance(address, bytes) else address))))
