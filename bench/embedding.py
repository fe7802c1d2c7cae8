"""A server inside a program, started and stopped: python3 -m bench.embedding [CYCLES]

`rawservers.Server` beside the standard library's http.server in a thread, in turn in the same process: milliseconds for the
start, for the first answer, and for the stop. The exit status is 1 if the start or the stop of ours takes 20 ms, the median.
"""

from __future__ import annotations

import http.client
import statistics
import sys
import threading
import time
from collections import defaultdict
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from bench.process import ROOT
from rawservers import Server

BAR = 0.020  # seconds, for the start and for the stop of ours
CYCLES = 200


class Ours:
    def __init__(self) -> None:
        self._server = Server(ROOT, telnet="127.0.0.1:0")
        self._server.start()
        self.address = self._server.http_address
        self.stop = self._server.stop


class StandardLibrary:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(ROOT))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self.Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.address = self._server.server_address[:2]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def fetch(address: tuple[str, int]) -> None:
    connection = http.client.HTTPConnection(*address)
    connection.request("GET", "/LICENSE")
    assert connection.getresponse().read()
    connection.close()


def main() -> int:
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else CYCLES
    seconds: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(cycles):
        for kind in (Ours, StandardLibrary):
            marks = [time.perf_counter()]
            server = kind()
            marks.append(time.perf_counter())
            fetch(server.address)
            marks.append(time.perf_counter())
            server.stop()
            marks.append(time.perf_counter())
            for step, since, until in zip(("start", "answer", "stop"), marks, marks[1:], strict=False):
                seconds[kind.__name__, step].append(until - since)
    for (name, step), times in seconds.items():
        print(f"{name:16} {step:7} median {statistics.median(times) * 1e3:7.2f} ms, highest {max(times) * 1e3:7.2f} ms")
    return int(any(statistics.median(seconds["Ours", step]) >= BAR for step in ("start", "stop")))


if __name__ == "__main__":
    sys.exit(main())
