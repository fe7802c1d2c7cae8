"""Commands from the supervisor to a worker, and the worker's replies: one packet each, on a SOCK_SEQPACKET socket pair."""

from __future__ import annotations

import contextlib
import select
import socket

from rawservers.daemon.transitions import EventKind, WorkerPhase
from rawservers.daemon.worker import Worker

RETIRE = b"retire"  # stop accepting, and exit with the last connection
STOP = b"stop"  # stop accepting, finish responses, and exit within drain_time
STOP_NOW = b"stop now"  # close all connections, and exit
REOPEN = b"reopen"  # write the access log to the descriptor that comes with this packet
COMMANDS = {WorkerPhase.RETIRING: RETIRE, WorkerPhase.STOPPING: STOP, WorkerPhase.STOPPING_NOW: STOP_NOW}

READY = b"ready"  # accepting
RETIRED = b"retired"  # no longer accepting, after RETIRE
REPLIES = {READY: EventKind.READY, RETIRED: EventKind.RETIRED}

MAX_PACKET = 16  # bytes
READABLE = select.EPOLLIN  # the events that both ends wait for


class CommandReader:
    """Event handler of a worker: executes the supervisor's commands. If the supervisor has exited, the worker stops at once."""

    service = ""

    def __init__(self, worker: Worker, sock: socket.socket) -> None:
        self._worker = worker
        self._sock = sock

    def ready(self, events: int) -> None:
        try:
            command, fds, _, _ = socket.recv_fds(self._sock, MAX_PACKET, 1, socket.MSG_DONTWAIT)
        except ConnectionResetError:  # the supervisor has exited with replies unread
            command = b""
        if command == RETIRE:
            self._worker.retire()
            with contextlib.suppress(OSError):  # the supervisor has exited, which the next read reports
                self._sock.send(RETIRED)
        elif command == STOP:
            self._worker.finish()
        elif command == REOPEN:
            if fds:  # none if this process is out of descriptors
                self._worker.reopen(fds[0])
        else:
            self._worker.loop.stop()

    def failed(self) -> None:
        pass  # keep reading commands
