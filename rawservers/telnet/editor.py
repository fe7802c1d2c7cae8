"""The line being typed: what it holds, and what the screen shows of it.

The line is bytes and stays so: what the peer typed comes back as it was typed, UTF-8 or not. Only erasing looks
closer, to take away a whole character at a time, and only as many columns as it filled.

Who types may see it in one of two ways. In line mode the peer shows its own typing and sends whole lines; nothing
is shown from here. Once we have agreed to echo (`visible`) the screen is ours: each method returns the bytes that
bring it up to date, and they keep one promise: **the screen shows what the line holds**. A control character is
shown as ^X, two columns, so that no byte of the line can move the cursor behind our back.

Editing works in both. It has to: some clients that echo by themselves send DEL as it is typed.

    BS DEL, EC   the last character, with the accents that sit on it
    ^W           the last word, with the blanks after it
    ^U, EL       the whole line
    up, down     the lines entered before, while `visible`

What each costs is in proportion to what is typed, erased or shown, not to the line: characters are counted once, as they
are typed, and the history remembers what was counted.

What we cannot know is where the terminal wraps: its size is never negotiated, and BS does not climb to the row
above. On a line longer than the screen is wide, erasing tidies the last row; ^R shows the line afresh.
"""

from __future__ import annotations

from codecs import utf_8_decode
from unicodedata import category, east_asian_width

from rawservers.telnet.nvt import escape_iac

# How many lines a conversation remembers for the arrow keys. With lines of 4096 bytes they take 64 KiB at the worst, as
# much as a stalled conversation may hold of output. Precedent: the command line of Cisco's routers keeps 10.
HISTORY = 16

WIDTH_CACHE_SIZE = 4096  # characters whose width is remembered, for all conversations together: a script, or several

_ESC, _CSI, _SS3 = b"\x1b", b"[", b"O"
_CONTROL = bytes((*range(0x20), 0x7F))
_MAX_CHARACTER = 4  # bytes in UTF-8

# A control character is shown as two: which, by its code. Any other byte is shown as itself and a NUL, to be left out.
_CARET_FIRST = bytes(ord("^") if code in _CONTROL else code for code in range(256))
_CARET_SECOND = bytes(code ^ 0x40 if code in _CONTROL else 0 for code in range(256))


def render(line: bytes) -> bytes:
    """What the screen is sent for `line`: control characters as ^X, the rest as it is."""
    if len(line.translate(None, _CONTROL)) != len(line):
        pairs = bytearray(2 * len(line))
        pairs[::2] = line.translate(_CARET_FIRST)
        pairs[1::2] = line.translate(_CARET_SECOND)
        line = bytes(pairs.translate(None, b"\0"))
    return escape_iac(line)


class _Widths(dict[str, int]):
    """How many columns a character takes, of those that were asked for lately."""

    def __missing__(self, character: str) -> int:
        if len(self) >= WIDTH_CACHE_SIZE:
            self.clear()
        columns = self[character] = _character_width(character)
        return columns


def _character_width(character: str) -> int:
    if character < " " or character == "\x7f":
        return 2
    if category(character) in ("Mn", "Me", "Cf", "Cc"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


_width_of = _Widths().__getitem__


def width(line: bytes | bytearray) -> int:
    """How many columns of the screen `line` takes. What is not UTF-8 shows as one replacement character."""
    if line.isascii():
        return 2 * len(line) - len(line.translate(None, _CONTROL))
    return sum(map(_width_of, line.decode("utf-8", "replace")))


def _character_boundary(line: bytearray, at: int) -> int:
    """`at`, or up to three bytes before it: where a character begins."""
    for start in range(at, max(at - _MAX_CHARACTER, -1), -1):
        if not 0x80 <= line[start] < 0xC0:
            return start
    return at  # a fourth byte of those that only continue a character belongs to none


def character_start(line: bytes | bytearray, end: int) -> int:
    """Where the last character of `line` up to `end` begins: a UTF-8 sequence, or the beginning of one, or a byte in none."""
    if line[end - 1] >= 0x80:
        for size in range(min(_MAX_CHARACTER, end), 1, -1):
            if len(line[end - size : end].decode("utf-8", "replace")) == 1:
                return end - size
    return end - 1


def _cluster_start(line: bytearray, end: int) -> int:
    """The same of the last character that takes a column: what follows it are accents that sit on it."""
    size = 2 * _MAX_CHARACTER
    while end > 0 and line[end - 1] >= 0x80:
        start = _character_boundary(line, max(0, end - size))
        text = line[start:end].decode("utf-8", "replace")
        marks = len(text) - len(bytes(map(_width_of, text)).rstrip(b"\0"))
        if marks < len(text):
            end -= len(text[len(text) - marks :].encode())
            break
        end = start
        size *= 8
    return character_start(line, end) if end else 0


def _word_start(line: bytearray) -> int:
    """Where the last word of `line` begins."""
    end = low = len(line)
    size = 64
    word = False
    while low:
        end, low = low, max(0, low - size)
        if not word:
            end = low + len(line[low:end].rstrip(b" \t"))
            word = end > low
        blank = max(line.rfind(b" ", low, end), line.rfind(b"\t", low, end))
        if word and blank >= 0:
            return blank + 1
        size *= 8
    return 0


class Editor:
    """One line.

    line: what it holds so far; visible: whether the screen is ours to keep; measured: how many of its bytes are known to take
    how many columns. All of them while `visible`, but for a character that has come in part.
    """

    __slots__ = ("_columns", "_draft", "_escape_state", "_history", "_history_index", "line", "measured", "visible")

    def __init__(self) -> None:
        self.line = bytearray()
        self.measured = 0
        self._columns = 0
        self.visible = False
        self._escape_state = b""  # where in the sequence of an arrow key we are
        self._history: list[tuple[bytes, int, int]] | None = None  # lines, each with its `measured` and `_columns`
        self._history_index = 0  # which line of the history is being shown; its length for the line that is new
        self._draft: tuple[bytes, int, int] | None = None  # the line that is new, while another is shown

    @property
    def in_escape_sequence(self) -> bool:
        """The next byte belongs to a key's escape sequence, or ends it."""
        return self._escape_state != b""

    @property
    def at_new_line(self) -> bool:
        """Nothing is typed, and the line is the one after all those of the history."""
        return not self.line and self._history_index == len(self._history or ())

    def set_visible(self, visible: bool) -> None:
        """From now on the screen is ours, or is not."""
        self.visible = visible
        self._escape_state = b""
        self._measure()

    def insert(self, text: bytes) -> bytes:
        """`text`, without line ends, was typed."""
        self.line += text
        self._measure()
        return render(text) if self.visible else b""

    def _measure(self) -> None:
        """Count the columns of what has come, up to a character of which there may be more."""
        if not self.visible:
            return
        new = self.line[self.measured :]
        if new.isascii():
            self._columns += width(new)
            self.measured += len(new)
        else:
            text, whole = utf_8_decode(new, "replace")
            self._columns += sum(map(_width_of, text))
            self.measured += whole

    def erase_character(self) -> bytes:
        return self._truncate(_cluster_start(self.line, len(self.line)))

    def erase_word(self) -> bytes:
        start = _word_start(self.line)
        character = self.line[start : start + _MAX_CHARACTER].decode("utf-8", "replace")[:1]
        if start and character and not _width_of(character):  # it sits on the blank before the word
            start = _cluster_start(self.line, start)
        return self._truncate(start)

    def erase_line(self) -> bytes:
        return self._truncate(0)

    def _truncate(self, start: int) -> bytes:
        """Erase what stands from `start` on, where a character begins."""
        columns = width(self.line[max(start, self.measured) :]) if self.visible else 0
        if start < self.measured:
            if start < self.measured - start:  # count the shorter part
                measured = self._columns - width(self.line[:start])
            else:
                measured = width(self.line[start : self.measured])
            self.measured = start
            self._columns -= measured
            columns += measured
        del self.line[start:]
        return b"\b" * columns + b" " * columns + b"\b" * columns if self.visible else b""

    def handle_escape(self, byte: bytes) -> bytes | None:
        """`byte` may belong to an arrow key (ESC [ A or ESC O A): what to show then, or None if it does not.

        The sequences of other keys are swallowed, and so is an ESC that begins none.
        """
        before, self._escape_state = self._escape_state, b""
        if byte == _ESC:
            self._escape_state = _ESC
        elif before == _ESC and byte in (_CSI, _SS3):
            self._escape_state = byte
        elif before == _CSI and b" " <= byte <= b"?":  # parameters
            self._escape_state = before
        elif before in (_CSI, _SS3) and b"@" <= byte <= b"~":
            return self._show_history_line({b"A": -1, b"B": 1}.get(byte, 0))
        else:
            return None
        return b""

    def _show_history_line(self, step: int) -> bytes:
        """Show the line `step` further on in the history instead."""
        place = self._history_index + step
        if not self.visible or not step or self._history is None or not 0 <= place <= len(self._history):
            return b""
        if self._history_index == len(self._history):
            self._draft = (bytes(self.line), self.measured, self._columns)
        self._history_index = place
        line, measured, columns = self._history[place] if place < len(self._history) else self._draft or (b"", 0, 0)
        change = self.erase_line() + render(line)
        self.line, self.measured, self._columns = bytearray(line), measured, columns
        return change

    def take_line(self) -> bytes:
        """The line as it was entered; a new one begins. The history remembers it if the screen showed it."""
        line = bytes(self.line)
        if self.visible and line:
            self._add_to_history(line)
        self.clear()
        return line

    def _add_to_history(self, line: bytes) -> None:
        if self._history is None:
            self._history = []
        if not self._history or self._history[-1][0] != line:
            self._history.append((line, self.measured, self._columns))
        del self._history[:-HISTORY]

    def clear(self) -> None:
        """The line is abandoned; a new one begins."""
        if self.line:
            self.line = bytearray()
        self.measured = self._columns = 0
        self._escape_state = b""
        self._draft = None
        self._history_index = len(self._history or ())
