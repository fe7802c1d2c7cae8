"""What the servers of tests have in common: life, faults of the whole server, and the check at the end.

A test's own thread defines expectations and reads what was recorded, while the server's thread serves. What both use is guarded
by one lock, which is never held while a handler or a service of the test runs. What concerns sockets is done in the server's
thread, by `Server.call`, and waited for.
"""

from __future__ import annotations

import socket
import threading
import typing
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar, cast

from rawservers.core.bind import Endpoint, bind
from rawservers.core.peer import Address, Peer
from rawservers.core.protocol import Protocol
from rawservers.daemon.worker import Worker
from rawservers.server import CALL_TIME, NOT_STARTED, Server, certificates
from rawservers.settings import Config, ListenConfig, TLSConfig
from rawservers.testing.replies import Expectation
from rawservers.testing.scripted import ResetAtOnce, Unread

if TYPE_CHECKING:
    from ssl import SSLContext

E = TypeVar("E", bound=Expectation)
S_co = TypeVar("S_co", covariant=True)


class FixtureServer(Generic[E]):
    """A server for one test, on a port of its own. A context manager; left without an exception, it checks itself.

    strict: whether it does. host, port: as for `socket.bind`; port 0: a free one. tls: as for `Server`.
    `address` and the faults raise LookupError until it has been started.
    """

    service_name: ClassVar[str] = ""
    _expectations: list[E]

    def __init__(self, host: str = "127.0.0.1", *, port: int = 0, strict: bool = True, tls: TLSConfig | bool = False) -> None:
        self.strict = strict
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._family, self._requested = found[0], found[4]
        self._tls = certificates(tls, host)
        self._lock = threading.RLock()
        self._failures: list[str] = []
        self._error: BaseException | None = None  # the first that a handler has raised
        self._resets = 0  # of connections still to be accepted
        self._is_unread = False
        self._is_listening = False
        self._faults: list[ExitStack] = []
        self._address: Address | None = None
        self._running: Server | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {Endpoint(*self._address) if self._address else 'no address'}>"

    # Life

    def start(self) -> None:
        """Listen, and serve in a thread. Raises CannotStart or OSError."""
        # Bound to the same port all the time, but not listening: the port stays ours while the server is down.
        self._keeper = self._bind(self._requested)
        self._address = self._keeper.getsockname()[:2]
        self._listen = ListenConfig(self.service_name, str(Endpoint(*self.address)), tls=self._tls)
        config = Config(
            listen=(self._listen,), access_log="off", head_time=0, body_time=0, idle_time=0, telnet_idle_time=0, send_time=0
        )
        self._running = Server(config=config, services={self.service_name: self._begin})
        try:
            self._server.start()
            self._is_listening = True
        except BaseException:
            self._keeper.close()
            raise

    def stop(self) -> None:
        """Close all sockets at once, whatever connections wait for. Does nothing the second time."""
        if self._running and self._keeper.fileno() >= 0:
            for fault in self._faults:
                fault.close()
            self._server.stop()
            self._keeper.close()

    @property
    def address(self) -> Address:
        """Host and port."""
        if self._address is None:
            raise LookupError(NOT_STARTED)
        return self._address

    @property
    def ca_file(self) -> str:
        """The path of the certificate by which clients know a server with tls=True, in PEM."""
        return self._server.ca_file

    def client_context(self) -> SSLContext:
        """A context for clients of a server with tls=True, which trust no other."""
        return self._server.client_context()

    @property
    def _server(self) -> Server:
        if self._running is None:
            raise LookupError(NOT_STARTED)
        return self._running

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is None and self.strict:
            self.check()

    def check(self, *, with_missing: bool = True) -> None:
        """Fail if something has come that was not expected, has not come although it was, or has raised in a handler.

        with_missing: also for what has not come. What it has failed for once it forgets. Raises AssertionError, with a line for
        each.
        """
        __tracebackhide__ = True
        with self._lock:
            failures, self._failures = self._failures, []
            missing = [each for each in self._expectations if each.is_missing]
            self._expectations = [each for each in self._expectations if not each.is_missing]
            for each in missing if with_missing else ():
                failures.append(f"{each.describe()} was expected, but {'came too rarely' if each.used else 'never came'}")
            error, self._error = self._error, None
        if failures:
            raise AssertionError("\n".join(failures)) from error

    def clear(self) -> None:
        """Forget all expectations, and all that was recorded; end `never_read`, and resets that have not come yet."""
        with self._lock:
            self._failures.clear()
            self._error = None
            self._resets, self._is_unread = 0, False
            self._forget()

    # Faults of the whole server, each armed before the next connection is accepted.

    def reset_connections(self, count: int = 1) -> None:
        """Reset the next `count` connections as soon as they are accepted, before anything is read."""
        with self._lock:
            self._resets += count

    def never_read(self) -> ExitStack:
        """Accept connections, and never read from them; those that are open are closed.

        In effect until `clear`, or until the context manager that is returned is left.
        """
        self._set_unread(True)
        self._server.call(Worker.close_connections)
        fault = ExitStack()
        fault.callback(self._set_unread, False)
        return self._keep(fault)

    def down(self) -> ExitStack:
        """Refuse all connects; connections that are open are closed.

        In effect until the context manager that is returned is left: then the server listens on the same port again.
        """
        with ExitStack() as fault:
            self._close_listener(fault)
            return self._keep(fault.pop_all())

    def full_backlog(self) -> ExitStack:
        """Let connects time out, as those to a server whose accept queue is full; connections that are open are closed.

        In effect until the context manager that is returned is left: then the server listens on the same port again.
        """
        with ExitStack() as fault:
            self._close_listener(fault)
            full = fault.enter_context(self._bind(self.address))
            full.listen(0)  # a queue for one connection, which is this:
            fault.enter_context(socket.create_connection(self.address, CALL_TIME))
            return self._keep(fault.pop_all())

    def _set_unread(self, is_unread: bool) -> None:
        with self._lock:
            self._is_unread = is_unread

    def _keep(self, fault: ExitStack) -> ExitStack:
        """`fault`, which ends with the server at the latest."""
        self._faults.append(fault)
        return fault

    def _close_listener(self, fault: ExitStack) -> None:
        """Close the server socket and all connections, until `fault` ends. Raises RuntimeError if there is none."""

        def close(worker: Worker) -> None:
            if not self._is_listening:
                raise RuntimeError("the server does not listen already: down() or full_backlog() has not ended")
            self._is_listening = False
            worker.close_listeners()
            worker.close_connections()

        def listen(worker: Worker) -> None:
            (server,) = bind(Endpoint(*self.address))
            worker.listen(server, self._listen)
            self._is_listening = True

        self._server.call(close)
        fault.callback(self._server.call, listen)

    def _bind(self, address: tuple[object, ...]) -> socket.socket:
        """A socket that is bound to `address`, beside others that are, as long as none of them listens."""
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
        except OSError as error:
            sock.close()
            error.filename = str(Endpoint(str(address[0]), cast(int, address[1])))  # str(error) shows it
            raise
        return sock

    # In the server's thread

    def _begin(self, peer: Peer) -> Protocol:
        """The protocol of a new connection."""
        with self._lock:
            if self._is_unread:
                return Unread()
            if self._resets:
                self._resets -= 1
                return ResetAtOnce()
        return self._converse(peer)

    def _record_error(self, error: BaseException, what: str) -> str:
        """Record that `what`, code of the test, has raised; returns the message."""
        message = f"{what} raised {type(error).__name__}: {error}"
        with self._lock:
            self._failures.append(message)
            self._error = self._error or error
        return message

    # For the services

    def _converse(self, peer: Peer) -> Protocol:
        """The protocol of a new connection without a fault."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Forget expectations and records."""
        raise NotImplementedError


class ServerFactory(typing.Protocol[S_co]):
    """The type of the fixtures that start servers. Each is stopped and checked when the test ends."""

    def __call__(
        self, host: str = "127.0.0.1", *, port: int = 0, strict: bool = True, tls: TLSConfig | bool = False
    ) -> S_co: ...
