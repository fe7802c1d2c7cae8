"""Odd surroundings: signals, descriptors, folders and a umask that a server inherits."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.harness.needs import ROOT
from tests.harness.processes import kinds, opened
from tests.harness.supervisor import CONTENT, ask, configure, get, kill, supervise
from tests.harness.waiting import until


def inheriting(program: str) -> tuple[str, ...]:
    """What starts a server after this piece of Python."""
    return sys.executable, "-c", f"import os, signal, sys\n{program}\nos.execv(sys.argv[1], sys.argv[1:])"


SIGNALS = "(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)"
ODDITIES = {
    "signals blocked": f"signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNALS})",
    "signals ignored": f"for number in {SIGNALS}: signal.signal(number, signal.SIG_IGN)",
    "a child": "if os.fork() == 0: os._exit(0)",
    "no folder": "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')",
    "no environment": "path = os.getcwd(); os.environ.clear()",
    "no input": "os.close(0)",
    "no output": "os.close(1)",
    "no error output": "os.close(2)",
    "neither": "os.closerange(0, 3)",
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_whatever_it_inherits(conf: Path, folder: Path, tmp_path: Path, oddity: str) -> None:
    path = tmp_path / "http.sock"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "f").write_bytes(b"other")
    listen = [("http", f"unix:{path}")]
    configure(conf, folder, listen=listen)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before = inheriting(f"os.chdir({str(tmp_path)!r}); {ODDITIES[oddity]}")
    if oddity != "no folder":
        before = inheriting(ODDITIES[oddity])
    with supervise("-c", conf, workers=1, before=before, env=environment) as server:
        until(lambda: ask(path) == CONTENT, "it serves")
        for number in range(3):
            assert opened(server.workers()[-1])[number].startswith(("/dev/null", "pipe:"))
        kill(server, server.workers()[-1])
        assert ask(path) == CONTENT
        configure(conf, tmp_path / "other", listen=listen)
        server.signal(signal.SIGHUP)
        until(lambda: ask(path) == b"other", "it has reloaded")
        server.signal()
        assert server.wait() == 0
        assert not path.exists()


def test_modes_without_a_umask(conf: Path, folder: Path, tmp_path: Path) -> None:
    configure(conf, folder, listen=[("http", f"unix:{tmp_path / 'http.sock'}")])
    with supervise("-c", conf, "--access-log", tmp_path / "log", umask=0):
        until(lambda: ask(tmp_path / "http.sock") == CONTENT, "it serves")
        modes = [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("http.sock", "log")]
    assert modes == ["0o755", "0o640"]


def test_descriptors_that_were_open_before(conf: Path) -> None:
    before = inheriting(
        "zero = os.open('/dev/zero', os.O_RDONLY)\nfor fd in range(3, 51): os.dup2(zero, fd + 50 * (fd == zero))"
    )
    with supervise("-c", conf, before=before) as server:
        assert get(server) == CONTENT
        until(lambda: all(kinds(pid)["socket"] == 3 for pid in server.workers()), "the connection's end")
        assert [kinds(pid)["/dev/zero"] for pid in (server.process.pid, *server.workers())] == [0, 0, 0]
