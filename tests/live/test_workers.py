"""The supervisor and its workers, and what may befall them: killed, stopped, stuck, reloaded, crowded, in odd surroundings."""

from __future__ import annotations

import contextlib
import grp
import itertools
import json
import os
import pwd
import random
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from rawservers import status
from rawservers.daemon import children, control, orders, startup
from rawservers.settings import Config
from tests.harness.load import Load, request, take_answer
from tests.harness.machine import unable
from tests.harness.server import DEADLINE, ROOT, Server, need, receive_all, receive_until, until

CONTENT = b"content of f\n"
LARGE = 32 << 20  # bytes: more than the kernel holds for a client that does not read


def supervise(*arguments: str | Path, workers: int = 2, **options: Any) -> Server:
    """The command with `tests.servers.supervised` around it, on free ports."""
    return Server(*arguments, "--workers", str(workers), module="tests.servers.supervised", **options)


@pytest.fixture
def conf(tmp_path: Path, folder: Path) -> Path:
    """A configuration file: both services on free ports, serving `folder`."""
    path = tmp_path / "conf.toml"
    configure(path, folder)
    (folder / "large").touch()
    os.truncate(folder / "large", LARGE)
    return path


def configure(path: Path, root: Path, **more: object) -> None:
    """more: further keys at the top, or under limits, http, or listen."""
    sections = {name: more.pop(name) for name in ("listen", "limits") if name in more}
    listen = sections.get("listen", (("http", "127.0.0.1:0"), ("telnet", "127.0.0.1:0")))
    lines = [f"{key} = {value}" for key, value in more.items()]
    lines += [f'[[listen]]\nservice = "{service}"\naddress = "{address}"' for service, address in listen]  # type: ignore[attr-defined]
    lines += ["[http]", f'root = "{root}"', "[limits]"]
    lines += [f"{key} = {value}" for key, value in sections.get("limits", {}).items()]  # type: ignore[attr-defined]
    path.write_text("\n".join(lines) + "\n")


def get(server: Server, path: str = "/f") -> bytes:
    """The body of an answer on a connection of its own."""
    with server.connect() as sock:
        sock.sendall(request(path))
        status, _, body = take_answer(sock)
        assert status == 200
        return body


def state(pid: int) -> str:
    """Its letter in proc(5): R, S, T for a stopped one; "" and Z are those that have ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def has_ended(pid: int) -> bool:
    return state(pid) in {"", "Z"}


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """They do nothing meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(state(pid) == "T" for pid in pids), "they have stopped")
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def kill(server: Server, victim: int) -> tuple[float, float]:
    """When this worker was killed, and when it had ended for good."""
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    until(lambda: has_ended(victim), "its end")
    return killed, time.monotonic()


def replaced(server: Server, *victims: int, workers: int = 2) -> None:
    """Wait until others have taken their places."""
    until(lambda: len(server.workers()) == workers and not set(victims) & set(server.workers()), "other workers")


def blameless(load: Load, deaths: list[tuple[float, float]], clients: int = 4) -> None:
    """Nobody was refused, and only those failed whose connection was open when a worker died."""
    for failure in load.failures:
        assert failure.step == "answer", failure
        assert any(failure.alive <= gone and killed <= failure.ended for killed, gone in deaths), failure
    assert len(load.failures) <= clients * len(deaths)


def opened(pid: int) -> dict[int, str]:
    """What is open there, by descriptor."""
    found = {}
    with contextlib.suppress(FileNotFoundError):  # it has ended
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def kinds(pid: int) -> Counter[str]:
    """The same without what differs from one process to the next."""
    return Counter(re.sub(r":\[\d+\]$", "", what) for what in opened(pid).values())


def everything(server: Server) -> dict[int, Counter[str]]:
    """What is open in the supervisor and its workers."""
    return {pid: kinds(pid) for pid in (server.process.pid, *server.workers())}


def memory(pid: int) -> int:
    """Bytes in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reload(server: Server, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rawservers", "--reload", str(server.process.pid), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)


HAND_OVER = """
import fcntl, os, sys
given = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[2].split(",")]
for place, fd in enumerate(given):
    os.dup2(fd, 3 + place)
os.closerange(3 + len(given), 200)
whom = {"right": os.getpid(), "wrong": 1}[sys.argv[1]]
os.environ |= {"LISTEN_FDS": str(len(given)), "LISTEN_PID": str(whom)}
os.execv(sys.argv[3], sys.argv[3:])
"""


def handing_over(*given: IO[bytes] | socket.socket, names: str, whom: str = "right") -> dict[str, Any]:
    """Options to start a server with these as systemd gives sockets; whom: the "right" process or a "wrong" one."""
    fds = [each.fileno() for each in given]
    return {
        "before": (sys.executable, "-c", HAND_OVER, whom, ",".join(map(str, fds))),
        "pass_fds": fds,
        "env": os.environ | {"LISTEN_FDNAMES": names},
    }


def listening(path: str | Path = "") -> socket.socket:
    """A server socket of somebody else's, on a free port or on this path."""
    if not path:
        return socket.create_server(("127.0.0.1", 0))
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


# Workers that die


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


def kill_at_random(server: Server, seconds: float) -> list[tuple[float, float]]:
    """Kill one of four workers every tenth of a second; when each died."""
    chance = random.Random(1)
    deaths = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        deaths.append(kill(server, chance.choice(server.workers())))
        select.select([], [], [], max(0.0, 0.1 - (time.monotonic() - deaths[-1][0])))
        until(lambda: bool(server.workers()), "a victim")
    return deaths


@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_workers_that_are_killed_all_the_time(conf: Path, seconds: float) -> None:
    with supervise("-c", conf, "--access-log", "off", workers=4) as server, Load(server.address("http"), CONTENT) as load:
        deaths = kill_at_random(server, 0.5)
        replaced(server, workers=4)
        descriptors, size = kinds(server.process.pid), memory(server.process.pid)
        deaths += kill_at_random(server, seconds)
        replaced(server, workers=4)
        load.go_on()
        blameless(load, deaths)
        assert len(deaths) > seconds * 2
        assert load.answered > 20 * seconds
        assert kinds(server.process.pid) == descriptors
        assert memory(server.process.pid) - size < 1 << 20


def test_without_their_supervisor_workers_end(conf: Path) -> None:
    with supervise("-c", conf) as server, server.connect("telnet"), server.connect() as sock:
        sock.sendall(request("/f", keep=True))
        assert take_answer(sock) == (200, True, CONTENT)
        workers = server.workers()
        server.signal(signal.SIGKILL)
        until(lambda: all(map(has_ended, workers)), "the workers' end", deadline=5)


def test_a_supervisor_that_hangs_keeps_nobody_from_being_served(conf: Path) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        with stopped(server.process.pid):
            for _ in range(5):
                assert get(server) == CONTENT


class Silent:
    """A worker that notes what it is told."""

    def __init__(self) -> None:
        self.loop = SimpleNamespace(stop=lambda: self.told.append("stop at once"))
        self.told: list[str] = []


def test_a_supervisor_that_has_gone_without_listening() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    silent = Silent()
    reader = orders.CommandReader(silent, theirs)  # type: ignore[arg-type]
    theirs.send(orders.READY)
    ours.close()  # with a word unread, which the other end hears as ECONNRESET
    with theirs:
        reader.ready(select.EPOLLIN)
    assert silent.told == ["stop at once"]


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
        assert f"worker {workers[0]} killed by signal 9 (Killed)" in said


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


# Reloads


@pytest.mark.parametrize(
    ("stuck_time", "silence", "gap", "aborted"),
    [
        (10, 0.0, 1.0, False),
        (10, 10.9, 1.0, False),  # a word was due a second after its last one, and then its time begins
        (10, 11.1, 1.0, True),
        (10, 100.0, 5.1, False),  # the supervisor has been asleep as well
        (2, 3.1, 1.1, True),
        (2, 3.1, 1.6, False),
        (0, 1e6, 1.0, False),
    ],
)
def test_who_is_stuck(stuck_time: float, silence: float, gap: float, aborted: bool) -> None:
    signals: list[int] = []
    child = SimpleNamespace(
        pid=1,
        generation=SimpleNamespace(config=Config(stuck_time=stuck_time)),
        slot=SimpleNamespace(heartbeat=(1, 1e6 - silence)),
        abort_sent=False,
        silence_excused_until=0.0,
        kill=signals.append,
    )
    children.Child.check_heartbeat(child, 1e6, gap)  # type: ignore[arg-type]
    assert (signals == [signal.SIGABRT]) == aborted


# Reloads


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
        assert re.search(why, server.stderr(), re.IGNORECASE), server.stderr()
        assert "keeping the old configuration" in server.stderr()
        until(lambda: everything(server) == before, "the same workers, with the same open")
        if mistake != "port":
            assert reload(server, "-c", conf).returncode == os.EX_CONFIG  # before the server is told
            assert server.stderr().count("reloading") == 1


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
    theirs = {"/dev/null": 1, "pipe": 5, "anon_inode:[eventpoll]": 1, "/memfd:rawservers-scoreboard (deleted)": 1}
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


def test_only_a_supervisor_can_be_told_to_reload(conf: Path) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        for pid in (server.pid, os.getpid()):
            with pytest.raises(startup.CannotStart, match=f"cannot reload process {pid}: not a rawservers supervisor"):
                control.reload(pid)
        with pytest.raises(startup.CannotStart, match=f"cannot reload process {1 << 22}: no such process"):
            control.reload(1 << 22)
        assert server.stderr().count("reloading") == 0


def test_a_reload_waits_so_long_for_new_workers(conf: Path, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    with supervise("-c", conf, env=os.environ | {"BROKEN": str(flag), "START_TIME": "1"}) as server:
        server.address("http")
        before = everything(server)
        flag.write_text("later")
        with pytest.raises(startup.CannotStart, match="see its log"):
            control.reload(server.process.pid)
        assert "reload failed: the new workers did not become ready in time; keeping the old" in server.stderr()
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
    with supervise("-c", conf, env=os.environ | {"START_TIME": "1", "STUCK_TIME": "0"}) as server:
        server.address("http")
        old = server.workers()
        with stopped(old[0]):
            control.reload(server.process.pid)
            assert get(server) == CONTENT
            assert set(old) & set(server.workers()) == {old[0]}
        until(lambda: len(server.workers()) == 2, "its end, when it hears of it at last")


def test_a_session_outlives_a_reload_and_is_pressed_by_the_next(conf: Path, folder: Path) -> None:
    configure(conf, folder, drain_time=600, limits={"linger_time": 0.2})
    with supervise("-c", conf) as server, server.connect("telnet") as session, server.connect() as idle:
        old = server.workers()
        for sock, said, end in ((session, b"x\r\n", b"x\r\n"), (idle, request("/f", keep=True), CONTENT)):
            sock.sendall(said)
            assert receive_until(sock, end)
        control.reload(server.process.pid)
        session.sendall(b"y\r\n")
        assert receive_until(session, b"\n") == b"y\r\n"
        idle.sendall(request("/f", keep=True))
        assert take_answer(idle) == (200, False, CONTENT)
        control.reload(server.process.pid)
        assert receive_all(session) == b""
        assert not set(old) & set(server.workers())


def test_two_hundred_hangups(conf: Path, folder: Path) -> None:
    configure(conf, folder, drain_time=600, limits={"linger_time": 0.2})
    with (
        supervise("-c", conf) as server,
        Load(server.address("http"), CONTENT) as load,
        server.connect("telnet") as session,
        server.connect() as idle,
    ):
        for sock, said, end in ((session, b"x\r\n", b"x\r\n"), (idle, request("/f", keep=True), CONTENT)):
            sock.sendall(said)
            assert receive_until(sock, end)
        most = 0
        for _ in range(200):
            server.signal(signal.SIGHUP)
            most = max(most, len(server.workers()))
            select.select([], [], [], 0.005)  # so that they last for a second
        until(lambda: receive_all(session) == b"", "the end of the session")
        control.reload(server.process.pid)
        load.go_on()
        until(lambda: len(server.workers()) == 2, "the end of the old workers")
        assert load.failures == []
        assert 2 < most <= 4
        assert 2 <= server.stderr().count("reloading") < 50


# The end


@contextlib.contextmanager
def downloading(server: Server) -> Iterator[socket.socket]:
    """A connection on which a large answer has begun, and cannot have left the server whole."""
    with server.connect() as sock:
        sock.sendall(b"GET /large\r\n")
        assert sock.recv(1) == b"\0"
        yield sock


def refuses(server: Server) -> bool:
    """Whether nobody listens any more."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("whom", [os.kill, os.killpg])
def test_what_is_under_way_is_finished(conf: Path, folder: Path, number: int, whom: Callable[[int, int], None]) -> None:
    """Whether the supervisor alone is told to stop, or a terminal tells all its processes."""
    with supervise("-c", conf, start_new_session=True) as server, downloading(server) as one, downloading(server) as other:
        whom(server.process.pid, number)
        until(lambda: refuses(server), "nobody listens")
        for sock in (one, other):
            assert len(receive_all(sock)) == LARGE - 1
        assert server.wait() == 0


def test_a_second_signal_ends_it_at_once(conf: Path, folder: Path) -> None:
    configure(conf, folder, drain_time=600)
    with supervise("-c", conf) as server, downloading(server) as sock:
        server.signal()
        until(lambda: refuses(server), "nobody listens")
        server.signal()
        assert server.wait() == 0
        with contextlib.suppress(ConnectionResetError):
            assert len(receive_all(sock)) < LARGE - 1


def test_a_drain_has_its_time(conf: Path, folder: Path) -> None:
    configure(conf, folder, drain_time=0.5)
    with supervise("-c", conf, workers=3, env=os.environ | {"STUCK_TIME": "0"}) as server:
        server.address("http")
        deaf = server.workers()[0]
        with stopped(deaf), downloading(server):
            server.signal()
            assert server.wait() == 0
            assert re.findall(r"worker (\d+) (?:exited|killed)", server.stderr()) == [str(deaf)]


def test_the_end_in_the_midst_of_a_reload(conf: Path) -> None:
    for _ in range(3):
        with supervise("-c", conf) as server, Load(server.address("http"), CONTENT):
            server.signal(signal.SIGHUP)
            until(lambda: "reloading" in server.stderr(), "a reload has begun")
            server.signal()
            assert server.wait() == 0


# Its surroundings


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


def ask(path: Path) -> bytes:
    """The body of an answer that comes by a unix socket; b"" if nobody listens there."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return b""
        sock.sendall(request("/f"))
        return take_answer(sock)[2]


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


# What systemd hands over


def test_sockets_are_taken_over_and_left_as_they_were(conf: Path, tmp_path: Path) -> None:
    with listening() as http, listening(tmp_path / "telnet.sock") as telnet:
        with supervise("-c", conf, **handing_over(http, telnet, names="http:rawservers-telnet.socket")) as server:
            assert server.address("http") == http.getsockname()
            assert get(server) == CONTENT
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(tmp_path / "telnet.sock"))
                sock.sendall(b"x\r\n")
                assert receive_until(sock, b"\n") == b"x\r\n"
            control.reload(server.process.pid)
            assert get(server) == CONTENT
            assert b"LISTEN_" not in get(server, "/environment")
        assert (tmp_path / "telnet.sock").exists()
        with socket.create_connection(http.getsockname(), timeout=DEADLINE), http.accept()[0]:
            pass  # it still listens, for whoever is next


def test_who_comes_between_stop_and_start_is_served(conf: Path) -> None:
    with listening() as http:
        options = handing_over(http, names="http")
        with supervise("-c", conf, "--telnet", "off", **options) as server:
            assert get(server) == CONTENT
        with socket.create_connection(http.getsockname(), timeout=DEADLINE) as sock:
            sock.sendall(request("/f"))
            with supervise("-c", conf, "--telnet", "off", **options):
                assert take_answer(sock) == (200, False, CONTENT)


def test_sockets_for_another_process_are_none_of_ours(conf: Path) -> None:
    with listening() as sock, supervise("-c", conf, **handing_over(sock, names="http", whom="wrong")) as server:
        assert server.address("http") != sock.getsockname()
        assert get(server) == CONTENT
        until(lambda: all(kinds(pid)["socket"] == 3 for pid in server.workers()), "it has let go of the socket")


@pytest.mark.parametrize("what", ["a file", "a name", "no name", "a connection", "a datagram socket"])
def test_what_is_no_server_socket_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").touch()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context((tmp_path / "file").open())
        sock = stack.enter_context(listening())
        datagram = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        connection = stack.enter_context(socket.create_connection(sock.getsockname(), timeout=DEADLINE))
        given, names, why = {
            "a file": (file, "http", "cannot listen on fd:3: not a socket"),
            "a name": (sock, "gopher", "socket 'gopher' from systemd: "),
            "no name": (sock, "", "socket '' from systemd: "),
            "a connection": (connection, "http", "cannot listen on fd:3: not a stream socket that listens"),
            "a datagram socket": (datagram, "http", "cannot listen on fd:3: not a stream socket that listens"),
        }[what]
        with supervise(**handing_over(given, names=names)) as server:
            assert server.wait() == 2
            assert server.stderr().startswith(f"rawservers: {why}")
            assert server.stderr().count("\n") == 1


# What systemd is told


class Manager:
    """The socket that a service manager listens on."""

    def __init__(self, address: str) -> None:
        self.environment = os.environ | {"NOTIFY_SOCKET": address.replace("\0", "@")}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(address)
        self._sock.settimeout(DEADLINE)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *failure: object) -> None:
        self._sock.close()

    def hear(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self._sock.recv(65536).decode().splitlines())

    def hear_of(self, name: str) -> dict[str, str]:
        """The next message that says something of it."""
        while name not in (said := self.hear()):
            pass
        return said


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
            control.reload(server.process.pid)
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
        kill(server, server.pid)
        until(lambda: "cannot notify the service manager" in server.stderr(), "it is missed")
        (tmp_path / "away").rename(path)
        control.reload(server.process.pid)
        manager.hear_of("READY")


# The access log


def rotate(log: Path, number: int) -> None:
    log.rename(log.with_name(f"log.{number}"))


def test_no_line_is_lost_or_torn_by_rotation(conf: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with supervise("-c", conf, "--access-log", log) as server:
        with Load(server.address("http"), CONTENT) as load:
            for number in range(30):
                rotate(log, number)
                if number % 3:
                    server.signal(signal.SIGUSR1)
                if number % 10 == 4:
                    control.reload(server.process.pid)
                until(log.exists, "a new log")  # without a signal it is noticed once a second
                load.go_on(1)
        assert load.failures == []
    files = list(tmp_path.glob("log*"))
    assert len(files) == 31
    lines = b"".join(path.read_bytes() for path in files).splitlines(keepends=True)
    assert len(lines) == load.answered
    line = re.compile(rb'127\.0\.0\.1 - - \[[^]]+\] "GET /f HTTP/1\.[01]" 200 13 "-" "-" \d+\.\d{3}\n')
    assert all(map(line.fullmatch, lines))


def test_every_worker_goes_on_with_the_new_log(conf: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with supervise("-c", conf, "--access-log", log) as server, contextlib.ExitStack() as busy:
        server.address("http")
        workers = server.workers()
        log.unlink()
        server.signal(signal.SIGUSR1)
        until(lambda: all(kinds(pid)[str(log)] == 1 for pid in (server.process.pid, *workers)), "all have the new log")
        assert not any(what.endswith("log (deleted)") for pid in (server.process.pid, *workers) for what in kinds(pid))
        for count in (1, 2):
            pid = int(get(server, "/pid"))
            until(lambda: log.read_text().count("\n") == count, "its line")  # noqa: B023
            busy.enter_context(stopped(pid))


def test_a_log_that_cannot_be_opened_anew(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with supervise("-c", conf, "--access-log", tmp_path / "logs" / "log") as server:
        server.address("http")
        (tmp_path / "logs").rename(tmp_path / "away")
        until(lambda: "cannot reopen the access log" in server.stderr(), "a complaint")
        assert get(server) == CONTENT
        until(lambda: (tmp_path / "away" / "log").read_text().count("\n") == 1, "the old one is written to")
        (tmp_path / "logs").mkdir()
        until((tmp_path / "logs" / "log").exists, "a new one")


# Another user


def free_low_port() -> int:
    """One that is root's."""
    for port in range(1023, 0, -1):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError


def test_workers_give_up_what_root_may(conf: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        unable("only root can become somebody else")
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o700)
    each = [path for path in (conf.parent, *conf.parent.parents) if path.is_relative_to("/tmp")]
    for path in each:  # pytest's folders are root's alone
        path.chmod(path.stat().st_mode | 0o111)
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


# Unix sockets


def test_a_unix_socket_from_its_beginning_to_its_end(conf: Path, folder: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "http.sock", tmp_path / "other.sock"
    listening(path).close()  # what a server leaves that was killed
    configure(conf, folder, listen=[("http", f"unix:{path}"), ("http", f"unix:{other}")])
    with supervise("-c", conf) as server:
        until(lambda: "other.sock" in server.stderr(), "it serves")
        assert ask(path) == ask(other) == CONTENT
        number = path.stat().st_ino
        configure(conf, folder, listen=[("http", f"unix:{path}")])
        control.reload(server.process.pid)
        assert path.stat().st_ino == number
        assert ask(path) == CONTENT
        assert not other.exists()
        path.unlink()
        with listening(path):  # somebody else's by now
            server.signal()
            assert server.wait() == 0
        assert path.exists()


def test_a_unix_socket_that_is_served_is_left_alone(conf: Path, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    configure(conf, folder, listen=[("http", f"unix:{path}")])
    with listening(path) as sock, contextlib.ExitStack() as stack:
        sock.listen(0)
        with contextlib.suppress(BlockingIOError):  # until its queue is full
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        with supervise("-c", conf) as server:
            assert server.wait() == 2
            assert server.stderr().endswith(f"rawservers: cannot listen on unix:{path}: address already in use\n")


# What does not come up


def test_workers_that_do_not_come_up_at_the_start(conf: Path, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    flag.write_text("now")
    with supervise("-c", conf, workers=4, env=os.environ | {"BROKEN": str(flag)}) as server:
        assert server.wait() == 1
        said = server.stderr()
        assert "cannot start: it is broken" in said
        assert "a worker failed to start" in said
        assert len(set(re.findall(r"worker (\d+) exited with status 1", said))) <= 4


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


# As many connections as fit


def test_more_than_fit_wait_their_turn(conf: Path, folder: Path) -> None:
    configure(conf, folder, limits={"connections": 40})  # of which half are for Telnet
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(server.connect("telnet")) for _ in range(60)]
        for sock in waiting:
            sock.sendall(b"x\r\n")
        until(lambda: len(select.select(waiting, [], [], 0)[0]) == 20, "as many as fit are served")
        assert not select.select(waiting[20:], [], [], 0.5)[0]  # and nobody else, for as long as they stay
        while waiting:
            served = select.select(waiting, [], [], DEADLINE)[0]
            assert 0 < len(served) <= 20
            for sock in served:
                assert receive_until(sock, b"\n") == b"x\r\n"
                waiting.remove(sock)
                sock.close()


def test_idle_connections_make_room(conf: Path, folder: Path) -> None:
    configure(conf, folder, limits={"connections": 40})
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack, server.connect("telnet") as session:
        session.sendall(b"x\r\n")
        assert receive_until(session, b"\n") == b"x\r\n"
        socks = [stack.enter_context(server.connect()) for _ in range(20)]
        for _ in range(40):  # those who are in have yet to speak: they make room
            socks.append(stack.enter_context(server.connect()))
            socks[-1].sendall(request("/f", keep=True))
            assert take_answer(socks[-1]) == (200, True, CONTENT)
        until(lambda: len(select.select(socks, [], [], 0)[0]) >= 40, "silent and idle ones were given up")
        assert len(select.select(socks, [], [], 0)[0]) == 40  # and no more
        session.sendall(b"y\r\n")
        assert receive_until(session, b"\n") == b"y\r\n"


def test_no_room_is_made_for_nobody(conf: Path, folder: Path) -> None:
    configure(conf, folder, limits={"connections": 40})
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(server.connect()) for _ in range(20)]
        for sock in socks:
            sock.sendall(request("/f", keep=True))
            assert take_answer(sock) == (200, True, CONTENT)
        assert not select.select(socks, [], [], 0.5)[0]


def test_one_address_may_have_so_many(conf: Path, folder: Path, tmp_path: Path) -> None:
    listen = [("telnet", "127.0.0.1:0"), ("status", f"unix:{tmp_path / 'status'}")]
    configure(conf, folder, listen=listen, limits={"connections_per_address": 5})
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(server.connect("telnet")) for _ in range(8)]
        for sock in socks[5:]:
            assert sock.recv(1) == b""
        elsewhere = socket.create_connection(server.address("telnet"), DEADLINE, ("127.0.0.2", 0))
        for sock in (*socks[:5], stack.enter_context(elsewhere)):
            sock.sendall(b"x\r\n")
            assert receive_until(sock, b"\n") == b"x\r\n"
        counted = json.loads(status.fetch(f"unix:{tmp_path / 'status'}", "json"))["counters"]["telnet"]
        assert (counted["accepted"], counted["rejected"]) == (6, 3)
        socks[0].close()

        def is_served() -> bool:
            with server.connect("telnet") as sock, contextlib.suppress(ConnectionResetError):
                sock.sendall(b"x\r\n")
                return sock.recv(3) == b"x\r\n"
            return False

        until(is_served, "there is room again")


def test_fewer_descriptors_mean_fewer_connections(conf: Path) -> None:
    with supervise("-c", conf, before=(need("prlimit"), "--nofile=400")) as server:
        assert get(server) == CONTENT
        assert "limits.connections reduced from 10000 to 80: descriptor limit too low\n" in server.stderr()


def test_as_many_connections_as_there_are_descriptors_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1000, 1000))
    assert startup.max_connections(Config(connections=0, open_files=256)) == 1000 - 256 - startup.RESERVED_DESCRIPTORS
    assert startup.max_connections(Config(connections=100, open_files=256)) == 100
    assert startup.max_connections(Config(connections=0, open_files=2000)) == 1


@contextlib.contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """It can open nothing meanwhile."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    lowest = next(number for number in itertools.count() if number not in opened(pid))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, hard))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_for_a_connection(conf: Path) -> None:
    with supervise("-c", conf, workers=1) as server, server.connect("telnet") as session, server.connect() as waiting:
        session.sendall(b"x\r\n")
        assert receive_until(session, b"\n") == b"x\r\n"
        waiting.sendall(request("/f"))
        assert take_answer(waiting) == (200, False, CONTENT)
        idle(server)
        with without_descriptors(server.pid), server.connect() as waiting:
            waiting.sendall(request("/f"))
            until(lambda: "cannot accept for http: too many open files" in server.stderr().lower(), "a line that says so")
            lines, used = len(server.stderr().splitlines()), server.cpu()
            select.select([], [], [], 1.0)  # the time is what this is about
            assert server.cpu() - used < 0.2
            assert len(server.stderr().splitlines()) - lines <= 11  # one for each try, which here come ten times faster
            session.sendall(b"y\r\n")
            assert receive_until(session, b"\n") == b"y\r\n"
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
            assert take_answer(waiting) == (200, False, CONTENT)


def test_another_worker_serves_when_one_has_no_descriptor(conf: Path) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        idle(server)
        first = int(get(server, "/pid"))  # the one that is woken when all are idle
        idle(server)
        with without_descriptors(first), server.connect() as sock:
            sock.settimeout(2)  # and several looks at what waits
            sock.sendall(request("/f"))
            assert take_answer(sock) == (200, False, CONTENT)


def idle(server: Server) -> None:
    """Wait until every worker does."""
    until(lambda: all(state(pid) == "S" for pid in server.workers()), "idle workers")
