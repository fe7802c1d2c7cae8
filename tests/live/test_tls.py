"""TLS in the live server: real clients, certificates and their reload, privileges, and clients that speak without it."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import os
import pwd
import re
import signal
import socket
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests
import telnetlib3
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bench.renegotiation import RECORDS, renegotiations
from rawservers import status
from rawservers.daemon import control
from rawservers.daemon.self_signed import make_certificate
from rawservers.daemon.startup import CannotStart
from tests.harness.clients import run
from tests.harness.needs import need, need_root
from tests.harness.processes import kinds
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all, receive_until
from tests.harness.supervisor import replaced
from tests.harness.tls import HOST, Client, Files, client_context, issue, make_dated, secure
from tests.harness.waiting import DEADLINE, until

CONTENT = b"content of f\n"
BIG = bytes(range(256)) * 8192


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder `www` to serve."""
    found = tmp_path_factory.mktemp("place")
    found.chmod(0o755)
    (found / "www").mkdir()
    (found / "www/f").write_bytes(CONTENT)
    (found / "www/big").write_bytes(BIG)
    (found / "www/dir").mkdir()
    (found / "www/dir/index.html").write_text("<p>hello over TLS")
    return found


@pytest.fixture(scope="module")
def files(place: Path) -> Files:
    return issue(place)


@pytest.fixture(scope="module")
def server(place: Path, files: Files) -> Iterator[Server]:
    """HTTP and Telnet, with TLS and without."""
    addresses = ("--http", "0", "--https", "0", "--telnet", "0", "--telnets", "0")
    with Server(place / "www", *addresses, *files.options) as running:
        yield running


def url(server: Server, path: str = "/f") -> str:
    return f"https://{HOST}:{server.address('https')[1]}{path}"


def get(server: Server, path: str = "/f", context: ssl.SSLContext | None = None, service: str = "https") -> bytes:
    """The whole answer on a connection of its own."""
    with secure(server.connect(service), context) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return receive_all(sock)


# Clients


def test_it_says_where_it_listens(server: Server) -> None:
    server.address("telnets")
    assert re.search(r"^https listening on https://127\.0\.0\.1:\d+/ \(serving .*\)$", server.stderr(), re.MULTILINE)
    assert re.search(r"^http listening on http://127\.0\.0\.1:\d+/ ", server.stderr(), re.MULTILINE)


def test_the_table_of_sockets_names_the_services_with_tls(place: Path, files: Files, tmp_path: Path) -> None:
    (tmp_path / "conf.toml").write_text(f'[[listen]]\nservice = "status"\naddress = "unix:{tmp_path}/status"\n')
    addresses = ("--http", "0", "--https", "0", *files.options)
    with Server("-c", tmp_path / "conf.toml", place / "www", *addresses) as server:
        with secure(server.connect("https")) as sock, server.connect("http") as plain:
            sock.sendall(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
            assert receive_until(sock, CONTENT).endswith(CONTENT)
            plain.sendall(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
            assert receive_until(plain, CONTENT).endswith(CONTENT)
            ends = {sock.getsockname()[1]: "https", plain.getsockname()[1]: "http"}
            table = status.fetch_sockets(f"unix:{tmp_path}/status")
        assert {row.service for row in table.listening} == {"http", "https", "status"}
        assert {int(row.peer.rpartition(":")[2]): row.service for row in table.connected if row.service != "status"} == ends


def test_requests(server: Server, files: Files) -> None:
    with requests.Session() as session:
        session.trust_env = False  # a CA bundle of the environment would come before this one
        session.verify = str(files.ca)
        for _ in range(3):
            assert session.get(url(server), timeout=DEADLINE).content == CONTENT
            assert session.get(url(server, "/big"), timeout=DEADLINE).content == BIG
        part = session.get(url(server, "/big"), headers={"Range": "bytes=5-7"}, timeout=DEADLINE)
        assert (part.status_code, part.content) == (206, BIG[5:8])
        slash = session.get(url(server, "/dir"), timeout=DEADLINE)
        assert slash.url == url(server, "/dir/")


def test_httpx_and_urllib(server: Server) -> None:
    context = client_context()
    with httpx.Client(verify=context) as client:
        assert client.get(url(server), timeout=DEADLINE).content == CONTENT
        assert client.get(url(server, "/big"), timeout=DEADLINE).content == BIG
    with urllib.request.urlopen(url(server), timeout=DEADLINE, context=context) as answer:
        assert answer.read() == CONTENT


def test_aiohttp(server: Server) -> None:
    async def fetch() -> list[bytes]:
        connector = aiohttp.TCPConnector(ssl=client_context(), limit=20)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def one(path: str) -> bytes:
                async with session.get(url(server, path)) as answer:
                    return await answer.read()

            return await asyncio.gather(*map(one, ["/f", "/big"] * 20))

    assert asyncio.run(fetch()) == [CONTENT, BIG] * 20


@pytest.mark.parametrize("options", [(), ("--tls-max", "1.2"), ("--http1.0",)])
def test_curl(server: Server, files: Files, options: tuple[str, ...]) -> None:
    command = (need("curl"), "-sS", "--fail", "--cacert", str(files.ca), *options)
    assert run(*command, url(server), url(server), url(server, "/big")) == CONTENT + CONTENT + BIG


def test_curl_does_not_trust_an_authority_that_it_does_not_know(server: Server) -> None:
    run(need("curl"), "-sS", url(server), status=60)


def test_openssl(server: Server, files: Files) -> None:
    host, port = server.address("https")
    command = (need("openssl"), "s_client", "-quiet", "-connect", f"{host}:{port}", "-CAfile", str(files.ca))
    said = run(*command, "-verify_return_error", "-verify_hostname", HOST, stdin=b"GET /f HTTP/1.0\r\n\r\n")
    assert said.endswith(b"\r\n\r\n" + CONTENT)


def test_socat(server: Server, files: Files) -> None:
    port = server.address("telnets")[1]
    assert run(need("socat"), "-t5", "-", f"openssl:{HOST}:{port},cafile={files.ca}", stdin=b"a line\n") == b"a line\r\n"


def test_telnetlib3(server: Server) -> None:
    async def talk() -> str:
        host, port = server.address("telnets")
        context = client_context()
        context.check_hostname = False
        reader, writer = await telnetlib3.open_connection(host, port, ssl=context, encoding="utf8", connect_minwait=0)
        writer.write("hello\r\n")
        line = await asyncio.wait_for(reader.readline(), DEADLINE)
        writer.transport.abort()  # close() waits for the server's close_notify, longer than this loop runs
        return str(line)

    assert asyncio.run(talk()).strip() == "hello"


@pytest.mark.slow
def test_chromium(server: Server, files: Files, tmp_path: Path) -> None:
    """It takes this certificate, and no other, in place of one of an authority that it knows."""
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    encoded = certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pin = b64encode(hashlib.sha256(encoded).digest()).decode()
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom")
    trust = f"--ignore-certificate-errors-spki-list={pin}"
    assert b"hello over TLS" in run(need("chromium"), *options, trust, url(server, "/dir/"))


# Clients that speak otherwise than the port


def test_http_without_tls_on_a_port_with_tls(server: Server) -> None:
    answer = exchange(server, b"GET /secret?x HTTP/1.1\r\nHost: h\r\n\r\nGET /f HTTP/1.0\r\n\r\n", "https")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert body == b"This port expects TLS. Use https:// in the URL.\n"
    until(lambda: any('"GET /secret?x HTTP/1.1" 400 ' in line for line in server.log()), "the log")


def test_telnet_without_tls_on_a_port_with_tls(server: Server) -> None:
    assert exchange(server, b"hello\r\n", "telnets") == b"This port expects TLS (telnets).\r\n"


def test_tls_on_a_port_without_it(server: Server) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number|record layer failure"):
        secure(server.connect("http"))
    until(lambda: any('"(TLS handshake)" 400 ' in line for line in server.log()), "the log")
    with server.connect() as sock:
        sock.sendall(b"\x16")
        assert b"400 Bad Request" in receive_all(sock)


# Certificates


@pytest.fixture
def conf(tmp_path: Path, place: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path / "conf.toml"


def configure(conf: Path, place: Path, tls: str, more: str = "") -> None:
    conf.write_text(f'{more}\nhttp.root = "{place}/www"\n[[listen]]\nservice = "http"\naddress = "0"\ntls = {tls}\n')


def serial(server: Server, name: str = HOST) -> int:
    """Of the certificate that a client is shown that asks for this host."""
    context = client_context()
    context.check_hostname = False
    with context.wrap_socket(server.connect("https"), server_hostname=name) as sock:
        encoded = sock.getpeercert(binary_form=True)
        assert encoded
        return x509.load_der_x509_certificate(encoded).serial_number


def number(files: Files) -> int:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number


def test_a_reload_reads_the_certificate_anew(conf: Path, place: Path) -> None:
    first = issue(conf.parent)
    configure(conf, place, first.toml)
    with Server("-c", conf) as server:
        before = serial(server)
        with secure(server.connect("https")) as kept:
            issue(conf.parent)
            control.reload(server.process.pid)
            assert (before, serial(server)) == (before, number(first))
            assert before != number(first)
            kept.sendall(b"GET /f HTTP/1.0\r\n\r\n")
            assert receive_all(kept).endswith(CONTENT)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("another key", "site.key: not the private key of the certificate .*site.pem"),
        ("no key", "site.key: cannot read the private key: no such file or directory"),
        ("half a certificate", "site.pem: not valid"),
        ("an empty certificate", "site.pem: no certificate in PEM format"),
        ("an encrypted key", "site.key: the private key is encrypted"),
    ],
)
def test_a_reload_with_a_broken_pair_is_not_taken(conf: Path, place: Path, what: str, error: str) -> None:
    files = issue(conf.parent)
    configure(conf, place, files.toml)
    with Server("-c", conf) as server:
        before = serial(server)
        other = issue(conf.parent, name="other")
        if what == "another key":
            files.key.write_bytes(other.key.read_bytes())
        elif what == "no key":
            files.key.unlink()
        elif what == "half a certificate":
            files.certificate.write_bytes(re.sub(rb"\n[^\n]+(\n-----END)", rb"\1", files.certificate.read_bytes(), count=1))
        elif what == "an empty certificate":
            files.certificate.write_bytes(b"\n")
        else:
            run(need("openssl"), "pkey", "-in", other.key, "-aes256", "-passout", "pass:secret", "-out", files.key)
        with pytest.raises(CannotStart, match="rejected the new configuration"):
            control.reload(server.process.pid)
        line = re.compile(rf"^{re.escape(str(conf))}:6: listen\.tls: .*{error}", re.MULTILINE)
        until(lambda: line.search(server.stderr()) is not None, f"the message about {what}")
        assert serial(server) == before
        assert get(server).endswith(CONTENT)


def test_certificates_for_several_sites(conf: Path, place: Path) -> None:
    """The client names the host in its first message (SNI)."""
    files = [issue(conf.parent, "first.example", name="first")]
    files += [issue(conf.parent, "a.example", name="a"), issue(conf.parent, "*.b.example", name="b")]
    hosts = ("", ', hosts = ["a.example", "www.a.example"]', ', hosts = ["*.b.example"]')
    tables = (each.toml.replace(" }", f"{names} }}") for each, names in zip(files, hosts, strict=True))
    configure(conf, place, f"[{', '.join(tables)}]")
    asked = {
        "a.example.": 1,
        "first.example": 0,
        "a.example": 1,
        "WWW.A.example": 1,
        "x.a.example": 0,
        "x.b.example": 2,
        "b.example": 0,
    }
    with Server("-c", conf) as server:
        found = {name: serial(server, name) for name in asked}
        assert found == {name: number(files[index]) for name, index in asked.items()}
        context = client_context()
        context.check_hostname = False
        with context.wrap_socket(server.connect("https")) as sock:  # without a name
            sock.sendall(b"GET /f HTTP/1.0\r\n\r\n")
            assert receive_all(sock).endswith(CONTENT)
        client = Client(host="no-ascii.example")
        client.hear(b"")
        said = server.stderr()
        with server.connect("https") as sock:
            sock.sendall(client.say().replace(b"no-ascii", b"no-\xff\xfe\xff\xfe\xff"))
            assert receive_all(sock)[:1] == b"\x15"  # an alert
        assert serial(server, "a.example") == number(files[1])
        server.signal()
        assert server.wait() == 0
        assert server.stderr() == said


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_of_one_worker_is_resumed_by_another(place: Path, files: Files, version: ssl.TLSVersion) -> None:
    """They have the keys of the tickets from the supervisor, and so has one that is started later."""
    context = client_context(version)
    with Server(place / "www", "--http", "off", "--https", "0", *files.options, may_fail=True) as server:
        with secure(server.connect("https"), context) as sock:
            sock.sendall(b"GET /f HTTP/1.0\r\n\r\n")
            receive_all(sock)
            session = sock.session
        (victim,) = server.workers()
        os.kill(victim, signal.SIGKILL)
        replaced(server, victim, workers=1)
        with secure(server.connect("https"), context, session) as sock:
            assert sock.session_reused


def test_the_key_is_read_before_privileges_are_dropped(conf: Path, place: Path) -> None:
    need_root("drop privileges")
    files = issue(conf.parent)
    files.key.chmod(0o600)
    conf.write_text(f'user = "nobody"\nworkers = 2\n[[listen]]\nservice = "http"\naddress = "0"\ntls = {files.toml}\n')
    with Server("-c", conf) as server:
        assert b"200 OK" in get(server, "/")
        (uid,) = {os.stat(f"/proc/{worker}").st_uid for worker in server.workers()}
        assert uid == pwd.getpwnam("nobody").pw_uid
        issue(conf.parent)
        control.reload(server.process.pid)
        assert serial(server) == number(files)


def test_a_key_that_anybody_can_read(place: Path, tmp_path: Path) -> None:
    files = issue(tmp_path)
    for mode, warnings in ((0o640, 0), (0o644, 1)):
        files.key.chmod(mode)
        with Server(place / "www", "--http", "off", "--https", "0", "--telnets", "0", *files.options) as server:
            server.address("telnets")
            assert server.stderr().count(f"{files.key}: any user of this system can read this private key\n") == warnings


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [(-20, -1, "has expired at"), (-20, 1, "expires at"), (1, 90, "is not valid before"), (-1, 90, "")],
)
def test_a_certificate_that_is_about_to_expire_is_warned_of(
    conf: Path, place: Path, tmp_path: Path, start: int, end: int, told: str
) -> None:
    """At the start and at each reload, once."""
    now = datetime.datetime.now(datetime.UTC)
    path = make_dated(tmp_path, *(now + datetime.timedelta(days) for days in (start, end)))
    configure(conf, place, f'{{ certificate = "{path}" }}')
    with Server("-c", conf) as server:
        server.address("https")
        for count in (1, 2):
            warnings = re.findall(r": the certificate .*", server.stderr())
            assert [told in warning for warning in warnings] == [True] * count * bool(told), warnings
            control.reload(server.process.pid)


# A certificate of no authority


def test_two_self_signed_certificates_have_files_of_their_own() -> None:
    first, second = make_certificate("first.example"), make_certificate("second.example")
    for config, name in ((first, "first.example"), (second, "second.example")):
        assert name.encode() in run(need("openssl"), "x509", "-noout", "-ext", "subjectAltName", "-in", config.certificate)
        assert os.stat(config.key).st_mode & 0o077 == 0


def test_a_self_signed_certificate(place: Path) -> None:
    need("openssl")
    with Server(place / "www", "--http", "off", "--https", "0", "--tls-self-signed") as server:
        port = server.address("https")[1]
        match = re.search(r"for clients that are to trust it: (.*)", server.stderr())
        assert match
        path = Path(match[1])
        context = ssl.create_default_context(cafile=path)
        for name in (HOST, "127.0.0.1"):
            with urllib.request.urlopen(f"https://{name}:{port}/f".replace(HOST, "127.0.0.1"), context=context) as answer:
                assert answer.read() == CONTENT
        assert {stat.st_mode & 0o777 for stat in map(os.stat, (path.parent, *path.parent.iterdir()))} == {0o700, 0o600}
        before = serial_of(path)
        control.reload(server.process.pid)
        assert serial_of(path) == before
    assert not path.parent.exists()


def serial_of(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


@pytest.mark.parametrize(
    ("program", "mode", "said"),
    [
        ("#!/bin/sh\necho boom >&2\nexit 1\n", 0o755, "openssl failed: boom"),
        ("", 0o644, "cannot run openssl: permission denied"),
    ],
)
def test_openssl_that_fails(place: Path, tmp_path: Path, program: str, mode: int, said: str) -> None:
    (tmp_path / "openssl").write_text(program)
    (tmp_path / "openssl").chmod(mode)
    environment = os.environ | {"PATH": str(tmp_path)}
    with Server(place / "www", "--tls-self-signed", "--http", "off", "--https", "0", env=environment) as server:
        assert server.wait() == 2
        assert server.stderr() == f"rawservers: --tls-self-signed: {said}\n"


def test_a_self_signed_certificate_without_openssl(place: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PATH": str(tmp_path)}
    with Server(place / "www", "--tls-self-signed", "--http", "off", "--https", "0", env=environment) as server:
        assert server.wait() == 2
        assert server.stderr() == "rawservers: --tls-self-signed needs the openssl command, which is not installed\n"


# The trace


def test_the_trace_counts_what_was_sent_of_a_file_once(place: Path, files: Files) -> None:
    (place / "www" / "large").write_bytes(bytes(300_000))
    with Server(place / "www", "--http", "off", "--https", "0", *files.options, "--trace") as server:
        with secure(server.connect("https")) as sock:
            sock.sendall(b"GET /large HTTP/1.0\r\n\r\n")
            size = len(receive_all(sock))
        until(lambda: "close  " in server.stderr(), "the end")
        assert f", {size} sent\n" in server.stderr()


def test_the_trace_over_tls(place: Path, files: Files) -> None:
    with Server(place / "www", "--http", "off", "--https", "0", *files.options, "--trace") as server:
        with secure(server.connect("https")) as sock:
            sock.sendall(b"GET /f HTTP/1.0\r\nCookie: secret\r\n\r\n")
            receive_all(sock)
        until(lambda: "close  " in server.stderr(), "the end")
        lines = [re.sub("  +", " ", line[30:]) for line in server.stderr().splitlines() if re.match(r"\d\d:", line)]
        assert any(re.fullmatch(r"TLS handshake TLSv1\.3, TLS_\w+", line) for line in lines)
        assert any(re.fullmatch(r"receive \d+ bytes: GET /f HTTP/1\.0", line) for line in lines)
        assert any(line.startswith("send ") and "HTTP/1.0 200 OK" in line for line in lines)
        assert "close_notify sent" in lines
        assert "secret" not in server.stderr()


# Many


def test_handshakes_that_are_never_finished_leave_nothing(place: Path, files: Files) -> None:
    """200 of each kind, and then an honest client."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    with Server(place / "www", "--http", "off", "--https", "0", *files.options) as server:
        server.address("https")
        before = kinds(server.pid)
        for said in (b"", hello[:3], hello, b"\x16" + os.urandom(400), b"\x16\x03\x01\xff\xff"):
            socks = [server.connect("https") for _ in range(200)]
            for sock in socks:
                sock.sendall(said)
            assert get(server).endswith(CONTENT)
            for sock in socks:
                sock.close()
        until(lambda: kinds(server.pid) == before, "the descriptors are closed")


def test_clients_that_renegotiate_without_end(place: Path, files: Files) -> None:
    """Each time they are refused, and others do not wait for them."""
    with Server(place / "www", "--http", "off", "--https", "0", *files.options) as server:
        address = server.address("https")
        socks, refused = [socket.create_connection(address, DEADLINE) for _ in range(20)], 0
        words = [renegotiations(sock) for sock in socks]
        for _ in range(3):
            for sock, said in zip(socks, words, strict=True):
                sock.settimeout(DEADLINE)
                sock.sendall(next(said))
            assert get(server).endswith(CONTENT)
            for sock in socks:
                answer = b""
                while len(answer) < RECORDS * 31:  # alerts, encrypted
                    answer += sock.recv(65536)
                refused += answer.count(b"\x15\x03\x03\x00\x1a") >= RECORDS
        assert refused == 3 * 20
        for sock in socks:
            sock.close()


def test_the_status_over_tls(conf: Path, files: Files) -> None:
    conf.write_text(f'[[listen]]\nservice = "status"\naddress = "0"\ntls = {files.toml}\n')
    with Server("-c", conf) as server:
        until(lambda: "listening" in server.stderr(), "the start")
        with secure(server.connect("statuss")) as sock:
            sock.sendall(b"GET /json HTTP/1.0\r\n\r\n")
            answer = receive_all(sock)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_session_of_telnet(server: Server) -> None:
    with secure(server.connect("telnets")) as sock:
        for line in (b"first\r\n", b"second\r\n"):
            sock.sendall(line)
            assert receive_until(sock, b"\r\n") == line
        assert sock.unwrap().recv(10) == b""
