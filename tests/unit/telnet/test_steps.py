"""The work of a call into a Telnet conversation: steps, which can be counted where times cannot be trusted."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import HIGH_WATER, Chunk, Closing, Deadline
from rawservers.telnet.client import BYTES_PER_STEP, WIDE_BYTES_PER_STEP, LineClient
from rawservers.telnet.echo import echo
from rawservers.telnet.service import Dialogue, LineService
from rawservers.telnet.session import STEPS
from tests.fuzz.steps import counted as lines_taken
from tests.harness.telnet import CHARACTERS, LONGEST_LINE, conversation, joined, neat, start
from tests.servers.telnet_services import login

MIB = 1 << 20
LINES_PER_STEP = 120
UNLIMITED = 1e9
DO_ALL = b"".join(bytes((255, 253, option)) for option in range(256) if option != 18)  # 18 is LOGOUT
ACCENTS = "\u0301\u0300\u0308".encode()
IDEOGRAPHS = "".join(map(chr, range(0x4E00, 0x4E00 + 1300))).encode()


class Counted:
    """A conversation whose calls are counted: what each said, and the steps it took."""

    def __init__(self, service: LineService = echo, **settings: Any) -> None:
        self.session = conversation(service, **settings)
        self.session.steps = 0
        self.steps: list[int] = []
        self.out: list[bytes] = []

    def hear(self, data: bytes) -> None:
        """`data`, and the turns that it takes."""
        self._note(self.session.receive(data))
        self.rest()

    def rest(self) -> None:
        while self.session.waiting is Deadline.TURN:
            self._note(self.session.resume())

    def _note(self, chunks: Sequence[Chunk]) -> None:
        assert neat(chunks)
        assert len(chunks) <= 3
        self.steps.append(self.session.steps)
        self.session.steps = 0
        self.out.append(joined(chunks))


# What is asked, before that, and in how long a line at most.
ATTACKS: dict[str, tuple[bytes, list[bytes], int]] = {
    "AO": (b"\xff\xf5", [], LONGEST_LINE),
    "AYT": (b"\xff\xf6", [], LONGEST_LINE),
    "AYT in a long line": (b"\xff\xf6", [CHARACTERS + b"x" * 4000], LONGEST_LINE),
    "NOP": (b"\xff\xf1", [], LONGEST_LINE),
    "IAC": (b"\xff\xff\n", [], LONGEST_LINE),
    "BRK": (b"\xff\xf3", [CHARACTERS], LONGEST_LINE),
    "DO of all options": (DO_ALL, [], LONGEST_LINE),
    "DO and DONT ECHO": (b"\xff\xfd\x01\xff\xfe\x01", [b"a" + ACCENTS * 600], LONGEST_LINE),
    "arrow keys": (b"\x1b[A\x1b[B", [CHARACTERS + b"a" + ACCENTS * 600 + b"\rb" + ACCENTS * 600 + b"\r"], LONGEST_LINE),
    "arrow keys over controls": (b"\x1b[A\x1b[B", [CHARACTERS + b"\x01" * 4096 + b"\r" + b"\x02" * 4096 + b"\r"], LONGEST_LINE),
    "letters and NOP": (b"a\xff\xf1", [], LONGEST_LINE),
    "letters and NOP, echoed": (b"a\xff\xf1", [CHARACTERS], LONGEST_LINE),
    "letters and NOP on a line of 1 MiB": (b"a\xff\xf1", [b"x" * (MIB - 60_000)], MIB),
    "letters and DEL on a line of 1 MiB": (b"a\x7f", [b"x" * (MIB - 60_000)], MIB),
    "words erased from a line of 1 MiB": (b"\x17", [b"a " * (MIB // 2)], MIB),
    "^R": (b"\x12", [CHARACTERS + b"x" * 4000], LONGEST_LINE),
    "^W": (b"\x17 word", [CHARACTERS], LONGEST_LINE),
    "^W over accents": (b" a" + ACCENTS * 600 + b"\x17", [CHARACTERS], LONGEST_LINE),
    "^U over ideographs": (IDEOGRAPHS + b"\x15", [CHARACTERS], LONGEST_LINE),
    "DEL over accents": (b"a" + ACCENTS * 600 + b"\x7f", [CHARACTERS], LONGEST_LINE),
    "DEL on an empty line": (b"\x7f", [], LONGEST_LINE),
    "^W on an empty line": (b"\x17", [CHARACTERS], LONGEST_LINE),
    "^W over blanks": (b" \x17", [], LONGEST_LINE),
    "line ends": (b"\n", [b"x"], LONGEST_LINE),
    "line ends, echoed": (b"\r", [CHARACTERS], LONGEST_LINE),
    "subnegotiations": (b"\xff\xfa\xff\xf0", [], LONGEST_LINE),
    "a subnegotiation": (b"\xff\xff", [b"\xff\xfa"], LONGEST_LINE),
    "too long": (b"xx\n", [], 1),
}
# A line of double width erased and another shown.
LARGEST = (6 * LONGEST_LINE) // BYTES_PER_STEP + LONGEST_LINE // WIDE_BYTES_PER_STEP + 10


def attack(name: str, size: int) -> Counted:
    flood, before, longest_line = ATTACKS[name]
    counted = Counted(longest_line=longest_line)
    for data in before:
        counted.hear(data)
    counted.steps.clear()
    counted.out.clear()
    counted.hear(flood * (size // len(flood)))
    return counted


@pytest.mark.parametrize("name", ATTACKS)
def test_a_call_does_so_much_at_most(name: str) -> None:
    counted = attack(name, 16384)
    assert max(counted.steps) <= STEPS + LARGEST
    assert max(map(len, counted.out)) <= HIGH_WATER + 6 * LONGEST_LINE
    assert all(steps >= STEPS for steps in counted.steps[:-1])  # and no less: a turn is not free
    assert sum(counted.steps) >= 16384 // BYTES_PER_STEP


@pytest.mark.parametrize("size", [4000, pytest.param(12_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ATTACKS)
def test_twice_as_much_is_twice_the_work(name: str, size: int) -> None:
    once, twice = (sum(attack(name, each).steps) for each in (size, 2 * size))
    assert twice <= 2.1 * once


@pytest.mark.parametrize("name", ATTACKS)
def test_a_step_is_a_few_lines_of_code(name: str) -> None:
    """So that what is counted is what it costs."""
    steps = 0

    def run(data: bytes) -> None:
        nonlocal steps
        steps = sum(attack(name, 4000).steps)

    assert lines_taken(run, b"", UNLIMITED) <= LINES_PER_STEP * steps


def test_letters_and_commands_on_a_long_line_are_counted_one_by_one() -> None:
    """Not by the length of the line; and it is whole in the end."""
    counted = Counted(longest_line=MIB)
    counted.hear(b"x" * (MIB - 5000))
    counted.steps.clear()
    counted.hear(b"a\xff\xf1" * 5000)
    assert sum(counted.steps) <= 4 * 5000
    assert b"".join(counted.out) == b""
    counted.hear(b"\r\n")
    assert b"".join(counted.out) == b"x" * (MIB - 5000) + b"a" * 5000 + b"\r\n"


def test_what_is_erased_counts_not_what_stays() -> None:
    counted = Counted(longest_line=MIB)
    counted.hear(CHARACTERS + "日本 ".encode() * 100_000)
    counted.steps.clear()
    counted.hear(b"\x7f\x7f\x17")
    assert sum(counted.steps) <= 20
    assert counted.out[-1] == b"\b \b" + b"\b\b  \b\b" + b"\b\b  \b\b"


@pytest.mark.parametrize("flood", [b"ada\r\nlovelace\r\n", b"ada\r\nlovelacX\x7fe\r\n", b"\r"])
@pytest.mark.parametrize("before", [b"", CHARACTERS])
def test_a_call_asks_a_service_a_few_times(flood: bytes, before: bytes) -> None:
    asked = 0

    def service(client: LineClient) -> Dialogue:
        nonlocal asked
        answers = login(client)
        prompt = next(answers)
        while True:
            line = yield prompt
            asked += 1
            prompt = answers.send(line)

    counted = Counted(service)
    most = 0
    counted._note(counted.session.receive(before + flood * (1 if flood == b"\r" else 1000)))
    while counted.session.waiting is Deadline.TURN:
        asked, most = 0, max(most, asked)
        counted._note(counted.session.resume())
    assert max(most, asked) <= 8
    assert max(counted.steps) <= STEPS + STEPS // 8 + 10


def test_a_line_function_is_asked_a_few_times_in_a_call() -> None:
    asked: list[bytes] = []
    counted = Counted(asked.append)
    counted.hear(b"a\n" * 1000)
    assert len(asked) == 1000
    assert 1000 / 8 <= len(counted.steps) <= 1000 / 6


def test_a_hundred_thousand_lines_pushed() -> None:
    counted = Counted()
    thread = threading.Thread(target=lambda: [counted.session.push_line(b"%d" % number) for number in range(100_000)])
    thread.start()
    thread.join()
    counted._note(counted.session.resume())
    counted.rest()
    assert b"".join(counted.out) == b"".join(b"%d\r\n" % number for number in range(100_000))
    assert max(counted.steps) <= STEPS + 2
    assert sum(counted.steps) <= 300_000


def test_pushed_while_others_are_shown() -> None:
    session = conversation()
    for number in range(1000):
        session.push_line(b"%d" % number)
    out = [joined(session.resume())]
    session.push_line(b"1000")
    assert session.waiting is Deadline.TURN
    assert session.receive(b"x\r\n") == (b"x\r\n",)  # does not wait for the news
    assert session.waiting is Deadline.TURN
    while session.waiting is Deadline.TURN:
        out.append(joined(session.resume()))
    out.append(joined(session.resume()))
    assert b"".join(out) == b"".join(b"%d\r\n" % number for number in range(1001))


def test_the_fast_path_counts_nothing_and_is_not_taken_in_a_rest() -> None:
    session = conversation()
    session.steps = 0
    assert session.receive(b"x\r\n") == (b"x\r\n",)
    assert session.steps == 0
    out = [joined(session.receive(b"\xff\xf6" * 1000))]
    assert session.waiting is Deadline.TURN
    out.append(joined(session.receive(b"x\r\n")))
    assert not out[-1].endswith(b"x\r\n")
    while session.waiting is Deadline.TURN:
        out.append(joined(session.resume()))
    assert b"".join(out) == b"\r\n[Yes]\r\n" * 1000 + b"x\r\n"
    assert session.receive(b"x\r\n") == (b"x\r\n",)


def test_resuming_without_a_reason() -> None:
    session = conversation()
    session.steps = 0
    assert session.resume() == session.resume() == ()
    assert (session.waiting, session.steps) == (Deadline.IDLE, 0)


def test_the_end_comes_after_what_was_received_before_it() -> None:
    session = conversation()
    out = joined(session.receive(b"\xff\xf6" * 1000 + b"last")) + joined(session.end())
    assert (session.waiting, session.closing) == (Deadline.TURN, Closing.KEEP)
    while session.waiting is Deadline.TURN:
        out += joined(session.resume())
    assert out == b"\r\n[Yes]\r\n" * 1000 + b"last\r\n"
    assert (session.waiting, session.closing) == (Deadline.IDLE, Closing.CLOSE)


def test_hanging_up_ends_the_rest() -> None:
    session = conversation()
    session.receive(b"\xff\xf6" * 1000)
    session.expire()
    assert (session.waiting, session.closing) == (Deadline.IDLE, Closing.LINGER)
    assert session.resume() == session.receive(b"x\r\n") == ()


def test_a_line_entered_plainly_leaves_the_history_where_a_line_entered_otherwise_does() -> None:
    """The place in the history is the line's end's to set, be it found by the fast path or not."""
    data = CHARACTERS + b"one\rtwo\r\x1b[A\x1b[A\x15\xff\xfe\x01x\r\n\xff\xfd\x01\x1b[A"
    at = data.index(b"x\r\n")
    whole, parts = Counted(), Counted()
    whole.hear(data)
    for part in (data[:at], data[at : at + 3], data[at + 3 :]):
        parts.hear(part)
    assert b"".join(whole.out) == b"".join(parts.out)
    assert b"".join(whole.out).endswith(b"two")


def test_who_is_lost_while_it_rests_leaves_no_cycle() -> None:
    """Nothing but its references keeps a conversation in memory: the garbage collector need not come round for it."""

    def answer(line: bytes) -> bytes:
        return line

    session = start(Peer(("192.0.2.1", 40000), Clock()), answer)
    session.receive(b"\xff\xf6" * 8192)
    assert session.waiting is Deadline.TURN
    seen = weakref.ref(answer)
    gc.disable()
    try:
        session.connection_lost()
        del session, answer
        assert seen() is None
    finally:
        gc.enable()


def test_a_service_learns_that_its_peer_is_lost() -> None:
    ended: list[bool] = []

    def ask(client: LineClient) -> Dialogue:
        try:
            yield b"? "
        finally:
            ended.append(True)
        return None

    session = start(Peer(("192.0.2.1", 40000), Clock()), ask)
    session.connection_lost()
    assert ended == [True]
    session.connection_lost()
    assert ended == [True]


def test_what_is_pushed_while_earlier_news_are_told_is_told_as_well() -> None:
    """Its wake-up may be served by the same `resume` as that of the earlier ones."""
    session = start(Peer(("192.0.2.1", 40000), Clock()))
    for number in range(300):
        session.push_line(b"line %d" % number)
    said = b"".join(map(bytes, session.resume()))  # type: ignore[arg-type]
    assert session.waiting is Deadline.TURN
    session.push_line(b"the last")
    while session.waiting is Deadline.TURN:
        said += b"".join(map(bytes, session.resume()))  # type: ignore[arg-type]
    assert said.count(b"\r\n") == 301
    assert said.endswith(b"the last\r\n")


def test_a_push_after_the_end_is_not_kept() -> None:
    session = start(Peer(("192.0.2.1", 40000), Clock()))
    session.connection_lost()
    session.push_line(b"too late")
    assert session.resume() == ()
    assert session.pushed == []
