"""TLS: the engine in memory, and connections over it: order, back-pressure, deadlines, and every kind of end."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.renegotiation import RECORDS, renegotiations
from rawservers.core.certificates import Certificate, load_context
from rawservers.core.connection import Connection
from rawservers.core.limits import RECENT, Connections
from rawservers.core.loop import EventHandler, Loop
from rawservers.core.peer import Clock, Peer
from rawservers.core.phases import Done, Phase, PreambleError
from rawservers.core.protocol import Chunk, Closing, Deadline, FileSlice, OpenFile, ResponseEnd, ServiceSpec, Urgent
from rawservers.core.tls import GONE_PER_TURN, SharedTLS, TLSConnection, TLSTransport
from rawservers.core.tls_engine import CAUTIOUS_SIZE, Engine
from rawservers.core.transfer import HANGUP_ONLY, INPUT, READ_ONCE
from rawservers.core.transport import Transport
from tests.harness.core import Recording
from tests.harness.needs import need
from tests.harness.sockets import receive_all, receive_until
from tests.harness.tls import Client, Files, TLSRunning, client_context, issue
from tests.harness.waiting import DEADLINE, until

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
RESET = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return issue(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def shared(files: Files) -> SharedTLS:
    return SharedTLS(load_context([Certificate(str(files.certificate), str(files.key))]), Clock())


# In memory


def shake_hands(shared: SharedTLS, client: Client) -> Engine:
    """An engine whose handshake is complete."""
    engine = Engine(shared)
    client.hear(b"")
    while not engine.is_open:
        assert engine.receive(client.say()) == b""
        client.hear(taken(engine))
    client.hear(taken(engine))
    return engine


def hear_until(client: Client, sock: socket.socket, condition: Callable[[], object]) -> None:
    while not condition():
        data = sock.recv(65536)
        assert data
        client.hear(data)


def taken(engine: Engine) -> bytes:
    output, engine.output = engine.output, b""
    return output


@given(st.lists(st.binary(max_size=3000), max_size=5), st.lists(st.integers(1, 400), min_size=1), st.sampled_from(VERSIONS))
def test_any_cut_gives_the_same_plaintext(
    shared: SharedTLS, said: list[bytes], sizes: list[int], version: ssl.TLSVersion
) -> None:
    client, engine = Client(client_context(version)), Engine(shared)
    ciphertext, heard, cuts = b"", b"", iter(sizes * 10_000)
    client.hear(b"")
    left = [b"", b"", *said]  # a flight each of both versions, before what the client says
    while left or ciphertext:
        if not ciphertext:
            data = left.pop(0) if engine.is_open or len(left) > len(said) else b""
            ciphertext += client.say(data)
            if not ciphertext:
                continue
        size = next(cuts)
        piece, ciphertext = ciphertext[:size], ciphertext[size:]
        heard += engine.receive(piece)
        client.hear(taken(engine))
    assert engine.is_open
    assert heard == b"".join(said)
    assert (shared.incoming.pending, shared.outgoing.pending) == (0, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_many_records_at_once(shared: SharedTLS, version: ssl.TLSVersion) -> None:
    """All of them are decrypted, since epoll tells nobody of what is left; and they count as work."""
    client = Client(client_context(version))
    engine = shake_hands(shared, client)
    before = shared.clock.work
    assert engine.receive(b"".join(client.say(b"%d" % (number % 10)) for number in range(700))) == b"0123456789" * 70
    assert shared.clock.work - before > 100


@pytest.mark.parametrize("version", VERSIONS)
def test_much_input_with_little_data_is_greedy(shared: SharedTLS, version: ssl.TLSVersion) -> None:
    """Records of a byte each, or records without data; not those of an upload, nor parts of one."""
    client = Client(client_context(version))
    engine = shake_hands(shared, client)
    for said, expected in (([b"x"] * 300, True), ([b"x"] * 10, False), ([bytes(1 << 14)], False), ([b"x" * 100] * 40, False)):
        engine.receive(b"".join(map(client.say, said)))
        assert engine.is_greedy == expected
    large = client.say(bytes(1 << 14))
    for part, size in ((large[:9000], 0), (large[9000:], 1 << 14)):
        assert (len(engine.receive(part)), engine.is_greedy) == (size, False)
    large = client.say(bytes(1 << 14))
    pieces = [large[start : start + CAUTIOUS_SIZE] for start in range(0, len(large), CAUTIOUS_SIZE)]
    assert [(len(engine.receive(piece)), engine.is_greedy) for piece in pieces] == [(0, False)] * 4 + [(1 << 14, False)]


def test_who_renegotiates_without_end_is_read_in_turn(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with TLSRunning(Answering, files) as running, running.connect() as sock:
        said = next(renegotiations(sock))
        sock.settimeout(DEADLINE)
        events: list[int] = []
        watch = running.loop.watch

        def note(fd: int, handler: EventHandler, wanted: int) -> None:
            events.append(wanted)
            watch(fd, handler, wanted)

        monkeypatch.setattr(running.loop, "watch", note)
        sock.sendall(said)
        answer = b""
        while len(answer) < RECORDS * 31:
            answer += sock.recv(65536)
        assert READ_ONCE in events


def test_a_handshake_counts_as_work(shared: SharedTLS) -> None:
    before = shared.clock.work
    shake_hands(shared, Client())
    assert shared.clock.work - before > 64


def test_close_notify_behind_the_last_bytes(shared: SharedTLS) -> None:
    client = Client()
    engine = shake_hands(shared, client)
    assert engine.receive(client.say(b"last") + client.close()) == b"last"
    assert engine.eof
    assert engine.receive(b"more") == b""
    engine.close()
    client.hear(taken(engine))
    assert client.closed


def test_input_after_our_close_notify_is_no_handshake(shared: SharedTLS) -> None:
    client = Client()
    engine = shake_hands(shared, client)
    engine.close()
    before = shared.clock.work
    assert engine.receive(client.say(b"more")) == b"more"
    assert not engine.is_open
    assert shared.clock.work == before


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\xff\xff" + bytes(5), b"\x16" + b"\xff" * 600])
def test_garbage_is_an_error_and_leaves_nothing_for_others(shared: SharedTLS, junk: bytes) -> None:
    engine = Engine(shared)
    with pytest.raises(ssl.SSLError):
        engine.receive(junk)
    assert taken(engine)[:1] in {b"", b"\x15"}  # an alert, or none for what is no record at all
    assert (shared.incoming.pending, shared.outgoing.pending) == (0, 0)
    shake_hands(shared, Client())


def test_tampering_is_an_error(shared: SharedTLS) -> None:
    client = Client()
    engine = shake_hands(shared, client)
    record = bytearray(client.say(b"hello"))
    record[-1] ^= 1
    with pytest.raises(ssl.SSLError):
        engine.receive(bytes(record))
    with pytest.raises(ssl.SSLError):
        client.hear(taken(engine))
    assert not engine.is_open
    engine.close()
    assert engine.output == b""


def test_connections_do_not_mix(shared: SharedTLS) -> None:
    """They share two buffers."""
    clients = [Client() for _ in range(3)]
    engines = [Engine(shared) for _ in clients]
    for client in clients:
        client.hear(b"")
    for _ in range(2):
        for client, engine in zip(clients, engines, strict=True):
            engine.receive(client.say())
        for client, engine in zip(clients, engines, strict=True):
            client.hear(taken(engine))
    records = [client.say(b"%d" % number) for number, client in enumerate(clients)]
    halves = [engine.receive(record[:9]) for engine, record in zip(engines, records, strict=True)]
    del clients[1], engines[1], records[1]  # one goes in the middle of it
    rest = [engine.receive(record[9:]) for engine, record in zip(engines, records, strict=True)]
    assert (halves, rest) == ([b""] * 3, [b"0", b"2"])


# Over sockets


class Answering(Recording):
    """Answers each receive by `answer`."""

    answer: Sequence[Chunk] = (b"answer",)
    then = Closing.KEEP
    waiting = Deadline.HEAD

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        self.heard.append((data, urgent))
        self.closing, self.waiting = self.then, Deadline.IDLE
        return self.answer


def answering(*answer: Chunk, then: Closing = Closing.KEEP) -> type[Answering]:
    return type("Answering", (Answering,), {"answer": answer, "then": then})


@pytest.mark.parametrize("version", VERSIONS)
def test_a_conversation(files: Files, version: ssl.TLSVersion) -> None:
    with TLSRunning(Answering, files) as running, running.secure(client_context(version)) as sock:
        assert sock.version() == {VERSIONS[0]: "TLSv1.2", VERSIONS[1]: "TLSv1.3"}[version]
        for number in range(3):
            sock.sendall(b"%d" % number)
            assert receive_until(sock, b"answer") == b"answer"
        (protocol,) = running.begun
        assert isinstance(protocol, Answering)
        assert protocol.heard == [(b"0", False), (b"1", False), (b"2", False)]
        assert protocol.peer.secure


@pytest.mark.parametrize("size", [4096, 8192])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_long_hello(files: Files, version: ssl.TLSVersion, size: int) -> None:
    """It is no data, but no reason either to read its client in turn."""
    context = client_context(version)
    context.set_alpn_protocols(["a" * 255] * (size // 256))
    with TLSRunning(Answering, files) as running, running.secure(context) as sock:
        until(lambda: len(running.begun) == 1, "the conversation has begun")
        running.call()
        sock.sendall(b"x")
        assert receive_until(sock, b"answer") == b"answer"


def test_large_input_and_output(files: Files, tmp_path: Path) -> None:
    """More than the socket's buffers hold, in pieces and in files, to a client that does not read at once."""
    content = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(content)
    with open(tmp_path / "file", "rb") as file:
        piece = FileSlice(OpenFile(os.dup(file.fileno()), os.close), 1000, len(content) - 1000)
    end = ResponseEnd("record")
    with TLSRunning(answering(b"head", piece, content, b"tail", end), files) as running, running.secure() as sock:
        sock.sendall(b"x")
        until(lambda: bool(running.begun) and any(each._output for each in running.connections), "it waits for the client")  # type: ignore[attr-defined]
        expected = b"head" + content[1000:] + content + b"tail"
        received = b""
        while len(received) < len(expected):
            received += sock.recv(1 << 18)
        assert received == expected
        until(lambda: running.reports == [("record", len(expected))], "the report")


def test_a_burst_of_input(files: Files) -> None:
    content = os.urandom(1 << 20)

    class Gathering(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.heard.append((data, urgent))
            return (b"",)

    with TLSRunning(Gathering, files) as running:
        with running.secure() as sock:
            sock.sendall(content)
            receive_all(sock.unwrap())
        (protocol,) = running.begun
        assert isinstance(protocol, Gathering)
        assert b"".join(data for data, _ in protocol.heard) == content


def test_a_greeting(files: Files) -> None:
    class Greeting(Recording):
        greeting = b"welcome"

    with TLSRunning(Greeting, files) as running, running.secure() as sock:
        assert receive_until(sock, b"welcome") == b"welcome"


def test_urgent_bytes_are_ordinary_ones(files: Files) -> None:
    with TLSRunning(answering(Urgent(b"!"), b"x"), files) as running, running.secure() as sock:
        sock.sendall(b"x")
        assert receive_until(sock, b"x") == b"!x"


@pytest.mark.parametrize("then", [Closing.CLOSE, Closing.LINGER])
def test_close_notify_comes_before_the_fin(files: Files, then: Closing) -> None:
    """The client's socket raises an error for a FIN without one."""
    with TLSRunning(answering(b"bye", then=then), files) as running, running.secure() as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b"bye"


def test_close_notify_when_it_is_evicted_or_stopped(files: Files) -> None:
    for name in ("evict", "close", "hang_up", "failed"):
        with TLSRunning(Answering, files) as running, running.secure() as sock:
            sock.sendall(b"x")
            receive_until(sock, b"answer")
            (connection,) = running.connections
            running.loop.call_soon_threadsafe(connection, getattr(connection, name))
            assert receive_all(sock) == b""


def test_close_notify_waits_for_room(files: Files) -> None:
    """The client reads nothing until the server wants to close; its end is announced all the same."""
    content = bytes(8 << 20)
    with TLSRunning(answering(content, then=Closing.CLOSE), files) as running, running.secure() as sock:
        sock.sendall(b"x")
        until(lambda: any(each._output for each in running.connections), "it waits for the client")  # type: ignore[attr-defined]
        assert len(receive_all(sock)) == len(content)


def test_a_reset(files: Files) -> None:
    with TLSRunning(answering(b"bye", then=Closing.RESET), files) as running, running.connect() as sock:
        client = Client()
        client.hear(b"")
        sock.sendall(client.say())
        hear_until(client, sock, client.tls.cipher)
        sock.sendall(client.say(b"x"))
        with pytest.raises(ConnectionResetError):
            hear_until(client, sock, lambda: client.closed)
        assert client.received == b"bye"


def test_a_reset_of_who_has_left(files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def push(transport: TLSTransport) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(TLSTransport, "push", push)
    with TLSRunning(answering(b"bye", then=Closing.RESET), files) as running, running.secure() as sock:
        sock.sendall(b"x")
        running.until_closed()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("how", ["close_notify", "FIN", "RST"])
def test_the_end_of_the_client(files: Files, how: str) -> None:
    class Ending(Answering):
        def end(self) -> Sequence[Chunk]:
            self.closing = Closing.CLOSE
            return (b"goodbye",)

    with TLSRunning(Ending, files) as running, running.secure() as sock:
        sock.sendall(b"x")
        receive_until(sock, b"answer")
        if how == "close_notify":
            with pytest.raises(ssl.SSLError, match="application data after close notify"):
                sock.unwrap()  # the server still says goodbye: the connection is closed in one direction only
        elif how == "FIN":
            socket.socket.shutdown(sock, socket.SHUT_WR)  # without close_notify
            assert receive_all(sock) == b"goodbye"
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
        running.until_closed()


def test_close_notify_with_the_request(files: Files) -> None:
    """In one segment: what comes before it is answered, and the end is noticed although nothing more arrives."""
    ended: list[bool] = []

    class Ending(Answering):
        def end(self) -> Sequence[Chunk]:
            ended.append(True)
            return super().end()

    with TLSRunning(Ending, files) as running, running.connect() as sock:
        client = Client()
        client.hear(b"")
        sock.sendall(client.say())
        hear_until(client, sock, client.tls.cipher)
        sock.sendall(client.say(b"x") + client.close())
        hear_until(client, sock, lambda: client.closed)
        assert client.received == b"answer"
        until(lambda: ended == [True], "the end")


# The handshake


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00", "hello"])
def test_a_handshake_has_the_head_deadline(files: Files, said: bytes | str) -> None:
    with TLSRunning(Answering, files, head=0.1) as running, running.connect() as sock:
        client = Client()
        client.hear(b"")
        sock.sendall(client.say() if isinstance(said, str) else said)
        receive_all(sock)
        assert running.begun == []


def test_a_handshake_does_not_restart_the_deadline(files: Files) -> None:
    """It is absolute, from the accept to the first request."""
    with TLSRunning(Answering, files, head=1e6) as running, running.secure() as sock:
        until(lambda: bool(running.begun), "the conversation")
        (connection,) = running.connections
        assert connection.timer_started == connection.accepted_at
        for _ in range(2):  # the first may come in the wake of the accept
            sock.sendall(b"x")
            receive_until(sock, b"answer")
        assert connection.timer_started > connection.accepted_at


def test_the_session_ticket_does_not_wait_for_a_response(files: Files) -> None:
    """Until something comes, a client's kernel may not send the request (Nagle), and ours may not acknowledge the handshake."""
    with TLSRunning(Answering, files) as running, running.connect() as sock:
        client = Client(client_context(ssl.TLSVersion.TLSv1_3))
        client.hear(b"")
        sock.sendall(client.say())
        hear_until(client, sock, client.tls.cipher)
        sock.sendall(client.say())
        hear_until(client, sock, lambda: client.tls.session and client.tls.session.has_ticket)


def test_a_handshake_that_fails_is_counted_as_rejected(files: Files) -> None:
    with TLSRunning(Answering, files) as running:
        for said in (b"\x16\x03\x01\x00\x05\x02", b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"):
            with running.connect() as sock:
                sock.sendall(said)
                receive_all(sock)
        with pytest.raises(ssl.SSLError), running.connect() as sock:
            ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")  # it does not know the authority
        running.until_closed()
        assert running.service.counters.rejected == 3


def test_the_end_before_the_handshake(files: Files) -> None:
    with TLSRunning(Answering, files) as running:
        for how in (b"", b"\x16\x03"):
            with running.connect() as sock:
                sock.sendall(how)
                sock.shutdown(socket.SHUT_WR)
                assert receive_all(sock) == b""
        with running.connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        with running.secure() as sock:
            sock.sendall(b"x")
            receive_until(sock, b"answer")
        assert len(running.begun) == 1


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_older_versions_are_refused(files: Files, version: str) -> None:
    context = client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with TLSRunning(Answering, files) as running, pytest.raises(ssl.SSLError, match="alert protocol version"):
        running.secure(context)


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA256", "AES128-GCM-SHA256", "NULL"])
def test_weak_ciphers_are_refused(files: Files, cipher: str) -> None:
    context = client_context(ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with TLSRunning(Answering, files) as running, pytest.raises(ssl.SSLError, match="handshake failure"):
        running.secure(context)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_resumed(files: Files, version: ssl.TLSVersion) -> None:
    context = client_context(version)
    with TLSRunning(Answering, files) as running:
        session = None
        for number in range(3):
            with running.secure(context, session) as sock:
                assert sock.session_reused == (number > 0)
                sock.sendall(b"x")
                receive_until(sock, b"answer")
                session = sock.session


@pytest.mark.parametrize(("options", "command"), [(("-tls1_2",), b"R\n"), (("-tls1_3",), b"K\n")])
def test_renegotiation_is_refused_and_keys_are_updated(files: Files, options: tuple[str, ...], command: bytes) -> None:
    with TLSRunning(Answering, files) as running:
        address = f"127.0.0.1:{running.address[1]}"
        words = [need("openssl"), "s_client", "-connect", address, "-CAfile", str(files.ca), *options]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
            assert client.stdin
            assert client.stdout
            client.stdin.write(b"x\n")
            client.stdin.flush()
            said = b""
            while b"answer" not in said:
                said += client.stdout.read1(4096)
            client.stdin.write(command)
            client.stdin.flush()
            if command == b"K\n":
                while b"KEYUPDATE" not in said:
                    said += client.stdout.read1(4096)
                client.stdin.write(b"y\n")
                client.stdin.flush()
                while b"answer" not in said.partition(b"KEYUPDATE")[2]:
                    said += client.stdout.read1(4096)
            else:
                while b"no renegotiation" not in said:
                    said += client.stdout.read1(4096)
            client.kill()


# Beside the handshake


class Name:
    """A preamble: a name, and a line end."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Done | None:
        self._buffer += data
        name, end, rest = self._buffer.partition(b"\n")
        if len(name) > 20:
            raise PreambleError("too long")
        return Done(rest, (name.decode(), 1)) if end else None


@pytest.mark.parametrize("is_one_segment", [True, False])
def test_a_preamble_comes_before_the_handshake(files: Files, is_one_segment: bool) -> None:
    with TLSRunning(Answering, files, (Name,)) as running, running.connect() as sock:
        client = Client()
        client.hear(b"")
        if is_one_segment:
            sock.sendall(b"client\n" + client.say())
        else:
            sock.sendall(b"client\n")
            until(lambda: any(each.address[0] == "client" for each in running.connections), "the preamble")
            sock.sendall(client.say())
        hear_until(client, sock, client.tls.cipher)
        sock.sendall(client.say(b"x"))
        hear_until(client, sock, lambda: client.received)
        (protocol,) = running.begun
        assert isinstance(protocol, Answering)
        assert (protocol.peer.address, protocol.heard) == (("client", 1), [(b"x", False)])


def test_a_client_without_tls_is_refused_without_tls(files: Files) -> None:
    with TLSRunning(Answering, files) as running, running.connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert receive_all(sock) == b""
        assert running.begun == []


def test_a_server_that_stops_during_the_handshake(files: Files) -> None:
    drained: list[bool] = []

    class Draining(Answering):
        def drain(self) -> Sequence[Chunk]:
            drained.append(True)
            return ()

    with TLSRunning(Draining, files) as running, running.connect() as sock:
        until(lambda: len(running.connections) == 1, "it is accepted")
        (connection,) = running.connections
        running.loop.call_soon_threadsafe(connection, connection.drain)
        with ssl_socket(sock):
            until(lambda: drained == [True], "the conversation knows")


def ssl_socket(sock: socket.socket) -> ssl.SSLSocket:
    return client_context().wrap_socket(sock, server_hostname="localhost")


class Waiting:
    """Connections that have begun a handshake, in a loop that nobody runs. socks: of their clients."""

    def __init__(self, files: Files) -> None:
        self.loop = Loop()
        self.shared = SharedTLS(load_context([Certificate(str(files.certificate), str(files.key))]), self.loop.clock)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.spec = ServiceSpec("test", Recording, {}, lambda *_: None)
        self.socks: list[socket.socket] = []
        self.connections: list[TLSConnection] = []

    def add(self, hello: bytes = b"") -> TLSConnection:
        self.shared.is_first(self.loop.clock.now)  # another one was, in this wake
        return self.add_first(hello)

    def add_first(self, hello: bytes = b"") -> TLSConnection:
        client = Client()
        client.hear(b"")
        self.socks.append(socket.create_connection(self._server.getsockname(), DEADLINE))
        self.socks[-1].sendall(hello or client.say())
        sock, address = self._server.accept()
        transport = TLSTransport(self.shared, socket.AF_INET, socket.SOCK_STREAM, 0, sock.detach())
        connection = TLSConnection(transport, address, self.spec, self.loop, lambda connection: None)
        self.connections.append(connection)
        connection.begin()
        return connection

    def take_turns(self) -> list[int]:
        """The numbers of the clients that are answered, turn by turn."""
        found = []
        while self.loop._early_turns:
            before = self.answered()
            self.loop._early_turns.popleft()[1]()
            found += sorted(self.answered() - before)
        return found

    def answered(self) -> set[int]:
        return {number for number, sock in enumerate(self.socks) if sock.fileno() >= 0 and select.select([sock], [], [], 0)[0]}

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *failure: object) -> None:
        for each in (*self.connections, *self.socks, self._server, self.loop):
            each.close()


def test_handshakes_are_served_in_order_and_every_fourth_turn_is_for_the_newest(files: Files) -> None:
    """So nobody starves, and those who come after a crowd do not wait for all of it."""
    with Waiting(files) as waiting:
        for _ in range(9):
            waiting.add()
        assert waiting.answered() == set()
        assert waiting.take_turns() == [0, 1, 2, 8, 3, 4, 5, 7, 6]
        waiting.add()
        assert waiting.take_turns() == [9]


def test_the_first_handshake_of_a_wake_does_not_wait(files: Files) -> None:
    with Waiting(files) as waiting:
        waiting.add_first()
        assert waiting.answered() == {0}
        waiting.add_first()
        waiting.loop.clock.now += 1
        waiting.add_first()  # behind one that waits
        assert waiting.answered() == {0}
        assert waiting.take_turns() == [1, 2]
        waiting.loop.clock.now += 1
        waiting.add_first()
        assert waiting.answered() == {0, 1, 2, 3}


def test_a_handshake_that_was_answered_outlives_connections_that_only_begin(files: Files) -> None:
    with Waiting(files) as waiting:
        books = Connections(waiting.loop.clock)
        first, second = waiting.add_first(), waiting.add()
        assert (first.has_begun_handshake, second.has_begun_handshake) == (True, False)
        plain, other = socket.socketpair()
        waiting.socks.append(other)
        transport = Transport(socket.AF_UNIX, socket.SOCK_STREAM, 0, plain.detach())
        third = Connection(transport, ("h", 1), waiting.spec, waiting.loop, lambda connection: None)
        third.begin()
        third._protocol.waiting = Deadline.HEAD
        waiting.loop.clock.now += RECENT / 2
        for connection in (first, second, third):
            books.add(connection)
        assert books.evict() is third  # `second` has input, which waits for its turn
        books.discard(third)
        third.close()
        assert (books.evict(), books.evictable_soon) == (None, True)
        waiting.take_turns()
        waiting.loop.clock.now += RECENT / 4  # there was nobody to close: not at once again
        assert books.evict() in {first, second}


def test_who_waits_and_says_more_is_left_alone(files: Files) -> None:
    """Until its turn comes, or it has gone."""
    with Waiting(files) as waiting:
        waiting.loop.watch = lambda fd, handler, events: events_of.__setitem__(handler, events)  # type: ignore[method-assign]
        events_of: dict[object, int] = {}
        connections = [waiting.add() for _ in range(2)]
        for connection, sock in zip(connections, waiting.socks, strict=True):
            connection._events = INPUT
            sock.sendall(b"more")
            connection.ready(select.EPOLLIN)
        assert events_of == dict.fromkeys(connections, HANGUP_ONLY)
        assert waiting.answered() == set()
        connections[1].ready(select.EPOLLHUP)
        assert [each._phase for each in connections] == [Phase.PREAMBLE, Phase.CLOSED]
        assert waiting.take_turns() == [0]


def test_who_has_left_meanwhile_gets_no_handshake(files: Files) -> None:
    with Waiting(files) as waiting:
        connections = [waiting.add() for _ in range(3)]
        waiting.socks[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        waiting.socks[1].close()
        assert waiting.take_turns() == [0, 2]
        assert [each._sock.engine is not None for each in connections] == [True, False, True]


def test_handshakes_of_closed_connections_are_dropped(files: Files) -> None:
    with Waiting(files) as waiting:
        waiting.shared.compact_size = 4
        for _ in range(4):
            waiting.add()
        for connection in waiting.connections[:3]:
            connection.close()
        waiting.add()
        assert [*waiting.shared.waiting] == waiting.connections[3:]
        assert waiting.take_turns() == [3, 4]


def test_a_turn_is_for_so_many_who_have_gone(files: Files) -> None:
    with Waiting(files) as waiting:
        connections = [waiting.add() for _ in range(GONE_PER_TURN + 8)]
        for sock in waiting.socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
        for closed in (GONE_PER_TURN, GONE_PER_TURN + 8):
            waiting.loop._early_turns.popleft()[1]()
            assert sum(each._phase is Phase.CLOSED for each in connections) == closed
        assert not waiting.loop._early_turns


def test_a_client_is_received_in_small_pieces_until_it_has_sent_data(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no single receive takes long, from a client that has never sent any."""
    sizes: list[int] = []
    receive = TLSTransport.recv_into

    def note(sock: TLSTransport, *arguments: Any) -> int:
        sizes.append(receive(sock, *arguments))
        return sizes[-1]

    monkeypatch.setattr(TLSTransport, "recv_into", note)
    with TLSRunning(Answering, files) as running, running.secure() as sock:
        for is_first in (True, False):
            sizes.clear()
            sock.sendall(bytes(1 << 14))
            assert sock.recv(99) == b"answer"
            assert (max(sizes) <= CAUTIOUS_SIZE) == is_first


def test_those_who_have_gone_share_a_turn(files: Files) -> None:
    """It takes little to see that. A handshake takes a turn by itself, even if it fails."""
    with Waiting(files) as waiting:
        malformed = b"\x16\x03\x01\x00\x10\x01" + bytes(15)
        connections = [waiting.add(malformed if number == 9 else b"") for number in range(12)]
        for sock in waiting.socks[:9]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
        waiting.loop._early_turns.popleft()[1]()
        assert [number for number, each in enumerate(connections) if each._phase is Phase.CLOSED] == [*range(10)]
        assert waiting.answered() == {9}  # by an alert
        assert waiting.take_turns() == [10, 11]


def test_a_handshake_whose_turn_does_not_come_has_its_deadline(files: Files) -> None:
    with Waiting(files) as waiting:
        waiting.spec.deadlines[Deadline.HEAD] = 10
        connection = waiting.add()
        assert connection.waits_for is Deadline.HEAD
        assert connection.has_unread()  # so nobody else gets its place, nor is it closed by a stop; but not for long
        assert waiting.loop._schedule[0][0] == connection.accepted_at + 10
        waiting.loop.clock.now += 9
        assert not connection.has_unread()
        connection._check_deadline()
        assert connection._phase is Phase.PREAMBLE
        waiting.loop.clock.now += 2
        connection._check_deadline()
        assert connection._phase is Phase.CLOSED
        assert connection.counters.rejected == 1
        waiting.add()
        assert waiting.take_turns() == [1]


def test_an_error_of_a_conversation_has_no_other_cause(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Recording):
        def __init__(self, peer: Peer) -> None:
            raise LookupError("in the conversation")

    with TLSRunning(Failing, files) as running, running.secure() as sock:
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
        (error,) = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert isinstance(error, LookupError)
    assert error.__context__ is None
