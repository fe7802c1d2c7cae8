"""System calls that fail: in a worker that serves, in its supervisor during a reload or a worker's end, and at the start.

Whatever fails, the worker lives or is replaced, honest clients are served again, nothing is left open, and what is no fault of
a peer or of the network is told in a line, on standard error or in the access log.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rawservers.daemon import control, startup
from tests.harness.http_client import request, take_answer
from tests.harness.injection import begun_with, injected
from tests.harness.needs import need_root
from tests.harness.processes import opened
from tests.harness.server import Server, exchange
from tests.harness.supervisor import CONTENT, configure, get, kill, replaced, supervise
from tests.harness.waiting import until

LINE = b"a line\r\n"
numbers = itertools.count()


class Fault(NamedTuple):
    """A call and its errors, of which the first is in the quick suite, if `quick`. said: what the lines on standard error are
    like; "": there are none. when: the calls that fail."""

    call: str
    errors: str
    said: str = ""
    when: str = "1"
    quick: bool = True


def cases(*faults: Fault) -> list[object]:
    """For each fault and error, what `injected` and `told` take."""
    found = []
    for call, errors, said, when, quick in faults:
        for error in errors.split():
            marks = [] if quick and errors.startswith(error) else [pytest.mark.slow]
            found.append(pytest.param(call, error, when, said, marks=marks, id=f"{call}-{error}-{when}"))
    return found


def told(server: Server, before: int, said: str) -> None:
    """Its lines since then are all like `said`, and there is one, unless there is to be none."""

    def lines() -> list[str]:
        # The second is told once a minute, whichever error comes first.
        ignored = re.compile(r"reloading|access log: lines wait until they can be written \(.*\)")
        return [line for line in server.complaints()[before:] if not ignored.fullmatch(line)]

    if said:
        until(lambda: bool(lines()), "a line")
    assert [line for line in lines() if not (said and re.fullmatch(said, line))] == []


# In a worker that serves

SERVING = cases(
    # The first may be tried while the queue is empty, at a tick: then nothing is told.
    Fault("accept4", "EMFILE ENFILE ENOBUFS ENOMEM", "cannot accept (http|telnet) connections: .*; pausing; .*", when="1..3"),
    Fault("accept4", "ECONNABORTED EINTR ENETDOWN EPERM EPROTO", when="1..2", quick=False),
    Fault("recvfrom", "ECONNRESET EHOSTUNREACH EINTR ENOMEM ETIMEDOUT"),
    Fault("sendto", "EPIPE ECONNRESET EHOSTUNREACH EINTR ENOBUFS ENOMEM ETIMEDOUT", when="1..2"),
    Fault("sendfile", "EIO EINVAL ENOMEM EOVERFLOW ESTALE", ".* lost: cannot read the file that is sent: .*"),
    Fault("sendfile", "EPIPE ECONNRESET EINTR", quick=False),
    Fault("epoll_ctl", "ENOMEM ENOSPC", "error in (http|telnet) connection from .*"),
    Fault("epoll_wait", "EINTR", quick=False),
    Fault("openat", "EMFILE EACCES EINTR ELOOP ENFILE ENOENT ENOMEM"),
    Fault("openat", "EIO ESTALE", "cannot read '/.*': .*", quick=False),
    Fault("newfstatat", "EIO ESTALE", "cannot read '/.*': .*", when="1..4"),
    Fault("newfstatat", "EACCES ELOOP ENOENT ENOMEM", when="1..2", quick=False),
    Fault("readlink", "EIO", "cannot read '/.*': .*", quick=False),
    Fault("readlink", "ENOMEM ENOENT EACCES", quick=False),
    Fault("read", "EIO ESTALE", "cannot read '/.*': .*"),
    Fault("read", "EINTR", quick=False),
    Fault("write", "ENOSPC EDQUOT EFBIG EINTR EIO"),
    Fault("shutdown", "ENOTCONN", quick=False),
    Fault("close", "EIO ENOSPC", "error in .*", quick=False),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("injection")


@pytest.fixture(scope="module")
def serving(place: Path) -> Iterator[Server]:
    """One worker, which keeps no file open."""
    www = place / "www"
    www.mkdir()
    (www / "f").write_bytes(CONTENT)
    (www / "folder").mkdir()
    configure(place / "conf", www)
    text = (place / "conf").read_text()
    (place / "conf").write_text(text.replace("[http]\n", "[http]\nopen_files = 0\nlisting = true\n"))
    with supervise("-c", place / "conf", "--access-log", place / "log", workers=1) as server:
        ask_for_all(server, www)
        yield server


def ask_for_all(server: Server, www: Path) -> None:
    """All that a worker does for its clients, whatever comes of it."""
    (www / f"{next(numbers)}").write_bytes(CONTENT)
    (www / f"{next(numbers)}").write_bytes(bytes(50_000))
    small, large = sorted(www.iterdir(), key=lambda path: path.stat().st_ctime_ns)[-2:]
    for path in ("f", small.name, large.name, "none", "folder/"):
        with contextlib.suppress(OSError, ValueError), server.connect() as sock:
            sock.sendall(request(f"/{path}", keep=True))
            take_answer(sock)
            sock.sendall(request("/f", keep=True))
            take_answer(sock)
    with contextlib.suppress(OSError):
        exchange(server, request("/f"))
    with contextlib.suppress(OSError):
        exchange(server, LINE, "telnet")
    small.unlink()
    large.unlink()


@pytest.mark.parametrize(("call", "error", "when", "said"), SERVING)
def test_in_a_worker_that_serves(serving: Server, place: Path, call: str, error: str, when: str, said: str) -> None:
    size = (place / "log").stat().st_size
    assert get(serving) == CONTENT
    until(lambda: (place / "log").stat().st_size > size, "the log is written again")
    (worker,) = serving.workers()
    before, told_before = opened(worker), len(serving.complaints())
    with injected(worker, call, error, when, place / "notes"):
        ask_for_all(serving, place / "www")
    assert get(serving) == CONTENT
    assert exchange(serving, LINE, "telnet") == LINE
    assert serving.workers() == [worker]
    if call != "close":  # which strace does not do, if it lets it fail
        until(lambda: len(opened(worker)) <= len(before), "nothing is left open")
    told(serving, told_before, said)


# In the supervisor

RELOADING = cases(
    Fault("socketpair", "EMFILE ENFILE ENOMEM", "cannot start a worker: .*|reload failed: cannot start all workers; .*"),
    Fault("/^(clone|fork|vfork)", "EAGAIN ENOMEM", "cannot start a worker: .*|reload failed: cannot start all workers; .*"),
    Fault("epoll_ctl", "ENOMEM ENOSPC", "cannot start a worker: .*|reload failed: cannot start all workers; .*"),
    Fault("sendmsg", "ENOBUFS EAGAIN ENOMEM"),
    Fault("recvfrom", "ENOMEM", quick=False),
    Fault("wait4", "EINTR", quick=False),
    Fault("newfstatat", "EIO ENOMEM", quick=False),
    Fault("openat", "EIO EMFILE", ".*conf.*: .*|reload failed: .*", when="1+", quick=False),
)


@pytest.mark.parametrize(("call", "error", "when", "said"), RELOADING)
def test_in_the_supervisor_during_a_reload(conf: Path, tmp_path: Path, call: str, error: str, when: str, said: str) -> None:
    options = ("-P", str(conf)) if call == "openat" else ()
    with supervise("-c", conf, workers=1) as server:
        assert get(server) == CONTENT
        before, supervisor = len(server.descriptors()), server.process.pid
        descriptors = len(opened(supervisor))
        with injected(supervisor, call, error, when, tmp_path / "notes", *options):
            with contextlib.suppress(startup.CannotStart):
                control.reload(supervisor)
            until(lambda: len(server.workers()) == 1, "either the old or the new worker")
        assert get(server) == CONTENT
        told(server, 0, said)
        (worker,) = server.workers()
        control.reload(supervisor)
        replaced(server, worker, workers=1)
        assert get(server) == CONTENT
        until(lambda: len(opened(supervisor)) == descriptors, "the supervisor has nothing more open")
        until(lambda: len(server.descriptors()) <= before, "nor has a worker")


def test_a_reply_that_cannot_be_sent_is_sent_again(conf: Path, tmp_path: Path) -> None:
    """And the reload does not wait for it until its time is up, in half a minute."""
    with supervise("-c", conf, workers=1) as server:
        assert get(server) == CONTENT
        (worker,) = server.workers()
        with server.connect("telnet") as session:  # which keeps the old worker
            session.sendall(LINE)
            session.recv(100)
            with injected(worker, "sendto", "ENOBUFS", "1", tmp_path / "notes"):
                control.reload(server.process.pid, timeout=20)
        replaced(server, worker, workers=1)
        assert server.complaints() == ["reloading"]


DYING = cases(
    Fault("socketpair", "EMFILE", "worker .*|cannot start a worker: .*", when="1..2"),
    Fault("/^(clone|fork|vfork)", "EAGAIN ENOMEM", "worker .*|cannot start a worker: .*", when="1..2", quick=False),
    Fault("epoll_ctl", "ENOSPC ENOMEM", "worker .*|cannot start a worker: .*|error in .*"),
    Fault("recvfrom", "ENOMEM", "worker .*", quick=False),
)


@pytest.mark.parametrize(("call", "error", "when", "said"), DYING)
def test_in_the_supervisor_when_a_worker_dies(conf: Path, tmp_path: Path, call: str, error: str, when: str, said: str) -> None:
    with supervise("-c", conf, workers=1) as server:
        assert get(server) == CONTENT
        (worker,) = server.workers()
        descriptors = len(opened(server.process.pid))
        with injected(server.process.pid, call, error, when, tmp_path / "notes"):
            kill(server, worker)
            replaced(server, worker, workers=1)
        assert get(server) == CONTENT
        told(server, 0, said)
        until(lambda: len(opened(server.process.pid)) == descriptors, "the supervisor has nothing more open")


# At the start

STARTING = cases(
    Fault("socket", "EMFILE EAFNOSUPPORT ENOBUFS", "rawservers: cannot listen on 127.0.0.1:0: .*"),
    Fault("bind", "EADDRINUSE EACCES ENOMEM", "rawservers: cannot listen on 127.0.0.1:0: .*"),
    Fault("listen", "EADDRINUSE", "rawservers: cannot listen on 127.0.0.1:0: .*", quick=False),
    Fault("setsockopt", "ENOMEM ENOPROTOOPT", "rawservers: cannot listen on 127.0.0.1:0: .*", quick=False),
    Fault("getsockname", "ENOBUFS", "rawservers: cannot listen on 127.0.0.1:0: .*", quick=False),
    Fault("pipe2", "EMFILE ENFILE", "rawservers: cannot start: .*", quick=False),
    Fault("epoll_create1", "EMFILE ENOMEM", "rawservers: cannot start: .*", when="2", quick=False),  # the first is an import's
    Fault("memfd_create", "ENOMEM EMFILE ENOSYS", "rawservers: cannot start: .*"),
    Fault("ftruncate", "ENOSPC EFBIG", "rawservers: cannot start: .*", quick=False),
)


@pytest.mark.parametrize(("call", "error", "when", "said"), STARTING)
def test_at_the_start(folder: Path, call: str, error: str, when: str, said: str) -> None:
    with Server(folder, "--http", "0", "--telnet", "0", before=begun_with(call, error, when)) as server:
        assert server.wait() == 2
        assert re.fullmatch(said + "\n", server.stderr())


@pytest.mark.parametrize("call", [pytest.param("setgroups", marks=pytest.mark.slow), "setresgid", "setresuid"])
def test_privileges_that_cannot_be_dropped(folder: Path, call: str) -> None:
    """Nothing is served as root instead."""
    need_root("drop privileges")
    before = begun_with(call, "EAGAIN", "1+", "-f")
    with Server(folder, "--http", "0", "--telnet", "0", "--user", "nobody", before=before) as server:
        assert server.wait() == 1
        lines = server.stderr().splitlines()
    assert lines[0] == "cannot start a worker: resource temporarily unavailable"
    assert re.fullmatch(r"worker \d+ exited with status 1", lines[1])
    assert lines[2:] == ["a worker failed to start: exiting"]
