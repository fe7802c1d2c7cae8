"""Twisted's Telnet client: talk to HOST PORT, and write as JSON what was heard after each step.

python3 -m tests.harness.twisted_client HOST PORT

Twisted reads CR LF as LF.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from typing import Any

from twisted.conch.telnet import AYT, ECHO, IAC, NAWS, SGA, OptionRefused, TelnetProtocol, TelnetTransport
from twisted.internet import defer, protocol
from twisted.internet import reactor as installed_reactor

BINARY, STATUS = b"\0", b"\5"
DEADLINE = 10
reactor: Any = installed_reactor  # its interfaces are zope's, which mypy does not understand


class Person(TelnetProtocol):
    """Grants what it is asked for; `said` grows by what is heard."""

    transport: Any  # the TelnetTransport
    heard = b""
    waiting: tuple[bytes, defer.Deferred[None]] | None = None

    def enableRemote(self, option: bytes) -> bool:
        return option in (ECHO, SGA, BINARY)

    def enableLocal(self, option: bytes) -> bool:
        return option in (NAWS, BINARY)

    def disableRemote(self, option: bytes) -> None:
        pass

    def disableLocal(self, option: bytes) -> None:
        pass

    def connectionMade(self) -> None:
        talk(self).addErrback(lambda failure: steps.append(["failed", failure.getTraceback()])).addBoth(self.leave)

    def leave(self, _: object) -> None:
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if self.waiting and self.heard.endswith(self.waiting[0]):
            done, self.waiting = self.waiting[1], None
            done.callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        if reactor.running:
            reactor.stop()

    def say(self, data: bytes, end: bytes) -> defer.Deferred[None]:
        """Say `data` and hear all up to `end`."""
        self.heard = b""
        self.waiting = end, defer.Deferred()
        answer = self.waiting[1]
        self.transport.write(data)
        return answer


steps: list[list[str]] = []


@defer.inlineCallbacks
def talk(person: Person) -> Generator[Any, Any, None]:
    def say(data: bytes, end: bytes) -> Generator[Any, Any, None]:
        yield person.say(data, end)
        steps.append([data.decode("latin-1"), person.heard.decode("latin-1")])

    def agree(name: str, answer: Any) -> Generator[Any, Any, None]:
        try:
            yield answer
            steps.append([name, "agreed"])
        except OptionRefused:
            steps.append([name, "refused"])

    transport = person.transport
    yield from say(b"ab\x7fc\n", b"ac\n")
    yield from say("éяx\n".encode() + b"\xff\n", b"\xff\n")
    yield from agree("do STATUS", transport.do(STATUS))
    yield from agree("will NAWS", transport.will(NAWS))
    yield from agree("do BINARY", transport.do(BINARY))
    yield from agree("will BINARY", transport.will(BINARY))
    yield from say("яx\n".encode(), b"x\n")
    yield from agree("do ECHO", transport.do(ECHO))  # and SGA comes with it
    yield from say(b"ab\x7fc\n", b"\nac\n")
    steps.append(["SGA", transport.getOptionState(SGA).him.state])
    yield from agree("dont ECHO", transport.dont(ECHO))
    yield from say(b"ab\x7fc\n", b"ac\n")
    person.heard = b""
    person.waiting = b"[Yes]\n", defer.Deferred()
    asked = person.waiting[1]
    transport._write(IAC + AYT)
    yield asked
    steps.append(["AYT", person.heard.decode("latin-1")])


class Factory(protocol.ClientFactory):
    def buildProtocol(self, address: object) -> TelnetTransport:
        return TelnetTransport(Person)  # type: ignore[no-untyped-call]

    def clientConnectionFailed(self, connector: object, reason: object) -> None:
        reactor.stop()


def give_up() -> None:
    steps.append(["failed", "in time"])
    reactor.stop()


if __name__ == "__main__":
    reactor.connectTCP(sys.argv[1], int(sys.argv[2]), Factory())
    reactor.callLater(DEADLINE, give_up)
    reactor.run()
    json.dump(steps, sys.stdout)
