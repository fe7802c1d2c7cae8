"""Machines on one machine: network namespaces with links between them, and visitors that keep honest accounts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from tests.harness.load import Clients
from tests.harness.machine import enter_network
from tests.harness.needs import need, need_root, unable
from tests.harness.waiting import until


class Namespace:
    """A network namespace, with a process that does nothing but hold it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen([need("unshare"), "--net", "sleep", "infinity"])
        self.pid = self._holder.pid
        self.before = [need("nsenter"), f"--net=/proc/{self.pid}/ns/net", "--"]  # what a command that runs there begins with
        until(lambda: self._holder.poll() is not None or self._network() != os.readlink("/proc/self/ns/net"), "a namespace")
        if self._holder.poll() is not None:
            unable("this machine makes no network namespaces")
        self.run("ip", "link", "set", "lo", "up")

    def _network(self) -> str:
        return os.readlink(f"/proc/{self.pid}/ns/net")

    def run(self, *command: str) -> str:
        """The output of a command that succeeds there."""
        return subprocess.run([*self.before, *command], stdout=subprocess.PIPE, check=True, text=True).stdout

    def enter(self) -> None:
        """Bring this thread there, for the rest of its life."""
        enter_network(self.pid)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


@contextlib.contextmanager
def namespaces(*links: tuple[str, str, str, str]) -> Iterator[Mapping[str, Namespace]]:
    """Namespaces by name. links: of each the name and the address, with its prefix, of both ends."""
    need_root("make network namespaces")
    with contextlib.ExitStack() as stack:
        found: dict[str, Namespace] = {}
        for number, (one, address, other, peer) in enumerate(links):
            for name in {one, other} - found.keys():
                found[name] = Namespace()
                stack.callback(found[name].close)
            link, ends = f"link{number}", (str(found[one].pid), str(found[other].pid))
            pair = [link, "netns", ends[0], "type", "veth", "peer", "name", link, "netns", ends[1]]
            if subprocess.run([need("ip"), "link", "add", *pair]).returncode:
                unable("this machine makes no veth pairs")
            for name, own in ((one, address), (other, peer)):
                found[name].run("ip", "address", "add", own, "dev", link)
                found[name].run("ip", "link", "set", link, "up")
        yield found


class Loss(NamedTuple):
    """A visit that has failed. began, ended: on the monotonic clock."""

    visit: str
    began: float
    ended: float
    why: str


class Visitors(Clients):
    """Threads that each make one of these visits again and again. begin: called by each thread first."""

    def __init__(self, begin: Callable[[], None], visits: Sequence[Callable[[], None]]) -> None:
        self.losses: list[Loss] = []
        self._begin = begin
        super().__init__([partial(self._visit, *row) for row in enumerate(visits)])

    def _visit(self, number: int, visit: Callable[[], None]) -> None:
        self._begin()
        while not self._over.is_set():
            began = time.monotonic()
            try:
                visit()
                self._done[number] += 1
            except (OSError, ValueError) as error:
                self.losses.append(Loss(visit.__qualname__, began, time.monotonic(), repr(error)))
