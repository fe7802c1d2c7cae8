"""A configuration file in TOML -> Config; or all the errors in it, each with its line number.

settings.py defines the settings, keys.py the table of their keys. `converters.read_table` walks through the parsed file, looks
each key up in that table, and converts its value by the function for its kind. An error is added to a list, and the walk goes
on, so that all errors are reported at once.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Container, Mapping

from rawservers.config.converters import Context, read_table
from rawservers.config.keys import dotted_key
from rawservers.config.positions import line_numbers, line_of, not_toml
from rawservers.core.errors import os_error_text
from rawservers.settings import Config, ConfigError, SiteConfig, settings_of


def load(path: str, services: Mapping[str, str], overridden: Container[str] = ()) -> Config:
    """The Config of the file at `path`; its `listen` is None if the file has no [[listen]].

    services: the names of the services, and the default address of each ("": none). overridden: dotted keys that options on
    the command line override. Their values in the file must be well formed, but users and directories among them need not
    exist. Raises ConfigError.
    """
    text = read(path)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([not_toml(path, text, error)]) from error
    context = Context(os.path.dirname(path), services, overridden, [], set())
    fields = read_table(table, context)
    if context.errors:
        lines = line_numbers(text)
        errors = sorted(context.errors, key=lambda error: line_of(error[0], lines))
        raise ConfigError([f"{path}:{line_of(keys, lines)}: {dotted_key(keys)}: {what}" for keys, what in errors])
    first = SiteConfig(**{name: fields.pop(name) for name in settings_of(SiteConfig) if name in fields})
    return Config(sites=(first, *fields.pop("sites", ())), **fields)


def read(path: str) -> str:
    """The text of the file, with LF line ends, one of them at the end: without it, tomllib gives no line for an error there."""
    try:
        with open(path, "rb") as file:
            return file.read().decode().replace("\r\n", "\n") + "\n"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8: byte 0x{error.object[error.start]:02x}"]) from error
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: cannot be read: {os_error_text(error)}"]) from error
