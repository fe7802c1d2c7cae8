"""Every key that a configuration file may have, table by table, and which field each one sets."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from rawservers.config.positions import Keys
from rawservers.settings import Config, Setting, SiteConfig, settings_of

BARE = re.compile(r"[A-Za-z0-9_-]+")  # a key that needs no quotes


def dotted(keys: Keys) -> str:
    """The name of a key as a person would write it; which element of an array it is in is left to the line number."""
    names = (key for key in keys if isinstance(key, str))
    return ".".join(name if BARE.fullmatch(name) else quoted(name) for name in names)


def quoted(text: str) -> str:
    """A text as TOML would write it, on one line of printable characters."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def of_kind(kind: str) -> Setting:
    """A setting that has no limits, and no words."""
    return Setting("", kind, 0, 0, {}, "")


class Wanted(NamedTuple):
    """A key that there is: the field that it says, and how."""

    field: str
    setting: Setting


Tree: TypeAlias = "dict[str, Wanted | Tree]"


def tree() -> Tree:
    """Every key of the file but those of [[listen]] and [[http.sites]], table by table."""
    top: Tree = {"http": {**SITE_KEYS}}
    for field, setting in settings_of(Config).items():
        section, _, key = setting.key.rpartition(".")
        table = top.setdefault(section, {}) if section else top
        assert isinstance(table, dict)
        table[key] = Wanted(field, setting)
    return top


def names_in(tree: Mapping[str, Wanted | Tree], before: str = "") -> Iterator[str]:
    for key, wanted in tree.items():
        yield before + key
        if isinstance(wanted, dict):
            yield from names_in(wanted, f"{before}{key}.")


def suggestion(keys: Keys) -> str:
    """A key that may be meant: spelt alike, or the same in another table."""

    def likeness(name: str) -> float:
        table, _, key = name.rpartition(".")
        return difflib.SequenceMatcher(None, key, str(keys[-1])).ratio() + (0.15 if table == dotted(keys[:-1]) else 0)

    best = max(NAMES, key=likeness)
    return f" (did you mean {best}?)" if likeness(best) >= 0.8 else ""


SITE_KEYS = {name: Wanted(name, setting) for name, setting in settings_of(SiteConfig).items()}
LISTENER_KEYS = {kind: Wanted(kind, of_kind(kind)) for kind in ("service", "address")}
KEYS = tree()
NAMES = [*names_in(KEYS), *names_in(SITE_KEYS, "http.sites."), *names_in(LISTENER_KEYS, "listen.")]
