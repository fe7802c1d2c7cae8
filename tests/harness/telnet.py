"""The Telnet conversation in this process, without a socket."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from rawservers.core.peer import Peer
from rawservers.core.protocol import Chunk, Deadline, Urgent
from rawservers.settings import Config
from rawservers.telnet.echo import EchoSession, echo
from rawservers.telnet.service import LineService
from rawservers.telnet.session import Session
from tests.harness.core import Waking

LONGEST_LINE = Config().longest_line
CHARACTERS = b"\xff\xfd\x01\xff\xfd\x03"  # the peer asks for character mode ...
GRANTED = b"\xff\xfb\x01\xff\xfb\x03"  # ... and gets it


def peer(wake: Callable[[], None] = lambda: None) -> Peer:
    return Waking(wake)


def unexpected(failure: Exception) -> None:
    """Raises what a service has raised, so that the test fails."""
    raise failure


def start(peer: Peer, service: LineService = echo, longest_line: int = LONGEST_LINE, **settings: Any) -> Session:
    if service is echo:
        return EchoSession(peer, longest_line=longest_line, **settings)
    return Session(peer, service, longest_line=longest_line, **{"on_failure": unexpected, **settings})


def conversation(answer: LineService = echo, **settings: Any) -> Session:
    return start(peer(), answer, **settings)


def in_character_mode(answer: LineService = echo, **settings: Any) -> Session:
    session = conversation(answer, **settings)
    session.receive(CHARACTERS)
    return session


def joined(chunks: Iterable[Chunk]) -> bytes:
    return b"".join(chunk for chunk in chunks if isinstance(chunk, bytes))


def resumed(session: Session) -> list[bytes]:
    """What it says in each of the turns that it wants."""
    out = []
    while session.waiting is Deadline.TURN:
        out.append(joined(session.resume()))
    return out


def said(session: Session, packets: Iterable[bytes]) -> bytes:
    return b"".join(joined(session.receive(packet)) + b"".join(resumed(session)) for packet in packets)


def neat(chunks: Sequence[Chunk]) -> bool:
    """No chunk is empty and no two neighbours could be one."""
    kinds = [type(chunk) for chunk in chunks]
    return all(chunks) and all(Urgent in pair for pair in pairwise(kinds))


def size_of(thing: object, seen: set[int]) -> int:
    """Bytes of memory that `thing` holds alone: no classes, functions, constants or what `seen` has already."""
    if id(thing) in seen or isinstance(thing, type) or callable(thing) or thing is None:
        return 0
    seen.add(id(thing))
    return sys.getsizeof(thing) + sum(size_of(part, seen) for part in gc.get_referents(thing))
