"""Transports: what a connection needs of its socket, chosen by the listener."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rawservers.core.protocol import Chunk, Closing, FileSlice, OpenFile, ResponseEnd, Urgent
from rawservers.core.transport import Transport
from tests.harness.core import Recording, Running
from tests.harness.sockets import receive_all, receive_until

CALLS: Counter[str] = Counter()


def counted(name: str) -> Callable[..., Any]:
    def call(self: Transport, *arguments: Any) -> Any:
        CALLS[name] += 1
        return getattr(Transport, name)(self, *arguments)

    return call


Counting = type("Counting", (Transport,), {name: counted(name) for name in ("recv", "send", "send_file", "shutdown", "close")})


def test_a_transport_that_counts_calls(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))

    class Serving(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            file = OpenFile(os.open(tmp_path / "file", os.O_RDONLY), os.close)
            self.closing = Closing.CLOSE
            return (b"head", FileSlice(file, 0, 100_000), ResponseEnd("record"))

    CALLS.clear()
    with Running(Serving, transport=Counting) as running, running.connect() as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b"head" + bytes(100_000)
    assert CALLS["recv"] in {1, 2}
    assert CALLS["send"] == 1
    assert CALLS["send_file"] >= 1
    assert CALLS["shutdown"] == 1
    assert CALLS["close"] == 1


class Narrow(Transport):
    """Takes and gives a byte at a time, and each second time it would wait."""

    __slots__ = ("calls",)

    def _turn(self) -> None:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls % 2:
            raise BlockingIOError

    def recv(self, size: int, flags: int = 0) -> bytes:
        self._turn()
        return super().recv(1, flags)

    def send(self, data: Any, flags: int = 0) -> int:  # type: ignore[override]
        self._turn()
        return super().send(bytes(data[:1]), flags)

    def send_file(self, fd: int, offset: int, count: int) -> int:
        self._turn()
        return super().send_file(fd, offset, 1)


def test_a_transport_that_takes_a_byte_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")

    class Serving(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            file = OpenFile(os.open(tmp_path / "file", os.O_RDONLY), os.close)
            return (
                b"<",
                b"",
                b"head",
                FileSlice(file, 2, 5),
                ResponseEnd(data),
                b"tail",
                Urgent(b"!"),
                b">",
                ResponseEnd(data),
            )

    with Running(Serving, transport=Narrow) as running, running.connect() as sock:
        for byte in (b"a", b"b"):
            sock.sendall(byte)
            assert receive_until(sock, b">").replace(b"!", b"") == b"<head23456tail>"
    assert running.reports == [(b"a", 10), (b"a", 6), (b"b", 10), (b"b", 6)]


def test_a_plain_transport_is_the_socket_itself() -> None:
    """No method of Python stands between: what is called most is the C socket's own."""
    assert Transport.recv is Transport.__base__.recv  # type: ignore[union-attr]
    assert Transport.send is Transport.__base__.send  # type: ignore[union-attr]
