"""The HTTP conversation in this process, without a socket: a client that drives it, and sites to ask."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any, NamedTuple, Self

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Chunk, Closing, Deadline, FileSlice, ResponseEnd
from rawservers.http.auth import Protection
from rawservers.http.cache import FreshnessClock, ResponseCache
from rawservers.http.conversation import Conversation
from rawservers.http.files import FileCache
from rawservers.http.request import Request
from rawservers.http.response import AccessRecord, Response
from rawservers.http.router import Router
from rawservers.http.site import Site
from rawservers.http.users import make_verifiers, read_all_users
from rawservers.settings import AuthConfig, Config, Handler, SiteConfig
from tests.harness import wire
from tests.harness.auth import SECRETS, write_users
from tests.harness.waiting import DEADLINE

CASES = [case for name in ("http", "http_files", "http_auth") for case in wire.load(name)]


def router(
    clock: Clock,
    *sites: SiteConfig,
    handlers: Sequence[tuple[str, Handler]] = (),
    body_limit: int = 100,
    server_header: bool = True,
    encoded_slash: bool = False,
    http_version: str = "1.0",
) -> Router:
    freshness = FreshnessClock(clock)
    cache = ResponseCache(freshness, 100, 1 << 20)
    files = FileCache(100, 1 << 20, 100)
    config = Config(
        handlers=tuple(handlers),
        body_limit=body_limit,
        server_header=server_header,
        encoded_slash=encoded_slash,
        http_version=http_version,
    )
    return Router(make_sites(sites, freshness, cache, files), config, cache)


def make_sites(sites: Sequence[SiteConfig], freshness: FreshnessClock, cache: ResponseCache, files: FileCache) -> list[Site]:
    """The sites, which share these, with the users of their protected paths."""
    verifiers = make_verifiers(read_all_users(sites), freshness)
    return [Site(site, freshness, cache, files, Protection(site.auth, verifiers)) for site in sites]


def vector_site(root: Path, **settings: Any) -> SiteConfig:
    """The site that the vectors ask, of the files at `root`. settings: further ones."""
    users = str(root.parent / "users")
    paths = {"/private/": users, "/private/open": None, "/private/open/closed/": users}
    paths |= dict.fromkeys(("/secret.txt", "/shut/index.html", "/fn/private"), users)
    auth = tuple(AuthConfig(path, users, 'Members "only"') for path, users in paths.items())
    return SiteConfig(str(root), auth=auth, redirects=(("/private/old", "/f"), ("/old", "/f")), **settings)


def echo(request: Request) -> Response:
    """The function below /fn that the vectors ask."""
    return Response(200, [("Content-Type", "text/plain; charset=utf-8")], request.body)


class Reply(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Client:
    """Drives one conversation as the core would, and keeps what it says."""

    def __init__(self, site: Router, clock: Clock, requests: int = 0) -> None:
        self.clock = clock
        self.conversation = Conversation(Peer(("192.0.2.1", 4711), clock), site, requests)
        self.said = b""
        self.spans: list[tuple[int, int]] = []  # where in `said` each answer begins and ends
        self.begun = 0
        self.records: list[AccessRecord] = []
        self.patient = True  # waits for what is only promised

    def take(self, chunks: Iterable[object]) -> None:
        for chunk in chunks:
            if isinstance(chunk, ResponseEnd):
                if chunk.record is not None:  # else it is interim: 100 Continue
                    assert isinstance(chunk.record, AccessRecord)
                    self.records.append(chunk.record)
                    self.spans.append((self.begun, len(self.said)))
                self.begun = len(self.said)
            elif isinstance(chunk, FileSlice):
                self.said += os.pread(chunk.file.fd, chunk.count, chunk.offset)
            else:
                assert isinstance(chunk, bytes)
                self.said += chunk

    def send(self, *packets: bytes) -> Self:
        for packet in packets:
            self.clock.epoch += 1
            self.take(self.conversation.receive(packet))
            while (chunks := self.resume()) or self.has_more():
                self.clock.epoch += 1
                self.take(chunks)
        return self

    def has_more(self) -> bool:
        """Whether it rests, or waits for what was promised."""
        promised = self.patient and self.conversation._future is not None
        return self.closing is Closing.KEEP and (self.conversation.waiting is Deadline.TURN or promised)

    def resume(self) -> Sequence[Chunk]:
        """What there is to say besides, once what is promised is there."""
        future = self.conversation._future
        if future is not None and self.patient:
            wait([future], DEADLINE)
        return self.conversation.resume()

    def end(self) -> Client:
        self.take(self.conversation.end())
        return self

    @property
    def closing(self) -> Closing:
        return self.conversation.closing

    def replies(self) -> list[Reply]:
        return [self.parse(self.said[begin:end]) for begin, end in self.spans]

    @staticmethod
    def parse(answer: bytes) -> Reply:
        if not answer.startswith((b"HTTP/1.0 ", b"HTTP/1.1 ")):
            return Reply(0, [], answer)
        head, _, body = answer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (field.partition(": ") for field in fields)]
        return Reply(int(line.split(" ")[1]), headers, body)


def vector_folder(base: Path) -> Path:
    """The folder that the vectors ask for, made in `base`."""
    root = base / "www"
    for name in (
        "dir", "empty", ".git", ".well-known", "dir/.well-known", "\\evil", "dir\r\nX:1", "private/open/closed", "shut",
    ):  # fmt: skip
        (root / name).mkdir(parents=True)
    for name, content in {
        "f": b"content of f\n",
        "a+b": b"a plus b",
        "dir/index.html": b"<p>index",
        "what?.jpg": b"a picture",
        ".git/config": b"secret",
        ".well-known/x": b"known",
        ".well-known/.x": b"secret",
        "dir/.well-known/x": b"secret",
        "big": bytes(range(250)) * 160,
        "../outside": b"secret",
        "nothing": b"",
        "page.html": b"as identity",
        "page.html.br": b"as br",
        "page.html.gz": b"as gzip",
        "old.html": b"new",
        "old.html.gz": b"old",
        "leak.html": b"inside",
        "private/f": b"content of private/f\n",
        "private/page.html": b"private",
        "private/page.html.gz": b"private as gzip",
        "private/open/f": b"for everybody",
        "private/open/closed/f": b"secret",
        "privateer": b"for everybody",
        "secret.txt": b"secret",
        "secret.txt.gz": b"secret",
        "shut/index.html": b"secret",
        "linked.html": b"open",
    }.items():
        (root / name).write_bytes(content)
    (base / "outdoors").mkdir()
    (root / "out").symlink_to("../outside")
    (root / "outside").symlink_to("../outdoors")
    (root / "leak.html.gz").symlink_to("../outside")
    (root / "to-git").symlink_to(".git/config")
    (root / "link").symlink_to("f")
    (root / "to-private").symlink_to("private/f")
    (root / "private-dir").symlink_to("private")
    (root / "linked.html.gz").symlink_to("private/page.html.gz")
    (root / "private/to-open").symlink_to("../f")
    write_users(base / "users", *SECRETS)
    os.mkfifo(root / "fifo")
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            os.utime(path, (784111777, 784111777))
    os.utime(root / "old.html.gz", (784111776, 784111776))
    os.utime(base / "outside", (784111777, 784111777))
    return root


def bytes_of(case: dict[str, Any]) -> bytes:
    text = case["send"]
    if "repeat" in case:
        piece, count = case["repeat"]
        text = text.replace("{}", piece * count)
    return wire.unescape(text)


def get(clock: Clock, *sites: SiteConfig, path: str = "/", method: str = "GET", **fields: str) -> Reply:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in ({"Host": "h"} | fields).items())
    request = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()
    (reply,) = Client(router(clock, *sites), clock).send(request).replies()
    return reply


def headers(reply: Reply) -> dict[str, str]:
    return dict(reply.headers)
