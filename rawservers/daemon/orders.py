"""What a supervisor orders, and what a worker tells it: packets on a socket pair."""

from __future__ import annotations

import contextlib
import select
import socket

from rawservers.daemon.worker import Worker

RETIRE, STOP, HURRY, REOPEN = b"retire", b"stop", b"hurry", b"reopen"  # REOPEN comes with a descriptor of the new access log
READY, RETIRED = b"ready", b"retired"
WORDS = select.EPOLLIN  # what either end watches for


class Orders:
    """An event handler of a worker's loop: the supervisor's orders. Without a supervisor there is nothing left to do."""

    service = ""

    def __init__(self, worker: Worker, sock: socket.socket) -> None:
        self._worker = worker
        self._sock = sock

    def ready(self, events: int) -> None:
        try:
            order, fds, _, _ = socket.recv_fds(self._sock, 16, 1, socket.MSG_DONTWAIT)
        except ConnectionResetError:  # it has gone without hearing all that it was told
            order = b""
        if order == RETIRE:
            self._worker.retire()
            with contextlib.suppress(OSError):  # it has gone: that is the next news
                self._sock.send(RETIRED)
        elif order == STOP:
            self._worker.finish()
        elif order == REOPEN:
            if fds:  # else there was no descriptor for it here
                self._worker.reopen(fds[0])
        else:
            self._worker.loop.stop()

    def failed(self) -> None:
        pass  # the next order is another matter
