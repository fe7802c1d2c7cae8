"""The service manager, as systemd: it is told of the start, reloads and the end, and of signs of life."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import pytest

from rawservers.daemon import control
from tests.harness.service_manager import Manager
from tests.harness.supervisor import CONTENT, configure, get, kill, replaced, supervise
from tests.harness.waiting import DEADLINE, until


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(conf: Path, folder: Path, tmp_path: Path, abstract: bool) -> None:
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(Manager(f"\0{tmp_path}" if abstract else str(tmp_path / "notify")))
        server = stack.enter_context(supervise("-c", conf, env=manager.environment))
        said = manager.hear_of("READY")
        assert said["MAINPID"] == str(server.process.pid)
        http, telnet = (":".join(map(str, server.address(service))) for service in ("http", "telnet"))
        assert said["STATUS"] == f"Serving http on {http}, telnet on {telnet} with 2 workers"
        assert b"NOTIFY_" not in get(server, "/environment")
        for mistake in (False, True):
            configure(conf, folder / "nowhere" if mistake else folder)
            before = time.monotonic_ns() // 1000
            server.signal(signal.SIGHUP)
            assert before < int(manager.hear_of("RELOADING")["MONOTONIC_USEC"]) < before + 1e6 * DEADLINE
            assert manager.hear_of("READY")["STATUS"].endswith("with 2 workers")
        server.signal()
        assert manager.hear_of("STOPPING")["STOPPING"] == "1"


def test_the_watchdog(conf: Path, tmp_path: Path) -> None:
    with Manager(str(tmp_path / "notify")) as manager:
        watched = manager.environment | {"WATCHDOG_USEC": "200000"}
        with supervise("-c", conf, env=watched | {"WATCHDOG_PID": "1"}) as server:
            manager.hear_of("READY")
            control.reload(server.process.pid)
            while "READY" not in (said := manager.hear()):
                assert "WATCHDOG" not in said  # it is for another process
        with supervise("-c", conf, env=watched) as server:
            manager.hear_of("READY")
            began = time.monotonic()
            for _ in range(5):
                assert manager.hear_of("WATCHDOG")["WATCHDOG"] == "1"
            assert time.monotonic() - began > 0.1  # and is no flood


@pytest.mark.parametrize("gone", [False, True])
def test_a_service_manager_that_does_not_listen(conf: Path, tmp_path: Path, gone: bool) -> None:
    with Manager(str(tmp_path / "notify")) as manager:
        bogus = {"NOTIFY_SOCKET": str(tmp_path / "nowhere"), "WATCHDOG_USEC": "100000"}
        with supervise("-c", conf, env=manager.environment | ({} if gone else bogus)) as server:
            if gone:
                manager.hear_of("READY")
                (tmp_path / "notify").unlink()
            assert get(server) == CONTENT
            former = server.workers()
            control.reload(server.process.pid)
            replaced(server, *former)
            kill(server, server.pid)
            assert get(server) == CONTENT
            server.signal()
            assert server.wait() == 0
            assert server.stderr().count("cannot notify the service manager") == 1


def test_a_service_manager_that_begins_anew_is_told_again(conf: Path, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with Manager(str(path)) as manager, supervise("-c", conf, env=manager.environment) as server:
        manager.hear_of("READY")
        path.rename(tmp_path / "away")
        control.reload(server.process.pid)
        until(lambda: "cannot notify the service manager" in server.stderr(), "it is missed")
        (tmp_path / "away").rename(path)
        manager.hear_of("READY")  # or it would wait for the end of the reload for ever
        control.reload(server.process.pid)
        manager.hear_of("RELOADING")
        manager.hear_of("READY")
