"""The configuration files for what stands in front: HAProxy and nginx before two nodes, and Prometheus beside them.

The files are used as they are, and the nodes have what the files say of them: each machine is a network namespace.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rawservers.core.wakes import BOUNDS
from rawservers.daemon.scoreboard import Metrics, make_status
from rawservers.status import COUNTERS, as_prometheus
from tests.harness.http_client import take_answer
from tests.harness.namespaces import Namespace, Visitors, namespaces
from tests.harness.needs import ROOT, need, need_root
from tests.harness.server import Server
from tests.harness.waiting import DEADLINE, until

CONF = ROOT / "conf"
CLIENTS = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
FRONT = "192.0.2.254"
NODES = {"node1": "10.0.1.2", "node2": "10.0.2.2"}
LARGE = os.urandom(1 << 20)


def checked(*command: str, **options: object) -> str:
    """What a command says that accepts a file."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


def test_haproxy_accepts_its_file() -> None:
    said = checked(need("haproxy"), "-c", "-f", str(CONF / "haproxy.cfg"))
    assert "WARNING" not in said
    assert "valid" in said


def test_nginx_accepts_its_file() -> None:
    need_root("let nginx open its logs")
    assert "[warn]" not in checked(need("nginx"), "-t", "-c", str(CONF / "nginx.conf"))


def test_prometheus_accepts_its_files() -> None:
    promtool = need("promtool")
    assert "1 rule files found" in checked(promtool, "check", "config", str(CONF / "prometheus.yml"))
    checked(promtool, "check", "rules", str(CONF / "prometheus-rules.yml"))


def metrics() -> str:
    """What a server says that has served both."""
    counters = {f"{service}.{name}": 1 for service in ("http", "telnet") for name in COUNTERS}
    wakes = {f"wakes.{clock} {bound}": 1 for clock in ("wall", "cpu") for bound in (*BOUNDS, "more")}
    found = Metrics()
    found.counters.update(counters | wakes)
    return as_prometheus(make_status(found, 1.0))


def test_prometheus_accepts_the_metrics() -> None:
    assert list(text_string_to_metric_families(metrics()))
    checked(need("promtool"), "check", "metrics", input=metrics())


def test_every_metric_of_an_alert_is_there() -> None:
    there = {sample.name for family in text_string_to_metric_families(metrics()) for sample in family.samples}
    named = set(re.findall(r"\brawservers_\w+", (CONF / "prometheus-rules.yml").read_text()))
    assert named
    assert named <= there


def test_an_alert_is_raised(tmp_path: Path) -> None:
    """By the series that it is about, and by no others."""
    (tmp_path / "rules.yml").write_text((CONF / "prometheus-rules.yml").read_text())
    instance = '{instance="node1", service="http"}'
    series = {
        'up{job="rawservers", instance="node1"}': "0+0x60",
        'rawservers_workers{instance="node1"}': "0+0x60",
        'rawservers_reloads_failed_total{instance="node1"}': "0x30 1x30",
        'rawservers_log_lines_dropped_total{instance="node1"}': "0x30 9x30",
        f"rawservers_connections_rejected_total{instance}": "0+120x60",
        f"rawservers_bad_requests_total{instance}": "0+120x60",
        f"rawservers_answers_total{instance}": "0+240x60",
        'rawservers_wake_duration_seconds_bucket{instance="node1", le="0.25"}': "0+1x60",
        'rawservers_wake_duration_seconds_bucket{instance="node1", le="1.0"}': "0+2x60",
        'rawservers_wake_duration_seconds_bucket{instance="node1", le="+Inf"}': "0+2x60",
    }
    alerts = re.findall(r"alert: (\w+)", (CONF / "prometheus-rules.yml").read_text())
    rows = "".join(f"      - series: '{name}'\n        values: '{values}'\n" for name, values in series.items())
    counts = "".join(
        f'      - expr: count(ALERTS{{alertname="{alert}", alertstate="firing"}})\n'
        f"        eval_time: 40m\n        exp_samples: [{{ labels: '{{}}', value: 1 }}]\n"
        for alert in alerts
    )
    test = f"rule_files: [rules.yml]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n{rows}"
    (tmp_path / "test.yml").write_text(f"{test}    promql_expr_test:\n{counts}")
    checked(need("promtool"), "test", "rules", str(tmp_path / "test.yml"))
    healthy = re.sub(r"values: '.*'", "values: '1x60'", test)
    (tmp_path / "test.yml").write_text(
        f"{healthy}    promql_expr_test: [{{ expr: count(ALERTS), eval_time: 40m, exp_samples: [] }}]\n"
    )
    checked(need("promtool"), "test", "rules", str(tmp_path / "test.yml"))


# Two nodes and what stands before them


def settings_of_nodes(name: str) -> str:
    """What a file says of the nodes' configuration."""
    lines = re.findall(r"^#   (.*)$", (CONF / name).read_text(), re.MULTILINE)
    assert "[[listen]]" in lines
    return "".join(f"{line}\n" for line in lines)


class Site:
    """Two nodes behind a front, with visitors before it."""

    def __init__(self, place: Path, machines: Mapping[str, Namespace], settings: str) -> None:
        self.machines = machines
        self.nodes: dict[str, Server] = {}
        self._place, self._settings = place, settings
        self._logs: dict[str, list[str]] = {name: [] for name in NODES}
        (place / "www").mkdir()
        (place / "www" / "f").write_bytes(b"content of f\n")
        (place / "www" / "large").write_bytes(LARGE)

    def start(self, name: str) -> None:
        path = self._place / f"{name}.toml"
        status = f'[[listen]]\nservice = "status"\naddress = "{NODES[name]}:9180"\n'
        settings = self._settings if "[http]" in self._settings else f"{self._settings}[http]\n"
        path.write_text(f'{settings}root = "www"\nheaders."*" = {{ X-Node = "{name}" }}\n'.replace("[http]", f"{status}[http]"))
        self.nodes[name] = Server("-c", path, "--workers", "2", before=self.machines[name].before)
        self.nodes[name].address("telnet")

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a node, as it is told to or by force."""
        node = self.nodes.pop(name)
        node.signal(number)
        status = node.wait()
        self._logs[name] += node.log()
        with node:
            assert status == (0 if number == signal.SIGTERM else -number), node.stderr()
            assert "Traceback" not in node.stderr()

    def log(self, name: str) -> list[str]:
        """Its access log, of all its lives."""
        return self._logs[name] + (self.nodes[name].log() if name in self.nodes else [])

    def served_by(self) -> set[str]:
        """The nodes that answer a few requests from somewhere else than the visitors."""
        command = ["curl", "-sS", "-o", "/dev/null", "-w", "%header{x-node}\n", f"http://{FRONT}/f"]
        return {self.machines["client"].run(*command).strip() for _ in range(4)}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@contextlib.contextmanager
def site(place: Path, settings: str) -> Iterator[Site]:
    links = [("client", f"{CLIENTS[0]}/24", "front", f"{FRONT}/24")]
    links += [(name, f"{address}/24", "front", f"{address[:-1]}1/24") for name, address in NODES.items()]
    with namespaces(*links) as machines:
        for client in CLIENTS[1:]:
            machines["client"].run("ip", "address", "add", f"{client}/24", "dev", "link0")
        running = Site(place, machines, settings)
        try:
            for name in NODES:
                running.start(name)
            yield running
        finally:
            for node in running.nodes.values():
                with node:
                    pass


@contextlib.contextmanager
def front(running: Site, place: Path, *command: str) -> Iterator[Path]:
    """A front that is up. Yields the path of its output."""
    output = place / "output"
    with output.open("wb") as file:
        process = subprocess.Popen([*running.machines["front"].before, *command], stdout=file, stderr=file)
    try:
        until(lambda: process.poll() is not None or is_up(running.machines["client"]), "the front")
        assert process.poll() is None, output.read_text()
        yield output
    finally:
        process.kill()
        process.wait()


def is_up(client: Namespace) -> bool:
    done = subprocess.run([*client.before, "curl", "-sf", "-o", "/dev/null", f"http://{FRONT}/f"])
    return done.returncode == 0


def connect(client: str, port: int) -> socket.socket:
    return socket.create_connection((FRONT, port), DEADLINE, (client, 0))


def get(sock: socket.socket, path: str, content: bytes) -> bool:
    """Ask for it, and compare; whether the connection may be used again."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    status, stays, body = take_answer(sock)
    if (status, body) != (200, content):
        raise ValueError(f"{status}, {len(body)} bytes")
    return stays


def visit_once(client: str) -> None:
    with connect(client, 80) as sock:
        get(sock, "/f", b"content of f\n")


def visit_often(client: str) -> None:
    with connect(client, 80) as sock:
        for _ in range(50):
            if not get(sock, "/f", b"content of f\n"):
                break


def download(client: str) -> None:
    with connect(client, 80) as sock:
        get(sock, "/large", LARGE)


def talk(client: str, pause: float = 0) -> None:
    with connect(client, 23) as sock, sock.makefile("rb") as lines:
        for number in range(12):
            sock.sendall(b"line %d\r\n" % number)
            if (line := lines.readline()) != b"line %d\r\n" % number:
                raise ValueError(f"line {number}: {line!r}")
            time.sleep(pause)


def talk_slowly(client: str) -> None:
    """A session that lasts longer than a node waits for one once it stops, and not as long as it announces that."""
    talk(client, 0.05)


def visits() -> list[Callable[[], None]]:
    found = []
    for visit in (visit_once, visit_often, download, talk, talk_slowly):
        for client in CLIENTS:
            found.append(functools.partial(visit, client))
            found[-1].__qualname__ = visit.__name__  # type: ignore[attr-defined]
    return found  # type: ignore[return-value]


def clients_of(running: Site) -> set[str]:
    return {line.partition(" ")[0] for name in NODES for line in running.log(name)}


@pytest.mark.slow
def test_haproxy_before_two_nodes(place: Path) -> None:
    """A rolling restart of both nodes loses nothing; a node that is killed loses what it was about to answer."""
    haproxy = need("haproxy")
    with (
        site(place, settings_of_nodes("haproxy.cfg")) as running,
        front(running, place, haproxy, "-db", "-f", str(CONF / "haproxy.cfg")) as output,
    ):

        def await_line(text: str, after: int) -> None:
            until(lambda: all(f"Server {each}/{text}" in output.read_text()[after:] for each in ("http", "telnet")), text)

        until(lambda: running.served_by() == set(NODES), "both nodes")
        with Visitors(running.machines["client"].enter, visits()) as visitors:
            for name in NODES:
                mark = len(output.read_text())
                running.stop(name)
                await_line(f"{name} is DOWN", mark)
                visitors.go_on()
                mark = len(output.read_text())
                running.start(name)
                await_line(f"{name} is UP", mark)
                visitors.go_on()
            assert visitors.losses == []
            until(lambda: running.served_by() == set(NODES), "both nodes")

            running.stop("node1", signal.SIGKILL)
            killed = time.monotonic()
            visitors.go_on()
            mark = len(output.read_text())
            running.start("node1")
            await_line("node1 is UP", mark)
        assert len(visitors.losses) <= len(visits())
        assert [loss for loss in visitors.losses if loss.began > killed] == []

        assert clients_of(running) == set(CLIENTS)
        assert not any("/health" in line for name in NODES for line in running.log(name))
        for name, address in NODES.items():
            told = running.machines["front"].run("curl", "-sS", f"http://{address}:9180/metrics")
            checked(need("promtool"), "check", "metrics", input=told)
            samples = [sample for family in text_string_to_metric_families(told) for sample in family.samples]
            rejected = {sample.value for sample in samples if sample.name == "rawservers_connections_rejected_total"}
            assert rejected == {0.0}, name  # no health check either
        status = running.machines["client"].run(
            "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"http://{FRONT}/health"
        )
        assert status == "404"


@pytest.mark.slow
def test_nginx_before_two_nodes(place: Path) -> None:
    nginx = need("nginx")
    conf = place / "nginx.conf"
    text = (CONF / "nginx.conf").read_text().replace("/run/nginx.pid", f"{place}/nginx.pid")
    conf.write_text(text.replace("http {", "http {\n    access_log off;"))
    with (
        site(place, settings_of_nodes("nginx.conf")) as running,
        front(running, place, nginx, "-e", str(place / "error.log"), "-g", "daemon off; master_process off;", "-c", str(conf)),
    ):
        until(lambda: running.served_by() == set(NODES), "both nodes")
        with Visitors(running.machines["client"].enter, visits()) as visitors:
            visitors.go_on()
        assert visitors.losses == []
        assert clients_of(running) == set(CLIENTS)
