"""A server for programs and tests: real sockets, served by a thread, without signals.

    with Server("site/", telnet="127.0.0.1:0") as server:
        requests.get(server.http_url("/index.html"))
        host, port = server.telnet_address

The sockets listen once `start` returns, so that a client need not wait. Each server has an event loop of its own, and all its
handlers run in that loop's thread. There may be any number of servers in a process, and any thread may start and stop them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from os import PathLike, fspath
from typing import Any, TypeAlias, TypeVar

from rawservers.core.peer import Address, peer_address
from rawservers.daemon.scoreboard import Scoreboard
from rawservers.daemon.startup import Resources, check_names
from rawservers.daemon.worker import Worker
from rawservers.services import SERVICES, Service, Start
from rawservers.settings import Config, ListenConfig, SiteConfig

# An address to connect to instead of one that means all interfaces.
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing is bound here

NOT_STARTED = "the server was not started"
CALL_TIME = 10.0  # seconds that a call into the server's thread may wait

StrPath: TypeAlias = "str | PathLike[str]"
Result = TypeVar("Result")


class Server:
    """One worker in a thread. A context manager, which starts and stops it.

    root: the directory to serve, by default the welcome page. http, telnet: the address of each service as text, HOST:PORT,
    [IPV6]:PORT, PORT (on 127.0.0.1), :PORT (all interfaces) or unix:PATH; port 0: a free one; None: not served. config: all
    other settings. Its `sites` are in place of root, and its `listen`, unless it is None, in place of http and telnet; its
    `access_log` is standard output by default, and `user` is ignored.
    services: for this server alone, the functions that start a conversation, as those of `add_service`, by the names of
    services in `listen`, also in place of "http" and "telnet".

    Raises ValueError if an argument contradicts `config`, if that asks for more than one worker, or if a directory or service
    does not exist.
    """

    def __init__(
        self,
        root: StrPath | None = None,
        *,
        http: str | None = "127.0.0.1:0",
        telnet: str | None = None,
        config: Config | None = None,
        services: Mapping[str, Start] = {},
    ) -> None:
        if config is None:
            config = Config(sites=(SiteConfig() if root is None else SiteConfig(fspath(root)),), access_log="off")
        elif root is not None:
            raise ValueError("root: the sites of the config have it")
        if config.listen is None:
            listen = {"http": http, "telnet": telnet}
            config = replace(
                config, listen=tuple(ListenConfig(name, each) for name, each in listen.items() if each is not None)
            )
        elif (http, telnet) != ("127.0.0.1:0", None):
            raise ValueError("http, telnet: the config has the addresses, in listen")
        if config.workers != 1:
            raise ValueError(f"workers must be 1, not {config.workers}: a Server is one thread")
        self._config = replace(config, user="")
        self._table = SERVICES | {name: replace_start(SERVICES.get(name), start) for name, start in services.items()}
        check_names(config, self._table)
        self._lock = threading.Lock()  # one start or stop at a time
        self._thread: threading.Thread | None = None
        self._worker: Worker | None = None  # of the last start
        self._addresses: dict[str, list[Address | str]] = {}

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and serve in a thread of its own. Does nothing if the server runs already.

        Raises CannotStart: a message of one line says what failed, and why.
        """
        with self._lock:
            if self._thread:
                return
            with contextlib.ExitStack() as failure:
                resources = Resources.prepare(self._config, raise_limit=False, table=self._table)
                failure.callback(resources.close)
                scoreboard = Scoreboard()
                failure.callback(scoreboard.close)
                self._worker = worker = Worker(resources, scoreboard, scoreboard.allocate())
                self._addresses = {}
                for server, listen in resources.servers.items():
                    self._addresses.setdefault(listen.service, []).append(connectable(server.sock.getsockname()))
                args = worker, resources, scoreboard
                thread = threading.Thread(target=self._run, args=args, name="rawservers", daemon=True)
                thread.start()
                self._thread = thread
                failure.pop_all()

    def stop(self) -> None:
        """Close all sockets, and wait for the thread to end. Responses under way are cut off. Does nothing if it is stopped.

        Called by a handler, which runs in that thread, it does not wait.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread and self._worker:
                loop = self._worker.loop
                loop.call_soon_threadsafe(loop, loop.stop)
        if thread and thread is not threading.current_thread():
            thread.join()

    @staticmethod
    def _run(worker: Worker, resources: Resources, scoreboard: Scoreboard) -> None:
        try:
            worker.run()
        finally:
            resources.access_log = -1  # the worker has closed it
            resources.close()
            scoreboard.close()

    def call(self, function: Callable[[Worker], Result]) -> Result:
        """The result of `function`, which is called in the server's thread with its worker, while no handler runs.

        Raises what it raises, TimeoutError if a handler blocks that thread, or the server is stopped meanwhile, and LookupError
        if it was not started.
        """
        worker = self._worker
        if worker is None:
            raise LookupError(NOT_STARTED)
        if threading.current_thread() is self._thread:
            return function(worker)
        future: Future[Result] = Future()

        def call() -> None:
            try:
                future.set_result(function(worker))
            except BaseException as error:
                future.set_exception(error)

        worker.loop.call_soon_threadsafe(worker.loop, call)
        return future.result(CALL_TIME)

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

        Raises ValueError if it does not, and LookupError if HTTP is not served over TCP.
        """
        if not path.startswith("/"):
            raise ValueError(f"the path must begin with a slash: {path!r}")
        host, port = self.http_address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"

    def tcp_address(self, service: str) -> Address:
        """Host and port of the service of this name. Raises LookupError if it is not served over TCP."""
        for address in self._addresses.get(service, ()):
            if not isinstance(address, str):
                return address
        raise LookupError(f"{service} is not served over TCP" if self._addresses else NOT_STARTED)


def replace_start(service: Service | None, start: Start) -> Service:
    """The row of a service that begins its conversations by `start`."""
    return (service or Service(lambda *_: start, "", {}))._replace(prepare=lambda *_: start)


def connectable(name: Any) -> Address | str:
    """The address to connect to a socket with this name (socket.getsockname)."""
    if isinstance(name, str):
        return name
    host, port = peer_address(name)
    return LOOPBACK.get(host, host), port
