"""The table of a server's sockets: what ss(8) would show of it, as objects, as JSON, and as lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar, get_type_hints

from rawservers.core.record import Record

MAX_ROWS = 200  # of each kind in a table
MAX_NUMBER = 1 << 63
MAX_CHARACTERS = 512  # of a text in a row

T = TypeVar("T", bound=NamedTuple)


class ListeningSocket(NamedTuple):
    """queued, limit: connections in the accept queue, and how many it takes; None where the kernel does not say."""

    service: str
    address: str
    queued: int | None
    limit: int | None


class ConnectedSocket(NamedTuple):
    """peer, local: addresses; state: what it waits for; idle, open: seconds since the last data, and since the accept;
    received, sent: bytes, None where the kernel does not count them; pid: of the worker."""

    service: str
    peer: str
    local: str
    state: str
    idle: float
    open: float
    received: int | None
    sent: int | None
    pid: int


class TimeWaitSocket(NamedTuple):
    """A connection that this side has closed first, and whose port pair the kernel keeps for `seconds` more."""

    local: str
    peer: str
    seconds: float


class Sockets(Record):
    """The sockets of all workers. silent: workers whose connections are missing, since they have not answered in time.

    connected: the newest, MAX_ROWS at most, of `connected_total`; time_wait: the same, of `time_wait_total`, which is None if
    the kernel's table cannot be read, and too low if it is too long to be read in whole (`time_wait_cut`).
    """

    workers: int
    silent: int
    listening: list[ListeningSocket]
    connected: list[ConnectedSocket]
    connected_total: int
    time_wait: list[TimeWaitSocket]
    time_wait_total: int | None
    time_wait_cut: bool = False


def as_json(sockets: Sockets) -> str:
    """A JSON object with the fields of `Sockets`, each row an object."""
    import json

    rows = {name: [row._asdict() for row in getattr(sockets, name)] for name in ("listening", "connected", "time_wait")}
    return json.dumps({**vars(sockets), **rows}, indent=1) + "\n"


def parse_json(text: str) -> Sockets:
    """The table from what `as_json` has made. Raises ValueError for anything else."""
    import json

    try:
        table = json.loads(text)
        for name, kind in (("listening", ListeningSocket), ("connected", ConnectedSocket), ("time_wait", TimeWaitSocket)):
            table[name] = parse_rows(kind, [[row[field] for field in kind._fields] for row in table[name]])
        counts = [table[name] for name in ("workers", "silent", "connected_total")]
        if not all(_fits(int, number) for number in counts) or not _fits(int | None, table["time_wait_total"]):
            raise ValueError
        return Sockets(**table)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("malformed table of sockets") from error


def parse_rows(kind: type[T], rows: Iterable[Sequence[Any]]) -> list[T]:
    """Rows of this kind. Raises ValueError or TypeError unless each has values of the right types, and within limits."""
    types = get_type_hints(kind).values()
    made = []
    for row in rows:
        if len(row) != len(types) or not all(map(_fits, types, row)):
            raise ValueError("malformed row")
        made.append(kind(*row))
    return made


def _fits(kind: object, value: object) -> bool:
    """Whether `value` is of this type, and within limits."""
    if kind is str:
        return type(value) is str and len(value) <= MAX_CHARACTERS
    if kind is float and type(value) is float:
        return 0 <= value < math.inf
    return (type(value) is int and 0 <= value < MAX_NUMBER) or (value is None and kind == int | None)


def as_lines(sockets: Sockets) -> list[str]:
    """Lines of printable ASCII: one for each socket below their titles, and for what is not shown."""
    queues = [f"{row.queued} of {row.limit}" if row.queued is not None else "-" for row in sockets.listening]
    lines = _aligned(
        ["LISTENING", "ADDRESS", "ACCEPT QUEUE"],
        [[row.service, row.address, queue] for row, queue in zip(sockets.listening, queues, strict=True)],
    )
    titles = ["CONNECTED", "STATE", "IDLE", "OPEN", "RECEIVED", "SENT", "WORKER", "PEER", "LOCAL"]
    connected = [
        [row.service, row.state, seconds_text(row.idle), seconds_text(row.open), bytes_text(row.received), bytes_text(row.sent),
         str(row.pid), row.peer, row.local]
        for row in sockets.connected
    ]  # fmt: skip
    lines += ["", *_aligned(titles, connected)]
    if more := sockets.connected_total - len(sockets.connected):
        lines.append(f"and {more:,} older ones")
    if sockets.silent:
        lines.append(f"without those of {sockets.silent} of {sockets.workers} workers, which have not answered in time")
    if sockets.time_wait_total is None:
        return lines
    waiting = [[row.local, row.peer, seconds_text(row.seconds)] for row in sockets.time_wait]
    lines += ["", *_aligned(["TIME_WAIT", "PEER", "LEFT"], waiting)]
    if more := sockets.time_wait_total - len(sockets.time_wait):
        lines.append(f"and {more:,} more" + ", or even more" * sockets.time_wait_cut)
    return lines


def _aligned(titles: list[str], rows: list[list[str]]) -> list[str]:
    table = [
        titles,
        *([ascii(text)[1:-1] for text in row] for row in rows),
    ]  # what comes from a peer must not act on a terminal
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def seconds_text(seconds: float) -> str:
    """As ss(8) has it: 1.5s, 3m20s, 5h04m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60:,}h{minutes % 60:02}m"


def bytes_text(number: int | None) -> str:
    """1,234, 12 KiB, 34 MiB; "-" for None."""
    if number is None:
        return "-"
    units = ["", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"]
    power = max(0, (number.bit_length() - 4) // 10) if number >= 10_000 else 0
    return f"{number >> 10 * power:,}{units[power]}"
