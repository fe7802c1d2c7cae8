"""The value of a key -> what belongs into the Config: one function for each kind of setting, in the table `KINDS`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple, TypeAlias

from rawservers.config.keys import LISTENER_KEYS, SITE_KEYS, Tree, Wanted, dotted, of_kind, quoted, suggestion
from rawservers.config.positions import Keys
from rawservers.core.bind import Endpoint
from rawservers.core.errors import os_error_text
from rawservers.http.files import hidden
from rawservers.http.request import HOST, TOKEN
from rawservers.http.response import check_headers
from rawservers.services import SERVICES
from rawservers.settings import ADDRESSES, ListenConfig, Setting, SiteConfig, check_user

LOCATION = re.compile(r"(?:/|[A-Za-z][A-Za-z0-9+.-]*:)[!-~]*")
NAME = re.compile(r"[^./\0][^/\0]*")
ENDING = re.compile(r"\.[^./\0A-Z]+")
MEDIA_TYPE = re.compile(rf"{TOKEN}/{TOKEN}(?: *; *[ -~]+)?")
ERROR_STATUS = re.compile(r"[45][0-9][0-9]")


class Unexpected(Exception):
    """A value of another kind than what is wanted, which is said, or else what the setting expects."""

    def __init__(self, wanted: str = "") -> None:
        self.wanted = wanted


class File:
    """folder: where its relative paths begin; given: as `load` takes it; wrong: what is, and where; hosts, endpoints: those
    that stand in it so far."""

    def __init__(self, folder: str, given: Container[str]) -> None:
        self.folder = folder
        self.given = given
        self.wrong: list[tuple[Keys, str]] = []
        self.hosts: set[str] = set()
        self.endpoints: set[Endpoint] = set()


class Place:
    """Where in the file a value stands, and for which setting."""

    def __init__(self, file: File, keys: Keys = (), setting: Setting | None = None) -> None:
        self.file = file
        self.keys = keys
        self.setting = setting or of_kind("table")

    @property
    def key(self) -> str:
        return str(self.keys[-1])

    @property
    def is_looked_up(self) -> bool:
        """Whether the system is to be asked about what stands here."""
        return dotted(self.keys) not in self.file.given

    def below(self, key: str | int, setting: Setting | None = None) -> Place:
        return Place(self.file, (*self.keys, key), setting)

    def complain(self, what: str) -> None:
        self.file.wrong.append((self.keys, what if what.isprintable() else quoted(what)[1:-1]))

    def take(self, value: object) -> Any:
        """What belongs into the Config for `value`; a complaint, and None, if that cannot be said."""
        if isinstance(value, str) and value in self.setting.words:
            return self.setting.words[value]
        try:
            return KINDS[self.setting.kind].take(value, self)
        except Unexpected as error:
            self.complain(f"expected {error.wanted or expected(self.setting)}, not {shown(value)}")
        except ValueError as error:
            self.complain(str(error))

    def each(self, kind: str, value: dict[str, Any] | list[Any]) -> tuple[Any, ...]:
        """What belongs into the Config for each value in a table or an array, all of one kind."""
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return tuple([self.below(key, of_kind(kind)).take(item) for key, item in items])


def shown(value: object) -> str:
    """A value as a complaint cites it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "an array"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of that size"
    text = quoted(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


Taking: TypeAlias = Callable[[Any, Place], Any]


class Kind(NamedTuple):
    """expects: what is taken, for a person, with {least} and {most} for its limits; take: the function that takes it."""

    expects: str
    take: Taking


def expected(setting: Setting) -> str:
    """What is taken, for a person: with its limits, and with the words that stand for something else."""
    words = [quoted(word) for word in setting.words]
    kind = KINDS[setting.kind].expects.format(least=counted(setting.least), most=counted(setting.most))
    return ", or ".join([kind, *words]) if kind else " or ".join(words)


def counted(number: int) -> str:
    """A number as TOML may write it: large ones in groups of three digits."""
    return f"{number:_}" if number >= 100_000 else str(number)


def gather(table: dict[str, Any], place: Place, keys: Mapping[str, Wanted | Tree]) -> dict[str, Any]:
    """What `table` says, by the names of the fields."""
    fields: dict[str, Any] = {}
    for key, value in table.items():
        wanted = keys.get(key)
        if isinstance(wanted, Wanted):
            fields[wanted.field] = place.below(key, wanted.setting).take(value)
        elif wanted is None:
            place.below(key).complain(f"unknown key{suggestion((*place.keys, key))}")
        elif isinstance(value, dict):
            fields |= gather(value, place.below(key), wanted)
        else:
            place.below(key).complain(f"expected a table, not {shown(value)}")
    return fields


# One kind of setting after the other. Each function takes a value and its place; ValueError says what is wrong with it.


def take_switch(value: object, place: Place) -> bool:
    if not isinstance(value, bool):
        raise Unexpected
    return value


def take_number(value: object, place: Place) -> int | float:
    limits = place.setting
    if not isinstance(value, int | float) or isinstance(value, bool) or not limits.least <= value <= limits.most:
        raise Unexpected
    return value


def take_whole(value: object, place: Place) -> int | float:
    if isinstance(value, float):
        raise Unexpected(expected(place.setting).replace("a number", "a whole number"))
    return take_number(value, place)


def take_word(value: object, place: Place) -> None:
    raise Unexpected  # it is none of the setting's words


def take_text(value: object, place: Place) -> str:
    if not isinstance(value, str) or "\0" in value:  # a NUL ends a path for the system, and means nothing elsewhere
        raise Unexpected
    return value


def take_array(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise Unexpected
    return value


def take_table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unexpected
    return value


def array_of(kind: str) -> Taking:
    return lambda value, place: place.each(kind, take_array(value))


def table_of(kind: str) -> Taking:
    return lambda value, place: place.each(kind, take_table(value))


def take_user(value: object, place: Place) -> str:
    user = take_text(value, place)
    if place.is_looked_up:
        check_user(user)
    return user


def take_folder(value: object, place: Place) -> str:
    """A folder that can be read."""
    folder = os.path.join(place.file.folder, take_text(value, place))
    try:
        if place.is_looked_up:
            os.scandir(folder).close()
    except OSError as error:
        raise ValueError(f"cannot serve {folder}: {os_error_text(error)}") from error
    return folder


def take_file(value: object, place: Place) -> str:
    """A file that need not be there, in a folder that must be."""
    path = os.path.join(place.file.folder, take_text(value or None, place))
    if place.is_looked_up and os.path.isdir(path):
        raise ValueError(f"cannot write to {path}: is a directory")
    if place.is_looked_up and not os.path.isdir(os.path.dirname(path) or "."):
        raise ValueError(f"cannot write to {path}: no such folder")
    return path


def take_path(value: object, place: Place) -> str:
    """A path below the root, of a file that may be served."""
    path = take_text(value, place)
    if not path.startswith("/") or path.endswith("/"):
        raise Unexpected
    if hidden(os.fsencode(path)):
        raise ValueError(f"{quoted(path)} is never served: a part of it is empty, or begins with a dot")
    return path


def take_name(value: object, place: Place) -> str:
    """The name of a file that may be served."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise Unexpected
    return value


def take_host(value: object, place: Place) -> str:
    """A host name, which leads to one site only."""
    match = HOST.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] is not None:
        raise Unexpected
    same = match[0].lower().rstrip(".")
    if same in place.file.hosts:
        raise ValueError(f"{quoted(match[0])} stands here twice, or in two sites")
    place.file.hosts.add(same)
    return match[0]


def take_headers(value: object, place: Place) -> tuple[tuple[str, str, str], ...]:
    return tuple(row for rows in place.each("pattern", take_table(value)) for row in rows or ())


def take_pattern(value: object, place: Place) -> tuple[tuple[str, str, str], ...]:
    if not place.key.startswith(("/", "*", "?", "[")):
        place.complain("no path matches this: they all begin with a slash")
    return place.each("header", take_table(value))


def take_header(value: object, place: Place) -> tuple[str, str, str]:
    if not isinstance(value, str):
        raise Unexpected
    check_headers([(place.key, value)])
    return str(place.keys[-2]), place.key, value


def take_redirect(value: object, place: Place) -> tuple[str, str]:
    source = place.key
    if not source.startswith("/") or "\0" in source:
        place.complain("this is no path: it must begin with a slash")
    if not isinstance(value, str) or not LOCATION.fullmatch(value):
        raise Unexpected
    if value == source:
        raise ValueError("this leads to itself")
    if value.endswith("*") and not source.endswith("*"):
        raise ValueError(f"{quoted(value)} ends with a *, which stands for nothing: the path has none")
    return source, value


def take_page(value: object, place: Place) -> tuple[int, str]:
    if not ERROR_STATUS.fullmatch(place.key):
        place.complain("this is not the status of an error, from 400 to 599")
        return 0, take_path(value, place)
    return int(place.key), take_path(value, place)


def take_type(value: object, place: Place) -> tuple[str, str]:
    if not ENDING.fullmatch(place.key):
        place.complain("this is no ending: a dot, and what stands behind a name's last dot, in lower case")
    if not isinstance(value, str) or not MEDIA_TYPE.fullmatch(value):
        raise Unexpected
    return place.key, value


def take_site(value: object, place: Place) -> SiteConfig:
    """A further site, which could not be reached without a host name."""
    fields = gather(take_table(value), place, SITE_KEYS)
    if fields.get("hosts", ()) == ():
        place.below("hosts").complain("missing: only the first site, [http], answers without a name of its own")
    return SiteConfig(**fields)


def take_listener(value: object, place: Place) -> ListenConfig:
    fields = gather(take_table(value), place, LISTENER_KEYS)
    service = fields.get("service", "")
    address = fields.get("address", ADDRESSES.get(service, ""))
    if service == "":
        place.below("service").complain(f"missing: expected {services()}")
    elif service and address == "":
        place.below("address").complain(f"missing: there is no usual one for {service}")
    if address:
        check_alone(Endpoint.parse(address), place.below("address"))
    return ListenConfig(service, address)


def check_alone(endpoint: Endpoint, place: Place) -> None:
    """Complain if something else is given at the same address, unless it is any free port."""
    if endpoint in place.file.endpoints and (endpoint.port or endpoint.path):
        place.complain(f"{endpoint} stands here twice")
    place.file.endpoints.add(endpoint)


def take_service(value: object, place: Place) -> str:
    if not isinstance(value, str) or value not in ADDRESSES.keys() | SERVICES.keys():
        raise Unexpected(services())
    return value


def services() -> str:
    return f"one of {', '.join(map(quoted, dict.fromkeys([*ADDRESSES, *SERVICES])))}"


def take_address(value: object, place: Place) -> str:
    """An address as Endpoint.parse takes it; a path in it may be relative."""
    address = take_text(value, place)
    endpoint = Endpoint.parse(address)
    return f"unix:{os.path.join(place.file.folder, endpoint.path)}" if endpoint.path else address


KINDS = {
    "address": Kind("an address", take_address),
    "file": Kind("a file's path", take_file),
    "folder": Kind("a folder's path", take_folder),
    "header": Kind("a text", take_header),
    "headers": Kind("a table of patterns for paths, each with a table of header fields", take_headers),
    "host": Kind("a host name without a port", take_host),
    "hosts": Kind("an array of host names, without ports", array_of("host")),
    "listener": Kind("a table with a service and an address", take_listener),
    "listeners": Kind("an array of tables, each with a service and an address", array_of("listener")),
    "name": Kind("a file's name, without a slash, or a dot in front", take_name),
    "names": Kind("an array of file names", array_of("name")),
    "number": Kind("a number from {least} to {most}", take_number),
    "page": Kind("a file's path, which begins with a slash", take_page),
    "pages": Kind("a table of statuses, each with a file's path", table_of("page")),
    "path": Kind("a file's path, which begins with a slash", take_path),
    "pattern": Kind("a table of header fields", take_pattern),
    "redirect": Kind("a path or a URL, with % codes for what is not plain ASCII", take_redirect),
    "redirects": Kind("a table of paths, each with a path or a URL", table_of("redirect")),
    "service": Kind("a service's name", take_service),
    "site": Kind("a table with the keys of a site", take_site),
    "sites": Kind("an array of tables, each with the keys of a site", array_of("site")),
    "switch": Kind("true or false", take_switch),
    "text": Kind("a text", take_text),
    "type": Kind('a media type, such as "text/html"', take_type),
    "types": Kind("a table of name endings, each with a media type", table_of("type")),
    "user": Kind("a user's name, or NAME:GROUP", take_user),
    "whole": Kind("a number from {least} to {most}", take_whole),
    "word": Kind("", take_word),
}
