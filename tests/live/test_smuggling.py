"""Request smuggling through real proxies with a pool of connections to this server: each request that it handles is one that
the proxy has sent, and each client gets the answers to its own.

A proxy adds a field to each request that it passes on, with a number of its own: a request without it was cut out of a body. A
body that swallows the next request would leave somebody without an answer, or with that of somebody else.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness.proxies import connect, proxy
from tests.harness.server import Server
from tests.harness.smuggling import attacks
from tests.harness.sockets import receive_all

AT_A_TIME = 128


def attack(front: Path, data: bytes) -> bytes:
    """All that the proxy says to it, until it closes."""
    with connect(front) as sock, suppress(ConnectionError):
        sock.sendall(data)
        return receive_all(sock)
    return b""


def probe(front: Path, number: int) -> None:
    """A request as it should be gets its answer, over connections that others have used."""
    path = f"/probe/{number}"
    said = attack(front, f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    assert re.match(rb"HTTP/1\.[01] 200 ", said), (path, said)
    assert said.endswith(b"\r\n\r\n" + path.encode()), said


@pytest.mark.parametrize(
    ("version", "count"), [("1.1", 300), *(pytest.param(version, 2000, marks=pytest.mark.slow) for version in ("1.0", "1.1"))]
)
@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_through_a_proxy(name: str, version: str, count: int, tmp_path: Path) -> None:
    sent = list(attacks(count, seed=7230))
    with (
        Server(tmp_path / "calls", version, module="tests.servers.recording") as server,
        proxy(name, tmp_path / "proxy", server.address("http")) as front,
        ThreadPoolExecutor(AT_A_TIME) as pool,
    ):

        def go(number: int) -> list[str]:
            """The targets of the answers to an attack. A probe follows."""
            said = attack(front, sent[number])
            probe(front, number)
            return re.findall(r"\r\n\r\n(/[a-z]+/[0-9]+)", said.decode("latin-1"))

        answers = list(pool.map(go, range(len(sent))))
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    targets = [call["target"] for call in calls]
    assert [target for target in targets if target.startswith("/canary/")] == []
    assert all(re.fullmatch("[0-9a-f-]{32,36}", call["proxy"]) for call in calls)  # one, not two that were joined
    assert len({call["proxy"] for call in calls}) == len(calls)  # nothing is handled twice
    assert len(set(targets)) == len(targets)
    bodies = {call["target"]: call["body"].encode("latin-1") for call in calls}
    for number, own in enumerate(answers):
        assert own in ([], [f"/first/{number}"], [f"/after/{number}"], [f"/first/{number}", f"/after/{number}"]), sent[number]
        assert set(own) <= set(targets)
        rest = iter(sent[number].partition(b"\n\r\n")[2])
        assert all(byte in rest for byte in bodies.get(f"/first/{number}", b""))  # in this order; what it lacks is framing
        assert bodies.get(f"/after/{number}", b"") == bodies[f"/probe/{number}"] == b""
    assert sum(len(own) == 2 for own in answers) > count / 20
