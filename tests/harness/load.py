"""Clients that ask one request after the other while something happens to the server, and keep honest accounts."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from tests.harness.http_client import request, take_answer
from tests.harness.waiting import DEADLINE, until

PAUSE = 0.002  # seconds between an answer and a client's next request: the processors are for the server


class Failure(NamedTuple):
    """A request without its answer.

    step: "connect" or "answer"; alive, ended: when the connection was begun, or was last asked for what it brought, and when
    it was given up, on the monotonic clock.
    """

    step: str
    kept: bool
    alive: float
    ended: float
    why: str


class Load:
    """So many clients that keep their connections, and so many with a connection for each request.

    Every request is counted once: as answered, whole and with `content` as its body, or as one of the failures. begin: called
    by the thread of each client before all else.
    """

    def __init__(
        self,
        address: tuple[str, int],
        content: bytes,
        path: str = "/f",
        kept: int = 2,
        single: int = 2,
        begin: Callable[[], object] = lambda: None,
    ) -> None:
        self.failures: list[Failure] = []
        self._address = address
        self._content = content
        self._path = path
        self._begin = begin
        self._answered = [0] * (kept + single)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n, n < kept)) for n in range(kept + single)]

    @property
    def answered(self) -> int:
        return sum(self._answered)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, answers: int = 5) -> None:
        """Wait until each client has got so many more."""
        before = list(self._answered)
        until(lambda: all(now >= then + answers for now, then in zip(self._answered, before, strict=True)), "answers for each")

    def _ask(self, number: int, keep: bool) -> None:
        sock: socket.socket | None = None
        alive = 0.0
        self._begin()
        while not self._over.is_set():
            stays = False
            try:
                step = "connect"
                alive = alive if sock else time.monotonic()
                sock = sock or socket.create_connection(self._address, timeout=DEADLINE)
                step = "answer"
                asked = time.monotonic()
                sock.sendall(request(self._path, keep))
                status, stays, body = take_answer(sock)
                if (status, body) != (200, self._content):
                    raise ValueError(f"{status} {body[:100]!r}")
                self._answered[number] += 1
                alive = asked  # later, its server may have been gone when we came to read the answer
            except (OSError, ValueError) as error:
                self.failures.append(Failure(step, keep, alive, time.monotonic(), repr(error)))
            if sock and not stays:
                sock.close()
                sock = None
            self._over.wait(PAUSE)
        if sock:
            sock.close()
