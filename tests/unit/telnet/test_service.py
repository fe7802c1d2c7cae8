"""Telnet services, functions and generators: answers, prompts, hidden typing, pushed lines, and services that fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import cast

import pytest

from rawservers.core.protocol import Closing, Deadline
from rawservers.telnet.client import MAX_PUSHED, LineClient
from rawservers.telnet.service import Dialogue, Hidden, LineService
from rawservers.telnet.session import FAILURE_MESSAGE, IDLE_MESSAGE
from tests.harness import wire
from tests.harness.telnet import conversation, in_character_mode, joined, peer, said, start
from tests.servers.telnet_services import calculate, login

# Functions of a line


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
    assert len(session.receive(evil + b"\r\n")) == 1  # a failure would be raised here
    assert session.closing is Closing.KEEP


@pytest.mark.parametrize("service", [login, calculate])
def test_a_service_is_under_twenty_lines(service: Callable[..., object]) -> None:
    assert len(inspect.getsource(service).splitlines()) < 20


# Generators that prompt


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


def test_hidden_again_keeps_hiding() -> None:
    def change(client: LineClient) -> Dialogue:
        first = yield Hidden(b"New: ")
        again = yield Hidden(b"Again: ")
        return b"same" if first == again else b"not the same"

    session = conversation(change)
    assert session.greeting == b"\xff\xfb\x01New: "
    assert session.receive(b"\xff\xfd\x01a\r\n") == (b"\r\nAgain: ",)
    assert session.receive(b"a\r\n") == (b"\r\n\xff\xfc\x01same\r\n",)


def test_a_service_hangs_up_by_returning() -> None:
    def daytime(client: LineClient) -> Dialogue:
        client.send_line(client.peer.address[0].encode())
        return b"bye"
        yield b""

    session = conversation(daytime, greeting=b"hello\n")
    assert (session.greeting, session.closing) == (b"hello\r\n192.0.2.1\r\nbye\r\n", Closing.LINGER)
    assert session.receive(b"abc\r\n") == ()


# Pushed lines


def test_push() -> None:
    woken: list[int] = []
    session = start(peer(lambda: woken.append(1)))
    session.push_line(b"news \xff")
    session.push_line(b"more")
    assert woken == [1, 1]
    assert session.resume() == (b"news \xff\xff\r\nmore\r\n",)
    assert session.resume() == ()


def test_push_in_the_middle_of_a_line() -> None:
    session = in_character_mode(login)
    session.receive(b"ab")
    session.push_line(b"news")
    assert session.resume() == (b"\r\nnews\r\nlogin: ab",)
    assert session.receive(b"c\r") == (b"c\r\nPassword: ",)


def test_push_while_typing_is_hidden() -> None:
    session = in_character_mode(login)
    session.receive(b"ada\rsec")
    session.push_line(b"news")
    assert session.resume() == (b"\r\nnews\r\nPassword: ",)


def test_push_after_the_end_says_nothing() -> None:
    session = conversation()
    session.receive(b"\x04")
    assert not session.push_line(b"late")
    assert session.resume() == ()


def test_push_to_a_client_that_does_not_read() -> None:
    """The core does not resume it. What waits is bounded, and is sent once it reads again."""
    session = conversation()
    sent = [session.push_line(b"x" * 998) for _ in range(2000)]
    assert sent == [True] * -(-MAX_PUSHED // 1000) + [False] * (2000 - -(-MAX_PUSHED // 1000))
    out = b"".join(session.resume())
    while session.waiting is Deadline.TURN:
        out += b"".join(session.resume())
    assert out == (b"x" * 998 + b"\r\n") * sent.count(True)
    assert session.push_line(b"again")
    assert session.resume() == (b"again\r\n",)


# Failures


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
    failures: list[Exception] = []
    session = conversation(service, on_failure=failures.append)
    assert session.receive(b"one\r\ntwo\r\n") == (FAILURE_MESSAGE + b"\r\n",)
    assert session.closing is Closing.LINGER
    (failure,) = failures
    assert isinstance(failure, (ValueError, TypeError, AttributeError))


def test_a_service_that_raises_before_it_has_said_anything() -> None:
    session = conversation(failing_at_once, on_failure=lambda failure: None)
    assert (session.greeting, session.closing) == (FAILURE_MESSAGE + b"\r\n", Closing.LINGER)


def test_a_service_that_raises_when_it_is_cut_off() -> None:
    failures: list[Exception] = []
    session = conversation(failing_in_the_end, on_failure=failures.append)
    assert session.expire() == (b"\r\n" + IDLE_MESSAGE + b"\r\n",)
    assert [type(failure) for failure in failures] == [ValueError]
