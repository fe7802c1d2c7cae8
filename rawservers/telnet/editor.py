"""The line being typed, and what the client's screen shows of it.

The line is kept as bytes, UTF-8 or not, and handed on as it was typed. Only erasing looks at characters: it removes a whole
character at a time, and as many columns of the screen as the character takes.

In line mode the client echoes by itself and sends whole lines; the editor shows nothing. While our ECHO is on (`visible`) the
screen is the editor's: each method returns the bytes that update it, and **the screen shows what the line holds**. Control
characters are shown in caret notation (^X, two columns), so that no byte of the line can move the cursor.

The editing keys work in both modes, since some clients that echo by themselves send DEL as it is typed:

    BS DEL, EC   erase the last character, with its combining characters
    ^W           erase the last word, with the blanks after it
    ^U, EL       erase the line
    up, down     recall lines entered before, while `visible`

The cost of each is proportional to the text typed, erased or shown, not to the line: the columns of a character are counted
once, as it is typed, and the history keeps them.

The width of the terminal is unknown: it is not negotiated (NAWS, RFC 1073), and BS does not move up to the row above. On a line
longer than a row, erasing clears the last row only; ^R shows the line again.
"""

from __future__ import annotations

from codecs import utf_8_decode
from unicodedata import category, east_asian_width

from rawservers.telnet.nvt import escape_iac

# Lines in the history of a session. With lines of 4096 bytes they take 64 KiB at most, as much as the unsent output of a
# stalled session. Precedent: the command line of Cisco's routers keeps 10.
HISTORY = 16

WIDTH_CACHE_SIZE = 4096  # characters whose width is cached, for all sessions together: a script, or several

_ESC, _CSI, _SS3 = b"\x1b", b"[", b"O"
_CONTROL = bytes((*range(0x20), 0x7F))
_MAX_CHARACTER = 4  # bytes in UTF-8

# Caret notation: the two bytes shown for each byte. For other bytes than control characters the second is NUL, to be removed.
_CARET_FIRST = bytes(ord("^") if code in _CONTROL else code for code in range(256))
_CARET_SECOND = bytes(code ^ 0x40 if code in _CONTROL else 0 for code in range(256))


def render(line: bytes) -> bytes:
    """The bytes that show `line` on the screen: control characters in caret notation, 255 doubled."""
    if len(line.translate(None, _CONTROL)) != len(line):
        pairs = bytearray(2 * len(line))
        pairs[::2] = line.translate(_CARET_FIRST)
        pairs[1::2] = line.translate(_CARET_SECOND)
        line = bytes(pairs.translate(None, b"\0"))
    return escape_iac(line)


class _Widths(dict[str, int]):
    """Cache of the columns that characters take."""

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
    """Columns of the screen that `line` takes. Each invalid sequence counts as one replacement character."""
    if line.isascii():
        return 2 * len(line) - len(line.translate(None, _CONTROL))
    return sum(map(_width_of, line.decode("utf-8", "replace")))


def _character_boundary(line: bytearray, at: int) -> int:
    """The index where the character that contains the byte at `at` begins: `at`, or up to three less."""
    for start in range(at, max(at - _MAX_CHARACTER, -1), -1):
        if not 0x80 <= line[start] < 0xC0:
            return start
    return at  # a fourth continuation byte belongs to no character


def character_start(line: bytes | bytearray, end: int) -> int:
    """The index where the last character of line[:end] begins: a UTF-8 sequence, the beginning of one, or an invalid byte."""
    if line[end - 1] >= 0x80:
        for size in range(min(_MAX_CHARACTER, end), 1, -1):
            if len(line[end - size : end].decode("utf-8", "replace")) == 1:
                return end - size
    return end - 1


def _cluster_start(line: bytearray, end: int) -> int:
    """The index where the last character that takes a column begins; only combining characters follow it."""
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
    """The index where the last word of `line` begins."""
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
    """Editor of one line, with a history.

    line:     the line so far
    visible:  whether it is shown on the screen by the editor
    measured_bytes: number of its bytes whose columns are counted. While `visible`, all but those of an incomplete character
    """

    __slots__ = ("_columns", "_draft", "_escape_state", "_history", "_history_index", "line", "measured_bytes", "visible")

    def __init__(self) -> None:
        self.line = bytearray()
        self.measured_bytes = 0
        self._columns = 0
        self.visible = False
        self._escape_state = b""  # ESC, CSI or SS3, which an unfinished escape sequence begins with
        self._history: list[tuple[bytes, int, int]] | None = None  # lines, each with its `measured_bytes` and `_columns`
        self._history_index = 0  # of the line being edited; len(_history) for the new line
        self._draft: tuple[bytes, int, int] | None = None  # the new line, while another is recalled

    @property
    def in_escape_sequence(self) -> bool:
        """Whether the next byte may belong to the escape sequence of a key."""
        return self._escape_state != b""

    @property
    def at_new_line(self) -> bool:
        """Whether the line is empty and is not one recalled from the history."""
        return not self.line and self._history_index == len(self._history or ())

    def set_visible(self, visible: bool) -> None:
        """Show the line on the screen from now on, or not."""
        self.visible = visible
        self._escape_state = b""
        self._measure()

    def insert(self, text: bytes) -> bytes:
        """Append `text`, which has no line ends. Returns the update of the screen, as all methods that edit do."""
        self.line += text
        self._measure()
        return render(text) if self.visible else b""

    def _measure(self) -> None:
        """Count the columns of the bytes appended, up to an incomplete character."""
        if not self.visible:
            return
        new = self.line[self.measured_bytes :]
        if new.isascii():
            self._columns += width(new)
            self.measured_bytes += len(new)
        else:
            text, whole = utf_8_decode(new, "replace")
            self._columns += sum(map(_width_of, text))
            self.measured_bytes += whole

    def erase_character(self) -> bytes:
        return self._truncate(_cluster_start(self.line, len(self.line)))

    def erase_word(self) -> bytes:
        start = _word_start(self.line)
        character = self.line[start : start + _MAX_CHARACTER].decode("utf-8", "replace")[:1]
        if start and character and not _width_of(character):  # it combines with the blank before the word
            start = _cluster_start(self.line, start)
        return self._truncate(start)

    def erase_line(self) -> bytes:
        return self._truncate(0)

    def _truncate(self, start: int) -> bytes:
        """Erase line[start:]. A character begins at `start`."""
        columns = width(self.line[max(start, self.measured_bytes) :]) if self.visible else 0
        if start < self.measured_bytes:
            if start < self.measured_bytes - start:  # count the shorter part
                erased = self._columns - width(self.line[:start])
            else:
                erased = width(self.line[start : self.measured_bytes])
            self.measured_bytes = start
            self._columns -= erased
            columns += erased
        del self.line[start:]
        return b"\b" * columns + b" " * columns + b"\b" * columns if self.visible else b""

    def handle_escape(self, byte: bytes) -> bytes | None:
        """Handle a byte of an escape sequence: of an arrow key (ESC [ A or ESC O A), or of another key, which is ignored.

        Returns the update of the screen; None if `byte` belongs to no sequence. An ESC that begins none is dropped.
        """
        before, self._escape_state = self._escape_state, b""
        if byte == _ESC:
            self._escape_state = _ESC
        elif before == _ESC and byte in (_CSI, _SS3):
            self._escape_state = byte
        elif before == _CSI and b" " <= byte <= b"?":  # parameters
            self._escape_state = before
        elif before in (_CSI, _SS3) and b"@" <= byte <= b"~":
            return self._recall({b"A": -1, b"B": 1}.get(byte, 0))
        else:
            return None
        return b""

    def _recall(self, step: int) -> bytes:
        """Recall the line that is `step` further on in the history."""
        index = self._history_index + step
        if not self.visible or not step or self._history is None or not 0 <= index <= len(self._history):
            return b""
        if self._history_index == len(self._history):
            self._draft = (bytes(self.line), self.measured_bytes, self._columns)
        self._history_index = index
        line, measured, columns = self._history[index] if index < len(self._history) else self._draft or (b"", 0, 0)
        change = self.erase_line() + render(line)
        self.line, self.measured_bytes, self._columns = bytearray(line), measured, columns
        return change

    def take_line(self) -> bytes:
        """The line, which is entered: a new one begins. Added to the history if it was visible."""
        line = bytes(self.line)
        if self.visible and line:
            self._add_to_history(line)
        self.clear()
        return line

    def _add_to_history(self, line: bytes) -> None:
        if self._history is None:
            self._history = []
        if not self._history or self._history[-1][0] != line:
            self._history.append((line, self.measured_bytes, self._columns))
        del self._history[:-HISTORY]

    def clear(self) -> None:
        """Discard the line; a new one begins."""
        if self.line:
            self.line = bytearray()
        self.measured_bytes = self._columns = 0
        self._escape_state = b""
        self._draft = None
        self._history_index = len(self._history or ())
