"""Reloads: no request is lost, a mistake changes nothing, and nothing is left of the workers before."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rawservers.daemon import control, startup
from rawservers.daemon.transitions import MAX_RETIRING
from tests.harness.command import run
from tests.harness.http_client import request, take_answer
from tests.harness.load import Load
from tests.harness.needs import ROOT
from tests.harness.processes import kinds, memory, opened, stopped
from tests.harness.server import Server
from tests.harness.service_manager import handing_over
from tests.harness.sockets import listening, receive_all, receive_until
from tests.harness.supervisor import CONTENT, configure, get, kill, replaced, supervise
from tests.harness.waiting import DEADLINE, until

IN_CLOSE_NOWRITE = 0x10  # inotify(7)

# Clients meanwhile


def reload(server: Server, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rawservers", "--reload", str(server.process.pid), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)


def test_reloads_under_load(conf: Path, tmp_path: Path) -> None:
    """The new configuration serves as soon as the command returns, and nobody notices anything else."""
    for number in range(4):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "same").write_bytes(CONTENT)
        (root / "number").write_text(str(number))
    configure(conf, tmp_path / "0")
    with supervise("-c", conf) as server, Load(server.address("http"), CONTENT, "/same") as load:
        for number in range(1, 4):
            configure(conf, tmp_path / str(number), workers=number + 1)
            done = reload(server, "-c", conf)
            assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
            assert get(server, "/number") == str(number).encode()
            load.go_on()
        assert load.failures == []
        until(lambda: len(server.workers()) == 2, "the end of the old workers")  # --workers wins over the file


@pytest.mark.parametrize("inherited", [False, True])
def test_a_single_client_waits_for_nobody_during_reloads(conf: Path, inherited: bool) -> None:
    """There is nobody else whose connection would wake up a worker that has missed this one's."""
    with contextlib.ExitStack() as stack:
        if inherited:
            sock = stack.enter_context(listening())
            options = handing_over(sock, names="http")
            arguments: tuple[str | Path, ...] = ("--telnet", "off")
        else:
            options, arguments = {}, ()
        server = stack.enter_context(supervise("-c", conf, *arguments, **options))
        load = stack.enter_context(Load(server.address("http"), CONTENT, kept=0, single=1))
        for _ in range(10):
            control.reload(server.process.pid)
            load.go_on()
        assert load.failures == []


@pytest.mark.slow
def test_ten_reloads_cut_neither_a_session_nor_a_download(conf: Path, folder: Path) -> None:
    """A long download, begun before them, and a session in each of the oldest and the newest workers."""
    size = 1 << 30
    os.truncate(folder / "large", size)
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack:
        session, download = server.connect("telnet"), server.connect()
        stack.enter_context(session)
        stack.enter_context(download)
        session.sendall(b"x\r\n")
        assert receive_until(session, b"\n") == b"x\r\n"
        download.sendall(b"GET /large\r\n")
        received = len(download.recv(1))
        (first,) = server.workers()
        for number in range(10):
            (folder / "f").write_text(f"{number}")
            control.reload(server.process.pid)
            assert get(server) == f"{number}".encode()
            assert int(get(server, "/pid")) not in {first}
        session.sendall(b"y\r\n")
        assert receive_until(session, b"\n") == b"y\r\n"
        buffer = bytearray(1 << 20)
        while count := download.recv_into(buffer):
            received += count
        assert received == size
        assert first in server.workers()
        session.close()
        until(lambda: first not in server.workers(), "its end, with that of the session")


def test_two_hundred_hangups(conf: Path) -> None:
    with supervise("-c", conf) as server, Load(server.address("http"), CONTENT) as load, contextlib.ExitStack() as stack:
        most = 0
        for number in range(200):
            if number % 10 == 0:  # so that some of all generations have something to live for
                stack.enter_context(server.connect("telnet"))
            server.signal(signal.SIGHUP)
            most = max(most, len(server.workers()))
            select.select([], [], [], 0.005)  # so that they last for a second
        control.reload(server.process.pid)
        load.go_on()
        stack.close()
        until(lambda: len(server.workers()) == 2, "the end of the old workers")
        assert load.failures == []
        assert 4 < most <= 2 * (1 + 1 + MAX_RETIRING)  # that serve, are started, and retire
        assert 4 <= server.stderr().count("reloading") < 100


def test_the_oldest_of_too_many_sessions_is_ended(conf: Path) -> None:
    """One in each generation. Each reload takes effect at once, and a reload that fails ends nobody."""
    good = conf.read_text()
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack:
        sessions = []
        for number in range(MAX_RETIRING + 1):
            sock = stack.enter_context(server.connect("telnet"))
            sock.sendall(b"x\r\n")
            assert receive_until(sock, b"\n") == b"x\r\n"
            sessions.append(sock)
            assert len(server.workers()) == number + 1
            if number < MAX_RETIRING:
                control.reload(server.process.pid)
        conf.write_text("nonsense")
        with pytest.raises(startup.CannotStart):
            control.reload(server.process.pid)
        for sock in sessions:
            sock.sendall(b"y\r\n")
            assert receive_until(sock, b"\n") == b"y\r\n"
        conf.write_text(good)
        control.reload(server.process.pid)
        assert receive_all(sessions[0]) == b""
        for sock in sessions[1:]:
            sock.sendall(b"z\r\n")
            assert receive_until(sock, b"\n") == b"z\r\n"


def test_a_kept_connection_outlives_a_reload(conf: Path) -> None:
    with supervise("-c", conf) as server, server.connect() as idle:
        idle.sendall(request("/f", keep=True))
        assert receive_until(idle, CONTENT)
        control.reload(server.process.pid)
        idle.sendall(request("/f", keep=True))
        assert take_answer(idle) == (200, False, CONTENT)


def test_what_a_reload_drops_is_no_longer_listened_on(conf: Path, folder: Path) -> None:
    with supervise("-c", conf) as server:
        http = server.address("http")
        configure(conf, folder, listen=[("telnet", "127.0.0.1:0")])
        control.reload(server.process.pid)
        with pytest.raises(ConnectionRefusedError), socket.create_connection(http, timeout=DEADLINE):
            pass
        with server.connect("telnet") as sock:
            sock.sendall(b"x\r\n")
            assert receive_until(sock, b"\n") == b"x\r\n"


def test_an_address_may_be_written_in_another_way(conf: Path, folder: Path) -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
    configure(conf, folder, listen=[("http", str(port))])
    with supervise("-c", conf) as server, Load(server.address("http"), CONTENT) as load:
        configure(conf, folder, listen=[("http", f"127.0.0.1:{port}")])
        control.reload(server.process.pid)
        load.go_on()
        assert load.failures == []


# Reloads that fail


def everything(server: Server) -> dict[int, Counter[str]]:
    """What is open in the supervisor and its workers."""
    return {pid: kinds(pid) for pid in (server.process.pid, *server.workers())}


@pytest.mark.parametrize("mistake", ["file", "root", "port"])
def test_a_mistake_changes_nothing(conf: Path, folder: Path, tmp_path: Path, mistake: str) -> None:
    with listening() as taken, supervise("-c", conf) as server:
        server.address("http")
        if mistake == "file":
            conf.write_text(conf.read_text() + "lsitng = true\n")
            line = len(conf.read_text().splitlines())
            why = rf"{conf}:{line}: .*lsitng"
        elif mistake == "root":
            configure(conf, tmp_path / "nowhere")
            why = rf"{conf}:\d+: .*{tmp_path / 'nowhere'}.*no such file"
        else:
            port = taken.getsockname()[1]
            configure(conf, folder, listen=(("http", "127.0.0.1:0"), ("telnet", f"127.0.0.1:{port}")))
            why = rf"cannot listen on 127\.0\.0\.1:{port}: address already in use"
        before = everything(server)
        done = reload(server)
        assert done.returncode == 2
        assert done.stderr.startswith(f"rawservers: process {server.process.pid} has rejected the new configuration")
        assert get(server) == CONTENT
        until(lambda: "keeping the old configuration" in server.stderr(), "the end of the reload in the error log")
        assert re.search(why, server.stderr(), re.IGNORECASE), server.stderr()
        until(lambda: everything(server) == before, "the same workers, with the same open")
        if mistake != "port":
            assert reload(server, "-c", conf).returncode == os.EX_CONFIG  # before the server is told
            assert server.stderr().count("reloading") == 1


def test_only_a_supervisor_can_be_told_to_reload(conf: Path) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        for pid in (server.pid, os.getpid()):
            with pytest.raises(startup.CannotStart, match=f"cannot reload process {pid}: not a rawservers supervisor"):
                control.reload(pid)
        with pytest.raises(startup.CannotStart, match=f"cannot reload process {1 << 22}: no such process"):
            control.reload(1 << 22)
        assert server.stderr().count("reloading") == 0


def test_workers_that_do_not_come_up_at_a_reload(conf: Path, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    with supervise("-c", conf, workers=4, env=os.environ | {"BROKEN": str(flag)}) as server:
        server.address("http")
        before = everything(server)
        for _ in range(3):
            flag.write_text("now")
            with pytest.raises(startup.CannotStart, match="see its log"):
                control.reload(server.process.pid)
            assert get(server) == CONTENT
            until(lambda: everything(server) == before, "nothing else is left")
            flag.unlink()
        assert "reload failed: a worker failed to start; keeping the old configuration" in server.stderr()
        assert len(set(re.findall(r"worker (\d+) exited with status 1", server.stderr()))) <= 12
        control.reload(server.process.pid)
        assert get(server) == CONTENT


# A file that is being written


def test_a_file_that_is_being_written_is_waited_for(conf: Path, folder: Path) -> None:
    """An editor that writes in pieces: the server reads each, and takes none but the last."""
    text = conf.read_text()
    configure(conf, folder, workers=3, listen=(("http", "127.0.0.1:0"), ("telnet", "127.0.0.1:0")))
    pieces = [text[: len(text) // 2], text[len(text) // 2 :], "# the end\n"]
    with supervise("-c", conf) as server, Load(server.address("http"), CONTENT) as load:
        conf.write_bytes(b"")
        with watching_reads(server, conf) as reads:
            server.signal(signal.SIGHUP)
            for piece in pieces:
                seen = reads()
                until(lambda seen=seen: reads() > seen, "a read of what is there so far")  # type: ignore[misc]
                with conf.open("a") as file:
                    file.write(piece)
            until(lambda: server.stderr().count("http listening") == 2, "the end of the reload")
        assert server.stderr().count("reloading") == 1
        assert "failed" not in server.stderr()
        load.go_on()
        assert load.failures == []


@contextlib.contextmanager
def watching_reads(server: Server, path: Path) -> Iterator[Callable[[], int]]:
    """A function that counts how often this file was opened so far, by inotify."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK)
    try:
        assert libc.inotify_add_watch(fd, os.fsencode(path.parent), IN_CLOSE_NOWRITE) >= 0
        count = 0

        def reads() -> int:
            nonlocal count
            with contextlib.suppress(BlockingIOError):
                count += os.read(fd, 1 << 16).count(os.fsencode(path.name))
            return count

        yield reads
    finally:
        os.close(fd)


def test_a_file_that_changes_all_the_time_is_not_taken(conf: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    with (
        supervise("-c", conf, env=os.environ | {"EDITOR": str(editor)}) as server,
        Load(server.address("http"), CONTENT) as load,
    ):
        editor.write_text("")
        assert reload(server).returncode == 2
        editor.unlink()
        until(lambda: "keeping the old configuration" in server.stderr(), "the end of the reload in the error log")
        assert f"{conf}: still changing after 2 seconds: not taken" in server.stderr()
        control.reload(server.process.pid)
        load.go_on()
        assert load.failures == []


@contextlib.contextmanager
def copying(path: Path) -> Iterator[None]:
    """Copy two others over the file, by cp, one after the other, again and again until the end of the context."""
    others = [path.with_name("a.toml"), path.with_name("b.toml")]
    for number, other in enumerate(others):
        other.write_text(path.read_text() + f"# {number}\n" * 50_000)  # which takes cp several writes
    script = 'while true; do cp "$2" "$1" && cp "$3" "$1" || exit; done'
    copier = subprocess.Popen(["sh", "-c", script, "sh", path, *others])
    try:
        yield
        assert copier.poll() is None
    finally:
        copier.kill()
        copier.wait()
        path.write_text(others[0].read_text())


SLOW = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("reloads", [4, pytest.param(130, marks=SLOW)])
@pytest.mark.parametrize("pieces", [r"(?m)^", r"(?=\[\[listen]])"], ids=["lines", "listeners"])
def test_reloads_while_the_file_is_written(conf: Path, tmp_path: Path, pieces: str, reloads: int) -> None:
    """No cut file is taken, not even a valid one, which lacks a listener: nobody is refused, and all listeners stay."""
    whole, editor = conf.read_text(), tmp_path / "editor"
    quick = os.environ | {"EDITOR": str(editor), "SETTLE_TIME": "0.01"}
    with supervise("-c", conf, env=quick) as server, Load(server.address("http"), CONTENT) as load:
        telnet = server.address("telnet")
        editor.write_text(pieces)
        for _ in range(reloads):
            with contextlib.suppress(startup.CannotStart):  # on a machine too busy to read all pieces in time
                control.reload(server.process.pid)
                assert conf.read_text() == whole
            socket.create_connection(telnet, timeout=DEADLINE).close()
        editor.unlink()
        conf.write_text(whole)
        control.reload(server.process.pid)
        load.go_on()
        assert load.failures == []
        assert server.address("telnet") == telnet
        assert server.stderr().count("reloading") == reloads + 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_reloads_while_the_file_is_copied(conf: Path) -> None:
    """It is never cut where a reload would notice."""
    with supervise("-c", conf) as server, Load(server.address("http"), CONTENT) as load:
        telnet = server.address("telnet")
        with copying(conf):
            for _ in range(130):
                server.signal(signal.SIGHUP)
                select.select([], [], [], 0.15)  # as often as that, and not to wait for anything
                socket.create_connection(telnet, timeout=DEADLINE).close()
        with contextlib.suppress(startup.CannotStart):  # one that was asked for before the last write
            control.reload(server.process.pid)
        control.reload(server.process.pid)
        load.go_on()
        assert load.failures == []
        assert server.address("telnet") == telnet
        assert "reloading" in server.stderr()


def test_the_end_while_the_file_is_read(conf: Path) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        with watching_reads(server, conf) as reads:
            server.signal(signal.SIGHUP)
            until(lambda: reads() > 0, "the first read")
            server.signal()
            assert server.wait() == 0
        assert (
            server.stderr().count("reload failed") == server.stderr().count("reload failed: the server is shutting down") == 1
        )


@pytest.mark.parametrize("content", ["", "\n", "# nothing\n", "[http]\n"])
def test_a_file_without_listeners_is_not_taken(conf: Path, content: str) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        before = everything(server)
        good = conf.read_text()
        conf.write_text(content)
        done = reload(server)
        assert done.returncode == 2
        why = "unlike the running configuration: not taken" if content.strip() else "the file is empty"
        assert why in server.stderr()
        assert get(server) == CONTENT
        until(lambda: everything(server) == before, "the same workers, with the same open")
        conf.write_text(good)
        control.reload(server.process.pid)


@pytest.mark.parametrize(
    "content",
    [
        b"#" * ((1 << 20) + 1),
        b"workers = [",
        *(pytest.param(text, marks=pytest.mark.slow) for text in (b"", b"\xff", b"a." * 9999 + b"a = 1", b"x = 1")),
    ],
)
def test_check_and_reload_agree(conf: Path, content: bytes) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        conf.write_bytes(content)
        checked = run("--check", "-c", conf)
        assert checked.returncode == os.EX_CONFIG
        done = reload(server, "-c", conf)
        assert (done.returncode, done.stderr) == (os.EX_CONFIG, checked.stderr)
        assert reload(server).returncode == 2
        assert checked.stderr in server.stderr()
        assert get(server) == CONTENT


# Old and new workers


def test_nothing_is_left_of_ten_reloads_and_ten_mistakes(conf: Path, folder: Path, tmp_path: Path) -> None:
    good = conf.read_text()
    with supervise("-c", conf, "--access-log", tmp_path / "log") as server:
        server.address("http")
        control.reload(server.process.pid)
        until(lambda: len(server.workers()) == 2, "the end of the old workers")
        ours, size = kinds(server.process.pid), memory(server.process.pid)
        theirs = kinds(server.pid)
        for _ in range(10):
            configure(conf, tmp_path / "nowhere")
            with pytest.raises(startup.CannotStart, match="see its log"):
                control.reload(server.process.pid)
            conf.write_text(good)
            control.reload(server.process.pid)
        until(lambda: len(server.workers()) == 2, "the end of the old workers")
        assert kinds(server.process.pid) == ours
        assert [kinds(pid) for pid in server.workers()] == [theirs] * 2
        assert memory(server.process.pid) - size < 1 << 20


def test_workers_have_open_what_is_theirs_alone(conf: Path, folder: Path, tmp_path: Path) -> None:
    theirs = {"/dev/null": 1, "pipe": 6, "anon_inode:[eventpoll]": 1, "/memfd:rawservers-scoreboard (deleted)": 1}
    theirs |= {str(tmp_path / "log"): 1, "socket": 3}  # two that listen, and one that leads to the supervisor
    with supervise("-c", conf, "--access-log", tmp_path / "log", workers=3) as server:
        server.address("http")

        def is_so() -> bool:
            listed = [set(opened(pid).values()) for pid in server.workers()]
            own = [what for each in listed for what in each - set(opened(server.process.pid).values()) if "socket" in what]
            return [kinds(pid) for pid in server.workers()] == [theirs] * 3 and len(set(own)) == len(own) == 3

        until(is_so, "at the start")
        control.reload(server.process.pid)
        until(is_so, "after a reload")
        victim = server.pid
        kill(server, victim)
        replaced(server, victim, workers=3)
        until(is_so, "after a death")


def test_a_reload_waits_so_long_for_new_workers(conf: Path, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    with supervise("-c", conf, env=os.environ | {"BROKEN": str(flag), "START_TIME": "1"}) as server:
        server.address("http")
        before = everything(server)
        flag.write_text("later")
        with pytest.raises(startup.CannotStart, match="see its log"):
            control.reload(server.process.pid)
        failed = "reload failed: the new workers did not become ready in time; keeping the old"
        until(lambda: failed in server.stderr(), "it is told")
        assert get(server) == CONTENT
        flag.write_text("now")
        until(lambda: everything(server) == before, "nothing else is left")


def test_workers_are_replaced_during_a_reload(conf: Path, folder: Path, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    with supervise("-c", conf, env=os.environ | {"BROKEN": str(flag)}) as server:
        server.address("http")
        old = server.workers()
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "f").write_bytes(b"other")
        flag.write_text(f"later {tmp_path / 'other'}")
        configure(conf, tmp_path / "other")
        server.signal(signal.SIGHUP)
        until(lambda: len(server.workers()) == 4, "new workers, who take their time")
        for pid in old:
            kill(server, pid)
        assert get(server) == CONTENT
        flag.unlink()
        until(lambda: get(server) == b"other", "the new ones serve")
        until(lambda: len(server.workers()) == 2, "and the others have gone")


def test_a_reload_waits_so_long_for_old_workers(conf: Path) -> None:
    with supervise("-c", conf, env=os.environ | {"START_TIME": "1", "STUCK_TIME": "0", "KILL_DELAY": "60"}) as server:
        server.address("http")
        old = server.workers()
        with stopped(old[0]):
            control.reload(server.process.pid)
            assert get(server) == CONTENT
            assert set(old) & set(server.workers()) == {old[0]}
        until(lambda: len(server.workers()) == 2, "its end, when it hears of it at last")
