"""Socket activation: sockets that systemd hands over are served, and left as they were."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from rawservers.daemon import control
from tests.harness.http_client import request, take_answer
from tests.harness.processes import kinds
from tests.harness.service_manager import handing_over
from tests.harness.sockets import listening, receive_until
from tests.harness.supervisor import CONTENT, get, supervise
from tests.harness.waiting import DEADLINE, until


def test_sockets_are_taken_over_and_left_as_they_were(conf: Path, tmp_path: Path) -> None:
    with listening() as http, listening(tmp_path / "telnet.sock") as telnet:
        with supervise("-c", conf, **handing_over(http, telnet, names="http:rawservers-telnet.socket")) as server:
            assert server.address("http") == http.getsockname()
            assert get(server) == CONTENT
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(tmp_path / "telnet.sock"))
                sock.sendall(b"x\r\n")
                assert receive_until(sock, b"\n") == b"x\r\n"
            control.reload(server.process.pid)
            assert get(server) == CONTENT
            assert b"LISTEN_" not in get(server, "/environment")
        assert (tmp_path / "telnet.sock").exists()
        with socket.create_connection(http.getsockname(), timeout=DEADLINE), http.accept()[0]:
            pass  # it still listens, for whoever is next


def test_who_comes_between_stop_and_start_is_served(conf: Path) -> None:
    with listening() as http:
        options = handing_over(http, names="http")
        with supervise("-c", conf, "--telnet", "off", **options) as server:
            assert get(server) == CONTENT
        with socket.create_connection(http.getsockname(), timeout=DEADLINE) as sock:
            sock.sendall(request("/f"))
            with supervise("-c", conf, "--telnet", "off", **options):
                assert take_answer(sock) == (200, False, CONTENT)


def test_sockets_for_another_process_are_none_of_ours(conf: Path) -> None:
    with listening() as sock, supervise("-c", conf, **handing_over(sock, names="http", whom="wrong")) as server:
        assert server.address("http") != sock.getsockname()
        assert get(server) == CONTENT
        until(lambda: all(kinds(pid)["socket"] == 3 for pid in server.workers()), "it has let go of the socket")


@pytest.mark.parametrize("what", ["a file", "a name", "no name", "a connection", "a datagram socket"])
def test_what_is_no_server_socket_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").touch()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context((tmp_path / "file").open())
        sock = stack.enter_context(listening())
        datagram = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        connection = stack.enter_context(socket.create_connection(sock.getsockname(), timeout=DEADLINE))
        given, names, why = {
            "a file": (file, "http", "cannot listen on fd:3: not a socket"),
            "a name": (sock, "gopher", "socket 'gopher' from systemd: "),
            "no name": (sock, "", "socket '' from systemd: "),
            "a connection": (connection, "http", "cannot listen on fd:3: not a stream socket that listens"),
            "a datagram socket": (datagram, "http", "cannot listen on fd:3: not a stream socket that listens"),
        }[what]
        with supervise(**handing_over(given, names=names)) as server:
            assert server.wait() == 2
            assert server.stderr().startswith(f"rawservers: {why}")
            assert server.stderr().count("\n") == 1
