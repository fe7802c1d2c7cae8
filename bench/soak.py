"""A soak: python3 -m bench.soak [--minutes M] [--reload S]

Two workers serve honest clients beside hostile ones of every kind, for a quarter of an hour, and are reloaded once a minute. In
the end the clients leave, and the server must hold what it held in the beginning. The exit status is 1 if it does not, if an
honest client has failed, or if there is a line in its error log that nothing explains.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import honest, hostile
from bench.faults import MARGIN, apart, ask_status, fill, hear, ours, samples
from bench.honest import PATIENCE, Record
from bench.install import forget_python_settings
from bench.load import Failed
from bench.process import raise_descriptor_limit, resident, sockets, tree
from bench.report import MIB
from bench.servers import OURS, Peer, Running, free_port, running, strange
from rawservers.daemon import control
from rawservers.daemon.startup import CannotStart
from rawservers.daemon.transitions import MAX_RETIRING

CLIENTS = 40  # hostile ones
GROWTH = 48 * MIB  # of a worker's memory: the caches of responses and files fill, with at most 32 MiB of responses
SUPERVISOR_GROWTH = 3 * MIB  # it has no caches
SETTLED = 60.0  # seconds for the last old workers to exit
CONFIG = "[limits]\nconnections = 2000\n"
# What an attack or a busy machine may bring about.
EXPLAINED = re.compile(
    r"reloading$|http connection from .* lost: |access log: |the event loop was blocked for |"
    r"connection from 127\.0\.1\.\d+:\d+ closed: no TLS handshake in time$"  # a hostile one, by its address
)


class Held(NamedTuple):
    """By the server: processes, their open descriptors without those of served files, which are a cache, and their sockets;
    bytes of memory of the largest, and of the supervisor."""

    processes: int
    descriptors: int
    sockets: int
    memory: int
    supervisor: int

    @classmethod
    def by(cls, pid: int) -> Held:
        pids = list(tree(pid))
        descriptors = 0
        for each in pids:
            for entry in Path(f"/proc/{each}/fd").glob("*"):
                with contextlib.suppress(OSError):
                    descriptors += "/www/" not in os.readlink(entry)
        return cls(len(pids), descriptors, sum(map(sockets, pids)), max(map(resident, pids)), resident(pid))

    def exceeds(self, other: Held) -> bool:
        if any(now > before for now, before in zip(self[:3], other[:3], strict=True)):
            return True
        return self.memory > other.memory + GROWTH or self.supervisor > other.supervisor + SUPERVISOR_GROWTH


def warm_up(server: Running, ports: dict[str, int]) -> None:
    """Let each worker open what it keeps open."""
    for client in honest.CLIENTS.values():
        client(ports[client.service]).run(20 * honest.EVERY)


def soak(server: Running, ports: dict[str, int], seconds: float, reload_every: float, clients: int) -> Iterator[str]:
    """Yields what is wrong. clients: hostile ones."""
    warm_up(server, ports)
    before = Held.by(server.pid)
    crowd = hostile.together([name for name in hostile.kinds() if name != "idle"], clients)
    reloads = 0
    with contextlib.ExitStack() as stack:

        def start(target, *said):  # type: ignore[no-untyped-def]
            pipe = stack.enter_context(apart(target, *said))
            hear(pipe, MARGIN)
            pipe.send("begin")
            return pipe

        friends = {name: start(honest.ask, name, ports[client.service], seconds) for name, client in honest.CLIENTS.items()}
        enemies = start(hostile.attack, crowd, ports, seconds + PATIENCE)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(reload_every, left))
            if left > reload_every:
                control.reload(server.pid)
                reloads += 1
        records: dict[str, Record] = {name: hear(pipe, PATIENCE + MARGIN) for name, pipe in friends.items()}
        enemies.send("end")
        done = hear(enemies, MARGIN)
    until = time.monotonic() + SETTLED
    while (after := Held.by(server.pid)).exceeds(before) and time.monotonic() < until:
        time.sleep(0.5)
    load = os.getloadavg()[0]
    print(f"- {seconds:g} s, {reloads} reloads, load average {load:.1f}")
    print(f"- hostile: {done.connected:,} connections, {done.sent / 1e6:,.0f} MB")
    for name, record in records.items():
        p99 = honest.percentile(record.seconds, 99) or 0.0
        print(f"- {name}: {len(record.seconds):,} answered, {record.failed.total()} failed, p99 {1000 * p99:,.0f} ms")
        # The oldest of too many retired workers are told to stop, and end their sessions.
        ended = record.failed.pop("closed", 0) if name == "Telnet line" else 0
        if record.failed or ended > max(0, reloads - MAX_RETIRING):
            yield f"{name} has failed: {dict(record.failed)}, {ended} sessions were ended"
    print(f"- before: {before}\n- after:  {after}")
    if after.exceeds(before):
        yield "it holds more than before"
    until = time.monotonic() + SETTLED
    while (found := samples(ask_status(server.place.own / "status"))).get(
        "rawservers_connections", 0.0
    ) > 1:  # the one that asks
        if time.monotonic() > until:
            yield f"{found['rawservers_connections']:g} connections are counted"
            break
        time.sleep(0.5)  # workers count once a second
    if (reloaded := found.get("rawservers_reloads_total", 0.0)) != reloads:
        yield f"{reloaded:g} reloads are counted"
    said = (server.place.own / "output").read_text(errors="replace")
    for line in [line for line in strange(said) if not EXPLAINED.match(line)][:20]:
        yield f"in the error log: {line[:200]}"


def main() -> int:
    """The exit status: 1 if anything is wrong."""
    parser = argparse.ArgumentParser("python3 -m bench.soak", description="honest and hostile clients, and reloads, for long")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--reload", type=float, default=60.0, metavar="SECONDS", help="between two reloads")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="hostile ones")
    said = parser.parse_args()
    forget_python_settings()
    raise_descriptor_limit()
    telnet, https = free_port(), free_port()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        fill(base / "www")
        peer = Peer(lambda place: [*ours(place, telnet, CONFIG, https), "--workers", 2])
        try:
            with running(OURS, peer, base) as server:
                wrong = list(
                    soak(
                        server,
                        {"http": server.place.port, "telnet": telnet, "https": https},
                        60 * said.minutes,
                        said.reload,
                        said.clients,
                    )
                )
        except (CannotStart, Failed) as error:
            wrong.append(str(error))
    print("\n".join(f"WRONG: {line}" for line in wrong) or "nothing is wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
