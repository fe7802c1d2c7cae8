"""A site's settings: index names, precompressed neighbours, headers, redirects, error pages, fallback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rawservers.core.peer import Clock
from rawservers.core.protocol import Closing
from rawservers.settings import SiteConfig
from tests.harness.http import Client, get, headers, router


def test_index_names(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), index=("default.htm", "main.htm"))
    assert get(clock, site).body == b"main"
    assert get(clock, site, path="/sub/other/").body == b"sub main"
    assert get(clock, site, path="/sub/").status == 403
    assert get(clock, SiteConfig(str(root), index=())).status == 403


def test_an_index_that_appears_or_vanishes_is_noticed(clock: Clock, root: Path) -> None:
    client = Client(router(clock, SiteConfig(str(root), index=("first.htm", "main.htm"))), clock)
    request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    for expected in (b"main", b"first", b"main"):
        if expected == b"first":
            (root / "first.htm").write_text("first")
        else:
            (root / "first.htm").unlink(missing_ok=True)
        for _ in range(4):
            client.send(request)
        assert {reply.body for reply in client.replies()[-4:]} == {expected}


def test_a_neighbour_that_appears_or_vanishes_is_noticed(clock: Clock, root: Path) -> None:
    client = Client(router(clock, SiteConfig(str(root))), clock)
    request = b"GET /assets/x.css HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n"
    for expected in (b"css", b"packed", b"css"):
        if expected == b"packed":
            (root / "assets/x.css.gz").write_text("packed")
        else:
            (root / "assets/x.css.gz").unlink(missing_ok=True)
        for _ in range(4):
            client.send(request)
        assert {reply.body for reply in client.replies()[-4:]} == {expected}


def test_no_neighbours_when_not_wanted(clock: Clock, root: Path) -> None:
    (root / "assets/x.css.gz").write_text("packed")
    reply = get(clock, SiteConfig(str(root), precompressed=False), path="/assets/x.css", Accept_Encoding="gzip")
    assert reply.body == b"css"
    assert not headers(reply).keys() & {"Vary", "Content-Encoding"}


def test_max_age_and_types(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), max_age=3600, types=((".json", "application/geo+json"), (".htm", "text/x; charset=latin-1")))
    reply = get(clock, site, path="/sub/data.json")
    assert headers(reply)["Cache-Control"] == "max-age=3600"
    assert headers(reply)["Content-Type"] == "application/geo+json"
    assert headers(get(clock, site, path="/main.htm"))["Content-Type"] == "text/x; charset=latin-1"
    assert headers(get(clock, site, path="/sub/data.json", If_None_Match="*"))["Cache-Control"] == "max-age=3600"
    assert "Cache-Control" not in headers(get(clock, site, path="/nope"))


def test_headers_by_path(clock: Clock, root: Path) -> None:
    rules = (("*", "X-All", "1"), ("/assets/*", "Cache-Control", "immutable"), ("/*.css", "Content-Type", "text/weird"))
    site = SiteConfig(str(root), max_age=5, headers=rules)
    css = get(clock, site, path="/assets/x.css")
    assert {"X-All": "1", "Cache-Control": "immutable", "Content-Type": "text/weird"}.items() <= headers(css).items()
    assert len(headers(css)) == len(css.headers)
    home = headers(get(clock, site))
    assert {"X-All": "1", "Cache-Control": "max-age=5"}.items() <= home.items()
    for other in ("/nope", "/sub", "/sub/"):
        assert headers(get(clock, site, path=other))["X-All"] == "1"
    assert headers(get(clock, site, path="/f", method="OPTIONS"))["X-All"] == "1"
    assert headers(get(clock, site, path="*", method="OPTIONS"))["X-All"] == "1"
    malformed = get(clock, site, path="/f%zz", method="PUT")
    assert (malformed.status, headers(malformed)["X-All"]) == (400, "1")
    for data in (b"\0", b"GET / HTTP/2.0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
        (reply,) = Client(router(clock, site), clock).send(data).replies()
        assert headers(reply)["X-All"] == "1"


@pytest.mark.parametrize("rule", [("*", "X", "a\r\nY: b"), ("*", "X Y", "a"), ("*", "Connection", "close"), ("*", "", "a")])
def test_headers_that_cannot_be_sent(clock: Clock, root: Path, rule: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match=r"malformed header|set by the server"):
        router(clock, SiteConfig(str(root), headers=(rule,)))


def test_redirects(clock: Clock, root: Path) -> None:
    table = (("/old", "/new"), ("/docs/*", "https://docs.example/v2/*"), ("/q", "/other?x=1"), ("/main.htm", "/"))
    site = SiteConfig(str(root), redirects=table)

    def location(path: str) -> str:
        reply = get(clock, site, path=path)
        assert reply.status == 301
        return headers(reply)["Location"]

    assert location("/old") == "/new"
    assert location("/old?a=b") == "/new?a=b"
    assert location("/docs/a/b%20c%0d%0a?q") == "https://docs.example/v2/a/b%20c%0D%0A?q"
    assert location("/docs/") == "https://docs.example/v2/"
    assert location("/q?y") == "/other?x=1"
    assert location("/main.htm") == "/"
    assert get(clock, site, path="/older").status == 404


def test_error_pages(clock: Clock, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = SiteConfig(str(root), error_pages=((404, "/oops.html"), (403, "/missing.html"), (405, "/oops.html")))
    reply = get(clock, site, path="/nope")
    assert (reply.status, reply.body) == (404, b"my own page")
    assert headers(reply)["Content-Type"] == "text/html; charset=utf-8"
    assert get(clock, site, path="/nope", method="HEAD").body == b""
    refused = get(clock, site, path="/nope", method="DELETE")
    assert (refused.status, refused.body, headers(refused)["Allow"]) == (405, b"my own page", "GET, HEAD, OPTIONS")
    assert b"403 Forbidden" in get(clock, site, path="/sub/").body
    assert "cannot read the error page /missing.html" in caplog.text


REFUSED = {
    b"GET /%2f HTTP/1.1\r\nHost: one\r\n\r\n": 404,
    b"GET /% HTTP/1.1\r\nHost: one:80\r\n\r\n": 400,
    b"GET http://one/% HTTP/1.1\r\nHost: two\r\n\r\n": 400,
    b"POST /f HTTP/1.1\r\nHost: one\r\nContent-Length: 3\r\n\r\n": 405,
    b"GET /f HTTP/1.1\r\n\r\n": 400,
    b"BREW /f HTTP/1.1\r\nHost: one\r\n\r\n": 501,
    b"GET /f HTTP/2.0\r\n\r\n": 505,
    b"HEAD /f HTTP/2.0\r\n\r\n": 505,
    b"GET /" + b"x" * 9000: 414,
    b"\0": 400,
}


@pytest.mark.parametrize(("data", "status"), REFUSED.items(), ids=[str(data[:30]) for data in REFUSED])
def test_error_pages_for_what_is_refused(clock: Clock, root: Path, data: bytes, status: int) -> None:
    """From the site that is asked, or from the default one while nobody can tell which that is."""
    pages = tuple((number, "/oops.html") for number in REFUSED.values())
    mains = tuple((number, "/main.htm") for number in REFUSED.values())
    sites = SiteConfig(str(root), error_pages=mains), SiteConfig(str(root), hosts=("one",), error_pages=pages)
    understood = b"one" in data and status != 501
    client = Client(router(clock, *sites), clock).send(data)
    (reply,) = client.replies()
    assert (reply.status, client.closing) == (status, Closing.LINGER)
    assert reply.body == (b"" if data.startswith(b"HEAD") else b"my own page" if understood else b"main")
    assert headers(reply)["Content-Type"] == "text/html; charset=utf-8"
    assert client.records[0].head_size + client.records[0].body_size == len(client.said)
    assert client.conversation._counters.bad_requests == (status != 405)
    assert client.conversation._counters.answers == 1


def test_an_error_page_for_what_takes_too_long(clock: Clock, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = SiteConfig(str(root), error_pages=((408, "/oops.html"), (400, "/missing.html")))
    client = Client(router(clock, site), clock).send(b"GET /f HT")
    client.take(client.conversation.expire())
    assert (client.replies()[0].status, client.replies()[0].body) == (408, b"my own page")
    client = Client(router(clock, site), clock).send(b" ")
    assert b"This is not an HTTP request." in client.said
    assert "cannot read the error page /missing.html" in caplog.text


def test_answers_without_a_server_header(clock: Clock, root: Path) -> None:
    for server_header in (True, False):
        client = Client(router(clock, SiteConfig(str(root)), server_header=server_header), clock)
        for line in ("Cookie: 1", "Cookie: 2", "Cookie: 3", "If-None-Match: *", "Range: bytes=0-1", "Connection: close"):
            client.send(f"GET /main.htm HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n".encode())
        assert [reply.status for reply in client.replies()] == [200, 200, 200, 304, 206, 200]
        assert [("Server" in headers(reply)) for reply in client.replies()] == [server_header] * 6
        assert sum(record.head_size + record.body_size for record in client.records) == len(client.said)
    refused = Client(router(clock, SiteConfig(str(root)), server_header=False), clock).send(b"\0").replies()[0]
    assert "Server" not in headers(refused)


def test_a_range_that_cannot_be_had_keeps_its_header_on_a_page_of_ones_own(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), error_pages=((416, "/oops.html"),))
    reply = get(clock, site, path="/main.htm", Range="bytes=100-")
    assert (reply.status, reply.body, headers(reply)["Content-Range"]) == (416, b"my own page", "bytes */4")


@pytest.mark.parametrize(
    ("fields", "status"), [({"If_Match": '"x"'}, 412), ({"Range": "bytes=100-"}, 416), ({"Range": "bytes=x"}, 416)]
)
def test_a_condition_that_fails_is_explained(clock: Clock, root: Path, fields: dict[str, str], status: int) -> None:
    site = SiteConfig(str(root), headers=(("*", "X-All", "1"), ("*", "Content-Type", "text/weird")))
    reply = get(clock, site, path="/main.htm", **fields)
    assert (reply.status, headers(reply)["X-All"]) == (status, "1")
    assert headers(reply).get("Content-Range") == ("bytes */4" if status == 416 else None)
    assert [value for name, value in reply.headers if name == "Content-Type"] == ["text/html; charset=utf-8"]
    assert b"<p>" in reply.body


def test_the_fallback(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), fallback="/index.html")
    for path in ("/users/42", "/users/", "/nope?x"):
        reply = get(clock, site, path=path)
        assert (reply.status, reply.body) == (200, b"home")
    for path in ("/nope.js", "/.git", "/.git/config", "/users/.hidden"):
        assert get(clock, site, path=path).status == 404
    assert get(clock, site, path="/assets/x.css").body == b"css"


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "takes_pages"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;level=1, */*", True),
        ("application/json;q=1, text/html;q=0.001", True),
        ("text/html;q=0, */*", False),
        ("*/*", False),
        ("text/*", False),
        ("image/avif,image/webp,*/*;q=0.8", False),
        ("application/json", False),
        ("text/htmlx", False),
        ("", False),
        (None, False),
    ],
)
def test_the_fallback_for_a_name_with_a_dot(clock: Clock, root: Path, accept: str | None, takes_pages: bool) -> None:
    """A page of the application, to whom names text/html; an asset that is missing, to all others."""
    (root / "index.html.gz").write_text("packed home")
    site = SiteConfig(str(root), fallback="/index.html")
    fields = {} if accept is None else {"Accept": accept}
    for path in ("/user/john.doe", "/app.js?v=1", "/v1.2", "/x/../john.doe", "/%6aohn.doe"):
        for method in ("GET", "HEAD"):
            reply = get(clock, site, path=path, method=method, **fields)
            assert (reply.status, reply.body) == (200 if takes_pages else 404, reply.body if method == "GET" else b"")
            assert headers(reply)["Vary"] == ("Accept, Accept-Encoding" if takes_pages else "Accept")
            assert (reply.body == b"home") == (takes_pages and method == "GET")
    for path in ("/.git", "/.git/config.html", "/users/.hidden.html", "/.well-known/.x", "/a/.b/c.html"):
        assert get(clock, site, path=path, **fields).status == 404
    for path in ("/users/42", "/users/john.doe/"):
        reply = get(clock, site, path=path, **fields)
        assert (reply.status, reply.body, headers(reply)["Vary"]) == (200, b"home", "Accept, Accept-Encoding")
    reply = get(clock, site, path="/users/42", If_None_Match="*", **fields)
    assert (reply.status, headers(reply)["Vary"]) == (304, "Accept, Accept-Encoding")
    assert headers(get(clock, site, path="/index.html", **fields))["Vary"] == "Accept-Encoding"
    assert "Vary" not in headers(get(clock, SiteConfig(str(root), index=()), path="/john.doe", **fields))
    assert "Vary" not in headers(get(clock, site, path="/assets/", **fields))


def test_the_cache_gives_the_fallback_to_nobody_else(clock: Clock, root: Path) -> None:
    """Whatever came before, and however often."""
    client = Client(router(clock, SiteConfig(str(root), fallback="/index.html")), clock)
    clock.time = (root / "index.html").stat().st_mtime + 10
    accepts = [BROWSER, "*/*", "text/html", None, "text/html;q=0", "text/html"]
    for path in ("/john.doe", "/john"):
        before = client.conversation._counters.cache_hits
        for cookie in range(3):
            for accept in accepts:
                lines = "".join(
                    f"{line}\r\n" for line in (f"Accept: {accept}" * (accept is not None), f"Cookie: {cookie}") if line
                )
                client.send(*[f"GET {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode()] * 3)
                takes_pages = path == "/john" or (accept or "").endswith(("html", "0.8"))
                assert [reply.status for reply in client.replies()[-3:]] == [200 if takes_pages else 404] * 3
        hits = client.conversation._counters.cache_hits - before
        # The same head again; for a name without a dot, any head after the first two.
        assert hits == (3 * (2 + 2 + 3) if path == "/john.doe" else 3 * 3 * len(accepts) - 2)


def test_a_file_that_appears_replaces_the_fallback(clock: Clock, root: Path) -> None:
    client = Client(router(clock, SiteConfig(str(root), fallback="/index.html")), clock)
    request = b"GET /later HTTP/1.1\r\nHost: h\r\n\r\n"
    client.send(*[request] * 4)
    (root / "later").write_text("here now")
    client.send(request)
    assert [reply.body for reply in client.replies()] == [b"home"] * 4 + [b"here now"]


def test_a_redirect_to_the_root_does_not_lead_to_another_host(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), redirects=(("/old/*", "/*"),))
    for path in ("/old/evil.example/x", "/old//evil.example/x", "/old///evil.example/x"):
        assert headers(get(clock, site, path=path))["Location"] == "/evil.example/x"


@pytest.mark.parametrize(
    ("target", "path", "location"),
    [
        ("https://docs.example*", "/old.evil.example", "https://docs.example/.evil.example"),
        ("https://docs.example*", "/old:80", "https://docs.example/%3A80"),
        ("https://docs.example*", "/old/x", "https://docs.example/x"),
        ("https://docs.example*", "/old", "https://docs.example/"),
        ("https://docs.example/*", "/old/x", "https://docs.example/x"),
        ("https://docs.example/v*", "/old2", "https://docs.example/v2"),
        ("//docs.example*", "/old.evil", "//docs.example/.evil"),
        ("/*", "/old", "/"),
        ("/*", "/old%2f/evil.example", "/evil.example"),
        ("/*", "/old%5Cevil.example", "/%5Cevil.example"),
        ("/new*", "/old/x", "/new/x"),
    ],
)
def test_the_rest_of_a_path_does_not_become_a_host(clock: Clock, root: Path, target: str, path: str, location: str) -> None:
    service = router(clock, SiteConfig(str(root), redirects=(("/old*", target),)), encoded_slash=True)
    (reply,) = Client(service, clock).send(f"GET {path} HTTP/1.0\r\n\r\n".encode()).replies()
    assert (reply.status, headers(reply)["Location"]) == (301, location)


@pytest.mark.parametrize(
    ("of_the_file", "of_the_neighbour", "taken"), [(1.9, 1.1, False), (1.9, 1.0, True), (1.9, 1.9, True), (1.9, 0.9, False)]
)
def test_a_neighbour_that_is_older(clock: Clock, root: Path, of_the_file: float, of_the_neighbour: float, taken: bool) -> None:
    (root / "assets/x.css.gz").write_text("packed")
    for name, age in (("x.css", of_the_file), ("x.css.gz", of_the_neighbour)):
        os.utime(root / "assets" / name, ns=(int(age * 1e9), int(age * 1e9)))
    reply = get(clock, SiteConfig(str(root)), path="/assets/x.css", Accept_Encoding="gzip")
    assert reply.body == (b"packed" if taken else b"css")


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("/nothing", "./"),
        ("/sub/nothing?a/b", "../"),
        ("/sub//x/", "../../../"),
        ("//nothing", "../"),
        ("http://h/sub/nothing", "/"),
        ("/a%2Fb/c", "../"),
    ],
)
def test_an_error_page_links_home(clock: Clock, root: Path, path: str, link: str) -> None:
    """For a browser alone, and where there is a page or a listing: relative, so that it holds behind a prefix."""
    home = f'<p><a href="{link}">Home</a></p>\n'.encode()
    for site in (SiteConfig(str(root)), SiteConfig(str(root), index=(), listing=True)):
        page, plain = get(clock, site, path=path, Accept="text/html,*/*;q=0.8"), get(clock, site, path=path, Accept="*/*")
        assert page.status == plain.status == 404
        assert headers(page)["Vary"] == headers(plain)["Vary"] == "Accept"
        assert home in page.body
        assert page.body.replace(home, b"") == plain.body
        assert get(clock, site, path=path).body == plain.body
    for site in (SiteConfig(str(root), index=()), SiteConfig(str(root), index=("no.htm",))):
        reply = get(clock, site, path=path, Accept="text/html")
        assert reply.body == plain.body
        assert "Vary" not in headers(reply)


def test_a_404_page_of_ones_own_is_the_same_for_all(clock: Clock, root: Path) -> None:
    (root / "404.html").write_text("not here")
    site = SiteConfig(str(root), error_pages=((404, "/404.html"),))
    page, plain = get(clock, site, path="/nothing", Accept="text/html"), get(clock, site, path="/nothing", Accept="*/*")
    assert page.body == plain.body == b"not here"
    assert "Vary" not in headers(page)


def test_home_itself_has_no_link_home(clock: Clock, root: Path) -> None:
    (root / "index.html").unlink()
    site = SiteConfig(str(root), error_pages=((403, "/oops.html"),))
    assert b"Home" not in get(clock, site, path="/", Accept="text/html").body
    (root / "index.html").write_text("home")
    assert (
        get(clock, SiteConfig(str(root), error_pages=((404, "/oops.html"),)), path="/x", Accept="text/html").body
        == b"my own page"
    )
