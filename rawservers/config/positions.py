"""Line numbers of the keys in a TOML text, which tomllib does not report.

The text is cut into statements: a statement is the fewest lines that parse by themselves, and the result of parsing it gives
the keys on these lines. This takes time, and is done only when there is an error to report.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeAlias

KeyPath: TypeAlias = "tuple[str | int, ...]"  # from the top of the document to a value; integers are indices into arrays
LineNumbers: TypeAlias = "dict[KeyPath, int]"

POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")


def not_toml(path: str, text: str, error: Exception) -> str:
    """The error message for a text that tomllib has rejected with `error`, with its line number."""
    what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    at = POSITION.search(what)
    if at:
        return f"{path}:{at[1]}: not TOML: {what[: at.start()]}, at column {at[2]}"
    line = next((line for line, parsed in statements(text) if parsed is None), text.count("\n"))
    return f"{path}:{line}: not TOML: {what.removesuffix(' (at end of document)')}"


def statements(text: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The number of the first line of each statement, and what it parses to; None, for the last one, if it does not parse."""
    lines = text.split("\n")
    start = 0
    while start < len(lines):
        end, parsed = parse_statement(lines, start)
        yield start + 1, parsed
        start = end


def parse_statement(lines: list[str], start: int) -> tuple[int, dict[str, Any] | None]:
    """The statement that begins at index `start`: the index after its last line, and what it parses to."""
    for end in range(start + 1, len(lines) + 1):
        try:
            return end, tomllib.loads("\n".join(lines[start:end]))
        except (ValueError, RecursionError):
            continue
    return len(lines), None


def line_numbers(text: str) -> LineNumbers:
    """The line number of each key in a valid TOML text."""
    lines = text.split("\n")
    found: LineNumbers = {(): 1}
    sizes: Counter[KeyPath] = Counter()  # elements so far of each array of tables
    table: KeyPath = ()
    for line, parsed in statements(text):
        if lines[line - 1].lstrip().startswith("["):
            table = open_table(parsed or {}, sizes, found, line)
        else:
            add_lines(parsed or {}, table, found, line)
    return found


def open_table(parsed: dict[str, Any], sizes: Counter[KeyPath], found: LineNumbers, line: int) -> KeyPath:
    """The path of the table that a header opens: [[x]] the next element of the array x, [x.y] the table y in its last one."""
    path: KeyPath = ()
    while parsed:
        ((key, value),) = parsed.items()
        path = (*path, key)
        found.setdefault(path, line)
        if isinstance(value, list):
            sizes[path] += 1
            value = value[0]
        if sizes[path]:
            path = (*path, sizes[path] - 1)
            found.setdefault(path, line)
        parsed = value
    return path


def add_lines(value: object, path: KeyPath, found: LineNumbers, line: int) -> None:
    """Add the line number for `value` at `path`, and for everything in it."""
    found.setdefault(path, line)
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        add_lines(item, (*path, key), found, line)


def line_of(path: KeyPath, lines: LineNumbers) -> int:
    """The line number of a key; of the innermost table around it, if the key is missing."""
    while path not in lines:
        path = path[:-1]
    return lines[path]
