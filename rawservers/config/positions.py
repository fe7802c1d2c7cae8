"""Line numbers of the keys in a TOML text, which tomllib does not report.

The text is cut into statements, and the result of parsing each one gives the keys on its lines. The time is linear in its
length, and spent only when there is an error to report.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

KeyPath: TypeAlias = "tuple[str | int, ...]"  # from the top of the document to a value; integers are indices into arrays
LineNumbers: TypeAlias = "dict[KeyPath, int]"

POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")
# What decides where a statement ends: line ends and brackets, but not those in strings (of four kinds) and comments.
MULTILINE_STRING = r'"""(?:\\.|[^\\])*?(?:"{3,5}|\Z)' + r"|'{3}.*?(?:'{3,5}|\Z)"
TOKEN = re.compile(r"(?s)[][{}\n]|#[^\n]*|" + MULTILINE_STRING + r'|"(?:\\.|[^"\\])*"' + r"|'[^']*'")


def not_toml(path: str, text: str, error: Exception) -> str:
    """The error message for a text that tomllib has rejected with `error`, with its line number."""
    what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    if at := POSITION.search(what):
        return f"{path}:{at[1]}: not TOML: {what[: at.start()]}, at column {at[2]}"
    line = text.count("\n")
    for start, statement in statements(text):
        try:
            tomllib.loads(statement)
        except (ValueError, RecursionError):
            line = start
            break
    return f"{path}:{line}: not TOML: {what.removesuffix(' (at end of document)')}"


def statements(text: str) -> Iterator[tuple[int, str]]:
    """The statements, each with the number of its first line: a header, or a key and its value. So are empty lines.

    The last one is what is left, if a bracket or a string in it is not closed.
    """
    line, start, depth = 1, 0, 0
    for token in TOKEN.finditer(text):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if token[0] == "\n" and depth == 0:
            statement = text[start : token.end()]
            yield line, statement
            line, start = line + statement.count("\n"), token.end()
    if start < len(text):
        yield line, text[start:]


def line_numbers(text: str) -> LineNumbers:
    """The line numbers of the tables and keys in a valid TOML text. What is inside a value is on the line of its key."""
    found: LineNumbers = {(): 1}
    sizes: Counter[KeyPath] = Counter()  # elements so far of each array of tables
    table: KeyPath = ()
    for line, statement in statements(text):
        is_header = statement.lstrip().startswith("[")
        path = () if is_header else table
        value = tomllib.loads(statement)
        while isinstance(value, dict) and len(value) == 1:
            ((key, value),) = value.items()
            path = (*path, key)
            found.setdefault(path, line)
            if is_header and isinstance(value, list):  # [[x]]: the next element of the array x
                sizes[path] += 1
                value = value[0]
            if sizes[path]:  # [x.y]: the table y in the last element of x
                path = (*path, sizes[path] - 1)
                found.setdefault(path, line)
        if is_header:
            table = path
    return found


def line_of(path: KeyPath, lines: LineNumbers) -> int:
    """The line number of a key; of the innermost table around it, if the key is missing."""
    return lines[path] if path in lines else line_of(path[:-1], lines)
