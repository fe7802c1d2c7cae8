"""The Telnet conversation: wire vectors at every cut, limits, the end, and what a line costs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from rawservers.core.protocol import HIGH_WATER, Closing, Deadline, Urgent
from rawservers.telnet import nvt
from rawservers.telnet.echo import is_plain
from rawservers.telnet.session import IDLE_MESSAGE, SPECIAL_BYTES, Session
from tests.harness import wire
from tests.harness.telnet import (
    LONGEST_LINE,
    conversation,
    in_character_mode,
    joined,
    neat,
    peer,
    resumed,
    said,
    size_of,
    start,
)

CASES = wire.load("telnet")
TOO_LONG = b"?Line too long: the limit is 4096 bytes\r\n"


# Vectors.


def packets_of(case: dict[str, Any]) -> list[tuple[bytes, bool]]:
    return [(wire.unescape(text), at in case.get("urgent", ())) for at, text in enumerate(case["in"])]


def ways(case: dict[str, Any]) -> Iterable[list[tuple[bytes, bool]]]:
    """As given; whole, byte by byte and split in two at every index (each packet by itself, if one is urgent)."""
    packets = packets_of(case)
    yield packets
    if not case.get("urgent"):
        for cut in wire.cuts(b"".join(data for data, _ in packets)):
            yield [(data, False) for data in cut]
        return
    for at, (data, urgent) in enumerate(packets):
        for cut in wire.cuts(data):
            yield packets[:at] + [(part, urgent) for part in cut] + packets[at + 1 :]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_vector(case: dict[str, Any]) -> None:
    expected = wire.unescape(case["out"])
    closing = Closing.CLOSE if case.get("end") else Closing(case.get("closing", "keep"))
    for packets in ways(case):
        session = conversation()
        out: list[bytes] = []
        for data, urgent in packets:
            chunks = session.receive(data, urgent)
            assert neat(chunks)
            out.append(joined(chunks))
        if case.get("end"):
            out.append(joined(session.end()))
        assert (b"".join(out), session.closing) == (expected, closing), packets


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_vector_says_all_of_a_packet_at_once(case: dict[str, Any]) -> None:
    for data, urgent in packets_of(case):
        chunks = conversation().receive(data, urgent)
        assert Urgent in map(type, chunks) or len(chunks) <= 1


def test_the_answer_to_ao_is_a_synch() -> None:
    chunks = conversation().receive(b"a\r\n\xff\xf5\xff\xf5b\r\n")
    assert chunks == (b"a\r\n\xff\xf2\xff", Urgent(b"\xf2"), b"b\r\n")
    assert [type(chunk) for chunk in chunks] == [bytes, Urgent, bytes]
    assert conversation().receive(b"\xff\xf5") == (b"\xff", Urgent(b"\xf2"))


def test_the_first_word_is_the_peers() -> None:
    assert conversation().greeting == b""


def test_greeting() -> None:
    assert conversation(greeting=b"hello\nyou \xff\r\n").greeting == b"hello\r\nyou \xff\xff\r\n"


# Limits.

ONE_TOO_MANY = b"x" * (LONGEST_LINE + 1)


def test_longest_line() -> None:
    line = b"x" * LONGEST_LINE + b"\r\n"
    assert conversation().receive(line) == (line,)
    assert said(conversation(), [line[:1000], line[1000:]]) == line
    assert said(conversation(), [line[i : i + 1] for i in range(len(line))]) == line


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b"\r\0"])
@pytest.mark.parametrize("size", [LONGEST_LINE, LONGEST_LINE + 1, LONGEST_LINE + 2])
@pytest.mark.parametrize("before", [b"", b"ok\r\n", b"y" * 3000 + b"\r\n"])
def test_the_limit_is_exact_however_it_is_met(end: bytes, size: int, before: bytes) -> None:
    data = before + b"x" * size + end + b"ok\r\n"
    line = b"x" * size + b"\r\n" if size <= LONGEST_LINE else TOO_LONG
    expected = before + line + b"ok\r\n"
    assert said(conversation(), [data]) == expected
    for cut in (1, 2, len(before) + 1, 4095, 4096, 4097, 4098, 4099, 4100, 4101, len(data) - 5, len(data) - 1):
        assert said(conversation(), [data[:cut], data[cut:]]) == expected, cut
    assert said(conversation(), [data[i : i + 1] for i in range(len(data))]) == expected


def test_over_long_is_said_at_once_and_once() -> None:
    session = conversation()
    assert session.receive(ONE_TOO_MANY[:-1]) == ()
    assert session.receive(b"x") == (TOO_LONG,)
    assert said(session, [b"more" * 50_000]) == b""
    assert session.receive(b"\x7f\x15\x17\x04 and more") == ()
    assert session.receive(b"\r\nok\r\n") == (b"ok\r\n",)
    assert session.closing is Closing.KEEP


def test_over_long_then_end() -> None:
    session = conversation()
    session.receive(ONE_TOO_MANY)
    assert session.end() == ()
    assert session.closing is Closing.CLOSE


def test_commands_are_heard_in_a_line_too_long() -> None:
    session = conversation()
    out = session.receive(ONE_TOO_MANY + b"\xff\xfd\x63y\xff\xf6\r\nok\r\n")
    assert out == (TOO_LONG + b"\xff\xfc\x63\r\n[Yes]\r\nok\r\n",)


def test_an_interrupt_abandons_a_line_too_long() -> None:
    assert conversation().receive(ONE_TOO_MANY + b"\xff\xf4ok\r\n") == (TOO_LONG + b"ok\r\n",)


def test_erasing_makes_room() -> None:
    line = b"x" * LONGEST_LINE
    assert conversation().receive(line + b"\x7fy\r\n") == (line[:-1] + b"y\r\n",)


def test_the_limit_is_a_setting() -> None:
    session = conversation(longest_line=3)
    assert session.receive(b"abc\r\nabcd\r\nab\r\n") == (b"abc\r\n?Line too long: the limit is 3 bytes\r\nab\r\n",)


def test_over_long_in_character_mode() -> None:
    session = in_character_mode(longest_line=3)
    assert session.receive(b"abcdef\r\nok\r\n") == (b"abc\r\n?Line too long: the limit is 3 bytes\r\nok\r\nok\r\n",)


@pytest.mark.parametrize("flood", [b"\xff\xfa\x18" + b"A" * 100_000, b"\xff\xfa" + b"\xff\xff" * 50_000])
def test_a_subnegotiation_is_not_stored(flood: bytes) -> None:
    assert set(nvt.Nvt().parse(flood)) <= {(nvt.NO_EVENT, b"")}
    assert said(conversation(), [flood + b"\xff\xf0x\r\n"]) == b"x\r\n"


@pytest.mark.parametrize("flood", [b"\xff\xf6", b"\xff\xfd\x63", b"\xff\xf5", b"\xff\xfd\x06", b"\r", b"\n", b"\x08a"])
@pytest.mark.parametrize("make", [conversation, in_character_mode])
def test_amplification(flood: bytes, make: Callable[[], Session]) -> None:
    data = flood * 20_000
    session = make()
    out = [joined(session.receive(data)), *resumed(session)]
    assert sum(map(len, out)) <= 4.5 * len(data)
    assert max(map(len, out)) <= HIGH_WATER
    assert session.resume() == ()


@pytest.mark.parametrize("flood", [b"\x12", b"\x1b[A", b"\x1b[A\r", b"\xff\xf6"])
def test_what_asks_for_much_rests_at_the_high_water_mark(flood: bytes) -> None:
    """However much is asked for, a call says little more than the mark, and all is said in the end, in order."""
    session = in_character_mode()
    session.receive(b"x" * 1000 + b"\r" + b"y" * 2000)
    asked = flood * 300 + b"\r\nend\r\n"
    out = [joined(session.receive(asked)), *resumed(session)]
    assert max(map(len, out)) <= HIGH_WATER + 3 * LONGEST_LINE
    one_by_one = in_character_mode()
    one_by_one.receive(b"x" * 1000 + b"\r" + b"y" * 2000)
    assert b"".join(out) == said(one_by_one, [asked[i : i + 1] for i in range(len(asked))])
    assert b"".join(out).endswith(b"end\r\nend\r\n")
    assert session.receive(b"") == session.resume() == ()


def test_nothing_overtakes_what_rests() -> None:
    """Not even by the fast path: a flood of error lines, then a plain line."""
    session = conversation(longest_line=1)
    out = [joined(session.receive(b"xx\n" * 5000)), joined(session.receive(b"y\n"))]
    out += resumed(session)
    assert b"".join(out) == b"?Line too long: the limit is 1 bytes\r\n" * 5000 + b"y\r\n"


def test_resting_keeps_the_order_of_what_comes_later() -> None:
    session = in_character_mode()
    session.receive(b"x" * 4000)
    out = [joined(session.receive(b"\x12" * 60)), joined(session.receive(b"\r1\r")), joined(session.end())]
    out += resumed(session)
    assert max(map(len, out)) <= HIGH_WATER + 3 * LONGEST_LINE
    assert b"".join(out).count(b"^R") == 60
    assert b"".join(out).endswith(b"x" * 4000 + b"\r\n1\r\n1\r\n")
    assert session.closing is Closing.CLOSE


# The end.


def test_idle() -> None:
    session = conversation()
    assert session.expire() == (IDLE_MESSAGE + b"\r\n",)
    assert session.closing is Closing.LINGER
    assert session.receive(b"late\r\n") == session.resume() == session.expire() == ()


def test_idle_in_the_middle_of_a_line() -> None:
    session = in_character_mode()
    session.receive(b"abc")
    assert session.expire() == (b"\r\n" + IDLE_MESSAGE + b"\r\n",)


def test_nothing_is_heard_after_the_end() -> None:
    session = conversation()
    session.receive(b"\x04")
    assert session.receive(b"late\r\n") == ()
    assert (session.closing, session.end(), session.closing) == (Closing.LINGER, (), Closing.CLOSE)


def test_logout_then_fin_does_not_answer_the_unfinished_line() -> None:
    session = conversation()
    session.receive(b"abc\xff\xfd\x12")
    assert session.end() == ()


def test_drain_waits_for_the_peer() -> None:
    session = conversation()
    assert session.drain() == ()
    assert session.closing is Closing.KEEP
    assert session.waiting is Deadline.IDLE


# Cost.


def python_calls(call: Callable[[], object]) -> int:
    """How many Python functions run during `call`; not those of the garbage collector, which meets other objects."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    gc.disable()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


@pytest.mark.parametrize("line", [b"x" * 62 + b"\r\n", b"x" * 63 + b"\n"])
def test_calls_per_line(line: bytes) -> None:
    session = conversation()
    receive = session.receive

    def one() -> None:
        assert receive(line) == (line.rstrip() + b"\r\n",)

    assert python_calls(one) - 1 <= 3


def test_calls_per_packet_do_not_grow_with_its_lines() -> None:
    session = conversation()
    assert python_calls(lambda: session.receive(b"x" * 62 + b"\r\n" * 1000)) - 1 <= 3
    session.receive(b"x")
    assert python_calls(lambda: session.receive(b"y\r\n" * 1000 + b"z")) <= 8


def test_an_idle_conversation_is_small() -> None:
    other = peer()
    session = start(other)
    session.receive(b"x" * 62 + b"\r\n")
    assert size_of(session, {id(other), *map(id, [*Closing, *Deadline])}) < 1024


def test_what_is_plain() -> None:
    for code in range(256):
        data = b"ab\r\n" + bytes((code,)) + b"cd"
        assert is_plain(data) == (code not in b"\xff" + SPECIAL_BYTES)
