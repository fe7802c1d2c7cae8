"""The programs in examples/, with real clients. Those of the tutorial are run by tests/live/test_code_blocks.py."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from netmiko import ConnectHandler

import rawservers
from examples import countdown
from rawservers import Config, ListenConfig
from tests.harness.needs import ROOT, need
from tests.harness.server import Server
from tests.harness.sockets import receive_all, receive_until
from tests.harness.terminal import Terminal
from tests.harness.waiting import DEADLINE


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.name)
def test_its_command_stands_at_its_top(path: Path) -> None:
    name = path.relative_to(ROOT)
    commands = {f"python3 {name} ", f"python3 -m {'.'.join(name.with_suffix('').parts)} ", f"python3 -m pytest {name}"}
    line = path.read_text().splitlines()[2].replace("-c /dev/null -p rawservers.testing.plugin ", "")
    assert [command for command in commands if f"{line} ".startswith(command)]


def test_a_third_protocol(tmp_path: Path) -> None:
    """RFC 867: daytime, which a configuration file can name as it does HTTP and Telnet."""
    conf = tmp_path / "daytime.toml"
    conf.write_text((ROOT / "examples/daytime.toml").read_text().replace(":1313", ":0"))
    with Server("-c", conf, module="examples.daytime") as server:
        for _ in range(3):
            with server.connect("daytime") as sock:
                sock.sendall(b"this is thrown away")
                text = receive_all(sock).decode()
            said = datetime.strptime(text, "%A, %B %d, %Y %H:%M:%S-%Z\r\n").replace(tzinfo=UTC)
            assert abs((datetime.now(UTC) - said).total_seconds()) < 5
        server.signal()
        assert server.wait() == 0


def test_chat() -> None:
    with Server("0", module="examples.chat") as server:
        host, port = server.address("telnet")
        with Terminal("inetutils-telnet", host, str(port)) as ada, server.connect("telnet") as bob:
            rows = [f"Trying {host}...", f"Connected to {host}.", "Escape character is '^]'.", "Your name? "]
            ada.shows(rows)
            bob.sendall(b"Bob\r\n")
            assert receive_until(bob, b"\n") == b"Your name? Here: \r\n"
            ada.type("Ada\n")
            assert receive_until(bob, b"\n") == b"* Ada has come\r\n"
            bob.sendall(b"clear\x1b[2J\r\n")
            ada.shows([*rows[:3], "Your name? Ada", "Here: Bob", "<Bob> clear[2J", ""])
            ada.type("hi\n")
            assert receive_until(bob, b"\n") == b"<Ada> hi\r\n"
            bob.sendall(b"/quit\r\n")
            assert receive_all(bob) == b"Goodbye\r\n"
            ada.shows([*rows[:3], "Your name? Ada", "Here: Bob", "<Bob> clear[2J", "hi", "* Bob has gone", ""])


def test_a_countdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a protocol and by HTTP, in less time."""
    monkeypatch.setattr(countdown, "FIRST", 3)
    monkeypatch.setattr(countdown, "PAUSE", 0.01)
    listen = ListenConfig("countdown", "127.0.0.1:0"), ListenConfig("http", "127.0.0.1:0")
    config = Config(listen=listen, handlers=(("GET /countdown", countdown.respond),), access_log="off")
    with rawservers.Server(config=config, services={"countdown": countdown.Countdown}) as server:
        host, port = server.tcp_address("countdown")
        done = subprocess.run(
            [need("nc.openbsd"), host, str(port)], stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE
        )
        assert done.stdout == b"3\r\n2\r\n1\r\n0\r\n"
        command = [need("curl"), "-sN", server.http_url("/countdown")]
        assert subprocess.run(command, capture_output=True, timeout=DEADLINE).stdout == b"3\n2\n1\n0\n"


def test_a_countdown_starts() -> None:
    """As its first lines say. A second passes between its lines, so that not all are waited for."""
    with Server("0", "0", module="examples.countdown") as server, server.connect("countdown") as sock:
        assert receive_until(sock, b"\n") == b"10\r\n"
        with server.connect("http") as web:
            web.sendall(b"GET /countdown HTTP/1.0\r\n\r\n")
            assert receive_until(web, b"\r\n\r\n10\n").startswith(b"HTTP/1.0 200 ")


def test_a_device_and_netmiko() -> None:
    with Server("0", module="examples.device") as server:
        host, port = server.address("telnet")
        device = {"device_type": "cisco_ios_telnet", "host": host, "port": port, "username": "admin", "password": "secret"}
        with ConnectHandler(**device, conn_timeout=DEADLINE, read_timeout_override=DEADLINE) as connection:
            assert connection.send_command("show version") == "RouterOS 7.2, uptime 3 days"
            assert connection.send_command("show interfaces") == "eth0 up\neth1 down"
            assert connection.send_command("reload").startswith("% Invalid command: reload")


def test_a_device_refuses() -> None:
    with Server("0", module="examples.device") as server, server.connect("telnet") as sock:
        sock.sendall(b"admin\r\nwrong\r\n" * 3)
        text = receive_all(sock)
        assert text.count(b"% Login invalid\r\n") == 3
        assert text.endswith(b"% Too many attempts\r\n")
        assert b"r1#" not in text


@pytest.mark.slow
def test_the_tests_of_a_client_by_their_command() -> None:
    """The one at the top of the file, with nothing of this checkout's settings."""
    path = ROOT / "examples/test_api.py"
    command = path.read_text().splitlines()[2].split()
    assert command[0] == "python3"
    done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
