"""The third service: what the server is doing, told to whoever may reach its socket.

It is spoken over HTTP, so that `curl --unix-socket /run/rawservers/status http://-/` and Prometheus can ask as well as
`rawservers --status`. There are three forms of the same figures: text for people, JSON (/json, or by Accept) for programs, and
Prometheus' exposition format (/metrics). They are summed over all workers, and no older than a second.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta

from rawservers.core.bind import Endpoint
from rawservers.core.peer import Peer
from rawservers.core.protocol import Protocol
from rawservers.core.wakes import LONG
from rawservers.http.conversation import Conversation
from rawservers.http.request import Request
from rawservers.http.response import CommonHeaders, PreparedResponse, Response, error_response
from rawservers.http.router import HANDLER_STEPS

STATES = ("reading", "busy", "sending", "idle", "lingering")
COUNTED = {
    "accepted": "connections accepted",
    "rejected": "connections closed at once, because their address had too many",
    "answers": "requests or lines answered",
    "cache_hits": "of them, answered from memory",
    "bad_requests": "of them, not understood",
    "sent": "bytes sent",
    "long_wakes": "event loop iterations over 50 ms, spent mostly on it",
}
WAKES = {"wall": "wall clock", "cpu": "processor time"}
PATIENCE = 10  # seconds for an answer


@dataclass(frozen=True, slots=True)
class Wakes:
    """Durations of the event loops' iterations. counts: by the upper bound of a bucket in seconds, "more" for the rest;
    seconds: in all; longest: seconds."""

    counts: dict[str, int]
    seconds: float
    longest: float


@dataclass(frozen=True, slots=True)
class Status:
    """What is told. uptime: seconds; connections: by service and state; counted: since the start, by service and name; wakes:
    by a key of WAKES."""

    version: str
    uptime: float
    workers: int
    reloads: int
    reloads_failed: int
    connections: dict[str, dict[str, int]]
    counted: dict[str, dict[str, int]]
    log_lines_dropped: int
    wakes: dict[str, Wakes]


# The three forms


def as_text(status: Status) -> str:
    """For people."""
    lines = [
        f"rawservers {status.version}, up {timedelta(seconds=int(status.uptime))}, workers: {status.workers}",
        f"reloads: {status.reloads}, not taken: {status.reloads_failed}; access log lines dropped: {status.log_lines_dropped}",
    ]
    if wakes := status.wakes["wall"].counts:
        over = sum(number for bound, number in wakes.items() if bound == "more" or float(bound) > LONG)
        longest = ", ".join(f"{1000 * status.wakes[kind].longest:,.1f} ms {meaning}" for kind, meaning in WAKES.items())
        lines.append(f"event loop iterations: {sum(wakes.values()):,}, over 50 ms: {over:,}; longest: {longest}")
    for service, counted in status.counted.items():
        states = status.connections[service]
        what = ", ".join(f"{state} {number}" for state, number in states.items() if number)
        lines += ["", service, f"{sum(states.values()):>15,}  connections open" + (f" ({what})" if what else "")]
        lines += [f"{counted[name]:>15,}  {meaning}" for name, meaning in COUNTED.items() if counted.get(name)]
    return "\n".join(lines) + "\n"


def as_json(status: Status) -> str:
    """For programs."""
    return json.dumps(asdict(status), indent=2) + "\n"


def as_prometheus(status: Status) -> str:
    """For Prometheus, in its text-based exposition format, version 0.0.4."""
    lines: list[str] = []
    for name, kind, meaning, samples in _metrics(status):
        lines += [f"# HELP rawservers_{name} {meaning}", f"# TYPE rawservers_{name} {kind}"]
        lines += [f"rawservers_{name}{labels} {number}" for labels, number in samples]
    return "\n".join(lines) + "\n"


def _metrics(status: Status) -> Iterator[tuple[str, str, str, list[tuple[str, float]]]]:
    yield "info", "gauge", "The version that runs.", [(f'{{version="{status.version}"}}', 1)]
    yield "uptime_seconds", "gauge", "Seconds since the start.", [("", status.uptime)]
    yield "workers", "gauge", "Processes that serve.", [("", status.workers)]
    yield "reloads_total", "counter", "Reloads that came to a good end.", [("", status.reloads)]
    yield "reloads_failed_total", "counter", "Reloads that were not taken.", [("", status.reloads_failed)]
    yield "log_lines_dropped_total", "counter", "Access log lines that nobody took.", [("", status.log_lines_dropped)]
    for kind, wakes in status.wakes.items():
        name = "wake_seconds" if kind == "wall" else "wake_cpu_seconds"
        yield name, "histogram", f"Duration of event loop iterations, {WAKES[kind]}.", list(_histogram(wakes))
        yield f"{name}_max", "gauge", f"Longest event loop iteration, {WAKES[kind]}.", [("", wakes.longest)]
    states = [
        (f'{{service="{service}",state="{state}"}}', float(number))
        for service, by_state in status.connections.items()
        for state, number in by_state.items()
    ]
    yield "connections", "gauge", "Connections open, by what they do.", states
    for name, meaning in COUNTED.items():
        found = [(f'{{service="{s}"}}', float(counted[name])) for s, counted in status.counted.items() if name in counted]
        if found:
            yield f"{name}_total", "counter", f"{meaning.capitalize()}.", found


def _histogram(wakes: Wakes) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, number in wakes.counts.items():
        total += number
        yield f'_bucket{{le="{"+Inf" if bound == "more" else bound}"}}', total
    yield "_sum", wakes.seconds
    yield "_count", total


FORMS: dict[str, tuple[str, str, Callable[[Status], str]]] = {
    "text": ("/", "text/plain; charset=utf-8", as_text),
    "json": ("/json", "application/json", as_json),
    "prometheus": ("/metrics", "text/plain; version=0.0.4; charset=utf-8", as_prometheus),
}


class Page:
    """The Responder of the status service, see http/conversation.py. look: returns the present Status."""

    def __init__(self, look: Callable[[], Status]) -> None:
        self.common_headers = CommonHeaders()
        self._look = look

    def lookup(self, data: bytes) -> None:
        return None  # never cached

    def max_body(self, request: Request) -> int:
        return 0

    def respond(self, request: Request) -> PreparedResponse:
        """The status page. Raises HTTPError if the target is malformed."""
        if request.method not in {"GET", "HEAD"}:
            return PreparedResponse(error_response(405, "The status page can only be read.", [("Allow", "GET, HEAD")]), request)
        path = request.path
        if path == "/" and "application/json" in request.fields.get("accept", ""):
            path = "/json"
        for place, kind, form in FORMS.values():
            if path == place:
                request.steps = HANDLER_STEPS  # it counts all connections
                headers = [("Content-Type", kind), ("Cache-Control", "no-store")]
                return PreparedResponse(Response(200, headers, form(self._look()).encode()), request)
        return PreparedResponse(error_response(404, "The status is available at /, /json and /metrics."), request)

    def prepare(self, request: Request, future: object) -> PreparedResponse:
        raise AssertionError("respond returns no future")

    def start(self, peer: Peer) -> Protocol:
        return Conversation(peer, self)


def ask(address: str, form: str) -> str:
    """What the server whose status service listens on `address` says of itself, in one of FORMS. OSError if it does not."""
    endpoint = Endpoint.parse(address)
    place, kind, _ = FORMS[form]
    with contextlib.ExitStack() as stack:
        if endpoint.path is None:
            sock = stack.enter_context(socket.create_connection((endpoint.host or "localhost", endpoint.port), PATIENCE))
        else:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(PATIENCE)
            sock.connect(endpoint.path)
        sock.sendall(f"GET {place} HTTP/1.0\r\n\r\n".encode())
        head, _, body = stack.enter_context(sock.makefile("rb")).read().partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if " 200 " not in lines[0] or f"Content-Type: {kind}" not in lines:
        raise OSError(f"what answers there is no status: {lines[0]!r}")
    return body.decode()
