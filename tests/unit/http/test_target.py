"""Request targets: one normalisation before anything looks at a path, for any path; encoded slashes; relative redirects."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from types import FrameType
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rawservers.core.peer import Clock
from rawservers.http import files
from rawservers.http.request import HTTPError, Request
from rawservers.http.response import Response
from rawservers.http.router import Router
from rawservers.http.target import decode_path, decode_target, normalize_path, slash_location
from rawservers.settings import SiteConfig
from tests.harness.http import Client, Reply, headers, router

RELAXED = settings(suppress_health_check=list(HealthCheck))
SEGMENTS = st.sampled_from(
    [
        "", ".", "..", "...", "f", "dir", "g", "index.html", "nope", ".git", ".well-known", "out", "to-out", "@s", "a:b", "\\",
        "%2e", "%2E%2e", ".%2e", "%66", "%2f", "..%2f", "%2f..", "@s%2fg", "@s%2Fdir", "%2e%2e%2f", "%5c", "%00", "%zz", "..;x",
    ]
)  # fmt: skip
PATHS = st.lists(SEGMENTS, max_size=8).map(lambda parts: "/" + "/".join(parts))


def simplified(path: str) -> str | None:
    """What `normalize_path` is to give, by another way; None for a path above the root."""
    kept: list[str] = []
    for segment in PurePosixPath(path).parts[1:]:
        if segment != "..":
            kept.append(segment)
        elif kept:
            kept.pop()
        else:
            return None
    whole = "/" + "/".join(kept)
    return whole + "/" if kept and re.search(r"/\.{0,2}\Z", path) else whole


def of(line_target: str, method: str = "GET") -> Request:
    return Request(b"", "", method, line_target, (1, 1))


def decoded(line_target: str, encoded_slash: bool = False) -> bytes | int:
    """The decoded path, or the status of the refusal."""
    request = of(line_target)
    try:
        decode_target(request, encoded_slash)
    except HTTPError as error:
        return error.status
    return request.path_bytes


@RELAXED
@given(PATHS.map(lambda path: re.sub("(?i)%2f", "", path)))
@example("//")
@example("/..")
@example("/a//../b")
def test_a_path_is_normalised(path: str) -> None:
    expected = simplified(path)
    if expected is None:
        with pytest.raises(HTTPError, match="above the root"):
            normalize_path(path)
    else:
        assert normalize_path(path) == expected
        assert normalize_path(expected) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/@scope%2fname", b"/@scope/name"), ("/a%2F%2fb", b"/a/b"), ("/%2fa", b"/a"), ("/a%2f", b"/a/"), ("/a%2f/b", b"/a/b"),
        ("/%2f", b"/"), ("/a%2fb/../c", 400), ("/a%2fb/c/../d", b"/a/b/d"),
        ("/%2f/../a", 400), ("/%2f.git", b"/.git"), ("/%2e%2fa", 400), ("/a%2f..", 400), ("/a%2f../b", 400),
        ("/..%2fa", 400), ("/a%2f.%2fb", 400), ("/a%2f%2e%2e%2fb", 400), ("/%2f%2e", 400), ("/a%2f%00", 400),
        ("/a%252fb", b"/a%2fb"), ("/a%2f...", b"/a/..."), ("/a?b%2f..", b"/a"),
        ("http://h/a%2fb", b"/a/b"), ("/a%5c..%5cb", b"/a\\..\\b"),
    ],
)  # fmt: skip
def test_an_encoded_slash(path: str, expected: bytes | int) -> None:
    assert decoded(path, encoded_slash=True) == expected
    if "%2f" in path.partition("?")[0].lower():
        assert decoded(path) == (400 if "%00" in path else 404)


@RELAXED
@given(PATHS, st.booleans())
def test_a_decoded_path_has_no_dot_segment_and_no_empty_one(path: str, encoded_slash: bool) -> None:
    found = decoded(path, encoded_slash)
    if isinstance(found, bytes):
        assert not set(found[1:].removesuffix(b"/").split(b"/")) & {b".", b".."}
        assert b"//" not in found
        assert b"\0" not in found
        assert encoded_slash or "%2f" not in path.lower()
    else:
        assert found in {400, 404}


@RELAXED
@given(PATHS, st.booleans())
@example("/p/x%2fy/../../dir/f", True)
@example("/dir/g/%2e/../../f", False)
def test_a_proxy_that_decodes_first_sees_the_same_path(path: str, encoded_slash: bool) -> None:
    """As nginx does for its locations: whatever it would see otherwise is refused, so that none of its rules is evaded."""
    found = decoded(path, encoded_slash)
    if isinstance(found, bytes):
        assert simplified(unquote_to_bytes(path).decode("latin-1")) == found.decode("latin-1")


def test_a_path_without_such_segments_is_not_cut() -> None:
    for path in ("/", "/f", "/dir/", "/a.b/c..d/.e/...", "/dir/..;x", "/.well-known/x"):
        assert normalize_path(path) is path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with links that lead out of it."""
    place = tmp_path_factory.mktemp("place")
    root = place / "www"
    for name in (
        "f", "g", "dir/f", "dir/g", "dir/index.html", ".git/f", ".well-known/f", "@s/g", "@s/dir/f", "\\/f", "a:b/f",
        "../f", "../g", "../dir/f", "../index.html", "../outside/f",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(("canary" if name.startswith((".g", "..")) else "content of ") + name)
    (root / "out").symlink_to("../outside")
    (root / "to-out").symlink_to("out/f")
    return place


@pytest.fixture(scope="module")
def services(place: Path) -> dict[bool, Router]:
    clock = Clock(100.0, 2_000_000_000.0)
    return {slash: router(clock, SiteConfig(str(place / "www")), encoded_slash=slash) for slash in (False, True)}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The real paths of the descriptors that are opened to be read."""
    found: list[str] = []
    reopen = files.reopen

    def note(path_fd: int, flags: int = 0) -> files.OpenFile:
        found.append(str(Path(f"/proc/self/fd/{path_fd}").readlink()))
        return reopen(path_fd, flags)

    monkeypatch.setattr(files, "reopen", note)
    return found


def ask(service: Router, path: str) -> Reply:
    clock = Clock(100.0, 2_000_000_000.0)
    return Client(service, clock).send(f"GET {path} HTTP/1.0\r\n\r\n".encode("latin-1")).replies()[0]


@RELAXED
@given(path=PATHS, encoded_slash=st.booleans())
def test_a_path_and_its_normal_form_are_one(
    services: dict[bool, Router], place: Path, opened: list[str], path: str, encoded_slash: bool
) -> None:
    """And nothing outside the root is opened for either."""
    service, normal = services[encoded_slash], simplified(path)
    reply = ask(service, path)
    if normal is None:
        assert reply.status == 400 or (reply.status == 404 and "%2f" in path.lower())
    elif "%" not in path or reply.status not in {400, 404}:
        expected = ask(service, normal)
        assert (reply.status, reply.body) == (expected.status, expected.body)
    assert b"canary" not in reply.body
    assert all(Path(name).is_relative_to(place / "www") for name in opened)
    if reply.status == 301:
        location = headers(reply)["Location"]
        assert re.fullmatch(r"(?:\./)?(?![/\\])[^/\\]+/", location)
        after = urlsplit(urljoin(f"http://h.example/prefix{path}", location))
        assert (after.netloc, after.path[:8]) == ("h.example", "/prefix/")
        assert ask(service, after.path.removeprefix("/prefix")).status in {200, 403}


def lines_run(path: str) -> int:
    """How many lines of code `normalize_path` runs for a path."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., object]:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        normalize_path(path)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("piece", ["/a/..", "/.", "/", "/a/b/../..", "/a"])
def test_the_work_on_a_path_is_linear(piece: str) -> None:
    few, many = (lines_run(f"/.{piece * count}/x") for count in (50, 1600))
    assert 50 < few < many <= 32 * few


@pytest.mark.parametrize(
    ("line_target", "location"),
    [
        ("/dir", "dir/"), ("/x/dir?q=/a", "dir/?q=/a"), ("/a:b", "./a:b/"), ("/a%3ab", "a%3ab/"), ("/@s%2fdir", "@s%2fdir/"),
        ("/%2fdir", "%2fdir/"), ("http://h/dir", "dir/"), ("http://h/x/dir?", "dir/?"),
        ("/\\\\evil.example", "%5C%5Cevil.example/"), ("/x/..//sub", "sub/"),
        ("/;p", ";p/"), ("/d%0d%0a", "d%0d%0a/"), ("/https:", "./https:/"),
    ],
)  # fmt: skip
def test_the_location_of_a_folder(line_target: str, location: str) -> None:
    request = of(line_target)
    decode_target(request, encoded_slash=True)
    assert slash_location(request) == location


def test_with_encoded_slashes_the_same_rules_hold(services: dict[bool, Router]) -> None:
    on, off = services[True], services[False]
    assert [ask(on, "/@s%2fg").body, ask(off, "/@s%2fg").status] == [b"content of @s/g", 404]
    assert headers(ask(on, "/@s%2fdir?q"))["Location"] == "@s%2fdir/?q"
    for path in ("/%2f.git%2ff", "/dir%2f.git/f", "/.git%2ff", "/.well-known%2f.x", "/out%2ff", "/dir%2fnope"):
        assert ask(on, path).status == 404
    assert ask(on, "/.well-known%2ff").body == b"content of .well-known/f"


def test_handlers_redirects_and_headers_see_the_normalised_path(clock: Clock, place: Path) -> None:
    def told(request: Request) -> Response:
        return Response(200, body=f"{request.path} {request.query} {request.target}".encode())

    site = SiteConfig(str(place / "www"), redirects=(("/old/*", "/*"), ("/deep*", "/*")), headers=(("/dir/*", "X-Dir", "yes"),))
    service = router(clock, site, handlers=(("/api", told),), encoded_slash=True)
    assert ask(service, "/x/..//api/./%79?a/../b").body == b"/api/y ?a/../b /x/..//api/./%79?a/../b"
    assert ask(service, "/api/../f").body == b"content of f"
    for path in (
        "/old//evil.example",
        "/./old/%2fevil.example",
        "/x/../old///evil.example",
        "/deep//evil.example",
        "/deep%2f%2fevil.example",
    ):
        assert headers(ask(service, path))["Location"] == "/evil.example"
    assert headers(ask(service, "/old/\\evil.example"))["Location"] == "/%5Cevil.example"
    for path in ("/dir/f", "/f/../dir//f", "/dir%2ff"):
        assert headers(ask(service, path))["X-Dir"] == "yes"
    assert "X-Dir" not in headers(ask(service, "/dir/../f"))


def test_every_spelling_is_served_from_the_state_of_the_file(clock: Clock, tmp_path: Path) -> None:
    """The cache keeps each spelling by itself, and each is fresh."""
    (tmp_path / "f").write_text("one")
    service = router(clock, SiteConfig(str(tmp_path)))
    client = Client(service, clock)
    spellings = [f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode() for path in ("/f", "//f", "/./f", "/x/../f", "/%66")]
    for content in ("one", "two"):
        (tmp_path / "f").write_text(content)
        for _ in range(3):
            client.send(*spellings)
        assert {reply.body for reply in client.replies()[-15:]} == {content.encode()}


def test_a_path_is_decoded_once() -> None:
    assert decode_path("/%2566%2e", encoded_slash=True) == b"/%66."
    assert unquote_to_bytes(b"/%66.") != b"/%66."
