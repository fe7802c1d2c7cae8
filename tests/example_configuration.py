"""rawservers/config/rawservers.toml, which conf/ links to, generated from rawservers/settings.py.

Every key with its meaning, allowed values and default.

python3 -m tests.example_configuration
"""

from __future__ import annotations

import ast
import functools
import json
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from rawservers import settings
from rawservers.config.converters import allowed_values
from rawservers.schema import Setting
from rawservers.services import DEFAULT_LISTENERS, default_addresses
from rawservers.settings import ADDRESS_FORMS, Config, ListenConfig, SiteConfig, settings_of

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "rawservers" / "config" / "rawservers.toml"
WIDTH = 100

HEAD = """
Configuration of rawservers, in TOML. Every setting is listed here, commented out, with its default value. To change a setting,
remove the "#" before its key, and edit the value.

Start the server with: rawservers -c FILE. Test the file with: rawservers -c FILE --check; all errors are reported, with their
line numbers. Options on the command line take precedence over this file. Relative paths of directories, log files and unix
sockets are relative to the directory of this file.

A reload (SIGHUP to the supervisor, rawservers --reload PID, or systemctl reload) applies all settings. An address cannot move
from one service to another in a reload.

Times are in seconds, and may have a fraction; 0 is no limit. Where nginx or another server has a similar setting, its name and
its default are given.
"""
LISTEN = """
Listeners, each in a [[listen]] table. The service is {services}. Without an address a listener has the default one of its
service: {addresses}. An address is {forms}.

The two listeners below are the default. They are used if there is no [[listen]] table, no address given with --http or
--telnet, and no socket passed by systemd. There is no listener of the status service by default. It speaks HTTP, without
authentication: text at /, JSON at /json, Prometheus at /metrics; rawservers --status reads it.

{access}

If systemd passes a socket named http, https, telnet, telnets or status, all listeners of that name in this file are ignored,
but for the proxy_protocol and tls of the first, which apply to these sockets. With the supplied unit, TCP addresses are set in
the .socket files: the unit allows the server itself to open unix sockets only.
"""
SITES = (
    f"Further sites, selected by host name. Their keys are {', '.join(settings_of(SiteConfig))}, as above. A missing key has "
    "its default, not the value of the first site."
)
SECTIONS = {
    "http": "HTTP: the first site, and settings for all sites.",
    "telnet": "Telnet.",
    "log": "Logs.",
    "limits": "Limits of connections.",
}


@functools.cache
def meanings(config_class: type[Config] | type[SiteConfig] | type[ListenConfig]) -> dict[str, str]:
    """The docstring of each field in settings.py, by its name."""
    (body,) = (
        node.body
        for node in ast.parse(Path(settings.__file__).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == config_class.__name__
    )
    found = {}
    for field, meaning in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            if field.target.id in {"service", "address"}:
                continue
            assert isinstance(meaning, ast.Expr), f"{field.target.id} has no docstring"
            assert isinstance(meaning.value, ast.Constant)
            found[field.target.id] = " ".join(str(meaning.value.value).split())
    return found


def toml(value: object, setting: Setting) -> str:
    """A default value in TOML."""
    for alias, meaning in setting.aliases.items():
        if meaning == value and type(meaning) is type(value):
            return json.dumps(alias)
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
    return f"Value: {allowed_values(setting)}."


def entry(key: str, meaning: str, setting: Setting, default: object) -> str:
    """The text of one key."""
    example = "".join(f"#   {line}\n" for line in setting.example.splitlines())
    example = f"# Example:\n{example}" if example else ""
    return f"\n{prose(meaning)}{prose(limits(setting))}{example}#{key} = {toml(default, setting)}\n"


def listeners() -> str:
    services = default_addresses()
    addresses = ", ".join(f"{json.dumps(address)} ({name})" for name, address in services.items())
    keys = {name: setting for name, setting in settings_of(ListenConfig).items() if name in meanings(ListenConfig)}
    access = " ".join(f"{name}: {text} Value: {allowed_values(keys[name])}." for name, text in meanings(ListenConfig).items())
    meaning = LISTEN.format(
        access=access, services=" or ".join(map(json.dumps, services)), addresses=addresses, forms=ADDRESS_FORMS
    )
    rows = "".join(
        f"#[[listen]]\n#service = {json.dumps(listener.service)}\n#address = {json.dumps(listener.address)}\n"
        for listener in DEFAULT_LISTENERS
    )
    rows += "".join(f"#{name} = {toml(getattr(DEFAULT_LISTENERS[-1], name), setting)}\n" for name, setting in keys.items())
    return f"\n{prose(meaning)}{rows}"


def entries(section: str) -> Iterator[str]:
    """The texts of all keys of a section, in the order of the fields."""
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
    """The same text with every default uncommented."""
    return re.sub(r"^#(?=[^ #\n])", "", text, flags=re.MULTILINE)


if __name__ == "__main__":
    PATH.write_text(written())
