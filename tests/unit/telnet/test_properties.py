"""The Telnet conversation, given any bytes: properties, and 100,000 random inputs compared with a second implementation."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Chunk, Closing, Deadline, Urgent
from rawservers.telnet import session as telnet
from rawservers.telnet.echo import echo
from rawservers.telnet.service import LineService
from rawservers.telnet.session import Session
from tests.harness.telnet import CHARACTERS, neat, size_of, start, unexpected
from tests.servers.telnet_services import calculate, login

WORDS = [
    *(b"a b c \r \n \r\n \0 \x7f \b \x15 \x17 \x03 \x04 \x12 \x1b \x1b[A \x1b[B \x1b[1;2C".split(b" ")),
    *(bytes((255, code)) for code in range(236, 256)),
    *(bytes((255, verb, option)) for verb in range(251, 255) for option in (0, 1, 3, 6, 24, 255)),
    *("é я 日 😀".encode().split()),
    *(
        b" ",
        b"\xff",
        b"\xff\xff",
        b"\xff\xfa",
        b"\xff\xf0",
        b"\xff\xfa\x18\0X\xff\xf0",
        b"\xf0\x9f",
        b"\x80",
        b"word",
        b"ada\r",
        b"lovelace\r",
    ),
]
TEXTS = st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=4)), max_size=40).map(b"".join)
Packets: TypeAlias = list[tuple[bytes, bool]]
SERVICES = st.sampled_from([echo, login, calculate])


def conversation(answer: LineService = echo, longest_line: int = 20) -> Session:
    return start(Peer(("192.0.2.1", 40000), Clock()), answer, longest_line)


class Heard:
    """What a conversation has said: its bytes, and where the last urgent one stands among them (-1: nowhere)."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.data = b""
        self.urgent = -1

    def take(self, chunks: Sequence[Chunk]) -> None:
        """`chunks`, and what is said in the turns that are wanted then."""
        self._take(chunks)
        while self.session.waiting is Deadline.TURN:
            assert self.session.closing is Closing.KEEP
            self._take(self.session.resume())

    def _take(self, chunks: Sequence[Chunk]) -> None:
        assert neat(chunks)
        assert [type(chunk) for chunk in chunks].count(Urgent) <= 1
        for chunk in chunks:
            assert isinstance(chunk, bytes)
            if isinstance(chunk, Urgent):
                assert chunk == b"\xf2"
                self.urgent = len(self.data)
            self.data += chunk


def run(session: Session, packets: Packets) -> tuple[bytes, int, Closing]:
    heard = Heard(session)
    for data, urgent in packets:
        heard.take(session.receive(data, urgent))
    heard.take(session.end())
    return heard.data, heard.urgent, session.closing


@st.composite
def streams_cut_twice(draw: st.DrawFn) -> tuple[Packets, Packets]:
    """One stream, some parts of it before a Synch's mark, in two ways to cut it."""
    parts = draw(st.lists(st.tuples(TEXTS.filter(bool), st.booleans()), max_size=4))
    merged: Packets = []
    for data, urgent in parts:
        if merged and merged[-1][1] == urgent:
            data = merged.pop()[0] + data
        merged.append((data, urgent))
    cut: Packets = []
    for data, urgent in merged:
        places = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=12))})
        cut += [(data[a:b], urgent) for a, b in pairwise(places)]
    return merged, cut


@given(streams_cut_twice(), SERVICES, st.booleans())
def test_any_cut_says_the_same(streams: tuple[Packets, Packets], service: LineService, characters: bool) -> None:
    results = []
    for packets in streams:
        session = conversation(service)
        if characters:
            session.receive(CHARACTERS)
        results.append(run(session, packets))
    assert results[0] == results[1]


CALLS = st.lists(st.tuples(st.sampled_from(["receive"] * 6 + ["urgent", "push", "resume", "end"]), TEXTS), max_size=8)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@given(CALLS, SERVICES, st.booleans(), st.booleans())
def test_wherever_it_rests_it_says_the_same(
    steps: int, calls: list[tuple[str, bytes]], service: LineService, characters: bool, hasty: bool
) -> None:
    """`hasty`: of packets in a row, the next comes before the first is worked through."""
    results = []
    for budget in (sys.maxsize, steps):
        with mock.patch.object(telnet, "STEPS", budget):
            heard = Heard(conversation(service))
            if characters:
                heard.take(heard.session.receive(CHARACTERS))
            for at, (name, data) in enumerate(calls):
                if name == "push":
                    heard.session.push_line(data)
                    heard.take(heard.session.resume())
                elif name in ("resume", "end"):
                    heard.take(getattr(heard.session, name)())
                elif hasty and calls[at + 1 :] and calls[at + 1][0] in ("receive", "urgent", "end"):
                    heard._take(heard.session.receive(data, name == "urgent"))
                else:
                    heard.take(heard.session.receive(data, name == "urgent"))
            heard.take(heard.session.end())
            results.append((heard.data, heard.urgent, heard.session.closing))
    assert results[0] == results[1]


@given(TEXTS, SERVICES)
def test_byte_by_byte_says_the_same(data: bytes, service: LineService) -> None:
    whole = run(conversation(service), [(data, False)] if data else [])
    assert run(conversation(service), [(data[i : i + 1], False) for i in range(len(data))]) == whole


@given(streams_cut_twice())
def test_the_fast_paths_of_an_echo_session_change_nothing(streams: tuple[Packets, Packets]) -> None:
    for packets in streams:
        general = Session(Peer(("192.0.2.1", 40000), Clock()), echo, longest_line=20, on_failure=unexpected)
        assert run(conversation(), packets) == run(general, packets)


@given(TEXTS)
def test_a_line_mode_echo_says_at_most_four_and_a_half_times_what_it_heard(data: bytes) -> None:
    data = data.replace(b"\xff\xfd\x01", b"").replace(b"\xff\xfd\x03", b"")
    heard = Heard(conversation(longest_line=4096))
    heard.take(heard.session.receive(data))
    assert len(heard.data) <= 4.5 * len(data)


@given(
    st.lists(
        st.tuples(st.sampled_from(["receive", "urgent", "end", "expire", "drain", "resume", "push"]), TEXTS),
        max_size=12,
    ),
    SERVICES,
)
def test_nothing_raises_in_any_order(calls: list[tuple[str, bytes]], service: LineService) -> None:
    session = conversation(service)
    for name, data in calls:
        match name:
            case "receive" | "urgent":
                session.receive(data, name == "urgent")
            case "push":
                session.push_line(data)
            case _:
                getattr(session, name)()


@given(
    st.text(
        alphabet=st.characters(min_codepoint=1, exclude_characters="\x04\b\x15\x17\x7f", exclude_categories=["Cs"]),
        max_size=200,
    )
)
def test_without_editing_it_is_exactly_the_lines(text: str) -> None:
    data = text.encode()
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    session = conversation(longest_line=4096)
    out = b"".join(c for c in session.receive(data) if isinstance(c, bytes))
    assert out == b"".join(line + b"\r\n" for line in lines[:-1])


@pytest.mark.parametrize("rounds", [30, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("characters", [False, True])
def test_memory_is_bounded(characters: bool, rounds: int) -> None:
    """Whatever was said to it, a conversation keeps its line, its history and little more."""
    choose = random.Random(1)
    session = conversation(longest_line=4096)
    if characters:
        session.receive(CHARACTERS)
    words = [word for word in WORDS if word not in (b"\x04", b"\xff\xec", b"\xff\xfd", b"\xff\xfe", b"\xff\xfe\x01")]
    tracemalloc.start()
    try:
        for _ in range(rounds):
            session.receive(b"x" * choose.randrange(4096) + b"".join(choose.choices(words, k=100)))
            while session.waiting is Deadline.TURN:
                session.resume()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert session.closing is Closing.KEEP
    assert size_of(session, {id(session.peer), *map(id, [*Closing, *Deadline])}) < 80_000
    assert kept < 200_000


# A second opinion: the rules for a line as one would write them down first, one byte at a time.


def model(data: bytes, longest_line: int) -> bytes:
    """What an echo in line mode says to text with no 255 and no ^D in it."""
    out, line, after_cr, dropping = b"", bytearray(), False, False
    for byte in data:
        ends = byte == 13 or (byte == 10 and not after_cr)
        skipped = byte == 0 or (byte == 10 and after_cr)
        after_cr = byte == 13
        if ends:
            out += b"" if dropping else bytes(line) + b"\r\n"
            line, dropping = bytearray(), False
        elif skipped or dropping:
            continue
        elif byte in (8, 127):
            del line[-1:]
        elif byte == 21:
            line.clear()
        elif byte == 23:
            line = line.rstrip(b" \t")
            del line[max(line.rfind(b" "), line.rfind(b"\t")) + 1 :]
        elif len(line) == longest_line:
            out += b"?Line too long: the limit is %d bytes\r\n" % longest_line
            line, dropping = bytearray(), True
        else:
            line.append(byte)
    return out


@pytest.mark.parametrize("count", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_inputs_against_the_model(count: int) -> None:
    choose = random.Random(20)
    keys = [
        b"a",
        b"b",
        b"cd ",
        b"\t",
        b" ",
        b"\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"\x7f",
        b"\b",
        b"\x15",
        b"\x17",
        b"\x03",
        b"\x1b",
    ]
    plain = [b"a", b"bc", b" ", b"\r\n", b"\r\n", b"\n", b"\r"]
    for round_ in range(count):
        longest_line = 2 + round_ % 7
        data = b"".join(choose.choices(plain if round_ % 4 == 0 else keys, k=choose.randrange(14)))
        cut = choose.randrange(len(data) + 1)
        session = conversation(longest_line=longest_line)
        out = b"".join(session.receive(data[:cut]) + session.receive(data[cut:]))  # type: ignore[arg-type]
        assert out == model(data, longest_line), (data, cut, longest_line)
