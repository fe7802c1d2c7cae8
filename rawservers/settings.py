"""Every setting once: its name, its default, what it means and why it is so, next to what other servers do.

`Config` and `SiteConfig` are what the rest of the program works by. A field made by `setting` has a key in the configuration
file too: there stands what it is called, and within what limits it is taken. `config/toml.py` reads such files, and
`conf/rawservers.toml` shows every key; it is made from here by `python3 -m tests.example_configuration`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

Handler: TypeAlias = Callable[[Any], Any]  # of a request or a line; what it takes and gives is the protocol's own business

WELCOME = Path(__file__).parent / "welcome"

# Services, by their names in `services.py`, and where they are given unless somebody says otherwise.
ADDRESSES = {"http": "127.0.0.1:8080", "telnet": "127.0.0.1:2323", "status": "unix:/run/rawservers/status"}

DAY = 86400
WEEK = 7 * DAY
YEAR = 365 * DAY


class ConfigError(Exception):
    """A configuration file cannot be used. errors: whole lines for a person, each with the file's name and mostly a line."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


class Setting(NamedTuple):
    """How the configuration file says a field.

    key: its name there, with its section, "" if that is the field's own name; kind: one of `config.toml.KINDS`; least, most:
    the limits of a number; words: texts that stand for a value of another kind; example: lines of TOML.
    """

    key: str
    kind: str
    least: int
    most: int
    words: Mapping[str, object]
    example: str


T = TypeVar("T")


def setting(
    default: T,
    kind: str,
    key: str = "",
    *,
    least: int = 0,
    most: int = 0,
    words: Mapping[str, object] | None = None,
    example: str = "",
) -> T:
    """A dataclass field with this default, and with a key in the configuration file: see `Setting`."""
    return field(default=default, metadata={"setting": Setting(key, kind, least, most, words or {}, example)})


def settings_of(config: type[SiteConfig] | type[Config]) -> dict[str, Setting]:
    """Those fields that the configuration file can say, by their names here."""
    return {each.name: each.metadata["setting"] for each in fields(config) if each.metadata}


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """One listener. service: a name of `services.py`; address: as `core.bind.Endpoint.parse` takes it."""

    service: str
    address: str


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """One tree of documents. Paths begin with a slash and are meant below the root; patterns may hold * and ?."""

    root: str = setting(str(WELCOME), "folder", words={"": str(WELCOME)})
    """The folder to serve. Without one, a bundled welcome page."""

    hosts: tuple[str, ...] = setting((), "hosts", example='hosts = ["www.example.org", "example.org"]')
    """Host names that this site answers to, without a port. The first site of all also answers to any other name."""

    index: tuple[str, ...] = setting(("index.html",), "names")
    """Names to look for where a folder is asked for; the first one found is served."""

    listing: bool = setting(False, "switch")
    """Whether a folder without an index is listed. Off, as in nginx and Apache: names may tell what content does not."""

    precompressed: bool = setting(True, "switch")
    """Whether NAME.br, NAME.zst or NAME.gz is sent for NAME to clients that take it, if it is no older. nginx: gzip_static."""

    max_age: int | None = setting(None, "whole", most=YEAR, words={"off": None})
    """Seconds that files may be used again without asking (Cache-Control). Without it, browsers guess from the file's age.
    More than a year means nothing more (RFC 2616 §14.21)."""

    headers: tuple[tuple[str, str, str], ...] = setting(
        (), "headers", example='headers."*.csv" = { Access-Control-Allow-Origin = "*" }'
    )
    """Header fields to add: a pattern for the path, a name, a value. A field of the same name is replaced."""

    redirects: tuple[tuple[str, str], ...] = setting((), "redirects", example='redirects."/old/*" = "/new/*"')
    """Moved for good: a path, and where to. A * at the end of both stands for the rest."""

    error_pages: tuple[tuple[int, str], ...] = setting((), "pages", example='error_pages.404 = "/404.html"')
    """Pages of one's own: a status, and a file's path."""

    fallback: str | None = setting(None, "path", words={"off": None}, example='fallback = "/index.html"')
    """A file that answers for paths that name none and have no dot in their last part: single-page applications."""

    types: tuple[tuple[str, str], ...] = setting((), "types", example='types.".wasm" = "application/wasm"')
    """Media types by name ending, over those of the standard library."""


@dataclass(frozen=True, slots=True)
class Config:
    """What the servers are to do. Times are in seconds; 0 means no limit."""

    sites: tuple[SiteConfig, ...] = setting(
        (SiteConfig(),),
        "sites",
        "http.sites",
        example='[[http.sites]]\nhosts = ["docs.example"]\nroot = "docs"\nlisting = true',
    )
    """What the HTTP server serves, by host name; without any, the bundled welcome page."""

    workers: int = setting(1, "whole", "workers", most=1024, words={"auto": 0})
    """Processes that serve, side by side on the same sockets; 0: one for each processor that this one may use. nginx: 1, or
    auto. One serves tens of thousands of requests a second; more of them help where there are processors to spare."""

    user: str = setting("", "user", "user", words={"": ""}, example='user = "www-data"')
    """Whom the workers become when started as root: NAME, with all the groups of that user, or NAME:GROUP. Empty: nobody else,
    with a warning for root. nginx: nobody; here that is the operator's choice, since files must be readable for that user."""

    handlers: tuple[tuple[str, Handler], ...] = ()
    """Functions that answer in place of files: a path prefix, and a function Request -> Response (see http/router.py)."""

    body_limit: int = setting(1 << 20, "whole", "http.body_limit", most=1 << 30)
    """Bytes of a request body that a function may be given. nginx 1 MiB: it is held in memory. Files take no body at all."""

    listen: tuple[ListenConfig, ...] = setting(
        (ListenConfig("http", ADDRESSES["http"]), ListenConfig("telnet", ADDRESSES["telnet"])),
        "listeners",
        "listen",
        example='[[listen]]\nservice = "http"\naddress = ":80"',
    )
    """Which service is given at which address."""

    access_log: str = setting("-", "file", "log.access", words={"-": "-", "off": "off"})
    """A file to append to, "-" for standard output, or "off"."""

    log_format: str = setting("combined", "word", "log.format", words={"combined": "combined", "json": "json"})
    """"combined", with the seconds taken behind it, or "json": an object a line."""

    head_time: float = setting(10, "number", "http.head_time", most=DAY)
    """For a whole request head, however its bytes trickle in. nginx 60, Apache 20 to 40; a head is one packet or two."""

    body_time: float = setting(60, "number", "http.body_time", most=DAY)
    """For a whole request body, from its start. nginx 60 between two reads."""

    idle_time: float = setting(75, "number", "http.idle_time", most=DAY)
    """For the next request on a kept connection. nginx 75; browsers give up by themselves after one to five minutes."""

    telnet_idle_time: float = setting(600, "number", "telnet.idle_time", most=WEEK)
    """For the next word on a Telnet connection. A person thinks longer than a browser; OpenSSH's servers often say 600."""

    send_time: float = setting(30, "number", "limits.send_time", most=DAY)
    """For the next 64 KiB of output, or all the rest of it, to be taken by the peer. nginx 60, between two writes."""

    linger_time: float = setting(2, "number", "limits.linger_time", most=DAY)
    """For the peer to hear a refusal out and hang up. nginx 5 between two reads, 30 in all; one round trip is enough."""

    drain_time: float = setting(10, "number", "drain_time", most=DAY)
    """For answers under way to leave after the order to stop. gunicorn: graceful_timeout, 30. systemd's unit allows 30."""

    reload_drain: float = setting(600, "number", "reload_drain", most=WEEK)
    """For the conversations of the old workers to end by themselves after a reload. A Telnet session may last, and loses
    nothing by it; an old worker costs some memory. nginx: worker_shutdown_timeout, none; HAProxy: hard-stop-after, none."""

    stuck_time: float = setting(10, "number", "stuck_time", most=DAY)
    """After which a worker whose loop does not turn is ended, with a dump of where it stands, and replaced: so long after it
    should have told, as each does once a second, that it is well. gunicorn: timeout, 30; here no answer takes long."""

    connections: int = setting(10000, "whole", "limits.connections", most=1_000_000)
    """Open at once in each worker; 0: as many as it has descriptors for. More wait in the kernel's queue until others end, and
    those that wait themselves make room: idle HTTP connections, then unfinished requests, the oldest first. nginx:
    worker_connections, 512; an idle one costs a few KiB, and a descriptor (LimitNOFILE). The status page's come on top."""

    http_connections: int = setting(0, "whole", "http.connections", most=1_000_000)
    """Of these, how many HTTP may have; 0: half of them where Telnet is served, too, else all. Neither of the two
    can take the other's places, as long as both together are no more than all."""

    telnet_connections: int = setting(0, "whole", "telnet.connections", most=1_000_000)
    """Of these, how many Telnet may have; 0: half of them where HTTP is served, too, else all. A session is never closed for a
    new one."""

    connections_per_address: int = setting(0, "whole", "limits.connections_per_address", most=1_000_000)
    """Of these, how many one peer's address may hold in each worker; more are closed at once. 0, as in nginx (limit_conn): any
    number, since many people share an address behind a NAT or a proxy."""

    server_header: bool = setting(True, "switch", "http.server_header")
    """Whether answers name the program and its version (Server). nginx: server_tokens, which hides the version alone."""

    answers: int = setting(16384, "whole", "http.answers", most=10_000_000)
    """HTTP answers remembered in each worker, by their request's bytes or by what decides in them: 1 to 4 KiB each, besides the
    content, which is the file's. Each is checked against the file system before it is said again. Half the room is for any, the
    rest for requests that have come before. 0: none; that costs speed, and makes nothing more true."""

    answer_bytes: int = setting(32 << 20, "whole", "http.answer_bytes", most=1 << 40)
    """Bytes they may take in each worker. No single one may take more than an eighth of that."""

    files: int = setting(16384, "whole", "http.files", most=10_000_000)
    """Files remembered by path, in each worker, each checked by stat before it is used. nginx: open_file_cache, off; when on,
    it may be stale for as long as it is valid."""

    file_bytes: int = setting(64 << 20, "whole", "http.file_bytes", most=1 << 40)
    """Bytes that the small ones among them, up to 16 KiB each, may take in each worker."""

    open_files: int = setting(256, "whole", "http.open_files", most=1_000_000)
    """How many of the large ones each worker keeps open. They count against the descriptors it is allowed, which connections
    need as well."""

    requests: int = setting(0, "whole", "http.requests", most=1_000_000_000)
    """Answers per HTTP connection. nginx 1000, to give memory back; here nothing of a connection grows with its requests."""

    telnet_service: Handler | None = None
    """Code that answers lines in place of the echo: a function of a line, or a generator (see telnet/session.py)."""

    telnet_greeting: str = setting("", "text", "telnet.greeting")
    """Said to every new Telnet connection. Empty: some clients take it for an answer, and a port scanner learns nothing."""

    longest_line: int = setting(4096, "whole", "telnet.longest_line", least=1, most=1 << 20)
    """Bytes of a Telnet line. Terminals in line mode stop at 4095 (Linux, N_TTY)."""


def check_user(text: str) -> None:
    """ValueError unless NAME, or NAME:GROUP, is known to the system."""
    import grp  # here, since most starts have no use for them
    import pwd

    name, colon, group = text.partition(":")
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"there is no user {name!r}") from None
    try:
        if colon:
            grp.getgrnam(group)
    except KeyError:
        raise ValueError(f"there is no group {group!r}") from None
