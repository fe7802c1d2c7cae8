"""A server whose one function writes a line of JSON to FILE for each call, before it answers with the target. For tests behind
proxies.

python3 -m tests.servers.recording FILE HTTP-VERSION
"""

import json
import logging
import sys

from rawservers import Config, ListenConfig, Request, Response, serve


def record(request: Request) -> Response:
    call = {"target": request.target, "body": request.body.decode("latin-1"), "proxy": request.fields.get("x-proxy", "")}
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps(call) + "\n")
    return Response(200, [("Content-Type", "text/plain")], request.target.encode())


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    listen = (ListenConfig("http", "127.0.0.1:0"),)
    serve(Config(listen=listen, handlers=(("/", record),), access_log="off", http_version=sys.argv[2]))
