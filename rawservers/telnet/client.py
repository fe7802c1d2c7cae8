"""The client of a session: output to it, the options negotiated with it, and what its screen shows."""

from __future__ import annotations

from rawservers.core.peer import Peer
from rawservers.core.protocol import Chunk, Urgent
from rawservers.telnet import nvt
from rawservers.telnet.editor import Editor, render
from rawservers.telnet.nvt import encode
from rawservers.telnet.options import BINARY, CHARACTER_MODE, ECHO, REQUESTS, YES, Options

# What one step of work is; it takes one or two microseconds.
BYTES_PER_STEP = 256  # bytes of input handled, or of output
WIDE_BYTES_PER_STEP = 8  # bytes of text other than ASCII whose columns are counted


class LineClient:
    """The client of a session. Services use `peer`, `send_line` and `push_line`; all else is for the session.

    peer:     the remote end of the connection
    editor:   the line being typed
    prompt:   the prompt before it, as it was sent
    echoing:  our ECHO is on: the client shows only what is sent to it (RFC 857)
    hidden:   the line being typed is not echoed
    closed:   the session has ended
    steps:    work of the current call so far, in steps; each piece of output adds to it
    pushed, push_batch: encoded lines of `push_line`. Other threads append to the first; the second holds those taken from it to
    be written, the next one last
    """

    __slots__ = (
        "_data_mark",
        "_options",
        "_output",
        "closed",
        "echoing",
        "editor",
        "hidden",
        "peer",
        "prompt",
        "push_batch",
        "pushed",
        "steps",
    )

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.editor = Editor()
        self.prompt = b""
        self.echoing = self.hidden = self.closed = False
        self.steps = 0
        self._options: Options | None = None  # created when first needed: most sessions negotiate nothing
        self._output: list[bytes] = []
        self._data_mark = 0  # length of _output up to and with the last Data Mark; 0 without one
        self.pushed: list[bytes] = []
        self.push_batch: list[bytes] | None = None

    # For services.

    def send_line(self, text: bytes) -> None:
        """Send `text` and a line end. To be called by a dialogue, between two of its prompts."""
        self.write(encode(text, self._sends_binary) + b"\r\n")

    def push_line(self, text: bytes) -> None:
        """Send `text` and a line end soon, above the prompt and the line being typed.

        To be called from any thread, at any time. Ignored once the session has ended.
        """
        if not self.closed:
            self.pushed.append(encode(text, self._sends_binary) + b"\r\n")
            self.peer.wake()

    # Output.

    def write(self, data: bytes) -> None:
        """Add `data`, encoded already, to the output."""
        if data:
            self._output.append(data)
            self.steps += 1 + len(data) // BYTES_PER_STEP

    def write_prompt(self, prompt: bytes, hidden: bool) -> None:
        """Write `prompt`. hidden: whether the line typed after it is not echoed."""
        self.hide_input(hidden)
        self.prompt = encode(prompt, self._sends_binary)
        self.write(self.prompt)

    def write_synch(self) -> None:
        """Write a Synch: IAC, then DM as urgent data (RFC 854 p. 8)."""
        self.write(b"\xff")
        self.write(b"\xf2")
        self._data_mark = len(self._output)

    def _newline_if_needed(self) -> bytes:
        """CR LF if the cursor is behind a prompt or echoed input, else nothing."""
        return b"\r\n" if self.prompt or (self.editor.visible and self.editor.line) else b""

    def start_row(self) -> None:
        """Move the cursor to a row of its own."""
        self.write(self._newline_if_needed())

    def print_and_redraw(self, text: bytes) -> None:
        """Write `text`, whole rows, then the prompt and the line being typed again."""
        self.write(text + self.prompt + (render(bytes(self.editor.line)) if self.editor.visible else b""))

    def write_pushed(self, step_limit: int) -> None:
        """Write pushed lines until there are none or `steps` has reached `step_limit`."""
        if not self.push_batch and self.pushed:
            count = len(self.pushed)  # lines that other threads append meanwhile stay in the list
            self.push_batch = self.pushed[:count]
            del self.pushed[:count]
            self.push_batch.reverse()
        while self.push_batch and self.steps < step_limit:
            self.print_and_redraw(self._newline_if_needed() + self.push_batch.pop())

    def flush(self) -> tuple[Chunk, ...]:
        """Take the output, coalesced.

        Of several Data Marks only the last is urgent: TCP has one urgent pointer.
        """
        if not self._output:
            return ()
        output, self._output = self._output, []
        mark, self._data_mark = self._data_mark, 0
        if not mark:
            return (b"".join(output),)
        after = b"".join(output[mark:])
        synch = b"".join(output[: mark - 1]), Urgent(output[mark - 1])
        return (*synch, after) if after else synch

    # Options.

    def negotiate(self, verb: int, option: int) -> None:
        """Reply to the peer's `verb` (DO, DONT, WILL or WONT) for `option`."""
        if verb == nvt.DO and option in REQUESTS:
            self.write(bytes((nvt.IAC, nvt.WILL, option)))
            return
        self.steps += 1
        options = self._options = self._options or Options()
        reply = options.receive(verb, option)
        self.write(reply)
        if reply and verb == nvt.DO and option in CHARACTER_MODE and options.us[option] is YES:
            self.write(options.complete_character_mode(option))
        self._apply_options(options)

    def hide_input(self, hidden: bool) -> None:
        """Hide the line being typed from now on, or show it. To hide it our ECHO is turned on, and nothing is echoed."""
        if hidden == self.hidden:
            return
        self.hidden = hidden
        options = self._options = self._options or Options()
        self.write(options.claim_echo() if hidden else options.release_echo())
        self._apply_options(options)

    def _apply_options(self, options: Options) -> None:
        measured = self.editor.measured_bytes
        self.echoing = options.us[ECHO] is YES
        self.editor.set_visible(self.echoing and not self.hidden)
        self.steps += (self.editor.measured_bytes - measured) // WIDE_BYTES_PER_STEP

    @property
    def _sends_binary(self) -> bool:
        """Whether we transmit binary (RFC 856)."""
        return self._options is not None and self._options.us[BINARY] is YES

    @property
    def peer_sends_binary(self) -> bool:
        """Whether the peer transmits binary (RFC 856)."""
        return self._options is not None and self._options.him[BINARY] is YES
