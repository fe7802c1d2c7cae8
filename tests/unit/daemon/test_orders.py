"""Orders from the supervisor to a worker: what a worker does when nobody gives them any more."""

from __future__ import annotations

import select
import socket
from types import SimpleNamespace

from rawservers.daemon import orders


class Silent:
    """A worker that notes what it is told."""

    def __init__(self) -> None:
        self.loop = SimpleNamespace(stop=lambda: self.told.append("stop at once"))
        self.told: list[str] = []


def test_a_supervisor_that_has_gone_without_listening() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    silent = Silent()
    reader = orders.CommandReader(silent, theirs)  # type: ignore[arg-type]
    theirs.send(orders.READY)
    ours.close()  # with a word unread, which the other end hears as ECONNRESET
    with theirs:
        reader.ready(select.EPOLLIN)
    assert silent.told == ["stop at once"]
