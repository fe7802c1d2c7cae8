"""The status service: metrics of the running server, over HTTP.

    curl --unix-socket /run/rawservers/status http://-/

A request gets plain text at /, JSON at /json (or with Accept: application/json), and Prometheus' exposition format at /metrics;
and at /sockets the table of all sockets, as JSON. `rawservers --status` is a client of it. The metrics are totals over all
workers, at most a second old.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from datetime import timedelta
from itertools import accumulate

from rawservers.core.bind import Endpoint
from rawservers.core.record import Record
from rawservers.core.wakes import LONG
from rawservers.http.request import Request
from rawservers.http.response import Response, error_response
from rawservers.sockets import Sockets, parse_json
from rawservers.sockets import as_json as as_table

TIMEOUT = 10  # seconds for a response

STATES = ("reading", "busy", "sending", "idle", "lingering")  # of a connection

# Counters of a service: the name of the Prometheus metric, and a description.
COUNTERS = {
    "accepted": ("connections_accepted_total", "connections accepted"),
    "rejected": (
        "connections_rejected_total",
        "connections rejected: too many from their address, or no valid PROXY header or TLS handshake",
    ),
    "answers": ("answers_total", "requests or lines answered"),
    "cache_hits": ("cache_hits_total", "requests answered from the response cache, also counted in answers"),
    "bad_requests": ("bad_requests_total", "malformed requests, also counted in answers"),
    "sent": ("sent_bytes_total", "bytes sent"),
    "long_wakes": ("long_wakes_total", "event loop iterations over 50 ms, spent mostly on this service"),
}

# Clocks that measure the wakes: the name of the Prometheus metric, and a description.
WAKE_CLOCKS = {"wall": ("wake_duration", "wall clock time"), "cpu": ("wake_cpu", "CPU time")}


class WakeHistogram(Record):
    """Durations of event loop iterations. counts: by the upper bound of their bucket in seconds, "more" for longer ones;
    seconds: the sum; longest: the maximum, in seconds."""

    counts: dict[str, int]
    seconds: float
    longest: float


class Status(Record):
    """Totals over all workers. process: the id of the supervisor's; uptime: seconds; connections: open ones, by service and
    state; counters: since the start, by service and name; wakes: by clock, see WAKE_CLOCKS."""

    version: str
    process: int
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
    wakes = status.wakes["wall"].counts
    over = sum(number for bound, number in wakes.items() if bound == "more" or float(bound) > LONG)
    longest = ", ".join(f"{1000 * status.wakes[clock].longest:,.1f} ms {name}" for clock, (_, name) in WAKE_CLOCKS.items())
    uptime = timedelta(seconds=int(status.uptime))
    lines = [
        f"rawservers {status.version}, process {status.process}, up {uptime}, workers: {status.workers}",
        f"reloads: {status.reloads}, failed: {status.reloads_failed}; access log lines dropped: {status.log_lines_dropped}",
        f"event loop iterations: {sum(wakes.values()):,}, over 50 ms: {over:,}; longest: {longest}",
    ]
    for service, counters in status.counters.items():
        states = status.connections[service]
        detail = ", ".join(f"{state} {number}" for state, number in states.items() if number)
        lines += ["", service, f"{sum(states.values()):>15,}  connections open{f' ({detail})' if detail else ''}"]
        lines += [f"{counters[name]:>15,}  {description}" for name, (_, description) in COUNTERS.items() if counters[name]]
    return "\n".join([*lines, ""])


def as_json(status: Status) -> str:
    """A JSON object with the fields of Status."""
    import json

    return json.dumps(vars(status), indent=2, default=vars) + "\n"


def as_prometheus(status: Status) -> str:
    """Prometheus' text-based exposition format, version 0.0.4."""
    lines: list[str] = []
    for name, kind, description, samples in _metrics(status):
        lines += [f"# HELP rawservers_{name} {description}", f"# TYPE rawservers_{name} {kind}"]
        lines += [f"rawservers_{name}{labels} {number}" for labels, number in samples.items()]
    return "\n".join([*lines, ""])


def _metrics(status: Status) -> Iterator[tuple[str, str, str, Mapping[str, float]]]:
    """Name, type, description, and samples: the value by suffix or labels."""
    yield "build_info", "gauge", "Version of the server.", {f'{{version="{status.version}"}}': 1}
    yield "uptime_seconds", "gauge", "Seconds since the start.", {"": status.uptime}
    yield "workers", "gauge", "Worker processes.", {"": status.workers}
    yield "reloads_total", "counter", "Successful reloads.", {"": status.reloads}
    yield "reloads_failed_total", "counter", "Failed reloads.", {"": status.reloads_failed}
    yield "log_lines_dropped_total", "counter", "Access log lines dropped.", {"": status.log_lines_dropped}
    for clock, (name, measured) in WAKE_CLOCKS.items():
        wakes, description = status.wakes[clock], f"event loop iterations, {measured}."
        buckets = [f'_bucket{{le="{bound}"}}'.replace("more", "+Inf") for bound in wakes.counts]
        samples = dict(zip(buckets, accumulate(wakes.counts.values()), strict=True))  # they are cumulative
        totals = {"_sum": wakes.seconds, "_count": sum(wakes.counts.values())}
        yield f"{name}_seconds", "histogram", f"Duration of {description}", {**samples, **totals}
        yield f"{name}_max_seconds", "gauge", f"Maximum duration of {description}", {"": wakes.longest}
    states = [(service, state) for service in status.connections for state in STATES]
    numbers = {f'{{service="{service}",state="{state}"}}': status.connections[service][state] for service, state in states}
    yield "connections", "gauge", "Open connections by state.", numbers
    for key, (name, description) in COUNTERS.items():
        counts = {f'{{service="{service}"}}': counters[key] for service, counters in status.counters.items()}
        yield name, "counter", f"{description.capitalize()}.", counts


# The formats: path of the request, content type of the response, and function that renders its content.
FORMATS = {
    "text": ("/", "text/plain; charset=utf-8", as_text),
    "json": ("/json", "application/json", as_json),
    "prometheus": ("/metrics", "text/plain; version=0.0.4; charset=utf-8", as_prometheus),
}


SOCKETS_PATH = "/sockets"
SOCKETS_HEADERS = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]


# HTTP


def respond(
    get_status: Callable[[], Status], get_sockets: Callable[[], Future[Sockets]], request: Request
) -> Response | Future[Response]:
    """The handler of the status service for GET, see http/router.py."""
    wants_json = request.path == "/" and "application/json" in request.fields.get("accept", "")
    for path, content_type, render in FORMATS.values():
        if path == ("/json" if wants_json else request.path):
            headers = [("Content-Type", content_type), ("Cache-Control", "no-store")]
            return Response(200, headers, render(get_status()).encode())
    if request.path == SOCKETS_PATH:
        return sockets_response(get_sockets())
    return error_response(404, "The status is at /, /json and /metrics, and the table of sockets at /sockets.")


def sockets_response(future: Future[Sockets]) -> Future[Response]:
    """The future of the response with this table."""
    response: Future[Response] = Future()

    def finish(done: Future[Sockets]) -> None:
        try:
            response.set_result(Response(200, SOCKETS_HEADERS, as_table(done.result()).encode()))
        except Exception as error:
            response.set_exception(error)

    future.add_done_callback(finish)
    return response


def fetch(address: str, form: str) -> str:
    """The status of the server whose status service listens on `address`, in one of FORMATS.

    Raises OSError, also if the response is no status, and ValueError for a malformed address.
    """
    path, content_type, _ = FORMATS[form]
    return _get(address, path, content_type)


def fetch_sockets(address: str) -> Sockets:
    """The table of sockets of the server whose status service listens on `address`. Raises OSError and ValueError."""
    return parse_json(_get(address, SOCKETS_PATH, "application/json"))


def _get(address: str, path: str, content_type: str) -> str:
    """The content at `path` of the status service on `address`. Raises OSError and ValueError."""
    endpoint = Endpoint.parse(address)
    host = endpoint.host or "localhost", endpoint.port
    sock = socket.socket(socket.AF_UNIX) if endpoint.path else socket.create_connection(host, TIMEOUT)
    with sock, sock.makefile("rb") as response:
        sock.settimeout(TIMEOUT)
        if endpoint.path:
            sock.connect(endpoint.path)
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = response.read().decode(errors="replace").partition("\r\n\r\n")
    lines = head.split("\r\n")
    if " 200 " not in lines[0] or f"Content-Type: {content_type}" not in lines:
        raise OSError(f"not a status service: {lines[0]!r}")
    return body
