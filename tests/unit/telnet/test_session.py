"""The Telnet conversation: wire vectors at every cut, services, limits, and what it costs."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import pytest

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import HIGH_WATER, Chunk, Closing, Deadline, Urgent
from rawservers.settings import Config
from rawservers.telnet import nvt
from rawservers.telnet.client import LineClient
from rawservers.telnet.echo import EchoSession, echo, is_plain
from rawservers.telnet.service import Dialogue, Hidden, LineService
from rawservers.telnet.session import EDITING_KEYS, FAILURE_MESSAGE, IDLE_MESSAGE, Session
from tests.harness import wire
from tests.servers.telnet_services import calculate, login

CASES = wire.load("telnet")
LONGEST_LINE = Config().longest_line
TOO_LONG = b"?Line too long: the limit is 4096 bytes\r\n"
CHARACTERS = b"\xff\xfd\x01\xff\xfd\x03"  # the peer asks for character mode ...
GRANTED = b"\xff\xfb\x01\xff\xfb\x03"  # ... and gets it


def peer(wake: Callable[[], None] = lambda: None) -> Peer:
    return Peer(("192.0.2.1", 40000), Clock(), wake=wake)


def start(peer: Peer, service: LineService = echo, longest_line: int = LONGEST_LINE, **settings: Any) -> Session:
    if service is echo:
        return EchoSession(peer, longest_line=longest_line, **settings)
    return Session(peer, service, longest_line=longest_line, **settings)


def conversation(answer: LineService = echo, **settings: Any) -> Session:
    return start(peer(), answer, **settings)


def in_character_mode(answer: LineService = echo, **settings: Any) -> Session:
    session = conversation(answer, **settings)
    session.receive(CHARACTERS)
    return session


def joined(chunks: Iterable[Chunk]) -> bytes:
    return b"".join(chunk for chunk in chunks if isinstance(chunk, bytes))


def resumed(session: Session) -> list[bytes]:
    """What it says in each of the turns that it wants."""
    out = []
    while session.waiting is Deadline.TURN:
        out.append(joined(session.resume()))
    return out


def said(session: Session, packets: Iterable[bytes]) -> bytes:
    return b"".join(joined(session.receive(packet)) + b"".join(resumed(session)) for packet in packets)


def neat(chunks: Sequence[Chunk]) -> bool:
    """No chunk is empty and no two neighbours could be one."""
    kinds = [type(chunk) for chunk in chunks]
    return all(chunks) and all(Urgent in pair for pair in pairwise(kinds))


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
def test_subnegotiation_is_counted_not_stored(flood: bytes) -> None:
    machine = nvt.Nvt()
    assert set(machine.parse(flood)) <= {(nvt.NO_EVENT, b"")}
    assert machine.subnegotiation_bytes >= 50_000
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


# Services.


def test_a_function_of_the_line() -> None:
    assert conversation(bytes.upper).receive(b"abc\r\nd\xff\xffe\r\n") == (b"ABC\r\nD\xff\xffE\r\n",)


def test_none_says_nothing_and_line_ends_are_telnets() -> None:
    answers: dict[bytes, bytes | None] = {b"none": None, b"two": b"a\nb\r\nc", b"cr": b"a\rb", b"": b""}
    session = conversation(answers.__getitem__)
    assert session.receive(b"none\r\ntwo\r\ncr\r\n\r\n") == (b"a\r\nb\r\nc\r\na\r\0b\r\n\r\n",)


def test_no_nul_after_cr_in_binary() -> None:
    session = conversation(lambda line: b"a\rb")
    assert session.receive(b"\xff\xfd\x00x\r\n") == (b"\xff\xfb\x00a\rb\r\n",)


def test_calculator() -> None:
    session = conversation(calculate)
    assert session.receive(b"2*(3+4)\r\n\r\n1/0\r\nx\r\n7 / 2\r\n") == (b"14\r\n?\r\n?\r\n3.5\r\n",)


@pytest.mark.parametrize("evil", [b"(" * 4000, b"1+" * 2000 + b"1", b"'a'*3", b"-", b"__import__('os')", b"1j"])
def test_calculator_survives(evil: bytes) -> None:
    session = conversation(calculate)
    session.receive(evil + b"\r\n")
    assert session.failure is None


@pytest.mark.parametrize("service", [login, calculate])
def test_a_service_is_under_twenty_lines(service: Callable[..., object]) -> None:
    assert len(inspect.getsource(service).splitlines()) < 20


def test_login_from_a_peer_that_shows_its_own_typing() -> None:
    session = conversation(login)
    assert session.greeting == b"login: "
    assert session.receive(b"ada\r\n") == (b"\xff\xfb\x01Password: ",)  # never SGA: that is for character mode
    assert session.receive(b"\xff\xfd\x01") == ()
    assert session.receive(b"lovelace\r\n") == (b"\r\nWelcome, ada\r\n\xff\xfc\x01$ ",)
    assert session.receive(b"\xff\xfe\x01") == ()
    assert session.receive(b"hi\r\n") == (b"hi\r\n$ ",)
    assert session.receive(b"logout\r\nmore\r\n") == (b"Goodbye\r\n",)
    assert session.closing is Closing.LINGER


def test_login_in_character_mode() -> None:
    session = in_character_mode(login)
    assert session.receive(b"adx\x7fa\r") == (b"adx\x08 \x08a\r\nPassword: ",)
    assert session.receive(b"lovelacX\x7fe\r") == (b"\r\nWelcome, ada\r\n$ ",)
    assert session.receive(b"hi\r") == (b"hi\r\nhi\r\n$ ",)
    assert session.receive(b"\x1b[A\x1b[A\x1b[A\x1b[A") == (b"hi\x08\x08  \x08\x08ada",)  # not the password


def test_login_at_any_cut() -> None:
    data = b"bob\r\n\xff\xfd\x01x\r\n\xff\xfe\x01ada\r\n\xff\xfd\x01lovelace\r\nhi\r\nlogout\r\ngone"
    whole = said(conversation(login), [data])
    assert b"Login incorrect" in whole
    assert whole.endswith(b"hi\r\n$ Goodbye\r\n")
    for cut in wire.cuts(data):
        assert said(conversation(login), cut) == whole


def test_too_many_attempts() -> None:
    session = conversation(login)
    assert joined(session.receive(b"a\r\n\xff\xfd\x01b\r\n\xff\xfe\x01" * 4)).endswith(
        b"incorrect\r\n\xff\xfc\x01Too many attempts\r\n"
    )
    assert session.closing is Closing.LINGER


def test_a_peer_that_will_not_have_its_typing_hidden() -> None:
    session = conversation(login)
    session.receive(b"ada\r\n")
    assert session.receive(b"\xff\xfe\x01") == ()
    assert session.receive(b"lovelace\r\n") == (b"Welcome, ada\r\n$ ",)


def test_a_password_typed_before_the_peer_has_answered() -> None:
    session = conversation(login)
    assert session.receive(b"ada\r\nlovelace\r\n") == (b"\xff\xfb\x01Password: Welcome, ada\r\n$ ",)
    assert session.receive(b"\xff\xfd\x01") == (b"\xff\xfc\x01",)  # RFC 1143 §7: one question at a time
    assert session.receive(b"\xff\xfe\x01hi\r\n") == (b"hi\r\n$ ",)


def test_a_peer_that_asks_for_characters_while_its_typing_is_hidden() -> None:
    session = conversation(login)
    session.receive(b"ada\r\n")
    assert session.receive(b"\xff\xfd\x01\xff\xfd\x03") == (b"\xff\xfb\x03",)
    assert session.receive(b"lovelace\r") == (b"\r\nWelcome, ada\r\n$ ",)
    assert session.receive(b"hi") == (b"hi",)


def test_hiding_while_our_offer_to_echo_is_not_answered_yet() -> None:
    session = conversation(login)
    assert session.receive(b"\xff\xfd\x03ada\r\n") == (b"\xff\xfb\x03\xff\xfb\x01Password: ",)
    assert session.receive(b"lovelace\r\n\xff\xfd\x01") == (b"Welcome, ada\r\n$ ",)
    assert session.receive(b"hi") == (b"hi",)


def test_prompts_are_shown_again() -> None:
    session = in_character_mode(login)
    assert session.receive(b"ab\x12\xff\xf6\x03") == (b"ab^R\r\nlogin: ab\r\n[Yes]\r\nlogin: ab^C\r\nlogin: ",)


def test_an_over_long_answer_to_a_prompt() -> None:
    assert conversation(login, longest_line=3).receive(b"abcd\r\n") == (b"?Line too long: the limit is 3 bytes\r\nlogin: ",)


def test_an_over_long_hidden_answer() -> None:
    session = in_character_mode(login, longest_line=3)
    assert session.receive(b"ada\rabcd\r") == (b"ada\r\nPassword: \r\n?Line too long: the limit is 3 bytes\r\nPassword: ",)


def test_unfinished_last_line_goes_to_the_service() -> None:
    session = conversation(login)
    session.receive(b"ada\r\nlovelace\r\nlast")
    assert session.end() == (b"last\r\n$ ",)
    assert session.closing is Closing.CLOSE


def test_push() -> None:
    woken: list[int] = []
    session = start(peer(lambda: woken.append(1)))
    session.client.push_line(b"news \xff")
    session.client.push_line(b"more")
    assert woken == [1, 1]
    assert session.resume() == (b"news \xff\xff\r\nmore\r\n",)
    assert session.resume() == ()


def test_push_in_the_middle_of_a_line() -> None:
    session = in_character_mode(login)
    session.receive(b"ab")
    session.client.push_line(b"news")
    assert session.resume() == (b"\r\nnews\r\nlogin: ab",)
    assert session.receive(b"c\r") == (b"c\r\nPassword: ",)


def test_push_while_typing_is_hidden() -> None:
    session = in_character_mode(login)
    session.receive(b"ada\rsec")
    session.client.push_line(b"news")
    assert session.resume() == (b"\r\nnews\r\nPassword: ",)


def test_push_after_the_end_says_nothing() -> None:
    session = conversation()
    session.receive(b"\x04")
    session.client.push_line(b"late")
    assert session.resume() == ()


def test_a_service_hangs_up_by_returning() -> None:
    def daytime(client: LineClient) -> Dialogue:
        client.send_line(client.peer.address[0].encode())
        return b"bye"
        yield b""

    session = conversation(daytime, greeting=b"hello\n")
    assert (session.greeting, session.closing) == (b"hello\r\n192.0.2.1\r\nbye\r\n", Closing.LINGER)
    assert session.receive(b"abc\r\n") == ()


def failing(client: LineClient) -> Dialogue:
    yield b"> "
    raise ValueError("broken")


def failing_at_once(client: LineClient) -> Dialogue:
    raise ValueError("broken")
    yield b""


def returning_nonsense(client: LineClient) -> Dialogue:
    yield b"> "
    return cast("bytes", "text")


def prompting_nonsense(client: LineClient) -> Dialogue:
    yield b"> "
    while True:
        yield cast("bytes", None)


def failing_in_the_end(client: LineClient) -> Dialogue:
    try:
        yield b"> "
    finally:
        raise ValueError("broken")


def failing_function(line: bytes) -> bytes:
    raise ValueError(line)


def answering_nonsense(line: bytes) -> bytes:
    return cast("bytes", 5)


@pytest.mark.parametrize(
    "service",
    [failing, failing_function, answering_nonsense, returning_nonsense, prompting_nonsense, failing_in_the_end],
)
def test_a_service_that_raises_costs_its_own_conversation(service: LineService) -> None:
    session = conversation(service)
    assert session.receive(b"one\r\ntwo\r\n") == (FAILURE_MESSAGE + b"\r\n",)
    assert session.closing is Closing.LINGER
    assert isinstance(session.failure, (ValueError, TypeError, AttributeError))


def test_a_service_that_raises_before_it_has_said_anything() -> None:
    session = conversation(failing_at_once)
    assert (session.greeting, session.closing) == (FAILURE_MESSAGE + b"\r\n", Closing.LINGER)


def test_a_service_that_raises_when_it_is_cut_off() -> None:
    session = conversation(failing_in_the_end)
    assert session.expire() == (b"\r\n" + IDLE_MESSAGE + b"\r\n",)
    assert isinstance(session.failure, ValueError)


def test_hidden_again_keeps_hiding() -> None:
    def change(client: LineClient) -> Dialogue:
        first = yield Hidden(b"New: ")
        again = yield Hidden(b"Again: ")
        return b"same" if first == again else b"not the same"

    session = conversation(change)
    assert session.greeting == b"\xff\xfb\x01New: "
    assert session.receive(b"\xff\xfd\x01a\r\n") == (b"\r\nAgain: ",)
    assert session.receive(b"a\r\n") == (b"\r\n\xff\xfc\x01same\r\n",)


# Cost.


def python_calls(call: Callable[[], object]) -> int:
    """How many Python functions run during `call`."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
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
    assert python_calls(lambda: session.receive(b"y\r\n" * 1000 + b"z")) <= 20


def size_of(thing: object, seen: set[int]) -> int:
    """Bytes of memory that `thing` holds alone: no classes, functions, constants or what `seen` has already."""
    if id(thing) in seen or isinstance(thing, type) or callable(thing) or thing is None:
        return 0
    seen.add(id(thing))
    return sys.getsizeof(thing) + sum(size_of(part, seen) for part in gc.get_referents(thing))


def test_an_idle_conversation_is_small() -> None:
    other = peer()
    session = start(other)
    session.receive(b"x" * 62 + b"\r\n")
    assert size_of(session, {id(other), *map(id, [*Closing, *Deadline])}) < 1024


def test_what_is_plain() -> None:
    for code in range(256):
        data = b"ab\r\n" + bytes((code,)) + b"cd"
        assert is_plain(data) == (code not in b"\xff" + EDITING_KEYS)
