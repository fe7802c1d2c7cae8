"""The line being typed. In character mode a small screen is kept beside it: the one must show what the other holds."""

from __future__ import annotations

import codecs
import random
from unicodedata import combining, east_asian_width

import pytest

from rawservers.core.peer import Clock, Peer
from rawservers.telnet.editor import HISTORY, MAX_MARKS, Editor, character_start, render, width
from rawservers.telnet.service import Dialogue, LineClient
from rawservers.telnet.session import Session
from tests.harness.telnet import start

PROMPT = "日> "
BLANK = " \t"


class Screen:
    """A terminal as wide as need be: printing characters, narrow, wide and combining; BS, CR and LF; nothing else."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = [[]]  # a wide character fills a cell and an empty one
        self.column = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def take(self, data: bytes) -> None:
        for character in self._decode(data.replace(b"\xff\xff", b"\xff")):
            self._take(character)

    def _take(self, character: str) -> None:
        if character == "\b":
            self.column = max(0, self.column - 1)
        elif character == "\r":
            self.column = 0
        elif character == "\n":
            self.rows.append([])
        elif combining(character):
            self.rows[-1][self.column - 1 - (self.rows[-1][self.column - 1] == "")] += character
        else:
            assert character.isprintable(), f"{character!r} may do anything"
            cells = [character, ""] if east_asian_width(character) in "WF" else [character]
            self.rows[-1][self.column : self.column + len(cells)] = cells
            self.column += len(cells)

    @property
    def row(self) -> str:
        """The row that the cursor is in, up to it; and nothing may stand behind it."""
        cells = self.rows[-1]
        assert "".join(cells[self.column :]).strip() == ""
        return "".join(cells[: self.column])


class Typist:
    """What a line must hold, by the keys typed: characters in a list."""

    def __init__(self) -> None:
        self.line: list[str] = []
        self.draft: list[str] = []
        self.entered: list[list[str]] = []
        self.place = 0

    def press(self, key: str) -> None:
        if key in ("\b", "\x7f", "EC"):
            while self.line and combining(self.line.pop()):
                pass
        elif key in ("\x15", "EL"):
            self.line.clear()
        elif key == "\x17":
            while self.line and self.line[-1] in BLANK:
                self.line.pop()
            gone = "x"
            while self.line and self.line[-1] not in BLANK:
                gone = self.line.pop()
            while self.line and combining(gone):  # it sat on the blank before the word
                gone = self.line.pop()
        elif key in ("UP", "DOWN"):
            self.turn(self.place + (1 if key == "DOWN" else -1))
        elif key in ("\r", "\x03", "IP"):
            self.leave(entered=key == "\r")
        elif key not in ("\x12", "AYT", "LEFT", "F5"):
            self.line += key

    def turn(self, place: int) -> None:
        if 0 <= place <= len(self.entered):
            if self.place == len(self.entered):
                self.draft = self.line
            self.place = place
            self.line = list(self.draft if place == len(self.entered) else self.entered[place])

    def leave(self, entered: bool) -> None:
        if entered and self.line and self.entered[-1:] != [self.line]:
            self.entered = [*self.entered, self.line][-HISTORY:]
        self.place, self.line, self.draft = len(self.entered), [], []


CHARACTERS = ["a", "b", " ", "é", "я", "日", "本", "😀", "e\u0301", "\u0301", "\x01", "\t", "\x1f", "-", "\uff46"]
KEYS = {"EC": b"\xff\xf7", "EL": b"\xff\xf8", "IP": b"\xff\xf4", "AYT": b"\xff\xf6"}
KEYS |= {"UP": b"\x1b[A", "DOWN": b"\x1bOB", "LEFT": b"\x1b[1;5D", "F5": b"\x1b[15~"}
EDITS = ["\b", "\x7f", "\x7f", "\x7f", "\x15", "\x17", "\x12", "\x03", "\r", "\r", *KEYS]


def prompting(client: LineClient) -> Dialogue:
    while True:
        yield PROMPT.encode()


def in_character_mode() -> Session:
    session = start(Peer(("192.0.2.1", 40000), Clock()), prompting)
    session.receive(b"\xff\xfd\x01\xff\xfd\x03")
    return session


def said(session: Session, data: bytes) -> bytes:
    return b"".join(chunk for chunk in session.receive(data) if isinstance(chunk, bytes))


def as_seen(line: list[str]) -> str:
    """How the characters of `line` look: controls as ^X, a combining one on the character before it."""
    return "".join("^" + chr(ord(c) ^ 0x40) if c < " " or c == "\x7f" else c for c in line)


@pytest.mark.parametrize("seed", range(60))
def test_the_screen_shows_what_the_line_holds(seed: int) -> None:
    choose = random.Random(seed)
    session, typist, screen = in_character_mode(), Typist(), Screen()
    screen.take(PROMPT.encode())
    for _ in range(300):
        key = choose.choice(CHARACTERS if choose.random() < 0.6 else EDITS)
        if key == "\u0301" and not typist.line:
            continue  # would sit on the prompt
        typist.press(key)
        screen.take(said(session, KEYS.get(key, key.encode())))
        assert screen.row == PROMPT + as_seen(typist.line), repr(key)
        assert session.editor.line == "".join(typist.line).encode()


@pytest.mark.parametrize("seed", range(10))
def test_editing_without_echo_holds_the_same_and_shows_nothing(seed: int) -> None:
    choose = random.Random(seed)
    session, typist = start(Peer(("192.0.2.1", 40000), Clock()), lambda line: None), Typist()
    edits = ["\b", "\x7f", "\x15", "\x17", "EC", "EL", "IP"]
    for _ in range(500):
        key = choose.choice(CHARACTERS if choose.random() < 0.7 else edits)
        typist.press(key)
        assert session.receive(KEYS.get(key, key.encode())) == ()
        assert session.editor.line == "".join(typist.line).encode()


@pytest.mark.parametrize("junk", b"\xe9 \xc3\x28 \xf0\x9f \xff\xff \x80\x80 \xe0\x80 \xed\xa0\x80".split(b" "))
def test_what_is_not_utf8_is_erased_from_the_screen_too(junk: bytes) -> None:
    session, screen = in_character_mode(), Screen()
    screen.take(PROMPT.encode() + said(session, b"ab" + junk))
    for _ in junk:
        if session.editor.line != b"ab":
            screen.take(said(session, b"\x7f"))
    assert session.editor.line == b"ab"
    assert screen.row == PROMPT + "ab"


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        (b"", b""),
        (b"a", b""),
        ("é".encode(), b""),
        ("xя".encode(), b"x"),
        ("日本".encode(), "日".encode()),
        ("a😀".encode(), b"a"),
        (b"\xf0\x9f\x98", b""),  # the beginning of a character
        (b"\xc3(", b"\xc3"),
        (b"a\x80", b"a"),
        (b"\x80\x80", b"\x80"),
        (b"\xc3\xa9\xa9", b"\xc3\xa9"),
        (b"\xe0\x80", b"\xe0"),  # no character begins like this
        (b"a\xff", b"a"),
    ],
)
def test_the_last_character(line: bytes, rest: bytes) -> None:
    editor = Editor()
    editor.insert(line)
    editor.erase_character()
    assert editor.line == rest
    assert not line or line[: character_start(line, len(line))] == rest


def test_every_character_is_erased_whole() -> None:
    for code in (*range(0x800), *range(0x800, 0xD800, 97), *range(0xE000, 0x110000, 997)):
        assert character_start(b"a" + chr(code).encode(), 1 + len(chr(code).encode())) == 1, hex(code)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", 0),
        ("abc", 3),
        ("é", 1),
        ("日本", 4),
        ("\uff46", 2),
        ("😀", 2),
        ("e\u0301", 1),
        ("\x01\x7f", 4),
        ("я\t", 3),
        ("\u200d", 0),
    ],
)
def test_width(text: str, columns: int) -> None:
    assert width(text.encode()) == columns


def test_shown() -> None:
    assert render(b"a\x00\t\x1b\x7f\xff\x80") == b"a^@^I^[^?\xff\xff\x80"


def test_controls_never_reach_the_screen() -> None:
    out = said(
        in_character_mode(),
        bytes(code for code in range(0x80) if code not in b"\x00\x03\x04\x08\n\r\x12\x15\x17\x1b\x7f"),
    )
    assert out.isascii()
    assert out.decode().isprintable()


class TestHistory:
    def editor(self, *lines: bytes) -> Editor:
        editor = Editor()
        editor.set_visible(True)
        for line in lines:
            editor.insert(line)
            assert editor.take_line() == line
        return editor

    def press(self, editor: Editor, keys: bytes) -> bytes:
        for key in keys:
            assert editor.handle_escape(bytes((key,))) is not None
        return bytes(editor.line)

    def test_up_and_down(self) -> None:
        editor = self.editor(b"one", b"two")
        editor.insert(b"draft")
        seen = [self.press(editor, b"\x1b[" + key) for key in (b"A", b"A", b"A", b"B", b"B", b"B")]
        assert seen == [b"two", b"one", b"one", b"two", b"draft", b"draft"]

    def test_an_old_line_that_was_changed_is_entered_and_the_old_one_kept(self) -> None:
        editor = self.editor(b"one", b"two")
        self.press(editor, b"\x1b[A\x1b[A")
        editor.insert(b"!")
        assert editor.take_line() == b"one!"
        assert [self.press(editor, b"\x1b[A") for _ in range(3)] == [b"one!", b"two", b"one"]

    def test_it_is_bounded_and_has_no_neighbours_alike_and_no_empty_lines(self) -> None:
        editor = self.editor(*(b"%d" % (i // 2) for i in range(100)), b"", b"49", b"")
        seen = [self.press(editor, b"\x1b[A") for _ in range(HISTORY + 5)]
        assert seen[: HISTORY + 1] == [b"%d" % max(i, 50 - HISTORY) for i in range(49, 48 - HISTORY, -1)]
        assert seen[-1] == b"%d" % (50 - HISTORY)

    def test_only_while_the_screen_is_ours(self) -> None:
        editor = self.editor(b"one")
        editor.set_visible(False)
        editor.insert(b"secret")
        editor.take_line()
        assert self.press(editor, b"\x1b[A") == b""
        editor.set_visible(True)
        assert [self.press(editor, b"\x1b[A") for _ in range(2)] == [b"one", b"one"]

    def test_abandoned_lines_are_not_kept(self) -> None:
        editor = self.editor(b"one")
        editor.insert(b"two")
        editor.clear()
        assert self.press(editor, b"\x1b[A") == b"one"

    @pytest.mark.parametrize("keys", [b"\x1b[1;5C", b"\x1b[3~", b"\x1bOP", b"\x1b[C", b"\x1b[200~", b"\x1b\x1b[C"])
    def test_other_keys_do_nothing(self, keys: bytes) -> None:
        editor = self.editor(b"one")
        assert self.press(editor, keys) == b""
        assert not editor.escape_state

    @pytest.mark.parametrize("keys", [b"\x1bx", b"\x1b\x7f", b"\x1b[\x03", b"\x1b[\xc3", b"\x1bO\n"])
    def test_what_ends_a_broken_sequence_is_a_key_of_its_own(self, keys: bytes) -> None:
        editor = self.editor()
        self.press(editor, keys[:-1])
        assert editor.handle_escape(keys[-1:]) is None
        assert not editor.escape_state


def test_arrow_keys_are_data_while_the_peer_echoes() -> None:
    session = start(Peer(("192.0.2.1", 40000), Clock()))
    assert session.receive(b"one\r\n\x1b[A\r\n") == (b"one\r\n\x1b[A\r\n",)


def test_history_in_a_conversation_at_any_cut() -> None:
    data = "ab\r日本\r\x1b[A\x7f\r\x1b[A\x1b[A\x1b[Ax\r".encode()
    whole = said(in_character_mode(), data)
    assert whole.count("日> ".encode()) == 4
    one_by_one = in_character_mode()
    assert b"".join(said(one_by_one, data[i : i + 1]) for i in range(len(data))) == whole


def test_the_marks_that_one_key_erases_are_bounded() -> None:
    editor = Editor()
    editor.insert(("ab" + "\u0301" * (2 * MAX_MARKS)).encode())
    sizes = []
    while editor.line:
        sizes.append(len(editor.line))
        editor.erase_character()
    assert sizes == [2 + 4 * MAX_MARKS, 2 + 2 * MAX_MARKS, 2, 1]
