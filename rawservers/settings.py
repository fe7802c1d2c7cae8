"""The settings: the name, default, limits and meaning of each one, and the reason for its default.

`Config` is what the program runs with. A field made by `setting` also has a key in the configuration file, which config/ reads.
The docstrings of the fields are the text of `conf/rawservers.toml`, which `python3 -m tests.example_configuration` generates.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

from rawservers.core.bind import Endpoint
from rawservers.core.record import Record, required
from rawservers.schema import DAY, Setting, check_duplicates, check_fields, seconds, setting
from rawservers.schema import settings_of as settings_of

Handler: TypeAlias = Callable[[Any], Any]  # of a request or a line; what it takes and gives is the protocol's own business

HOME = os.path.dirname(__file__)  # of the package
WELCOME = os.path.join(HOME, "welcome")  # no directory, if the package is in a zip archive: see `read_data`

# The forms of an address, for people. `core.bind.Endpoint.parse` reads them.
ADDRESS_FORMS = "HOST:PORT, [IPV6]:PORT, PORT (on 127.0.0.1), :PORT (all interfaces, IPv4 and IPv6) or unix:PATH"

WEEK, YEAR = 7 * DAY, 365 * DAY


@cache
def read_data(name: str) -> str:
    """A data file of the package, in UTF-8, by its path in it. Raises OSError.

    The package may be in a zip archive. It is read once: an upgrade replaces the archive under a running server.
    """
    loader: Any = __spec__.loader  # of a directory, or of an archive: both can do this
    data: bytes = loader.get_data(os.path.join(HOME, name))
    return data.decode()


class ConfigError(Exception):
    """An unusable configuration file. errors: messages of one line, each beginning with PATH: or PATH:LINE:."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


class TLSConfig(Record):
    """A certificate for TLS. Raises ValueError."""

    certificate: str = required(Setting("listen.tls.certificate", "pem"))
    """File of the certificate in PEM, followed by the intermediate certificates."""

    key: str = setting("", "listen.tls.key", "pem", aliases={"": ""})
    """File of its private key in PEM, not encrypted. Empty: it is in the file of the certificate."""

    hosts: tuple[str, ...] = setting((), "listen.tls.hosts", "server_names")
    """Host names that the certificate is for, as "www.example.org" or "*.example.org". The first certificate is for all
    others."""

    def __post_init__(self) -> None:
        check_fields(self)


class ListenConfig(Record):
    """A listener. service: a name in `services.py`; address: as for `core.bind.Endpoint.parse`. Raises ValueError."""

    service: str = required(Setting("listen.service", "service"))
    address: str = required(Setting("listen.address", "address"))

    mode: int | None = setting(None, "listen.mode", "mode", aliases={"": None})
    """Mode of the file of a unix socket, such as "0660": a client needs write permission. Empty: that of the umask, at most
    0755, so that only the owner may connect."""

    owner: str = setting("", "listen.owner", "owner", aliases={"": ""})
    """User who owns the file of a unix socket. Empty: the user of the workers."""

    group: str = setting("", "listen.group", "group", aliases={"": ""})
    """Group of the file of a unix socket. Empty: the group of the workers, unless an owner is given."""

    proxy_protocol: tuple[str, ...] = setting((), "listen.proxy_protocol", "networks")
    """Proxies that begin each connection with a header of the PROXY protocol, version 1 or 2: networks and addresses, such as
    "10.0.0.0/8", and "unix" for all peers on a unix socket. Logs, handlers and Telnet services see the client that the header
    names; limits per address count the proxy. A proxy that sends no valid header is disconnected. From any other peer a header
    is ordinary input. nginx: proxy_protocol and set_real_ip_from; HAProxy: accept-proxy."""

    tls: tuple[TLSConfig, ...] = setting(
        (), "listen.tls", "tls", example='tls = { certificate = "site.pem", key = "site.key" }'
    )
    """TLS 1.2 and 1.3, which makes http https, and telnet telnets: a table with the files of a certificate and of its private
    key, in PEM: { certificate = "site.pem", key = "site.key" }. Without a key, it is in the file of the certificate. Or an
    array of such tables, each but the first with hosts = ["www.example.org", "*.example.org"]: the client says which host it
    asks for (SNI), and the first certificate is for all others. The files are read at the start and at each reload, before
    privileges are dropped. nginx: ssl_certificate, ssl_certificate_key."""

    def __post_init__(self) -> None:
        if isinstance(self.tls, TLSConfig):
            vars(self)["tls"] = (self.tls,)
        check_fields(self)
        if not all(each.hosts for each in self.tls[1:]):
            raise ValueError("tls: all certificates but the first need hosts")
        check_duplicates("tls", "host name", [(host.lower(), host) for each in self.tls for host in each.hosts])
        try:
            endpoint = Endpoint.parse(self.address)
        except ValueError as error:
            raise ValueError(f"address: {error}") from error
        for name in ("mode", "owner", "group"):
            if getattr(self, name) not in {None, ""} and endpoint.path is None:
                raise ValueError(f"{name}: only unix sockets have one, not {self.address}")

    @property
    def name(self) -> str:
        """The name of the service, with an "s" if it uses TLS: https, telnets."""
        return f"{self.service}s" if self.tls else self.service


class AuthConfig(Record):
    """A path that needs a user and a password, with all that is below it. Raises ValueError.

    path: decoded, with or without a final slash; users: the file of those who may have it, None: everybody may; realm: the name
    that browsers show.
    """

    path: str = required(Setting("http.auth.path", "plain_path"))
    users: str | None = required(Setting("http.auth.users", "users_file", aliases={"off": None}))
    realm: str = setting("Restricted", "http.auth.realm", "realm")

    def __post_init__(self) -> None:
        check_fields(self)


class SiteConfig(Record):
    """A site: a document root, and how its files are served.

    Paths begin with a slash, and are relative to the root. Patterns may contain * and ?.

    Raises ValueError for a field of a wrong type or beyond its limits.
    """

    root: str = setting(WELCOME, "http.root", "directory", aliases={"": WELCOME})
    """Document root: the directory to serve. Names that begin with a dot are not served, except /.well-known/. Empty: a bundled
    welcome page."""

    hosts: tuple[str, ...] = setting((), "http.hosts", "hosts", example='hosts = ["www.example.org", "example.org"]')
    """Host names of this site, without ports; an IPv6 address is in brackets. The first site also answers requests for all
    other names."""

    index: tuple[str, ...] = setting(("index.html",), "http.index", "names")
    """Index files of a directory, in the order of preference."""

    listing: bool = setting(False, "http.listing")
    """Listing of directories that have no index file. Off, as in nginx (autoindex) and Apache: file names may be
    confidential."""

    precompressed: bool = setting(True, "http.precompressed")
    """Precompressed files: NAME.br, NAME.zst or NAME.gz is sent in place of NAME if the client accepts the coding and the
    file is not older than NAME. nginx: gzip_static, off."""

    max_age: int | None = setting(None, "http.max_age", "int", max=YEAR, aliases={"off": None})
    """Cache lifetime of files in seconds, sent as Cache-Control: max-age. 0: caches revalidate each time. "off": no
    Cache-Control; browsers then derive a lifetime from the age of the file. At most a year (RFC 2616 §14.21)."""

    headers: tuple[tuple[str, str, str], ...] = setting(
        (), "http.headers", "headers", example='headers."*.csv" = { Access-Control-Allow-Origin = "*" }'
    )
    """Header fields to add to all responses, errors and redirects included, by pattern. A pattern is compared with the whole
    decoded path of the URL, without the query; * stands for any text, slashes included, and ? for any character. All patterns
    that match apply; a field replaces an earlier one of the same name, also one of the server, such as Cache-Control."""

    redirects: tuple[tuple[str, str], ...] = setting((), "http.redirects", "redirects", example='redirects."/old/*" = "/new/*"')
    """Permanent redirects (301): a path, and the path or URL to redirect to. The first that matches applies, before files are
    looked up. A * at the end of the path stands for any rest; a * at the end of the target is replaced by it. The query is
    kept, unless the target has one."""

    error_pages: tuple[tuple[int, str], ...] = setting((), "http.error_pages", "pages", example='error_pages.404 = "/404.html"')
    """Custom error pages: a status code, and the path of a file below the root."""

    fallback: str | None = setting(None, "http.fallback", "path", aliases={"off": None}, example='fallback = "/index.html"')
    """File to send for paths that do not exist, as single-page applications need. If there is a dot in the last segment, as in
    /app.js or /user/john.doe, only clients that name text/html in Accept get it, as browsers do for a page. nginx: try_files.
    "off": such paths are 404."""

    auth: tuple[AuthConfig, ...] = setting(
        (), "http.auth", "auth", example='auth = [{ path = "/private/", users = "users", realm = "Members only" }]'
    )
    """Basic authentication (RFC 7617), by path: a path is decoded, and protects all that is below it, handlers included. Of
    several, the longest decides. users: a file made by htpasswd -B (bcrypt; the Python package bcrypt is
    needed), or "off": everybody. It is read before privileges are dropped, at a reload, and when it has changed, if the
    workers may read it. realm: a name that browsers show, by default "Restricted". Passwords are sent unencrypted, unless the
    connection uses TLS. nginx: auth_basic_user_file."""

    types: tuple[tuple[str, str], ...] = setting((), "http.types", "types", example='types.".log" = "text/x-log"')
    """Media types by file name extension, taking precedence over the built-in ones (rawservers/http/media_types.txt). "": the
    type of names without a dot, those excepted that have a built-in type, such as README. Default: application/octet-stream."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_duplicates("auth", "path", [(each.path.rstrip("/"), each.path) for each in self.auth])


class Config(Record):
    """The configuration of the whole server. Times are in seconds, and 0 is no limit.

    Raises ValueError for a field of a wrong type or beyond its limits.
    """

    sites: tuple[SiteConfig, ...] = setting(
        (SiteConfig(),), "http.sites", "sites", example='[[http.sites]]\nhosts = ["www.example"]\nroot = "docs"\nlisting = true'
    )
    """Sites, by host name. Default: one site, the bundled welcome page."""

    workers: int = setting(1, "workers", max=1024, aliases={"auto": 0})
    """Number of worker processes, which share the listening sockets. "auto" or 0: one for each CPU that the process may
    use. nginx: worker_processes, 1. One worker serves tens of thousands of requests a second."""

    user: str = setting("", "user", "user", aliases={"": ""}, example='user = "www-data"')
    """User of the workers, when started as root: NAME (with all groups of that user) or NAME:GROUP. The user must be able to
    read the files. Empty, as it must be with the supplied systemd unit: the user who starts the server; a warning is logged
    if that is root. nginx: user, nobody."""

    handlers: tuple[tuple[str, Handler], ...] = ()
    """Functions that answer in place of files: a path, with all that is below it, and a function Request -> Response (see
    http/router.py)."""

    body_limit: int = setting(1 << 20, "http.body_limit", max=1 << 30)
    """Maximum size of a request body in bytes; a longer one is answered by 413. It matters only to programs that embed the
    server and register handlers (see docs/embedding.md): files accept no body. nginx: client_max_body_size, 1 MiB. A body is
    held in memory."""

    listen: tuple[ListenConfig, ...] | None = setting(
        None, "listen", "listeners", example='[[listen]]\nservice = "http"\naddress = ":80"'
    )
    """Listeners: the services, and the addresses that they listen on. None: HTTP and Telnet, on their default addresses."""

    access_log: str = setting("-", "log.access", "file", aliases={"-": "-", "off": "off"})
    """Access log of HTTP: a file, to which lines are appended, "-" for standard output, or "off". The supervisor opens the
    file, and opens it anew within a second after it was renamed or removed, or at once on SIGUSR1. Errors and warnings go to
    standard error."""

    log_format: str = setting("combined", "log.format", "choice", aliases={"combined": "combined", "json": "json"})
    """Format of the access log: "combined", as in nginx and Apache, followed by the duration of the request in seconds; or
    "json", one object per line."""

    trace: bool = setting(False, "log.trace")
    """Trace of all sockets, for learning and debugging, on standard error: a line for each accept, receive, send and close,
    with the first line of what was received or sent, without passwords and cookies. It makes the server several times
    slower."""

    head_time: float = seconds(10, "http.head_time")
    """Time limit for a request head: for the first one of a connection from the accept, for later ones from their first byte.
    Then the answer is 408, and the connection is closed. nginx: client_header_timeout, 60; Apache: 20 to 40. A head is one or
    two packets."""

    body_time: float = seconds(60, "http.body_time")
    """Time limit for a request body, from its start. nginx: client_body_timeout, 60, between two reads."""

    function_time: float = seconds(60, "http.function_time")
    """Time limit for the promise of a handler (a Future), for a folder listing, and for the verification of a password. Then
    the answer is 503, and the connection is closed; what comes of the promise later is dropped. 0: none.
    nginx: proxy_read_timeout, 60."""

    idle_time: float = seconds(75, "http.idle_time")
    """Keep-alive timeout: the time for which an idle HTTP connection stays open. Connections persist by default for HTTP/1.1
    clients, and on request (Connection: keep-alive) for those of HTTP/1.0. nginx: keepalive_timeout, 75. Browsers
    close idle connections after one to five minutes."""

    telnet_idle_time: float = seconds(600, "telnet.idle_time", max=WEEK)
    """Idle timeout of a Telnet session, without input or output. Longer than for HTTP, since people type more slowly than
    browsers; 600 is often set for OpenSSH servers."""

    send_time: float = seconds(30, "limits.send_time")
    """Send timeout: a client must receive at least 64 KiB of a response, or all that is left of it, in each period of this
    length; otherwise the connection is reset. It is also the TCP_USER_TIMEOUT of all connections. nginx: send_timeout, 60,
    between two writes."""

    linger_time: float = seconds(2, "limits.linger_time")
    """Lingering close: after an error response, the time for which further input is read and discarded, so that the client
    can receive the response. 0: until the client closes. nginx: lingering_timeout, 5, and lingering_time, 30. One round trip
    is enough."""

    drain_time: float = seconds(10, "drain_time")
    """Graceful shutdown: the time for which responses in progress may continue after SIGTERM or SIGINT. 0: until they end.
    gunicorn: graceful_timeout, 30. Keep it below TimeoutStopSec of the systemd unit, 30."""

    drain_announce: float = seconds(0, "drain_announce")
    """Announced stop: the time between SIGTERM or SIGINT and the graceful shutdown, in which everything is served, but
    http.health says 503, so that a load balancer sends no more clients. A second signal ends it at once. Longer than the load
    balancer needs to notice; drain_time comes after it, so TimeoutStopSec of the systemd unit must exceed both together."""

    reload_drain: float = seconds(600, "reload_drain", max=WEEK)
    """Graceful reload: the time for which connections of the old workers may continue after a reload; then they are closed.
    0: until they end. Telnet sessions may last long, and an old worker costs little memory. nginx: worker_shutdown_timeout,
    and HAProxy: hard-stop-after, both without a limit."""

    stuck_time: float = seconds(10, "stuck_time")
    """Seconds without a heartbeat after which a worker is killed and replaced. Workers send one every second; a traceback
    of the stuck worker is logged. 0: never. gunicorn: timeout, 30. Here no request blocks a worker for long."""

    connections: int = setting(10000, "limits.connections", max=1_000_000)
    """Maximum number of open connections in each worker, without those of the status service. 0: as many as the limit of
    open files (LimitNOFILE) allows. At the limit, waiting HTTP connections are closed for new ones: idle ones first, then
    those with an incomplete request, the oldest first. Other new connections wait in the accept queue. nginx:
    worker_connections, 512. An idle connection costs a few KiB of memory and a file descriptor."""

    http_connections: int = setting(0, "http.connections", max=1_000_000)
    """Maximum number of HTTP connections in each worker; they also count towards limits.connections. 0: half of
    limits.connections if Telnet is served as well, otherwise all. At this limit, waiting connections are closed for new
    ones, see limits.connections. If the limits of HTTP and Telnet together exceed limits.connections, one service may leave the
    other fewer connections than its limit."""

    telnet_connections: int = setting(0, "telnet.connections", max=1_000_000)
    """Maximum number of Telnet sessions in each worker; they also count towards limits.connections. 0: half of
    limits.connections if HTTP is served as well, otherwise all. A session is never closed to make room for a new one, which
    waits in the accept queue."""

    connections_per_address: int = setting(0, "limits.connections_per_address", max=1_000_000)
    """Maximum number of connections from one client address, in each worker; further ones are closed at once. 0: no limit,
    as in nginx (limit_conn), since many clients may share an address behind a NAT or a proxy."""

    encoded_slash: bool = setting(False, "http.encoded_slash")
    """Whether an encoded slash (%2F) in a path is a slash, as npm needs it for /@scope%2fname. The path is decoded once, then
    checked like any other. Off: such paths are 404, since a proxy in front may take %2F for a part of a name, and its rules for
    a directory would be evaded. Apache: AllowEncodedSlashes, off."""

    http_version: str = setting("1.0", "http.version", "choice", aliases={"1.0": "1.0", "1.1": "1.1"})
    """Version in the status line of responses to HTTP/1.1 clients; others always get HTTP/1.0. Some clients and proxies open a
    new connection for each request if a response says HTTP/1.0, in spite of its Connection: keep-alive: "1.1" lets them reuse
    it. Nothing else depends on it. HTTP/1.0, since that is what this server implements: nothing that came with HTTP/1.1 is
    needed to read its responses."""

    health: str | None = setting("/health", "http.health", "path", aliases={"off": None})
    """Path for the health checks of a load balancer, in each site that has no file of that name: the response is 200, before a
    stop (drain_announce) 503. These requests are not logged. "off": none."""

    trusted_proxies: tuple[str, ...] = setting((), "http.trusted_proxies", "networks")
    """Proxies whose X-Forwarded-For, X-Forwarded-Proto and Forwarded (RFC 7239) are believed: networks and addresses, and
    "unix" for all peers on a unix socket. The access log and handlers then have the client: the last address that is not of a
    trusted proxy. Limits per address count the proxy. Not needed with the PROXY protocol (listen.proxy_protocol). nginx:
    set_real_ip_from, with real_ip_recursive on."""

    server_header: bool = setting(True, "http.server_header")
    """Server header field, with the name and version of the program. nginx: server_tokens, which hides only the version."""

    answers: int = setting(16384, "http.answers", max=10_000_000)
    """Response cache: the maximum number of entries in each worker. 0: no cache. An entry takes 1 to 4 KiB, without the
    content, which the file cache holds. It is checked against the file system before each use, so that no response is
    stale. Half of the cache is reserved for requests that were received at least twice."""

    answer_bytes: int = setting(32 << 20, "http.answer_bytes", max=1 << 40)
    """Response cache: its maximum size in bytes, in each worker. 0: no cache. One entry may take up to an eighth of it."""

    files: int = setting(16384, "http.files", max=10_000_000)
    """File cache: the maximum number of files in each worker. 0: no cache. Each file is checked by stat before it is used.
    nginx: open_file_cache, off; when on, it may be stale until open_file_cache_valid has passed."""

    file_bytes: int = setting(64 << 20, "http.file_bytes", max=1 << 40)
    """File cache: the maximum size in bytes of the contents that it holds in memory, in each worker. 0: none. Only files of up
    to 16 KiB are held in memory; larger ones are kept open (open_files)."""

    open_files: int = setting(256, "http.open_files", max=1_000_000)
    """File cache: the maximum number of files over 16 KiB that each worker keeps open. 0: none. They and the connections
    share the limit of open files."""

    requests: int = setting(0, "http.requests", max=1_000_000_000)
    """Maximum number of requests on one HTTP connection. 0: no limit. nginx: keepalive_requests, 1000, to free memory of
    the connection; here its memory does not grow."""

    telnet_service: Handler | None = None
    """Line service of the Telnet sessions, in place of the echo: a line handler or a dialogue, see telnet/service.py."""

    telnet_greeting: str = setting("", "telnet.greeting")
    """Text sent to each new Telnet connection. Empty: none. Some clients would take it for the reply to their first line."""

    longest_line: int = setting(4096, "telnet.longest_line", min=1, max=1 << 20)
    """Maximum length of a Telnet line in bytes. Longer lines are discarded, and an error is sent. Linux terminals in line
    mode allow 4095 (N_TTY)."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sites:
            vars(self)["sites"] = (SiteConfig(),)
        hosts = [(host.lower().rstrip("."), host) for site in self.sites for host in site.hosts]
        check_duplicates("sites", "host name", hosts)
