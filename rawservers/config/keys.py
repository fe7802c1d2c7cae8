"""The schema of a configuration file: the tables and keys that it may have, and the field that each key sets."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from rawservers.config.positions import KeyPath
from rawservers.settings import Config, ListenConfig, Setting, SiteConfig, settings_of

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # a key that needs no quotes


class KeySpec(NamedTuple):
    """Schema of one TOML key: the name of the field that it sets, and its setting."""

    field: str
    setting: Setting


KeyTree: TypeAlias = "dict[str, KeySpec | KeyTree]"


def toml_string(text: str) -> str:
    """`text` as a TOML basic string, on one line of printable characters."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def dotted_key(path: KeyPath) -> str:
    """`path` as a dotted key, without the indices into arrays."""
    keys = (key for key in path if isinstance(key, str))
    return ".".join(key if BARE_KEY.fullmatch(key) else toml_string(key) for key in keys)


def element_keys(config: type[SiteConfig] | type[ListenConfig]) -> Mapping[str, KeySpec]:
    """The keys of one element of [[http.sites]] or [[listen]]."""
    return {setting.key.rpartition(".")[2]: KeySpec(field, setting) for field, setting in settings_of(config).items()}


def key_tree() -> KeyTree:
    """The keys of a whole file, table by table; those in the elements of arrays excepted."""
    top: KeyTree = {}
    for field, setting in (settings_of(SiteConfig) | settings_of(Config)).items():
        section, _, key = setting.key.rpartition(".")
        table = top.setdefault(section, {}) if section else top
        assert isinstance(table, dict)
        table[key] = KeySpec(field, setting)
    return top


def dotted_keys(tree: Mapping[str, KeySpec | KeyTree], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from dotted_keys(value, f"{prefix}{key}.")


def suggestion(path: KeyPath) -> str:
    """The known key that resembles the unknown one at `path` most, as " (did you mean KEY?)"; "" if none does."""

    def similarity(name: str) -> float:
        table, _, key = name.rpartition(".")
        ratio = difflib.SequenceMatcher(None, key, str(path[-1])).ratio()
        return ratio + (0.15 if table == dotted_key(path[:-1]) else 0)

    best = max(DOTTED_KEYS, key=similarity)
    return f" (did you mean {best}?)" if similarity(best) >= 0.8 else ""


SITE_KEYS = element_keys(SiteConfig)
LISTEN_KEYS = element_keys(ListenConfig)
KEYS = key_tree()
DOTTED_KEYS = [*dotted_keys(KEYS), *dotted_keys(SITE_KEYS, "http.sites."), *dotted_keys(LISTEN_KEYS, "listen.")]
