"""conf/rawservers.toml, made from rawservers/settings.py: every key with its meaning, its limits and its default.

python3 -m tests.example_configuration
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from rawservers import settings
from rawservers.config.converters import allowed_values
from rawservers.settings import ADDRESSES, Config, Setting, SiteConfig, settings_of

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "conf" / "rawservers.toml"
WIDTH = 100

HEAD = """
The configuration of rawservers. It changes nothing as it stands: every key is here, with its default, behind a "#". Take that
away, and what follows is yours. What is not said here keeps its default.

rawservers -c FILE starts with it; rawservers -c FILE --check says whether it is well, or names every mistake with its line.
Options on the command line win over it. Relative paths of folders, logs and unix sockets begin in the folder it is in.

Times are in seconds, with or without a fraction; 0 means no limit.
"""
LISTEN = """
One [[listen]] for each. A service is {services}; without an address it is given at its default: {addresses}. An address is
"HOST:PORT", "[IPV6]:PORT", "PORT" (on 127.0.0.1), ":PORT" (every interface, IPv4 and IPv6), or "unix:PATH". The defaults below
count as long as there is no [[listen]], and no --http or --telnet; sockets from systemd take the place of whatever is said of
their service.
"""
SITES = "Further sites, by their host names: with all the keys from root to types in [http], which is the first site."
SECTIONS = {
    "http": "What is served over HTTP.",
    "telnet": "The Telnet echo.",
    "log": "What is said of it all.",
    "limits": "What holds for every connection.",
}


def meanings(config_class: type[Config] | type[SiteConfig]) -> dict[str, str]:
    """What stands below each field in settings.py."""
    (body,) = (
        node.body
        for node in ast.parse(Path(settings.__file__).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == config_class.__name__
    )
    found = {}
    for field, meaning in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(meaning, ast.Expr), f"{field.target.id} has no docstring"
            assert isinstance(meaning.value, ast.Constant)
            found[field.target.id] = " ".join(str(meaning.value.value).split())
    return found


def toml(value: object, setting: Setting) -> str:
    """A default as the file says it."""
    for word, meaning in setting.aliases.items():
        if meaning == value and type(meaning) is type(value):
            return json.dumps(word)
    if value == () and setting.kind in {"headers", "redirects", "pages", "types"}:
        return "{}"
    if isinstance(value, tuple):
        return json.dumps(value)
    return f"{value:_}" if isinstance(value, int) and value >= 100_000 else json.dumps(value)


def prose(text: str, indent: str = "# ") -> str:
    paragraphs = text.strip().split("\n\n")
    return "#\n".join(
        textwrap.fill(" ".join(part.split()), WIDTH, initial_indent=indent, subsequent_indent=indent) + "\n"
        for part in paragraphs
    )


def limits(setting: Setting) -> str:
    return f"Takes {allowed_values(setting)}."


def entry(key: str, meaning: str, setting: Setting, default: object) -> str:
    """One key, the whole of it."""
    example = "".join(f"#   {line}\n" for line in setting.example.splitlines())
    example = f"# For example:\n{example}" if example else ""
    return f"\n{prose(meaning)}{prose(limits(setting))}{example}#{key} = {toml(default, setting)}\n"


def listeners() -> str:
    addresses = ", ".join(f"{name} {json.dumps(address)}" for name, address in ADDRESSES.items())
    meaning = LISTEN.format(services=" or ".join(map(json.dumps, ADDRESSES)), addresses=addresses)
    rows = "".join(
        f"#[[listen]]\n#service = {json.dumps(listener.service)}\n#address = {json.dumps(listener.address)}\n"
        for listener in Config().listen
    )
    return f"\n{prose(meaning)}{rows}"


def entries(section: str) -> Iterator[str]:
    """All the keys of a section, in the order of the fields."""
    if section == "http":
        for name, setting in settings_of(SiteConfig).items():
            yield entry(name, meanings(SiteConfig)[name], setting, getattr(SiteConfig(), name))
    for name, setting in settings_of(Config).items():
        table, _, key = setting.key.rpartition(".")
        if table != section or key in {"listen", "sites"}:
            continue
        yield entry(key, meanings(Config)[name], setting, getattr(Config(), name))
    if section == "http":
        yield entry("sites", SITES, settings_of(Config)["sites"], ())


def written() -> str:
    """The whole file."""
    parts = [prose(HEAD), *entries(""), listeners()]
    for section, meaning in SECTIONS.items():
        parts += [f"\n\n{prose(meaning)}[{section}]\n", *entries(section)]
    return "".join(parts)


def uncommented(text: str) -> str:
    """The same with every default said aloud."""
    return re.sub(r"^#(?=[^ #\n])", "", text, flags=re.MULTILINE)


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(written())
