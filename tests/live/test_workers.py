"""Workers of a supervisor: those that are killed, stuck or do not come up, and who takes their place."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import select
import signal
import socket
import time
from pathlib import Path

import pytest

from rawservers.daemon import control, startup
from tests.harness.http_client import request, take_answer
from tests.harness.load import Load
from tests.harness.needs import need
from tests.harness.processes import has_ended, kinds, memory, opened, state, stopped
from tests.harness.server import Server
from tests.harness.service_manager import Manager
from tests.harness.supervisor import CONTENT, LARGE, ask, configure, get, kill, replaced, supervise
from tests.harness.waiting import until

# Workers that die


def blameless(load: Load, deaths: list[tuple[float, float]], clients: int = 4) -> None:
    """Nobody was refused, and only those failed whose connection was open when a worker died."""
    for failure in load.failures:
        assert failure.step == "answer", failure
        assert any(failure.alive <= gone and killed <= failure.ended for killed, gone in deaths), failure
    assert len(load.failures) <= clients * len(deaths)


def test_every_worker_accepts(conf: Path) -> None:
    with supervise("-c", conf, workers=3) as server, contextlib.ExitStack() as busy:
        server.address("http")
        workers = server.workers()
        assert len(workers) == 3
        for _ in workers:
            busy.enter_context(stopped(int(get(server, "/pid"))))
        assert [state(pid) for pid in workers] == ["T", "T", "T"]
        with server.connect() as waiting:
            waiting.sendall(request("/f"))
            busy.close()
            assert take_answer(waiting) == (200, False, CONTENT)


def test_what_survives_a_collection_is_excluded_from_later_ones(conf: Path) -> None:
    with supervise("-c", conf, workers=1) as server, server.connect() as sock:
        sock.sendall(request("/collections"))
        said = take_answer(sock)[2].decode()
    assert re.fullmatch(r"\[700, 10, 1000, <function freeze_survivors at .*>\]", said)


def test_a_worker_that_is_killed_is_replaced(conf: Path) -> None:
    with supervise("-c", conf) as server, Load(server.address("http"), CONTENT) as load:
        victim, other = server.workers()
        deaths = [kill(server, victim)]
        replaced(server, victim)
        assert other in server.workers()
        load.go_on()
        blameless(load, deaths)
        until(lambda: f"worker {victim} killed by signal 9 (Killed)" in server.stderr(), "a line that says so")


def test_the_only_worker_is_killed_and_nobody_is_refused(conf: Path) -> None:
    with supervise("-c", conf, workers=1) as server:
        server.address("http")
        for _ in range(3):
            kill(server, server.pid)
            assert get(server) == CONTENT


def kill_at_random(server: Server, count: int) -> list[tuple[float, float]]:
    """Kill one of four workers every tenth of a second, so often; when each died."""
    chance = random.Random(1)
    deaths = []
    for _ in range(count):
        deaths.append(kill(server, chance.choice(server.workers())))
        select.select([], [], [], max(0.0, 0.1 - (time.monotonic() - deaths[-1][0])))
        until(lambda: bool(server.workers()), "a victim")
    return deaths


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_workers_that_are_killed_all_the_time(conf: Path, count: int) -> None:
    with supervise("-c", conf, "--access-log", "off", workers=4) as server, Load(server.address("http"), CONTENT) as load:
        deaths = kill_at_random(server, 5)
        replaced(server, workers=4)
        descriptors, size = kinds(server.process.pid), memory(server.process.pid)
        deaths += kill_at_random(server, count)
        replaced(server, workers=4)
        load.go_on()
        blameless(load, deaths)
        until(lambda: kinds(server.process.pid) <= descriptors, "no descriptor is left over")  # it may be about to close some
        assert memory(server.process.pid) - size < 1 << 20


def test_a_worker_that_is_killed_after_the_first_answer(conf: Path, folder: Path, tmp_path: Path) -> None:
    flag, path = tmp_path / "broken", tmp_path / "sock"
    configure(conf, folder, listen=[("http", f"unix:{path}")])
    flag.write_text("stop")
    with supervise("-c", conf, workers=1, env=os.environ | {"BROKEN": str(flag)}) as server:
        until(lambda: ask(path) == CONTENT, "the first answer")
        until(lambda: state(server.process.pid) == "T", "the supervisor does nothing")
        victim = server.pid
        kill(server, victim)
        server.signal(signal.SIGCONT)
        replaced(server, victim, workers=1)
        assert ask(path) == CONTENT
        assert f"worker {victim} killed by signal 9" in server.stderr()


def test_a_worker_that_is_killed_while_it_starts(conf: Path, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    flag.write_text("later")
    with supervise("-c", conf, env=os.environ | {"BROKEN": str(flag)}) as server:
        until(lambda: len(server.workers()) == 2, "they start")
        victim = server.pid
        kill(server, victim)
        flag.unlink()
        assert get(server) == CONTENT
        replaced(server, victim)


def test_a_worker_that_is_told_to_stop_is_replaced_at_once(conf: Path) -> None:
    """While it still finishes an answer."""
    with supervise("-c", conf) as server, server.connect() as sock:
        sock.sendall(request("/pid", keep=True))
        leaving = int(take_answer(sock)[2])
        sock.sendall(request("/large"))
        received = len(sock.recv(1))
        other = set(server.workers()) - {leaving}
        os.kill(leaving, signal.SIGTERM)
        until(lambda: len(server.workers()) == 3, "another worker beside it")
        assert leaving in server.workers()
        assert other < set(server.workers())
        while data := sock.recv(1 << 20):
            received += len(data)
        assert received > LARGE
        replaced(server, leaving)
        assert get(server) == CONTENT
        assert server.complaints() == []


def test_signals_that_mean_nothing(conf: Path) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        workers = server.workers()
        for pid in (server.process.pid, *workers):
            for number in startup.IGNORED:
                os.kill(pid, number)
        assert get(server) == CONTENT
        assert server.workers() == workers
        control.reload(server.process.pid)  # which it would not, if it were gone
        assert get(server) == CONTENT


IMPORTING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "rawservers.cli":
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
                os.kill(os.getpid(), number)

sys.meta_path.insert(0, Finder())
from rawservers.__main__ import main
sys.exit(main())
"""


def test_a_reload_that_is_asked_for_during_the_imports(conf: Path) -> None:
    with Server("-c", conf, program=IMPORTING) as server:
        until(lambda: "reloading" in server.stderr(), "a reload")
        assert get(server) == CONTENT


# Workers that are stuck


def test_workers_that_are_stuck_are_replaced(conf: Path) -> None:
    with supervise("-c", conf, workers=3, may_fail=True, env=os.environ | {"STUCK_TIME": "1"}) as server:
        server.address("http")
        workers = server.workers()
        with stopped(workers[0]), server.connect() as victim:
            victim.sendall(request("/endless"))
            served = 0
            while len(set(workers) & set(server.workers())) > 1:
                assert get(server) == CONTENT
                served += 1
            replaced(server, workers[0], workers=3)
        assert served > 5
        (spared,) = set(workers) & set(server.workers())
        assert spared in workers[1:]
        (stuck,) = set(workers[1:]) - {spared}
        said = server.stderr()
        assert re.search(r'File ".*supervised\.py", line \d+ in endless', said)
        assert f"worker {stuck} killed by signal 6 (Aborted)" in said
        until(lambda: f"worker {workers[0]} killed by signal 9 (Killed)" in server.stderr(), "its end is told")


@pytest.mark.slow
def test_a_loop_that_turns_slowly_is_not_stuck(conf: Path) -> None:
    """All the slow answers together take longer than a worker may be silent, and none of them does."""
    with supervise("-c", conf, workers=1, env=os.environ | {"STUCK_TIME": "1"}) as server, contextlib.ExitStack() as stack:
        server.address("http")
        workers = server.workers()
        socks = [stack.enter_context(server.connect()) for _ in range(12)]
        for sock in socks:
            sock.sendall(request("/slow"))
        for sock in socks:
            assert take_answer(sock)[0] == 200
        assert server.workers() == workers
        assert "stuck" not in server.stderr()


def test_a_loop_that_is_held_says_by_whom(conf: Path) -> None:
    with supervise("-c", conf, workers=1) as server, server.connect() as sock:
        sock.sendall(request("/very-slow"))
        assert take_answer(sock)[0] == 200
        until(lambda: "the event loop was blocked for 1." in server.stderr(), "it is said")
        assert re.search(r"the event loop was blocked for 1\.\d seconds by http", server.stderr())


def test_a_break_for_all_of_them_is_no_reason_to_abort_anybody(conf: Path) -> None:
    """As when somebody presses ^Z, and later says fg."""
    with supervise("-c", conf, env=os.environ | {"STUCK_TIME": "1"}) as server:
        server.address("http")
        workers = server.workers()
        with stopped(server.process.pid, *workers):
            select.select([], [], [], 1.3)  # the time is what this is about
        select.select([], [], [], 0.5)  # and here: several looks at them
        assert get(server) == CONTENT
        assert server.workers() == workers
        assert "stuck" not in server.stderr()


# Workers that do not come up


def test_workers_that_do_not_come_up_at_the_start(conf: Path, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    flag.write_text("now")
    with supervise("-c", conf, workers=4, env=os.environ | {"BROKEN": str(flag)}) as server:
        assert server.wait() == 1
        said = server.stderr()
        assert "cannot start: it is broken" in said
        assert "a worker failed to start" in said
        assert len(set(re.findall(r"worker (\d+) exited with status 1", said))) <= 4


def test_workers_that_do_not_come_up_again(conf: Path, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    with supervise("-c", conf, env=os.environ | {"BROKEN": str(flag)}) as server:
        server.address("http")
        flag.write_text("now")
        victim, other = server.workers()
        kill(server, victim)
        began = time.monotonic()
        until(lambda: server.stderr().count("exited with status 1") >= 3, "three that failed")
        took = time.monotonic() - began
        assert took > 0.2 + 0.4
        assert get(server, "/pid") == str(other).encode()
        flag.unlink()
        control.reload(server.process.pid)  # does not wait for the next try
        replaced(server, victim)


def test_no_process_to_be_had(conf: Path, tmp_path: Path) -> None:
    """The system refuses the third fork and the next two."""
    need("strace")
    calls = "clone,clone3,fork,vfork"
    strace = ("strace", "-D", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:error=EAGAIN:when=3..5")
    address = str(tmp_path / "notify")
    with Manager(address) as manager, supervise("-c", conf, before=strace, env=manager.environment) as server:
        manager.hear_of("READY")
        trouble = "cannot start a worker: resource temporarily unavailable"
        with pytest.raises(startup.CannotStart, match="see its log"):
            control.reload(server.process.pid)
        assert f"{trouble}\nreload failed: cannot start all workers" in server.stderr()
        victim = server.pid
        kill(server, victim)
        until(lambda: manager.hear_of("STATUS")["STATUS"].endswith(f"with 1 worker of 2: {trouble}"), "it is told")
        assert get(server) == CONTENT
        replaced(server, victim)
        assert server.stderr().count(trouble) == 3


def test_no_descriptor_to_be_had(conf: Path) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        most = max(opened(server.process.pid))
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (most, limits[1]))
        victim = server.pid
        kill(server, victim)
        until(lambda: "cannot start a worker: too many open files" in server.stderr(), "a complaint")
        server.signal(signal.SIGUSR1)
        until(lambda: server.stderr().count("cannot start a worker") == 2, "another try")
        assert get(server) == CONTENT
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
        replaced(server, victim)


def test_the_end_while_workers_do_not_come_up(conf: Path, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    with supervise("-c", conf, env=os.environ | {"BROKEN": str(flag)}) as server:
        server.address("http")
        flag.write_text("later")
        server.signal(signal.SIGHUP)
        until(lambda: len(server.workers()) == 4, "new workers")
        server.signal()
        until(lambda: len(server.workers()) == 2, "the end of those that had come up")
        flag.write_text("now")
        assert server.wait() == 0
        assert server.stderr().count("cannot start: it is broken") == 2


# A supervisor that dies or hangs


def test_without_their_supervisor_workers_end(conf: Path) -> None:
    with supervise("-c", conf) as server, server.connect("telnet"), server.connect() as sock:
        sock.sendall(request("/f", keep=True))
        assert take_answer(sock) == (200, True, CONTENT)
        workers = server.workers()
        server.signal(signal.SIGKILL)
        until(lambda: all(map(has_ended, workers)), "the workers' end")


@pytest.mark.parametrize(
    "user", ["", pytest.param("nobody", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can"))]
)
def test_without_their_supervisor_workers_end_that_hang(conf: Path, user: str) -> None:
    """With all signals blocked; a present one and one that has retired. Also of another user than the supervisor."""
    options = ("--user", user) if user else ()
    with (
        supervise("-c", conf, *options, workers=1, env=os.environ | {"STUCK_TIME": "0"}) as server,
        contextlib.ExitStack() as stack,
    ):
        kept = stack.enter_context(server.connect())
        kept.sendall(request("/pid", keep=True))
        assert take_answer(kept)[:2] == (200, True)
        (retired,) = server.workers()
        control.reload(server.process.pid)
        (present,) = set(server.workers()) - {retired}
        kept.sendall(request("/deaf"))
        other = stack.enter_context(server.connect())
        other.sendall(request("/deaf"))
        hanging = {retired, present}
        until(lambda: all(blocks_signals(pid) for pid in hanging), "both hang")
        server.signal(signal.SIGKILL)
        until(lambda: all(map(has_ended, hanging)), "their end")
        with socket.create_server(server.address("http")):  # the port is free
            pass


def blocks_signals(pid: int) -> bool:
    return "\nSigBlk:\tf" in Path(f"/proc/{pid}/status").read_text()


def test_a_supervisor_that_hangs_keeps_nobody_from_being_served(conf: Path) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        with stopped(server.process.pid):
            for _ in range(5):
                assert get(server) == CONTENT
