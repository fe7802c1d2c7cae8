"""`http.version`: what a status line of HTTP/1.0 costs pools of connections, and that all else goes on under both versions."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests

from rawservers import status
from tests.harness.http_client import request, take_answer
from tests.harness.needs import need
from tests.harness.proxies import connect, proxy
from tests.harness.server import Server
from tests.harness.waiting import DEADLINE, until

CONTENT = b"content of f\n"
REQUESTS = 50

CONF = """
http.version = "{version}"
http.root = "{folder}"
log.access = "off"
[[listen]]
service = "http"
address = "127.0.0.1:0"
[[listen]]
service = "status"
address = "unix:status"
"""

NODE = """
const http = require("http");
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
function ask(left) {
    if (left === 0) { agent.destroy(); return; }
    http.get(process.argv[1], { agent }, (answer) => {
        let body = "";
        answer.on("data", (piece) => { body += piece; });
        answer.on("end", () => { process.stdout.write(body); ask(left - 1); });
    });
}
ask(Number(process.argv[2]));
"""


def with_httpx(server: Server, place: Path) -> bytes:
    with httpx.Client(timeout=DEADLINE, trust_env=False) as client:
        return b"".join(client.get(f"{server.url}/f").content for _ in range(REQUESTS))


def with_requests(server: Server, place: Path) -> bytes:
    with requests.Session() as session:
        session.trust_env = False
        return b"".join(session.get(f"{server.url}/f", timeout=DEADLINE).content for _ in range(REQUESTS))


def with_aiohttp(server: Server, place: Path) -> bytes:
    async def fetch() -> bytes:
        async with aiohttp.ClientSession() as session:
            said = b""
            for _ in range(REQUESTS):
                async with session.get(f"{server.url}/f") as answer:
                    said += await answer.read()
            return said

    return asyncio.run(fetch())


def run(*command: str | Path) -> bytes:
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def with_curl(server: Server, place: Path) -> bytes:
    return run(need("curl"), "--silent", "--noproxy", "*", *[f"{server.url}/f"] * REQUESTS)


def with_wget(server: Server, place: Path) -> bytes:
    return run(need("wget"), "--quiet", "--no-proxy", "-O", "-", *[f"{server.url}/f"] * REQUESTS)


def with_node(server: Server, place: Path) -> bytes:
    return run(need("node"), "-e", NODE, f"{server.url}/f", str(REQUESTS))


def through(name: str) -> Callable[[Server, Path], bytes]:
    """Requests on one connection to a proxy, one after the other."""

    def ask(server: Server, place: Path) -> bytes:
        said = b""
        with proxy(name, place / name, server.address("http")) as front, connect(front) as sock:
            for _ in range(REQUESTS):
                sock.sendall(request("/f", keep=True))
                said += take_answer(sock)[2]
        return said

    return ask


# Each client, and over how many connections it sends its requests under "1.0". Under "1.1" it is one.
CLIENTS = {
    "httpx": (with_httpx, REQUESTS),
    "nginx": (through("nginx"), REQUESTS),
    "haproxy": (through("haproxy"), 1),
    "requests": (with_requests, 1),
    "aiohttp": (with_aiohttp, 1),
    "curl": (with_curl, 1),
    "wget": (with_wget, 1),
    "node": (with_node, 1),
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("client", CLIENTS)
def test_connections_of_a_client(client: str, version: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text(CONF.format(version=version, folder=folder))

    def counters() -> dict[str, int]:
        found: dict[str, int] = json.loads(status.fetch(f"unix:{tmp_path}/status", "json"))["counters"]["http"]
        return found

    ask, connections = CLIENTS[client]
    with Server("-c", path) as server:
        assert ask(server, tmp_path) == CONTENT * REQUESTS
        until(lambda: counters()["answers"] == REQUESTS, "all are counted")
        assert counters()["accepted"] == (connections if version == "1.0" else 1)
