"""Replies with faults, played without a socket: what is sent when, and what becomes of the connection."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from rawservers import Response
from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Chunk, Closing, Deadline, FileSlice, OpenFile, Protocol, ResponseEnd
from rawservers.telnet.service import Hidden
from rawservers.testing import HTTPServer, TelnetServer
from rawservers.testing.replies import Ending, Reply
from rawservers.testing.scripted import Cue, Scripted

KEPT = b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n"
BODY = b"0123456789"


class Timed(Peer):
    """A peer that records what `call_later` was asked for. `wakes` counts calls of `wake`."""

    __slots__ = ("later", "wakes")

    def __init__(self) -> None:
        super().__init__(("192.0.2.1", 4711), Clock(now=100.0, time=1e9))
        self.later: list[float] = []
        self.wakes = 0

    def call_later(self, seconds: float) -> None:
        self.later.append(seconds)

    def wake(self) -> None:
        self.wakes += 1


class Played:
    """A connection to `server`, and what its protocol sends, call by call."""

    def __init__(self, server: HTTPServer | TelnetServer) -> None:
        self.peer = Timed()
        self.protocol = server._begin(self.peer)
        self.sent: list[bytes] = [self.protocol.greeting] if self.protocol.greeting else []
        self.ends = 0

    @property
    def said(self) -> bytes:
        return b"".join(self.sent)

    def take(self, chunks: Sequence[Chunk]) -> bytes:
        """Record the chunks of a call, and of those for its turns, as the core makes them; returns their bytes."""
        data = b"".join(chunk for chunk in chunks if isinstance(chunk, bytes))
        self.ends += sum(isinstance(chunk, ResponseEnd) for chunk in chunks)
        self.sent += [data] if data else []
        if self.protocol.waiting is Deadline.TURN and self.protocol.closing is Closing.KEEP:
            data += self.take(self.protocol.resume())
        return data

    def receive(self, data: bytes) -> bytes:
        return self.take(self.protocol.receive(data))

    def pass_time(self, seconds: float) -> bytes:
        self.peer.clock.now += seconds
        return self.take(self.protocol.resume())

    def finish(self) -> list[float]:
        """Let all pauses pass; returns their lengths."""
        count = 0
        while len(self.peer.later) > count:
            count += 1
            self.pass_time(self.peer.later[-1])
        return self.peer.later


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


@pytest.fixture
def server() -> HTTPServer:
    return HTTPServer()


def test_a_plain_reply_is_what_the_conversation_says(server: HTTPServer) -> None:
    server.expect_request("/a").respond_with_data(BODY)
    played = Played(server)
    answer = played.receive(KEPT % b"/a")
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert body(answer) == BODY
    assert (played.protocol.waiting, played.protocol.closing, played.ends) == (Deadline.IDLE, Closing.KEEP, 1)
    assert played.peer.later == []


def test_a_delay_is_one_timer_and_nothing_is_read_meanwhile(server: HTTPServer) -> None:
    server.expect_request("/a").delay(0.5).respond_with_data(BODY)
    played = Played(server)
    assert played.receive(KEPT % b"/a") == b""
    assert played.protocol.waiting is Deadline.NONE
    assert played.peer.later == [0.5]
    assert played.pass_time(0.4) == b""  # as after a wake-up for some other reason
    assert played.protocol.waiting is Deadline.NONE
    assert body(played.pass_time(0.1)) == BODY
    assert (played.protocol.waiting, played.ends) == (Deadline.IDLE, 1)
    assert played.peer.later == [0.5]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_trickle_comes_in_pieces_of_its_size(server: HTTPServer, size: int) -> None:
    server.expect_request("/a").respond_with_data(BODY)
    server.expect_request("/b").trickle(size, every=0.25).respond_with_data(BODY)
    whole = Played(server).receive(KEPT % b"/a")
    played = Played(server)
    played.receive(KEPT % b"/b")
    assert played.finish() == [0.25] * (-(-len(whole) // size) - 1)
    assert played.said == whole
    assert [len(piece) for piece in played.sent[:-1]] == [size] * (len(played.sent) - 1)
    assert (played.ends, played.protocol.waiting) == (1, Deadline.IDLE)


def test_a_delay_and_a_trickle(server: HTTPServer) -> None:
    server.expect_request("/a").trickle(100, 0.1).delay(3).respond_with_data(b"x" * 200)
    played = Played(server)
    played.receive(KEPT % b"/a")
    assert played.finish()[:2] == [3, 0.1]
    assert body(played.said) == b"x" * 200


@pytest.mark.parametrize(
    ("ending", "closing", "waiting"),
    [
        ("close", Closing.CLOSE, Deadline.NONE),
        ("reset", Closing.RESET, Deadline.NONE),
        ("hang", Closing.KEEP, Deadline.NONE),
        ("keep", Closing.KEEP, Deadline.IDLE),
    ],
)
def test_endings(server: HTTPServer, ending: Ending, closing: Closing, waiting: Deadline) -> None:
    server.expect_request("/cut").cut_after(4, ending).respond_with_data(BODY)
    server.expect_request("/raw").raw(b"not HTTP", ending)
    for path, expected in ((b"/cut", b"0123"), (b"/raw", b"not HTTP")):
        played = Played(server)
        answer = played.receive(KEPT % path)
        assert (body(answer) or answer) == expected
        assert played.protocol.closing is closing
        assert closing is not Closing.KEEP or played.protocol.waiting is waiting
        assert played.peer.later == []
        played.protocol.connection_lost()


@pytest.mark.parametrize(("verb", "closing"), [("reset", Closing.RESET), ("close", Closing.CLOSE), ("hang", Closing.KEEP)])
def test_an_ending_without_an_answer(server: HTTPServer, verb: str, closing: Closing) -> None:
    getattr(server.expect_request("/a"), verb)()
    played = Played(server)
    assert played.receive(KEPT % b"/a") == b""
    assert played.protocol.closing is closing
    assert [request.path for request in server.requests] == ["/a"]


def test_a_pipelined_request_waits_for_the_end_of_the_reply_before_it(server: HTTPServer) -> None:
    server.expect_request("/slow").delay(1).trickle(50, 0.1).respond_with_data(b"slow")
    server.expect_request("/quick").respond_with_data(b"quick")
    played = Played(server)
    assert played.receive(KEPT % b"/slow" + KEPT % b"/quick" + KEPT % b"/slow" + KEPT % b"/quick") == b""
    assert [request.path for request in server.requests] == ["/slow"]
    played.finish()
    answers = played.said.split(b"HTTP/1.0 200 OK\r\n")[1:]
    assert list(map(body, answers)) == [b"slow", b"quick", b"slow", b"quick"]
    assert (played.ends, played.protocol.waiting) == (4, Deadline.IDLE)


@pytest.mark.parametrize("verb", ["reset", "close", "hang"])
def test_a_pipelined_request_behind_an_ending_was_never_asked(server: HTTPServer, verb: str) -> None:
    getattr(server.expect_request("/a"), verb)().then.respond_with_data("second")
    played = Played(server)
    played.receive(KEPT % b"/a" + KEPT % b"/a")
    assert played.said == b""
    assert len(server.requests) == 1
    assert body(Played(server).receive(KEPT % b"/a")) == b"second"


def test_any_cut_of_the_input_is_answered_the_same(server: HTTPServer) -> None:
    server.expect_request("/a").delay(1).respond_with_data(BODY)
    server.expect_request("/b", "POST").trickle(40, 1).respond_with_handler(lambda request: request.body)
    data = KEPT % b"/a" + b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody" + KEPT % b"/a"
    whole = Played(server)
    whole.receive(data)
    whole.finish()
    assert whole.ends == 3
    for index in range(len(data)):
        played = Played(server)
        played.receive(data[:index])
        played.finish()
        played.receive(data[index:])
        played.finish()
        assert played.said == whole.said


def test_the_interim_response_is_not_delayed_or_edited(server: HTTPServer) -> None:
    server.expect_request("/a", "POST").delay(1).declare_length(7).respond_with_data(b"done")
    head = b"POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    for parts in ((head, b"body"), (head + b"body",)):
        played = Played(server)
        assert played.receive(parts[0]) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert all(played.receive(part) == b"" for part in parts[1:])
        assert played.peer.later == [1]
        answer = played.pass_time(1)
        assert (body(answer), b"\r\nContent-Length: 7\r\n" in answer) == (b"done", True)


def test_header_fields_of_the_test_replace_those_of_the_server(server: HTTPServer) -> None:
    fields = {"server": "mine", "Date": "never", "X-A": "b", "Content-Type": "a/b"}
    server.expect_request("/a").respond_with_data(BODY, headers=fields)
    server.expect_request("/b").respond_with_data("2\r\nab\r\n0\r\n\r\n", headers={"Transfer-Encoding": "chunked"})
    server.expect_request("/c").respond_with_data(BODY, headers={"Connection": "close"})
    played = Played(server)
    head = played.receive(KEPT % b"/a").partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    assert sorted(head) == [
        "Connection: keep-alive", "Content-Length: 10", "Content-Type: a/b", "Date: never", "Server: mine", "X-A: b",
    ]  # fmt: skip
    chunked = played.receive(KEPT % b"/b").lower()
    assert b"\r\ntransfer-encoding: chunked\r\n" in chunked
    assert b"content-length" not in chunked
    played.receive(KEPT % b"/c")
    assert played.protocol.closing is Closing.CLOSE


@pytest.mark.parametrize(("length", "closing"), [(11, Closing.CLOSE), (10, Closing.KEEP), (0, Closing.KEEP)])
def test_a_declared_length(server: HTTPServer, length: int, closing: Closing) -> None:
    server.expect_request("/a").respond_with_data(BODY).declare_length(length)
    played = Played(server)
    answer = played.receive(KEPT % b"/a")
    assert answer.count(b"Content-Length") == 1
    assert b"\r\nContent-Length: %d\r\n" % length in answer
    assert body(answer) == BODY
    assert played.protocol.closing is closing


def test_a_future_with_faults(server: HTTPServer) -> None:
    future: Future[Response] = Future()
    server.expect_request("/a").delay(1).cut_after(3).respond_with_handler(lambda request: future)
    played = Played(server)
    assert played.receive(KEPT % b"/a" + KEPT % b"/a") == b""
    assert (played.peer.later, played.peer.wakes) == ([], 0)
    future.set_result(Response(200, [], BODY))
    assert played.peer.wakes == 1
    assert played.pass_time(0) == b""
    assert body(played.pass_time(1)) == BODY[:3]
    assert len(server.requests) == 1


def test_a_wake_up_during_a_script_is_made_up_for() -> None:
    class Woken(Protocol):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[bytes]:
            cue.script = reply.steps
            return (data,)

        def resume(self) -> Sequence[bytes]:
            return (b"woken",)

    peer, cue, reply = Timed(), Cue(), Reply()
    reply.delay = 1
    protocol = Scripted(peer, Woken(), cue)
    assert protocol.receive(b"answer") == []
    assert protocol.resume() == ()
    peer.clock.now += 1
    assert protocol.resume() == [b"answer"]
    assert protocol.waiting is Deadline.TURN
    assert protocol.resume() == (b"woken",)
    assert protocol.waiting is Deadline.IDLE


def test_a_stream_is_delayed_but_not_cut(server: HTTPServer) -> None:
    """It is sent in several calls, of which a script sees the first."""

    def stream(request: object) -> Response:
        return Response(200, [], iter([b"01234", b"56789"]))

    server.expect_request("/delay").delay(1).respond_with_handler(stream)
    server.expect_request("/cut").cut_after(7).respond_with_handler(stream)
    server.expect_request("/trickle").trickle(3).respond_with_handler(stream)
    played = Played(server)
    assert played.receive(KEPT % b"/delay") == b""
    played.finish()
    assert (body(played.said), played.ends) == (BODY, 1)
    server.check()
    for path in (b"/cut", b"/trickle"):
        Played(server).receive(KEPT % path)
        with pytest.raises(AssertionError, match="ValueError: a stream cannot be cut, trickled or given a length"):
            server.check()


def test_parts_of_files_are_read_for_a_script(server: HTTPServer, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(BODY)
    with (tmp_path / "f").open("rb") as file:
        part = FileSlice(OpenFile(file.fileno(), lambda fd: None), 2, 5)
        server.expect_request("/a").cut_after(3).respond_with_handler(lambda request: Response(200, [], part))
        assert body(Played(server).receive(KEPT % b"/a")) == b"234"


def test_faults_of_the_next_connections(server: HTTPServer) -> None:
    server.expect_request("/a").respond_with_data(BODY)
    server.reset_connections(2)
    assert [server._begin(Timed()).closing for _ in range(3)] == [Closing.RESET, Closing.RESET, Closing.KEEP]
    server.reset_connections()
    server.clear()
    assert server._begin(Timed()).closing is Closing.KEEP


@pytest.fixture
def telnet() -> TelnetServer:
    server = TelnetServer()
    server.expect_line("admin", prompt="login: ", ordered=True)
    server.expect_line("secret", prompt="Password: ", hidden=True, ordered=True)
    return server


IAC_WILL_ECHO, IAC_WONT_ECHO = b"\xff\xfb\x01", b"\xff\xfc\x01"


def test_a_login(telnet: TelnetServer) -> None:
    telnet.expect_line("show version", prompt="> ").respond("7.2\nbuilt today")
    played = Played(telnet)
    assert played.said == b"login: "
    assert played.receive(b"admin\r\n") == IAC_WILL_ECHO + b"Password: "
    assert played.receive(b"\xff\xfd\x01") == b""  # DO ECHO
    assert played.receive(b"secret\r\n") == b"\r\n" + IAC_WONT_ECHO + b"> "
    assert played.receive(b"show version\r\n") == b"7.2\r\nbuilt today\r\n> "
    assert played.receive(b"\r\n") == b"> "
    assert telnet.lines == [b"admin", b"secret", b"show version", b""]
    assert [entry.data for entry in telnet.log if not entry.is_sent][:2] == [b"admin\r\n", b"\xff\xfd\x01"]
    assert b"".join(entry.data for entry in telnet.log if entry.is_sent) == played.said
    telnet.check()


def test_the_prompt_is_the_first_of_the_lines_that_are_left() -> None:
    server = TelnetServer()
    server.expect_line("exit").close()
    server.expect_line("show", prompt="> ")
    server.expect_line("more", prompt="> ")
    server.expect_line("first", ordered=True)
    server.expect_line("second", prompt="2? ", ordered=True)
    played = Played(server)
    assert played.said == b""  # that of the next ordered line
    assert [played.receive(line + b"\r\n") for line in (b"first", b"second", b"more")] == [b"2? ", b"> ", b"> "]


@pytest.mark.parametrize("typed_ahead", [True, False])
def test_a_line_with_a_script_and_those_behind_it(telnet: TelnetServer, typed_ahead: bool) -> None:
    telnet.expect_line("slow", prompt="> ").delay(2).trickle(4, 0.5).respond("0123456")
    telnet.expect_line("quick").respond("quick")
    played = Played(telnet)
    lines = [b"admin\r\n", b"secret\r\n", b"slow\r\n", b"quick\r\n"]
    for data in [b"".join(lines)] if typed_ahead else lines:
        played.receive(data)
        played.finish()
    assert played.peer.later == [2, 0.5, 0.5]
    assert played.said == b"login: " + IAC_WILL_ECHO + b"Password: > 0123456\r\n> quick\r\n> "


def test_what_is_typed_is_echoed_before_the_script_begins() -> None:
    server = TelnetServer()
    server.expect_line("cut", prompt="> ").respond("0123456789").cut_after(3)
    played = Played(server)
    played.receive(b"\xff\xfd\x01\xff\xfd\x03")  # character mode
    assert played.receive(b"cut\r\n") == b"cut\r\n012"
    assert played.protocol.closing is Closing.CLOSE


@pytest.mark.parametrize("cut_first", [True, False])
def test_a_cut_before_and_behind_its_answer_is_the_same(cut_first: bool) -> None:
    telnet, server = TelnetServer(), HTTPServer()
    if cut_first:
        telnet.expect_line("cut").cut_after(3, "reset").respond("0123456789")
        server.expect_request("/a").cut_after(3, "reset").respond_with_data(BODY)
    else:
        telnet.expect_line("cut").respond("0123456789").cut_after(3, "reset")
        server.expect_request("/a").respond_with_data(BODY).cut_after(3, "reset")
    for played, data in ((Played(telnet), b"cut\r\n"), (Played(server), KEPT % b"/a")):
        answer = played.receive(data)
        assert (body(answer) or answer) == b"012"
        assert played.protocol.closing is Closing.RESET


@pytest.mark.parametrize(("ending", "closing"), [("close", Closing.CLOSE), ("reset", Closing.RESET), ("hang", Closing.KEEP)])
def test_an_ending_of_a_session(ending: Ending, closing: Closing) -> None:
    server = TelnetServer()
    server.expect_line("exit", prompt="> ").respond("bye", ending)
    server.expect_line("raw").raw(b"\xff\xff\xff", ending)
    for line, said in ((b"exit", b"bye\r\n"), (b"raw", b"\xff\xff\xff")):
        played = Played(server)
        assert played.receive(line + b"\r\nmore\r\n") == said
        assert played.protocol.closing is closing
        played.protocol.connection_lost()
    assert server.lines == [b"exit", b"raw"]


def test_a_pushed_line_waits_for_the_script() -> None:
    server = TelnetServer()
    server.expect_line("slow", prompt="> ").delay(1).respond("done")
    played = Played(server)
    played.receive(b"slow\r\n")
    server.push("news")
    assert played.peer.wakes == 1
    assert played.pass_time(0) == b""
    assert played.pass_time(1) == b"done\r\n> \r\nnews\r\n> "
    played.protocol.connection_lost()
    server.push("to nobody")
    assert played.peer.wakes == 1


def test_lines_are_sent_back_as_devices_do() -> None:
    server = TelnetServer()
    server.echo = True
    server.expect_line("a", prompt="> ").delay(1).respond("b")
    server.expect_line("secret", prompt="Password: ", hidden=True, ordered=True)
    played = Played(server)
    assert b"secret" not in played.receive(b"secret\r\n")
    assert played.receive(b"a\r\n") == b"a\r\n"
    assert played.pass_time(1) == b"b\r\n> "
    assert played.receive(b"\r\n") == b"\r\n> "


def test_a_dialogue_sends_lines_back_as_devices_do() -> None:
    server = TelnetServer()
    server.echo = True

    @server.dialogue
    def device(client: object):  # type: ignore[no-untyped-def]
        name = yield "login: "
        yield Hidden(b"Password: ")
        yield name + b"> "

    played = Played(server)
    assert played.receive(b"a\r\n") == b"a\r\n" + IAC_WILL_ECHO + b"Password: "
    assert b"secret" not in played.receive(b"secret\r\n")
    assert server.lines == [b"a", b"secret"]


def shout(line: bytes) -> bytes:
    return line.upper()


@pytest.mark.parametrize("is_dialogue", [True, False])
def test_a_service_in_place_of_expectations(is_dialogue: bool) -> None:
    server = TelnetServer()
    server.greeting = "hello\n"
    server.service = shout

    if is_dialogue:

        @server.dialogue
        def talk(client: object):  # type: ignore[no-untyped-def]
            while (line := (yield b"? ")) != b"quit":
                client.send_line(shout(line))  # type: ignore[attr-defined]
            return b"bye"

        assert server.service is talk
    played = Played(server)
    played.receive(b"one\r\nquit\r\n")
    assert played.said == (b"hello\r\n? ONE\r\n? bye\r\n" if is_dialogue else b"hello\r\nONE\r\nQUIT\r\n")
    assert server.lines == [b"one", b"quit"]
    server.check()


def test_a_service_that_raises_fails_the_test() -> None:
    server = TelnetServer()

    def fail(line: bytes) -> bytes:
        raise LookupError("no such line")

    server.service = fail
    played = Played(server)
    played.receive(b"one\r\n")
    with pytest.raises(AssertionError, match=r"^the telnet service raised LookupError: no such line$") as caught:
        server.check()
    assert isinstance(caught.value.__cause__, LookupError)
    server.check()
