"""The trace of sockets on standard error, see core/trace.py. Its lines never block the server: see `sink`."""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Callable
from functools import cache, partial

from rawservers.core.bind import ServerSocket
from rawservers.core.connection import Connection
from rawservers.core.limits import Connections
from rawservers.core.listener import Listener
from rawservers.core.loop import Loop
from rawservers.core.networks import NOBODY, Networks
from rawservers.core.protocol import ServiceSpec
from rawservers.core.trace import Trace, TracedConnection, TracedServerSocket, TracedTransport
from rawservers.core.transport import Transport
from rawservers.logs.sink import duplicate, open_sink


class TraceLog(Trace):
    """fd: owned by the log, -1 for none; colour: as for `Trace`."""

    def __init__(self, fd: int, colour: bool) -> None:
        super().__init__(self.write, colour)
        self.sink = open_sink(fd)

    def write(self, line: bytes = b"", now: float = 0.0) -> None:
        """Write lines, or none, and the number of lines dropped, once the reader reads again. now: in place of the time."""
        self.sink.write(line)
        if not self.sink.stalled and (report := self.sink.drop_report(now or time.monotonic())):
            self.sink.write(f"trace: {report}\n".encode())

    def finish(self) -> None:
        """Write pending lines; wait up to a second for a slow reader."""
        self.sink.finish()
        self.write(now=math.inf)
        self.sink.finish()


@cache
def trace_log() -> TraceLog:
    """The trace of this process. Coloured on a terminal, unless NO_COLOR is set, see https://no-color.org/. Raises OSError."""
    fd = duplicate(2)
    log = TraceLog(fd, fd >= 0 and os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")
    os.register_at_fork(after_in_child=log.sink.reset)
    atexit.register(log.finish)
    return log


def traced_server_socket(*arguments: int, **options: int) -> TracedServerSocket:
    """A server socket with a trace."""
    return TracedServerSocket(trace_log(), *arguments, **options)


def traced_listener(
    server: ServerSocket,
    service: ServiceSpec,
    loop: Loop,
    connections: Connections,
    transport: Callable[..., Transport] = Transport,
    connection: type[Connection] = Connection,
    proxies: Networks = NOBODY,
) -> Listener:
    """A listener whose connections have a trace. transport: a plain one, or a TLSTransport with its first argument."""
    arguments = trace_log(), service.name
    traced: Callable[..., Transport] = partial(TracedTransport, *arguments)
    kind: type[Connection] = TracedConnection
    if isinstance(transport, partial):
        from rawservers.core.trace_tls import TracedTLSConnection, TracedTLSTransport  # here, since it loads OpenSSL

        traced, kind = partial(TracedTLSTransport, *arguments, *transport.args), TracedTLSConnection
    return Listener(server, service, loop, connections, traced, connection=kind, proxies=proxies)
