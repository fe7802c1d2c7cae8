"""A configuration file, in TOML -> Config; or all that is wrong in it, each mistake with its line.

The settings are in `settings.py`; `KEYS` is the tree of their tables and keys. `gather` goes through the file by that tree,
and has each value taken by the function for its kind of setting, which gives what belongs into the Config or raises.
`Place.attempt` makes a complaint of that, and goes on, so that all complaints are told at once.

tomllib keeps no positions. When there is a complaint, and only then, `statements` cuts the file up: a statement is the fewest
lines that parse by themselves, and what it parses to says which keys stand there.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from rawservers.core.bind import Endpoint
from rawservers.http.files import is_hidden
from rawservers.http.request import HOST, TOKEN
from rawservers.http.response import check_headers
from rawservers.services import SERVICES
from rawservers.settings import ADDRESSES, Config, ConfigError, ListenConfig, Setting, SiteConfig, check_user, settings_of

Keys: TypeAlias = "tuple[str | int, ...]"  # the way from the top of the file to a value; numbers lead into arrays
Lines: TypeAlias = "dict[Keys, int]"

BARE = re.compile(r"[A-Za-z0-9_-]+")  # a key that needs no quotes
AT = re.compile(r" \(at line (\d+), column (\d+)\)$")
LOCATION = re.compile(r"(?:/|[A-Za-z][A-Za-z0-9+.-]*:)[!-~]*")
NAME = re.compile(r"[^./\0][^/\0]*")
ENDING = re.compile(r"\.[^./\0A-Z]+")
MEDIA_TYPE = re.compile(rf"{TOKEN}/{TOKEN}(?: *; *[ -~]+)?")
ERROR_STATUS = re.compile(r"[45][0-9][0-9]")


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
        raise ConfigError([f"{path}: cannot be read: {because(error)}"]) from error
    try:
        return data.decode().replace("\r\n", "\n") + "\n"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x}"]) from error


def because(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)


# Complaints


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


def dotted(keys: Keys) -> str:
    """The name of a key as a person would write it; which element of an array it is in is left to the line number."""
    names = (key for key in keys if isinstance(key, str))
    return ".".join(name if BARE.fullmatch(name) else quoted(name) for name in names)


def quoted(text: str) -> str:
    """A text as TOML would write it, on one line of printable characters."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


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


def of_kind(kind: str) -> Setting:
    """A setting that has no limits, and no words."""
    return Setting("", kind, 0, 0, {}, "")


def expected(setting: Setting) -> str:
    """What is taken, for a person: with its limits, and with the words that stand for something else."""
    words = [quoted(word) for word in setting.words]
    kind = KINDS[setting.kind].expects.format(least=counted(setting.least), most=counted(setting.most))
    return ", or ".join([kind, *words]) if kind else " or ".join(words)


def counted(number: int) -> str:
    """A number as TOML may write it: large ones in groups of three digits."""
    return f"{number:_}" if number >= 100_000 else str(number)


# From the top of the file down to the single setting


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


def configured(table: dict[str, Any], top: Place) -> Config:
    """The Config that the whole file says; a senseless one if there were complaints."""
    fields = {"listen": ()} | gather(table, top, KEYS)
    first = SiteConfig(**{name: fields.pop(name) for name in SITE_KEYS if name in fields})
    return Config(sites=(first, *(fields.pop("sites", ()) or ())), **fields)


def gather(table: dict[str, Any], place: Place, keys: Mapping[str, Wanted | Tree]) -> dict[str, Any]:
    """What `table` says, by the names of the fields."""
    fields: dict[str, Any] = {}
    for key, value in table.items():
        wanted = keys.get(key)
        if isinstance(wanted, Wanted):
            fields[wanted.field] = place.below(key, wanted.setting).take(value)
        elif wanted is None:
            place.below(key).complain(f"unknown key{suggestion(place.below(key))}")
        elif isinstance(value, dict):
            fields |= gather(value, place.below(key), wanted)
        else:
            place.below(key).complain(f"expected a table, not {shown(value)}")
    return fields


def suggestion(place: Place) -> str:
    """A key that may be meant: spelt alike, or the same in another table."""

    def likeness(name: str) -> float:
        table, _, key = name.rpartition(".")
        return difflib.SequenceMatcher(None, key, place.key).ratio() + (0.15 if table == dotted(place.keys[:-1]) else 0)

    best = max(NAMES, key=likeness)
    return f" (did you mean {best}?)" if likeness(best) >= 0.8 else ""


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
        raise ValueError(f"cannot serve {folder}: {because(error)}") from error
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
    if is_hidden(os.fsencode(path)):
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

SITE_KEYS = {name: Wanted(name, setting) for name, setting in settings_of(SiteConfig).items()}
LISTENER_KEYS = {kind: Wanted(kind, of_kind(kind)) for kind in ("service", "address")}
KEYS = tree()
NAMES = [*names_in(KEYS), *names_in(SITE_KEYS, "http.sites."), *names_in(LISTENER_KEYS, "listen.")]


# Where things stand


def not_toml(path: str, text: str, error: Exception) -> str:
    """What tomllib says, with the line in front."""
    what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    at = AT.search(what)
    if at:
        return f"{path}:{at[1]}: not TOML: {what[: at.start()]}, at column {at[2]}"
    line = next((line for line, parsed in statements(text) if parsed is None), text.count("\n"))
    return f"{path}:{line}: not TOML: {what.removesuffix(' (at end of document)')}"


def statements(text: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Every statement: the number of its first line, and what it parses to; the last may be one that does not, None."""
    lines = text.split("\n")
    start = 0
    while start < len(lines):
        end, parsed = statement(lines, start)
        yield start + 1, parsed
        start = end


def statement(lines: list[str], start: int) -> tuple[int, dict[str, Any] | None]:
    """The statement that begins with the line of index `start`: the index behind it, and what it parses to."""
    for end in range(start + 1, len(lines) + 1):
        try:
            return end, tomllib.loads("\n".join(lines[start:end]))
        except (ValueError, RecursionError):
            continue
    return len(lines), None


def line_numbers(text: str) -> Lines:
    """The line on which each key stands, for a file that is TOML."""
    lines = text.split("\n")
    found: Lines = {(): 1}
    sizes: Counter[Keys] = Counter()  # of the arrays of tables so far
    table: Keys = ()
    for line, parsed in statements(text):
        if lines[line - 1].lstrip().startswith("["):
            table = opened(parsed or {}, sizes, found, line)
        else:
            note(parsed or {}, table, found, line)
    return found


def opened(parsed: dict[str, Any], sizes: Counter[Keys], found: Lines, line: int) -> Keys:
    """The table that a header opens: [[x]] the next one of the array x, [x.y] the table y in the last one."""
    keys: Keys = ()
    while parsed:
        ((name, below),) = parsed.items()
        keys = (*keys, name)
        found.setdefault(keys, line)
        if isinstance(below, list):
            sizes[keys] += 1
            below = below[0]
        if sizes[keys]:
            keys = (*keys, sizes[keys] - 1)
            found.setdefault(keys, line)
        parsed = below
    return keys


def note(value: object, keys: Keys, found: Lines, line: int) -> None:
    """Note that all of `value` stands on this line."""
    found.setdefault(keys, line)
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        note(below, (*keys, key), found, line)


def line_of(keys: Keys, lines: Lines) -> int:
    """The line of a key, or of the table that it is missing in."""
    while keys not in lines:
        keys = keys[:-1]
    return lines[keys]
