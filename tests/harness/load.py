"""Clients that ask one request after the other while something happens to the server, and keep honest accounts."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Self

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


class Clients:
    """Threads that each call one of `visits`, which goes on until `_over` is set, and count in `_done` what they got."""

    def __init__(self, visits: Sequence[Callable[[], None]]) -> None:
        self._done = [0] * len(visits)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=visit) for visit in visits]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, more: int = 5) -> None:
        """Wait until each of them has got so many more."""
        before = list(self._done)
        until(lambda: all(now >= then + more for now, then in zip(self._done, before, strict=True)), "answers for each")


class Load(Clients):
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
        super().__init__([partial(self._ask, number, number < kept) for number in range(kept + single)])

    @property
    def answered(self) -> int:
        return sum(self._done)

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
                self._done[number] += 1
                alive = asked  # later, its server may have been gone when we came to read the answer
            except (OSError, ValueError) as error:
                self.failures.append(Failure(step, keep, alive, time.monotonic(), repr(error)))
            if sock and not stays:
                sock.close()
                sock = None
            self._over.wait(PAUSE)
        if sock:
            sock.close()
