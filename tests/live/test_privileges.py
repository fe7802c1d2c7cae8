"""Privileges: a low port takes some, and workers give up what root may."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rawservers.daemon import control
from tests.harness.needs import ROOT, need, need_root, unable
from tests.harness.processes import kinds
from tests.harness.supervisor import CONTENT, configure, get, rotate, supervise
from tests.harness.waiting import until


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up the right to bind port 80")
def test_a_low_port_without_permission(folder: Path) -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) - 1
    if low < 1:
        unable("no port is reserved for root here")
    command = [need("setpriv"), "--bounding-set=-net_bind_service", sys.executable, "-m", "rawservers", "--http", str(low)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert re.fullmatch(rf"rawservers: cannot listen on 127.0.0.1:{low}: permission denied \(.*root.*\)\n", done.stderr)


def free_low_port() -> int:
    """One that is root's."""
    for port in range(1023, 0, -1):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError


def test_workers_give_up_what_root_may(conf: Path, public: Path, tmp_path: Path) -> None:
    need_root("become somebody else")
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o700)
    configure(conf, public)
    arguments = ("--http", str(free_low_port()), "--user", "nobody:daemon", "--access-log", logs / "log")
    with supervise("-c", conf, *arguments) as server:
        assert get(server) == CONTENT
        for pid in server.workers():
            said = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            user, group = (pwd.getpwnam("nobody").pw_uid, grp.getgrnam("daemon").gr_gid)
            assert said["Uid"].split() == [str(user)] * 4
            assert said["Gid"].split() == [str(group)] * 4
            assert said["Groups"].split() == [str(group)]
            assert {said[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
        rotate(logs / "log", 1)
        server.signal(signal.SIGUSR1)
        until((logs / "log").exists, "a new log")
        until(lambda: all(kinds(pid)[str(logs / "log")] == 1 for pid in server.workers()), "all have it")
        assert get(server) == CONTENT
        until(lambda: (logs / "log").read_text().count("\n") == 1, "a line")
        control.reload(server.process.pid)
        assert get(server) == CONTENT


def test_a_link_that_the_workers_could_have_made(conf: Path, tmp_path: Path) -> None:
    """In the place of the log, at the start and when it is reopened: root does not write to what it leads to."""
    need_root("be led astray")
    logs, victim = tmp_path / "logs", tmp_path / "victim"
    logs.mkdir()
    victim.write_text("secret\n")
    shutil.chown(logs, "nobody")
    arguments = ("-c", conf, "--user", "nobody", "--access-log", logs / "log")
    (logs / "log").symlink_to(victim)
    with supervise(*arguments) as server:
        assert server.wait() == 2
        assert "cannot open the access log" in server.stderr()
    (logs / "log").unlink()
    with supervise(*arguments, workers=1) as server:
        assert get(server, "/pid")
        until(lambda: (logs / "log").read_text().count("\n") == 1, "its line")
        rotate(logs / "log", 1)
        (logs / "log").symlink_to(victim)
        server.signal(signal.SIGUSR1)
        until(lambda: "cannot reopen the access log" in server.stderr(), "a complaint")
        assert get(server, "/pid")
        until(lambda: (logs / "log.1").read_text().count("\n") == 2, "its line, in the old log")
        (logs / "log").unlink()
        until((logs / "log").exists, "a new log")
        assert get(server, "/pid")
        until(lambda: (logs / "log").read_text().count("\n") == 1, "its line")
    assert victim.read_text() == "secret\n"
