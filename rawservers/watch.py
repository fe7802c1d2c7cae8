"""`rawservers --status --watch`: the status and the table of sockets in a terminal, once a second.

It takes the alternate screen, hides the cursor, and reads keys without waiting for a line end. All that is undone whatever ends
it: q, ^C, SIGTERM, an exception; and while it is suspended by ^Z.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import termios
import time
import tty

from rawservers import status
from rawservers.core.errors import os_error_text
from rawservers.sockets import as_lines

INTERVAL = 1.0  # seconds
ENTER, LEAVE = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"  # xterm's: alternate screen, cursor
HOME, END_OF_LINE, END_OF_SCREEN = b"\x1b[H", b"\x1b[K", b"\x1b[J"
STDIN, STDOUT = 0, 1
COLUMNS, ROWS = 80, 24  # of a terminal that does not know its size, as under script(1)


def watch(address: str) -> int:
    """Show the server whose status service listens on `address`, until q or ^C; the exit status.

    Raises OSError if standard output is no terminal, or if the server cannot be asked the first time, and ValueError for a
    malformed address. An error later is shown in the terminal, and the server is asked again.
    """
    if not os.isatty(STDOUT):
        raise OSError("standard output is no terminal")
    try:
        lines = snapshot(address)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise OSError(f'{os_error_text(error)} (the server needs a [[listen]] with service = "status")') from error
    with contextlib.suppress(KeyboardInterrupt), Screen() as screen:
        while not screen.show(lines):
            try:
                lines = snapshot(address)
            except (OSError, ValueError) as error:
                lines = [f"cannot get the status from {address}: {os_error_text(error)}", "", "trying again"]
    return 0


def snapshot(address: str) -> list[str]:
    """The totals of the status, one line for each service, and the table. Raises OSError and ValueError."""
    server, *services = status.fetch(address, "text").rstrip().split("\n\n")
    totals = []
    for block in services:
        name, *counters = block.split("\n")
        totals.append(f"{name}: {', '.join(' '.join(counter.split()) for counter in counters)}")
    return [*server.split("\n"), "", *totals, "", *as_lines(status.fetch_sockets(address))]


def frame(lines: list[str], columns: int, rows: int) -> bytes:
    """What draws these lines, as far as there is room; the last row says how many are missing. 0: the usual size."""
    columns, rows = columns or COLUMNS, rows or ROWS
    shown = lines if len(lines) <= rows else [*lines[: rows - 1], f"... {len(lines) - rows + 1} more lines"]
    texts = [ascii(line)[1:-1][: columns - 1].encode() + END_OF_LINE for line in shown]
    return HOME + b"\n".join(texts) + END_OF_SCREEN


class Screen:
    """A context: the terminal while it is watched. The first signal to end the process raises in it; later ones are ignored."""

    def __init__(self) -> None:
        self._mode = termios.tcgetattr(STDIN) if os.isatty(STDIN) else None
        self._is_taken = self._is_leaving = False
        self._signals, self._wakeup = os.pipe()  # CPython writes the numbers of signals into it

    def __enter__(self) -> Screen:
        atexit.register(self._give_back)  # if a signal comes at the very beginning of `__exit__`
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGWINCH, lambda *_: None)
        signal.signal(signal.SIGTSTP, self._suspend)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        self._take()
        return self

    def __exit__(self, *failure: object) -> None:
        self._is_leaving = True
        self._give_back()

    def show(self, lines: list[str]) -> bool:
        """Show these lines for INTERVAL; whether q was typed."""
        end = time.monotonic() + INTERVAL
        while (left := end - time.monotonic()) > 0:
            write(frame(lines, *os.get_terminal_size(STDOUT)))
            ready = select.select([self._signals, *([STDIN] if self._mode else [])], [], [], left)[0]
            if self._signals in ready:
                os.read(self._signals, 4096)  # of SIGWINCH, after which it is drawn anew
            if STDIN in ready and ((keys := os.read(STDIN, 4096)) == b"" or b"q" in keys):
                return True
        return False

    def _stop(self, number: int, frame: object) -> None:
        if not self._is_leaving:
            self._is_leaving = True
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)

    def _suspend(self, number: int, frame: object) -> None:
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # returns with SIGCONT
        signal.signal(number, self._suspend)
        self._take()

    def _take(self) -> None:
        self._is_taken = True
        if self._mode:
            tty.setcbreak(STDIN)
        write(ENTER)

    def _give_back(self) -> None:
        if self._is_taken:
            self._is_taken = False
            write(LEAVE)
            if self._mode:
                termios.tcsetattr(STDIN, termios.TCSAFLUSH, self._mode)


def write(data: bytes) -> None:
    while data:
        data = data[os.write(STDOUT, data) :]
