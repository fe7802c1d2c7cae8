"""What the kernel counts for a TCP socket: getsockopt TCP_INFO, see tcp(7) and <linux/tcp.h>."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from rawservers.core.connection import Connection

FIELDS = struct.Struct(
    "B7x12I"
)  # the state, and of the numbers [4] unacked, [5] sacked, [9] last_data_sent, [11] last_data_recv
RECEIVED_OFFSET, SENT_OFFSET = 128, 200  # since Linux 4.1 and 4.19
BYTES = struct.Struct("Q"), struct.Struct("QQ")  # bytes_received; bytes_sent, bytes_retrans
PEER_HAS_CLOSED = {8, 9, 11}  # CLOSE_WAIT, LAST_ACK, CLOSING: bytes_received counts the FIN as one
SIZE = 256  # more than the structure has


class TcpInfo(NamedTuple):
    """idle: seconds since the last data in any direction; received, sent: bytes of data, None if the kernel is too old.

    For a listening socket: queued: connections in its accept queue; limit: how many that takes.
    """

    idle: float
    received: int | None
    sent: int | None
    queued: int
    limit: int


def connection_info(connection: Connection) -> TcpInfo | None:
    """The same for the socket of a connection."""
    return tcp_info(connection._sock)


def tcp_info(sock: socket.SocketType) -> TcpInfo | None:
    """None for a socket that is not TCP. Raises OSError."""
    if sock.family == socket.AF_UNIX:
        return None
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SIZE)
    state, *numbers = FIELDS.unpack_from(data)
    received = sent = None
    if len(data) >= RECEIVED_OFFSET + BYTES[0].size:
        received = BYTES[0].unpack_from(data, RECEIVED_OFFSET)[0] - (state in PEER_HAS_CLOSED)
    if len(data) >= SENT_OFFSET + BYTES[1].size:
        total, again = BYTES[1].unpack_from(data, SENT_OFFSET)
        sent = total - again
    return TcpInfo(min(numbers[9], numbers[11]) / 1000, received, sent, numbers[4], numbers[5])
