"""Real reverse proxies before a server: nginx and haproxy, each listening on a unix socket, with a pool of connections.

Requests are passed on as they come, with a field X-Proxy of their own. One that does not end in two seconds is given up.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.harness.needs import need
from tests.harness.waiting import DEADLINE, until

NGINX = """
daemon off; master_process off; pid {place}/pid; error_log {place}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {place}/1; proxy_temp_path {place}/2; fastcgi_temp_path {place}/3;
    uwsgi_temp_path {place}/4; scgi_temp_path {place}/5;
    client_header_timeout 2s; client_body_timeout 2s; keepalive_timeout 2s; lingering_timeout 1s; proxy_next_upstream off;
    upstream backend {{ server {host}:{port}; keepalive 16; }}
    server {{
        listen unix:{front};
        location / {{
            proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_request_buffering off;  # chunks are passed on as chunks
            proxy_set_header X-Proxy $request_id;
        }}
    }}
}}
"""
HAPROXY = """
defaults
    mode http
    timeout connect 20s
    timeout client 2s
    timeout http-request 2s
    timeout http-keep-alive 2s
    timeout server 6s
    http-reuse always
frontend front
    bind unix@{front}
    http-request set-header X-Proxy %[uuid()]
    default_backend back
backend back
    server s {host}:{port}
"""


@contextlib.contextmanager
def proxy(name: str, place: Path, backend: tuple[str, int]) -> Iterator[Path]:
    """The path of the unix socket of an nginx or a haproxy before `backend`, whose other files are in `place`."""
    program = need(name)
    place.mkdir()
    folder = Path(tempfile.mkdtemp(prefix="proxy-"))  # pytest's may be too long for a socket of haproxy, which adds to its name
    host, port = backend
    conf, front = place / "conf", folder / "front"
    conf.write_text({"nginx": NGINX, "haproxy": HAPROXY}[name].format(place=place, front=front, host=host, port=port))
    command = {"nginx": ["-e", str(place / "error.log"), "-c", str(conf)], "haproxy": ["-db", "-f", str(conf)]}[name]
    with (
        (place / "output").open("wb") as output,
        subprocess.Popen([program, *command], stdout=output, stderr=output) as process,
    ):
        try:
            until(lambda: process.poll() is not None or accepts(front), f"{name} listening")
            assert process.poll() is None, (place / "output").read_text()
            yield front
        finally:
            process.terminate()
            shutil.rmtree(folder, ignore_errors=True)


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(DEADLINE)
    sock.connect(str(path))
    return sock
