"""The table of sockets as the welcome page shows it: rows of text, the same for the page and for its script."""

from __future__ import annotations

from typing import NamedTuple

from rawservers.core.peer import Address, address_text
from rawservers.sockets import ConnectedSocket, ListeningSocket, Sockets, TimeWaitSocket, bytes_text, seconds_text
from rawservers.welcome.visitor import Visitor

# State, service, address here, address of the other end, idle for, open for, bytes received, bytes sent.
Row = tuple[str, str, str, str, str, str, str, str]


class Table(NamedTuple):
    """What a visitor may see of the sockets.

    peer, local: host and port of the visitor's own connection, None if they are not to be shown; received, sent: its bytes.
    listening, connected, time_wait: rows. notes: sentences about what is not in them.
    """

    peer: Address | None
    local: Address | None
    received: str
    sent: str
    listening: list[Row]
    connected: list[Row]
    time_wait: list[Row]
    notes: list[str]


def table_for(visitor: Visitor, sockets: Sockets) -> Table:
    """The table for this visitor: without the addresses of others, unless they may be seen."""
    peer, local = visitor.peer, visitor.local
    own_ends = (address_text(peer), address_text(local)) if peer and local else None
    own = [row for row in sockets.connected if (row.peer, row.local) == own_ends]
    received, sent = (own[0].received, own[0].sent) if own else (None, None)
    shown = sockets.connected if visitor.sees_all else own
    listening = [row for row in sockets.listening if visitor.may_know(row.address)]
    time_wait = sockets.time_wait if visitor.sees_all else []
    return Table(
        peer,
        local,
        amount(received),
        amount(sent),
        [listening_row(row) for row in listening],
        [connected_row(row, row in own) for row in shown],
        [time_wait_row(row) for row in time_wait],
        notes(sockets, visitor.sees_all, len(shown), len(time_wait)),
    )


def amount(number: int | None) -> str:
    """With a unit: 1,234 bytes, 12 KiB."""
    text = bytes_text(number)
    return f"{text} bytes" if text[-1].isdigit() else text


def listening_row(row: ListeningSocket) -> Row:
    queue = f"accept queue {row.queued} of {row.limit}" if row.queued is not None else ""
    return "listening", row.service, row.address, queue, "", "", "", ""


def connected_row(row: ConnectedSocket, is_own: bool) -> Row:
    times, amounts = (seconds_text(row.idle), seconds_text(row.open)), (bytes_text(row.received), bytes_text(row.sent))
    return "this page" if is_own else row.state, row.service, row.local, row.peer, *times, *amounts


def time_wait_row(row: TimeWaitSocket) -> Row:
    return f"{seconds_text(row.seconds)} left", "", row.local, row.peer, "", "", "", ""


def notes(sockets: Sockets, sees_all: bool, connected: int, time_wait: int) -> list[str]:
    """Sentences about what the table does not show."""
    found = []
    if more := sockets.connected_total - connected:
        found.append(f"And {more:,} {'older' if sees_all else 'more'} connection{'s' * (more > 1)}.")
    if not sees_all:
        found.append("The addresses of others are shown only to a browser on this machine that asks for localhost.")
    if sockets.silent:
        found.append(f"Without those of {sockets.silent} of {sockets.workers} workers, which have not answered in time.")
    if sees_all and sockets.time_wait_total is None:
        found.append("The kernel's table of TIME_WAIT cannot be read here.")
    elif sees_all and (more := (sockets.time_wait_total or 0) - time_wait):
        found.append(f"And {more:,} more in TIME_WAIT{', or even more' * sockets.time_wait_cut}.")
    return found
