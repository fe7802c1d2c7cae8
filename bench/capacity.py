"""How many nodes so many clients need, and how loaded they are: python3 -m bench.capacity [REQUESTS CONNECTS BYTES]

A simulation of nodes behind HAProxy, second by second, with each connection's end drawn by chance, from a fixed seed. The
arguments are one node's own figures. The table is in docs/benchmarks.md, with what is assumed.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.report import table

CLIENTS = (1000, 10_000, 100_000, 1_000_000)
RATE = 1.0  # requests per second of a client, on the one connection that it keeps
SESSION = 300.0  # seconds that a connection lasts, on average; then the client makes another at once
BACKOFF = 10.0  # seconds within which a client whose connection broke connects again, at random
SHARE = 0.5  # of a node's peak that is planned for
MOST = 50_000  # connections planned for a node: HAProxy has 64,000 ports for each pair of addresses

# Seconds. What is open at the end of the drain is closed; HAProxy notices a silent node by two checks; it is itself replaced.
DRAIN, STOP, BACK, LOSE, NOTICE, REPLACE, END = 60, 120, 150, 210, 214, 270, 300
PHASES = {"at rest": range(DRAIN), "drained": range(DRAIN, LOSE), "lost": range(LOSE, REPLACE), "HAProxy": range(REPLACE, END)}


class Node(NamedTuple):
    """One worker on a processor of its own. requests, connects: its peak of either per second; each: bytes per connection."""

    requests: float = 100_000
    connects: float = 20_000
    each: float = 1500


class Outcome(NamedTuple):
    """loads: by phase, the highest load of any node, 1 if all its time is taken; silent: connections of the lost node."""

    nodes: int
    loads: dict[str, float]
    silent: int


class Fleet:
    """connections, connects: of each node, open and new; taking: nodes that take new ones; ends[second][node]: how many end;
    returns[second]: how many come back."""

    def __init__(self, clients: int, nodes: int) -> None:
        self.chance = random.Random(1945)
        self.taking = set(range(nodes))
        self.connections, self.connects = [0] * nodes, [0] * nodes
        self.ends = [[0] * nodes for _ in range(END)]
        self.returns = [0] * (END + math.ceil(BACKOFF))
        self.connect(0, clients)

    def connect(self, second: int, count: int) -> None:
        """To the node with the fewest connections (HAProxy's leastconn)."""
        for _ in range(count):
            node = min(self.taking, key=self.connections.__getitem__)
            self.connections[node] += 1
            self.connects[node] += 1
            end = second + 1 + int(self.chance.expovariate(1 / SESSION))
            if end < END:
                self.ends[end][node] += 1

    def break_all(self, second: int, nodes: Iterable[int]) -> None:
        """All connections of these nodes break."""
        for node in nodes:
            for later in self.ends[second:]:
                later[node] = 0
            for _ in range(self.connections[node]):
                self.returns[second + int(self.chance.uniform(0, BACKOFF))] += 1
            self.connections[node] = 0

    def turn_over(self, second: int) -> None:
        """Sessions end, and clients connect."""
        ended = self.ends[second]
        self.connections = [held - gone for held, gone in zip(self.connections, ended, strict=True)]
        self.connects = [0] * len(ended)
        self.connect(second, sum(ended) + self.returns[second])


def plan(clients: int, node: Node) -> int:
    """As many nodes as `SHARE` and `MOST` ask for, and one to lose."""
    return max(math.ceil(clients * RATE / (SHARE * node.requests)), math.ceil(clients / MOST)) + 1


def simulate(clients: int, node: Node) -> Outcome:
    """The first node is drained, the last one is lost."""
    nodes = plan(clients, node)
    fleet, loads, silent = Fleet(clients, nodes), dict.fromkeys(PHASES, 0.0), 0
    for second in range(END):
        if second in (DRAIN, LOSE):
            fleet.taking.discard(0 if second == DRAIN else nodes - 1)
        elif second == BACK:
            fleet.taking.add(0)
        elif second in (STOP, NOTICE, REPLACE):
            silent = fleet.connections[-1] if second == NOTICE else silent
            fleet.break_all(second, {STOP: [0], NOTICE: [nodes - 1]}.get(second, range(nodes)))
        fleet.turn_over(second)
        phase = next(name for name, seconds in PHASES.items() if second in seconds)
        taken = [fleet.connections[n] * RATE / node.requests + fleet.connects[n] / node.connects for n in fleet.taking]
        loads[phase] = max(loads[phase], *taken)
    return Outcome(nodes, loads, silent)


def report(node: Node, sizes: Sequence[int] = CLIENTS) -> str:
    """The table: what is planned, and the highest load of a node in each phase."""
    rows = []
    for clients in sizes:
        nodes, loads, silent = simulate(clients, node)
        planned = (f"{clients:,}", f"{nodes}", f"{clients / nodes:,.0f}", f"{clients / nodes * node.each / (1 << 20):.1f}")
        rows.append((*planned, *(f"{load:.0%}" for load in loads.values()), f"{silent:,}"))
    return table(("clients", "nodes", "each", "MiB", *PHASES, "silent"), rows)


if __name__ == "__main__":
    print(report(Node(*map(float, sys.argv[1:]))))
