"""Real clients against the live server, by the libraries and commands that people use."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import http.client
import os
import random
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests

from tests.harness.clients import files_below, logged, run
from tests.harness.needs import need
from tests.harness.server import Server
from tests.harness.waiting import DEADLINE, until

BIG = random.Random(7).randbytes(1_000_003)
SCRIPT = b"".join(b"export const name%d = %d;\n" % (i, i) for i in range(2000))
PAST = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.fixture
def folder(folder: Path) -> Path:
    """Also with a large file, and a script with its precompressed neighbour."""
    (folder / "big").write_bytes(BIG)
    (folder / "app.js").write_bytes(SCRIPT)
    (folder / "app.js.gz").write_bytes(gzip.compress(SCRIPT, mtime=0))
    (folder / "dir").mkdir()
    (folder / "dir" / "index.html").write_text("<p>index")
    for path in folder.rglob("*"):
        os.utime(path, (PAST, PAST))
    return folder


# Libraries


def test_requests(server: Server) -> None:
    with requests.Session() as session:
        session.headers["Connection"] = "keep-alive"
        ports = set()
        for _ in range(3):
            with session.get(f"{server.url}/big", timeout=DEADLINE, stream=True) as answer:
                ports.add(answer.raw.connection.sock.getsockname())
                assert (answer.status_code, answer.reason, answer.content) == (200, "OK", BIG)
        assert len(ports) == 1
        part = session.get(f"{server.url}/big", headers={"Range": "bytes=-3"}, timeout=DEADLINE)
        assert (part.status_code, part.content, part.headers["Content-Range"]) == (
            206,
            BIG[-3:],
            "bytes 1000000-1000002/1000003",
        )
        again = session.get(f"{server.url}/big", headers={"If-None-Match": answer.headers["ETag"]}, timeout=DEADLINE)
        assert (again.status_code, again.content) == (304, b"")
        unpacked = session.get(f"{server.url}/app.js", timeout=DEADLINE)
        assert (unpacked.headers["Content-Encoding"], unpacked.content, unpacked.encoding) == ("gzip", SCRIPT, "utf-8")
        moved = session.get(f"{server.url}/dir?a=b", timeout=DEADLINE)
        assert (moved.url, moved.text, [step.status_code for step in moved.history]) == (
            f"{server.url}/dir/?a=b",
            "<p>index",
            [301],
        )
        head = session.head(f"{server.url}/big", timeout=DEADLINE)
        assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(BIG)), b"")
        refused = session.post(f"{server.url}/f", data=b"x" * 100_000, timeout=DEADLINE)
        assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
        assert session.options(f"{server.url}/f", timeout=DEADLINE).headers["Allow"] == "GET, HEAD, OPTIONS"
        missing = session.get(f"{server.url}/nope", timeout=DEADLINE)
        assert (missing.status_code, "<h1>404 Not Found</h1>" in missing.text) == (404, True)


def test_httpx(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=DEADLINE, follow_redirects=True) as client:
        for _ in range(3):  # over a connection each: to this client, whoever says HTTP/1.0 can keep none
            answer = client.get("/big")
            assert (answer.status_code, answer.http_version, answer.content) == (200, "HTTP/1.0", BIG)
        part = client.get("/big", headers={"Range": "bytes=10-19", "If-Range": answer.headers["ETag"]})
        assert (part.status_code, part.content) == (206, BIG[10:20])
        since = client.get("/big", headers={"If-Modified-Since": answer.headers["Last-Modified"]})
        assert (since.status_code, since.content) == (304, b"")
        unpacked = client.get("/app.js")
        assert (unpacked.headers["Content-Encoding"], unpacked.content) == ("gzip", SCRIPT)
        moved = client.get("/dir")
        assert (moved.url.path, moved.text, [step.status_code for step in moved.history]) == ("/dir/", "<p>index", [301])
        assert client.head("/f").headers["Content-Length"] == "13"
        assert client.get("/nope").status_code == 404
        assert client.put("/f", content=b"x").status_code == 405


def test_httpx_with_many_at_a_time(server: Server) -> None:
    async def fetch() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
            return await asyncio.gather(*(client.get("/big" if i % 4 == 0 else "/f") for i in range(60)))

    for i, answer in enumerate(asyncio.run(fetch())):
        assert (answer.status_code, answer.content) == (200, BIG if i % 4 == 0 else b"content of f\n")


def test_aiohttp(server: Server) -> None:
    async def converse() -> None:
        limit = aiohttp.ClientTimeout(DEADLINE)
        async with aiohttp.ClientSession(server.url, timeout=limit, version=aiohttp.HttpVersion11) as session:

            async def ask(method: str, path: str, **options: object) -> tuple[int, bytes, aiohttp.ClientResponse]:
                async with session.request(method, path, **options) as answer:  # type: ignore[arg-type]
                    return answer.status, await answer.read(), answer

            status, body, answer = await ask("GET", "/big")
            assert (status, body, answer.version) == (200, BIG, aiohttp.HttpVersion10)
            etag = answer.headers["ETag"]
            assert (await ask("GET", "/big", headers={"If-None-Match": etag}))[:2] == (304, b"")
            assert (await ask("GET", "/big", headers={"Range": "bytes=999999-"}))[:2] == (206, BIG[999999:])
            status, body, answer = await ask("GET", "/app.js")
            assert (status, body, answer.headers["Content-Encoding"]) == (200, SCRIPT, "gzip")
            status, body, answer = await ask("GET", "/dir")
            assert (status, body, answer.url.path, answer.history[0].status) == (200, b"<p>index", "/dir/", 301)
            status, body, answer = await ask("HEAD", "/f")
            assert (status, body, answer.headers["Content-Length"]) == (200, b"", "13")
            assert (await ask("GET", "/nope"))[0] == 404
            assert (await ask("POST", "/f", data=b"x"))[0] == 405
            together = await asyncio.gather(*(ask("GET", "/f") for _ in range(60)))
            assert [row[:2] for row in together] == [(200, b"content of f\n")] * 60

    asyncio.run(converse())


def test_urllib(server: Server) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{server.url}/big", timeout=DEADLINE) as answer:
        assert (answer.status, answer.version, answer.read()) == (200, 10, BIG)
        assert email.utils.parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp() == PAST
    part = urllib.request.Request(f"{server.url}/big", headers={"Range": "bytes=5-6"})
    with opener.open(part, timeout=DEADLINE) as answer:
        assert (answer.status, answer.read()) == (206, BIG[5:7])
    with opener.open(f"{server.url}/dir", timeout=DEADLINE) as answer:
        assert (answer.url, answer.read()) == (f"{server.url}/dir/", b"<p>index")
    for path, data, status in (("nope", None, 404), ("f", b"x", 405)):
        with pytest.raises(urllib.error.HTTPError) as failure:
            opener.open(f"{server.url}/{path}", data, timeout=DEADLINE)
        with failure.value as answer:
            assert (answer.code, f"<h1>{status} ".encode() in answer.read()) == (status, True)


def test_the_standard_librarys_connection_is_kept(server: Server) -> None:
    connection = http.client.HTTPConnection(*server.address("http"), timeout=DEADLINE)
    connection.connect()
    sock = connection.sock
    for _ in range(3):
        connection.request("GET", "/f", headers={"Connection": "keep-alive"})
        answer = connection.getresponse()
        assert (answer.status, answer.read(), connection.sock) == (200, b"content of f\n", sock)
    connection.close()


# curl


@pytest.fixture
def curl() -> Iterator[list[str | Path]]:
    return [need("curl"), "--silent", "--show-error", "--noproxy", "*", "--max-time", str(DEADLINE)]


def test_curl_resumes(server: Server, tmp_path: Path, curl: list[str | Path]) -> None:
    target = tmp_path / "big"
    target.write_bytes(BIG[:400_000])
    command = [*curl, "--fail", "-C", "-", "-o", target, f"{server.url}/big"]
    run(*command)
    assert target.read_bytes() == BIG
    command.remove("--fail")
    run(*command)  # it is complete, so there is nothing to add, the page that says so neither
    assert target.read_bytes() == BIG
    assert logged(server, 2)[0] == ("GET /big HTTP/1.1", 206, 600003)
    assert logged(server, 2)[1][1] == 416


def test_curl_asks_for_ranges(server: Server, curl: list[str | Path]) -> None:
    assert run(*curl, "--range", "7-11", f"{server.url}/big") == BIG[7:12]
    assert run(*curl, "--range", "-4", f"{server.url}/big") == BIG[-4:]
    assert run(*curl, "--range", "1000000-", f"{server.url}/big") == BIG[1_000_000:]
    parts = run(*curl, "-i", "--range", "0-1,500-503", f"{server.url}/big")
    match = re.search(rb"\r\nContent-Type: multipart/byteranges; boundary=([^\r]+)\r\n", parts)
    assert match
    assert re.match(rb"HTTP/1\.0 206 ", parts)
    found = re.findall(
        rb"--" + re.escape(match[1]) + rb"\r\n(?:[^\r]+\r\n)*?Content-Range: bytes (\d+)-(\d+)/1000003\r\n(?:[^\r]+\r\n)*\r\n",
        parts,
    )
    assert found == [(b"0", b"1"), (b"500", b"503")]
    assert b"\r\n\r\n" + BIG[:2] + b"\r\n--" in parts
    assert b"\r\n\r\n" + BIG[500:504] + b"\r\n--" in parts
    assert [row[1] for row in logged(server, 4)] == [206] * 4


def test_curl_fetches_what_is_newer_only(server: Server, folder: Path, tmp_path: Path, curl: list[str | Path]) -> None:
    copy, tag = tmp_path / "copy", tmp_path / "tag"
    run(*curl, "-R", "-o", copy, f"{server.url}/f")
    assert (copy.read_bytes(), copy.stat().st_mtime) == (b"content of f\n", PAST)
    run(*curl, "-z", copy, "-R", "-o", copy, f"{server.url}/f")
    assert copy.read_bytes() == b"content of f\n"
    (folder / "f").write_bytes(b"newer\n")
    run(*curl, "-z", copy, "-R", "-o", copy, "--etag-save", tag, f"{server.url}/f")
    assert copy.read_bytes() == b"newer\n"
    assert run(*curl, "--etag-compare", tag, f"{server.url}/f") == b""
    assert [row[1] for row in logged(server, 4)] == [200, 304, 200, 304]


def test_curl_takes_the_precompressed_neighbour(server: Server, folder: Path, curl: list[str | Path]) -> None:
    assert run(*curl, "--compressed", f"{server.url}/app.js") == SCRIPT
    assert run(*curl, f"{server.url}/app.js") == SCRIPT
    assert run(*curl, "-H", "Accept-Encoding: gzip", f"{server.url}/app.js") == (folder / "app.js.gz").read_bytes()
    packed = (folder / "app.js.gz").stat().st_size
    assert [row[2] for row in logged(server, 3)] == [packed, len(SCRIPT), packed]


def test_curl_asks_for_heads(server: Server, curl: list[str | Path]) -> None:
    head = run(*curl, "-I", f"{server.url}/big").decode()
    assert head.startswith("HTTP/1.0 200 OK\r\n")
    assert head.endswith("\r\n\r\n")
    assert "\r\nContent-Length: 1000003\r\n" in head
    assert "\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n" in head
    assert run(*curl, "-I", f"{server.url}/nope").startswith(b"HTTP/1.0 404 Not Found\r\n")
    assert [row[1:] for row in logged(server, 2)] == [(200, 0), (404, 0)]


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_curl_in_every_version(version: str, server: Server, curl: list[str | Path]) -> None:
    tell = ["-o", "/dev/null", "-w", "%{http_code} %{http_version} %{size_download} %{num_connects}\n"]
    said = run(*curl, version, *tell, f"{server.url}/big", *tell, f"{server.url}/f")
    first, second = said.decode().splitlines()
    assert first == "200 1 1000003 1"
    # Having said 1.0 and no keep-alive, it was answered with close; in 1.1 the connection is used again.
    assert second == f"200 1 13 {1 if version == '--http1.0' else 0}"


def test_curl_may_not_post(server: Server, curl: list[str | Path]) -> None:
    answer = run(*curl, "-i", "-X", "POST", f"{server.url}/f")
    assert answer.startswith(b"HTTP/1.0 405 Method Not Allowed\r\n")
    assert b"\r\nAllow: GET, HEAD, OPTIONS\r\n" in answer
    answer = run(*curl, "-i", "--data-binary", "@-", f"{server.url}/f", stdin=bytes(2_000_000))  # Expect: 100-continue
    assert answer.startswith(b"HTTP/1.0 405 ")
    run(*curl, "--fail", "-T", "-", f"{server.url}/new", stdin=b"chunked", status=22)
    assert [row[1] for row in logged(server, 3)] == [405, 405, 405]


# Others


def test_nc_for_http_09(server: Server) -> None:
    address = map(str, server.address("http"))
    assert run(need("nc.openbsd"), "-N", *address, stdin=b"GET /f\r\n") == b"content of f\n"
    address = map(str, server.address("http"))
    assert run(need("nc.openbsd"), "-N", *address, stdin=b"GET /big\n") == BIG
    assert logged(server, 2) == [("GET /f", 200, 13), ("GET /big", 200, 1000003)]


def documentation(root: Path) -> dict[str, bytes]:
    """A hundred pages in folders, all linked with one another, with images and names that need encoding; name -> content."""
    names = ["index.html", "style.css", "logo.png"]
    for chapter in ("intro", "library", "c-api", "how to", "größe", "deep/er/still"):
        names += [f"{chapter}/index.html", f"{chapter}/100% +plus.txt"]
        names += [f"{chapter}/page {number}.html" for number in range(16)]
    pages = {}
    for name in names:
        up = "../" * name.count("/")
        links = "".join(f'<li><a href="{up}{urllib.request.quote(other)}">{other}</a>\n' for other in names)
        pages[name] = (
            f'<!DOCTYPE html>\n<link rel="stylesheet" href="{up}style.css">\n<h1>{name}</h1>\n<ul>\n{links}</ul>\n'.encode()
        )
    pages |= {"style.css": b"body { background: url(logo.png) }\n", "logo.png": random.Random(3).randbytes(70_000)}
    for name, content in pages.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        os.utime(root / name, (PAST, PAST))
    return pages


@pytest.fixture
def wget() -> list[str | Path]:
    return [need("wget"), "--no-config", "--no-proxy", "--quiet", "--tries=1", f"--timeout={DEADLINE}"]


def test_wget_mirrors_documentation(tmp_path: Path, wget: list[str | Path]) -> None:
    root, mirror = tmp_path / "www", tmp_path / "mirror"
    pages = documentation(root / "doc")
    (root / "index.html").write_text("above, and not to be fetched")
    with Server(root, "--http", "0", "--telnet", "off") as server:
        environment = ["--restrict-file-names=nocontrol", "--local-encoding=UTF-8", "--no-iri"]
        options = ["-r", "-np", "-nH", "-l", "inf", "-N", "-e", "robots=off", *environment, "-P", mirror]
        run(*wget, *options, f"{server.url}/doc/")
        assert files_below(mirror / "doc") == pages
        assert {path.name for path in mirror.iterdir()} == {"doc"}
        assert {path.stat().st_mtime for path in mirror.rglob("*") if path.is_file()} == {PAST}

        def sent(method: str) -> int:
            return sum(f'"{method} /doc/' in line and '" 200 ' in line for line in server.log())

        until(lambda: sent("GET") == len(pages), "each page was fetched, and once")
        # A second time, nothing but heads is sent. (By If-Modified-Since, wget would not look behind what is unchanged.)
        run(*wget, *options, "--no-if-modified-since", f"{server.url}/doc/")
        assert files_below(mirror / "doc") == pages
        until(lambda: sent("HEAD") >= len(pages), "it has looked at each")
        assert sent("GET") == len(pages)


def test_wget_mirrors_a_listing(tmp_path: Path, wget: list[str | Path]) -> None:
    root, mirror = tmp_path / "www", tmp_path / "mirror"
    files = {
        f"{folder}{name}": f"{folder}{name}".encode() * 50
        for folder in ("", "a/", "a/b/", "with space/", "größe/", "100%/", "?#/")
        for name in ("plain.txt", "a+b", "ü.txt", "semi;colon", "50%", "tag<b>", "quote'\".txt", "amp&amp;", "javascript:x")
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    with Server(root, "--http", "0", "--telnet", "off", "--listing") as server:
        environment = ["--restrict-file-names=nocontrol", "--local-encoding=UTF-8", "--no-iri"]
        run(*wget, "-r", "-np", "-nH", "-l", "inf", "-e", "robots=off", *environment, "-P", mirror, server.url + "/")
        found = files_below(mirror)
        listings = {name for name in found if Path(name).name == "index.html"}
        assert len(listings) == 7
        assert {name: found[name] for name in found if name not in listings} == files
        assert {row[1] for row in logged(server, len(found))} == {200}


def test_wget_resumes_and_asks_for_what_is_newer(server: Server, folder: Path, tmp_path: Path, wget: list[str | Path]) -> None:
    target = tmp_path / "big"
    target.write_bytes(BIG[:123_456])
    run(*wget, "-c", "-P", tmp_path, f"{server.url}/big")
    assert target.read_bytes() == BIG
    run(*wget, "-c", "-P", tmp_path, f"{server.url}/big")
    assert target.read_bytes() == BIG
    assert [row[1] for row in logged(server, 2)] == [206, 416]
    run(*wget, "-N", "-P", tmp_path, f"{server.url}/f")
    run(*wget, "-N", "-P", tmp_path, f"{server.url}/f")
    assert ((tmp_path / "f").read_bytes(), (tmp_path / "f").stat().st_mtime) == (b"content of f\n", PAST)
    (folder / "f").write_bytes(b"newer\n")
    run(*wget, "-N", "-P", tmp_path, f"{server.url}/f")
    assert (tmp_path / "f").read_bytes() == b"newer\n"
    assert [row[1] for row in logged(server, 5)[2:]] == [200, 304, 200]
    run(*wget, "-P", tmp_path, f"{server.url}/nope", status=8)


@pytest.mark.parametrize(("path", "count"), [("f", 5000), ("big", 200)])
def test_ab_keeps_its_connections(path: str, count: int, folder: Path, tmp_path: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", tmp_path / "log") as server:
        said = run(need("ab"), "-q", "-k", "-n", str(count), "-c", "20", f"{server.url}/{path}").decode()
    told = dict(re.findall(r"^([A-Z][A-Za-z -]+[a-z]): +(\d+)", said, re.MULTILINE))
    assert (told["Complete requests"], told["Failed requests"], told["Keep-Alive requests"]) == (str(count), "0", str(count))
    size = (folder / path).stat().st_size
    assert (told["Document Length"], told["HTML transferred"]) == (str(size), str(size * count))
    assert "Non-2xx responses" not in told
    assert (tmp_path / "log").read_text().count(f'"GET /{path} HTTP/1.0" 200 {size} ') == count


def test_ab_without_keeping(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", "off") as server:
        said = run(need("ab"), "-q", "-n", "2000", "-c", "20", f"{server.url}/f").decode()
    told = dict(re.findall(r"^([A-Z][A-Za-z -]+[a-z]): +(\d+)", said, re.MULTILINE))
    assert (told["Complete requests"], told["Failed requests"], told["HTML transferred"]) == ("2000", "0", "26000")
    assert "Keep-Alive requests" not in told
