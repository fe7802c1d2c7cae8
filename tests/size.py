"""The size of the package by room: python3 -m tests.size [TREE]... prints a table for each checkout (default: this one).

Counted are physical lines with code, and Python's tokens, without blanks, comments and docstrings. A room is a directory of the
package, or one of the files beside them.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
# An f-string is one token, as it is for Python 3.11; from 3.12 on it comes in pieces, of which the first counts.
FSTRING_START, FSTRING_END = (getattr(tokenize, f"FSTRING_{end}", -1) for end in ("START", "END"))
TOTAL = "total"


class Size(NamedTuple):
    """lines: physical ones with code; tokens: without those that only lay out."""

    lines: int = 0
    tokens: int = 0

    def plus(self, other: Size) -> Size:
        return Size(self.lines + other.lines, self.tokens + other.tokens)


def measure(source: str) -> Size:
    """The size of a module."""
    docstrings = set(docstring_lines(source))
    lines: set[int] = set()
    tokens = inside = 0  # inside: f-strings within f-strings
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT and token.start[0] not in docstrings:
            lines.update(range(token.start[0], token.end[0] + 1))
            tokens += inside == 0
            inside += (token.type == FSTRING_START) - (token.type == FSTRING_END)
    return Size(len(lines), tokens)


def docstring_lines(source: str) -> Iterator[int]:
    """The numbers of the lines of all docstrings: those of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert node.end_lineno is not None
            yield from range(node.lineno, node.end_lineno + 1)


def rooms(tree: Path = ROOT) -> dict[str, Size]:
    """The size of each room of the package in `tree`, and of all together as `TOTAL`."""
    package, found = tree / "rawservers", defaultdict[str, Size](Size)
    for path in sorted(package.rglob("*.py")):
        size = measure(path.read_text())
        for name in (path.relative_to(package).with_suffix("").parts[0], TOTAL):
            found[name] = found[name].plus(size)
    return dict(sorted(found.items(), key=lambda item: item[0] == TOTAL))


if __name__ == "__main__":
    for tree in map(Path, sys.argv[1:] or [str(ROOT)]):
        print(f"{tree}\n{'':12} {'lines':>7} {'tokens':>7}")
        for name, size in rooms(tree).items():
            print(f"{name:12} {size.lines:7,} {size.tokens:7,}")
