"""Errors of system calls, injected with strace into a process that runs."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.needs import need, unable
from tests.harness.waiting import DEADLINE, until


def tracer(pid: int) -> int:
    """The process that traces this one; 0: none."""
    match = re.search(r"\nTracerPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1])


@contextlib.contextmanager
def injected(pid: int, call: str, error: str, when: str, notes: Path, *options: str) -> Iterator[None]:
    """Let `call` fail with `error` in the process `pid`, at the calls `when` ("1..2": the first two), at one of them at least.

    notes: a file for the trace; options: more of strace's.
    """
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}")
    command = [need("strace"), "-qq", "-o", str(notes), *inject, *options, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        try:
            until(lambda: strace.poll() is not None or tracer(pid) == strace.pid, "the trace begins")
            if strace.poll() is not None:
                assert strace.stderr
                unable(f"cannot trace here: {strace.stderr.read()}")
            yield
        finally:
            strace.terminate()
            strace.wait(DEADLINE)
    if "(INJECTED)" not in notes.read_text():
        pytest.fail(f"{call} was not called")


def begun_with(call: str, error: str, when: str, *options: str) -> tuple[str, ...]:
    """What to put before a command, so that `call` fails in its first process."""
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}")
    return (need("strace"), "-D", "-qq", "-o", os.devnull, *inject, *options)
