"""The pytest plugin in a project of somebody else's: its fixtures, what it reports, and with what it gets on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.needs import ROOT

PLUGIN = "rawservers.testing.plugin"


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of the tests import this checkout, which need not be installed, and no plugin that they do not name."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(source)
    return pytester.runpytest_subprocess("-p", PLUGIN, *arguments)


def test_what_was_not_expected_fails_at_teardown(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import socket
        from urllib.error import HTTPError
        from urllib.request import urlopen
        import pytest

        def ask(server):
            with pytest.raises(HTTPError):
                urlopen(server.url("/b"))

        def test_request(http_server):
            http_server.expect_request("/a", "GET").respond_with_data()
            ask(http_server)

        def test_lax(http_server, telnet_server):
            http_server.strict = telnet_server.strict = False
            telnet_server.expect_line("never", ordered=True)
            ask(http_server)

        def test_lax_factory(http_server_factory):
            ask(http_server_factory(strict=False))

        def test_missing(http_server):
            http_server.expect_oneshot_request("/c").respond_with_data()

        def test_both(http_server_factory):
            servers = [http_server_factory() for _ in range(3)]
            servers[0].expect_ordered_request("/first").respond_with_data()
            servers[2].expect_ordered_request("/last").respond_with_data()

        def test_line(telnet_server):
            telnet_server.expect_line("show version").respond("7.2")
            with socket.create_connection(telnet_server.address) as sock:
                sock.sendall(b"show versions\\r\\n")
                assert sock.recv(100).startswith(b"?the line ")

        def test_checked_by_itself(http_server):
            ask(http_server)
            with pytest.raises(AssertionError, match="GET /b was not expected; nothing was"):
                http_server.check()
        """,
    )
    result.assert_outcomes(passed=7, errors=4)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_request*",
            "GET /b was not expected; nearest: GET /a (path differs)",
            "*ERROR at teardown of test_missing*",
            "a request for /c was expected, but never came",
            "*ERROR at teardown of test_both*",
            "a request for /first was expected, but never came",
            "a request for /last was expected, but never came",
            "*ERROR at teardown of test_line*",
            "the line 'show versions' was not expected; nearest: 'show version'",
        ]
    )


def test_after_a_failure_what_has_not_come_is_no_second_one(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from urllib.error import HTTPError
        from urllib.request import urlopen

        def test_fails_first(http_server):
            http_server.expect_oneshot_request("/never").respond_with_data()
            assert False, "as told"

        def test_is_fine_otherwise(http_server):
            http_server.expect_oneshot_request("/missing").respond_with_data()

        def test_fails_with_something_unexpected(http_server):
            http_server.expect_oneshot_request("/never").respond_with_data()
            urlopen(http_server.url("/b"))
        """,
    )
    result.assert_outcomes(passed=1, failed=2, errors=2)
    assert "/never was expected, but never came" not in result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_is_fine_otherwise*",
            "a request for /missing was expected, but never came",
            "*ERROR at teardown of test_fails_with_something_unexpected*",
            "GET /b was not expected; nearest: * /never (path differs)",
        ]
    )


def test_a_handler_that_raises_is_shown_with_its_line(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from urllib.request import Request, urlopen

        def test(http_server):
            def handle(request):
                assert request.body == b"expected"
            http_server.expect_request("/a").respond_with_handler(handle)
            try:
                urlopen(Request(http_server.url("/a"), b"sent"))
            except OSError:
                pass
        """,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(['>*assert request.body == b"expected"', "*handler for POST /a raised AssertionError*"])


def test_waits_end_with_the_test(pytester: pytest.Pytester) -> None:
    """Clients that nobody answers do not hold up the end; the test would time out otherwise."""
    result = run(
        pytester,
        """
        import socket

        def test(http_server, telnet_server):
            global clients
            http_server.expect_request("/hang").hang()
            http_server.expect_request("/delay").delay(3600).respond_with_data("late")
            http_server.expect_request("/trickle").trickle(1, every=3600).respond_with_data("late")
            telnet_server.expect_line("hang").hang()
            clients = [socket.create_connection(http_server.address) for _ in range(4)]
            for client, path in zip(clients, ["hang", "delay", "trickle"]):
                client.sendall(b"GET /%s HTTP/1.0\\r\\n\\r\\n" % path.encode())
            assert clients[2].recv(100) == b"H"
            clients.append(socket.create_connection(telnet_server.address))
            clients[-1].sendall(b"hang\\r\\n")
            http_server.never_read()
            clients.append(socket.create_connection(http_server.address))

        def test_end():
            import threading
            assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
            for client in clients:
                try:
                    assert client.recv(1) == b""
                except ConnectionResetError:
                    pass
                client.close()
        """,
    )
    result.assert_outcomes(passed=2)


def test_beside_pytest_httpserver(pytester: pytest.Pytester) -> None:
    """The same test for both: what has the same name means the same."""
    result = run(
        pytester,
        """
        import re
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen
        import pytest
        from pytest_httpserver import HTTPServer

        def fetch(url, data=None, **headers):
            try:
                with urlopen(Request(url, data, headers)) as response:
                    return response.status, response.headers.get("Content-Type"), response.read()
            except HTTPError as error:
                error.close()
                return error.code, None, None

        @pytest.fixture(params=["httpserver", "http_server"])
        def server(request):
            server = request.getfixturevalue(request.param)
            server.strict = False
            server.url = getattr(server, "url_for", None) or server.url
            return server

        def test_same(server):
            server.expect_request("/data").respond_with_data("grüße")
            server.expect_request("/bytes").respond_with_data(b"x", content_type="a/b", status=201)
            server.expect_request("/mime").respond_with_data("x", mimetype="text/html", headers={"X-A": "b"})
            server.expect_request("/header").respond_with_data("x", headers={"Content-Type": "c/d"})
            server.expect_request("/json").respond_with_json({"a": [1]})
            server.expect_request(re.compile("/re[0-9]")).respond_with_data("re")
            server.expect_request("/post", "POST", data="body", headers={"X-A": "b"}).respond_with_data("data")
            server.expect_request("/post", "POST", json={"a": 1}).respond_with_data("json")
            server.expect_oneshot_request("/once").respond_with_data("1")
            assert fetch(server.url("/data")) == (200, "text/plain; charset=utf-8", "grüße".encode())
            assert fetch(server.url("/bytes")) == (201, "a/b", b"x")
            assert fetch(server.url("/mime")) == (200, "text/html; charset=utf-8", b"x")
            assert fetch(server.url("/header")) == (200, "c/d", b"x")
            status, kind, body = fetch(server.url("/json"))
            assert (status, kind, b"".join(body.split())) == (200, "application/json", b'{"a":[1]}')
            assert fetch(server.url("/re1/more"))[0] == 200
            assert fetch(server.url("/not/re1"))[0] == 500
            assert fetch(server.url("/post"), b"body", **{"X-A": "b"})[2] == b"data"
            assert fetch(server.url("/post"), b"body")[0] == 500
            assert fetch(server.url("/post"), b'{"a":1}')[2] == b"json"
            assert fetch(server.url("/once"))[2] == b"1"
            assert fetch(server.url("/once"))[0] == 500

        def test_ordered(server):
            server.expect_ordered_request("/a").respond_with_data("a")
            server.expect_ordered_request("/b").respond_with_data("b")
            assert [fetch(server.url(path))[0] for path in ["/a", "/a", "/b"]] == [200, 500, 500]
            with pytest.raises(AssertionError):
                server.check()
            server.clear()
            server.expect_request("/a").respond_with_data("a")
            assert fetch(server.url("/a"))[0] == 200

        def test_both_at_once(httpserver: HTTPServer, http_server):
            httpserver.expect_request("/").respond_with_data("theirs")
            http_server.expect_request("/").respond_with_data("ours")
            assert fetch(httpserver.url_for("/"))[2] == b"theirs"
            assert fetch(http_server.url("/"))[2] == b"ours"
        """,
        "-p", "pytest_httpserver.pytest_plugin",
    )  # fmt: skip
    result.assert_outcomes(passed=5)


def test_in_two_processes(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from urllib.request import urlopen
        import pytest

        @pytest.mark.parametrize("number", range(20))
        def test(http_server, telnet_server, number):
            http_server.serve("/", number)
            with urlopen(http_server.url()) as response:
                assert response.read() == str(number).encode()
        """,
        "-p", "xdist", "-n", "2",
    )  # fmt: skip
    result.assert_outcomes(passed=20)


def test_elsewhere_than_on_linux_the_fixtures_skip(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import sys
        import pytest

        @pytest.fixture(autouse=True)
        def elsewhere(monkeypatch):
            monkeypatch.setattr(sys, "platform", "darwin")

        def test_plain():
            assert not [name for name in sys.modules if name.startswith("rawservers.") and "testing" not in name]

        def test_http(http_server): ...
        def test_telnet(telnet_server): ...
        def test_http_factory(http_server_factory): ...
        def test_telnet_factory(telnet_server_factory): ...
        """,
        "-rs",
    )
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines(["SKIPPED*needs Linux (epoll)"])


def test_loading_imports_pytest_alone() -> None:
    source = f"""
import pytest, sys
before = set(sys.modules)
import {PLUGIN}
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['rawservers', 'rawservers.testing', 'rawservers.testing.plugin']"


def test_the_classes_without_pytest() -> None:
    source = """
import sys
from urllib.request import urlopen
from rawservers.testing import HTTPServer, TelnetServer
with HTTPServer() as server, TelnetServer():
    server.serve("/", "served")
    print(urlopen(server.url()).read().decode())
print("pytest" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["served", "False"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_in_a_project_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing but pytest and the wheel; the plugin is found by its entry point."""
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    source, wheels, project = tmp_path / "source", tmp_path / "wheels", tmp_path / "project"
    ignored = ["--exclude=./.venv*", "--exclude=./.git", "--exclude=*.egg-info", "--exclude=./build"]
    source.mkdir()
    packed = subprocess.run(["tar", "-c", *ignored, "."], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x"], cwd=source, input=packed.stdout, check=True)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, source], check=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([sys.executable, "-m", "venv", project / "venv"], check=True)
    python = project / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "pytest", wheel], check=True)
    (project / "test_client.py").write_text(
        """
import socket
from urllib.request import urlopen

def test_client(http_server, telnet_server):
    http_server.serve("/", {"name": "Ada"})
    telnet_server.expect_line("show version", prompt="> ").respond("7.2")
    with urlopen(http_server.url()) as response:
        assert response.read() == b'{"name": "Ada"}'
    with socket.create_connection(telnet_server.address) as sock:
        sock.sendall(b"show version\\r\\n")
        answer = b""
        while not answer.endswith(b"7.2\\r\\n> "):
            answer += sock.recv(100)

def test_unexpected(http_server):
    http_server.expect_oneshot_request("/never").respond_with_data()
"""
    )
    done = subprocess.run([python, "-m", "pytest", "-q", "-W", "error"], cwd=project, capture_output=True, text=True)
    assert "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "a request for /never was expected, but never came" in done.stdout


def test_servers_with_tls(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import socket
        from urllib.request import urlopen

        def test_http(http_server_factory):
            server = http_server_factory(tls=True)
            server.serve("/a", "answer")
            assert server.url("/a").startswith("https://127.0.0.1:")
            with urlopen(server.url("/a"), context=server.client_context()) as answer:
                assert answer.read() == b"answer"
            assert server.ca_file.endswith(".pem")
            with server.down():
                pass
            with urlopen(server.url("/a"), context=server.client_context()) as answer:
                assert answer.read() == b"answer"

        def test_faults(http_server_factory):
            server = http_server_factory("localhost", tls=True)
            server.expect_request("/a").respond_with_data("answer").delay(0.01).trickle(1, 0.001)
            with urlopen(server.url("/a"), context=server.client_context()) as answer:
                assert answer.read() == b"answer"

        def test_telnet(telnet_server_factory):
            server = telnet_server_factory(tls=True)
            server.expect_line("hello").respond("world")
            with socket.create_connection(server.address) as sock:
                with server.client_context().wrap_socket(sock, server_hostname="localhost") as secure:
                    secure.sendall(b"hello\\r\\n")
                    assert secure.recv(100) == b"world\\r\\n"
        """,
    )
    result.assert_outcomes(passed=3)
