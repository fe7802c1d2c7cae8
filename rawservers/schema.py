"""What a setting is: its key, kind, limits and default; and tests of the values of fields, for settings.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from rawservers.core.networks import Networks
from rawservers.core.record import Field, Record

T = TypeVar("T")

DAY = 86400

PLAIN_PATH = r"(?s)(?!.*/(?:/|\.\.?(?:/|\Z)))/[^\0]*"
PRINTABLE = "[ -~]*"  # ASCII
FILE = r"[^\0]+"  # the path of one
FILE_NAME = r"[^./\0][^/\0]*"  # that is not hidden
URL_FILE = rf"(?!\Z)(?:/\.well-known)?(?:/{FILE_NAME})*"
SERVER_NAME = r"(\*\.)?[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]+)*"
SITE_HOST = r"\[[^]\0]+\]|[^]/*:[\0]+"  # http.request.parse_host is stricter


class Setting(Record):
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
    """A field with this default and a key in the configuration file: see `Setting`. kind: by default, the type."""
    schema = Setting(key, kind or type(default).__name__, min, max, aliases, example)
    return cast(T, Field(default, schema))  # a Record takes the default out of it


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


def matches(pattern: str) -> Callable[[Any], bool]:
    """A test for a string that as a whole matches a pattern."""
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def is_error_status(value: object) -> bool:
    return type(value) is int and 400 <= value <= 599


def rows_of(name: str) -> Callable[[Any], bool]:
    """A test for a tuple of objects of the class of this name, which is in settings.py."""
    return rows(lambda row: type(row).__name__ == name)


# What a field takes, for messages, with {min} and {max}, and a test: by its kind, or by its name if it has no key.
TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "auth": ("a tuple of AuthConfig", rows_of("AuthConfig")),
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "choice": ("", lambda value: False),  # its aliases are all that is allowed
    "directory": ("the path of a directory as text", matches(FILE)),
    "file": ("the path of a file as text", matches(FILE)),
    "headers": ("a tuple of (pattern, name, value)", rows(is_text, is_text, is_text)),
    "hosts": ("a tuple of host names", rows(matches(SITE_HOST))),
    "int": ("an integer from {min} to {max}", lambda value: is_number(value) and isinstance(value, int)),
    "listeners": (
        "None, or a tuple of ListenConfig",
        lambda value: value is None or rows_of("ListenConfig")(value),
    ),
    "mode": ("a mode from 0 to 0o777", lambda value: type(value) is int and 0 <= value <= 0o777),
    "names": ("a tuple of file names", rows(matches(FILE_NAME))),
    "networks": ('a tuple of networks and "unix"', rows(is_text)),
    "pages": ("a tuple of (status, path)", rows(is_error_status, matches(URL_FILE))),
    "path": ("a path below the root with a leading slash", matches(URL_FILE)),
    "pem": ("the path of a file as text", matches(FILE)),
    "plain_path": ("a decoded path without empty segments and dot segments", matches(PLAIN_PATH)),
    "realm": ("a string of printable ASCII", matches(PRINTABLE)),
    "redirects": ("a tuple of (path, target)", rows(is_text, is_text)),
    "seconds": ("a number of seconds from {min} to {max}", is_number),
    "server_names": ("a tuple of host names", rows(matches(SERVER_NAME))),
    "sites": ("a tuple of SiteConfig", rows_of("SiteConfig")),
    "tls": ("a tuple of TLSConfig", rows_of("TLSConfig")),
    "types": ("a tuple of (extension, media type)", rows(is_text, is_text)),
    "users_file": ("the path of a file as text", matches(FILE)),
    "handlers": ("a tuple of (path, function)", rows(is_text, callable)),
    "telnet_service": ("None, or a function", lambda value: value is None or callable(value)),
}  # fmt: skip


def check_fields(config: Record) -> None:
    """Check the types of all fields, and the limits of numbers. Lists become tuples. Raises ValueError that names the field."""
    for name, field in config.FIELDS.items():
        value, schema = getattr(config, name), field.metadata or Setting("", name)
        if isinstance(value, list):
            value = vars(config)[name] = tuple(value)
        expected, is_valid = TYPES.get(schema.kind, ("a string", is_text))
        within = schema.kind not in {"int", "seconds"} or (is_valid(value) and schema.min <= value <= schema.max)
        if not (within and is_valid(value)) and not any(value == alias for alias in schema.aliases.values()):
            aliases = [f"{alias!r}" for alias in dict.fromkeys(schema.aliases.values()) if not isinstance(alias, int)]
            expected = " or ".join(filter(None, [expected.format(min=schema.min, max=schema.max), *aliases]))
            raise ValueError(f"{name}: expected {expected}, not {value!r:.80}")
        if schema.kind == "networks":
            try:
                Networks(value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error


def check_duplicates(field: str, what: str, items: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError if an item occurs twice. items: in the form in which they are compared, and as they are written."""
    seen: set[str] = set()
    for normal, item in items:
        if normal in seen:
            raise ValueError(f"{field}: duplicate {what} {item!r}")
        seen.add(normal)


def settings_of(config: type[Record]) -> dict[str, Setting]:
    """The settings of the fields that have a key in the configuration file, by the names of the fields."""
    return {name: field.metadata for name, field in config.FIELDS.items() if field.metadata}
