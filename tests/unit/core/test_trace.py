"""The trace: why a connection is closed, and what of its input is not shown."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from rawservers.core.bind import Endpoint, bind
from rawservers.core.protocol import Chunk, Closing, Deadline, Protocol, Urgent
from rawservers.core.trace import Trace, TracedConnection, TracedServerSocket, TracedTransport, sockaddr_text
from rawservers.core.transfer import SMALL_SIZE
from tests.harness.core import Recording, Running
from tests.harness.sockets import receive_all, receive_until
from tests.harness.waiting import until


def shortened(lines: Sequence[bytes]) -> list[str]:
    """Lines without time, process and descriptor."""
    return [re.sub("  +", " ", line.decode()[30:].rstrip()) for line in lines]


class Traced(Running):
    """A running service with a trace. lines: of it, without times and processes."""

    def __init__(self, protocol: type[Protocol], **options: float) -> None:
        self.written: list[bytes] = []
        transport = partial(TracedTransport, Trace(self.written.append), "test")
        super().__init__(protocol, transport, connection=TracedConnection, **options)  # type: ignore[arg-type]

    @property
    def lines(self) -> list[str]:
        return shortened(tuple(self.written))

    def awaits(self, event: str) -> str:
        """Wait for the event; its line."""
        until(lambda: any(line.startswith(event) for line in self.lines), event)
        return next(line for line in self.lines if line.startswith(event))

    def closed(self) -> str:
        """Why the connection was closed."""
        return self.awaits("close").removeprefix("close ").partition(";")[0]

    def do(self, call: Callable[[TracedConnection], object]) -> None:
        """Have the loop do this with the only connection."""
        until(lambda: len(self.connections) == 1 and bool(self.lines), "it is accepted")
        (connection,) = self.connections
        assert isinstance(connection, TracedConnection)
        self.loop.call_soon_threadsafe(connection, lambda: call(connection))


class Bad(Recording):
    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        raise ValueError


class Done(Recording):
    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        self.closing = Closing.CLOSE
        return (b"bye",)


@pytest.fixture
def recording() -> Iterator[Traced]:
    with Traced(Recording) as running:
        yield running


def test_the_peers_fin(recording: Traced) -> None:
    with recording.connect() as sock:
        sock.sendall(b"x\x1b[1m")
        assert receive_until(sock, b".") == b"."
    assert recording.closed() == "the peer's FIN"
    lines = [line for line in recording.lines if "EAGAIN" not in line]
    assert re.fullmatch(r"accept 127\.0\.0\.1:\d+ -> 127\.0\.0\.1:\d+ \(test\)", lines[0])
    assert lines[1:4] == [r"receive 5 bytes: x\x1b[1m", "send 1 of 1 bytes: .", "FIN received"]
    assert re.fullmatch(r"close the peer's FIN; after \d\.\d{3} s, 5 bytes received, 1 sent", lines[4])


def test_done() -> None:
    with Traced(Done) as running, running.connect() as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b"bye"
        assert running.closed() == "done"
        assert running.awaits("send") == "send 3 of 3 bytes, more follows: bye"


def test_rejected() -> None:
    with Traced(Recording, max_per_address=1) as running, running.connect(), running.connect() as sock:
        assert receive_all(sock) == b""
        assert running.closed() == "too many connections from its address"


def test_evicted(recording: Traced) -> None:
    with recording.connect() as sock:
        recording.do(lambda connection: connection.evict())
        assert receive_all(sock) == b""
        assert recording.closed() == "evicted for a new connection"


def test_stopping(recording: Traced) -> None:
    def drain(connection: TracedConnection) -> None:
        connection.drain()
        connection.hang_up()

    with recording.connect() as sock:
        recording.do(drain)
        assert receive_all(sock) == b""
    assert recording.closed() == "the server is stopping"


def test_stopped(recording: Traced) -> None:
    with recording.connect():
        recording.do(lambda connection: connection.close())
        assert recording.closed() == "the server has stopped"


def test_an_error_in_the_service() -> None:
    with Traced(Bad) as running, running.connect() as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b""
        assert running.closed() == "error in the service"


@pytest.mark.parametrize("deadline", [Deadline.HEAD, Deadline.IDLE])
def test_a_deadline(deadline: Deadline) -> None:
    class Waiting(Recording):
        waiting = deadline

    with Traced(Waiting, **{deadline.name.lower(): 0.05}) as running, running.connect() as sock:
        assert receive_all(sock) == b""
        sock.close()
        assert running.closed() == f"{deadline.name} deadline"


def test_a_deadline_that_does_not_close() -> None:
    class Asking(Recording):
        def expire(self) -> Sequence[Chunk]:
            return (b"?",)

    with Traced(Asking, idle=0.05) as running:
        with running.connect() as sock:
            assert receive_until(sock, b"?") == b"?"
        assert running.closed() == "the peer's FIN"


def test_a_rst(recording: Traced) -> None:
    with recording.connect() as sock:
        sock.sendall(b"x")
        assert receive_until(sock, b".")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert recording.closed() == "error: connection reset by peer"
    assert recording.awaits("RST") == "RST received receive: connection reset by peer"


def test_a_rst_while_it_is_not_read() -> None:
    class Resting(Recording):
        waiting = Deadline.NONE

    with Traced(Resting) as running:
        with running.connect() as sock:
            running.awaits("accept")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert running.closed() == "error: connection reset by peer"
        assert running.awaits("RST") == "RST received poll: EPOLLHUP"


def test_unread_input_makes_a_rst() -> None:
    class Resting(Recording):
        waiting = Deadline.NONE

    with Traced(Resting) as running, running.connect() as sock:
        sock.sendall(b"x")
        running.do(lambda connection: until(connection.has_unread, "it has arrived") or connection.close())
        assert running.awaits("RST") == "RST sent input is unread"
        assert running.closed() == "the server has stopped"
        with pytest.raises(ConnectionResetError):
            receive_all(sock)


# What is not shown


@pytest.mark.parametrize(("name", "value", "note"), [("hidden", True, "hidden"), ("waiting", Deadline.BODY, "of a body")])
def test_what_is_not_shown(name: str, value: object, note: str) -> None:
    with Traced(type("Secretive", (Recording,), {name: value})) as running, running.connect() as sock:
        sock.sendall(b"secret")
        receive_until(sock, b".")
        assert running.awaits("receive 6") == f"receive 6 bytes ({note})"


def test_what_is_discarded_is_not_shown() -> None:
    with Traced(Recording) as running, running.connect() as sock:
        running.do(lambda connection: connection.hang_up())
        running.awaits("FIN sent")
        sock.sendall(b"secret")
        assert running.awaits("receive 6") == "receive 6 bytes (discarded)"


def test_the_rest_of_a_burst_is_not_shown(recording: Traced) -> None:
    """It was received before the protocol could hide it."""
    burst = b"name\r\n".ljust(SMALL_SIZE, b" ") + b"secret\r\n"
    with recording.connect() as sock:
        sock.sendall(burst)
        receive_until(sock, b".")
        assert "secret" not in b"".join(recording.written).decode()
        assert f"receive {SMALL_SIZE} bytes: name" in recording.lines
        assert "receive 8 bytes (the rest of it)" in recording.lines


def test_urgent_bytes() -> None:
    class Urging(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return (Urgent(b"!"),)

    with Traced(Urging) as running, running.connect() as sock:
        sock.sendall(b"x")
        assert running.awaits("send") == "send 1 of 1 urgent bytes: !"


# Server sockets, addresses, colours


def test_a_server_socket(tmp_path: Path) -> None:
    written: list[bytes] = []
    path = tmp_path / "a\x1b"
    (server,) = bind(Endpoint(path=str(path)), partial(TracedServerSocket, Trace(written.append)))
    (again,) = bind(Endpoint(fd=server.sock.fileno()), partial(TracedServerSocket, Trace(written.append)))
    again.sock.detach()
    server.close()
    server.close()
    shown = f"unix:{tmp_path}/a\\x1b"
    made = ["socket AF_UNIX", f"bind {shown}", f"listen {shown}"]
    assert shortened(written) == [*made, f"socket {shown}, inherited", f"close listener on {shown}"]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1:5"),
        (("::1", 5, 0, 0), "[::1]:5"),
        ("", "unix:"),
        (b"\0abstract\xff", r"unix:\x00abstract\xff"),
        ("/a\udcff", r"unix:/a\xff"),
    ],
)
def test_an_address(address: tuple[object, ...] | str | bytes, text: str) -> None:
    assert sockaddr_text(address) == text


def test_colours() -> None:
    written: list[bytes] = []
    Trace(written.append, colour=True).add(5, "FIN sent")
    assert re.fullmatch(rb"\x1b\[2m[\d:.]{15}\x1b\[0m +\d+    5  \x1b\[33mFIN sent    \x1b\[0m\n", written[0])
