"""The status page: its three forms, what it sums up, and that what is counted never falls, whoever dies."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from rawservers import __version__, cli, status
from rawservers.core.wakes import BOUNDS
from rawservers.daemon import control, startup
from tests.harness.http_client import request, take_answer
from tests.harness.load import Load
from tests.harness.needs import ROOT, need, need_root, unable
from tests.harness.processes import stopped
from tests.harness.server import Server
from tests.harness.sockets import receive_until
from tests.harness.waiting import DEADLINE, until

CONTENT = b"content of f\n"
COUNTS = {"accepted", "rejected", "answers", "bad_requests", "sent"}
STATES = {"reading", "busy", "sending", "idle", "lingering"}


@pytest.fixture
def conf(folder: Path, tmp_path: Path) -> Path:
    """All three services, the status on a unix socket and on a free port."""
    listen = {"http": "127.0.0.1:0", "telnet": "127.0.0.1:0", "status": "127.0.0.1:0"}
    rows = [*listen.items(), ("status", f"unix:{tmp_path / 'status'}")]
    lines = [f'[[listen]]\nservice = "{service}"\naddress = "{address}"' for service, address in rows]
    path = tmp_path / "conf.toml"
    path.write_text("\n".join([*lines, "[http]", f'root = "{folder}"\n']))
    return path


@pytest.fixture
def served(conf: Path) -> Iterator[Server]:
    with Server("-c", conf, "--workers", "3", module="tests.servers.supervised") as server:
        server.address("status")
        yield server


def look(path: Path) -> dict[str, Any]:
    """What it says of itself now."""
    said: dict[str, Any] = json.loads(status.fetch(f"unix:{path}", "json"))
    return said


def get(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(request("/f"))
        assert take_answer(sock) == (200, False, CONTENT)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "rawservers", "--status", *arguments]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)


# Its forms


def test_for_programs(served: Server, tmp_path: Path) -> None:
    get(served)
    until(lambda: look(tmp_path / "status")["counters"]["http"]["answers"] == 1, "it is counted")
    said = look(tmp_path / "status")
    assert set(said) == {
        "version",
        "process",
        "uptime",
        "workers",
        "reloads",
        "reloads_failed",
        "connections",
        "counters",
        "log_lines_dropped",
        "wakes",
    }
    for kind in ("wall", "cpu"):
        wakes = said["wakes"][kind]
        assert list(wakes["counts"]) == [*map(str, BOUNDS), "more"]
        assert sum(wakes["counts"].values()) > 0
        assert wakes["seconds"] > 0
        assert wakes["longest"] <= wakes["seconds"]
    assert (said["version"], said["workers"], said["reloads"], said["reloads_failed"]) == (__version__, 3, 0, 0)
    assert said["process"] == served.process.pid
    assert 0 < said["uptime"] < 10 * DEADLINE
    assert set(said["connections"]) == set(said["counters"]) == {"http", "telnet", "status"}
    assert all(set(states) == STATES for states in said["connections"].values())
    assert all(set(counted) >= COUNTS for counted in said["counters"].values())
    assert said["counters"]["http"]["accepted"] == said["counters"]["http"]["answers"] == 1
    assert said["counters"]["http"]["sent"] > len(CONTENT)


def test_for_people(served: Server, tmp_path: Path) -> None:
    get(served)
    until(lambda: look(tmp_path / "status")["counters"]["http"]["answers"] == 1, "it is counted")
    done = command(f"unix:{tmp_path / 'status'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"rawservers {__version__}, process {served.process.pid}, up 0:00:0")
    assert "workers: 3\nreloads: 0, failed: 0; " in done.stdout
    assert "\nhttp\n              0  connections open\n              1  connections accepted\n" in done.stdout
    assert "              1  requests or lines answered\n" in done.stdout


def test_without_an_address_it_finds_the_server_of_this_user() -> None:
    """Without a status service, a file or a configuration. In a PID namespace, where no other server is."""
    if os.path.exists("/run/rawservers/status"):
        unable("a server listens on the default address")
    apart = [need("unshare"), "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        need_root("make a PID namespace here")
        unable("no PID namespaces here")
    whole = [*apart, sys.executable, "-m", "tests.harness.status_of_own"]
    done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=2 * DEADLINE)
    assert done.returncode == 0, done.stderr
    none, one, as_json, two, chosen, worker, first, second, pid = json.loads(done.stdout)
    assert none == [1, "", "rawservers: no server of this user is running\n"]
    assert one[0] == 0
    assert "workers: 2\n" in one[1]
    assert "\nhttp\n" in one[1]
    assert "telnet" not in one[1]
    assert json.loads(as_json[1])["workers"] == 2
    assert two[:2] == [2, ""]
    head, *lines = two[2].splitlines()
    assert head == "rawservers: several servers are running:"
    assert [line.partition("#")[0] for line in lines] == [f"  rawservers --status pid:{each}  " for each in (first, second)]
    assert "--workers 2" in lines[0]
    assert "--bind 127.0.0.1" in lines[1]
    assert chosen[0] == 0
    assert "workers: 2\n" in chosen[1]
    why = f"rawservers: cannot get the status from process {pid}: not a rawservers supervisor\n"
    assert worker == [2, "", why]


def test_a_process_that_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--status", f"pid:{1 << 22}"]) == 2
    assert capfd.readouterr().err == f"rawservers: cannot get the status from process {1 << 22}: no such process\n"


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels, as Prometheus would take them."""
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation and family.type in {"counter", "gauge", "histogram"} for family in families)
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for family in families for each in family.samples}


def test_for_prometheus(served: Server, tmp_path: Path) -> None:
    get(served)
    until(lambda: look(tmp_path / "status")["counters"]["http"]["answers"] == 1, "it is counted")
    done = command(f"unix:{tmp_path / 'status'}", "--format", "prometheus")
    found = samples(done.stdout)
    assert found["rawservers_build_info", (("version", __version__),)] == 1
    assert found["rawservers_workers", ()] == 3
    assert found["rawservers_uptime_seconds", ()] > 0
    assert found["rawservers_reloads_total", ()] == found["rawservers_log_lines_dropped_total", ()] == 0
    assert found["rawservers_answers_total", (("service", "http"),)] == 1
    assert found["rawservers_connections_accepted_total", (("service", "http"),)] == 1
    assert found["rawservers_connections", (("service", "status"), ("state", "busy"))] >= 0
    for service in ("http", "telnet", "status"):
        assert {
            states for (name, labels), _ in found.items() for _, states in labels[1:] if ("service", service) in labels
        } == STATES
        assert found["rawservers_long_wakes_total", (("service", service),)] >= 0
    for name in ("rawservers_wake_duration", "rawservers_wake_cpu"):
        buckets = [found[f"{name}_seconds_bucket", (("le", bound),)] for bound in (*map(str, BOUNDS), "+Inf")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == found[f"{name}_seconds_count", ()] > 0
        assert found[f"{name}_max_seconds", ()] <= found[f"{name}_seconds_sum", ()]


@pytest.mark.parametrize(("form", "kind"), [("text", "text/plain"), ("json", "application/json"), ("prometheus", "text/plain")])
def test_by_other_ways(served: Server, tmp_path: Path, form: str, kind: str) -> None:
    host, port = served.address("status")
    place = status.FORMATS[form][0]
    answer = requests.get(f"http://{host}:{port}{place}", timeout=DEADLINE)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith(kind)
    assert answer.headers["Cache-Control"] == "no-store"
    curl = [need("curl"), "-sS", "--unix-socket", str(tmp_path / "status"), f"http://status{place}"]
    by_curl = subprocess.run(curl, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout
    by_command = command(f"{host}:{port}", "--format", form).stdout
    for text in (answer.text, by_curl, by_command):
        if form == "json":
            assert json.loads(text)["workers"] == 3
        elif form == "prometheus":
            assert samples(text)["rawservers_workers", ()] == 3
        else:
            assert "workers: 3\n" in text


def test_what_is_not_there(served: Server) -> None:
    host, port = served.address("status")
    url = f"http://{host}:{port}"
    assert requests.get(f"{url}/nope", timeout=DEADLINE).status_code == 404
    assert requests.get(f"{url}/../json", timeout=DEADLINE).status_code in {200, 400}
    refused = requests.post(url, data=b"x", timeout=DEADLINE)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
    assert requests.head(f"{url}/json", timeout=DEADLINE).headers["Content-Type"] == "application/json"
    assert requests.get(url, headers={"Accept": "application/json"}, timeout=DEADLINE).json()["workers"] == 3


@pytest.mark.parametrize("where", ["unix", "port", "no status", "no address"])
def test_nobody_to_ask(tmp_path: Path, where: str) -> None:
    with contextlib.ExitStack() as stack:
        if where == "no status":
            server = stack.enter_context(Server("--http", "0", "--telnet", "off"))
            address = ":".join(map(str, server.address("http")))
        elif where == "port":
            with socket.create_server(("127.0.0.1", 0)) as sock:
                address = f"127.0.0.1:{sock.getsockname()[1]}"
        else:
            address = f"unix:{tmp_path / 'nowhere'}" if where == "unix" else "nonsense"
        done = command(address)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"rawservers: cannot get the status from {address}: ")
    assert done.stderr.count("\n") == 1


# What it sums up


def test_it_sums_over_all_workers(served: Server, tmp_path: Path) -> None:
    """Each of the three has a connection of its own, whoever tells of it."""
    with contextlib.ExitStack() as stack:
        for count in range(1, 4):
            sock = stack.enter_context(served.connect())
            sock.sendall(request("/pid", keep=True))
            pid = int(take_answer(sock)[2])
            wanted = {"accepted": count, "answers": count}

            def is_told(wanted: dict[str, int] = wanted) -> bool:
                counted = look(tmp_path / "status")["counters"]["http"]
                return {name: counted[name] for name in wanted} == wanted

            until(is_told, f"{count} of each")
            if count < 3:
                stack.enter_context(stopped(pid))  # the next connection is another worker's
        assert look(tmp_path / "status")["connections"]["http"]["idle"] == 3


def test_what_connections_do(served: Server, folder: Path, tmp_path: Path) -> None:
    (folder / "large").touch()
    os.truncate(folder / "large", 32 << 20)
    with contextlib.ExitStack() as stack:
        said = {"telnet": (b"x\r\n",), "http": (b"GET / HTTP/1.0\r\nHal", b"GET /large\r\n", request("/f", keep=True), b"")}
        socks = []
        for service, each in said.items():
            for data in each:
                socks.append(stack.enter_context(served.connect(service)))
                socks[-1].sendall(data)
        lingering = stack.enter_context(served.connect())
        lingering.sendall(b"POST / HTTP/1.0\r\nContent-Length: 10\r\n\r\n")
        idle = dict.fromkeys(STATES, 0)
        wanted = {
            "http": idle | {"reading": 2, "sending": 1, "idle": 1, "lingering": 1},
            "telnet": idle | {"idle": 1},
            "status": idle | {"busy": 0},
        }

        def is_told() -> bool:
            connections = look(tmp_path / "status")["connections"]
            own = connections.pop("status")
            return sum(own.values()) <= 2 and connections == {name: wanted[name] for name in connections}

        until(is_told, "what each does")
    until(lambda: not any(look(tmp_path / "status")["connections"]["http"].values()), "none is left")


# Through thick and thin


class Watch:
    """Looks at what is counted, again and again, and notes whatever falls."""

    def __init__(self, path: Path) -> None:
        self.looks = 0
        self.fallen: list[str] = []
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        before: Counter[str] = Counter()
        while not self._over.is_set():
            try:
                said = look(self._path)
            except (OSError, ValueError):  # of a worker that has just died
                continue
            self.looks += 1
            now = Counter({f"{s}.{name}": n for s, counted in said["counters"].items() for name, n in counted.items()})
            now["reloads"] = said["reloads"]
            self.fallen += [f"{name}: {before[name]}, then {now[name]}" for name in before if now[name] < before[name]]
            before = now


@pytest.mark.parametrize("rounds", [10, pytest.param(250, marks=pytest.mark.slow)])
def test_what_is_counted_never_falls(served: Server, tmp_path: Path, rounds: int) -> None:
    chance = random.Random(1)
    with Load(served.address("http"), CONTENT) as load, Watch(tmp_path / "status") as watch:
        reloads = 0
        for number in range(rounds):
            if number % 5 == 4:
                with contextlib.suppress(startup.CannotStart):
                    control.reload(served.process.pid)
                    reloads += 1
            else:
                with contextlib.suppress(IndexError, ProcessLookupError):
                    os.kill(chance.choice(served.workers()), signal.SIGKILL)
            select.select([], [], [], 0.05)
        load.go_on()
        until(lambda: watch.looks > 2 * rounds, "looks at what is counted")
    assert watch.fallen == []
    assert look(tmp_path / "status")["reloads"] == reloads > 0


def test_what_retiring_workers_have_counted_stays(served: Server, tmp_path: Path) -> None:
    for round in range(1, 4):
        get(served)
        with served.connect("telnet") as sock:
            sock.sendall(b"x\r\n")
            assert receive_until(sock, b"\n") == b"x\r\n"
        control.reload(served.process.pid)
        until(lambda: len(served.workers()) == 3, "the end of the old workers")
        counted = look(tmp_path / "status")["counters"]
        assert [counted[name]["answers"] for name in ("http", "telnet")] == [round, round]
        assert look(tmp_path / "status")["reloads"] == round
