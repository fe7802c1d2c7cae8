"""A configuration file in TOML -> Config; or the errors in it, each with its line number.

settings.py defines the settings, keys.py the table of their keys. `converters.read_table` walks through the parsed file, looks
each key up in that table, and converts its value by the function for its kind. An error is added to a list, and the walk goes
on, so that all errors are reported at once.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Container, Mapping

from rawservers.config.converters import UNKNOWN_KEY, Context, read_table
from rawservers.config.keys import MAX_KEY, dotted_key, suggestion
from rawservers.config.positions import line_numbers, line_of, parse
from rawservers.settings import Config, ConfigError, SiteConfig, settings_of

MAX_ERRORS = 100  # that are reported
MAX_MESSAGE = 400  # characters of one


def load(content: bytes, path: str, services: Mapping[str, str], overridden: Container[str] = ()) -> Config:
    """The Config of the file at `path`, which has this content; its `listen` is None if the file has no [[listen]].

    services: the names of the services, and the default address of each ("": none). overridden: dotted keys that options on
    the command line override. Their values in the file must be well formed, but users and directories among them need not
    exist. Raises ConfigError.
    """
    text = decode(content, path)
    context = Context(os.path.dirname(path), services, overridden, [], set())
    fields = read_table(parse(path, text), context)
    if context.errors:
        raise ConfigError(messages(path, text, context))
    first = SiteConfig(**{name: fields.pop(name) for name in settings_of(SiteConfig) if name in fields})
    return Config(sites=(first, *fields.pop("sites", ())), **fields)


def decode(content: bytes, path: str) -> str:
    """The text of a file, with LF line ends, one of them at the end: without it, tomllib gives no line for an error there.

    A UTF-8 byte order mark is skipped. Raises ConfigError, also for a file that is empty: it is not what anybody wrote.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError([f"{path}:1: not UTF-8, but UTF-16: save it as UTF-8"])
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8: byte 0x{error.object[error.start]:02x}"]) from error
    if not text.strip():
        raise ConfigError([f"{path}:1: the file is empty: without settings, it must have a comment at least"])
    return text + "\n"


def has_listeners(content: bytes, path: str) -> bool:
    """Whether a valid file has a [[listen]]."""
    return bool(content) and "listen" in parse(path, decode(content, path))


def messages(path: str, text: str, context: Context) -> list[str]:
    """The messages for the first MAX_ERRORS errors, in the order of their lines."""
    lines = line_numbers(text)
    errors = sorted([(line_of(keys, lines), number) for number, (keys, _) in enumerate(context.errors)])
    found = []
    for line, number in errors[:MAX_ERRORS]:
        keys, what = context.errors[number]
        what += suggestion(keys) if what == UNKNOWN_KEY else ""
        found.append(f"{path}:{line}: {shorten(dotted_key(keys), MAX_KEY)}: {shorten(what, MAX_MESSAGE)}")
    if more := len(errors) - len(found):
        found.append(f"{path}: {more:,} more errors")
    return found


def shorten(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 3]}..."
