"""The welcome site, without a socket: what its answers show, and to whom."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.core.peer import Address, Clock, Peer
from rawservers.core.protocol import ResponseEnd
from rawservers.core.record import replace
from rawservers.http.cache import FreshnessClock, ResponseCache
from rawservers.http.conversation import Conversation
from rawservers.http.files import FileCache
from rawservers.http.router import Router
from rawservers.settings import Config, ListenConfig, SiteConfig, TLSConfig
from rawservers.sockets import ConnectedSocket, ListeningSocket, Sockets, TimeWaitSocket
from rawservers.telnet.echo import EchoSession
from rawservers.welcome import page
from rawservers.welcome.page import command
from rawservers.welcome.site import MAX_INPUT, WelcomeSite
from rawservers.welcome.visitor import Visitor

HTTP, TELNET = ListenConfig("http", "127.0.0.1:8080"), ListenConfig("telnet", "127.0.0.1:2323")
SOCKETS = Sockets(
    workers=2,
    silent=1,
    listening=[ListeningSocket("http", "127.0.0.1:8080", 0, 4096), ListeningSocket("telnet", "unix:/run/<t>", None, None)],
    connected=[
        ConnectedSocket("http", "127.0.0.1:50000", "127.0.0.1:8080", "busy", 0.5, 75.0, 1234, 12345, 1),
        ConnectedSocket("telnet", "198.51.100.9:40009", "192.0.2.80:23", "idle", 2.0, 3.0, 5, 7, 2),
    ],
    connected_total=5,
    time_wait=[TimeWaitSocket("192.0.2.80:80", "198.51.100.8:40008", 57.0)],
    time_wait_total=2,
)
OTHERS = (b"198.51.100", b"192.0.2.80", b"40009", b"40008", b"/run/")


class FakePeer(Peer):
    @property
    def local(self) -> Address:
        return "127.0.0.1", 8080


class Site:
    """A welcome page, and a connection to it from `address`. sockets: the table, an exception, or None: it comes later."""

    def __init__(
        self,
        *listeners: ListenConfig,
        address: Address = ("127.0.0.1", 50000),
        sockets: Sockets | Exception | None = SOCKETS,
    ) -> None:
        self.asked: list[Future[Sockets]] = []
        self.clock = Clock(100.0, 2_000_000_000.0)
        self.peer = FakePeer(address, self.clock)
        self._sockets = sockets
        config = Config(listen=listeners or (HTTP, TELNET))
        freshness = FreshnessClock(self.clock)
        cache = ResponseCache(freshness, 100, 1 << 20)
        site = WelcomeSite(SiteConfig(), freshness, cache, FileCache(1, 1, 1), config=config, get_sockets=self.get_sockets)
        self.router = Router([site], config, cache)
        self.conversation = Conversation(self.peer, self.router)

    def get_sockets(self) -> Future[Sockets]:
        future: Future[Sockets] = Future()
        self.asked.append(future)
        if isinstance(self._sockets, Exception):
            future.set_exception(self._sockets)
        elif self._sockets:
            future.set_result(self._sockets)
        return future

    def send(self, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Status, header fields and body of the answer. head: as text, with LF, without the empty line."""
        lines = head.replace("\n", "\r\n")
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        chunks = self.conversation.receive(f"{lines}\r\n{length}\r\n".encode("latin-1") + body)
        data = b"".join([chunk for chunk in chunks if isinstance(chunk, bytes)])
        assert isinstance(chunks[-1], ResponseEnd)
        answer, _, content = data.partition(b"\r\n\r\n")
        status, *fields = answer.decode().split("\r\n")
        return int(status.split()[1]), dict(field.split(": ", 1) for field in fields), content

    def get(self, path: str = "/", host: str = "localhost:8080", more: str = "") -> tuple[int, dict[str, str], bytes]:
        return self.send(f"GET {path} HTTP/1.1\nHost: {host}{more}")


def test_the_page_of_a_visitor_on_this_machine() -> None:
    status, fields, body = Site().get()
    assert status == 200
    assert fields["Content-Type"] == "text/html; charset=utf-8"
    assert fields["Cache-Control"] == "no-store"
    text = body.decode()
    assert "<span id=peer-port>50000</span>" in text
    assert "<span id=local-port>8080</span>" in text
    assert (
        "<tr class=own><td>this page<td>http<td>127.0.0.1:8080<td>127.0.0.1:50000<td>0.5s<td>1m15s<td>1,234<td>12 KiB" in text
    )
    assert "<tr><td>idle<td>telnet<td>192.0.2.80:23<td>198.51.100.9:40009<td>2.0s<td>3.0s<td>5<td>7" in text
    assert "<tr><td>57.0s left<td><td>192.0.2.80:80<td>198.51.100.8:40008" in text
    assert "<tr><td>listening<td>telnet<td>unix:/run/&lt;t&gt;<td><td>" in text
    assert "<li>And 3 older connections." in text
    assert "<li>Without those of 1 of 2 workers" in text
    assert "<li>And 1 more in TIME_WAIT." in text
    assert "requests: <b id=received>1,234 bytes</b>" in text
    assert "<code>telnet 127.0.0.1 2323</code>" in text
    assert "<!--" not in text


def test_it_is_one_small_document() -> None:
    """With nothing from elsewhere in it, and under a policy that allows its own style and script alone."""
    status, fields, body = Site().get()
    text = body.decode()
    assert status == 200
    assert len(body) < 40 << 10
    assert not re.search(r"(?:src|href)=(?!\"data:)|@import|url\(|https?://(?!www\.w3\.org)", text)
    for kind in ("style", "script"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in fields["Content-Security-Policy"]
    assert "unsafe" not in fields["Content-Security-Policy"]
    assert fields["Content-Security-Policy"].startswith("default-src 'none';")
    assert fields["X-Content-Type-Options"] == "nosniff"
    assert fields["Cross-Origin-Resource-Policy"] == "same-origin"
    markup = text.partition("</style>")[2].partition("<script>")[0]
    assert not re.search(r"\b(?:on[a-z]+|style)=", markup)  # the policy would not allow it


def test_its_files_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be in an archive that is replaced under the server, whose workers are forked again."""
    before = Site().get()[2]

    def read_data(name: str) -> str:
        raise FileNotFoundError(name)

    monkeypatch.setattr(page, "read_data", read_data)
    assert Site().get()[2] == before


def test_the_table_for_the_script() -> None:
    status, fields, body = Site().get("/sockets")
    assert (status, fields["Content-Type"], fields["Cache-Control"]) == (200, "application/json", "no-store")
    table = json.loads(body)
    assert (table["peer"], table["local"]) == (["127.0.0.1", 50000], ["127.0.0.1", 8080])
    assert (table["received"], table["sent"]) == ("1,234 bytes", "12 KiB")
    own = ["this page", "http", "127.0.0.1:8080", "127.0.0.1:50000", "0.5s", "1m15s", "1,234", "12 KiB"]
    assert table["connected"] == [own, ["idle", "telnet", "192.0.2.80:23", "198.51.100.9:40009", "2.0s", "3.0s", "5", "7"]]
    assert table["listening"][0] == ["listening", "http", "127.0.0.1:8080", "accept queue 0 of 4096", "", "", "", ""]
    assert table["time_wait"] == [["57.0s left", "", "192.0.2.80:80", "198.51.100.8:40008", "", "", "", ""]]
    assert len(table["notes"]) == 3


@pytest.mark.parametrize("path", ["/", "/index.html", "/sockets", "/other"])
@pytest.mark.parametrize(
    ("address", "host", "more", "own"),
    [
        ("203.0.113.5", "localhost", "", True),
        ("203.0.113.5", "www.example", "", True),
        ("203.0.113.5", "localhost", "\nX-Forwarded-For: 203.0.113.9", False),
        ("127.0.0.1", "localhost", "\nVia: 1.1 proxy", False),
        ("127.0.0.1", "rebound.example", "", False),
        ("unix:", "localhost", "", False),
    ],
)
def test_no_answer_names_others(path: str, address: str, host: str, more: str, own: bool) -> None:
    """Nor the visitor's own connection, where that may be a proxy's."""
    sockets = replace(SOCKETS, connected=[
        SOCKETS.connected[0]._replace(peer=f"{address}:50000"), SOCKETS.connected[1]
    ])  # fmt: skip
    listeners = HTTP, TELNET, ListenConfig("telnet", "192.0.2.80:23"), ListenConfig("telnet", "unix:/run/t")
    status, _, body = Site(*listeners, address=(address, 50000), sockets=sockets).get(path, host, more)
    assert status == (404 if path == "/other" else 200)
    assert not [text for text in OTHERS if text in body]
    if path != "/other":
        assert (b"50000" in body) == own
        assert b"And 5 more connections." in body if not own else b"And 4 more connections." in body
        assert b"shown only to a browser on this machine" in body
    if not own:
        assert b"127.0.0.1" not in body
        assert b"8080" not in body


def test_listeners_of_a_visitor_from_elsewhere() -> None:
    """As with the commands: those on all addresses, and the one that it has come to."""
    rows = [ListeningSocket("http", address, 0, 9) for address in ("[::]:80", "0.0.0.0:81", "127.0.0.1:8080", "192.0.2.80:82")]
    sockets = replace(SOCKETS, listening=[*rows, ListeningSocket("telnet", "unix:/run/t", None, None)])

    def listening(address: str, more: str = "") -> list[str]:
        body = Site(address=(address, 1), sockets=sockets).get("/sockets", more=more)[2]
        return [row[2] for row in json.loads(body)["listening"]]

    assert listening("127.0.0.1") == ["[::]:80", "0.0.0.0:81", "127.0.0.1:8080", "192.0.2.80:82", "unix:/run/t"]
    assert listening("203.0.113.5") == ["[::]:80", "0.0.0.0:81", "127.0.0.1:8080"]
    assert listening("203.0.113.5", "\nVia: 1.1 x") == []


def test_commands_of_a_visitor_from_elsewhere() -> None:
    """Those that lead to where the visitor is, or to all addresses; none behind a proxy."""
    listeners = [
        ListenConfig("http", ":8080"),
        ListenConfig("telnet", "0.0.0.0:23"),
        TELNET,
        ListenConfig("telnet", "[::1]:99"),
    ]
    listeners = [ListenConfig("http", "[::]:8080"), *listeners[1:]]
    text = Site(*listeners, address=("203.0.113.5", 1)).get(host="www.example:8080")[2].decode()
    assert "| nc www.example 8080</code>" in text
    assert "<code>telnet www.example 23</code>" in text
    assert "telnet 127.0.0.1 2323" in text  # this connection's own local address
    assert "::1 99" not in text
    text = Site(*listeners, address=("203.0.113.5", 1)).get(host="www.example", more="\nForwarded: for=_x")[2].decode()
    assert "| nc" not in text
    assert "<code>telnet" not in text
    assert "python3 -m rawservers DIR" in text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/local/bin/rawservers", "rawservers"),
        ("/opt/my apps/raw servers.pyz", "python3 &#x27;raw servers.pyz&#x27;"),
        ("/usr/lib/python3/rawservers/__main__.py", "python3 -m rawservers"),
        ("tests/test_a.py", "python3 -m rawservers"),
    ],
)
def test_the_command_is_the_one_that_has_started_the_server(path: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [path])
    assert f"<code>{expected} DIR</code>" in Site(HTTP).get()[2].decode()


def test_commands_of_listeners_with_tls() -> None:
    addresses = ("http", "[::1]:8443"), ("telnet", "127.0.0.1:992"), ("telnet", "unix:/run/a b")
    listeners = [ListenConfig(*each, tls=(TLSConfig("site.pem"),)) for each in addresses]
    visitor = Visitor(("127.0.0.1", 1), ("127.0.0.1", 8080), "localhost", False, True)
    http, telnet, unix = [command(each, visitor) for each in listeners]
    assert "| openssl s_client -quiet -connect &#x27;[::1]:8443&#x27;</code>" in http
    assert "<code>openssl s_client -quiet -connect 127.0.0.1:992</code> and type" in telnet
    assert "<code>openssl s_client -quiet -unix &#x27;/run/a b&#x27;</code>" in unix


def test_the_bytes_of_the_request() -> None:
    more = '\nX: <script>alert(1)</script> <!-- style --> & "q" \xe9\\'
    more += "\nCookie: session=s3cret\nX-Api-Key:   s3cret\nAuthorization: Basic s3cret"
    text = Site().get("/index.html?a=%3Cb%3E&c", more=more)[2].decode()
    shown = text.partition("<pre")[2].partition(">")[2].partition("</pre>")[0]
    end = r"<span class=end>\r\n</span>"
    assert shown.split("\n") == [
        f"GET /index.html?a=%3Cb%3E&amp;c HTTP/1.1{end}",
        f"Host: localhost:8080{end}",
        f"X: &lt;script&gt;alert(1)&lt;/script&gt; &lt;!-- style --&gt; &amp; &quot;q&quot; \\xe9\\x5c{end}",
        f"Cookie: ***{end}",
        f"X-Api-Key: ***{end}",
        f"Authorization: ***{end}",
        end,
    ]
    assert "s3cret" not in text


@pytest.mark.parametrize("before", range(3960, 4010))
def test_a_secret_that_is_cut_is_not_shown(before: int) -> None:
    text = Site().get(more=f"\nX: {'x' * before}\nCookie: session=s3cret{'s3cret' * 99}")[2].decode()
    assert "s3c" not in text
    assert "bytes more" in text


def test_a_long_request_is_cut() -> None:
    text = Site().get(more="\nX: " + "\xff" * 20000)[2].decode()
    assert len(text) < 40 << 10
    assert re.search(r"\nand 1[0-9],[0-9]{3} bytes more</pre>", text)


@pytest.mark.parametrize(("host", "more"), [("localhost", "\nX-Forwarded-For: 203.0.113.9"), ("www.example", "")])
def test_bytes_that_may_be_a_proxys_are_not_shown(host: str, more: str) -> None:
    text = Site().get(host=host, more=f"{more}\nX-Internal: inner")[2].decode()
    assert "203.0.113.9" not in text
    assert "inner" not in text
    assert "may have come through a proxy" in text


def test_without_a_table() -> None:
    site = Site(sockets=RuntimeError("no table"))
    status, _, body = site.get()
    assert status == 200
    assert b"The table could not be made." in body
    assert b"<span id=peer-port>50000" in body
    assert site.get("/sockets")[0] == 500


def test_a_table_that_comes_later() -> None:
    site = Site(sockets=None)
    assert site.conversation.receive(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == ()
    site.asked[0].set_result(SOCKETS)
    head, *_ = site.conversation.resume()
    assert b"this page" in head


def test_methods_and_other_paths() -> None:
    assert Site().send("HEAD / HTTP/1.1\nHost: localhost")[2] == b""
    assert Site().send("POST / HTTP/1.1\nHost: localhost", b"x")[:2][0] == 405
    for path in ("/site.py", "/style.css", "/script.js", "/__init__.py", "/sockets/", "/echo/"):
        assert Site().get(path)[0] == 404
    site = Site()
    first, second = site.get(), site.get()
    assert len(site.asked) == 2  # the page is not from a cache
    assert first[2] == second[2]


def test_the_answers_of_a_page_count_as_work() -> None:
    site = Site()
    site.get()
    assert site.conversation.steps >= 200


# The echo

ECHO = "POST /echo HTTP/1.1\nHost: localhost:8080\nContent-Type: application/octet-stream"


def test_the_echo() -> None:
    status, fields, body = Site().send(
        f"{ECHO}\nOrigin: http://localhost:8080\nSec-Fetch-Site: same-origin", b"hi\r\nyou\n\xff\xf6"
    )
    assert (status, body) == (200, b"hi\r\nyou\r\n\r\n[Yes]\r\n")
    assert fields["Content-Type"] == "application/octet-stream"
    assert fields["X-Content-Type-Options"] == "nosniff"
    assert Site().send(ECHO)[::2] == (200, b"")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"{ECHO}\nOrigin: http://other.example", 403),
        (f"{ECHO}\nOrigin: http://localhost:8081", 403),
        (f"{ECHO}\nOrigin: null", 403),
        (f"{ECHO}\nSec-Fetch-Site: cross-site", 403),
        (f"{ECHO}\nSec-Fetch-Site: same-site", 403),
        (ECHO.replace("application/octet-stream", "text/plain"), 403),
        (ECHO.replace("application/octet-stream", "multipart/form-data; boundary=application/octet-stream"), 403),
        ("POST /echo HTTP/1.1\nHost: localhost:8080", 403),
        ("POST /echo HTTP/1.0\nOrigin: http://\nContent-Type: application/octet-stream", 403),
        ("PUT /echo HTTP/1.1\nHost: localhost:8080\nContent-Type: application/octet-stream", 405),
        (f"{ECHO}\nSec-Fetch-Site: none", 200),
        (f"{ECHO}\nOrigin: https://LOCALHOST:8080", 200),
    ],
)
def test_who_may_use_the_echo(head: str, status: int) -> None:
    answer = Site().send(head, b"hi\r\n")
    assert answer[0] == status
    assert (answer[2] == b"hi\r\n") == (status == 200)
    assert not {name.lower() for name in answer[1]} & {"access-control-allow-origin", "access-control-allow-headers"}


@pytest.mark.parametrize("more", ["\nSec-Fetch-Site: cross-site", "\nOrigin: http://other.example"])
def test_the_table_is_not_for_other_sites(more: str) -> None:
    status, _, body = Site().get("/sockets", more=more)
    assert status == 403
    assert b"50000" not in body


def test_no_echo_without_telnet() -> None:
    site = Site(HTTP, sockets=replace(SOCKETS, listening=[], connected=[]))
    assert b"elnet" not in site.get()[2].partition(b"<script>")[0]
    assert site.get("/echo")[0] == 404
    assert Site(HTTP).send(ECHO, b"hi")[0] == 405


def test_the_echo_is_bounded() -> None:
    assert Site().send(ECHO, b"x" * MAX_INPUT + b"\n")[0] == 413
    assert Site().send(ECHO, b"x" * (MAX_INPUT - 1) + b"\n")[0] == 200
    redraws = b"\xff\xfd\x01" + b"x" * 1000 + b"\x12" * 1000  # each key has the whole line sent again
    assert Site().send(ECHO, redraws)[0] == 413


@given(st.binary(max_size=MAX_INPUT))
def test_any_input_of_the_echo(data: bytes) -> None:
    """What comes back is what a session on a socket would say, however much that has to do."""
    status, _, body = Site().send(ECHO, data)
    session = EchoSession(Peer(("h", 1), Clock()), longest_line=4096)
    chunks = [*session.receive(data)] if data else []
    while session.waiting.name == "TURN":
        chunks += session.resume()
    expected = b"".join([chunk for chunk in chunks if isinstance(chunk, bytes)])
    assert (status, body) == (200, expected) or (status == 413 and session.steps > 1000)


def test_a_page_of_any_bytes() -> None:
    """Whatever is in a head, the page holds no tag of it."""
    ask: Callable[[bytes], bytes] = lambda value: Site().get(more=f"\nX: {value.decode('latin-1')}")[2]  # noqa: E731
    plain = ask(b"")
    for start in range(0x20, 0x100, 32):
        value = bytes(code for code in range(start, start + 32) if code != 0x7F)
        assert ask(value).count(b"<") == plain.count(b"<")
