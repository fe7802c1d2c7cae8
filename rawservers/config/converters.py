"""Converters from parsed TOML values to those of a Config: one for each kind of setting, in the table `KINDS`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Mapping
from types import NoneType, UnionType
from typing import Any, NamedTuple

from rawservers.config.checks import check_certificates, check_directory, check_group, check_log_file, check_user
from rawservers.config.keys import KEYS, TABLES, dotted_key, toml_string
from rawservers.config.positions import KeyPath
from rawservers.core.bind import Endpoint
from rawservers.core.networks import Networks
from rawservers.http.files import is_hidden
from rawservers.http.request import HOST_NAME, TOKEN, parse_host
from rawservers.http.response import check_headers
from rawservers.schema import FILE, FILE_NAME, PLAIN_PATH, PRINTABLE, SERVER_NAME, Setting
from rawservers.settings import AuthConfig, ListenConfig, SiteConfig, TLSConfig

TABLE = Setting("", "table")
UNKNOWN_KEY = "unknown key"
HOSTLESS = r"([A-Za-z][A-Za-z0-9+.-]*:[/\\]*|/[/\\]+)\*"  # the target of a redirect; browsers take a backslash for a slash

# Kinds of tables with keys of the user's: a pattern of these keys, and the error for one that does not match it.
KEY_PATTERNS = {
    "headers": (r"(?s)[/*?[].*", "the pattern matches no path: paths begin with a slash"),
    "pages": (r"[45][0-9][0-9]", "not an error status: expected 400 to 599"),
    "redirects": (r"/[^\0]*", "not a path: expected a leading slash"),
    "types": (
        r"(\.[^./\0A-Z]+)?",
        'not a file name extension: expected the last dot and what follows it, in lower case, or ""',
    ),
}


class Context(NamedTuple):
    """The context of a value.

    Common to all values of a file: directory: base of its relative paths; services, overridden: as for `toml.load`; errors: key
    paths and messages, to be added to; seen: the host names and addresses so far, since a second use is an error. Of this one:
    path: its key path; setting: what it is a value of.
    """

    directory: str
    services: Mapping[str, str]
    overridden: Container[str]
    errors: list[tuple[KeyPath, str]]
    seen: set[str | Endpoint]
    path: KeyPath = ()
    setting: Setting = TABLE

    def child(self, key: str | int, setting: Setting = TABLE) -> Context:
        return self._replace(path=(*self.path, key), setting=setting)

    def add_error(self, message: str) -> None:
        self.errors.append((self.path, message if message.isprintable() else toml_string(message)[1:-1]))

    def convert(self, value: Any) -> Any:
        """The value for the Config; None, and errors added, if `value` or something in it is invalid."""
        if isinstance(value, str) and value in self.setting.aliases:
            return self.setting.aliases[value]
        kind, errors = KINDS[self.setting.kind], len(self.errors)
        try:
            if not isinstance(value, kind.type) or (kind.type is str and not re.fullmatch(kind.pattern, value)):
                raise ValueError
            if kind.items:
                value = self.convert_items(value, kind.items)
            if len(self.errors) > errors:
                return None
            converted = kind.convert(value, self) if kind.convert else value
            if kind.check and len(self.errors) == errors and dotted_key(self.path) not in self.overridden:
                kind.check(converted)
            return converted
        except ValueError as error:  # without a message: the value is of the wrong kind, or out of range
            hint = " (~ is not expanded)" * (isinstance(value, str) and value.startswith("~/"))
            self.add_error((str(error) or f"expected {allowed_values(self.setting)}, not {describe(value)}") + hint)

    def convert_items(self, values: dict[str, Any] | list[Any], kind: str) -> tuple[Any, ...]:
        """The converted items of an array, all of one kind; for a table, pairs of each key and the converted value."""
        item = Setting("", kind)
        if isinstance(values, list):
            return tuple([self.child(index, item).convert(value) for index, value in enumerate(values)])
        pattern, error = KEY_PATTERNS.get(self.setting.kind, ("(?s).*", ""))
        for key in values:
            if not re.fullmatch(pattern, key):
                self.child(key).add_error(error)
        return tuple([(key, self.child(key, item).convert(value)) for key, value in values.items()])


class Kind(NamedTuple):
    """A kind of setting.

    allowed: its values, for error messages, with {min} and {max}; type: that of a parsed value; convert: to the value for the
    Config, if that is another; items: the kind of the items of an array, or of the values of a table, if it is one kind;
    pattern: of a string, without NUL, which ends a path in system calls and has no use elsewhere; check: of the converted value
    against the system, unless an option overrides it.
    """

    allowed: str
    type: type[Any] | UnionType = str
    convert: Callable[[Any, Context], Any] | None = None
    items: str = ""
    pattern: str = r"[^\0]*"
    check: Callable[[Any], object] | None = None


def allowed_values(setting: Setting) -> str:
    """A description of the values that a setting allows, aliases included, to be put after "expected "."""
    aliases = [toml_string(alias) for alias in setting.aliases]
    kind = KINDS[setting.kind].allowed.format(min=format_number(setting.min), max=format_number(setting.max))
    return ", or ".join([kind, *aliases]) if kind else " or ".join(aliases)


def format_number(number: int) -> str:
    """An integer as TOML allows it: large ones in groups of three digits."""
    return f"{number:_}" if number >= 100_000 else str(number)


def describe(value: object) -> str:
    """A value as an error message quotes it, shortened."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "an array"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of this size"
    text = toml_string(value) if isinstance(value, str) else str(value).lower()
    return text if len(text) <= 60 else f"{text[:57]}..."


# Converters: a parsed value of the type of its kind, and its context -> the value for the Config. Those of arrays and tables
# get what `convert_items` gives. They raise ValueError, without a message if the value is not one that the setting allows.


def read_table(table: dict[str, Any], context: Context) -> dict[str, Any]:
    """The converted values of `table`, by the names of the fields that they set."""
    fields: dict[str, Any] = {}
    for key, value in table.items():
        child = context.child(key)
        name = dotted_key(child.path)
        if name in KEYS:
            field, setting = KEYS[name]
            fields[field] = context.child(key, setting).convert(value)
        elif name in TABLES:
            fields |= child.convert(value) or {}
        else:
            child.add_error(UNKNOWN_KEY)
    return fields


def convert_number(value: float, context: Context) -> float:
    if isinstance(value, bool) or not context.setting.min <= value <= context.setting.max:
        raise ValueError
    return value


def convert_file_path(path: str, context: Context) -> str:
    """A path relative to the directory of the file."""
    return os.path.join(context.directory, path)


def convert_url_path(path: str, context: Context) -> str:
    """The path of a file below the root that is not hidden."""
    if is_hidden(os.fsencode(path)):
        raise ValueError(f"{toml_string(path)} is never served: it has a segment that is empty or begins with a dot")
    return path


def convert_host(host: str, context: Context) -> str:
    """A host name that no other site has."""
    check_duplicate(parse_host(host), f"host name {toml_string(host)}", context)
    return host


def convert_server_name(host: str, context: Context) -> str:
    """A host name that no other certificate of the listener has."""
    listener = context.path[1]
    check_duplicate(f"{listener} {host.lower()}", f"host name {toml_string(host)}", context)
    return host


def check_duplicate(item: str | Endpoint, name: str, context: Context) -> None:
    """Add an error if the file has the same host name or address elsewhere."""
    if item in context.seen:
        context.add_error(f"duplicate {name}")
    context.seen.add(item)


def convert_headers(patterns: tuple[Any, ...], context: Context) -> tuple[tuple[str, str, str], ...]:
    return tuple((pattern, name, value) for pattern, fields in patterns for name, value in fields)


def convert_header(value: str, context: Context) -> str:
    check_headers([(str(context.path[-1]), value)])
    return value


def convert_redirect(target: str, context: Context) -> str:
    path = str(context.path[-1])
    if target == path:
        raise ValueError("the redirect leads to itself")
    if target.endswith("*") and not path.endswith("*"):
        raise ValueError(f"{toml_string(target)} ends with *, but the path does not")
    if re.fullmatch(HOSTLESS, target):
        raise ValueError(f"the * of {toml_string(target)} would be the host: every client could name one")
    return target


def convert_network(name: str, context: Context) -> str:
    Networks([name])
    return name


def convert_pages(pages: tuple[Any, ...], context: Context) -> tuple[tuple[int, str], ...]:
    return tuple((int(status), path) for status, path in pages)


def converter_of(record: type[Any], required: dict[str, str]) -> Callable[[dict[str, Any], Context], Any]:
    """The converter of a table to a `record`. required: keys that need a value, each with the end of the error without it."""

    def convert(table: dict[str, Any], context: Context) -> Any:
        before = len(context.errors)
        fields = read_table(table, context)
        for key, text in required.items():
            if table.get(key, []) == []:
                context.child(key).add_error(f"missing{text}")
        return record(**fields) if len(context.errors) == before else None

    return convert


def convert_auth(paths: tuple[AuthConfig, ...], context: Context) -> tuple[AuthConfig, ...]:
    """Of a site, each path once."""
    found: set[str] = set()
    for number, path in enumerate(each.path.rstrip("/") for each in paths):
        if path in found:
            context.child(number).child("path").add_error(f"duplicate path {toml_string(paths[number].path)}")
        found.add(path)
    return paths


def convert_listener(table: dict[str, Any], context: Context) -> ListenConfig | None:
    before = len(context.errors)
    fields = read_table(table, context)
    service = fields.get("service", "")
    address = fields.get("address", context.services.get(service, ""))
    if service == "":
        context.child("service").add_error(f"missing: expected {service_names(context)}")
    elif service and address == "":
        context.child("address").add_error(f"missing: {service} has no default address")
    endpoint = Endpoint.parse(address or "0")
    if endpoint.port or endpoint.path:  # not port 0, any free one, which may be used again
        check_duplicate(endpoint, f"address {endpoint}", context.child("address"))
    access = {key: fields.get(key) for key in ("mode", "owner", "group")}
    for key in (key for key, value in access.items() if value and not endpoint.path):
        context.child(key).add_error("only unix sockets have one")
    if len(context.errors) > before:
        return None
    return ListenConfig(**fields | {"address": address})


def convert_tls(value: dict[str, Any] | list[Any], context: Context) -> tuple[TLSConfig, ...]:
    """One table, or an array of them."""
    if isinstance(value, dict):
        found: tuple[TLSConfig, ...] = (context._replace(setting=Setting("", "certificate")).convert(value),)
    else:
        found = context.convert_items(value, "certificate")
    for number, each in enumerate(found):
        if number and each and not each.hosts:
            context.child(number).child("hosts").add_error("missing: all certificates but the first need host names")
    return found


def convert_service(name: object, context: Context) -> object:
    if not isinstance(name, str) or name not in context.services:
        plain = name.removesuffix("s") if isinstance(name, str) else ""
        hint = f" ({name}: service = {toml_string(plain)} with tls)" if plain != name and plain in context.services else ""
        raise ValueError(f"expected {service_names(context)}, not {describe(name)}{hint}")
    return name


def service_names(context: Context) -> str:
    return f"one of {', '.join(map(toml_string, context.services))}"


def convert_address(address: str, context: Context) -> str:
    """An address for Endpoint.parse, with the path of a unix socket joined to the directory of the file."""
    endpoint = Endpoint.parse(address)
    return f"unix:{os.path.join(context.directory, endpoint.path)}" if endpoint.path else address


SITE = converter_of(SiteConfig, {"hosts": ": all sites but the first, [http], need a host name"})
PROTECTED = converter_of(AuthConfig, {"path": "", "users": ""})
CERTIFICATE = converter_of(TLSConfig, {"certificate": ": expected the path of a file"})

KINDS = {
    "auth": Kind("an array of tables, each with a path and users", list, convert_auth, items="protected"),
    "address": Kind("an address", convert=convert_address),
    "bool": Kind("true or false", bool),
    "certificate": Kind("a table with a certificate and a key", dict, CERTIFICATE),
    "choice": Kind("", NoneType),  # its aliases are all that is allowed
    "directory": Kind("the path of a directory", convert=convert_file_path, check=check_directory),
    "file": Kind("the path of a file", pattern=FILE, convert=convert_file_path, check=check_log_file),
    "header": Kind("a string", convert=convert_header),
    "group": Kind("the name of a group", pattern=r"[^:\0]+", check=check_group),
    "headers": Kind("a table of path patterns, each with a table of header fields", dict, convert_headers, items="pattern"),
    "host": Kind("a host name without a port", str, convert_host, pattern=rf"(?!.*\*){HOST_NAME}"),  # no wildcard
    "hosts": Kind("an array of host names without ports", list, items="host"),
    "int": Kind("an integer from {min} to {max}", int, convert_number),
    "listener": Kind("a table with a service and an address", dict, convert_listener),
    "listeners": Kind("an array of tables, each with a service and an address", list, items="listener"),
    "mode": Kind('an octal mode, such as "0660"', str, lambda mode, _: int(mode, 8), pattern="0?[0-7]{3}"),
    "name": Kind("a file name, without a slash or a leading dot", pattern=FILE_NAME),
    "names": Kind("an array of file names", list, items="name"),
    "network": Kind('a network, an address, or "unix"', str, convert_network),
    "networks": Kind('an array of networks, addresses, and "unix"', list, items="network"),
    "owner": Kind("the name of a user", pattern=r"[^:\0]+", check=check_user),
    "pages": Kind("a table of status codes, each with the path of a file", dict, convert_pages, items="path"),
    "path": Kind("the path of a file below the root, beginning with a slash", str, convert_url_path, pattern=r"/[^\0]*[^/\0]"),
    "pem": Kind("the path of a file", pattern=FILE, convert=convert_file_path),
    "pattern": Kind("a table of header fields", dict, items="header"),
    "plain_path": Kind("a decoded path that begins with a slash, without empty segments and dot segments", pattern=PLAIN_PATH),
    "protected": Kind("a table with a path and users", dict, PROTECTED),
    "realm": Kind("a string of printable ASCII", pattern=PRINTABLE),
    "redirect": Kind("a path or a URL, percent-encoded", str, convert_redirect, pattern=r"(/|[A-Za-z][A-Za-z0-9+.-]*:)[!-~]*"),
    "redirects": Kind("a table of paths, each with a path or a URL", dict, items="redirect"),
    "seconds": Kind("a number of seconds from {min} to {max}", int | float, convert_number),
    "server_name": Kind("a host name without a port", str, convert_server_name, pattern=SERVER_NAME),
    "server_names": Kind("an array of host names without ports", list, items="server_name"),
    "service": Kind("the name of a service", object, convert_service),
    "site": Kind("a table with the keys of a site", dict, SITE),
    "sites": Kind("an array of tables, each with the keys of a site", list, items="site"),
    "str": Kind("a string"),
    "table": Kind("a table", dict, read_table),
    "tls": Kind("a table, or an array of tables, each with a certificate", dict | list, convert_tls, check=check_certificates),
    "type": Kind('a media type, such as "text/html"', pattern=rf"{TOKEN}/{TOKEN}( *; *[!-~][ -~]*)?"),
    "types": Kind("a table of file name extensions, each with a media type", dict, items="type"),
    "user": Kind("the name of a user, or NAME:GROUP", check=check_user),
    "users_file": Kind("the path of a file made by htpasswd -B", pattern=FILE, convert=convert_file_path),
}
