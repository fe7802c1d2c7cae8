"""The line on which each key of a TOML file stands. tomllib keeps no positions.

A statement is the fewest lines that parse by themselves; what it parses to says which keys stand there. This is slow, and done
only when there is a mistake to report.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeAlias

Keys: TypeAlias = "tuple[str | int, ...]"  # the way from the top of the file to a value; numbers lead into arrays
Lines: TypeAlias = "dict[Keys, int]"

AT = re.compile(r" \(at line (\d+), column (\d+)\)$")


def not_toml(path: str, text: str, error: Exception) -> str:
    """What tomllib says, with the line in front."""
    what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    at = AT.search(what)
    if at:
        return f"{path}:{at[1]}: not TOML: {what[: at.start()]}, at column {at[2]}"
    line = next((line for line, parsed in statements(text) if parsed is None), text.count("\n"))
    return f"{path}:{line}: not TOML: {what.removesuffix(' (at end of document)')}"


def statements(text: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Every statement: the number of its first line, and what it parses to; the last may be one that does not, None."""
    lines = text.split("\n")
    start = 0
    while start < len(lines):
        end, parsed = statement(lines, start)
        yield start + 1, parsed
        start = end


def statement(lines: list[str], start: int) -> tuple[int, dict[str, Any] | None]:
    """The statement that begins with the line of index `start`: the index behind it, and what it parses to."""
    for end in range(start + 1, len(lines) + 1):
        try:
            return end, tomllib.loads("\n".join(lines[start:end]))
        except (ValueError, RecursionError):
            continue
    return len(lines), None


def line_numbers(text: str) -> Lines:
    """The line on which each key stands, for a file that is TOML."""
    lines = text.split("\n")
    found: Lines = {(): 1}
    sizes: Counter[Keys] = Counter()  # of the arrays of tables so far
    table: Keys = ()
    for line, parsed in statements(text):
        if lines[line - 1].lstrip().startswith("["):
            table = opened(parsed or {}, sizes, found, line)
        else:
            note(parsed or {}, table, found, line)
    return found


def opened(parsed: dict[str, Any], sizes: Counter[Keys], found: Lines, line: int) -> Keys:
    """The table that a header opens: [[x]] the next one of the array x, [x.y] the table y in the last one."""
    keys: Keys = ()
    while parsed:
        ((name, below),) = parsed.items()
        keys = (*keys, name)
        found.setdefault(keys, line)
        if isinstance(below, list):
            sizes[keys] += 1
            below = below[0]
        if sizes[keys]:
            keys = (*keys, sizes[keys] - 1)
            found.setdefault(keys, line)
        parsed = below
    return keys


def note(value: object, keys: Keys, found: Lines, line: int) -> None:
    """Note that all of `value` stands on this line."""
    found.setdefault(keys, line)
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        note(below, (*keys, key), found, line)


def line_of(keys: Keys, lines: Lines) -> int:
    """The line of a key, or of the table that it is missing in."""
    while keys not in lines:
        keys = keys[:-1]
    return lines[keys]
