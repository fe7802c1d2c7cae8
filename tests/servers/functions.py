"""A server with answers in code, one of which takes its time in a thread. For the live test of them.

python3 -m tests.servers.functions
"""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from rawservers import Config, ListenConfig, Request, Response, serve

pool = ThreadPoolExecutor()
go_on = threading.Event()


def echo(request: Request) -> Response:
    return Response(200, [("Content-Type", "application/octet-stream")], request.body)


def slow(request: Request) -> Future[Response]:
    def work() -> Response:
        go_on.wait(20)
        return Response(200, [("Content-Type", "text/plain")], b"at last\n")

    return pool.submit(work)


def release(request: Request) -> Response:
    go_on.set()
    return Response(204)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    handlers = (("/echo", echo), ("/slow", slow), ("/release", release))
    serve(Config(listen=(ListenConfig("http", "127.0.0.1:0"),), handlers=handlers, log_format="json"))
