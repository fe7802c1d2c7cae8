"""Request smuggling: no byte of a body is taken for a request, whatever is wrong with what says where it ends."""

from __future__ import annotations

import random
import re
from collections import Counter

from rawservers.core.peer import Clock
from rawservers.core.protocol import Closing
from rawservers.http.request import Request
from rawservers.http.response import Response
from rawservers.settings import SiteConfig
from tests.harness.http import Client, router
from tests.harness.smuggling import attacks

LIMIT = 1000  # of a body, in bytes

# What is valid, said anew, of input that has arrived as a whole.
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
TEXT = rb"[\t -~\x80-\xff]*"
HEAD = re.compile(rb"(\w+) /first/\d+ HTTP/1\.([01])\r?\n((?:%b:%b\r?\n)*)\r?\n" % (TOKEN, TEXT))
EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|\"(?:[^\x00-\x08\n-\x1f\x7f\"\\]|\\[\t -~\x80-\xff])*\"))?" % (TOKEN, TOKEN)
CHUNK_LINE = re.compile(rb"(?=.{1,256}?\n)([0-9a-fA-F]{1,16})(?:%b)*\r\n" % EXTENSION, re.DOTALL)
TRAILERS = re.compile(rb"(?:%b:%b\r\n)*\r\n" % (TOKEN, TEXT))


def body_of(data: bytes) -> bytes | None:
    """The body of the first request, if it is whole and its end is in no doubt."""
    head = HEAD.match(data)
    fields: dict[bytes, list[bytes]] = {}
    for line in head[3].splitlines() if head else ():
        name, _, value = line.partition(b":")
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    if head is None or fields.get(b"host") != [b"h"]:
        return None
    codings, lengths = fields.get(b"transfer-encoding"), fields.get(b"content-length", [b"0"])
    if codings:
        valid = [coding.lower() for coding in codings] == [b"chunked"] and head[2] == b"1" and b"content-length" not in fields
        return data_of(data, head.end()) if valid and head[1] not in (b"GET", b"HEAD") else None
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]+", lengths[0]):
        return None
    size = int(lengths[0])
    body = data[head.end() : head.end() + size]
    return body if len(body) == size <= LIMIT and not (size and head[1] in (b"GET", b"HEAD")) else None


def data_of(data: bytes, start: int) -> bytes | None:
    """The data of the chunked body that begins at `start`."""
    body = b""
    while line := CHUNK_LINE.match(data, start):
        size = int(line[1], 16)
        start = line.end() + size + 2
        if size == 0:
            trailers = TRAILERS.match(data, line.end())
            return body if trailers and len(trailers[0]) < 10_000 else None
        body += data[line.end() : start - 2]
        if len(body) > LIMIT or data[start - 2 : start] != b"\r\n":
            return None
    return None


def test_no_byte_of_a_body_is_a_request(clock: Clock) -> None:
    calls: list[tuple[str, bytes]] = []

    def record(request: Request) -> Response:
        calls.append((request.target, request.body))
        return Response(200, body=request.target.encode())

    service = router(clock, SiteConfig("/nonexistent"), handlers=(("/", record),), body_limit=LIMIT)
    cuts = random.Random(0)
    seen: Counter[int] = Counter()
    for number, data in enumerate(attacks(4000, seed=9112)):
        calls.clear()
        client = Client(service, clock).send(data)
        body = body_of(data)
        assert calls[:1] == ([] if body is None else [(f"/first/{number}", body)]), (number, data)
        assert calls[1:] in ([], [(f"/after/{number}", b"")]), (number, data)
        called, statuses = len(calls), [reply.status for reply in client.replies()]
        assert statuses[:called] == [200] * called
        assert len(statuses) <= called + 1  # one that is refused is the last
        assert client.closing is not Closing.KEEP or len(statuses) == called
        seen.update(statuses[called:] or [200])
        at = cuts.randrange(1, len(data))
        for packets in ([data[:at], data[at:]], [data[i : i + 13] for i in range(0, len(data), 13)]):
            assert Client(service, clock).send(*packets).said == client.said, (number, data)
    assert all(seen[status] > 10 for status in (200, 400, 413, 501)), seen
