"""Line numbers of the keys in a TOML text, which tomllib does not report.

The text is cut into statements. The keys of each one are seen at a glance if they are bare ones, as nearly always; otherwise it
is parsed. The time is linear in the length of the text, and spent only when there is an error to report.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeAlias

from rawservers.settings import ConfigError

KeyPath: TypeAlias = "tuple[str | int, ...]"  # from the top of the document to a value; integers are indices into arrays
LineNumbers: TypeAlias = "dict[KeyPath, int]"

POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")
# What decides where a statement ends: line ends and brackets, but not those in strings (of four kinds) and comments. A string
# without its end matches as well, so that each character is looked at once.
MULTILINE_STRING = r'"""(?:\\.|[^\\])*?(?:"{3,5}|\Z)' + r"|'{3}.*?(?:'{3,5}|\Z)"
STRING_OR_COMMENT = r"#[^\n]*|" + MULTILINE_STRING + r'|"(?:\\[^\n]|[^"\\\n])*"?' + r"|'[^'\n]*'?"
TOKEN = re.compile(r"(?s)\n|[{\[]+|[}\]]+|" + STRING_OR_COMMENT)
# A header or a key, of bare parts. Groups: the brackets before it, and the key.
BARE_KEY = re.compile(r"[ \t]*(\[{0,2})[ \t]*([\w-]+(?:[ \t]*\.[ \t]*[\w-]+)*)[ \t]*[]=]", re.ASCII)
MAX_PARTS = 16  # of a dotted key: tomllib takes quadratic time for a long one. No setting has more than five
LONG_KEY = re.compile(rf"(?<![\w.-])(?:[\w-]+[ \t]*\.[ \t]*){{{MAX_PARTS}}}", re.ASCII)
# Statements that tomllib may reject without a position: with a date or a time, or with a long number or deep brackets.
SUSPECT = re.compile(r"(?s)\d\d[-:]\d\d|.{1000}")
# Hints for common mistakes: patterns of tomllib's message, and of what stands at its position.
QUOTES = "text is written in quotes"
HINTS = (
    ("Invalid value", r"(?i:true|false)\b", "true and false are lower case"),
    ("Invalid value", r"(?!\.[0-9])[^\s\[\]{},#=]", QUOTES),
    ("Expected newline", r"(?<=[0-9])[A-Za-z.:/]", QUOTES),  # behind a number: 127.0.0.1:80, 10s
    (r"Invalid hex value|Unescaped '\\'", "", "double the backslash"),
    ("Cannot overwrite a value", "", "the key occurs twice"),
)


def parse(path: str, text: str) -> dict[str, Any]:
    """The tables of a TOML text with LF line ends. Raises ConfigError with the line of the first mistake."""
    try:
        # Strings become words: a quoted part of a key counts like a bare one, and dots inside it do not.
        masked = re.sub("(?s)" + STRING_OR_COMMENT, lambda match: "s" + "\n" * match[0].count("\n"), text)
        if long := LONG_KEY.search(masked):
            line = masked.count("\n", 0, long.start()) + 1
            raise ValueError(f"Key of more than {MAX_PARTS} parts (at line {line}, column 1)")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([not_toml(path, text, error)]) from error


def not_toml(path: str, text: str, error: Exception) -> str:
    """The error message for a text that was rejected with `error`, with its line number."""
    what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    what = re.sub(
        r"^Cannot declare \('(.*)',?\) twice", lambda keys: f"[{keys[1]}] is declared twice".replace("', '", "."), what
    )
    if at := POSITION.search(what):
        tip = hint(what, text.split("\n")[int(at[1]) - 1], int(at[2]) - 1)
        return f"{path}:{at[1]}: not TOML: {what[: at.start()]}, at column {at[2]}{tip}"
    at_end = what.endswith(" (at end of document)")
    line = text.count("\n")
    for start, statement in statements(text):
        if at_end:  # the last statement, which is not empty, has no end
            line = start if statement.strip() else line
        elif SUSPECT.search(statement) and not is_valid(statement):
            line = start
            break
    return f"{path}:{line}: not TOML: {what.removesuffix(' (at end of document)')}"


def hint(what: str, line: str, index: int) -> str:
    """What the message `what`, for the character at `index` of a line, mostly means, in parentheses; "" if that is unknown."""
    for message, character, meaning in HINTS:
        if re.match(message, what) and re.compile(character).match(line, index):
            return f" ({meaning})"
    return ""


def is_valid(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except (ValueError, RecursionError):
        return False
    return True


def statements(text: str) -> Iterator[tuple[int, str]]:
    """The statements, each with the number of its first line: a header, or a key and its value. So are empty lines.

    The last one is what is left, if a bracket or a string in it is not closed.
    """
    line, start, depth = 1, 0, 0
    for token in TOKEN.finditer(text):
        found = token[0]
        if found == "\n":
            if depth == 0:
                statement = text[start : token.end()]
                yield line, statement
                line, start = line + statement.count("\n"), token.end()
        elif found[0] in "[{":
            depth += len(found)
        elif found[0] in "]}":
            depth -= len(found)
    if start < len(text):
        yield line, text[start:]


def line_numbers(text: str) -> LineNumbers:
    """The line numbers of the tables and keys in a valid TOML text. What is inside a value is on the line of its key."""
    found: LineNumbers = {(): 1}
    sizes: Counter[KeyPath] = Counter()  # elements so far of each array of tables
    table: KeyPath = ()
    for line, statement in statements(text):
        brackets, keys = keys_of(statement)
        path = () if brackets else table
        for number, key in enumerate(keys, 1):
            path = (*path, key)
            found.setdefault(path, line)
            if brackets == "[[" and number == len(keys):  # [[x]]: the next element of the array x
                sizes[path] += 1
            if path in sizes:  # [x.y]: the table y in the last element of x
                path = (*path, sizes[path] - 1)
                found.setdefault(path, line)
        if brackets:
            table = path
    return found


def keys_of(statement: str) -> tuple[str, list[str]]:
    """The brackets of a header, "" for another statement, and the parts of its key; none in an empty line."""
    if bare := BARE_KEY.match(statement):
        return bare[1], [part.strip() for part in bare[2].split(".")]
    keys, value = [], tomllib.loads(statement)
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
        keys.append(key)
    if not statement.lstrip().startswith("["):
        return "", keys
    return "[[" if isinstance(value, list) else "[", keys


def line_of(path: KeyPath, lines: LineNumbers) -> int:
    """The line number of a key; of the innermost table around it, if the key is missing."""
    return lines[path] if path in lines else line_of(path[:-1], lines)
