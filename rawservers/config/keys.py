"""The schema of a configuration file: the tables and keys that it may have, and the field that each key sets."""

from __future__ import annotations

import difflib
import json
import re

from rawservers.config.positions import KeyPath
from rawservers.settings import AuthConfig, Config, ListenConfig, SiteConfig, TLSConfig, settings_of

# Dotted key -> the name of the field that it sets, and its setting. The keys of array elements have no index.
KEYS = {
    setting.key: (name, setting)
    for config in (SiteConfig, AuthConfig, Config, ListenConfig, TLSConfig)
    for name, setting in settings_of(config).items()
}
KEYS |= {
    setting.key.replace("http.", "http.sites.", 1): (name, setting)
    for config in (SiteConfig, AuthConfig)
    for name, setting in settings_of(config).items()
}
MAX_KEY = 80  # characters of a key that a message quotes, and that a suggestion is looked for
SYNONYMS = {"port": "address", "host": "address"}  # of keys, in other programs
TABLES = {key.partition(".")[0] for key in KEYS} - KEYS.keys()


def toml_string(text: str) -> str:
    """`text` as a TOML basic string, on one line of printable characters."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def dotted_key(path: KeyPath) -> str:
    """`path` as a dotted key, without the indices into arrays."""
    keys = (key for key in path if isinstance(key, str))
    return ".".join(key if re.fullmatch("[A-Za-z0-9_-]+", key) else toml_string(key) for key in keys)  # bare, or quoted


def suggestion(path: KeyPath) -> str:
    """The known key that resembles the unknown one at `path` most, as " (did you mean KEY?)"; "" if none does.

    The last parts are compared; of a key in a table, first with those of that table. Of several keys with the same one, that is
    taken which as a whole resembles it most.
    """
    word, table = str(path[-1]), dotted_key(path[:-1])
    if len(word) > MAX_KEY:
        return ""
    every = {name: name.rpartition(".")[2] for name in [*KEYS, *TABLES]}
    last = {name: key for name, key in every.items() if table and name.rpartition(".")[0] == table}
    close = difflib.get_close_matches(word, last.values(), 1, 0.7)
    if not close:
        last, close = every, difflib.get_close_matches(SYNONYMS.get(word, word), every.values(), 1, 0.7)
    candidates = [name for name in last if last[name] in close]
    best = max(candidates, key=lambda name: difflib.SequenceMatcher(None, name, dotted_key(path)).ratio(), default="")
    return f" (did you mean {best}?)" if best else ""
