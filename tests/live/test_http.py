"""HTTP to the real process: whole trees and large files, by real clients, and sockets that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests

from rawservers.http.listing import html
from rawservers.http.listing.entries import ListingEntry
from tests.harness.http_client import KEPT, take_body
from tests.harness.needs import need
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all, receive_until
from tests.harness.supervisor import configure
from tests.harness.waiting import DEADLINE, until

MANY = pytest.mark.parametrize("number", [400, pytest.param(2000, marks=pytest.mark.slow)])


def library(number: int) -> tuple[Path, list[str]]:
    """The standard library's folder, and up to so many of the files in it that may be served."""
    root = Path(sysconfig.get_path("stdlib")).resolve()
    names = []
    for base, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "site-packages")
        inside = Path(base).relative_to(root)
        for name in sorted(files):
            path = root / inside / name
            if not name.startswith(".") and path.is_file() and (not path.is_symlink() or path.resolve().is_relative_to(root)):
                names.append((inside / name).as_posix())
    assert len(names) > 1000
    return root, names[:: 1 + len(names) // number]


def url_of(server: Server, name: str) -> str:
    return server.url + "/" + requests.utils.quote(name)


@MANY
def test_the_standard_library_through_one_session(number: int) -> None:
    root, names = library(number)
    with Server(root, "--http", "0", "--telnet", "off", "--access-log", "off") as server, requests.Session() as session:
        ports = set()
        for name in names:
            with session.get(url_of(server, name), timeout=DEADLINE, stream=True) as answer:
                ports.add(answer.raw.connection.sock.getsockname())
                assert answer.status_code == 200, name
                assert answer.content == (root / name).read_bytes(), name
        assert len(ports) == 1


@MANY
def test_the_standard_library_through_one_curl(tmp_path: Path, number: int) -> None:
    curl = need("curl")
    root, names = library(number)
    with Server(root, "--http", "0", "--telnet", "off", "--access-log", "off") as server:
        config = tmp_path / "curl.conf"
        lines = [f'url = "{url_of(server, name)}"\noutput = "{tmp_path / str(i)}"\n' for i, name in enumerate(names)]
        config.write_text("".join(lines))
        command = [
            curl,
            "--silent",
            "--show-error",
            "--fail",
            "--globoff",
            "--write-out",
            "%{num_connects}\n",
            "--config",
            config,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE * 2)
        assert (done.returncode, done.stderr) == (0, "")
        assert sum(map(int, done.stdout.split())) == 1
    for i, name in enumerate(names):
        assert (tmp_path / str(i)).read_bytes() == (root / name).read_bytes(), name
        (tmp_path / str(i)).unlink()


@pytest.mark.slow
def test_a_large_file_with_flat_memory(folder: Path, server: Server) -> None:
    size = (2 << 30) + 1000  # more than one call of sendfile(2) takes
    with open(folder / "huge", "wb") as file:
        file.truncate(size)
    with server.connect() as sock:
        sock.sendall(b"GET /huge HTTP/1.0\r\n\r\n")
        head, _, body = sock.recv(65536).partition(b"\r\n\r\n")
        assert f"Content-Length: {size}".encode() in head
        received = len(body)
        buffer = bytearray(1 << 20)
        while count := sock.recv_into(buffer, 0, socket.MSG_TRUNC):  # which copies nothing
            received += count
    assert received == size
    assert server.memory("VmHWM") < 60 << 20
    assert server.await_log(1)[0].split()[8:10] == ["200", str(size)]


def test_what_leaves_by_sendfile_is_the_file(folder: Path, server: Server) -> None:
    content = os.urandom(5_000_000)
    (folder / "big").write_bytes(content)
    for _ in range(3):
        assert requests.get(f"{server.url}/big", timeout=DEADLINE).content == content


def test_half_close_with_much_unread(folder: Path, server: Server) -> None:
    content = os.urandom(5_000_000)
    (folder / "big").write_bytes(content)
    with server.connect() as sock:
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        until(lambda: str(folder / "big") in server.descriptors(), "the answer has begun")
        assert receive_all(sock).endswith(content)
    assert server.await_log(1)[0].split()[8:10] == ["200", "5000000"]


def takes(sock: socket.socket, data: bytes) -> bool:
    """Whether the other end has room for some of `data`."""
    try:
        return sock.send(data) > 0
    except BlockingIOError:
        return False


def test_a_client_that_never_reads_costs_nothing(folder: Path, server: Server) -> None:
    with open(folder / "huge", "wb") as file:
        file.truncate(1 << 30)
    exchange(server, KEPT)
    before = server.memory()
    with server.connect(rcvbuf=4096) as deaf:
        deaf.sendall(b"GET /huge HTTP/1.1\r\nHost: h\r\n\r\n" * 500)
        for _ in range(20):
            assert exchange(server, KEPT).endswith(b"content of f\n")
        deaf.setblocking(False)
        until(lambda: not takes(deaf, KEPT * 2000), "it is not read any more, however much it sends")
        assert exchange(server, KEPT).endswith(b"content of f\n")
        assert server.memory() - before < 2 << 20


def test_a_reset_in_the_middle_frees_everything(folder: Path, server: Server) -> None:
    with open(folder / "huge", "wb") as file:
        file.truncate(1 << 30)
    exchange(server, KEPT)
    before = len(server.descriptors())
    for _ in range(20):
        sock = server.connect()
        sock.sendall(b"GET /huge HTTP/1.0\r\n\r\n")
        sock.recv(65536)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        sock.close()
    until(lambda: len(server.descriptors()) <= before + 1, "descriptors are given back (one stays for the hot file)")
    assert len(server.await_log(21)) == 21
    assert all(0 < int(line.split()[9]) < 1 << 30 for line in server.log()[1:])


def test_a_file_that_shrinks_ends_the_answer_early(folder: Path, server: Server) -> None:
    with open(folder / "huge", "wb") as file:
        file.truncate(1 << 28)
    with server.connect() as sock:
        sock.sendall(b"GET /huge HTTP/1.0\r\n\r\n")
        received = len(sock.recv(4096))
        os.truncate(folder / "huge", 1000)
        while True:
            try:
                data = sock.recv(1 << 20)
            except ConnectionResetError:
                break
            if not data:
                break
            received += len(data)
    assert received < 1 << 28
    until(lambda: "file truncated" in server.stderr(), "a line in the error log")
    assert exchange(server, b"GET /f\r\n") == b"content of f\n"


def test_a_refusal_is_read_by_a_client_that_still_sends(conf: Path, folder: Path) -> None:
    configure(conf, folder, limits={"linger_time": DEADLINE})  # seconds for the client, on a busy machine as well
    with Server("-c", conf) as server:
        for _ in range(30):
            with server.connect() as sock:
                sock.sendall(b"POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n")
                sock.sendall(bytes(10_000_000))
                assert receive_until(sock, b"</html>\n").startswith(b"HTTP/1.0 405 ")


def test_answers_in_code() -> None:
    with Server(module="tests.servers.functions") as server:
        body = os.urandom(1 << 20)
        assert requests.post(f"{server.url}/echo", data=body, timeout=DEADLINE).content == body
        assert requests.put(f"{server.url}/echo", data=body + b"x", timeout=DEADLINE).status_code == 413
        command = [need("curl"), "-s", "-H", "Expect: 100-continue", "--data-binary", "@-", f"{server.url}/echo"]
        assert subprocess.run(command, input=body, capture_output=True, timeout=DEADLINE).stdout == body
        with server.connect() as slow:
            slow.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
            slow.sendall(b"GET /echo HTTP/1.1\r\nHost: h\r\n\r\n" * 3)
            for _ in range(20):  # the others are not held up
                assert requests.get(f"{server.url}/echo", timeout=DEADLINE).content == b""
            assert requests.get(f"{server.url}/release", timeout=DEADLINE).status_code == 204
            assert take_body(slow).startswith(b"at last\n")
        lines = [json.loads(line) for line in server.await_log(25)]
        assert lines[0] | {"seconds": 0, "time": ""} == {
            "peer": "127.0.0.1",
            "time": "",
            "request": "POST /echo HTTP/1.1",
            "status": 200,
            "bytes": 1 << 20,
            "seconds": 0,
            "referer": "",
            "agent": requests.utils.default_user_agent(),
        }


NODE = """
const request = require("http").request(process.argv[1], { method: "POST" }, (answer) => answer.pipe(process.stdout));
for (let i = 0; i < 4000; i++) request.write("x");
request.end();
"""


def test_real_clients_send_bodies_in_chunks() -> None:
    with Server(module="tests.servers.functions") as server:
        url = f"{server.url}/echo"
        body = os.urandom(1 << 20)
        pieces = [body[i : i + 10_000] for i in range(0, len(body), 10_000)]

        async def send_with_aiohttp() -> bytes:
            async def generate() -> AsyncIterator[bytes]:
                for piece in pieces:
                    yield piece

            async with aiohttp.ClientSession() as session, session.post(url, data=generate()) as answer:
                return await answer.read()

        with requests.Session() as session:
            for _ in range(2):  # over one connection
                assert session.post(url, data=iter(pieces), timeout=DEADLINE).content == body
            assert session.put(url, data=iter([*pieces, b"x"]), timeout=DEADLINE).status_code == 413
        assert httpx.post(url, content=iter(pieces), timeout=DEADLINE, trust_env=False).content == body
        assert asyncio.run(send_with_aiohttp()) == body
        command = [need("curl"), "-s", "--noproxy", "*", "-T", "-", url]  # with Expect: 100-continue
        assert subprocess.run(command, input=body, capture_output=True, timeout=DEADLINE).stdout == body
        command = [need("node"), "-e", NODE, url]
        assert subprocess.run(command, capture_output=True, timeout=DEADLINE).stdout == b"x" * 4000
        requests_ = [json.loads(line) for line in server.await_log(7)]
        assert [line["status"] for line in requests_] == [200, 200, 413, 200, 200, 200, 200]


def test_ranges_across_the_limits_of_32_bits(folder: Path, server: Server) -> None:
    marks = {1 << 31: b"two GiB", 1 << 32: b"four GiB"}
    with open(folder / "huge", "wb") as file:
        for place, mark in marks.items():
            file.seek(place - 3)
            file.write(mark)
    for place, mark in marks.items():
        first, last = place - 5, place + 8
        answer = requests.get(f"{server.url}/huge", headers={"Range": f"bytes={first}-{last}"}, timeout=DEADLINE)
        assert answer.status_code == 206
        assert answer.content == (b"\0\0" + mark).ljust(14, b"\0")[: (1 << 32) + 5 - first]
        assert answer.headers["Content-Range"].startswith(f"bytes {first}-")


def test_a_file_and_a_folder_that_may_not_be_read(folder: Path) -> None:
    (folder / "secret").write_text("secret")
    (folder / "closed").mkdir()
    for name in ("secret", "closed"):
        (folder / name).chmod(0)
    folder.chmod(0o755)
    command = [] if os.geteuid() else [need("setpriv"), "--bounding-set=-dac_override,-dac_read_search"]
    with Server(folder, "--http", "0", "--telnet", "off", "--listing", before=command) as server:
        for path in ("/secret", "/closed/", "/closed/x"):
            for ask in (requests.get, requests.head):
                assert ask(server.url + path, timeout=DEADLINE).status_code == 403
        assert requests.get(server.url + "/f", timeout=DEADLINE).text == "content of f\n"
    (folder / "closed").chmod(0o755)


def test_many_ask_for_a_large_listing_at_once(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"file-{number * 7919 % 2003}").write_bytes(b"x" * (number % 5))
    status = {path.name.encode(): path.stat() for path in tmp_path.iterdir()}
    expected = b"".join(
        html.render(b"/", [ListingEntry(name, False, its.st_size, its.st_mtime) for name, its in status.items()])
    )
    with Server(tmp_path, "--http", "0", "--telnet", "off", "--listing") as server:
        socks = [server.connect() for _ in range(40)]
        for sock in socks:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        pages = set()
        for sock in socks:
            with sock:
                head, _, page = receive_all(sock).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.0 200 OK\r\n")
                assert f"\r\nContent-Length: {len(expected)}".encode() in head
                pages.add(page)
        assert pages == {expected}
        heads = exchange(server, b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n" * 170)
        assert heads.count(b"HTTP/1.0 200 OK\r\n") == heads.count(b"\r\n\r\n") == 170
        assert b"Content-Length" not in heads


def test_a_second_request_on_its_way_does_not_cut_the_last_answer(folder: Path, server: Server) -> None:
    (folder / "large").write_bytes(bytes(8_000_000))
    with server.connect() as sock:
        sock.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        first = sock.recv(10)
        sock.sendall(KEPT)
        assert len(first) + len(receive_all(sock)) > 8_000_000
