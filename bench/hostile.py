"""Hostile clients: what each kind says, and one epoll loop that says it for all of them.

What they say is made beforehand, or in large pieces, and what they hear is thrown away by the kernel (MSG_TRUNC): a client must
cost less than the server, or it is itself what is measured. All are bounded in number and time, and stay on loopback.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

from bench.renegotiation import renegotiations

CLIENTS = 40  # of each kind, unless it says itself how many
CROWD = 1000  # of the kinds that attack by their number
HANDSHAKES, SLOW_HANDSHAKES = 2000, 200  # clients that never finish one; of each other attack on TLS, but for the storm
ALL_CLIENTS = 100  # when every kind attacks at once
PIECE = 1 << 16  # bytes said at once, at the least, by those who say the same again and again
ROOM = 1 << 20  # bytes heard at once
LISTED, LARGE = 2000, 100 << 10  # files in /many/, bytes of /large
SWEEP = 0.05  # seconds, after which those who could not connect try again
SWEEPS = 20  # of which each trickling or sipping client takes its turn in one: once a second
LIMIT = 30.0  # seconds beyond the time asked for, after which they end by themselves

BIND_ADDRESS_NO_PORT = 24  # of IPPROTO_IP: the port is chosen when connecting, so that a pair of addresses has all of them
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST

IAC, NOP, AO, WILL, DO = b"\xff", b"\xf1", b"\xf5", b"\xfb", b"\xfd"
CHARACTER_MODE = IAC + DO + b"\x01" + IAC + DO + b"\x03"  # ECHO and SGA
LOGOUT = 18
ACCENTED = "e\u0301".encode()

Words = Callable[[int], Iterator[bytes]]  # of the connection with this number: what is said on it, piece by piece


class Kind(NamedTuple):
    """An attack. service: whom it concerns; clients: how many, 0 for as many as asked for; config: of the server; slow: each
    client says and hears a byte a second; sips: it does not hear more than that; leaves: it closes when all is said, with
    a RST if it has said anything; renegotiates: after a handshake it asks for another one, without end."""

    service: str
    words: Words
    clients: int = 0
    config: str = ""
    slow: bool = False
    sips: bool = False
    leaves: bool = False
    renegotiates: bool = False


class Done(NamedTuple):
    """Bytes, and connections made."""

    sent: int = 0
    received: int = 0
    connected: int = 0


# What they say


def again(words: bytes, first: bytes = b"") -> Words:
    """`first`, and then the same without end."""
    piece = words * -(-PIECE // len(words))
    return lambda _: itertools.chain([first] if first else [], itertools.repeat(piece))


def request(method: str, path: str, *fields: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: h", *fields, "\r\n")).encode()


_numbers = itertools.count()


def misses(_: int) -> Iterator[bytes]:
    """Requests for the same file of which no two are the same, by their query and by their cookie in turn."""
    while True:
        said = [
            b"GET /f.txt?%d HTTP/1.1\r\nHost: h\r\n\r\nGET /f.txt HTTP/1.1\r\nHost: h\r\nCookie: n=%d\r\n\r\n"
            % (number, number)
            for number in itertools.islice(_numbers, 500)
        ]
        yield b"".join(said)


def ranges(_: int) -> Iterator[bytes]:
    """Requests for 64 ranges each, as many as are sent, which move on from one to the next."""
    while True:
        said = []
        for number in itertools.islice(_numbers, 100):
            begins = range(number % 1000, LARGE, LARGE // 64)[:64]
            said.append(request("GET", "/large", "Range: bytes=" + ",".join(f"{begin}-{begin + 99}" for begin in begins)))
        yield b"".join(said)


def long_fields() -> Words:
    """Heads of nearly 32 KiB, each about another field that has to be read, where it has to be."""
    room = 30 << 10
    accept = filled("a/b{};q=0.{},", room)
    codings = filled("c{};q=0.{},", room)
    tags = filled('"{}{}",', room)
    heads = (
        (b"HEAD /few/", f"Accept: {accept}"),
        (b"GET /packed.txt", f"Accept-Encoding: {codings}"),
        (b"GET /f.txt", f"If-None-Match: {tags}"),
    )
    rest = [(target, f" HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n".encode()) for target, field in heads]

    def words(_: int) -> Iterator[bytes]:
        while True:
            number = next(_numbers)
            yield b"".join(b"%b?%d%b" % (target, number, fields) for target, fields in rest)

    return words


def filled(element: str, room: int) -> str:
    """As many different elements of a list as there is room for."""
    said, size = [], 0
    for number in itertools.count():
        said.append(element.format(number, number % 10))
        size += len(said[-1])
        if size > room:
            return "".join(said[:-1]).rstrip(",")
    raise AssertionError


def options() -> Words:
    """DO and WILL of every option in turn; on every other connection without LOGOUT, at which the server hangs up."""

    def all_but(*left_out: int) -> Words:
        asked = [bytes([option]) for option in range(256) if option not in left_out]
        return again(b"".join(IAC + verb + option for verb in (DO, WILL) for option in asked))

    every, lasting = all_but(), all_but(LOGOUT)
    return lambda number: every(number) if number % 2 else lasting(number)


def once(words: bytes, *, then: bytes = b"") -> Words:
    """`words`, and nothing more; or `then` without end."""
    return again(then, words) if then else lambda _: iter((words,))


def long_heads(number: int) -> Iterator[bytes]:
    """Request lines of 1 MiB, and heads of 100,000 fields, in turn."""
    yield b"GET /" + b"x" * (1 << 20) if number % 2 else b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000


def head(_: int) -> Iterator[bytes]:
    yield b"GET /f.txt HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 1000


def half(number: int) -> Iterator[bytes]:
    """Nothing, or half a request, in turn."""
    if number % 2:
        yield b"GET /f.txt HTTP/1.1\r\nHo"


def client_hello() -> bytes:
    """What a client with TLS says first."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


HELLO = client_hello()


def hello(number: int) -> Iterator[bytes]:
    """All of it, or half of it, in turn."""
    yield HELLO if number % 2 else HELLO[: len(HELLO) // 2]


def whole_hello(_: int) -> Iterator[bytes]:
    yield HELLO


def garbage(number: int) -> Iterator[bytes]:
    """A record of a handshake with junk in it; every tenth behind a good one."""
    junk = b"\x16\x03\x01\x10\x00" + os.urandom(4096)
    yield junk if number % 10 else HELLO + junk


def silence(_: int) -> Iterator[bytes]:
    return iter(())


def kinds() -> dict[str, Kind]:
    """By name, in the order in which they are run."""
    listing, file = request("HEAD", "/many/"), request("GET", "/f.txt")
    lines = CHARACTER_MODE + b"".join(ACCENTED * 1333 + b"%d\r\n" % number for number in range(8))
    arrows = b"\x1b[A" * 7 + b"\x1b[B" * 7
    return {
        "head-listing": Kind("http", again(listing * 170)),
        "get-listing": Kind("http", again(request("GET", "/many/"))),
        "pipelined-404": Kind("http", again(request("HEAD", "/nope"))),
        "pipelined-get": Kind("http", again(file)),
        "pipelined-misses": Kind("http", misses),
        "ranges": Kind("http", ranges),
        "accept": Kind("http", long_fields()),
        "slow-heads": Kind("http", head, CROWD, "[limits]\nconnections = 300\n", slow=True),
        "slow-readers": Kind("http", again(file), sips=True),
        "telnet-ao": Kind("telnet", again(IAC + AO)),
        "telnet-keys": Kind("telnet", again(arrows, lines)),
        "telnet-nop": Kind("telnet", again((b"a" + IAC + NOP) * 2000 + b"\r\n")),
        "telnet-options": Kind("telnet", options()),
        "telnet-long": Kind("telnet", again(b"a" + IAC + NOP), config="[telnet]\nlongest_line = 1048576\n"),
        "telnet-redraw": Kind("telnet", again(b"\x12", CHARACTER_MODE + b"x" * 4000)),
        "telnet-silent": Kind("telnet", silence, CROWD, "[limits]\nconnections = 1000\n"),
        "telnet-erase": Kind("telnet", again(b"\x7f\x17")),
        "telnet-line": Kind("telnet", again(b"x" * PIECE)),
        "telnet-subnegotiation": Kind("telnet", once(IAC + b"\xfa", then=b"x" * PIECE)),
        "telnet-unread": Kind("telnet", again(b"x" * 70 + b"\r\n"), sips=True),
        "long-heads": Kind("http", long_heads),
        "slow-bodies": Kind("http", lambda _: iter((request("POST", "/f.txt", "Content-Length: 1000000"), b"x" * 1000)), CROWD),
        "idle": Kind("http", once(request("GET", "/f.txt")), CROWD, "[limits]\nconnections = 3000\n"),
        "tls-half": Kind("https", hello, HANDSHAKES),
        "tls-trickle": Kind("https", whole_hello, SLOW_HANDSHAKES, slow=True),
        "tls-garbage": Kind("https", garbage, SLOW_HANDSHAKES),
        "tls-renegotiation": Kind("https", silence, SLOW_HANDSHAKES, renegotiates=True),
        "tls-storm": Kind("https", whole_hello, leaves=True),
        "connect-storm": Kind("http", half, leaves=True),
    }


# Who is there at once: idle connections, silent sessions, and heads that come a byte a second.
MULTITUDE = {"idle": 10_000, "telnet-silent": 1000, "slow-heads": 2000}
MULTITUDE_CONFIG = "[limits]\nconnections = 16000\n[http]\nconnections = 14000\nhead_time = 60\n"


def multitude() -> list[Kind]:
    table = kinds()
    return [table[name] for name, count in MULTITUDE.items() for _ in range(count)]


def together(names: Sequence[str], clients: int) -> list[Kind]:
    """The kinds of so many clients, one after another, each kind with its share."""
    table = kinds()
    return [table[name] for name in itertools.islice(itertools.cycle(names), clients)]


# Those who say it


class Crowd:
    """The loop. ports: by service."""

    def __init__(self, crowd: Sequence[Kind], ports: dict[str, int]) -> None:
        self.epoll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.waiting: list[Client] = []  # to try again
        self.numbers = itertools.count()
        self.sent = self.received = self.connected = 0
        self.heard = bytearray(ROOM)
        # From other addresses than the honest ones, who would otherwise be short of ports.
        self._all = [Client(self, kind, ports[kind.service], f"127.0.1.{n % 200 + 1}") for n, kind in enumerate(crowd)]
        self._paced = [client for client in self._all if client.kind.slow or client.kind.sips]

    def run(self, pipe: Connection, seconds: float) -> Done:
        """Attack until something is said on `pipe`, or for so long."""
        deadline = time.monotonic() + seconds
        self.epoll.register(pipe.fileno(), select.EPOLLIN)
        for client in self._all:
            client.connect()
        turns, swept = itertools.cycle(range(SWEEPS)), time.monotonic()
        while (now := time.monotonic()) < deadline:
            for fd, events in self.epoll.poll(SWEEP):
                if fd == pipe.fileno():
                    return self._end()
                if fd in self.clients:
                    self.clients[fd].ready(events)
            if now - swept >= SWEEP:
                swept = now
                retried, self.waiting = self.waiting, []
                for client in retried:
                    client.connect()
                for client in self._paced[next(turns) :: SWEEPS]:
                    client.step()
        return self._end()

    def _end(self) -> Done:
        for client in tuple(self.clients.values()):
            client.vanish()
        self.epoll.close()
        return Done(self.sent, self.received, self.connected)


class Client:
    """One of them, who connects anew whenever the connection has ended."""

    def __init__(self, crowd: Crowd, kind: Kind, port: int, source: str) -> None:
        self.kind = kind
        self._crowd = crowd
        self._port = port
        self._source = source
        self._sock: socket.socket | None = None
        self._words: Iterator[bytes] = iter(())
        self._after_handshake: Iterator[bytes] | None = None
        self._rest = memoryview(b"")
        self._begun = False  # the connection is there

    def connect(self) -> None:
        sock = socket.socket()
        try:
            sock.setblocking(self.kind.renegotiates)
            sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
            sock.bind((self._source, 0))
            if self.kind.sips:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            status = sock.connect_ex(("127.0.0.1", self._port))
            if self.kind.renegotiates and not status:
                self._after_handshake = renegotiations(sock)
        except OSError as error:
            status = error.errno or errno.EIO
        if status not in (0, errno.EINPROGRESS):  # nobody listens, or there is no port left
            sock.close()
            return self._crowd.waiting.append(self)
        self._sock = sock
        self._begun = False
        self._crowd.clients[sock.fileno()] = self
        self._crowd.epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def close(self) -> None:
        assert self._sock
        del self._crowd.clients[self._sock.fileno()]
        self._sock.close()
        self._sock = None

    def vanish(self) -> None:
        """Close with a RST, so that the server need not read what is still on its way."""
        assert self._sock
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()

    def ready(self, events: int) -> None:
        try:
            if not self._begun:
                return self._begin(events)
            if events & select.EPOLLIN and not self.kind.sips:
                self._hear(ROOM)
            if events & select.EPOLLOUT and not self.kind.slow:
                self._say(PIECE)
            if events & (select.EPOLLHUP | select.EPOLLERR):
                raise ConnectionError
        except BlockingIOError:
            pass
        except OSError:
            self._renew()

    def step(self) -> None:
        """A byte, once in a while."""
        if self._sock is None or not self._begun:
            return
        try:
            if self.kind.slow:
                self._say(1)
            if self.kind.sips:
                self._hear(1)
        except BlockingIOError:
            pass
        except OSError:
            self._renew()

    def _begin(self, events: int) -> None:
        assert self._sock
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or events & select.EPOLLERR:
            self.close()
            return self._crowd.waiting.append(self)
        self._crowd.connected += 1
        self._begun = True
        number = next(self._crowd.numbers)
        self._words, self._rest = self._after_handshake or self.kind.words(number), memoryview(b"")
        if not self.kind.leaves:
            return self._watch(self._next() and not self.kind.slow)
        if self._next():
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._say(PIECE)
        self._renew()

    def _next(self) -> bool:
        """Whether there is more to say."""
        if not self._rest:
            self._rest = memoryview(next(self._words, b""))
        return bool(self._rest)

    def _watch(self, says: bool) -> None:
        assert self._sock
        hears = 0 if self.kind.sips else select.EPOLLIN
        self._crowd.epoll.modify(self._sock.fileno(), hears | (select.EPOLLOUT if says else 0))

    def _say(self, most: int) -> None:
        assert self._sock
        if not self._next():
            return self._watch(False)
        sent = self._sock.send(self._rest[:most])
        self._rest = self._rest[sent:]
        self._crowd.sent += sent

    def _hear(self, most: int) -> None:
        assert self._sock
        count = self._sock.recv_into(self._crowd.heard, most, socket.MSG_TRUNC)
        if count == 0:
            raise ConnectionError
        self._crowd.received += count

    def _renew(self) -> None:
        self.close()
        self.connect()


def attack(crowd: Sequence[Kind], ports: dict[str, int], seconds: float, pipe: Connection) -> None:
    """A process of its own: tells when it is ready, begins when told, ends when told, and tells what it has done."""
    os.nice(19)  # on the processor that they share, the honest clients come first: what they wait for is to be the server
    party = Crowd(crowd, ports)
    pipe.send("ready")
    pipe.recv()
    done = party.run(pipe, seconds + LIMIT)
    pipe.send(done)
