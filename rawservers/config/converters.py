"""Converters from parsed TOML values to those of a Config: one for each kind of setting, in the table `KINDS`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple, TypeAlias

from rawservers.config.keys import LISTEN_KEYS, SITE_KEYS, KeySpec, KeyTree, dotted_key, suggestion, toml_string
from rawservers.config.positions import KeyPath
from rawservers.core.bind import Endpoint
from rawservers.core.errors import os_error_text
from rawservers.http.files import is_hidden
from rawservers.http.request import HOST, TOKEN
from rawservers.http.response import check_headers
from rawservers.settings import ListenConfig, Setting, SiteConfig, check_user

REDIRECT_TARGET = re.compile(r"(?:/|[A-Za-z][A-Za-z0-9+.-]*:)[!-~]*")
FILE_NAME = re.compile(r"[^./\0][^/\0]*")
EXTENSION = re.compile(r"\.[^./\0A-Z]+")
MEDIA_TYPE = re.compile(rf"{TOKEN}/{TOKEN}(?: *; *[ -~]+)?")
ERROR_STATUS = re.compile(r"[45][0-9][0-9]")


class InvalidValue(Exception):
    """A value of the wrong kind, or out of range. expected: what is allowed; empty: what the setting allows."""

    def __init__(self, expected: str = "") -> None:
        self.expected = expected


class SourceFile:
    """The file being read, and what its values have in common.

    directory: base of its relative paths; services, overridden: as for `toml.load`; errors: key paths and messages; hosts,
    endpoints: those found so far, since a second use is an error.
    """

    def __init__(self, directory: str, services: Mapping[str, str], overridden: Container[str]) -> None:
        self.directory = directory
        self.services = services
        self.overridden = overridden
        self.errors: list[tuple[KeyPath, str]] = []
        self.hosts: set[str] = set()
        self.endpoints: set[Endpoint] = set()


class Context:
    """The context of a value: its file, its key path, and the setting that it is a value of."""

    def __init__(self, source: SourceFile, path: KeyPath = (), setting: Setting | None = None) -> None:
        self.source = source
        self.path = path
        self.setting = setting or Setting("", "table")

    @property
    def key(self) -> str:
        return str(self.path[-1])

    @property
    def is_effective(self) -> bool:
        """Whether the value is used, not overridden by an option. Only then is it checked against the system."""
        return dotted_key(self.path) not in self.source.overridden

    def child(self, key: str | int, setting: Setting | None = None) -> Context:
        return Context(self.source, (*self.path, key), setting)

    def add_error(self, message: str) -> None:
        self.source.errors.append((self.path, message if message.isprintable() else toml_string(message)[1:-1]))

    def convert(self, value: object) -> Any:
        """The value for the Config; None, and an error added, if `value` is invalid."""
        if isinstance(value, str) and value in self.setting.aliases:
            return self.setting.aliases[value]
        try:
            return KINDS[self.setting.kind].convert(value, self)
        except InvalidValue as error:
            self.add_error(f"expected {error.expected or allowed_values(self.setting)}, not {describe(value)}")
        except ValueError as error:
            self.add_error(str(error))

    def convert_all(self, kind: str, values: dict[str, Any] | list[Any]) -> tuple[Any, ...]:
        """The converted values of a table or an array whose values are all of one kind."""
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return tuple([self.child(key, Setting("", kind)).convert(value) for key, value in items])


Converter: TypeAlias = Callable[[Any, Context], Any]


class Kind(NamedTuple):
    """A kind of setting. allowed: its values, for error messages, with {min} and {max}; convert: the converter."""

    allowed: str
    convert: Converter


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
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "an array"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of this size"
    text = toml_string(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_table(table: dict[str, Any], context: Context, keys: Mapping[str, KeySpec | KeyTree]) -> dict[str, Any]:
    """The converted values of `table`, by the names of the fields that they set."""
    fields: dict[str, Any] = {}
    for key, value in table.items():
        spec = keys.get(key)
        if isinstance(spec, KeySpec):
            fields[spec.field] = context.child(key, spec.setting).convert(value)
        elif spec is None:
            context.child(key).add_error(f"unknown key{suggestion((*context.path, key))}")
        elif isinstance(value, dict):
            fields |= read_table(value, context.child(key), spec)
        else:
            context.child(key).add_error(f"expected a table, not {describe(value)}")
    return fields


# Converters: the parsed value and its context -> the value for the Config. They raise InvalidValue or ValueError.


def convert_boolean(value: object, context: Context) -> bool:
    if not isinstance(value, bool):
        raise InvalidValue
    return value


def convert_number(value: object, context: Context) -> int | float:
    limits = context.setting
    if not isinstance(value, int | float) or isinstance(value, bool) or not limits.min <= value <= limits.max:
        raise InvalidValue
    return value


def convert_integer(value: object, context: Context) -> int | float:
    if isinstance(value, float):
        raise InvalidValue
    return convert_number(value, context)


def convert_choice(value: object, context: Context) -> None:
    raise InvalidValue  # it is none of the aliases, which are all that is allowed


def convert_string(value: object, context: Context) -> str:
    if not isinstance(value, str) or "\0" in value:  # NUL ends a path in system calls, and has no use elsewhere
        raise InvalidValue
    return value


def convert_array(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidValue
    return value


def convert_table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValue
    return value


def array_of(kind: str) -> Converter:
    return lambda value, context: context.convert_all(kind, convert_array(value))


def table_of(kind: str) -> Converter:
    return lambda value, context: context.convert_all(kind, convert_table(value))


def convert_user(value: object, context: Context) -> str:
    user = convert_string(value, context)
    if context.is_effective:
        check_user(user)
    return user


def convert_directory(value: object, context: Context) -> str:
    """An existing, readable directory."""
    path = os.path.join(context.source.directory, convert_string(value, context))
    try:
        if context.is_effective:
            os.scandir(path).close()
    except OSError as error:
        raise ValueError(f"cannot serve {path}: {os_error_text(error)}") from error
    return path


def convert_file(value: object, context: Context) -> str:
    """A file, which need not exist, in an existing directory."""
    path = os.path.join(context.source.directory, convert_string(value or None, context))
    if context.is_effective and os.path.isdir(path):
        raise ValueError(f"cannot write to {path}: is a directory")
    if context.is_effective and not os.path.isdir(os.path.dirname(path) or "."):
        raise ValueError(f"cannot write to {path}: no such directory")
    return path


def convert_path(value: object, context: Context) -> str:
    """The path of a file below the root that is not hidden."""
    path = convert_string(value, context)
    if not path.startswith("/") or path.endswith("/"):
        raise InvalidValue
    if is_hidden(os.fsencode(path)):
        raise ValueError(f"{toml_string(path)} is never served: it has a segment that is empty or begins with a dot")
    return path


def convert_name(value: object, context: Context) -> str:
    """A file name without a slash that is not hidden."""
    if not isinstance(value, str) or not FILE_NAME.fullmatch(value):
        raise InvalidValue
    return value


def convert_host(value: object, context: Context) -> str:
    """A host name that no other site has."""
    match = HOST.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] is not None:
        raise InvalidValue
    normalized = match[0].lower().rstrip(".")
    if normalized in context.source.hosts:
        raise ValueError(f"duplicate host name {toml_string(match[0])}")
    context.source.hosts.add(normalized)
    return match[0]


def convert_headers(value: object, context: Context) -> tuple[tuple[str, str, str], ...]:
    return tuple(field for fields in context.convert_all("pattern", convert_table(value)) for field in fields or ())


def convert_pattern(value: object, context: Context) -> tuple[tuple[str, str, str], ...]:
    if not context.key.startswith(("/", "*", "?", "[")):
        context.add_error("the pattern matches no path: paths begin with a slash")
    return context.convert_all("header", convert_table(value))


def convert_header(value: object, context: Context) -> tuple[str, str, str]:
    if not isinstance(value, str):
        raise InvalidValue
    check_headers([(context.key, value)])
    return str(context.path[-2]), context.key, value


def convert_redirect(value: object, context: Context) -> tuple[str, str]:
    path = context.key
    if not path.startswith("/") or "\0" in path:
        context.add_error("not a path: expected a leading slash")
    if not isinstance(value, str) or not REDIRECT_TARGET.fullmatch(value):
        raise InvalidValue
    if value == path:
        raise ValueError("the redirect leads to itself")
    if value.endswith("*") and not path.endswith("*"):
        raise ValueError(f"{toml_string(value)} ends with *, but the path does not")
    return path, value


def convert_page(value: object, context: Context) -> tuple[int, str]:
    if not ERROR_STATUS.fullmatch(context.key):
        context.add_error("not an error status: expected 400 to 599")
        return 0, convert_path(value, context)
    return int(context.key), convert_path(value, context)


def convert_type(value: object, context: Context) -> tuple[str, str]:
    if not EXTENSION.fullmatch(context.key):
        context.add_error("not a file name extension: expected the last dot and what follows it, in lower case")
    if not isinstance(value, str) or not MEDIA_TYPE.fullmatch(value):
        raise InvalidValue
    return context.key, value


def convert_site(value: object, context: Context) -> SiteConfig:
    """An element of [[http.sites]], which needs a host name to be reachable."""
    fields = read_table(convert_table(value), context, SITE_KEYS)
    if fields.get("hosts", ()) == ():
        context.child("hosts").add_error("missing: all sites but the first, [http], need a host name")
    return SiteConfig(**fields)


def convert_listener(value: object, context: Context) -> ListenConfig:
    fields = read_table(convert_table(value), context, LISTEN_KEYS)
    service = fields.get("service", "")
    address = fields.get("address", context.source.services.get(service, ""))
    if service == "":
        context.child("service").add_error(f"missing: expected {service_names(context)}")
    elif service and address == "":
        context.child("address").add_error(f"missing: {service} has no default address")
    if address:
        check_duplicate(Endpoint.parse(address), context.child("address"))
    return ListenConfig(service, address)


def check_duplicate(endpoint: Endpoint, context: Context) -> None:
    """Add an error if another listener has the same address, unless its port is 0: any free one."""
    if endpoint in context.source.endpoints and (endpoint.port or endpoint.path):
        context.add_error(f"duplicate address {endpoint}")
    context.source.endpoints.add(endpoint)


def convert_service(value: object, context: Context) -> str:
    if not isinstance(value, str) or value not in context.source.services:
        raise InvalidValue(service_names(context))
    return value


def service_names(context: Context) -> str:
    return f"one of {', '.join(map(toml_string, context.source.services))}"


def convert_address(value: object, context: Context) -> str:
    """An address for Endpoint.parse, with the path of a unix socket joined to the directory of the file."""
    address = convert_string(value, context)
    endpoint = Endpoint.parse(address)
    return f"unix:{os.path.join(context.source.directory, endpoint.path)}" if endpoint.path else address


KINDS = {
    "address": Kind("an address", convert_address),
    "boolean": Kind("true or false", convert_boolean),
    "choice": Kind("", convert_choice),
    "directory": Kind("the path of a directory", convert_directory),
    "file": Kind("the path of a file", convert_file),
    "header": Kind("a string", convert_header),
    "headers": Kind("a table of path patterns, each with a table of header fields", convert_headers),
    "host": Kind("a host name without a port", convert_host),
    "hosts": Kind("an array of host names without ports", array_of("host")),
    "integer": Kind("an integer from {min} to {max}", convert_integer),
    "listener": Kind("a table with a service and an address", convert_listener),
    "listeners": Kind("an array of tables, each with a service and an address", array_of("listener")),
    "name": Kind("a file name, without a slash or a leading dot", convert_name),
    "names": Kind("an array of file names", array_of("name")),
    "page": Kind("the path of a file below the root, beginning with a slash", convert_page),
    "pages": Kind("a table of status codes, each with the path of a file", table_of("page")),
    "path": Kind("the path of a file below the root, beginning with a slash", convert_path),
    "pattern": Kind("a table of header fields", convert_pattern),
    "redirect": Kind("a path or a URL, percent-encoded", convert_redirect),
    "redirects": Kind("a table of paths, each with a path or a URL", table_of("redirect")),
    "seconds": Kind("a number of seconds from {min} to {max}", convert_number),
    "service": Kind("the name of a service", convert_service),
    "site": Kind("a table with the keys of a site", convert_site),
    "sites": Kind("an array of tables, each with the keys of a site", array_of("site")),
    "string": Kind("a string", convert_string),
    "type": Kind('a media type, such as "text/html"', convert_type),
    "types": Kind("a table of file name extensions, each with a media type", table_of("type")),
    "user": Kind("the name of a user, or NAME:GROUP", convert_user),
}
