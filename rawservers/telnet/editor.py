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

The cost of each is proportional to the text typed, erased or shown, not to the line.

The width of the terminal is unknown: it is not negotiated (NAWS, RFC 1073), and BS does not move up to the row above. On a line
longer than a row, erasing clears the last row only; ^R shows the line again.
"""

from __future__ import annotations

from functools import lru_cache
from unicodedata import category, east_asian_width

# Lines in the history of a session. With lines of 4096 bytes they take 64 KiB at most, as much as the unsent output of a
# stalled session. Precedent: the command line of Cisco's routers keeps 10.
HISTORY = 16

WIDTH_CACHE_SIZE = 4096  # characters whose width is cached, for all sessions together: a script, or several

# Combining characters erased with the one that they follow, at most: a few milliseconds' work. Text in use has up to 30.
MAX_MARKS = 1024

_ESC, _CSI, _SS3 = b"\x1b", b"[", b"O"
_CONTROL = bytes((*range(0x20), 0x7F))
_MAX_CHARACTER = 4  # bytes in UTF-8

# The two bytes shown for each byte: caret notation, and 255 doubled. For other bytes the second is NUL, to be removed.
_FIRST_SHOWN = bytes(ord("^") if code in _CONTROL else code for code in range(256))
_SECOND_SHOWN = bytes(code ^ 0x40 if code in _CONTROL else code if code == 255 else 0 for code in range(256))


def render(line: bytes | bytearray) -> bytes:
    """The bytes that show `line` on the screen: control characters in caret notation, 255 doubled."""
    pairs = bytearray(2 * len(line))
    pairs[::2] = line.translate(_FIRST_SHOWN)
    pairs[1::2] = line.translate(_SECOND_SHOWN)
    return bytes(pairs.translate(None, b"\0"))


@lru_cache(WIDTH_CACHE_SIZE)
def _character_width(character: str) -> int:
    if character < " " or character == "\x7f":
        return 2
    if category(character) in ("Mn", "Me", "Cf", "Cc"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def width(line: bytes | bytearray) -> int:
    """Columns of the screen that `line` takes. Each invalid sequence counts as one replacement character."""
    if line.isascii():
        return 2 * len(line) - len(line.translate(None, _CONTROL))
    return sum(map(_character_width, line.decode("utf-8", "replace")))


def character_start(line: bytes | bytearray, end: int) -> int:
    """The index where the last character of line[:end] begins: a UTF-8 sequence, the beginning of one, or an invalid byte."""
    start = end - 1
    while start > max(0, end - _MAX_CHARACTER) and 0x80 <= line[start] < 0xC0:  # the first byte may be further back
        start -= 1
    return start if len(line[start:end].decode("utf-8", "replace")) == 1 else end - 1


def _cluster_start(line: bytearray, end: int) -> int:
    """The index where the last character of line[:end] that takes a column begins, or the last MAX_MARKS that take none."""
    start = end
    for _ in range(MAX_MARKS):
        if not start:
            break
        end, start = start, character_start(line, start)
        if width(line[start:end]):
            break
    return start


def _word_start(line: bytearray) -> int:
    """The index where the last word of `line` begins, and a blank that it combines with."""
    end = len(line)
    while end and line[end - 1] in b" \t":
        end -= 1
    start = line.rfind(b" ", 0, end) + 1
    start = max(start, line.rfind(b"\t", start, end) + 1)
    first = line[start : start + _MAX_CHARACTER].decode("utf-8", "replace")[:1]
    return start if any(map(_character_width, first)) else _cluster_start(line, start)


class Editor:
    """Editor of one line, with a history.

    line:          the line so far
    visible:       whether it is shown on the screen by the editor
    escape_state:  ESC, CSI or SS3, which an unfinished escape sequence of a key begins with; b"" outside of one
    """

    __slots__ = ("_draft", "_history", "_history_index", "escape_state", "line", "visible")

    def __init__(self) -> None:
        self.line = bytearray()
        self.visible = False
        self.escape_state = b""
        self._history: tuple[bytes, ...] = ()
        self._history_index = 0  # of the line being edited; len(_history) for the new line
        self._draft = b""  # the new line, while another is recalled

    @property
    def at_new_line(self) -> bool:
        """Whether the line is not one recalled from the history."""
        return self._history_index == len(self._history)

    def set_visible(self, visible: bool) -> None:
        """Show the line on the screen from now on, or not."""
        self.visible = visible
        self.escape_state = b""

    def insert(self, text: bytes) -> bytes:
        """Append `text`, which has no line ends. Returns the update of the screen, as all methods that edit do."""
        self.line += text
        return render(text) if self.visible else b""

    def erase_character(self) -> bytes:
        return self.erase(_cluster_start(self.line, len(self.line)))

    def erase_word(self) -> bytes:
        return self.erase(_word_start(self.line))

    def erase(self, start: int = 0) -> bytes:
        """Erase line[start:], by default all of it. A character begins at `start`."""
        columns = width(self.line[start:]) if self.visible else 0
        del self.line[start:]
        return b"\b" * columns + b" " * columns + b"\b" * columns

    def handle_escape(self, byte: bytes) -> bytes | None:
        """Handle a byte of an escape sequence: of an arrow key (ESC [ A or ESC O A), or of another key, which is ignored.

        Returns the update of the screen; None if `byte` belongs to no sequence. An ESC that begins none is dropped.
        """
        before, self.escape_state = self.escape_state, b""
        if byte == _ESC:
            self.escape_state = _ESC
        elif before == _ESC and byte in (_CSI, _SS3):
            self.escape_state = byte
        elif before == _CSI and b" " <= byte <= b"?":  # parameters
            self.escape_state = before
        elif before in (_CSI, _SS3) and b"@" <= byte <= b"~":
            return self._recall({b"A": -1, b"B": 1}.get(byte, 0))
        else:
            return None
        return b""

    def _recall(self, step: int) -> bytes:
        """Recall the line that is `step` further on in the history."""
        index = self._history_index + step
        if not self.visible or not step or not 0 <= index <= len(self._history):
            return b""
        if self.at_new_line:
            self._draft = bytes(self.line)
        self._history_index = index
        return self.erase() + self.insert((*self._history, self._draft)[index])

    def take_line(self) -> bytes:
        """The line, which is entered: a new one begins. Added to the history if it was visible."""
        line = bytes(self.line)
        if self.visible and line and self._history[-1:] != (line,):
            self._history = (*self._history, line)[-HISTORY:]
        self.clear()
        return line

    def clear(self) -> None:
        """Discard the line; a new one begins."""
        self.line.clear()
        self.escape_state = b""
        self._history_index = len(self._history)
