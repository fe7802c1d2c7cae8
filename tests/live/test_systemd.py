"""The units of systemd/, under a real systemd that is booted for it: installed, used, reloaded, killed, upgraded and removed by
the commands of docs/operations.md, as they stand there. The tests of this file belong together, and build on one another."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.harness.http_client import request
from tests.harness.load import Load
from tests.harness.machine import Machine, enter_network
from tests.harness.needs import ROOT, need
from tests.harness.sockets import receive_all, receive_until
from tests.harness.tls import issue, secure
from tests.harness.waiting import DEADLINE, until

PAGE = (ROOT / "docs/operations.md").read_text()
UNITS = sorted(ROOT.glob("systemd/rawservers*.*"))
CHECKOUT = "/root/checkout"
SMALL, LARGE = b"small\n" * 100, b"large..\n" * (1 << 20)
CONFIGURATION = """
workers = 2
stuck_time = STUCK
[http]
root = "/srv/www"
headers."*" = { Generation = "GENERATION" }
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """With a copy of the checkout and a folder to serve, and nothing installed yet."""
    with Machine() as running:
        ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, running.path(CHECKOUT), ignore=ignored)
        yield running


@pytest.fixture(scope="module")
def pristine(machine: Machine) -> set[str]:
    """What is in /etc and /usr/local before the installation."""
    return files_of(machine)


@pytest.fixture(scope="module")
def installed(machine: Machine, pristine: set[str]) -> Machine:
    follow_page(machine, "Install")
    machine.path("/srv/www/small").write_bytes(SMALL)
    machine.path("/srv/www/large").write_bytes(LARGE)
    return machine


@pytest.fixture
def service(installed: Machine) -> Iterator[Machine]:
    """Up, with the configuration that these tests use."""
    configure(installed, "1")
    installed.systemctl("restart", "rawservers")
    yield installed
    changes = installed.path("/run/systemd/system/rawservers.service.d")
    if changes.exists():
        shutil.rmtree(changes)
        installed.systemctl("daemon-reload")


def files_of(machine: Machine) -> set[str]:
    return set(machine.run("find", "/etc", "/usr/local", "-xdev").stdout.splitlines())


def follow_page(machine: Machine, step: str) -> str:
    """Run the commands that the page has below the paragraph which says "`step` it", in the copy of the checkout."""
    blocks = re.findall(r"((?:^[^ \n].*\n)+)\n(?:<!-- .* -->\n)?((?:^    .*\n)+)", PAGE, re.MULTILINE)
    (commands,) = (block for paragraph, block in blocks if f"{step} it" in paragraph)
    return machine.run("sh", "-ec", f"cd {CHECKOUT}\n{commands}").stdout


def configure(machine: Machine, generation: str, stuck_time: float = 10, more: str = "") -> None:
    """stuck_time: seconds after which a worker that hangs is replaced; more: further lines, for the end of the file."""
    text = CONFIGURATION.replace("GENERATION", generation).replace("STUCK", str(stuck_time))
    machine.write("/etc/rawservers.toml", text + more)


def drop_in(machine: Machine, *lines: str) -> None:
    """Change the unit, until this test ends."""
    text = "\n".join(("[Service]", *lines, ""))
    machine.write("/run/systemd/system/rawservers.service.d/test.conf", text)
    machine.systemctl("daemon-reload")


def get(machine: Machine, path: str = "/small") -> bytes:
    """The whole answer on a connection of its own."""
    with machine.connect(80) as sock:
        sock.sendall(request(path))
        return receive_all(sock)


def generation(machine: Machine) -> str:
    """Which configuration answers."""
    match = re.search(rb"\r\nGeneration: (\w+)\r\n", get(machine))
    assert match
    return match[1].decode()


def main_process(machine: Machine) -> int:
    return int(machine.show("rawservers", "MainPID"))


def workers(machine: Machine) -> set[int]:
    """Their pids, as seen from here."""
    found = set()
    for pid in machine.path("/sys/fs/cgroup/system.slice/rawservers.service/cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            found |= {int(pid)} if int(parent) != machine.pid else set()
    return found


def load(machine: Machine) -> Load:
    """Clients in its network."""
    return Load(("127.0.0.1", 80), SMALL, "/small", kept=3, single=3, begin=lambda: enter_network(machine.pid))


# The units as they stand


def test_systemd_finds_nothing_wrong() -> None:
    done = subprocess.run([need("systemd-analyze"), "verify", *UNITS], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")  # for unknown directives it says so, and exits with 0


def test_exposure_is_at_most_0_2() -> None:
    command = [need("systemd-analyze"), "security", "--offline=true", "--threshold=2", str(ROOT / "systemd/rawservers.service")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# Installed


def test_the_first_client_starts_it(installed: Machine) -> None:
    assert installed.show("rawservers", "ActiveState") == "inactive"
    for unit in ("rawservers-http.socket", "rawservers-telnet.socket", "rawservers-status.socket"):
        assert installed.systemctl("is-enabled", unit) == "enabled"
    assert b"HTTP/1.0 200 OK\r\n" in get(installed, "/")
    until(lambda: installed.show("rawservers", "ActiveState") == "active", "it says that it is ready")


def test_both_ports_answer(service: Machine) -> None:
    for host in ("127.0.0.1", "::1"):
        with service.connect(80, host) as sock:
            sock.sendall(request("/small"))
            assert receive_all(sock).endswith(b"\r\n\r\n" + SMALL)
        with service.connect(23, host) as sock:
            sock.sendall(b"hello\r\n")
            assert receive_until(sock, b"\n") == b"hello\r\n"


def test_looking_at_it(service: Machine) -> None:
    get(service, "/looked-for")
    until(lambda: "GET /looked-for " in service.journal("--unit=rawservers"), "the access log's line in the journal")
    said = follow_page(service, "Look at")
    assert "Active: active (running)" in said
    assert re.search(r'Status: ".*http.*telnet.*2 workers"', said)
    assert "GET /looked-for " in said
    assert re.search(r"^rawservers .*workers: 2$", said, re.MULTILINE)  # its own status


def test_the_sandbox(service: Machine) -> None:
    """A probe run by systemd as a part of the service, and the same one outside, as a proof that it would notice."""
    shutil.copy(ROOT / "tests/harness/sandbox_probe.py", service.path("/usr/local/lib/probe.py"))
    drop_in(service, "ExecStartPre=/usr/bin/python3 /usr/local/lib/probe.py")
    service.systemctl("restart", "rawservers")
    journal = service.journal("--unit=rawservers", "--grep=^{")
    inside, outside = (json.loads(text) for text in (journal, service.run("python3", "/usr/local/lib/probe.py").stdout))
    service.path("/usr/local/lib/probe.py").unlink()

    assert set(inside["sockets"].values()) == {"EAFNOSUPPORT"}
    assert set(outside["sockets"].values()) == {"done"}
    assert inside["network"] != outside["network"]
    assert inside["others"] == []
    assert 1 in outside["others"]
    assert inside["writable"] == ["/var/tmp", "/tmp"]
    assert {"/", "/etc", "/srv/www", "/dev/shm"} < set(outside["writable"])
    assert not service.path("/tmp/probe").exists()
    assert inside["user"] != 0
    assert set(inside["capabilities"].values()) == {0}
    assert outside["capabilities"]["CapEff"] != 0
    assert set(inside["privileges"].values()) == {"EPERM"}
    assert set(outside["privileges"].values()) == {"done"}


# Reloaded and restarted


def test_reload(service: Machine) -> None:
    configure(service, "2")
    before = main_process(service)
    follow_page(service, "Reload")
    assert generation(service) == "2"
    assert main_process(service) == before


def test_a_bad_reload_keeps_what_is_served(service: Machine) -> None:
    before = main_process(service)
    configure(service, "2", more="lsitng = true\n")
    line = service.path("/etc/rawservers.toml").read_text().splitlines().index("lsitng = true") + 1
    done = service.run("systemctl", "reload", "rawservers", check=False)
    assert done.returncode != 0
    assert f"/etc/rawservers.toml:{line}: " in service.journal("--unit=rawservers", "--priority=err")
    assert json.loads(service.run("rawservers", "--status", "--format", "json").stdout)["reloads_failed"] == 1
    assert generation(service) == "1"
    assert (main_process(service), service.show("rawservers", "ActiveState")) == (before, "active")
    configure(service, "3")
    service.systemctl("reload", "rawservers")
    assert generation(service) == "3"


@pytest.mark.slow
def test_nobody_is_refused_during_reloads_and_restarts(service: Machine) -> None:
    with load(service) as clients:
        for number in range(10):
            configure(service, f"r{number}")
            service.systemctl("reload", "rawservers")
            assert generation(service) == f"r{number}"
            clients.go_on()
        for _ in range(5):
            service.systemctl("restart", "rawservers")
            clients.go_on()
    assert clients.failures == []


def test_stop_lets_downloads_finish(service: Machine) -> None:
    downloads = [begin_download(service) for _ in range(3)]
    service.systemctl("stop", "--no-block", "rawservers")
    until(lambda: service.show("rawservers", "ActiveState") == "deactivating", "the order to stop")
    for sock, begun in downloads:
        with sock:
            assert (begun + receive_all(sock)).partition(b"\r\n\r\n")[2] == LARGE
    until(lambda: service.show("rawservers", "ActiveState") == "inactive", "the end of the service")
    assert service.show("rawservers", "Result") == "success"


def begin_download(machine: Machine) -> tuple[socket.socket, bytes]:
    """A connection with little room, on which a large answer has begun, and what has come of it."""

    def connect() -> socket.socket:
        sock = socket.socket()
        sock.settimeout(DEADLINE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", 80))
        return sock

    sock = machine.visit(connect)
    sock.sendall(request("/large"))
    return sock, sock.recv(100)


# When something goes wrong


def comes_back(machine: Machine, hurt: Callable[[], object]) -> None:
    """Another main process serves after `hurt`, without anybody's doing."""
    before = main_process(machine)
    hurt()
    until(lambda: main_process(machine) not in {0, before}, "another main process")
    assert generation(machine) == "1"


def test_the_main_process_is_killed(service: Machine) -> None:
    old = workers(service)
    comes_back(service, lambda: service.run("kill", "-KILL", str(main_process(service))))
    assert not old & workers(service)


@pytest.mark.slow
def test_the_main_process_hangs(service: Machine) -> None:
    drop_in(service, "WatchdogSec=1")
    service.systemctl("restart", "rawservers")
    comes_back(service, lambda: service.run("kill", "-STOP", str(main_process(service))))
    assert "Watchdog timeout" in service.journal("--unit=rawservers")


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGSTOP, id="hangs", marks=pytest.mark.slow)]
)
def test_a_worker_is_killed_or_hangs(service: Machine, number: int) -> None:
    configure(service, "1", stuck_time=2)
    service.systemctl("restart", "rawservers")
    main, before = main_process(service), workers(service)
    victim = min(before)
    os.kill(victim, number)
    until(lambda: victim not in workers(service) and len(workers(service)) == 2, "another worker")
    assert before - {victim} < workers(service)
    assert (main_process(service), generation(service)) == (main, "1")


@pytest.mark.slow
def test_a_client_waits_while_the_configuration_is_mended(service: Machine) -> None:
    """Meanwhile the service is started and fails time and again; that takes neither the port away nor the processor."""
    service.systemctl("stop", "rawservers")
    configure(service, "2", more="wrong\n")
    with service.connect(80) as sock:
        sock.sendall(request("/small"))
        until(lambda: len(failed_starts(service)) >= 2, "two starts that failed")
        configure(service, "2")
        assert receive_all(sock).endswith(SMALL)
    assert "/etc/rawservers.toml:" in service.journal("--unit=rawservers", "--priority=err")
    starts = failed_starts(service)
    assert all(later - earlier >= 1 for earlier, later in pairwise(starts)), starts


def failed_starts(machine: Machine) -> list[float]:
    """When the service has ended with a wrong configuration: seconds on the monotonic clock."""
    lines = machine.journal("--unit=rawservers", "--grep=Main process exited.* status=78", "--output=json").splitlines()
    return [int(json.loads(line)["__MONOTONIC_TIMESTAMP"]) / 1e6 for line in lines]


def test_access_log_in_a_file(service: Machine) -> None:
    """As the page says, with its rotation."""
    assert '`access = "/var/log/rawservers/access.log"`' in PAGE
    configure(service, "1", more='[log]\naccess = "/var/log/rawservers/access.log"\n')
    service.systemctl("restart", "rawservers")
    log = service.path("/var/log/private/rawservers/access.log")
    for name in ("/one", "/two"):
        await_log_line(service, log, name)
        log.rename(log.with_name("old"))
        until(log.exists, "a new log")


def await_log_line(machine: Machine, log: Path, name: str) -> None:
    get(machine, name)
    until(lambda: log.exists() and f"GET {name} " in log.read_text(), "a line of log")


def test_tls(service: Machine, tmp_path: Path) -> None:
    """On a socket of systemd, with files that only root can read."""
    files = issue(tmp_path)
    for path in (files.certificate, files.key):
        service.write(f"/etc/{path.name}", path.read_text())
        service.path(f"/etc/{path.name}").chmod(0o600)
    given = "/run/credentials/rawservers.service"
    tls = f'tls = {{ certificate = "{given}/site.pem", key = "{given}/site.key" }}'
    configure(service, "1", more=f'[[listen]]\nservice = "http"\naddress = ":443"\n{tls}\n')
    drop_in(service, *(f"LoadCredential={name}:/etc/{name}" for name in ("site.pem", "site.key")))
    service.systemctl("enable", "rawservers-https.socket")
    service.systemctl("restart", "rawservers")
    for _ in range(2):
        with secure(service.connect(443)) as sock:
            sock.sendall(request("/small"))
            assert receive_all(sock).endswith(SMALL)
        assert get(service).endswith(SMALL)
        service.systemctl("reload", "rawservers")  # checks and reads the files once more
    service.systemctl("disable", "--now", "rawservers-https.socket")
    service.run("rm", "/etc/site.pem", "/etc/site.key")


def test_a_unix_socket_for_a_proxy(service: Machine) -> None:
    """As the page says: only the group may connect."""
    lines = ("ListenStream=/run/rawservers/http", "SocketMode=0660", "SocketGroup=")
    assert all(f"\n{line}" in PAGE for line in lines)
    service.write(
        "/run/systemd/system/rawservers-http.socket.d/test.conf", "\n".join(["[Socket]", *lines[:2], "SocketGroup=daemon\n"])
    )
    service.systemctl("daemon-reload")
    service.systemctl("stop", "rawservers-http.socket")
    service.systemctl("restart", "rawservers")
    path = service.path("/run/rawservers/http")
    assert (path.stat().st_mode & 0o777, path.group()) == (0o660, "daemon")
    assert get(service, "/small").endswith(SMALL)  # port 80 is served as before
    need("curl")
    assert "HTTP/1.0 200" in service.run("curl", "-s", "-i", "--unix-socket", "/run/rawservers/http", "http://h/small").stdout


def test_another_port(service: Machine) -> None:
    """A socket that has changed is taken as the page says; so is one that was stopped, or enabled since."""
    service.systemctl("disable", "--now", "rawservers-telnet.socket")
    service.systemctl("enable", "rawservers-telnet.socket")
    service.write("/run/systemd/system/rawservers-http.socket.d/test.conf", "[Socket]\nListenStream=8080\n")
    service.systemctl("daemon-reload")
    service.systemctl("stop", "rawservers-http.socket")
    service.systemctl("restart", "rawservers")
    for port, greeting in ((80, b"HTTP/1.0 "), (8080, b"HTTP/1.0 "), (23, b"GET / HTTP/1.0\r\n")):
        with service.connect(port) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert sock.recv(100).startswith(greeting)
    shutil.rmtree(service.path("/run/systemd/system/rawservers-http.socket.d"))


# Upgraded and removed


def test_upgrade(service: Machine) -> None:
    version = service.path(f"{CHECKOUT}/rawservers/__init__.py")
    version.write_text(re.sub(r'__version__ = ".*"', '__version__ = "99.0"', version.read_text()))
    with load(service) as clients:
        follow_page(service, "Upgrade")
        clients.go_on()
    assert clients.failures == []
    assert service.run("rawservers", "--version").stdout == "rawservers 99.0\n"
    assert b"\r\nServer: rawservers/99.0\r\n" in get(service)


def test_remove(installed: Machine, pristine: set[str]) -> None:
    follow_page(installed, "Remove")
    assert files_of(installed) == pristine | {"/etc/rawservers"}  # which may have keys
    assert installed.systemctl("list-units", "--all", "--plain", "--no-legend", "rawservers*") == ""
    assert not installed.path("/run/rawservers/status").exists()
    with pytest.raises(ConnectionRefusedError), contextlib.closing(installed.connect(80)):
        pass
