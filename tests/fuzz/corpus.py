"""The inputs that fuzzing begins with: those of the wire vectors, and of the files in inputs/, a line for each.

Where a target cuts its input, the first two bytes say where.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.harness import wire

INPUTS = Path(__file__).parent / "inputs"
CUT = b"\x80\x40"
MAX_SEED = 3000  # bytes of a vector that is taken


def parts(data: bytes) -> tuple[list[bytes], int]:
    """The rest of `data` in the parts that its first two bytes cut it into; and a number from 1 to 16."""
    places = sorted(len(data[2:]) * each // 256 for each in data[:2])
    cut = [data[2:][begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]
    return [part for part in cut if part], 1 + (data[0] % 16 if data else 0)


def seeds(name: str) -> list[bytes]:
    """Of the target with this name."""
    path = INPUTS / f"{name}.txt"
    written = [ast.literal_eval(line) for line in path.read_text().splitlines()] if path.exists() else []
    from_vectors = FROM_VECTORS.get(name, lambda: iter(()))
    return [data for data in dict.fromkeys([*written, *from_vectors()]) if len(data) <= MAX_SEED]


def requests() -> Iterator[bytes]:
    for case in wire.load("http") + wire.load("http_files"):
        if "repeat" not in case:
            yield wire.unescape(case["send"])


def field_lines() -> Iterator[bytes]:
    """The header lines about a file."""
    for data in requests():
        lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        yield b"\n".join(line for line in lines if line[:1] in b"AIR")


def paths() -> Iterator[bytes]:
    for data in requests():
        words = data.split(b" ", 2)
        if len(words) == 3:
            yield b"\0" + words[1]


def packets() -> Iterator[bytes]:
    for case in wire.load("telnet"):
        yield CUT + b"\0" + b"".join(map(wire.unescape, case["in"]))


def bodies() -> Iterator[bytes]:
    for case in wire.load("chunked"):
        if "repeat" not in case:
            yield CUT + wire.unescape(case["send"])


FROM_VECTORS: dict[str, Callable[[], Iterator[bytes]]] = {
    "head": lambda: (CUT + data for data in requests()),
    "chunked": bodies,
    "conversation": lambda: (CUT + data for data in requests()),
    "fields": field_lines,
    "path": paths,
    "telnet": packets,
    "proxy": lambda: (CUT + wire.unescape(case["send"]) for case in wire.load("proxy") if "repeat" not in case),
}
