"""Basic authentication: the paths that need it, and that neither links, nor the cache, nor functions lead around it."""

from __future__ import annotations

import logging
import os
import re
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawservers.core.peer import Clock
from rawservers.core.protocol import Closing
from rawservers.http import normalized
from rawservers.http import site as site_module
from rawservers.http import users as users_module
from rawservers.http.auth import Protection, parse_credentials
from rawservers.http.request import Request
from rawservers.http.response import PreparedResponse, Response, UserRecord
from rawservers.http.users import check_password
from rawservers.settings import AuthConfig, SiteConfig
from tests.harness.auth import basic, write_users
from tests.harness.http import Client, Reply, get, headers, router
from tests.harness.http_cache import Remembering
from tests.harness.http_cache import get as request

ADA, BOB = basic("ada"), basic("bob")


@pytest.fixture
def users(tmp_path: Path) -> str:
    return write_users(tmp_path / "users", "ada", "bob")


@pytest.fixture
def others(tmp_path: Path) -> str:
    return write_users(tmp_path / "others", "eve")


# Paths

PATHS = [("/", "a"), ("/x/", "b"), ("/x/y", "c"), ("/x/y/open/", None), ("/x y", "d"), ("/z.html", "e")]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "a"), ("", "a"), ("/f", "a"), ("/x", "b"), ("/x/", "b"), ("/x/f", "b"), ("/xy", "a"), ("/x/y", "c"),
        ("/x/yy", "b"), ("/x/y/f", "c"), ("/x/y/open", None), ("/x/y/open/f", None), ("/x y/f", "d"),
        ("/X/f", "a"), ("/x\n", "a"), ("/é", "a"),
        ("/z.html", "e"), ("/z.html.br", "e"), ("/z.html.zst", "e"), ("/z.html.gz", "e"), ("/z.html.gzip", "a"),
        ("/z.html.gz/f", "a"), ("/x/y/open.gz", None), ("/zZhtml", "a"),
    ],
)  # fmt: skip
def test_the_longest_path_decides(path: str, expected: str | None) -> None:
    for order in (PATHS, PATHS[::-1]):
        protection = Protection([AuthConfig(path, users) for path, users in order], {})
        assert protection.users(path.encode()) == expected


def test_other_paths_need_nothing() -> None:
    protection = Protection([AuthConfig("/x", "users")], {})
    for path in (b"", b"*", b"/", b"/xx", b"/f/x"):
        assert protection.find(path) is None


@pytest.mark.parametrize("path", ["", "x", "x/", "//", "/x//y", "/./x", "/x/..", "/x/../y", "/x/.", "/x\0"])
def test_a_path_that_no_request_has(path: str) -> None:
    with pytest.raises(ValueError, match=r"^path: expected a decoded path without empty segments"):
        AuthConfig(path, "users")


@pytest.mark.parametrize("realm", ["é", "a\r\nX: 1", "\0", 3])
def test_a_realm_that_no_header_can_hold(realm: Any) -> None:
    with pytest.raises(ValueError, match=r"^realm: expected a string of printable ASCII"):
        AuthConfig("/", "users", realm)


def test_the_realm_is_quoted(clock: Clock, root: Path, users: str) -> None:
    site = SiteConfig(str(root), auth=(AuthConfig("/", users, '\\ "x"'),))
    assert headers(get(clock, site))["WWW-Authenticate"] == r'Basic realm="\\ \"x\"", charset="UTF-8"'


def test_a_page_of_ones_own(clock: Clock, root: Path, users: str) -> None:
    site = SiteConfig(str(root), auth=(AuthConfig("/", users),), error_pages=((401, "/oops.html"),))
    reply = get(clock, site)
    assert (reply.status, reply.body) == (401, b"my own page")
    assert headers(reply)["WWW-Authenticate"] == 'Basic realm="Restricted", charset="UTF-8"'


def test_the_fallback_is_not_sent_to_who_may_not_have_it(
    clock: Clock, root: Path, users: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = SiteConfig(str(root), auth=(AuthConfig("/sub/", users),), fallback="/sub/data.json")
    assert get(clock, site, path="/none").status == 404
    assert "cannot read the fallback /sub/data.json" in caplog.text
    assert get(clock, site, path="/sub/none", Authorization=ADA).status == 200


@pytest.mark.parametrize("link", ["sub/other/link", "link"])
def test_a_link_to_what_others_may_have(
    clock: Clock, root: Path, users: str, others: str, link: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A link from one protected folder into another one, and from the open part into it."""
    auth = (AuthConfig("/assets/", others), AuthConfig("/sub/other/", users))
    (root / link).symlink_to(root / "assets")
    site = SiteConfig(str(root), auth=auth, listing=True)
    assert get(clock, site, path="/assets/x.css", Authorization=basic("eve")).status == 200
    for path in (f"/{link}/x.css", f"/{link}/", f"/{link}"):
        assert get(clock, site, path=path, Authorization=ADA).status == 404
    assert "protected, or outside the root" in caplog.text
    folder = os.path.dirname(f"/{link}").rstrip("/") + "/"
    listed = get(clock, site, path=folder, Authorization=ADA, Accept="application/json").body
    assert b"link" not in listed
    assert b"main.htm" in listed or folder == "/"


def test_a_file_that_was_read_for_others(clock: Clock, root: Path, users: str) -> None:
    """It is in the file cache, but an index file of who may not have it all the same."""
    site = SiteConfig(str(root), auth=(AuthConfig("/index.html", users),), listing=True)
    client = Client(router(clock, site), clock)
    client.send(request("/index.html", f"Authorization: {ADA}"), request("/"))
    right, listing = client.replies()
    assert (right.status, right.body) == (200, b"home")
    assert (listing.status, b"main.htm" in listing.body, listing.body == right.body) == (200, True, False)


def test_a_variant_that_is_protected_by_itself(clock: Clock, root: Path, users: str) -> None:
    (root / "index.html.gz").write_bytes(b"secret")
    site = SiteConfig(str(root), auth=(AuthConfig("/index.html.gz", users),))
    for fields in ({}, {"Authorization": ADA}):
        assert get(clock, site, Accept_Encoding="gzip", **fields).body == b"home"


def test_a_listing_needs_a_user(clock: Clock, root: Path, users: str) -> None:
    """Also while the listing is being made for somebody else."""
    site = router(clock, SiteConfig(str(root), auth=(AuthConfig("/sub/", users),), listing=True))
    waiting, other = Client(site, clock), Client(site, clock)
    waiting.send(request("/sub/", f"Authorization: {ADA}"))
    other.send(request("/sub/"))
    assert [reply.status for reply in waiting.replies() + other.replies()] == [200, 401]
    assert headers(waiting.replies()[0])["Cache-Control"] == "private"


# Credentials


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"bob:hunter2", (b"bob", b"hunter2")), (b"bob:", (b"bob", b"")), (b"a b:c:d", (b"a b", b"c:d")),
        (":é:é".encode()[1:], ("é".encode(), "é".encode())), (b"bob", None), (b":hunter2", None), (b":", None), (b"", None),
        (b"bob:\0", None), (b"bob\0:", None), (b"bob:x\n", None), (b"b\x7f:x", None), (b"bob:\xe9", None), (b"\xe9:x", None),
    ],
)  # fmt: skip
def test_what_is_no_user_and_password(sent: bytes, expected: tuple[bytes, bytes] | None) -> None:
    value = f"Basic {b64encode(sent).decode()}"
    assert parse_credentials(Request(b"", "", "GET", "/", (1, 1), {"authorization": value})) == expected


# Header fields


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "private"), ({"max_age": 60}, "private, max-age=60"),
        ({"headers": (("*", "Cache-Control", "no-cache"),)}, "no-cache"),
    ],
)  # fmt: skip
def test_no_shared_cache_stores_it(clock: Clock, root: Path, users: str, settings: Any, expected: str) -> None:
    site = SiteConfig(str(root), auth=(AuthConfig("/", users),), **settings)
    for fields in ({}, {"If_None_Match": "*"}, {"Range": "bytes=0-0"}):
        reply = get(clock, site, Authorization=ADA, **fields)
        assert reply.status in {200, 206, 304}
        assert headers(reply)["Cache-Control"] == expected
        assert len(headers(reply)) == len(reply.headers)


# Functions


def ask(service: Any, clock: Clock, *lines: str, path: str = "/fn/x", host: str = "a") -> Reply:
    data = "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "")).encode()
    (reply,) = Client(service, clock).send(data).replies()
    return reply


def test_a_function_is_told_the_user(clock: Clock, root: Path, users: str) -> None:
    def tell(asked: Request) -> Response:
        return Response(200, {"X-User": asked.user, "Cache-Control": "max-age=5"}, asked.user)

    def later(asked: Request) -> Future[Response]:
        future: Future[Response] = Future()
        future.set_result(tell(asked))
        return future

    def public(asked: Request) -> Response:
        return Response(200, {"cache-control": "public"}, "x")

    handlers = (("/fn", tell), ("/fn/later", later), ("/fn/public", public), ("/open", tell))
    service = router(clock, SiteConfig(str(root), auth=(AuthConfig("/fn", users),)), handlers=handlers)
    for path in ("/fn", "/fn/x", "/fn/later"):
        reply = ask(service, clock, f"Authorization: {ADA}", path=path)
        assert (reply.status, reply.body, headers(reply)["Cache-Control"]) == (200, b"ada", "private, max-age=5")
        assert ask(service, clock, path=path).status == ask(service, clock, "Authorization: Basic", path=path).status == 401
    assert headers(ask(service, clock, f"Authorization: {ADA}", path="/fn/public"))["cache-control"] == "public"
    opened = ask(service, clock, f"Authorization: {ADA}", path="/open")
    assert (opened.status, opened.body, headers(opened)["Cache-Control"]) == (200, b"", "max-age=5")


def test_a_function_is_protected_whatever_the_host(clock: Clock, root: Path, users: str, others: str) -> None:
    """By the first site, unless the one that was asked for says otherwise."""
    sites = (
        SiteConfig(str(root), auth=(AuthConfig("/", users),)),
        SiteConfig(str(root), hosts=("b",)),
        SiteConfig(str(root), hosts=("c",), auth=(AuthConfig("/fn", others),)),
        SiteConfig(str(root), hosts=("d",), auth=(AuthConfig("/fn", None),)),
    )
    service = router(clock, *sites, handlers=(("/fn", lambda asked: Response(200, (), "ok")),))
    assert {host: ask(service, clock, host=host).status for host in "abcd"} == {"a": 401, "b": 401, "c": 401, "d": 200}
    assert {host: ask(service, clock, f"Authorization: {ADA}", host=host).status for host in "abcd"} == {
        "a": 200, "b": 200, "c": 401, "d": 200,
    }  # fmt: skip
    assert ask(service, clock, path="/index.html", host="b").status == 200  # a file is its own site's


@pytest.mark.parametrize("body", [b"", b"GET /"])
def test_a_body_that_nobody_takes_is_lingered_for_after_the_answer(clock: Clock, root: Path, users: str, body: bytes) -> None:
    """Not before, while the password is being verified."""
    site = router(clock, SiteConfig(str(root), auth=(AuthConfig("/", users),)))
    client = Client(site, clock)
    client.patient = False
    client.send(b"PUT /f HTTP/1.1\r\nHost: h\r\nAuthorization: %b\r\nContent-Length: 20\r\n\r\n%b" % (ADA.encode(), body))
    assert (client.said, client.closing) == (b"", Closing.KEEP)
    client.patient = True
    client.take(client.resume())
    assert [reply.status for reply in client.replies()] == [405]
    assert client.closing is Closing.LINGER


# The log


def test_only_a_verified_user_is_logged(clock: Clock, root: Path, users: str) -> None:
    client = Client(router(clock, SiteConfig(str(root), auth=(AuthConfig("/sub/", users),))), clock)
    for path, value in (
        ("/sub/data.json", ADA),
        ("/sub/data.json", basic("bob", "x")),
        ("/", ADA),
        ("/sub/", basic("mallory", "x")),
    ):
        client.send(request(path, f"Authorization: {value}"))
    assert [(each.status, each.user if isinstance(each, UserRecord) else None) for each in client.records] == [
        (200, "ada"), (401, None), (200, None), (401, None),
    ]  # fmt: skip


def test_the_log_has_the_bytes_of_a_name() -> None:
    """As of all text of a request."""
    record = PreparedResponse(Response(200), Request(b"", "", "GET", "/", (1, 1), user="zoë")).record
    assert isinstance(record, UserRecord)
    assert record.user == "zo\xc3\xab"


def test_nothing_is_logged_of_a_password(clock: Clock, root: Path, users: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = Client(router(clock, SiteConfig(str(root), auth=(AuthConfig("/", users),))), clock)
    for value in (ADA, BOB, basic("bob", "hunter3"), "Basic x", "Basic Ym9iOmh1bnRlcjIA"):
        client.send(request("/", f"Authorization: {value}"))
    told = caplog.text + repr(client.records)
    for secret in ("hunter", "hler", "$2y$", ADA.split()[1], BOB.split()[1]):
        assert secret not in told


# The cache

SECRETS = {"a": b"secret of a", "b": b"secret of b"}
FILES = {
    "f": b"open", "index.html": b"open", "page.html": b"open", "page.html.gz": b"open", "a/f": SECRETS["a"],
    "a/index.html": SECRETS["a"], "a/page.html": SECRETS["a"], "a/page.html.gz": SECRETS["a"], "a/b/f": SECRETS["b"],
    "a/open/f": b"open", "one.html": SECRETS["a"], "one.html.gz": SECRETS["a"], "alone/index.html": SECRETS["b"],
    "oops.html": b"open", "a/big": SECRETS["a"] * 2000,
}  # fmt: skip
LINKS = {"to-a": "a", "to-f": "a/f", "a/to-b": "b", "a/to-open": "../f", "page.html.br": "a/page.html.gz", "a/b/to-a": "../f"}
TARGETS = (
    "/f", "/", "/page.html", "/a", "/a/", "/a/f", "/a/page.html", "/a/page.html.gz", "/a/b/f", "/a/b/", "/a/open/f",
    "/one.html", "/one.html.gz", "/alone/", "/alone", "/alone/index.html", "/to-a/f", "/to-a/", "/to-f", "/a/to-b/f",
    "/a/to-open", "/a/b/to-a", "/none", "/a/none", "/%61/f", "//a//f", "/x/../a/f", "/a/../f", "http://h/a/f", "/a/f?x",
    "/a/big", "/fn/a", "/old", "/A/f", "/a%2ff",
)  # fmt: skip
WHO = {None: "", "Basic": "", basic("ada"): "a", basic("ada", "x"): "", basic("eve"): "b", basic("mallory", ""): ""}
FIELDS = (
    "Accept-Encoding: gzip", "Accept-Encoding: br", "If-None-Match: *", "Range: bytes=0-5", "Range: bytes=0-1,3-5",
    "Accept: text/html", "Accept: application/json", "Cookie: a", "Cookie: b", "User-Agent: x", "Connection: close",
)  # fmt: skip


class Protected:
    """Two services over the same protected files: one that remembers, and one that remembers nothing."""

    def __init__(self, base: Path) -> None:
        root = base / "www"
        for name, content in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
            os.utime(root / name, (784111777, 784111777))
        for name, target in LINKS.items():
            (root / name).symlink_to(target)
        a, b = write_users(base / "a", "ada"), write_users(base / "b", "eve")
        paths = {"/a": a, "/a/b/": b, "/a/open": None, "/one.html": a, "/alone/index.html": b, "/fn/a": a, "/old": a}
        self.site = SiteConfig(
            str(root), listing=True, auth=tuple(AuthConfig(path, users) for path, users in paths.items()), fallback="/a/f",
            redirects=(("/old", "/f?secret of a"),), error_pages=((401, "/oops.html"),), headers=(("*.css", "X", "y"),),
        )  # fmt: skip
        self.clock = Clock(100.0, 2_000_000_000.0)
        self.cold = self.service(answers=0, files=0)
        self.forget()

    def service(self, **bounds: Any) -> Remembering:
        handlers = (("/fn", lambda asked: Response(200, (), "secret of a" if asked.path == "/fn/a" else "open")),)
        return Remembering(self.clock, self.site, handlers=handlers, **bounds)

    def forget(self) -> None:
        self.warm = self.service()

    def mistakes(self, data: bytes, times: int, who: str | None) -> list[str]:
        """What is wrong with the answers to a request that is sent several times by who says this of himself."""
        said = [self.said(service, data, times) for service in (self.warm, self.cold)]
        found = ["the cache changes the answer"] if said[0] != said[1] else []
        return found + [f"the secret of {each} is told" for each in SECRETS if each != WHO[who] and SECRETS[each] in said[0]]

    def said(self, service: Remembering, data: bytes, times: int) -> bytes:
        client = service.client()
        client.send(data)
        for _ in range(times - 1):
            client.take(client.conversation.receive(data))  # in the same wake
            while client.has_more():
                client.take(client.resume())
        return client.said


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protected]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users_module, "check_password", cache(check_password))  # the same passwords come again and again
        yield Protected(tmp_path_factory.mktemp("protected"))


asked = st.tuples(
    st.sampled_from(["GET", "GET", "GET", "HEAD", "OPTIONS"]),
    st.sampled_from(TARGETS),
    st.sampled_from(list(WHO)),
    st.lists(st.sampled_from(FIELDS), max_size=2, unique_by=lambda line: line.partition(":")[0]),
    st.integers(1, 3),
)


@st.composite
def sequences(draw: st.DrawFn) -> list[Any]:
    """Requests, most of them for few targets, so that they meet again."""
    few = draw(st.lists(st.sampled_from(TARGETS), min_size=1, max_size=3))
    return [
        (method, draw(st.sampled_from([*few, target])), *rest)
        for method, target, *rest in draw(st.lists(asked, min_size=1, max_size=20))
    ]


def check(protected: Protected, method: str, target: str, who: str | None, lines: list[str], times: int) -> None:
    data = request(target, *([f"Authorization: {who}"] if who else []), *lines, method=method)
    assert protected.mistakes(data, times, who) == [], data


@settings(suppress_health_check=list(HealthCheck))
@given(sequence=sequences())
def test_the_cache_gives_nobody_what_is_not_for_him(protected: Protected, sequence: list[Any]) -> None:
    protected.forget()
    for each in sequence:
        check(protected, *each)


@pytest.mark.parametrize("target", TARGETS)
def test_who_may_have_it_comes_first(protected: Protected, target: str) -> None:
    protected.forget()
    for who in (basic("ada"), basic("eve"), *WHO):
        for lines in ([], ["Accept-Encoding: gzip"], ["Accept-Encoding: br"], ["Accept: text/html"]):
            check(protected, "GET", target, who, lines, 2)


def test_a_cache_that_stores_answers_to_users_is_noticed(protected: Protected, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the normalized key of a request, if Authorization were no part of it."""
    pattern = normalized.IGNORED_LINES.pattern.replace(b"authorization|", b"")
    assert pattern != normalized.IGNORED_LINES.pattern
    monkeypatch.setattr(normalized, "IGNORED_LINES", re.compile(pattern))
    monkeypatch.setattr(site_module, "is_cacheable", lambda asked, response, now: response.status == 200)
    with pytest.raises(AssertionError):
        test_who_may_have_it_comes_first(protected, "/a/f")
