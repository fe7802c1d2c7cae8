"""Line services: everything that the author of one needs.

**A line handler**, the simplest service, is a function of a line. It is called with each line that was entered, without its
end. Its result is sent as a line; None sends nothing:

    def shout(line: bytes) -> bytes | None:
        return line.upper()

**A dialogue** is a generator function. It is called with the client and yields prompts; the value of each `yield` is the line
entered in reply. A `Hidden` prompt asks for a password: the reply is not shown on the screen. A return ends the session, after
a last line unless it is None:

    def greet(client: LineClient) -> Dialogue:
        name = yield b"Your name? "
        password = yield Hidden(b"Password: ")
        client.send_line(b"Hello " + name if password == b"swordfish" else b"Hello stranger")
        return b"Goodbye"

Lines can also be sent unasked, from any thread: `LineClient.push_line`.

Text is bytes, in the client's encoding. On the way out each line end (CR LF or LF) becomes CR LF and each 255 is doubled, so a
service need not know Telnet.

A service runs in the thread of the event loop and must not block. An exception ends its own session only: the client gets an
error line, and the server logs the traceback. When the connection is lost, a dialogue is closed: GeneratorExit is raised at its
`yield`, so `finally` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias, cast, final

from rawservers.telnet.client import LineClient as LineClient


@final
class Hidden(bytes):
    """A prompt for a line that the screen must not show, such as a password."""

    __slots__ = ()


LineHandler: TypeAlias = Callable[[bytes], "bytes | None"]
Dialogue: TypeAlias = Generator[bytes, bytes, "bytes | None"]
LineService: TypeAlias = LineHandler | Callable[[LineClient], Dialogue]


def run_service(service: LineService, client: LineClient) -> Dialogue:
    """The dialogue of `service` with `client`, with its last line sent. A line handler becomes one with empty prompts."""
    from inspect import isgeneratorfunction  # here, since no service of a configuration file needs it

    if isgeneratorfunction(service):
        text = yield from cast("Callable[[LineClient], Dialogue]", service)(client)
        client.hide_input(False)
        if text is not None:
            client.send_line(text)
        return None
    handler = cast("LineHandler", service)
    while True:
        line = yield b""
        if (text := handler(line)) is not None:
            client.send_line(text)
