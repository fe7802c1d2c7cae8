"""What the kernel counts for a socket."""

from __future__ import annotations

import socket
from unittest import mock

from rawservers.core.tcp_info import tcp_info
from tests.harness.waiting import until


def test_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=7) as server:
        with socket.create_connection(server.getsockname()) as peer:
            info = tcp_info(server)
            assert info
            assert (info.queued, info.limit) == (1, 7)
            ours, _ = server.accept()
        with ours, socket.create_connection(server.getsockname()) as peer:
            ours.close()
            ours, _ = server.accept()
            peer.sendall(b"x" * 100)
            ours.sendall(b"y" * 300)
            assert peer.recv(1000)

            def counted() -> tuple[int | None, int | None]:
                info = tcp_info(ours)
                assert info
                assert 0 <= info.idle < 20
                return info.received, info.sent

            until(lambda: counted() == (100, 300), "they are counted")
            peer.shutdown(socket.SHUT_WR)
            ours.recv(1000)
            assert ours.recv(1) == b""
            assert counted() == (100, 300)  # the FIN is no byte
            ours.close()


def test_a_kernel_that_counts_no_bytes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, mock.patch("rawservers.core.tcp_info.SIZE", 104):
        info = tcp_info(server)
    assert info
    assert (info.received, info.sent) == (None, None)


def test_a_unix_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert tcp_info(ours) is None
