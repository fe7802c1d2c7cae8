"""A server for programs and tests: real sockets, served by a thread, without signals.

    with Server("site/", telnet="127.0.0.1:0") as server:
        requests.get(server.http_url("/index.html"))
        host, port = server.telnet_address

The sockets listen once `start` returns, so that a client need not wait. Each server has an event loop of its own, and all its
handlers run in that loop's thread. There may be any number of servers in a process, and any thread may start and stop them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rawservers.config.checks import check_directory
from rawservers.core.peer import Address, peer_address
from rawservers.core.record import replace
from rawservers.daemon.scoreboard import Scoreboard
from rawservers.daemon.startup import CannotStart, Resources, check_names, errors_as
from rawservers.daemon.worker import Worker
from rawservers.services import NAME, SERVICES, Service, Start
from rawservers.settings import WELCOME, Config, ListenConfig, SiteConfig, TLSConfig

if TYPE_CHECKING:
    from ssl import SSLContext

log = logging.getLogger("rawservers")

# An address to connect to instead of one that means all interfaces.
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing is bound here

NOT_STARTED = "the server was not started"
NOT_RUNNING = "the server is not running"

RUNNING: set[Server] = set()  # in this process

CALL_TIME = 10.0  # seconds that a call into the server's thread may wait

StrPath: TypeAlias = "str | PathLike[str]"
Result = TypeVar("Result")


class Server:
    """One worker in a thread. A context manager, which starts and stops it.

    root: the directory to serve, by default the welcome page. http, telnet: the address of each service as text, HOST:PORT,
    [IPV6]:PORT, PORT (on 127.0.0.1), :PORT (all interfaces) or unix:PATH; port 0: a free one; None: not served. config: all
    other settings. Its `sites` are in place of root, and its `listen`, unless it is None, in place of http and telnet; its
    `access_log` is standard output by default, and `user` is ignored.
    tls: the certificate of both; True: one of an authority that is made for this process, which takes the package trustme (the
    extra `tls`). `client_context` is for clients that trust it.
    services: for this server alone, the functions that start a conversation, as those of `add_service`, by the names of
    services in `listen`, also in place of "http" and "telnet".

    A fork leaves the server to the parent: in the child it is not running, and may be started.

    Raises ValueError, which names the argument, if one is wrong or contradicts `config`, if that asks for more than one worker,
    or if a directory or service does not exist.
    """

    def __init__(
        self,
        root: StrPath | None = None,
        *,
        http: str | None = "127.0.0.1:0",
        telnet: str | None = None,
        tls: TLSConfig | bool = False,
        config: Config | None = None,
        services: Mapping[str, Start] = {},
    ) -> None:
        config = make_config(config, root, http, telnet, certificates(tls))
        for name, start in services.items():
            if not callable(start):
                raise ValueError(f"services: expected names and functions, not {name!r}: {start!r:.80}")
            if not re.fullmatch(NAME, name):
                raise ValueError(f"service name is malformed: {name!r}")
        self._config = config
        self._table = SERVICES | {name: replace_start(SERVICES.get(name), start) for name, start in services.items()}
        check_names(config, self._table)
        self._lock = threading.Lock()  # one start or stop at a time
        self._is_running = False
        self._thread: threading.Thread | None = None  # the last one
        self._worker: Worker
        self._resources: Resources
        self._calls: set[Future[Any]] = set()  # that have no result yet
        self._addresses: dict[str, list[Address | str]] = {}
        self._names: dict[Address | str, str] = {}  # by address: http, https, ...

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and serve in a thread of its own. Does nothing if the server runs already.

        Raises CannotStart: a message of one line says what failed, and why.
        """
        if not self._is_running:
            self._join()  # a server that a handler has stopped
        with self._lock:
            if self._is_running:
                return
            with contextlib.ExitStack() as failure, errors_as(CannotStart, "cannot start: "):
                self._resources = resources = Resources.prepare(self._config, raise_limit=False, table=self._table)
                failure.callback(resources.close)
                scoreboard = Scoreboard()
                failure.callback(scoreboard.close)
                self._worker = worker = Worker(resources, scoreboard, scoreboard.allocate())
                failure.callback(worker.loop.close)
                self._addresses, self._names = {}, {}
                for server, listen in resources.servers.items():
                    address = connectable(server.sock.getsockname())
                    self._addresses.setdefault(listen.service, []).append(address)
                    self._names[address] = listen.name
                args = worker, resources, scoreboard
                self._thread = thread = threading.Thread(target=self._run, args=args, name="rawservers", daemon=True)
                failure.callback(self._ended)
                self._is_running = True
                RUNNING.add(self)
                try:
                    thread.start()
                except RuntimeError as error:
                    self._thread = None
                    raise CannotStart(f"cannot start: {error}") from error
                failure.pop_all()

    def stop(self) -> None:
        """Close all sockets, and wait for the thread to end. Responses under way are cut off. Does nothing if it is stopped.

        Called by a handler, which runs in that thread, it does not wait.
        """
        with self._lock:
            if self._is_running:
                self._is_running = False
                loop = self._worker.loop
                loop.call_soon_threadsafe(loop, loop.stop)
        self._join()

    def _join(self) -> None:
        """Wait for the thread to end, unless it is this one."""
        if (thread := self._thread) and thread is not threading.current_thread():
            thread.join()

    def _run(self, worker: Worker, resources: Resources, scoreboard: Scoreboard) -> None:
        try:
            worker.run()
        except BaseException:  # by a handler: SystemExit, for example
            log.exception("the server has ended, by an unexpected error")
        finally:
            resources.access_log = -1  # the worker has closed it
            resources.close()
            scoreboard.close()
            if worker is self._worker:  # not started again, by a handler
                self._ended()

    def _ended(self) -> None:
        self._is_running = False
        RUNNING.discard(self)
        for future in list(self._calls):  # after `_is_running`, see `call`
            future.set_exception(RuntimeError(NOT_RUNNING))

    def call(self, function: Callable[[Worker], Result]) -> Result:
        """The result of `function`, which is called in the server's thread with its worker, while no handler runs.

        Raises what it raises, TimeoutError if a handler blocks that thread, and RuntimeError if the server is not running, or
        is stopped meanwhile.
        """
        future: Future[Result] = Future()
        self._calls.add(future)
        try:
            if not self._is_running:  # after the `add`: else the end of the thread may miss this call
                raise RuntimeError(NOT_RUNNING)
            worker = self._worker
            if threading.current_thread() is self._thread:
                return function(worker)

            def call() -> None:
                try:
                    future.set_result(function(worker))
                except BaseException as error:
                    future.set_exception(error)
                finally:
                    self._calls.discard(future)

            worker.loop.call_soon_threadsafe(worker.loop, call)
            return future.result(CALL_TIME)
        finally:
            self._calls.discard(future)

    def _close_in_child(self) -> None:
        """In a forked process, which has no such thread: close what would keep ports and connections of the parent open."""
        self._lock = threading.Lock()
        self._is_running, self._thread = False, None
        self._calls.clear()
        self._worker.close_in_child()
        self._resources.close(in_worker=True)

    # Addresses

    @property
    def addresses(self) -> dict[str, list[Address | str]]:
        """The addresses to connect to, by service, in the order of the configuration; those of the last start.

        Each is a host and a port, or the path of a unix socket.
        """
        return {service: list(addresses) for service, addresses in self._addresses.items()}

    @property
    def http_address(self) -> Address:
        """Host and port of HTTP. Raises LookupError if it is not served over TCP."""
        return self.tcp_address("http")

    @property
    def telnet_address(self) -> Address:
        """Host and port of Telnet. Raises LookupError if it is not served over TCP."""
        return self.tcp_address("telnet")

    def http_url(self, path: str = "/") -> str:
        """The URL of `path`, which begins with a slash.

        Raises ValueError if it does not, and LookupError if HTTP is not served over TCP. The scheme is https if the listener
        of `http_address` has TLS.
        """
        if not path.startswith("/"):
            raise ValueError(f"the path must begin with a slash: {path!r}")
        host, port = self.http_address
        return f"{self._names[host, port]}://{f'[{host}]' if ':' in host else host}:{port}{path}"

    @property
    def ca_file(self) -> str:
        """The path of the certificate, in PEM, by which clients know a server with tls=True."""
        from rawservers.daemon.self_signed import make_trusted  # here, since it is seldom used

        return make_trusted().ca_file

    def client_context(self) -> SSLContext:
        """A context for clients of a server with tls=True. Raises ValueError if there is no trustme."""
        return client_context(self.ca_file)

    def tcp_address(self, service: str) -> Address:
        """Host and port of the service of this name. Raises LookupError if it is not served over TCP."""
        for address in self._addresses.get(service, ()):
            if not isinstance(address, str):
                return address
        raise LookupError(f"{service} is not served over TCP" if self._addresses else NOT_STARTED)


def close_in_child() -> None:
    """In a forked process: leave all servers to the parent."""
    for server in RUNNING:
        with contextlib.suppress(OSError, RuntimeError):  # it was being changed
            server._close_in_child()
    RUNNING.clear()


os.register_at_fork(after_in_child=close_in_child)


def certificates(tls: TLSConfig | bool, host: str = "") -> tuple[TLSConfig, ...]:
    """The certificates of an argument `tls`; host: another name for one that is made. Raises ValueError."""
    if not isinstance(tls, TLSConfig | bool):
        raise ValueError(f"tls: expected True or a TLSConfig, not {tls!r:.80}")
    if tls is not True:
        return (tls,) if tls else ()
    from rawservers.daemon.self_signed import make_trusted

    return (make_trusted(host).tls,)


def client_context(ca_file: str) -> SSLContext:
    """For clients that trust this authority, and no other."""
    import ssl  # here, since it loads OpenSSL

    return ssl.create_default_context(cafile=ca_file)


def make_config(
    config: Config | None, root: StrPath | None, http: str | None, telnet: str | None, tls: tuple[TLSConfig, ...] = ()
) -> Config:
    """The Config of these arguments of a Server. Raises ValueError, which names the wrong one."""
    if config is None:
        path = fspath(root) if isinstance(root, PathLike) else root
        if not isinstance(path, str | None):
            raise ValueError(f"root: expected a path as text, not {path!r:.80}")
        if path not in {None, WELCOME}:
            with errors_as(ValueError, "root: "):
                check_directory(path)
        config = Config(sites=(SiteConfig() if path is None else SiteConfig(path),), access_log="off")
    elif not isinstance(config, Config):
        raise ValueError(f"config: expected a Config, not {config!r:.80}")
    elif root is not None:
        raise ValueError("root: the sites of the config have it")
    if config.listen is None:
        given = {"http": http, "telnet": telnet}
        listen = tuple(make_listener(name, each, tls) for name, each in given.items() if each is not None)
        config = replace(config, listen=listen)
    elif (http, telnet, tls) != ("127.0.0.1:0", None, ()):
        raise ValueError("http, telnet, tls: the config has the listeners, in listen")
    if config.workers != 1:
        raise ValueError(f"workers must be 1, not {config.workers}: a Server is one thread")
    return replace(config, user="")


def make_listener(service: str, address: str, tls: tuple[TLSConfig, ...]) -> ListenConfig:
    """Raises ValueError, which names the service."""
    try:
        return ListenConfig(service, address, tls=tls)
    except ValueError as error:
        raise ValueError(f"{error}".replace("address", service, 1)) from error


def replace_start(service: Service | None, start: Start) -> Service:
    """The row of a service that begins its conversations by `start`."""
    return replace(service or Service(lambda *_: start, "", {}), prepare=lambda *_: start)


def connectable(name: Any) -> Address | str:
    """The address to connect to a socket with this name (socket.getsockname)."""
    if isinstance(name, str):
        return name
    host, port = peer_address(name)
    return LOOPBACK.get(host, host), port
