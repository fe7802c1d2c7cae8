"""A configuration file, in TOML -> Config; or all that is wrong in it, each mistake with its line.

The settings are in `settings.py`; `keys.py` has the tree of their tables and keys. `gather` goes through the file by that tree,
and has each value taken by the function for its kind of setting, which gives what belongs into the Config or raises.
`Place.attempt` makes a complaint of that, and goes on, so that all complaints are told at once.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Container
from typing import Any

from rawservers.config.converters import File, Place, gather
from rawservers.config.keys import KEYS, SITE_KEYS, dotted
from rawservers.config.positions import line_numbers, line_of, not_toml
from rawservers.core.errors import os_error_text
from rawservers.settings import Config, ConfigError, SiteConfig


def load(path: str, given: Container[str] = ()) -> Config:
    """The Config that the file at `path` asks for; its `listen` is empty where the file has none. Raises ConfigError.

    given: keys for which the command line says something else. What the file says for them must be well formed, but is not
    looked up in the system: "user", "log.access" and "http.root".
    """
    text = read(path)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([not_toml(path, text, error)]) from error
    file = File(os.path.dirname(path), given)
    config = configured(table, Place(file))
    if file.wrong:
        lines = line_numbers(text)
        told = sorted(((line_of(keys, lines), keys, what) for keys, what in file.wrong), key=lambda complaint: complaint[0])
        raise ConfigError([f"{path}:{line}: {dotted(keys)}: {what}" for line, keys, what in told])
    return config


def read(path: str) -> str:
    """The file as text, with line ends as TOML has them, and one at the end: else tomllib is vague about the last line."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: cannot be read: {os_error_text(error)}"]) from error
    try:
        return data.decode().replace("\r\n", "\n") + "\n"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x}"]) from error


def configured(table: dict[str, Any], top: Place) -> Config:
    """The Config that the whole file says; a senseless one if there were complaints."""
    fields = {"listen": ()} | gather(table, top, KEYS)
    first = SiteConfig(**{name: fields.pop(name) for name in SITE_KEYS if name in fields})
    return Config(sites=(first, *(fields.pop("sites", ()) or ())), **fields)
