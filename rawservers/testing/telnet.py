"""A Telnet server for a test: the lines it expects, what it was sent, and how it fails on purpose.

    telnet_server.expect_line("admin", prompt="login: ", ordered=True)
    telnet_server.expect_line("secret", prompt="Password: ", hidden=True, ordered=True)
    telnet_server.expect_line("show version", prompt="> ").respond("7.2")

Each connection is a `Session` of a dialogue, `TelnetServer._talk`, which shows the prompts and looks for the lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from difflib import SequenceMatcher
from inspect import isgeneratorfunction
from itertools import count
from typing import NamedTuple, Self, TypeAlias, TypeVar, cast

from rawservers.core.peer import Peer
from rawservers.core.protocol import Protocol
from rawservers.settings import TLSConfig
from rawservers.telnet.service import Dialogue, Hidden, LineClient, LineService, run_service
from rawservers.telnet.session import Session
from rawservers.testing.fixture import FixtureServer, ServerFactory
from rawservers.testing.replies import Ending, Expectation, Reply, Text, encoded, known
from rawservers.testing.scripted import ONE_ANSWER, Cue, Scripted

LONGEST_LINE = 1 << 20  # bytes

Line: TypeAlias = Text | re.Pattern[str] | re.Pattern[bytes]

# As those of rawservers/telnet/service.py, which may also be of text.
TextDialogue: TypeAlias = Generator[Text, bytes, Text | None]
TextService: TypeAlias = Callable[[bytes], Text | None] | Callable[[LineClient], TextDialogue]
TextDialogueFunction = TypeVar("TextDialogueFunction", bound=Callable[[LineClient], TextDialogue])


class LogEntry(NamedTuple):
    """Bytes as they were on the wire, commands of Telnet included. connection: counted from 0; is_sent: by the server."""

    connection: int
    is_sent: bool
    data: bytes


class LineExpectation(Expectation):
    """An expected line, and the replies to it. See `Expectation` for `delay`, `reset`, `then` and the like.

    What is sent after a line, and so delayed, cut or counted by `cut_after`, is its answer, and the prompt behind it if the
    session goes on: not if it is ended by `cut_after`, for example.
    """

    def __init__(self, text: Line, prompt: Text, hidden: bool, ordered: bool) -> None:
        super().__init__(is_ordered=ordered)
        self.text = text if isinstance(text, re.Pattern) else encoded(text)
        if isinstance(self.text, bytes) and re.search(b"[\r\n]", self.text):
            raise ValueError(f"a line is written without its end: {text!r}")
        self.prompt = Hidden(encoded(prompt)) if hidden else encoded(prompt)

    def respond(self, text: Text | Callable[[bytes], Text], ending: Ending = "keep") -> Self:
        """Send `text` as one or more lines, or what it returns for the line, if it is a function; afterwards the next prompt.

        ending: in place of the prompt, "close" ends the session, "reset" resets the connection, "hang" says nothing more.
        """
        self._complete(text if callable(text) else encoded(text))
        if ending != "keep":
            self._replies[-1].ending = known(ending)
        return self

    def describe(self) -> str:
        return f"the line {self}"

    def matches(self, line: bytes) -> bool:
        """Whether `line` is expected."""
        if isinstance(self.text, bytes):
            return self.text == line
        if isinstance(self.text.pattern, bytes):
            return self.text.match(line) is not None
        return self.text.match(line.decode("utf-8", "replace")) is not None

    def __str__(self) -> str:
        return repr(self.text.decode("utf-8", "replace") if isinstance(self.text, bytes) else self.text)


class TelnetServer(FixtureServer[LineExpectation]):
    """A Telnet server for a test: the fixture `telnet_server`.

    greeting: sent to each client first. echo: whether lines are sent back, as devices do, to clients that have not asked for
    character mode. service: in place of all expectations, a function of a line or a generator function, as in
    rawservers/telnet/service.py; it is called in the server's thread.
    """

    service_name = "telnet"

    greeting: Text
    echo: bool
    service: TextService | None

    def __init__(self, host: str = "127.0.0.1", *, port: int = 0, strict: bool = True, tls: TLSConfig | bool = False) -> None:
        super().__init__(host, port=port, strict=strict, tls=tls)
        self._clients: list[LineClient] = []
        self._forget()

    @property
    def lines(self) -> list[bytes]:
        """The lines that were sent to it, without their ends, in order. A line is there before its answer is sent."""
        with self._lock:
            return list(self._lines)

    @property
    def log(self) -> list[LogEntry]:
        """All bytes received and sent, in order."""
        with self._lock:
            return list(self._log)

    def expect_line(self, text: Line, prompt: Text = "", hidden: bool = False, ordered: bool = False) -> LineExpectation:
        """Expect this line, or lines that match at their beginning, and show `prompt` before it; hidden: as for a password.

        ordered: once in each session, after the lines that were ordered before and before any other. The prompt shown is that
        of the next ordered line; when none is left, the first one of the other lines. An empty line only gets the prompt again,
        unless it is expected. The first expectation that matches is used. Raises ValueError for what could never be sent, and
        for a prompt that could never be shown.
        """
        expectation = LineExpectation(text, prompt, hidden, ordered)
        with self._lock:
            shown = self._other_prompts()[:1]
            if not ordered and prompt and shown and (expectation.prompt, hidden) != (shown[0], isinstance(shown[0], Hidden)):
                raise ValueError(
                    f"another prompt than {bytes(shown[0])!r} would never be shown: lines in any order share one "
                    "(ordered=True, or a dialogue, for prompts that change)"
                )
            self._expectations.append(expectation)
        return expectation

    def dialogue(self, function: TextDialogueFunction) -> TextDialogueFunction:
        """Set `service` to a generator function, which is returned. Also a decorator. Raises TypeError for another function."""
        if not isgeneratorfunction(function):
            raise TypeError("expected a generator function; `service` takes others")
        self.service = function
        return function

    def push(self, text: Text) -> None:
        """Send `text` and a line end to all clients, above their prompts. From any thread."""
        data = encoded(text)
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            client.push_line(data)

    # For FixtureServer

    def _forget(self) -> None:
        self.greeting, self.echo, self.service = b"", False, None
        self._expectations = []
        self._lines: list[bytes] = []
        self._log: list[LogEntry] = []
        self._connection_numbers = count()

    def _converse(self, peer: Peer) -> Protocol:
        cue, number = Cue(), next(self._connection_numbers)

        def dialogue(client: LineClient) -> Dialogue:
            return (yield from self._talk(client, cue))

        def add(is_sent: bool, data: bytes) -> None:
            if data:
                with self._lock:
                    self._log.append(LogEntry(number, is_sent, data))

        def on_failure(error: Exception) -> None:
            self._record_error(error, "the telnet service")

        greeting = encoded(self.greeting)
        session = Session(peer, dialogue, longest_line=LONGEST_LINE, greeting=greeting, on_failure=on_failure)
        return Scripted(peer, session, cue, add)

    # In the server's thread

    def _talk(self, client: LineClient, cue: Cue) -> Dialogue:
        """One session."""
        with self._lock:
            self._clients.append(client)
        try:
            if self.service is not None:
                return (yield from self._recorded(run_service(in_bytes(self.service), client), client))
            passed = 0  # of the ordered lines
            while True:
                prompt = self._prompt(passed)
                line = yield prompt
                client.steps += ONE_ANSWER
                self._record(client, prompt, line)
                found = self._find(line, passed)
                if isinstance(found, str):
                    client.send_line(encoded(f"?{found}"))
                elif found is not None:
                    passed += found.is_ordered
                    if not self._reply(client, cue, line, found.take_reply()):
                        return None
        finally:
            with self._lock:
                self._clients.remove(client)

    def _record(self, client: LineClient, prompt: bytes, line: bytes) -> None:
        """Record `line`, the reply to `prompt`, and send it back as devices do, if `echo` says so."""
        if self.echo and not client.echoing and not isinstance(prompt, Hidden):
            client.send_line(line)
        with self._lock:
            self._lines.append(line)

    def _recorded(self, dialogue: Dialogue, client: LineClient) -> Dialogue:
        """`dialogue` with `client`, whose lines are recorded."""
        try:
            prompt = next(dialogue)
            while True:
                line = yield prompt
                self._record(client, prompt, line)
                prompt = dialogue.send(line)
        except StopIteration as end:
            return cast("bytes | None", end.value)
        finally:
            dialogue.close()

    def _prompt(self, passed: int) -> bytes:
        """The prompt in a session that has had so many of the ordered lines."""
        with self._lock:
            ordered = [each.prompt for each in self._expectations if each.is_ordered][passed:]
            return next(iter(ordered + self._other_prompts()), b"")

    def _other_prompts(self) -> list[bytes]:
        """The prompts of the lines in any order."""
        return [each.prompt for each in self._expectations if not each.is_ordered and each.prompt]

    def _find(self, line: bytes, passed: int) -> LineExpectation | str | None:
        """The expectation that `line` is for, a message about there being none, or None for an empty line."""
        with self._lock:
            ordered = [each for each in self._expectations if each.is_ordered][passed:]
            candidates = ordered[:1] or [each for each in self._expectations if not each.is_ordered]
            for each in candidates:
                if each.matches(line):
                    return each
            if not line:
                return None
            message = f"the line {line.decode('utf-8', 'replace')!r} was not expected; "
            if ordered:
                message += f"next in order: {ordered[0]}"
            elif candidates:
                shown = repr(line.decode("utf-8", "replace"))
                message += f"nearest: {max(map(str, candidates), key=lambda text: SequenceMatcher(None, text, shown).ratio())}"
            else:
                message += "no more lines were" if self._expectations else "nothing was"
            self._failures.append(message)
            return message

    def _reply(self, client: LineClient, cue: Cue, line: bytes, reply: Reply) -> bool:
        """Answer `line`; returns whether the session goes on."""
        if reply.needs_script():
            cue.before, cue.script = client.flush(), reply.steps  # what is to be sent already is no part of the answer
        text = reply.content(line) if callable(reply.content) else reply.content
        if text is not None:
            client.send_line(encoded(text))
        return reply.ending == "keep"


TelnetServerFactory: TypeAlias = ServerFactory[TelnetServer]


def in_bytes(service: TextService) -> LineService:
    """`service` with its texts encoded."""
    if not isgeneratorfunction(service):
        handler = cast("Callable[[bytes], Text | None]", service)
        return lambda line: None if (text := handler(line)) is None else encoded(text)

    def dialogue(client: LineClient) -> Dialogue:
        texts = cast("Callable[[LineClient], TextDialogue]", service)(client)
        try:
            prompt = next(texts)
            while True:
                line = yield encoded(prompt)
                prompt = texts.send(line)
        except StopIteration as end:
            return None if end.value is None else encoded(end.value)
        finally:
            texts.close()

    return dialogue
