"""The recording of a terminal in README.md: python3 -m tools.recording

Starts a server, talks to it with curl and telnet, and writes docs/terminal.svg, in which the lines appear one after the other.
The ports 8080 and 2323 must be free.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pexpect  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 20  # seconds for each thing that is waited for
SHOWN = 104  # characters of a line
LEADING, MARGIN, LETTER = 21, 20, 8.43  # pixels
PAUSES = {True: 1.3, False: 0.1}  # seconds before a line, by whether it is typed
TYPED = {True: ' class="typed"', False: ""}
STYLE = """
rect { fill: #10181c }
text { font: 14px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #c9d6d8; white-space: pre }
.typed { fill: #7fd1c4; font-weight: bold }
@media (prefers-reduced-motion: no-preference) {
  text { opacity: 0; animation: appear 1ms forwards }
  @keyframes appear { to { opacity: 1 } }
}
"""


class Line(NamedTuple):
    text: str
    is_typed: bool = False


def spawn(folder: str, command: str, *arguments: str) -> pexpect.spawn:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb"}
    return pexpect.spawn(command, list(arguments), cwd=folder, timeout=TIMEOUT, env=environment, encoding="utf-8", echo=False)


def said(process: pexpect.spawn, until: str) -> list[Line]:
    """What a process prints, up to the line that matches the regular expression."""
    process.expect(f"{until}[^\n]*\n")
    return [Line(text.replace(process.cwd or "", "")) for text in f"{process.before}{process.after}".splitlines()]


def record(folder: str) -> Iterator[Line]:
    """The lines of the terminal."""
    Path(folder, "www").mkdir()
    Path(folder, "www", "hello.txt").write_text("Hello from a socket.\n")
    arguments = ("-m", "rawservers", "www", "--access-log", "off", "--trace")
    server = spawn(folder, sys.executable, *arguments)
    yield Line(f"$ python3 {' '.join(arguments)} &", True)
    for line in said(server, "telnet listening"):
        if "run as root" not in line.text:
            yield line
    yield Line("$ curl http://127.0.0.1:8080/hello.txt", True)
    client = spawn(folder, "curl", "-s", "http://127.0.0.1:8080/hello.txt")
    yield from said(client, "Hello")
    yield from said(server, " close ")
    yield Line("$ telnet 127.0.0.1 2323", True)
    client = spawn(folder, "telnet", "127.0.0.1", "2323")
    yield from said(client, "Escape character")
    yield from said(server, " accept ")
    client.sendline("good morning")
    yield Line("good morning", True)
    yield from said(client, "good morning")
    client.send("\x1d")
    client.expect_exact("telnet> ")
    client.sendline("quit")
    yield Line("^]")
    yield Line("telnet> quit", True)
    yield from said(server, " close ")
    yield Line("$ kill %1", True)
    server.kill(signal.SIGTERM)
    yield from said(server, "listener on 127.0.0.1:2323")
    server.wait()


def picture(lines: list[Line]) -> str:
    """An SVG picture; each line appears when its time has come, or at once where motion is unwanted."""
    height, width = LEADING * len(lines) + 2 * MARGIN, SHOWN * LETTER + 2 * MARGIN
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">']
    parts += ["<title>A terminal: a server starts, and is talked to with curl and telnet</title>", f"<style>{STYLE}</style>"]
    parts.append(f'<rect width="{width:.0f}" height="{height}" rx="10"/>')
    seconds = 0.0
    for number, line in enumerate(lines, 1):
        seconds += PAUSES[line.is_typed]
        place = f'x="{MARGIN}" y="{MARGIN + number * LEADING - 6}" style="animation-delay:{seconds:.1f}s"'
        parts.append(f"<text {place}{TYPED[line.is_typed]}>{escape(line.text[:SHOWN])}</text>")
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        (ROOT / "docs" / "terminal.svg").write_text(picture(list(record(folder))))
