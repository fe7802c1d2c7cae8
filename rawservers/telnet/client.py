"""The client of a session: output to it, the options negotiated with it, and what its screen shows."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from rawservers.core.peer import Peer
from rawservers.core.protocol import Chunk, Closing, Protocol, Urgent
from rawservers.telnet.editor import Editor, render
from rawservers.telnet.nvt import Nvt, encode
from rawservers.telnet.options import BINARY, ECHO, YES, Options

# What one step of work is; it takes one or two microseconds.
BYTES_PER_STEP = 256  # bytes of input handled, or of output
WIDE_BYTES_PER_STEP = 8  # bytes erased, whose columns are counted

MAX_PUSHED = 1 << 20  # bytes of pushed lines that wait for a client that does not read
PUSHING = Lock()  # of all sessions, which so need none of their own


class LineClient(Protocol):
    """A session as its line service sees it: `peer`, `send_line` and `push_line`. All else is for `Session`.

    peer:     the remote end of the connection
    nvt:      the parser of its input
    editor:   the line being typed
    prompt:   the prompt before it, as it was sent
    echoing:  our ECHO is on: the client shows only what is sent to it (RFC 857)
    hidden:   the line being typed is not echoed
    pushed:   encoded lines of `push_line`, to be written. Other threads append to it
    """

    __slots__ = (
        "_data_mark", "_options", "_output", "_pushed_size", "_sends_binary", "closing", "echoing", "editor", "hidden", "nvt",
        "peer", "prompt", "pushed", "steps",
    )  # fmt: skip

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.nvt = Nvt()
        self.editor = Editor()
        self.prompt = b""
        self.echoing = self.hidden = self._sends_binary = False
        self.closing = Closing.KEEP
        self.steps = self._pushed_size = 0
        self.pushed: list[bytes] = []
        self._options: Options | None = None  # created when first needed: most sessions negotiate nothing
        self._output = bytearray()
        self._data_mark = 0  # length of _output up to and with the last Data Mark; 0 without one

    # For services.

    def send_line(self, text: bytes) -> None:
        """Send `text` and a line end. To be called by a dialogue, between two of its prompts."""
        self.write(encode(text, self._sends_binary) + b"\r\n")

    def push_line(self, text: bytes) -> bool:
        """Send `text` and a line end soon, above the prompt and the line being typed. Any thread may call it, at any time.

        Returns whether it will be sent: not once the session has ended, nor while MAX_PUSHED bytes of earlier lines wait,
        because the client does not read.
        """
        line = encode(text, self._sends_binary) + b"\r\n"
        with PUSHING:
            if self.closing is not Closing.KEEP or self._pushed_size >= MAX_PUSHED:
                return False
            self.pushed.append(line)
            self._pushed_size += len(line)
        self.peer.wake()
        return True

    # Output.

    def write(self, data: bytes) -> None:
        """Add `data`, encoded already, to the output."""
        if data:
            self._output += data
            self.steps += 1 + len(data) // BYTES_PER_STEP

    def write_synch(self) -> None:
        """Write a Synch: IAC, then DM as urgent data (RFC 854 p. 8)."""
        self.write(b"\xff\xf2")
        self._data_mark = len(self._output)

    def row_start(self) -> bytes:
        """What moves the cursor to a row of its own: CR LF if it is behind a prompt or echoed input, else nothing."""
        return b"\r\n" if self.prompt or (self.editor.visible and self.editor.line) else b""

    def print_and_redraw(self, text: bytes) -> None:
        """Write `text`, whole rows, then the prompt and the line being typed again."""
        self.write(text + self.prompt + (render(self.editor.line) if self.editor.visible else b""))

    def write_pushed(self, step_limit: int) -> None:
        """Write pushed lines until there are none or `steps` has reached `step_limit`."""
        count = 0
        while count < len(self.pushed) and self.steps < step_limit:
            self.print_and_redraw(self.row_start() + self.pushed[count])
            count += 1
        if count:
            with PUSHING:
                self._pushed_size -= sum(map(len, self.pushed[:count]))
                del self.pushed[:count]

    def flush(self) -> tuple[Chunk, ...]:
        """Take the output. Of several Data Marks only the last is urgent: TCP has one urgent pointer."""
        output, mark = bytes(self._output), self._data_mark
        self._output.clear()
        self._data_mark = 0
        if not mark:
            return (output,) if output else ()
        chunks = output[: mark - 1], Urgent(output[mark - 1 : mark])
        return (*chunks, output[mark:]) if output[mark:] else chunks

    # Options.

    def negotiate(self, verb: int, option: int) -> None:
        """Reply to the peer's `verb` (DO, DONT, WILL or WONT) for `option`."""
        self._change_options(Options.receive, verb, option)

    def hide_input(self, hidden: bool) -> None:
        """Hide the line being typed from now on, or show it. To hide it our ECHO is turned on, and nothing is echoed."""
        if hidden != self.hidden:
            self.hidden = hidden
            self._change_options(Options.hide_input, hidden)

    def _change_options(self, change: Callable[..., bytes], *arguments: int) -> None:
        """Call `change` with the options, write what it returns, and apply the options."""
        options = self._options = self._options or Options()
        self.write(change(options, *arguments))
        self.echoing = options.us[ECHO] is YES
        self._sends_binary = options.us[BINARY] is YES  # RFC 856
        self.nvt.binary = options.him[BINARY] is YES
        self.editor.set_visible(self.echoing and not self.hidden)
