"""A person at a terminal: a command in a pty, what is typed to it, and what its screen shows. Every wait has a deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import time
from collections.abc import Sequence

import pexpect  # type: ignore[import-untyped]
import pyte
import pytest

from tests.harness.needs import need
from tests.harness.waiting import DEADLINE, until

COLUMNS, ROWS = 80, 50
UNSEEN = bytes(code for code in range(0x20) if code not in b"\a\b\t\n\v\f\r\x0e\x0f\x1b")  # that no terminal acts on


def heed_interrupts() -> None:
    """As at a terminal; a shell makes what it starts in the background ignore Ctrl-C, and so would all its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


class Terminal:
    """`command` from its first word to its end. `heard`: every byte that it wrote to the terminal."""

    def __init__(self, *command: str) -> None:
        environment = os.environ | {"TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self._child = pexpect.spawn(
            need(command[0]),
            list(command[1:]),
            env=environment,
            dimensions=(ROWS, COLUMNS),
            timeout=DEADLINE,
            preexec_fn=heed_interrupts,
        )
        self._child.delaybeforesend = None
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self.heard = b""

    # The screen

    def _pump(self, wait: float = 0) -> bool:
        """Show what was written so far; False once it has ended."""
        try:
            data = self._child.read_nonblocking(1 << 16, wait)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.heard += data
        self._stream.feed(data.translate(None, UNSEEN))
        return True

    def rows(self) -> list[str]:
        """What stands on the screen, down to the cursor; on its row, all that is left of it and what is right of it."""
        self._pump()
        display, cursor = self._screen.display, self._screen.cursor
        last, column = display[cursor.y], min(cursor.x, COLUMNS)
        rows = [row.rstrip() for row in display]
        rows[cursor.y] = last[:column] + last[column:].rstrip()
        while len(rows) > cursor.y + 1 and not rows[-1]:
            del rows[-1]
        return rows

    def shows(self, rows: Sequence[str]) -> None:
        """Wait until the screen holds exactly `rows`, and the cursor stands at the end of the last."""
        rows = [*map(str.rstrip, rows[:-1]), rows[-1]]
        try:
            until(lambda: self.rows() == rows, "the screen", DEADLINE / 2)
        except AssertionError:
            pytest.fail(f"{self.rows()}\ninstead of {rows}, after {self.heard!r}")

    # The keyboard

    def type(self, keys: str) -> None:
        self._child.send(keys.encode())

    def takes_characters(self) -> None:
        """Wait until the client has told the terminal to hand over each character, and to show none by itself."""
        until(lambda: self._pump() and not self._mode() & (termios.ECHO | termios.ICANON), "character mode")

    def takes_lines(self) -> None:
        """Wait until the terminal shows what is typed, and hands it over as lines."""
        until(lambda: self._pump() and not ~self._mode() & (termios.ECHO | termios.ICANON), "line mode")

    def hides(self) -> None:
        """Wait until the terminal does not show what is typed."""
        until(lambda: self._pump() and not self._mode() & termios.ECHO, "no echo")

    def _mode(self) -> int:
        return int(termios.tcgetattr(self._child.child_fd)[3])

    # The end

    def leaves(self) -> int:
        """Wait until the client has ended; its exit status, or that of a shell whose command a signal has killed."""
        end = time.monotonic() + DEADLINE / 2
        while self._pump(0.01):
            assert time.monotonic() < end, f"it does not leave: {self.rows()}"
        until(lambda: not self._child.isalive(), "the client's end")
        killed = self._child.signalstatus
        return int(self._child.exitstatus if killed is None else 128 + killed)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *failure: object) -> None:
        with contextlib.suppress(pexpect.ExceptionPexpect):
            self._child.close(force=True)
