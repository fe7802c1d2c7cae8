"""The line being typed: what it holds, and what the screen shows of it.

The line is bytes and stays so: what the peer typed comes back as it was typed, UTF-8 or not. Only erasing looks
closer, to take away a whole character at a time, and only as many columns as it filled.

Who types may see it in one of two ways. In line mode the peer shows its own typing and sends whole lines; nothing
is shown from here. Once we have agreed to echo (`shows`) the screen is ours: each method returns the bytes that
bring it up to date, and they keep one promise: **the screen shows what the line holds**. A control character is
shown as ^X, two columns, so that no byte of the line can move the cursor behind our back.

Editing works in both. It has to: some clients that echo by themselves send DEL as it is typed.

    BS DEL, EC   the last character, with the accents that sit on it
    ^W           the last word, with the blanks after it
    ^U, EL       the whole line
    up, down     the lines entered before, while `shows`

What we cannot know is where the terminal wraps: its size is never negotiated, and BS does not climb to the row
above. On a line longer than the screen is wide, erasing tidies the last row; ^R shows the line afresh.
"""

from __future__ import annotations

from unicodedata import category, east_asian_width

from rawservers.telnet.nvt import quote

# How many lines a conversation remembers for the arrow keys. With lines of 4096 bytes they take 64 KiB at the worst, as
# much as a stalled conversation may hold of output. Precedent: the command line of Cisco's routers keeps 10.
HISTORY = 16

_ESC, _CSI, _SS3 = b"\x1b", b"[", b"O"
_CONTROLS = {code: b"^%c" % (code ^ 0x40) for code in (*range(0x20), 0x7F)}
_CONTROL = bytes(_CONTROLS)
_LONGEST_CHARACTER = 4  # bytes in UTF-8


def shown(line: bytes) -> bytes:
    """What the screen is sent for `line`: control characters as ^X, the rest as it is."""
    if len(line.translate(None, _CONTROL)) == len(line):
        return quote(line)
    return quote(b"".join(_CONTROLS.get(code, b"%c" % code) for code in line))


def width(line: bytes) -> int:
    """How many columns of the screen `line` takes. What is not UTF-8 shows as one replacement character."""
    if line.isascii():
        return 2 * len(line) - len(line.translate(None, _CONTROL))
    return sum(map(_character_width, line.decode("utf-8", "replace")))


def _character_width(character: str) -> int:
    if character < " " or character == "\x7f":
        return 2
    if category(character) in ("Mn", "Me", "Cf", "Cc"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def _is_mark(text: bytes) -> bool:
    """Whether the first character of `text` takes no column of its own."""
    return _character_width(text.decode("utf-8", "replace")[0]) == 0


def without_character(line: bytes) -> bytes:
    """`line` without its last character: a UTF-8 sequence (or the beginning of one), or a byte that is in none."""
    for size in range(_LONGEST_CHARACTER, 1, -1):
        tail = line[-size:]
        if len(tail) == size and len(tail.decode("utf-8", "replace")) == 1:
            return line[:-size]
    return line[:-1]


class Editor:
    """One line. `line`: what it holds so far; `shows`: whether the screen is ours to keep."""

    __slots__ = ("_draft", "_escape", "_history", "_place", "line", "shows")

    def __init__(self) -> None:
        self.line = b""
        self.shows = False
        self._escape = b""  # where in the sequence of an arrow key we are
        self._history: list[bytes] | None = None
        self._place = 0  # which line of the history is being shown; its length for the line that is new
        self._draft = b""  # the line that is new, while another is shown

    @property
    def escaped(self) -> bool:
        """The next byte belongs to a key's escape sequence, or ends it."""
        return self._escape != b""

    def show(self, shows: bool) -> None:
        """From now on the screen is ours, or is not."""
        self.shows = shows
        self._escape = b""

    def insert(self, text: bytes) -> bytes:
        """`text`, without line ends, was typed."""
        self.line += text
        return shown(text) if self.shows else b""

    def erase_character(self) -> bytes:
        return self._cut(without_character(self.line))

    def erase_word(self) -> bytes:
        blank = b" \t"
        rest = self.line.rstrip(blank)
        return self._cut(rest[: max(rest.rfind(b" "), rest.rfind(b"\t")) + 1])

    def erase_line(self) -> bytes:
        return self._cut(b"")

    def _cut(self, rest: bytes) -> bytes:
        """Keep `rest`, what the line begins with; but a character goes with the accents that sit on it."""
        while rest and _is_mark(self.line[len(rest) : len(rest) + _LONGEST_CHARACTER]):
            rest = without_character(rest)
        columns = width(self.line[len(rest) :]) if self.shows else 0
        self.line = rest
        return b"\b" * columns + b" " * columns + b"\b" * columns

    def key(self, byte: bytes) -> bytes | None:
        """`byte` may belong to an arrow key (ESC [ A or ESC O A): what to show then, or None if it does not.

        The sequences of other keys are swallowed, and so is an ESC that begins none.
        """
        before, self._escape = self._escape, b""
        if byte == _ESC:
            self._escape = _ESC
        elif before == _ESC and byte in (_CSI, _SS3):
            self._escape = byte
        elif before == _CSI and b" " <= byte <= b"?":  # parameters
            self._escape = before
        elif before in (_CSI, _SS3) and b"@" <= byte <= b"~":
            return self._recall({b"A": -1, b"B": 1}.get(byte, 0))
        else:
            return None
        return b""

    def _recall(self, step: int) -> bytes:
        """Show the line `step` further on in the history instead."""
        place = self._place + step
        if not self.shows or not step or self._history is None or not 0 <= place <= len(self._history):
            return b""
        if self._place == len(self._history):
            self._draft = self.line
        self._place = place
        line = self._history[place] if place < len(self._history) else self._draft
        return self.erase_line() + self.insert(line)

    def take(self) -> bytes:
        """The line as it was entered; a new one begins. The history remembers it if the screen showed it."""
        line, self.line = self.line, b""
        self._escape = b""
        if self.shows and line:
            self._remember(line)
        self._place = len(self._history or ())
        self._draft = b""
        return line

    def _remember(self, line: bytes) -> None:
        if self._history is None:
            self._history = []
        if self._history[-1:] != [line]:
            self._history.append(line)
        del self._history[:-HISTORY]

    def clear(self) -> None:
        """The line is abandoned; a new one begins."""
        self.line = self._draft = self._escape = b""
        self._place = len(self._history or ())
