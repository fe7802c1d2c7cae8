"""One process: the loop, the listeners, and an orderly end.

To stop is to drain. What clients have already sent is still taken (the queue of a listener that nobody else will accept
from), then nothing new is. Answers under way are finished, within a limit; kept connections are told with their next answer
that it is the last; those that wait for nothing get a FIN after a second, since their clients may have a request under way
that crossed the order to stop. A second signal ends it at once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import signal

from rawservers.config import Config
from rawservers.core.connection import Connection, Service
from rawservers.core.listener import Endpoint, Listener, bind
from rawservers.core.loop import Loop
from rawservers.daemon.access_log import AccessLog
from rawservers.services import SERVICES

log = logging.getLogger("rawservers")

GRACE = 1.0  # seconds that an idle connection is left open after the order to stop


class CannotStart(Exception):
    """What could not be done, and why, in one line."""


def serve(config: Config) -> None:
    """Serve as `config` says until SIGTERM or SIGINT, in this process and its main thread. Raises CannotStart.

    Where it listens is logged at level INFO by the logger "rawservers".
    """
    Worker(config).run()


class Worker:
    """Binds all that `config` names at once, or raises CannotStart and leaves nothing behind."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loop = Loop()
        self._stopped = 0.0  # when the order to stop came; 0.0: it has not
        self.listeners: list[Listener] = []
        try:
            self._log = AccessLog(config.access_log, config.log_format, self._loop.clock)
        except OSError as error:
            raise CannotStart(f"cannot write the access log {config.access_log}: {reason(error)}") from error
        names = {name for name, _ in config.listen}
        services = {name: SERVICES[name](config, self._loop.clock, self._log.answered) for name in names}
        for name, address in config.listen:
            self._bind(services[name], address)

    def _bind(self, service: Service, address: str) -> None:
        try:
            sockets = bind(Endpoint.parse(address), self._config.send_time)
        except (OSError, ValueError) as error:
            self._let_go()
            raise CannotStart(f"cannot listen on {address}: {reason(error)}") from error
        self.listeners += [Listener(sock, service, self._loop) for sock in sockets]

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        raise_descriptor_limit()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self.stop)
        for listener in self.listeners:
            listener.open()
            log.info("%s listening on %s", listener.service.name, listener.service.banner(listener.address))
        self._loop.at_tick.append(self._tick)
        self._loop.at_wake.append(self._log.flush)
        self._loop.run()
        self._let_go()

    def stop(self) -> None:
        """Come to an orderly end; when called again, to an end."""
        if self._stopped:
            return self._loop.stop()
        self._stopped = self._loop.clock.now
        for listener in self.listeners:
            listener.close()
        for connection in self._connections():
            self._loop.guard(connection, connection.drain)
        self._loop.at_wake.append(self._stop_when_done)

    def _tick(self) -> None:
        for listener in self.listeners:
            listener.tick()
        if not self._stopped:
            return
        elapsed = self._loop.clock.now - self._stopped
        if 0 < self._config.drain_time <= elapsed:
            self._loop.stop()
        elif elapsed >= GRACE:
            for connection in self._connections():
                if connection.idle:
                    self._loop.guard(connection, connection.hang_up)

    def _stop_when_done(self) -> None:
        if not self._connections():
            self._loop.stop()

    def _connections(self) -> list[Connection]:
        return [connection for listener in self.listeners for connection in listener.connections]

    def _let_go(self) -> None:
        for connection in self._connections():
            self._loop.guard(connection, connection.close)
        for listener in self.listeners:
            listener.close()
        self._log.close()
        self._loop.close()


def raise_descriptor_limit() -> None:
    """Each connection takes a descriptor, and the usual limit of 1024 is there for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reason(error: Exception) -> str:
    """Why something was refused, with what would help where that is not plain."""
    if not isinstance(error, OSError):
        return str(error)
    why = (error.strerror or str(error)).lower()
    if error.errno == errno.EACCES and error.filename is None:  # from bind, which knows no file
        why += (
            " (a port below 1024 is root's: start as root, through a systemd socket, or after"
            " sysctl net.ipv4.ip_unprivileged_port_start=0)"
        )
    return why
