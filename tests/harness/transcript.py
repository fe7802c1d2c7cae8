"""A transcript of terminals, as a document shows it: its lines are typed at real terminals, and what these show is compared.

A line that begins with a prompt is typed; all others are output. Where the document says `...`, any lines may come. What
differs from run to run is compared as such: times, process ids, and ephemeral ports, of which one of the document must be one
of the run.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pexpect  # type: ignore[import-untyped]
import pytest

from bench.process import tree
from tests.harness.needs import ROOT
from tests.harness.terminal import heed_interrupts
from tests.harness.waiting import until

INPUT = re.compile(r"(\$|>>>|>)(?: (.*))?")  # a prompt, and what is typed
AT_PROMPT = r"(?:(?:\$|>>>|>) )?"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
OF_THE_MACHINE = re.compile(r"(?:workers run as root|limits\.connections reduced from \d+ to \d+).*\n")
VARYING = {
    re.compile(r"\d\d:\d\d:\d\d\.\d{6} +\d+ +\d+\b"): "TIME PROCESS DESCRIPTOR",  # of a line of the trace
    re.compile(r"\d+\.\d{3} s\b"): "TIME s",
}


class Shell:
    """A shell at a terminal, in the checkout. Its `python3` is the Python of the tests."""

    def __init__(self) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        environment = {
            "PATH": path,
            "PS1": "$ ",
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
            "PYTHON_BASIC_REPL": "1",
            "HOME": "/nonexistent",
        }
        command = "/bin/bash", ["--noprofile", "--norc", "--noediting"]
        self._child = pexpect.spawn(
            *command, cwd=ROOT, env=environment, dimensions=(50, 250), preexec_fn=heed_interrupts, encoding="utf-8"
        )
        self._child.delaybeforesend = None
        self._shown = ""

    def shown(self) -> str:
        """What it shows and was not yet dropped."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                self._shown += self._child.read_nonblocking(1 << 16, 0)
        return OF_THE_MACHINE.sub("", ESCAPE.sub("", self._shown).replace("\r", ""))

    def drop(self) -> None:
        """Drop what it shows, but for the prompt that it stands at."""
        match = re.search(f"{AT_PROMPT}$", self.shown())
        self._shown = match[0] if match else ""

    def type(self, text: str) -> None:
        self._child.send(text)

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait for the prompt."""
        self._child.send("\x03")
        until(lambda: re.search(r"\^C(?s:.*)(?:\$|>>>) \Z", self.shown()) is not None, "a prompt after Ctrl-C")

    def activity(self) -> dict[int, str]:
        """State, and number of context switches, of each of its processes."""
        found = {}
        for pid in tree(self._child.pid):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                found[pid] = " ".join(re.findall(r"^(?:State|voluntary_ctxt_switches):\s+(\w+)", status, re.MULTILINE))
        return found

    def close(self) -> None:
        for pid in list(tree(self._child.pid)):  # a server would take the SIGHUP of a closed terminal for a reload
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._child.close(force=True)


class Transcript:
    """Terminals by their names.

    replacements: what texts of the document are here, such as its well-known ports.
    """

    def __init__(self, replacements: Mapping[str, str]) -> None:
        self._replacements = replacements
        self._shells: dict[str, Shell] = {}
        self._theirs: dict[str, int] = {}  # ephemeral ports of the document, in the order of their appearance
        self._ours: dict[str, int] = {}

    def __enter__(self) -> Transcript:
        return self

    def __exit__(self, *failure: object) -> None:
        for shell in self._shells.values():
            shell.close()

    def play(self, name: str, block: str) -> None:
        """Type and compare a block of the terminal `name`."""
        for old, new in self._replacements.items():
            block = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, block)
        if name not in self._shells:
            self._shells[name] = Shell()
        shell = self._shells[name]
        expected = ""
        for line in block.splitlines():
            if line.startswith("^C"):
                self._await(shell, expected)
                shell.interrupt()
            elif match := INPUT.fullmatch(line):
                self._await(shell, f"{expected}{match[1]} ")
                shell.type(f"{match[2] or ''}\n")
                line = f"{match[1]} {match[2] or ''}"
            expected += line if line == "^C" else f"{line}\n"  # the prompt comes right behind it
        self._await(shell, expected)
        self._settle()
        self._await(shell, expected)  # and nothing more
        self._theirs, self._ours = self._normalize(expected, self._theirs)[1], self._normalize(shell.shown(), self._ours)[1]
        shell.drop()

    def finish(self) -> None:
        """Stop what still runs, by Ctrl-C. Nothing may be left at a terminal that the document does not show."""
        for name, shell in self._shells.items():
            left = shell.shown()
            assert re.fullmatch(AT_PROMPT, left), f"at the end, {name} shows\n{left}"
            if left != "$ ":
                shell.interrupt()
                shell.drop()
                assert shell.shown() == "$ ", f"at the end, {name} does not leave its program"

    def matches(self, expected: str, shown: str) -> bool:
        """Whether a terminal shows what the document says, perhaps with a prompt behind it."""
        lines = self._normalize(expected, self._theirs)[0].splitlines(keepends=True)
        pattern = "".join(r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line) for line in lines)
        return re.fullmatch(pattern + AT_PROMPT, self._normalize(shown, self._ours)[0]) is not None

    def _await(self, shell: Shell, expected: str) -> None:
        """Wait until it shows what is expected."""

        def is_shown() -> bool:
            return self.matches(expected, shell.shown())

        try:
            until(is_shown, "the terminal")
        except AssertionError:
            pytest.fail(f"the terminal shows\n{shell.shown()}\ninstead of\n{expected}")

    def _normalize(self, text: str, ports: Mapping[str, int]) -> tuple[str, dict[str, int]]:
        """`text` without what differs from run to run, and with the numbers of ports; and the ports with those in it."""
        found = dict(ports)

        def number(match: re.Match[str]) -> str:
            port = match[0]
            return port if port in self._replacements.values() else f"EPHEMERAL {found.setdefault(port, len(found))}"

        for pattern, name in VARYING.items():
            text = pattern.sub(name, text)
        text = re.sub(r"\b\d{5}\b", number, text)
        return re.sub(r"\n{2,}", "\n", text), found

    def _settle(self) -> None:
        """Wait until all processes at all terminals wait for something, and for nothing that is on its way to them."""
        looks: list[dict[int, str]] = [{}, {}]

        def is_idle() -> bool:
            looks.append({pid: activity for shell in self._shells.values() for pid, activity in shell.activity().items()})
            return looks[-1] == looks[-2] == looks[-3] and all(activity.startswith("S") for activity in looks[-1].values())

        until(is_idle, "the terminals are idle")
