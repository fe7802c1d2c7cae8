"""The Telnet echo of the real process, with real clients, and with clients that never read."""

from __future__ import annotations

import asyncio
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import telnetlib3

from tests.harness.needs import need
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all, receive_until
from tests.harness.waiting import DEADLINE, until


def test_a_line_and_a_part_of_one_through_nc(server: Server) -> None:
    host, port = server.address("telnet")
    done = subprocess.run([need("nc.openbsd"), "-N", host, str(port)], input=b"a\r\nb", capture_output=True, timeout=DEADLINE)
    assert done.stdout == b"a\r\nb\r\n"


def test_curl(server: Server) -> None:
    host, port = server.address("telnet")
    command = [need("curl"), "-sN", f"telnet://{host}:{port}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin
        assert client.stdout
        client.stdin.write(b"one\ntwo\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"one\r\n"
        assert client.stdout.readline() == b"two\r\n"
        client.stdin.write(b"\x04\n")  # the server hangs up, and curl leaves
        client.stdin.flush()
        assert client.wait(DEADLINE) == 0


@pytest.mark.parametrize("binary", [False, True])
def test_telnetlib3(server: Server, binary: bool) -> None:
    host, port = server.address("telnet")

    async def talk() -> list[str]:
        options = {"force_binary": True, "encoding": "utf-8"} if binary else {"encoding": "us-ascii"}
        reader, writer = await telnetlib3.open_connection(host, port, **options)
        heard = []
        for line in lines:
            writer.write(line + "\r\n")
            heard.append(await asyncio.wait_for(reader.readline(), DEADLINE))
        writer.close()
        return [line.rstrip("\r\n") for line in heard]

    lines = ["hello", "", "h\xe9llo" if binary else "hallo", "a" * 1000]
    assert asyncio.run(talk()) == lines


def test_no_first_word(server: Server) -> None:
    with server.connect("telnet") as sock:
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.recv(1)


@pytest.mark.parametrize("end", [b"\r\n", b"\r\0", b"\n", b"\r"])
def test_a_line_comes_back_at_once_whatever_ends_it(server: Server, end: bytes) -> None:
    with server.connect("telnet") as sock:
        for line in (b"first", b"second", b"\xd1\x8f\xfe"):
            sock.sendall(line + end)
            assert receive_until(sock, b"\r\n") == line + b"\r\n"


def test_half_close_with_much_unread(server: Server) -> None:
    lines = b"".join(b"%07d\r\n" % number for number in range(555_556))
    with server.connect("telnet") as sock:
        answer: list[bytes] = []
        sent = 0
        sock.setblocking(False)
        while sent < len(lines):  # until neither side takes more, then read on in step with what is sent
            try:
                sent += sock.send(lines[sent : sent + 65536])
            except BlockingIOError:
                sock.settimeout(DEADLINE)
                answer.append(sock.recv(1 << 20))
                sock.setblocking(False)
        sock.settimeout(DEADLINE)
        sock.shutdown(socket.SHUT_WR)
        answer.append(receive_all(sock))
    assert b"".join(answer) == lines


@pytest.mark.slow
def test_a_client_that_never_reads_is_not_read_either(server: Server) -> None:
    assert exchange(server, b"x\r\n", "telnet") == b"x\r\n"
    before = server.memory()
    for flood in (b"line\r\n" * 10000, b"\xff\xfd\x63" * 20000, b"\xff\xf6" * 30000):
        with server.connect("telnet", rcvbuf=4096) as deaf:
            deaf.setblocking(False)
            sent = 0

            def push(deaf: socket.socket = deaf, flood: bytes = flood) -> bool:
                nonlocal sent
                try:
                    sent += deaf.send(flood)
                except BlockingIOError:
                    return True
                return False

            until(push, "the flood is stopped")
            assert sent < 64 << 20
            assert exchange(server, b"x\r\n", "telnet") == b"x\r\n"
    assert server.memory() - before < 1 << 20


def test_an_endless_subnegotiation_takes_no_memory(server: Server) -> None:
    assert exchange(server, b"x\r\n", "telnet") == b"x\r\n"
    before = server.memory()
    with server.connect("telnet") as sock:
        sock.sendall(b"\xff\xfa\x18")
        for _ in range(160):
            sock.sendall(bytes(65536))
        sock.sendall(b"\xff\xf0x\r\n")
        assert receive_until(sock, b"\r\n") == b"x\r\n"
    assert server.memory() - before < 1 << 20


def test_urgent_data_stays_in_its_place(server: Server) -> None:
    with server.connect("telnet") as sock:
        sock.sendall(b"a\r\n")
        assert receive_until(sock, b"\r\n") == b"a\r\n"
        sock.sendall(b"\xff")
        sock.send(b"\xf2", socket.MSG_OOB)
        sock.sendall(b"def\r\n")
        assert receive_until(sock, b"\r\n") == b"def\r\n"


def test_urgent_data_without_a_data_mark(server: Server) -> None:
    with server.connect("telnet") as sock:
        sock.send(b"z", socket.MSG_OOB)
        sock.sendall(b"abc\r\n")
        assert receive_until(sock, b"abc\r\n") in (b"abc\r\n", b"zabc\r\n")
        before = server.cpu()
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert server.cpu() - before < 0.1


def test_the_answer_to_abort_output_is_urgent(server: Server) -> None:
    with server.connect("telnet") as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.sendall(b"ab\xff\xf5c\r\n")
        assert receive_until(sock, b"\r\n") == b"\xff\xf2abc\r\n"


def test_idle(folder) -> None:  # type: ignore[no-untyped-def]
    with (
        Server(folder, "--http", "off", "--telnet", "0", module="tests.servers.hasty") as server,
        server.connect("telnet") as sock,
    ):
        text = receive_all(sock)
        assert text.startswith(b"?")
        assert text.endswith(b"\r\n")


def test_sessions_end_with_a_fin_when_the_server_stops(server: Server) -> None:
    with server.connect("telnet") as sock:
        sock.sendall(b"x\r\n")
        assert receive_until(sock, b"\r\n") == b"x\r\n"
        server.signal()
        assert receive_all(sock) == b""
    assert server.wait() == 0


def test_a_greeting_and_a_service_of_ones_own() -> None:
    program = """
import logging
from rawservers import Config, ListenConfig, serve

def service(line):
    return line[::-1] if line != b"raise" else 1 / 0

logging.basicConfig(format="%(message)s", level=logging.INFO)
listen = (ListenConfig("telnet", "127.0.0.1:0"),)
serve(Config(listen=listen, telnet_service=service, telnet_greeting="Welcome\\n", longest_line=5))
"""
    with Server(program=program, may_fail=True) as server, server.connect("telnet") as sock:
        assert receive_until(sock, b"\r\n") == b"Welcome\r\n"
        sock.sendall(b"abc\r\n123456\r\nraise\r\n")
        answer = receive_all(sock)
        assert answer.startswith(b"cba\r\n?Line too long: the limit is 5 bytes\r\n?")
        assert answer.count(b"\r\n") == 3
        until(lambda: "ZeroDivisionError" in server.stderr(), "the failure is logged")
        assert "unexpected error in the telnet service" in server.stderr()


FLOOD = 10_000_000  # bytes
ORDINARY = (
    b"".join(b"%0*d\r\n" % (size, size) for size in range(1, 1000)) + b"\xff\xfd\x18\xff\xf6\xff\xfa\x18\0X\xff\xf0end\r\n"
)


def growth(server: Server, *, since: int) -> int:
    """By how much its memory has grown at the worst."""
    return server.memory("VmHWM") - server.memory("RssFile") - since


def warmed_up(server: Server) -> int:
    """Its memory after ordinary conversations, from where its peak is counted anew. Without the program's own text, which
    counts for a forked process only when that process first comes by.
    """
    for _ in range(3):
        assert exchange(server, ORDINARY, "telnet").endswith(b"\r\nend\r\n")
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    return server.memory() - server.memory("RssFile")


def sent_to_the_limit(server: Server, sock: socket.socket, unit: bytes) -> int:
    """How many bytes of FLOOD go out before the server takes no more, and rests."""
    flood = memoryview(unit * (FLOOD // len(unit)))
    sent, cpu = 0, -1.0
    sock.setblocking(False)
    while sent < len(flood):
        if select.select([], [sock], [], 0.2)[1]:
            sent += sock.send(flood[sent : sent + 65536])
        elif server.cpu() == cpu:
            break
        cpu = server.cpu()
    sock.settimeout(DEADLINE)
    return sent


@pytest.fixture
def patient(folder: Path, tmp_path: Path) -> Iterator[Server]:
    """One that does not end a connection whose answers are not read: on a busy machine a flood takes minutes."""
    (tmp_path / "conf").write_text("[limits]\nsend_time = 0\n")
    with Server(folder, "-c", tmp_path / "conf", "--http", "0", "--telnet", "0") as running:
        yield running


@pytest.mark.parametrize(
    ("opening", "unit", "answer"),
    [
        pytest.param(b"", b"\xff\xfd\x63", b"\xff\xfc\x63", id="negotiation", marks=pytest.mark.slow),
        pytest.param(b"", b"\xff\xf6", b"\r\n[Yes]\r\n", id="AYT"),
        pytest.param(b"\xff\xfa\x18", b"A", b"", id="subnegotiation"),
    ],
)
def test_a_flood_takes_no_memory(patient: Server, opening: bytes, unit: bytes, answer: bytes) -> None:
    server = patient
    before = warmed_up(server)
    with server.connect("telnet", rcvbuf=65536) as deaf:  # less, and to read it all in the end takes long
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        deaf.sendall(opening)
        sent = sent_to_the_limit(server, deaf, unit)
        grown = growth(server, since=before)
        print(f"{unit!r}: {sent} bytes taken, memory has grown by {grown}")
        assert grown < 1 << 20
        if answer:
            assert sent < FLOOD, "it goes on taking commands whose answers nobody reads"
        else:
            assert sent == FLOOD, "what is thrown away needs no limit"
        assert exchange(server, b"x\r\n", "telnet") == b"x\r\n"
        # It has lost nothing: once the answers are read, all of them come.
        deaf.shutdown(socket.SHUT_WR)
        answers = receive_all(deaf)
    assert answers == answer * (sent // len(unit))
    assert growth(server, since=before) < 1 << 20
