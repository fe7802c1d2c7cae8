"""The status service: metrics of the running server, over HTTP.

    curl --unix-socket /run/rawservers/status http://-/

A request gets plain text at /, JSON at /json (or with Accept: application/json), and Prometheus' exposition format at /metrics.
`rawservers --status` is a client of it. The metrics are totals over all workers, at most a second old.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import NamedTuple

from rawservers.core.bind import Endpoint
from rawservers.core.peer import Peer
from rawservers.core.protocol import Protocol
from rawservers.core.wakes import LONG
from rawservers.http.conversation import Conversation, Responder
from rawservers.http.request import Request
from rawservers.http.response import PreparedResponse, Response, error_response
from rawservers.http.router import HANDLER_STEPS

TIMEOUT = 10  # seconds for a response

STATES = ("reading", "busy", "sending", "idle", "lingering")  # of a connection

# Counters of a service: the name of the Prometheus metric, and a description.
COUNTERS = {
    "accepted": ("connections_accepted_total", "connections accepted"),
    "rejected": ("connections_rejected_total", "connections rejected: too many from their address"),
    "answers": ("answers_total", "requests or lines answered"),
    "cache_hits": ("cache_hits_total", "requests answered from the response cache, also counted in answers"),
    "bad_requests": ("bad_requests_total", "malformed requests, also counted in answers"),
    "sent": ("sent_bytes_total", "bytes sent"),
    "long_wakes": ("long_wakes_total", "event loop iterations over 50 ms, spent mostly on this service"),
}

WAKE_CLOCKS = {"wall": "wall clock time", "cpu": "CPU time"}


@dataclass(frozen=True, slots=True)
class WakeHistogram:
    """Durations of event loop iterations. counts: by the upper bound of their bucket in seconds, "more" for longer ones;
    seconds: the sum; longest: the maximum, in seconds."""

    counts: dict[str, int]
    seconds: float
    longest: float


@dataclass(frozen=True, slots=True)
class Status:
    """Totals over all workers. uptime: seconds; connections: open ones, by service and state; counters: since the start, by
    service and name; wakes: by clock, see WAKE_CLOCKS."""

    version: str
    uptime: float
    workers: int
    reloads: int
    reloads_failed: int
    connections: dict[str, dict[str, int]]
    counters: dict[str, dict[str, int]]
    log_lines_dropped: int
    wakes: dict[str, WakeHistogram]


# Formats


def as_text(status: Status) -> str:
    """Plain text."""
    lines = [
        f"rawservers {status.version}, up {timedelta(seconds=int(status.uptime))}, workers: {status.workers}",
        f"reloads: {status.reloads}, failed: {status.reloads_failed}; access log lines dropped: {status.log_lines_dropped}",
    ]
    if wakes := status.wakes["wall"].counts:
        over = sum(number for bound, number in wakes.items() if bound == "more" or float(bound) > LONG)
        longest = ", ".join(f"{1000 * status.wakes[clock].longest:,.1f} ms {name}" for clock, name in WAKE_CLOCKS.items())
        lines.append(f"event loop iterations: {sum(wakes.values()):,}, over 50 ms: {over:,}; longest: {longest}")
    for service, counters in status.counters.items():
        states = status.connections[service]
        detail = ", ".join(f"{state} {number}" for state, number in states.items() if number)
        lines += ["", service, f"{sum(states.values()):>15,}  connections open" + (f" ({detail})" if detail else "")]
        lines += [f"{counters[name]:>15,}  {description}" for name, (_, description) in COUNTERS.items() if counters.get(name)]
    return "\n".join(lines) + "\n"


def as_json(status: Status) -> str:
    """A JSON object with the fields of Status."""
    return json.dumps(asdict(status), indent=2) + "\n"


def as_prometheus(status: Status) -> str:
    """Prometheus' text-based exposition format, version 0.0.4."""
    lines: list[str] = []
    for name, kind, description, samples in _metrics(status):
        lines += [f"# HELP rawservers_{name} {description}", f"# TYPE rawservers_{name} {kind}"]
        lines += [f"rawservers_{name}{labels} {number}" for labels, number in samples]
    return "\n".join(lines) + "\n"


def _metrics(status: Status) -> Iterator[tuple[str, str, str, list[tuple[str, float]]]]:
    """Name, type, description, and samples (a suffix or labels, and a value)."""
    yield "build_info", "gauge", "Version of the server.", [(f'{{version="{status.version}"}}', 1)]
    yield "uptime_seconds", "gauge", "Seconds since the start.", [("", status.uptime)]
    yield "workers", "gauge", "Worker processes.", [("", status.workers)]
    yield "reloads_total", "counter", "Successful reloads.", [("", status.reloads)]
    yield "reloads_failed_total", "counter", "Failed reloads.", [("", status.reloads_failed)]
    yield "log_lines_dropped_total", "counter", "Access log lines dropped.", [("", status.log_lines_dropped)]
    for clock, wakes in status.wakes.items():
        name = "wake_duration" if clock == "wall" else "wake_cpu"
        description = f"event loop iterations, {WAKE_CLOCKS[clock]}."
        yield f"{name}_seconds", "histogram", f"Duration of {description}", list(_samples(wakes))
        yield f"{name}_max_seconds", "gauge", f"Maximum duration of {description}", [("", wakes.longest)]
    states = [
        (f'{{service="{service}",state="{state}"}}', float(number))
        for service, by_state in status.connections.items()
        for state, number in by_state.items()
    ]
    yield "connections", "gauge", "Open connections by state.", states
    for key, (name, description) in COUNTERS.items():
        samples = [(f'{{service="{s}"}}', float(counters[key])) for s, counters in status.counters.items() if key in counters]
        if samples:
            yield name, "counter", f"{description.capitalize()}.", samples


def _samples(wakes: WakeHistogram) -> Iterator[tuple[str, float]]:
    """The samples of a histogram, whose buckets are cumulative."""
    total = 0
    for bound, number in wakes.counts.items():
        total += number
        yield f'_bucket{{le="{"+Inf" if bound == "more" else bound}"}}', total
    yield "_sum", wakes.seconds
    yield "_count", total


class StatusFormat(NamedTuple):
    """path: of the request; content_type, render: of the response."""

    path: str
    content_type: str
    render: Callable[[Status], str]


FORMATS = {
    "text": StatusFormat("/", "text/plain; charset=utf-8", as_text),
    "json": StatusFormat("/json", "application/json", as_json),
    "prometheus": StatusFormat("/metrics", "text/plain; version=0.0.4; charset=utf-8", as_prometheus),
}


class StatusHandler(Responder):
    """Responses to status requests."""

    def __init__(self, get_status: Callable[[], Status]) -> None:
        super().__init__()
        self._get_status = get_status

    def respond(self, request: Request) -> PreparedResponse:
        """The status page. Raises HTTPError if the target is malformed."""
        if request.method not in {"GET", "HEAD"}:
            return PreparedResponse(error_response(405, "The status is read-only.", [("Allow", "GET, HEAD")]), request)
        path = request.path
        if path == "/" and "application/json" in request.fields.get("accept", ""):
            path = "/json"
        for form in FORMATS.values():
            if path == form.path:
                request.steps = HANDLER_STEPS  # _get_status iterates over all connections
                headers = [("Content-Type", form.content_type), ("Cache-Control", "no-store")]
                return PreparedResponse(Response(200, headers, form.render(self._get_status()).encode()), request)
        return PreparedResponse(error_response(404, "The status is at /, /json and /metrics."), request)

    def start(self, peer: Peer) -> Protocol:
        return Conversation(peer, self)


def fetch(address: str, form: str) -> str:
    """The status of the server whose status service listens on `address`, in one of FORMATS.

    Raises OSError, also if the response is no status, and ValueError for a malformed address.
    """
    endpoint = Endpoint.parse(address)
    path, content_type, _ = FORMATS[form]
    with contextlib.ExitStack() as stack:
        if endpoint.path is None:
            sock = stack.enter_context(socket.create_connection((endpoint.host or "localhost", endpoint.port), TIMEOUT))
        else:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(TIMEOUT)
            sock.connect(endpoint.path)
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = stack.enter_context(sock.makefile("rb")).read().partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if " 200 " not in lines[0] or f"Content-Type: {content_type}" not in lines:
        raise OSError(f"not a status service: {lines[0]!r}")
    return body.decode()
