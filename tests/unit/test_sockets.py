"""The table of sockets: as JSON and back, and as lines that cannot act on a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.core.record import replace
from rawservers.sockets import (
    MAX_CHARACTERS,
    ConnectedSocket,
    ListeningSocket,
    Sockets,
    TimeWaitSocket,
    as_json,
    as_lines,
    parse_json,
    parse_rows,
)
from rawservers.watch import frame

TABLE = Sockets(
    workers=3,
    silent=1,
    listening=[ListeningSocket("http", "[::]:80", 2, 4096), ListeningSocket("status", "unix:/s", None, None)],
    connected=[
        ConnectedSocket("http", "192.0.2.1:5", "192.0.2.9:80", "idle", 1.25, 61.0, 12345, 9, 4711),
        ConnectedSocket("status", "unix:", "unix:/s", "busy", 0.0, 7260.0, None, None, 12),
    ],
    connected_total=1002,
    time_wait=[TimeWaitSocket("192.0.2.9:80", "192.0.2.1:6", 59.5)],
    time_wait_total=8,
    time_wait_cut=True,
)

LINES = """\
LISTENING  ADDRESS  ACCEPT QUEUE
http       [::]:80  2 of 4096
status     unix:/s  -

CONNECTED  STATE  IDLE  OPEN   RECEIVED  SENT  WORKER  PEER         LOCAL
http       idle   1.2s  1m01s  12 KiB    9     4711    192.0.2.1:5  192.0.2.9:80
status     busy   0.0s  2h01m  -         -     12      unix:        unix:/s
and 1,000 older ones
without those of 1 of 3 workers, which have not answered in time

TIME_WAIT     PEER         LEFT
192.0.2.9:80  192.0.2.1:6  59.5s
and 7 more, or even more"""


def test_lines() -> None:
    assert "\n".join(as_lines(TABLE)) == LINES


def test_lines_of_a_whole_table() -> None:
    whole = replace(TABLE, silent=0, connected_total=2, time_wait_total=1, time_wait_cut=False)
    shown = [line for line in LINES.split("\n") if not line.startswith(("and ", "without "))]
    assert as_lines(whole) == shown
    assert as_lines(replace(whole, time_wait=[], time_wait_total=None)) == shown[:-3]


def test_json_and_back() -> None:
    text = as_json(TABLE)
    assert parse_json(text) == TABLE
    assert json.loads(text)["connected"][0]["peer"] == "192.0.2.1:5"
    assert text.isascii()


ROW = [*TABLE.connected[0]]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 5), (0, None), (1, "x" * (MAX_CHARACTERS + 1)), (4, -1), (4, float("nan")), (4, float("inf")), (4, True), (4, "1"),
        (4, None), (6, -1), (6, 1 << 63), (6, 1.5), (8, None), (8, []),
    ],
)  # fmt: skip
def test_a_malformed_row(place: int, value: Any) -> None:
    with pytest.raises(ValueError, match="malformed row"):
        parse_rows(ConnectedSocket, [[*ROW[:place], value, *ROW[place + 1 :]]])


@pytest.mark.parametrize("rows", [[ROW[:-1]], [[*ROW, 1]], [[]]])
def test_a_row_of_another_length(rows: list[list[Any]]) -> None:
    with pytest.raises(ValueError, match="malformed row"):
        parse_rows(ConnectedSocket, rows)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", "[" * 100_000, as_json(TABLE)[:-5], as_json(TABLE).replace('"idle": 1.25', '"idle": NaN'),
        as_json(TABLE).replace('"silent": 1', '"silent": "1"'), as_json(TABLE).replace('"workers"', '"more": 1, "workers"'),
    ],
)  # fmt: skip
def test_malformed_json(text: str) -> None:
    with pytest.raises(ValueError, match="malformed table"):
        parse_json(text)


@given(st.text(max_size=20), st.text(alphabet="\x1b\x9b\r\n\x07\x7f\u202e\udcff]0;[2J", max_size=20))
def test_nothing_acts_on_a_terminal(service: str, text: str) -> None:
    hostile = replace(
        TABLE,
        listening=[ListeningSocket(service, text, 1, 1)],
        connected=[ConnectedSocket(service, text, text, text, 1, 1, 1, 1, 1)],
        time_wait=[TimeWaitSocket(text, text, 1)],
    )
    for line in as_lines(hostile):
        assert line.isascii()
        assert line == "" or line.isprintable()
    assert parse_json(as_json(hostile)) == hostile


def test_a_frame() -> None:
    assert frame(["ab", "c\x1b[2J"], 80, 3) == b"\x1b[Hab\x1b[K\nc\\x1b[2J\x1b[K\x1b[J"
    assert frame(["abc", "d"], 3, 2) == b"\x1b[Hab\x1b[K\nd\x1b[K\x1b[J"
    assert frame(["abc" * 30], 0, 0) == b"\x1b[H" + b"abc" * 26 + b"a\x1b[K\x1b[J"  # under script(1)
    assert frame(["a"] * 25, 0, 0).endswith(b"... 2 more lines\x1b[K\x1b[J")
    assert frame(["a", "b", "c", "d"], 20, 3) == b"\x1b[Ha\x1b[K\nb\x1b[K\n... 2 more lines\x1b[K\x1b[J"
