"""Every setting once: its name, its default, what it means and why it is so, next to what other servers do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Function: TypeAlias = Callable[[Any], Any]  # of a request or a line; what it takes and gives is the protocol's own business

WELCOME = Path(__file__).parent / "welcome"


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """One tree of documents. Paths begin with a slash and are meant below the root; patterns may hold * and ?."""

    root: str = str(WELCOME)
    """The folder to serve."""

    hosts: tuple[str, ...] = ()
    """Host names that this site answers to, without a port. The first site of all also answers to any other name."""

    index: tuple[str, ...] = ("index.html",)
    """Names to look for where a folder is asked for; the first one found is served."""

    listing: bool = False
    """Whether a folder without an index is listed. Off, as in nginx and Apache: names may tell what content does not."""

    precompressed: bool = True
    """Whether NAME.br, NAME.zst or NAME.gz is sent for NAME to clients that take it, if it is no older. nginx: gzip_static."""

    max_age: int | None = None
    """Seconds that files may be used again without asking (Cache-Control). Without it, browsers guess from the file's age."""

    headers: tuple[tuple[str, str, str], ...] = ()
    """Header fields to add: a pattern for the path, a name, a value. A field of the same name is replaced."""

    redirects: tuple[tuple[str, str], ...] = ()
    """Moved for good: a path, and where to. A * at the end of both stands for the rest."""

    error_pages: tuple[tuple[int, str], ...] = ()
    """Pages of one's own: a status, and a file's path."""

    fallback: str | None = None
    """A file that answers for paths that name none and have no dot in their last part: single-page applications."""

    types: tuple[tuple[str, str], ...] = ()
    """Media types by name ending, over those of the standard library: (".wasm", "application/wasm")."""


@dataclass(frozen=True, slots=True)
class Config:
    """What the servers are to do. Times are in seconds; 0 means no limit."""

    sites: tuple[SiteConfig, ...] = (SiteConfig(),)
    """What the HTTP server serves, by host name; without any, the bundled welcome page."""

    functions: tuple[tuple[str, Function], ...] = ()
    """Code that answers in place of files: the beginning of a path, and a function of the request (see http/router.py)."""

    body_limit: int = 1 << 20
    """Bytes of a request body that a function may be given. nginx 1 MiB: it is held in memory."""

    listen: tuple[tuple[str, str], ...] = (("http", "127.0.0.1:8080"), ("telnet", "127.0.0.1:2323"))
    """Services, by their names in `services.py`, and the addresses to give them at, as `Endpoint.parse` takes them."""

    access_log: str = "-"
    """A file to append to, "-" for standard output, or "off"."""

    log_format: str = "combined"
    """"combined", with the seconds taken behind it, or "json": an object a line."""

    head_time: float = 10
    """For a whole request head, however its bytes trickle in. nginx 60, Apache 20 to 40; a head is one packet or two."""

    body_time: float = 60
    """For a whole request body, from its start. nginx 60 between two reads."""

    idle_time: float = 75
    """For the next request on a kept connection. nginx 75; browsers give up by themselves after one to five minutes."""

    telnet_idle_time: float = 600
    """For the next word on a Telnet connection. A person thinks longer than a browser; OpenSSH's servers often say 600."""

    send_time: float = 30
    """For the next 64 KiB of output, or all the rest of it, to be taken by the peer. nginx 60, between two writes."""

    linger_time: float = 2
    """For the peer to hear a refusal out and hang up. nginx 5 between two reads, 30 in all; one round trip is enough."""

    drain_time: float = 10
    """For answers under way to leave after the order to stop. systemd kills after 90."""

    requests: int = 0
    """Answers per HTTP connection. nginx 1000, to give memory back; here nothing of a connection grows with its requests."""

    telnet_service: Function | None = None
    """Code that answers lines in place of the echo: a function of a line, or a generator (see telnet/echo.py)."""

    telnet_greeting: str = ""
    """Said to every new Telnet connection. Empty: some clients take it for an answer, and a port scanner learns nothing."""

    longest_line: int = 4096
    """Bytes of a Telnet line. Terminals in line mode stop at 4095 (Linux, N_TTY)."""
