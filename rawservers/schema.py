"""What a setting is: its key, kind, limits and default; and tests of the values of fields, for settings.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

DAY = 86400

PLAIN_PATH = r"(?s)(?!.*/(?:/|\.\.?(?:/|\Z)))/[^\0]*"
PRINTABLE = "[ -~]*"  # ASCII


class Setting(NamedTuple):
    """Schema of one setting in the configuration file.

    key: its dotted key, with its section; kind: one of `config.converters.KINDS`; min, max: the limits of a number; aliases:
    strings that stand for a value, and the value of each; example: lines of TOML.
    """

    key: str
    kind: str
    min: int = 0
    max: int = 0
    aliases: Mapping[str, Any] = {}
    example: str = ""


def setting(
    default: T, key: str, kind: str = "", min: int = 0, max: int = 0, aliases: Mapping[str, Any] = {}, example: str = ""
) -> T:
    """A dataclass field with this default and a key in the configuration file: see `Setting`. kind: by default, the type."""
    schema = Setting(key, kind or type(default).__name__, min, max, aliases, example)
    return field(default=default, metadata={"setting": schema})


def seconds(default: float, key: str, max: int = DAY) -> float:
    """The same for a time in seconds."""
    return setting(default, key, "seconds", max=max)


def is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def rows(*tests: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test for a tuple of rows, each with a value for each of these tests; of values, if there is one."""

    def test(value: Any) -> bool:
        table = [(row,) if len(tests) == 1 else row for row in value] if isinstance(value, tuple) else [()]
        return all(
            isinstance(row, tuple) and len(row) == len(tests) and all(test(item) for test, item in zip(tests, row, strict=True))
            for row in table
        )

    return test


def is_plain_path(value: object) -> bool:
    """Whether it is a path without empty segments and dot segments."""
    return isinstance(value, str) and re.fullmatch(PLAIN_PATH, value) is not None


def is_printable(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(PRINTABLE, value) is not None
