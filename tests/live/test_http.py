"""HTTP to the real process with real clients: requests, curl, and sockets that misbehave."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import socket
import subprocess
import sysconfig
import threading
import time
from pathlib import Path

import pytest
import requests

from rawservers.http.listing import html
from rawservers.http.listing.entries import ListingEntry
from tests.harness.server import DEADLINE, Server, exchange, need, receive_all, receive_until, until

KEPT = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n"


def library() -> tuple[Path, list[str]]:
    """The standard library's folder, and the files in it that may be served."""
    root = Path(sysconfig.get_path("stdlib")).resolve()
    names = []
    for base, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "site-packages")
        inside = Path(base).relative_to(root)
        for name in sorted(files):
            path = root / inside / name
            if not name.startswith(".") and path.is_file() and path.resolve().is_relative_to(root):
                names.append((inside / name).as_posix())
    assert len(names) > 1000
    return root, names


def url_of(server: Server, name: str) -> str:
    return server.url + "/" + requests.utils.quote(name)


def test_the_standard_library_through_one_session() -> None:
    root, names = library()
    with Server(root, "--http", "0", "--telnet", "off", "--access-log", "off") as server, requests.Session() as session:
        ports = set()
        for name in names:
            with session.get(url_of(server, name), timeout=DEADLINE, stream=True) as answer:
                ports.add(answer.raw.connection.sock.getsockname())
                assert answer.status_code == 200, name
                assert answer.content == (root / name).read_bytes(), name
        assert len(ports) == 1


def test_the_standard_library_through_one_curl(tmp_path: Path) -> None:
    curl = need("curl")
    root, names = library()
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


def test_the_log_tells_one_line_per_answer(server: Server) -> None:
    exchange(server, KEPT * 3 + b"GET /nope HTTP/1.0\r\nReferer: http://r/\r\nUser-Agent: a b\r\n\r\n")
    lines = server.await_log(4)
    assert len(lines) == 4
    pattern = r"127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    for line in lines[:3]:
        assert re.fullmatch(pattern + r'"GET /f HTTP/1\.1" 200 13 "-" "-" \d+\.\d{3}', line)
    assert re.fullmatch(pattern + r'"GET /nope HTTP/1\.0" 404 \d+ "http://r/" "a b" \d+\.\d{3}', lines[3])


def test_the_log_escapes_what_the_peer_sends(server: Server) -> None:
    exchange(server, b'GET /"\\\x1b[0m\xff\x00 HTTP/1.0\r\n\r\n')
    assert '"GET /\\x22\\x5c\\x1b[0m\\xff\\x00 HTTP/1.0" 400 ' in server.await_log(1)[0]


def test_a_large_file_with_flat_memory(folder: Path, server: Server) -> None:
    size = 3 << 30
    with open(folder / "huge", "wb") as file:
        file.truncate(size)
    with server.connect() as sock:
        sock.sendall(b"GET /huge HTTP/1.0\r\n\r\n")
        head, _, body = sock.recv(65536).partition(b"\r\n\r\n")
        assert f"Content-Length: {size}".encode() in head
        received = len(body)
        buffer = bytearray(1 << 20)
        while count := sock.recv_into(buffer):
            received += count
    assert received == size
    assert server.memory("VmHWM") < 60 << 20
    assert server.await_log(1)[0].split()[8:10] == ["200", str(size)]


def test_what_leaves_by_sendfile_is_the_file(folder: Path, server: Server) -> None:
    content = os.urandom(5_000_000)
    (folder / "big").write_bytes(content)
    for _ in range(3):
        assert requests.get(f"{server.url}/big", timeout=DEADLINE).content == content


OUTSIDE = """
    /../../etc/passwd /%2e%2e/%2e%2e/etc/passwd /%252e%252e/etc/passwd /..%2f..%2fetc/passwd //etc/passwd
    /out /.git/config /dir/../../outside /folder/outside
"""


@pytest.mark.parametrize("target", OUTSIDE.split())
def test_nothing_outside_is_served(folder: Path, server: Server, target: str) -> None:
    (folder.parent / "outside").write_text("canary root:x:0:0")
    (folder / "out").symlink_to(folder.parent / "outside")
    (folder / "folder").symlink_to(folder.parent)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("canary")
    done = subprocess.run([need("curl"), "-si", "--path-as-is", server.url + target], capture_output=True, timeout=DEADLINE)
    assert re.match(rb"HTTP/1\.0 40[034] ", done.stdout)
    assert b"canary" not in done.stdout
    assert b"root:x" not in done.stdout


def test_a_link_that_flips_never_leads_outside(folder: Path, server: Server) -> None:
    (folder.parent / "outside").write_text("canary")
    (folder / "inside").write_text("inside")
    (folder / "link").symlink_to("inside")
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            for target in (folder.parent / "outside", Path("inside")):
                (folder / "new").symlink_to(target)
                (folder / "new").rename(folder / "link")

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        bodies = set()
        with server.connect() as sock:
            for _ in range(2000):
                sock.sendall(b"GET /link HTTP/1.1\r\nHost: h\r\n\r\n")
                head = receive_until_head(sock)
                bodies.add(head)
    finally:
        stop.set()
        flipping.join()
    assert b"inside" in bodies
    assert not [body for body in bodies if b"canary" in body]


def receive_until_head(sock: socket.socket) -> bytes:
    """The body of the next answer on a kept connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert length
    while len(body) < int(length[1]):
        body += sock.recv(65536)
    return body


def test_never_stale(folder: Path, server: Server) -> None:
    with server.connect() as sock:
        for number in range(1000):
            text = b"%06d" % number
            (folder / "f").write_bytes(text)
            for _ in range(3):
                sock.sendall(KEPT)
                assert receive_until_head(sock) == text


def test_never_stale_when_size_and_mtime_are_kept(folder: Path, server: Server) -> None:
    path = folder / "f"
    long_ago = 1_000_000_000
    with server.connect() as sock:
        for number in range(200):
            text = b"%06d" % number
            path.write_bytes(text)
            os.utime(path, (long_ago, long_ago))
            if number % 20 == 0:
                time.sleep(0.03)  # so that it is old enough to be remembered: the age is what this is about
            for _ in range(3):
                sock.sendall(KEPT)
                assert receive_until_head(sock) == text


def test_a_moved_root_is_followed(tmp_path: Path) -> None:
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "f").write_text(release)
    (tmp_path / "current").symlink_to("one")
    with Server(tmp_path / "current", "--http", "0", "--telnet", "off") as server, server.connect() as sock:
        for release in ("one", "two", "one"):
            (tmp_path / "new").symlink_to(release)
            (tmp_path / "new").rename(tmp_path / "current")
            for _ in range(3):
                sock.sendall(KEPT)
                assert receive_until_head(sock) == release.encode()


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
    until(lambda: "has shrunk" in server.stderr(), "a line in the error log")
    assert exchange(server, b"GET /f\r\n") == b"content of f\n"


def test_a_refusal_is_read_by_a_client_that_still_sends(server: Server) -> None:
    for _ in range(30):
        with server.connect() as sock:
            sock.sendall(b"POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n")
            sock.sendall(bytes(10_000_000))
            assert receive_until(sock, b"</html>\n").startswith(b"HTTP/1.0 405 ")


def test_the_head_deadline(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", module="tests.servers.hasty") as server:
        with server.connect() as silent, server.connect() as slow:
            slow.sendall(b"GET /f ")
            assert receive_all(silent) == b""
            assert receive_all(slow).startswith(b"HTTP/1.0 408 ")
        with server.connect() as trickling:  # one byte now and then gains no time
            trickling.settimeout(0.2)
            trickling.send(b"GET /f HTTP/1.0\r\nX: ")
            began = time.monotonic()
            answer = b""
            while not answer:
                assert time.monotonic() - began < 10
                trickling.send(b"x")
                try:
                    answer = trickling.recv(65536)
                except TimeoutError:
                    continue
            assert answer.startswith(b"HTTP/1.0 408 ")


def test_the_idle_deadline(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", module="tests.servers.hasty") as server, server.connect() as sock:
        sock.sendall(KEPT)
        assert receive_until_head(sock) == b"content of f\n"
        assert receive_all(sock) == b""


def test_the_send_deadline(folder: Path) -> None:
    with open(folder / "huge", "wb") as file:
        file.truncate(1 << 30)
    running = Server(folder, "--http", "0", "--telnet", "off", module="tests.servers.hasty")
    with running as server, server.connect(rcvbuf=4096) as deaf:
        deaf.sendall(b"GET /huge HTTP/1.0\r\n\r\n")
        (line,) = server.await_log(1)
        assert 0 < int(line.split()[9]) < 1 << 30


def test_sigterm_lets_a_slow_download_finish(folder: Path) -> None:
    size = 100_000_000
    with open(folder / "large", "wb") as file:
        file.truncate(size)
    with Server(folder, "--http", "0", "--telnet", "0") as server:
        address = server.address("http")
        with server.connect(rcvbuf=65536) as sock, server.connect() as idle:
            idle.sendall(KEPT)
            receive_until_head(idle)
            sock.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
            received = len(sock.recv(65536))
            server.signal()

            def refused() -> bool:
                try:
                    socket.create_connection(address, timeout=5).close()
                except ConnectionRefusedError:
                    return True
                return False

            until(refused, "new connections are refused")
            assert receive_all(idle) == b""
            assert server.process.poll() is None
            while data := sock.recv(1 << 20):
                received += len(data)
        assert size < received < size + 1000
        assert server.wait() == 0


def test_a_second_signal_hurries(folder: Path) -> None:
    with open(folder / "huge", "wb") as file:
        file.truncate(1 << 30)
    with Server(folder, "--http", "0", "--telnet", "off") as server, server.connect(rcvbuf=4096) as sock:
        sock.sendall(b"GET /huge HTTP/1.0\r\n\r\n")
        sock.recv(10)
        server.signal()
        until(lambda: not listening(server), "the listener is closed")
        server.signal()
        assert server.wait(3) == 0


def listening(server: Server) -> bool:
    try:
        socket.create_connection(server.address("http"), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_out_of_descriptors(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "0") as server:
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"
        with server.connect() as kept:
            kept.sendall(KEPT)
            receive_until_head(kept)
            count = len(server.descriptors())
            _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (count + 3, hard))
            telnet = [server.connect("telnet") for _ in range(3)]
            for sock in telnet:
                sock.sendall(b"x\r\n")
                assert receive_until(sock, b"\r\n") == b"x\r\n"
            waiting = [server.connect("telnet") for _ in range(10)]
            until(lambda: "cannot accept" in server.stderr(), "the refusal is logged")
            before, began = server.cpu(), time.monotonic()
            for sock in telnet:  # those that are there go on
                sock.sendall(b"y\r\n")
                assert receive_until(sock, b"\r\n") == b"y\r\n"
            until(lambda: time.monotonic() - began > 1.5, "some time")
            assert server.cpu() - before < 0.05 * 1.5 + 0.02
            assert server.stderr().count("cannot accept") <= 4
            for sock in telnet:
                sock.close()
            for sock in waiting[:3]:  # and those that waited are served when others leave
                sock.sendall(b"z\r\n")
                assert receive_until(sock, b"\r\n") == b"z\r\n"
            for sock in waiting:
                sock.close()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"


def test_idle_kept_connections_are_given_up_for_new_ones(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off") as server:
        exchange(server, KEPT)
        count = len(server.descriptors())
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (count + 8, count + 8))
        kept = [server.connect() for _ in range(7)]
        for sock in kept:
            sock.sendall(KEPT)
            receive_until_head(sock)
        for _ in range(20):
            assert exchange(server, KEPT).endswith(b"content of f\n")
        for sock in kept:
            sock.close()


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
            assert receive_until_head(slow).startswith(b"at last\n")
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


def test_the_time_taken_is_logged(folder: Path, server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET /f HTTP/1.0\r\n")
        assert not select.select([sock], [], [], 0.3)[0]
        sock.sendall(b"\r\n")
        assert receive_all(sock)
    assert 0.25 < float(server.await_log(1)[0].split()[-1]) < 10


def test_a_log_that_nobody_reads_holds_nobody_up(folder: Path) -> None:
    count = 30_000
    requests_sent = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n" * 100
    with Server(folder, "--http", "0", "--telnet", "off") as server:
        assert server.url  # from here on nobody takes what it writes
        with server.connect() as sock:
            began = time.monotonic()
            for _ in range(count // 100):
                sock.sendall(requests_sent)
                received = b""
                while received.count(b"content of f\n") < 100:
                    received += sock.recv(1 << 20)
            assert time.monotonic() - began < 20
        until(
            lambda: len(server.log()) > 1000 and "lines dropped" in server.stderr(), "the log goes on, and says what is missing"
        )
        server.signal()
        assert server.wait() == 0
        lines = server.log()
        dropped = sum(map(int, re.findall(r"access log: (\d+) lines dropped", server.stderr())))
        assert dropped > 0
        assert len(lines) + dropped == count
        assert {len(line) for line in lines} == {len(lines[0])}  # whole lines only


def test_a_log_whose_reader_is_gone_or_whose_disk_is_full(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", "/dev/full") as server:
        for _ in range(3):
            assert exchange(server, KEPT).endswith(b"content of f\n")
        until(lambda: "lines dropped" in server.stderr(), "it is said")
    reader, writer = os.pipe()
    with Server(folder, "--http", "0", "--telnet", "off", stdout=writer) as server:
        os.close(writer)
        assert exchange(server, KEPT).endswith(b"content of f\n")
        os.close(reader)
        for _ in range(3):
            assert exchange(server, KEPT).endswith(b"content of f\n")
        until(lambda: "lines dropped" in server.stderr(), "it is said")


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


def test_hot_large_files_do_not_use_up_the_descriptors(folder: Path) -> None:
    for number in range(400):
        (folder / f"large{number}").write_bytes(bytes(20_000))
    time.sleep(0.03)  # so that they are old enough to be remembered: the age is what this is about
    with Server(folder, "--http", "0", "--telnet", "off") as server, server.connect() as sock:
        for _ in range(3):
            for number in range(400):
                sock.sendall(f"GET /large{number} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                assert len(receive_until_head(sock)) == 20_000
        assert 200 < len(server.descriptors()) < 300


def test_the_name_of_a_unix_peer_is_escaped_in_the_log(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with Server(folder, "--http", f"unix:{path}", "--telnet", "off") as server:
        until(lambda: "listening" in server.stderr(), "listening")
        for name in (b"\xff", b"x\n1.2.3.4 - - forged"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(DEADLINE)
                sock.bind(os.fsencode(tmp_path) + b"/" + name)
                sock.connect(str(path))
                sock.sendall(b"GET /f\r\n")
                assert receive_all(sock) == b"content of f\n"
        assert len(server.await_log(2)) == 2
        assert "\\x0a1.2.3.4" in server.log()[1]


def test_a_second_request_on_its_way_does_not_cut_the_last_answer(folder: Path, server: Server) -> None:
    (folder / "large").write_bytes(bytes(8_000_000))
    with server.connect() as sock:
        sock.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        first = sock.recv(10)
        sock.sendall(KEPT)
        assert len(first) + len(receive_all(sock)) > 8_000_000
