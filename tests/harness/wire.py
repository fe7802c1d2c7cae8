"""Wire vectors: what goes in and what must come out, as files, and every way to cut what goes in.

A vector file is TOML; bytes are written as Python writes them, in literal strings: 'abc\\r\\n\\xff'.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[1] / "vectors"


def load(name: str) -> list[dict[str, Any]]:
    """The cases of tests/vectors/NAME.toml, each a table as it stands in the file."""
    cases: list[dict[str, Any]] = tomllib.loads((VECTORS / f"{name}.toml").read_text())["case"]
    names = [case["name"] for case in cases]
    assert len(names) == len(set(names)), "two cases of one name"
    return cases


def unescape(text: str) -> bytes:
    """The bytes that a string of a vector file stands for."""
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """`data` whole, byte by byte, and split in two at every index; of long data, at a hundred indices all over."""
    yield [data] if data else []
    yield [data[i : i + 1] for i in range(len(data))]
    for i in range(1, len(data), 1 + len(data) // 1000 * 10):
        yield [data[:i], data[i:]]
